//! Access that was granted on request, as far as it is one principal's on one target.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::cedar::Cache;
use super::{Effect, Policy, PolicySlice};
use crate::access::Grant;
use crate::id::AccessId;
use crate::name::Name;
use crate::principal::Principal;
use crate::time::Timestamp;

/// By policy, the grant that lasts longest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Granted(Option<Arc<BTreeMap<Name, One>>>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct One {
    id: AccessId,
    ends_at: Timestamp,
    reason: Arc<str>,
}

impl Granted {
    /// Those of `grants` that hold for `principal` on `target`.
    #[must_use]
    pub fn of<'a>(grants: impl IntoIterator<Item = &'a Grant>, principal: &Principal, target: &Name) -> Self {
        let mut longest: BTreeMap<Name, One> = BTreeMap::new();
        for grant in grants.into_iter().filter(|grant| grant.target == *target && grant.holds_for(principal)) {
            let one = One { id: grant.id, ends_at: grant.ends_at, reason: Arc::clone(&grant.reason) };
            let known = longest.entry(grant.policy.clone()).or_insert_with(|| one.clone());
            if (one.ends_at, one.id) > (known.ends_at, known.id) {
                *known = one;
            }
        }
        Self((!longest.is_empty()).then(|| Arc::new(longest)))
    }

    fn get(&self, policy: &Name) -> Option<AccessId> {
        self.0.as_ref()?.get(policy).map(|one| one.id)
    }

    /// The policies of which something was granted.
    pub(super) fn policies(&self) -> impl Iterator<Item = &Name> {
        self.0.iter().flat_map(|all| all.keys())
    }

    /// What was said when the newest of them was asked for.
    pub(super) fn justification(&self) -> Option<&str> {
        let newest = self.0.as_ref()?.values().max_by_key(|one| one.id)?;
        Some(&*newest.reason).filter(|reason| !reason.is_empty())
    }

    fn first_end(&self) -> Option<Timestamp> {
        self.0.as_ref()?.values().map(|one| one.ends_at).min()
    }

    fn after(&self, now: Timestamp) -> Self {
        let left = self.0.iter().flat_map(|all| all.iter()).filter(|(_, one)| one.ends_at > now);
        let left: BTreeMap<_, _> = left.map(|(name, one)| (name.clone(), one.clone())).collect();
        Self((!left.is_empty()).then(|| Arc::new(left)))
    }
}

impl PolicySlice {
    /// The same, where `granted` has been granted.
    #[must_use]
    pub fn with(mut self, granted: Granted) -> Self {
        self.granted = granted;
        // Policies may ask what was granted.
        self.remembered = Cache::default();
        self
    }

    /// The same at `now`, when grants in it have ended by then; none, when none has.
    #[must_use]
    pub fn without_ended(&self, now: Timestamp) -> Option<Self> {
        self.next_end().filter(|end| *end <= now).map(|_| self.clone().with(self.granted.after(now)))
    }

    /// When the first grant in it ends.
    #[must_use]
    pub fn next_end(&self) -> Option<Timestamp> {
        self.granted.first_end()
    }

    /// Whether it permits nothing, and would permit something, were it asked for and granted.
    #[must_use]
    pub fn permits_on_request_only(&self) -> bool {
        self.on_request().next().is_some()
            && !self.permits_anything()
            && !self.policies.iter().any(|(_, policy)| policy.denies_all())
    }

    /// The policies in it that would permit more, were it asked for and granted.
    pub fn on_request(&self) -> impl Iterator<Item = &Name> {
        self.policies.iter().filter(|(name, policy)| !self.stands(name, policy)).map(|(name, _)| name)
    }

    /// Whether `policy` does what it says: it does not wait for somebody to be granted it.
    pub(super) fn stands(&self, name: &Name, policy: &Policy) -> bool {
        policy.on_request.is_none() || self.granted.get(name).is_some()
    }

    /// Whether it permits, here and now.
    pub(super) fn permits_by(&self, name: &Name, policy: &Policy) -> bool {
        policy.effect == Effect::Permit && self.stands(name, policy) && policy.is_proven(&self.claims)
    }

    /// The grants by which `policies` permit.
    pub(super) fn grants_of(&self, policies: &[Name]) -> Vec<AccessId> {
        policies.iter().filter_map(|policy| self.granted.get(policy)).collect()
    }
}

#[cfg(test)]
#[path = "granted_tests.rs"]
mod tests;
