//! Which roles are bound to whom and which issuers and service accounts are trusted, read from replicated state and kept until it changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use postern_core::principal::PrincipalId;
use postern_core::resource::{Kind, Resource, Spec};
use postern_core::revocation::Revocations;
use postern_core::role::RoleBinding;
use postern_core::service_account::SERVICE_ACCOUNT_ISSUER;
use postern_core::{Name, Principal};
use postern_state::State;
use tokio::time::Instant;
use tonic::Status;

use super::grants::{BuiltIn, Grants};
use super::status;
use crate::raft::{RaftHandle, ReadError};

/// What decides about rights.
const KINDS: [Kind; 4] = [Kind::Role, Kind::RoleBinding, Kind::Issuer, Kind::ServiceAccount];

/// Looks roles up. Cheap to clone.
#[derive(Clone)]
pub(super) struct Roles {
    raft: RaftHandle,
    kept: Arc<Mutex<Kept>>,
    /// Of many who ask at once for what need not be of this very moment, one reads.
    alone: Arc<tokio::sync::Mutex<()>>,
}

/// What was read last.
#[derive(Clone, Default)]
struct Kept {
    bound: Arc<Bound>,
    revocations: Revocations,
    /// The index of the state that it was read from.
    index: u64,
    /// When the newest linearizable read of it was asked for.
    asked: Option<Instant>,
}

/// Every binding with what its role grants, and the issuers.
#[derive(Default)]
pub(super) struct Bound {
    of: Option<Stamp>,
    bindings: Vec<(Arc<Resource>, Grants)>,
    issuers: BTreeSet<Name>,
    /// Those that are not disabled.
    service_accounts: BTreeSet<Name>,
}

/// What decides about a caller.
pub(super) struct Now {
    /// Roles and issuers.
    pub(super) bound: Arc<Bound>,
    /// Tokens that are good no more.
    pub(super) revocations: Revocations,
}

/// Tells one set of objects from another: a change raises the newest revision, a deletion lowers the count.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    count: usize,
    newest: u64,
}

/// What a read gives: where it was read, and all, when that is not as it was.
type Read = (u64, Option<(Stamp, Vec<Arc<Resource>>)>, Revocations);

/// Whether objects of this kind decide about rights.
pub(super) fn concerns(kind: Kind) -> bool {
    KINDS.contains(&kind)
}

impl Roles {
    pub(super) fn new(raft: RaftHandle) -> Self {
        Self { raft, kept: Arc::default(), alone: Arc::default() }
    }

    /// As it is now. Linearizable.
    pub(super) async fn now(&self) -> Result<Now, Status> {
        let (asked, of) = (Instant::now(), self.kept().bound.of);
        let read = self.raft.read(move |state| read(state, of)).await;
        self.keep(read, Some(asked))
    }

    /// As it was at most `age` ago.
    pub(super) async fn lately(&self, age: Duration) -> Result<Now, Status> {
        let fresh = |kept: &Kept| kept.asked.is_some_and(|asked| asked.elapsed() <= age);
        let _alone = self.alone.lock().await;
        let kept = self.kept();
        if fresh(&kept) { Ok(kept.into()) } else { self.now().await }
    }

    /// As this node has it, which has applied `revision`: for whoever was told that it changed there.
    pub(super) async fn since(&self, revision: u64) -> Result<Now, Status> {
        let _alone = self.alone.lock().await;
        let kept = self.kept();
        if kept.index >= revision {
            return Ok(kept.into());
        }
        let of = kept.bound.of;
        let read = self.raft.read_local(move |state| read(state, of)).await;
        self.keep(read, None)
    }

    /// The cluster's feature level.
    pub(super) async fn level(&self) -> Result<u32, Status> {
        self.raft.read(State::feature_level).await.map_err(status::read)
    }

    fn keep(&self, read: Result<Read, ReadError>, asked: Option<Instant>) -> Result<Now, Status> {
        let (index, changed, revocations) = read.map_err(status::read)?;
        let changed = changed.map(|(stamp, objects)| Arc::new(resolve(stamp, objects)));
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        // Another may have read meanwhile: the later state stays, but each has what it read itself.
        let own = changed.unwrap_or_else(|| Arc::clone(&kept.bound));
        if index >= kept.index {
            (kept.bound, kept.index, kept.revocations) = (Arc::clone(&own), index, revocations.clone());
            kept.asked = kept.asked.max(asked);
        }
        Ok(Now { bound: own, revocations })
    }

    fn kept(&self) -> Kept {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl From<Kept> for Now {
    fn from(kept: Kept) -> Self {
        Self { bound: kept.bound, revocations: kept.revocations }
    }
}

impl Bound {
    /// What `principal` may do by those roles of theirs that are `wanted`, and which they are.
    pub(super) fn of(&self, principal: &Principal, wanted: impl Fn(&str) -> bool) -> (Grants, Vec<String>) {
        let (mut grants, mut names) = (Grants::default(), Vec::new());
        for (binding, granted) in &self.bindings {
            if let Some(binding) = held(binding).filter(|binding| binding.holds(principal) && wanted(&binding.role)) {
                grants.union(granted);
                names.push(binding.role.clone());
            }
        }
        (grants, names)
    }

    /// Whether who vouched for `principal` is still trusted.
    pub(super) fn trusts(&self, principal: &Principal) -> bool {
        let PrincipalId { issuer, subject } = &principal.id;
        let account = || subject.parse().is_ok_and(|name: Name| self.service_accounts.contains(&name));
        self.issuers.contains(issuer) || (issuer.as_str() == SERVICE_ACCOUNT_ISSUER && account())
    }
}

/// What a role grants; a built-in one, or one that is declared.
pub(super) fn granted_by(role: &str, declared: impl FnOnce(&Name) -> Option<Grants>) -> Option<Grants> {
    match BuiltIn::from_name(role) {
        Some(built_in) => Some(built_in.grants()),
        None => role.parse().ok().and_then(|name: Name| declared(&name)),
    }
}

fn read(state: &State, known: Option<Stamp>) -> Read {
    let objects = || KINDS.into_iter().flat_map(|kind| state.resources(kind));
    let mut stamp = Stamp { count: 0, newest: 0 };
    for object in objects() {
        stamp.count = stamp.count.saturating_add(1);
        stamp.newest = stamp.newest.max(object.metadata.revision);
    }
    let changed = (known != Some(stamp)).then(|| (stamp, objects().cloned().collect()));
    (state.index(), changed, state.revocations().clone())
}

fn resolve(stamp: Stamp, objects: Vec<Arc<Resource>>) -> Bound {
    let declared: BTreeMap<Name, Grants> = objects
        .iter()
        .filter_map(|object| match &object.spec {
            Spec::Role(role) => Some((object.metadata.name.clone(), Grants::from(role))),
            _ => None,
        })
        .collect();
    let issuers = objects.iter().filter(|object| object.spec.kind() == Kind::Issuer);
    let issuers = issuers.map(|object| object.metadata.name.clone()).collect();
    let accounts = objects.iter().filter(|object| match &object.spec {
        Spec::ServiceAccount(account) => !account.disabled,
        _ => false,
    });
    let service_accounts = accounts.map(|object| object.metadata.name.clone()).collect();
    let bindings = objects.into_iter().filter_map(|object| {
        let granted = granted_by(&held(&object)?.role, |name| declared.get(name).copied());
        Some((object, granted.unwrap_or_default()))
    });
    Bound { of: Some(stamp), bindings: bindings.collect(), issuers, service_accounts }
}

fn held(binding: &Resource) -> Option<&RoleBinding> {
    match &binding.spec {
        Spec::RoleBinding(binding) => Some(binding),
        _ => None,
    }
}
