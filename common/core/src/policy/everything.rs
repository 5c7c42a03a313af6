//! Whether a principal may do anything at all on a target: then what cannot be classified may pass (I3).

use super::freshness::Freshness;
use super::{ActionPattern, Conditions, Effect, Policy, PolicySlice};
use crate::action::Verb;

impl Policy {
    /// Whether it permits everything, whatever the statement, without review.
    fn permits_everything(&self) -> bool {
        if let Some(rule) = &self.cedar {
            return rule.permits_everything() && self.approval.is_none() && self.when == Conditions::default();
        }
        self.effect == Effect::Permit
            && self.actions.iter().any(is_every_action)
            && (self.resources.is_empty() || self.resources.iter().any(|pattern| pattern.as_str() == "*"))
            && self.approval.is_none()
            && Conditions { authentication: None, ..self.when.clone() } == Conditions::default()
    }
}

/// `*`, or every verb that there is by its family.
fn is_every_action(pattern: &ActionPattern) -> bool {
    Verb::ALL.iter().all(|verb| pattern.matches(*verb))
}

impl PolicySlice {
    /// Whether everything is granted: a policy permits every action on everything, none denies, holds or binds anything by an obligation, and no token narrows that. What
    /// is in doubt is denied under any other slice.
    #[must_use]
    pub fn grants_everything(&self, fresh: Freshness) -> bool {
        let narrows = |policy: &Policy| {
            policy.effect == Effect::Deny || policy.approval.is_some() || !policy.obligations.is_empty()
        };
        self.scopes_are_open()
            && !self.policies.iter().any(|(_, policy)| narrows(policy))
            && self.policies.iter().any(|(name, policy)| {
                self.permits_by(name, policy) && policy.permits_everything() && policy.still_permits(fresh)
            })
    }
}

#[cfg(test)]
#[path = "everything_tests.rs"]
mod tests;
