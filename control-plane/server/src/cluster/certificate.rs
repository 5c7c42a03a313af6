//! A member's own certificate: it has the authority's key, and signs it itself; the record of it goes through the leader.

use std::sync::Arc;

use postern_core::node::{NodeIdentity, NodeRole};
use postern_runtime::clock;
use postern_runtime::pki::{KeyRequest, NodeCredential, extra_alt_names, keep_fresh};
use postern_state::commands;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::identity::DataDir;
use super::members::Members;
use crate::api::sign;
use crate::bootstrap::ClusterKeys;
use crate::config::ControlConfig;

/// Renews the certificate in time, until `stop`; at once, when it has ended or the node is to have other names.
pub(crate) fn keep_own(
    members: Members,
    keys: Arc<ClusterKeys>,
    data: DataDir,
    config: &ControlConfig,
    stop: CancellationToken,
) -> impl Future<Output = ()> + Send + 'static {
    let names = config.certificate_names();
    async move {
        let renew = |csr: Vec<u8>| renew(members.clone(), Arc::clone(&keys), data.clone(), names.clone(), csr);
        let current = members.credential.current();
        if names != extra_alt_names(&current.certificate_der()) {
            match at_once(&members, &renew).await {
                Ok(()) => info!("the node has a certificate with its new names"),
                Err(error) => warn!(error, "no certificate with the node's new names yet"),
            }
        }
        keep_fresh(members.credential.clone(), None, renew, stop).await;
    }
}

async fn at_once<F>(members: &Members, renew: &impl Fn(Vec<u8>) -> F) -> Result<(), String>
where
    F: Future<Output = Result<String, String>>,
{
    let current = members.credential.current();
    let request = KeyRequest::renew(&current.key_pem).map_err(|error| error.to_string())?;
    let certificate_pem = renew(request.csr_der).await?;
    let fresh = NodeCredential { certificate_pem, key_pem: current.key_pem.clone(), ca_pem: current.ca_pem.clone() };
    members.credential.replace(fresh).map_err(|error| error.to_string())
}

async fn renew(
    members: Members,
    keys: Arc<ClusterKeys>,
    data: DataDir,
    names: Vec<String>,
    csr: Vec<u8>,
) -> Result<String, String> {
    let own = members.view().node(members.own_id()).map(|node| node.name.clone());
    let name = own.ok_or("this node is no member")?;
    let identity = NodeIdentity { role: NodeRole::Control, name, pool: None };
    let signed = sign(&keys, &identity, &csr, &names).map_err(|error| error.to_string())?;
    let command = commands::RecordCertificate { certificate: signed.record };
    let outcome = members.raft.propose(command, Some(clock::request_id())).await.map_err(|error| error.to_string())?;
    outcome.map_err(|refusal| refusal.to_string())?;
    data.save_certificate(&signed.certificate_pem).map_err(|error| error.to_string())?;
    Ok(signed.certificate_pem)
}
