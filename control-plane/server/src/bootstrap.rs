//! The keys of a cluster: made once, opened at every start.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use postern_core::Timestamp;
use postern_core::issuer::Algorithm;
use postern_core::node::{NodeIdentity, NodeRole};
use postern_core::secret::{Sealed, SecretBytes};
use postern_runtime::clock;
use postern_runtime::jwt::{self, SessionSigner};
use postern_runtime::pki::{Authority, KeyRequest, NodeCredential};
use postern_state::commands::{RecordCertificate, SealedOf};
use postern_state::{Cluster, KeyStage, NewSigningKey, SigningKey};
use secrecy::{ExposeSecret as _, SecretString};
use tracing::info;

use crate::api::sign_for;
use crate::cluster::identity::NodeFile;
use crate::cluster::init::write;
use crate::cluster::members::Members;
use crate::config::ControlConfig;
use crate::keys::Kek;
use crate::raft::{RaftHandle, ReadError, StampClock};
use crate::run::ControlError;

/// How long certificates are good for that this process gives to nodes in it.
const DEV_LIFETIME: Duration = Duration::from_secs(365 * 86_400);

/// Between tries to read before there is a leader.
const RETRY: Duration = Duration::from_millis(200);
const CA_KEY: &str = "cluster/ca-key";
const SESSION_TOKEN_KEY: &str = "cluster/session-token-key";
const MASK_KEY: &str = "cluster/mask-key";

/// The cluster's keys, open, in memory only (I5).
pub(crate) struct ClusterKeys {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) authority: Authority,
    /// What signs session tokens when they are opened.
    pub(crate) signer: Arc<SessionSigner>,
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
    let signing = cluster.all_signing_keys(Timestamp::default());
    let current = signing.iter().find(|key| key.stage == KeyStage::Current);
    let (of, sealed) = current.and_then(sealed_as).ok_or(ControlError::NoCluster)?;
    let signer = open_signer(&kek.open_waiting(&of, sealed).await?)?;
    Ok(ClusterKeys {
        authority: Authority::from_pem(&cluster.ca_pem, &ca_key)?,
        signer: Arc::new(signer),
        mask_key: kek.open_waiting(MASK_KEY, &cluster.mask_key).await?,
        cluster,
        certificate_lifetime,
        clock: StampClock::default(),
    })
}

/// Opens the keys of the cluster that this node is of, once its state has them.
pub(crate) async fn cluster_keys(
    members: &Members,
    kek: &Kek,
    file: &NodeFile,
    config: &ControlConfig,
) -> Result<ClusterKeys, ControlError> {
    let mut view = members.view.clone();
    // One that was here before has it in its log, and only waits for a leader.
    if view.borrow().cluster.is_none() && members.raft.status().borrow().members.is_empty() {
        info!("waiting for the cluster to bring this new member up to date");
    }
    let known = view.wait_for(|view| view.cluster.is_some()).await.map(|view| view.cluster.clone());
    let mut cluster = known.map_err(|_| ControlError::Stopped)?.ok_or(ControlError::NoCluster)?;
    if (&cluster.id, &cluster.incarnation) != (&file.cluster_id, &file.incarnation) {
        return Err(ControlError::OtherCluster { own: file.cluster_id.clone(), found: cluster.id.clone() });
    }
    loop {
        let error = match open_keys(kek, Arc::clone(&cluster), config.certificate_lifetime.0).await {
            Err(ControlError::Keys(error)) => error,
            opened => return opened,
        };
        // What this node had when it stopped may be older than the last rotation: only the cluster's newest word counts.
        info!(%error, "looking at the cluster's newest keys");
        let newest = loop {
            match members.raft.read(|state| state.cluster().cloned()).await {
                Ok(newest) => break newest.ok_or(ControlError::NoCluster)?,
                Err(ReadError::NotLeader | ReadError::Unavailable | ReadError::Overloaded) => {
                    tokio::time::sleep(RETRY).await;
                }
                Err(error) => return Err(error.into()),
            }
        };
        if newest == cluster {
            return Err(error.into());
        }
        cluster = newest;
    }
}

/// What a signing key's private part is sealed as; none: it was destroyed.
pub(crate) fn sealed_as(key: &SigningKey) -> Option<(String, &Sealed)> {
    Some((key.sealed_of().to_string(), key.sealed.as_ref()?))
}

/// The signer that was sealed.
pub(crate) fn open_signer(pem: &SecretBytes) -> Result<SessionSigner, jwt::KeyError> {
    let pem = std::str::from_utf8(pem.expose()).map_err(|_| jwt::KeyError::SigningKey)?;
    SessionSigner::from_pem(&SecretString::from(pem.to_owned()))
}

/// What a signing key signs by.
pub(crate) fn signs_by(key: &SigningKey) -> Algorithm {
    let jwk = serde_json::from_str::<serde_json::Value>(&key.jwk).ok();
    let alg = jwk.as_ref().and_then(|jwk| jwk.get("alg")).and_then(serde_json::Value::as_str);
    alg.and_then(Algorithm::from_text).unwrap_or(Algorithm::EdDsa)
}

/// A new key that is to sign session tokens.
pub(crate) async fn make_signing_key(kek: &Kek, algorithm: Algorithm) -> Result<NewSigningKey, ControlError> {
    let signer = SessionSigner::generate_for(algorithm)?;
    let of = SealedOf::SigningKey(signer.kid().to_owned()).to_string();
    let sealed = kek.seal(&of, signer.to_pem().expose_secret().as_bytes()).await?;
    Ok(NewSigningKey { kid: signer.kid().to_owned(), jwk: signer.jwk(), sealed })
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
        signing_keys: Vec::new(),
        recording_keys: Vec::new(),
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
