//! What the public API shows to clients that do not know Ed25519 in TLS: a second certificate of the same node, with an ECDSA P-256 key.
//!
//! gRPC's C core (Python, Ruby, C++) and browsers are such clients. The key is made at each start and never leaves memory; its certificates
//! are in the replicated state like every other, and renewed like every other. Until the first is there, every client is shown the node's
//! own: a node starts without a leader.

use std::sync::Arc;
use std::time::Duration;

use postern_core::node::NodeIdentity;
use postern_runtime::backoff::Backoff;
use postern_runtime::pki::{Compatible, KeyRequest, NodeCredential, RotatingCredential, extra_alt_names, keep_fresh};
use postern_runtime::supervisor::{OnEnd, Supervisor};
use postern_state::commands::RecordCertificate;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::api::sign;
use crate::bootstrap::ClusterKeys;
use crate::raft::RaftHandle;
use crate::run::ControlError;

const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// Signs and records certificates of this node. Cheap to clone.
#[derive(Clone)]
struct Issuer {
    keys: Arc<ClusterKeys>,
    raft: RaftHandle,
    identity: NodeIdentity,
    alt_names: Vec<String>,
}

/// Shows the node's own credential and, from the moment on that there is one, a second one. The supervisor keeps it fresh.
pub(crate) fn compatible(
    own: &RotatingCredential,
    keys: &Arc<ClusterKeys>,
    raft: &RaftHandle,
    supervisor: &Supervisor,
) -> Result<Compatible, ControlError> {
    let current = own.current();
    let issuer = Issuer {
        keys: Arc::clone(keys),
        raft: raft.clone(),
        identity: current.identity()?,
        alt_names: extra_alt_names(&current.certificate_der()),
    };
    let other = RotatingCredential::new(NodeCredential::clone(&current))?;
    let stop = supervisor.sessions_ended_token();
    supervisor.spawn("api-certificate", OnEnd::StopNode, keep(issuer, other.clone(), stop));
    Ok(Compatible { own: own.clone(), other })
}

async fn keep(issuer: Issuer, other: RotatingCredential, stop: CancellationToken) {
    let mut backoff = Backoff::new(FIRST_RETRY, LAST_RETRY);
    while let Err(why) = first(&issuer, &other).await {
        debug!(why, "no second certificate yet");
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(backoff.next_delay()) => {}
        }
    }
    let renew = move |csr: Vec<u8>| {
        let issuer = issuer.clone();
        async move { issuer.issue(&csr).await }
    };
    keep_fresh(other, None, renew, stop).await;
}

async fn first(issuer: &Issuer, other: &RotatingCredential) -> Result<(), String> {
    let request = KeyRequest::generate_p256().map_err(|error| error.to_string())?;
    let certificate_pem = issuer.issue(&request.csr_der).await?;
    let ca_pem = issuer.keys.authority.ca_pem().to_owned();
    let credential = NodeCredential { certificate_pem, key_pem: request.key_pem, ca_pem };
    other.replace(credential).map_err(|error| error.to_string())
}

impl Issuer {
    async fn issue(&self, csr: &[u8]) -> Result<String, String> {
        let signed = sign(&self.keys, &self.identity, csr, &self.alt_names).map_err(|error| error.to_string())?;
        let outcome = self.raft.propose(RecordCertificate { certificate: signed.record }, None).await;
        outcome.map_err(|error| error.to_string())?.map_err(|refusal| refusal.to_string())?;
        Ok(signed.certificate_pem)
    }
}
