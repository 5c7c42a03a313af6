//! What earlier logins by SCRAM came to, so that the next one does not hash thousands of times on a worker that serves sessions.

use std::sync::Arc;

use dashmap::DashMap;
use postern_core::Name;
use postern_protocols::postgres::upstream::ScramKeys;

/// Targets of which something is kept (I11).
const KEPT: usize = 1_024;

/// By target: as a rule each has one account. Others only hash again.
#[derive(Clone, Debug, Default)]
pub(super) struct Keys(Arc<DashMap<Name, Arc<ScramKeys>>>);

impl Keys {
    pub(super) fn of(&self, target: &Name) -> Option<Arc<ScramKeys>> {
        self.0.get(target).map(|keys| Arc::clone(&keys))
    }

    /// After a login that went well.
    pub(super) fn keep(&self, target: &Name, keys: &Arc<ScramKeys>) {
        if self.of(target).is_some_and(|known| Arc::ptr_eq(&known, keys)) {
            return;
        }
        if self.0.len() >= KEPT {
            self.0.clear();
        }
        self.0.insert(target.clone(), Arc::clone(keys));
    }
}
