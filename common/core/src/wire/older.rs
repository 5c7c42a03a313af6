//! What gateways of earlier feature levels are told in the place of what they do not understand.

use std::sync::Arc;

use crate::policy::{ActionPattern, Conditions, Effect, Policy, PrincipalSelector};
use crate::target::TargetSelector;

/// In the place of a policy with obligations: one that denies what it speaks of. Who does not know obligations would permit without them, by this policy or
/// by another that it binds. None for one on request: nobody is worse bound for not being granted it.
pub(super) fn instead_of(policy: &Policy) -> Option<Policy> {
    const REASON: &str = "the gateway is too old for the obligations of this policy: upgrade it";
    if policy.on_request.is_some() {
        return None;
    }
    let denies = Policy {
        principals: policy.principals.clone(),
        targets: policy.targets.clone(),
        actions: policy.actions.clone(),
        resources: policy.resources.clone(),
        // How somebody has logged in lifts no obligation.
        when: Conditions { bounded: policy.when.bounded, authentication: None },
        reason: Some(REASON.to_owned()),
        ..Policy::new(Effect::Deny)
    };
    let Some(rule) = &policy.cedar else { return Some(denies) };
    Some(match rule.forbidding(REASON) {
        Some(rule) => Policy { reason: Some(REASON.to_owned()), cedar: Some(Arc::new(rule)), ..denies },
        // What cannot be said in Cedar is said of everybody.
        None => Policy {
            principals: PrincipalSelector { groups: vec!["*".into()], ..PrincipalSelector::default() },
            targets: TargetSelector { names: vec!["*".into()], ..TargetSelector::default() },
            actions: vec![ActionPattern::Any],
            ..denies
        },
    })
}
