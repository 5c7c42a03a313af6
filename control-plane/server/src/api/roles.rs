//! Which roles are bound to whom, read from replicated state and kept until it changes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use postern_core::resource::{Kind, Resource, Spec};
use postern_core::role::RoleBinding;
use postern_core::{Name, Principal};
use postern_state::State;
use tonic::Status;

use super::grants::{BuiltIn, Grants};
use super::status;
use crate::raft::RaftHandle;

/// Looks roles up. Cheap to clone.
#[derive(Clone)]
pub(super) struct Roles {
    raft: RaftHandle,
    bound: Arc<Mutex<Arc<Bound>>>,
}

/// Every binding with what its role grants.
#[derive(Default)]
struct Bound {
    of: Option<Stamp>,
    bindings: Vec<(Arc<Resource>, Grants)>,
}

/// Tells one set of roles and bindings from another: a change raises the newest revision, a deletion lowers the count.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    count: usize,
    newest: u64,
}

impl Roles {
    pub(super) fn new(raft: RaftHandle) -> Self {
        Self { raft, bound: Arc::default() }
    }

    /// What `principal` may do by roles, and which they are. Linearizable.
    pub(super) async fn of(&self, principal: &Principal) -> Result<(Grants, Vec<String>), Status> {
        let known = self.kept();
        let of = known.of;
        let read = self.raft.read(move |state| {
            let stamp = stamp(state);
            (of != Some(stamp)).then(|| {
                let all = |kind| state.resources(kind).cloned().collect::<Vec<Arc<Resource>>>();
                (stamp, all(Kind::Role), all(Kind::RoleBinding))
            })
        });
        let bound = match read.await.map_err(status::read)? {
            None => known,
            Some((stamp, roles, bindings)) => {
                let bound = Arc::new(Bound { of: Some(stamp), bindings: resolve(&roles, bindings) });
                *self.bound.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&bound);
                bound
            }
        };
        let (mut grants, mut names) = (Grants::default(), Vec::new());
        for (binding, granted) in &bound.bindings {
            if let Some(binding) = held(binding).filter(|binding| binding.holds(principal)) {
                grants.union(granted);
                names.push(binding.role.clone());
            }
        }
        Ok((grants, names))
    }

    fn kept(&self) -> Arc<Bound> {
        Arc::clone(&self.bound.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What a role grants; a built-in one, or one that is declared.
pub(super) fn granted_by(role: &str, declared: impl FnOnce(&Name) -> Option<Grants>) -> Option<Grants> {
    match BuiltIn::from_name(role) {
        Some(built_in) => Some(built_in.grants()),
        None => role.parse().ok().and_then(|name: Name| declared(&name)),
    }
}

fn stamp(state: &State) -> Stamp {
    let mut stamp = Stamp { count: 0, newest: 0 };
    for object in [Kind::Role, Kind::RoleBinding].into_iter().flat_map(|kind| state.resources(kind)) {
        stamp.count = stamp.count.saturating_add(1);
        stamp.newest = stamp.newest.max(object.metadata.revision);
    }
    stamp
}

fn resolve(roles: &[Arc<Resource>], bindings: Vec<Arc<Resource>>) -> Vec<(Arc<Resource>, Grants)> {
    let declared: BTreeMap<&Name, Grants> = roles
        .iter()
        .filter_map(|role| match &role.spec {
            Spec::Role(spec) => Some((&role.metadata.name, Grants::from(spec))),
            _ => None,
        })
        .collect();
    let resolved = bindings.into_iter().map(|binding| {
        let granted = held(&binding).and_then(|one| granted_by(&one.role, |name| declared.get(name).copied()));
        (binding, granted.unwrap_or_default())
    });
    resolved.collect()
}

fn held(binding: &Resource) -> Option<&RoleBinding> {
    match &binding.spec {
        Spec::RoleBinding(binding) => Some(binding),
        _ => None,
    }
}
