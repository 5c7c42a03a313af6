//! What was worked out for a target's last login, so that the next one need not.

use std::sync::Arc;

use dashmap::DashMap;
use postern_core::Name;

/// Targets of which something is kept (I11).
const KEPT: usize = 1_024;

/// One for each target: as a rule it has one account, and one way of TLS. Cheap to clone.
#[derive(Debug)]
pub(super) struct Kept<T>(Arc<DashMap<Name, Arc<T>>>);

// Written out: derived, they would ask as much of `T`.
impl<T> Clone for Kept<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Kept<T> {
    pub(super) fn of(&self, target: &Name) -> Option<Arc<T>> {
        self.0.get(target).map(|kept| Arc::clone(&kept))
    }

    pub(super) fn keep(&self, target: &Name, kept: &Arc<T>) {
        if self.of(target).is_some_and(|known| Arc::ptr_eq(&known, kept)) {
            return;
        }
        if self.0.len() >= KEPT {
            self.0.clear();
        }
        self.0.insert(target.clone(), Arc::clone(kept));
    }
}
