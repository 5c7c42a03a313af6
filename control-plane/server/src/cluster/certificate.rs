//! A member's own certificate: it has the authority's key, and signs it itself; the record of it goes through the leader.
//!
//! A certificate that has ended makes a member deaf: nobody lets it in, and when all were down for longer than their certificates' life,
//! there would never be a leader to record new ones. So it first makes itself a stopgap without a record, for a short time, and has a
//! recorded one as soon as there is a leader.

use std::sync::Arc;
use std::time::Duration;

use postern_core::node::{NodeIdentity, NodeRole};
use postern_runtime::backoff::Backoff;
use postern_runtime::clock;
use postern_runtime::pki::{KeyRequest, NodeCredential, extra_alt_names, keep_fresh};
use postern_state::commands;
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::identity::DataDir;
use super::members::Members;
use crate::api::sign;
use crate::bootstrap::ClusterKeys;
use crate::config::ControlConfig;

/// How long a certificate without a record is good for, at most.
const STOPGAP: Duration = Duration::from_secs(3_600);
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(10);

/// Renews the certificate in time, until `stop`; at once, when it has ended or the node is to have other names.
pub(crate) fn keep_own(
    members: Members,
    keys: Arc<ClusterKeys>,
    data: DataDir,
    config: &ControlConfig,
    stop: CancellationToken,
) -> impl Future<Output = ()> + Send + 'static {
    let own = Own { members, keys, data, names: config.certificate_names(), lifetime: config.certificate_lifetime.0 };
    async move {
        let current = own.members.credential.current();
        if own.has_ended() {
            match own.stopgap(&current.key_pem).and_then(|pem| own.show(pem)) {
                Ok(()) => warn!("the node's certificate had ended: it goes on with one that is not recorded yet"),
                Err(error) => warn!(error, "the node's certificate has ended, and it cannot make itself another"),
            }
            own.until_recorded(&stop).await;
        } else if own.names != extra_alt_names(&current.certificate_der()) {
            match own.at_once().await {
                Ok(()) => info!("the node has a certificate with its new names"),
                Err(error) => warn!(error, "no certificate with the node's new names yet"),
            }
        }
        let renewing = own.clone();
        let renew = move |csr: Vec<u8>| {
            let own = renewing.clone();
            async move { own.renew(csr).await }
        };
        keep_fresh(own.members.credential.clone(), None, renew, stop).await;
    }
}

/// What a member signs its own certificates with.
#[derive(Clone)]
struct Own {
    members: Members,
    keys: Arc<ClusterKeys>,
    data: DataDir,
    names: Vec<String>,
    lifetime: Duration,
}

impl Own {
    fn has_ended(&self) -> bool {
        self.members.credential.current().expires_at().is_ok_and(|end| end <= clock::now())
    }

    fn identity(&self) -> Result<NodeIdentity, String> {
        let own = self.members.view().node(self.members.own_id()).map(|node| node.name.clone());
        let name = own.ok_or("this node is no member")?;
        Ok(NodeIdentity { role: NodeRole::Control, name, pool: None })
    }

    /// A recorded certificate, or while there is nobody to record it and the present one has ended, a stopgap.
    async fn renew(&self, csr: Vec<u8>) -> Result<String, String> {
        match self.recorded(&csr).await {
            Err(error) if self.has_ended() => {
                warn!(error, "the node's certificate has ended: it goes on with one that is not recorded yet");
                self.stopgap(&self.members.credential.current().key_pem)
            }
            renewed => renewed,
        }
    }

    async fn recorded(&self, csr: &[u8]) -> Result<String, String> {
        let signed = sign(&self.keys, &self.identity()?, csr, &self.names).map_err(|error| error.to_string())?;
        let command = commands::RecordCertificate { certificate: signed.record };
        let outcome = self.members.raft.propose(command, Some(clock::request_id())).await;
        outcome.map_err(|error| error.to_string())?.map_err(|refusal| refusal.to_string())?;
        self.data.save_certificate(&signed.certificate_pem).map_err(|error| error.to_string())?;
        Ok(signed.certificate_pem)
    }

    /// It stays in memory: the next start makes another.
    fn stopgap(&self, key_pem: &SecretString) -> Result<String, String> {
        let request = KeyRequest::renew(key_pem).map_err(|error| error.to_string())?;
        let life = self.lifetime.min(STOPGAP);
        let issued = self.keys.authority.issue(&self.identity()?, &request.csr_der, &self.names, clock::now(), life);
        issued.map_err(|error| error.to_string())
    }

    fn show(&self, certificate_pem: String) -> Result<(), String> {
        let current = self.members.credential.current();
        let fresh =
            NodeCredential { certificate_pem, key_pem: current.key_pem.clone(), ca_pem: current.ca_pem.clone() };
        self.members.credential.replace(fresh).map_err(|error| error.to_string())
    }

    async fn at_once(&self) -> Result<(), String> {
        let request =
            KeyRequest::renew(&self.members.credential.current().key_pem).map_err(|error| error.to_string())?;
        self.show(self.recorded(&request.csr_der).await?)
    }

    async fn until_recorded(&self, stop: &CancellationToken) {
        let mut backoff = Backoff::new(FIRST_RETRY, LAST_RETRY);
        loop {
            match self.at_once().await {
                Ok(()) => return info!("the node has a new certificate"),
                Err(error) => debug!(error, "no record of the node's certificate yet"),
            }
            // Else the stopgap ends before there is a leader: from here on it is renewed like any other.
            if self.has_ended() {
                return;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(backoff.next_delay()) => {}
            }
        }
    }
}
