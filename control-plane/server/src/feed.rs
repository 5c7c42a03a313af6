//! Builds what gateways decide by, at each revision.
//!
//! Raft's changes -> one linearizable read -> secrets opened -> a whole [`Policy`] in a `watch`. Changes that come while one is built are
//! coalesced: gateways need the newest, not each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use postern_core::Name;
use postern_core::resource::{Kind, Resource, Spec};
use postern_core::secret::Sealed;
use postern_core::snapshot::{Labeled, Snapshot};
use postern_core::wire::snapshot as wire;
use postern_proto::gateway::v1 as pb;
use postern_runtime::jwt::Verifier;
use postern_state::State;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::bootstrap::ClusterKeys;
use crate::keys::Kek;
use crate::raft::{RaftHandle, ReadError};

const RETRY: Duration = Duration::from_millis(500);
/// How soon secrets are tried again that did not open because Vault was away.
const OPEN_AGAIN: Duration = Duration::from_secs(2);

/// What a sealed Secret is of.
pub(crate) fn sealed_of(secret: &Name) -> String {
    format!("Secret/{secret}")
}

/// A whole view of policy at one revision.
pub(crate) struct Policy {
    /// For gateways, with credentials: only ever given to one.
    pub(crate) proto: pb::Snapshot,
    /// For tokens presented here.
    pub(crate) verifier: Verifier,
    /// A secret did not open, for a cause that may go away: worth building again.
    pub(crate) incomplete: bool,
}

impl Policy {
    pub(crate) const fn revision(&self) -> u64 {
        self.proto.revision
    }
}

/// Builds policies and publishes them.
pub(crate) struct Feed {
    raft: RaftHandle,
    kek: Arc<Kek>,
    keys: Arc<ClusterKeys>,
}

/// What is taken out of the state, by reference count.
struct Gathered {
    revision: u64,
    resources: Vec<Arc<Resource>>,
    issuer_keys: BTreeMap<Name, String>,
}

impl Feed {
    pub(crate) const fn new(raft: RaftHandle, kek: Arc<Kek>, keys: Arc<ClusterKeys>) -> Self {
        Self { raft, kek, keys }
    }

    /// The newest policy.
    pub(crate) async fn build(&self) -> Result<Policy, ReadError> {
        let gathered = self.raft.read(gather).await?;
        let (snapshot, incomplete) = self.snapshot(&gathered).await;
        Ok(Policy { incomplete, verifier: Verifier::from_snapshot(&snapshot), proto: wire::to_proto(&snapshot) })
    }

    /// Publishes a policy at each change, until `stop`.
    pub(crate) async fn run(self, out: watch::Sender<Arc<Policy>>, stop: CancellationToken) {
        let mut changes = self.raft.changes();
        loop {
            let newest = changes.borrow_and_update().policy;
            let again = { out.borrow().incomplete };
            if again || newest > out.borrow().revision() {
                match self.build().await {
                    Ok(policy) => {
                        metrics::counter!("postern_control_policy_builds_total").increment(1);
                        // Nothing new is worth telling when the same secrets still do not open.
                        if !(policy.incomplete && policy.revision() == out.borrow().revision()) {
                            out.send_replace(Arc::new(policy));
                        }
                    }
                    // Not leading, or busy: gateways keep what they have, within their bound (I9).
                    Err(error) => {
                        warn!(%error, "the policy cannot be read");
                        tokio::select! {
                            () = stop.cancelled() => return,
                            () = tokio::time::sleep(RETRY) => continue,
                        }
                    }
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                // Raft has stopped: the node stops.
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(OPEN_AGAIN), if out.borrow().incomplete => {}
            }
        }
    }

    /// And whether a secret is missing in it that may open later.
    async fn snapshot(&self, gathered: &Gathered) -> (Snapshot, bool) {
        let mut snapshot = Snapshot {
            revision: gathered.revision,
            cluster_id: self.keys.cluster.id.clone(),
            issuers: BTreeMap::new(),
            targets: BTreeMap::new(),
            policies: BTreeMap::new(),
            masking: BTreeMap::new(),
            credentials: BTreeMap::new(),
            session_token_jwks: self.keys.cluster.session_token_jwks.clone(),
            mask_key: self.keys.mask_key.clone(),
        };
        let mut secrets: BTreeMap<&Name, &Sealed> = BTreeMap::new();
        for object in &gathered.resources {
            let name = object.metadata.name.clone();
            match &object.spec {
                Spec::Issuer(issuer) => {
                    let keys = gathered.issuer_keys.get(&name).cloned();
                    snapshot.issuers.insert(name, (issuer.clone(), keys));
                }
                Spec::Target(target) => {
                    let labels = object.metadata.labels.clone();
                    snapshot.targets.insert(name, Labeled { labels, value: target.clone() });
                }
                Spec::Policy(policy) => drop(snapshot.policies.insert(name, policy.clone())),
                Spec::MaskingRule(rule) => drop(snapshot.masking.insert(name, rule.clone())),
                Spec::Secret(sealed) => drop(secrets.insert(&object.metadata.name, sealed)),
                Spec::Role(_) | Spec::RoleBinding(_) => {}
            }
        }
        let served: Vec<(Name, String, &Sealed)> = snapshot
            .targets
            .iter()
            .filter_map(|(target, labeled)| {
                let secret = labeled.value.credential.secret()?;
                Some((target.clone(), sealed_of(secret), *secrets.get(secret)?))
            })
            .collect();
        let sealed: Vec<(&str, &Sealed)> = served.iter().map(|(_, of, sealed)| (of.as_str(), *sealed)).collect();
        let mut incomplete = false;
        for ((target, _, _), opened) in served.iter().zip(self.kek.open_all(&sealed).await) {
            match opened {
                Ok(password) => drop(snapshot.credentials.insert(target.clone(), password)),
                // Sessions to the target are then refused, with a clear code; others go on.
                Err(error) => {
                    incomplete |= error.is_transient();
                    error!(%target, %error, "a target's secret does not open");
                }
            }
        }
        (snapshot, incomplete)
    }
}

fn gather(state: &State) -> Gathered {
    let resources: Vec<Arc<Resource>> = Kind::ALL.into_iter().flat_map(|kind| state.resources(kind)).cloned().collect();
    let issuer_keys = state.resources(Kind::Issuer).filter_map(|issuer| {
        let name = issuer.metadata.name.clone();
        state.issuer_keys(&name).map(|keys| (name, keys.jwks.clone()))
    });
    Gathered { revision: state.policy_revision(), issuer_keys: issuer_keys.collect(), resources }
}
