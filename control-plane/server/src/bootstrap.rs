//! The keys of a cluster: made once, opened at every start.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use postern_core::node::{NodeIdentity, NodeRole};
use postern_core::secret::SecretBytes;
use postern_runtime::clock;
use postern_runtime::jwt::SessionSigner;
use postern_runtime::pki::{Authority, KeyRequest, NodeCredential};
use postern_state::Cluster;
use postern_state::commands::RecordCertificate;
use secrecy::{ExposeSecret as _, SecretString};
use tracing::info;

use crate::api::sign_for;
use crate::cluster::init::write;
use crate::keys::Kek;
use crate::raft::{RaftHandle, StampClock};
use crate::run::ControlError;

/// How long certificates are good for that this process gives to nodes in it.
const DEV_LIFETIME: Duration = Duration::from_secs(365 * 86_400);

const CA_KEY: &str = "cluster/ca-key";
const SESSION_TOKEN_KEY: &str = "cluster/session-token-key";
const MASK_KEY: &str = "cluster/mask-key";

/// The cluster's keys, open, in memory only (I5).
pub(crate) struct ClusterKeys {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) authority: Authority,
    pub(crate) signer: SessionSigner,
    pub(crate) mask_key: SecretBytes,
    /// How long certificates are good for that are made by them.
    pub(crate) certificate_lifetime: Duration,
    /// What they are signed by: this node's own may be wrong.
    pub(crate) clock: StampClock,
}

/// Opens the keys of `cluster`.
pub(crate) async fn open_keys(
    kek: &Kek,
    cluster: Arc<Cluster>,
    certificate_lifetime: Duration,
) -> Result<ClusterKeys, ControlError> {
    let text = |secret: SecretBytes| -> Result<SecretString, ControlError> {
        let text = std::str::from_utf8(secret.expose()).map_err(|_| ControlError::NoCluster)?;
        Ok(SecretString::from(text.to_owned()))
    };
    let ca_key = text(kek.open_waiting(CA_KEY, &cluster.ca_key).await?)?;
    let session_key = text(kek.open_waiting(SESSION_TOKEN_KEY, &cluster.session_token_key).await?)?;
    Ok(ClusterKeys {
        authority: Authority::from_pem(&cluster.ca_pem, &ca_key)?,
        signer: SessionSigner::from_pem(&session_key)?,
        mask_key: kek.open_waiting(MASK_KEY, &cluster.mask_key).await?,
        cluster,
        certificate_lifetime,
        clock: StampClock::default(),
    })
}

/// A new cluster's identity and keys.
pub(crate) async fn make_cluster(kek: &Kek) -> Result<Cluster, ControlError> {
    let id = format!("{:016x}", clock::random_u128() >> 64);
    let authority = Authority::create(&id)?;
    let signer = SessionSigner::generate()?;
    let mask_key = SecretBytes::new([clock::random_u128().to_be_bytes(), clock::random_u128().to_be_bytes()].concat());
    Ok(Cluster {
        ca_pem: authority.ca_pem().to_owned(),
        ca_key: kek.seal(CA_KEY, authority.key_pem().expose_secret().as_bytes()).await?,
        session_token_jwks: signer.jwks(),
        session_token_key: kek.seal(SESSION_TOKEN_KEY, signer.to_pem().expose_secret().as_bytes()).await?,
        mask_key: kek.seal(MASK_KEY, mask_key.expose()).await?,
        id,
        incarnation: incarnation(),
    })
}

/// Tells one life of a cluster from another.
pub(crate) fn incarnation() -> String {
    format!("{:016x}", clock::random_u128() >> 64)
}

/// A new key and its certificate, for a node in this process. It is in the replicated state before it is handed out.
pub(crate) async fn issue(
    keys: &ClusterKeys,
    raft: &RaftHandle,
    identity: &NodeIdentity,
    alt_names: &[String],
) -> Result<NodeCredential, ControlError> {
    let request = KeyRequest::generate_for(identity.role)?;
    let signed = sign_for(keys, identity, &request.csr_der, alt_names, DEV_LIFETIME)?;
    write(raft, RecordCertificate { certificate: signed.record }).await?;
    let ca_pem = keys.authority.ca_pem().to_owned();
    Ok(NodeCredential { certificate_pem: signed.certificate_pem, key_pem: request.key_pem, ca_pem })
}

/// The administrator's credential: made at the first start, renewed when less than a quarter of its life is left.
pub(crate) async fn admin_credential(keys: &ClusterKeys, raft: &RaftHandle, dir: &Path) -> Result<(), ControlError> {
    if NodeCredential::exists(dir) {
        let left = NodeCredential::load(dir)?.expires_at()?.since(clock::now());
        if left > DEV_LIFETIME / 4 {
            return Ok(());
        }
    }
    let name = "admin".parse().map_err(|_| ControlError::NoCluster)?;
    let identity = NodeIdentity { role: NodeRole::Admin, name, pool: None };
    issue(keys, raft, &identity, &[]).await?.save(dir)?;
    info!(dir = %dir.display(), "wrote an administrator's credential");
    Ok(())
}
