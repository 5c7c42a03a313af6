//! Every grant that a gateway knows, by whose it is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Grant;
use crate::id::AccessId;
use crate::principal::PrincipalId;

/// Shared between revisions: a copy costs nothing until one of the two is changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants(Arc<BTreeMap<PrincipalId, BTreeMap<AccessId, Arc<Grant>>>>);

impl Grants {
    /// Those of one principal.
    pub fn of(&self, principal: &PrincipalId) -> impl Iterator<Item = &Grant> {
        self.0.get(principal).into_iter().flat_map(BTreeMap::values).map(|grant| &**grant)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Grant> {
        self.0.values().flat_map(BTreeMap::values).map(|grant| &**grant)
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, id: AccessId) -> Option<&Grant> {
        self.0.values().find_map(|all| all.get(&id)).map(|grant| &**grant)
    }

    /// Adds one, or replaces it.
    pub fn insert(&mut self, grant: Grant) {
        let all = Arc::make_mut(&mut self.0);
        all.entry(grant.principal.clone()).or_default().insert(grant.id, Arc::new(grant));
    }

    /// Removes one, if it is there.
    pub fn remove(&mut self, id: AccessId) {
        let Some(principal) = self.get(id).map(|grant| grant.principal.clone()) else { return };
        let all = Arc::make_mut(&mut self.0);
        if let Some(own) = all.get_mut(&principal) {
            own.remove(&id);
            if own.is_empty() {
                all.remove(&principal);
            }
        }
    }

    /// Whose grants are others than in `before`.
    #[must_use]
    pub fn differences<'a>(&'a self, before: &'a Self) -> BTreeSet<&'a PrincipalId> {
        if Arc::ptr_eq(&self.0, &before.0) {
            return BTreeSet::new();
        }
        let names = self.0.keys().chain(before.0.keys());
        names.filter(|name| self.0.get(*name) != before.0.get(*name)).collect()
    }
}

impl FromIterator<Grant> for Grants {
    fn from_iter<I: IntoIterator<Item = Grant>>(from: I) -> Self {
        let mut grants = Self::default();
        from.into_iter().for_each(|grant| grants.insert(grant));
        grants
    }
}
