//! What gateways of earlier feature levels are told in the place of what they do not understand.

use std::borrow::Cow;
use std::sync::Arc;

use crate::policy::{ActionPattern, Conditions, Effect, Policy, PrincipalSelector};
use crate::resource::Spec;
use crate::target::{CredentialKind, CredentialSource, TargetSelector};

/// Whether gateways before feature level 5 do not understand it.
pub(super) fn is_newer(spec: &Spec) -> bool {
    match spec {
        Spec::Policy(policy) => !policy.is_of_level_4(),
        Spec::MaskingRule(rule) => !rule.is_of_level_4(),
        // A private key must not be sent to it as a password.
        Spec::Target(target) => target.credential.kind == CredentialKind::Certificate,
        _ => false,
    }
}

/// Whether gateways of feature level 5 do not understand it either. They are told what those before are.
pub(super) const fn is_newest(spec: &Spec) -> bool {
    matches!(spec, Spec::Policy(policy) if !policy.is_of_level_5())
}

/// The object itself where they understand it, else what they are told in its place; none: that it is gone.
pub(super) fn told(spec: &Spec) -> Option<Cow<'_, Spec>> {
    Some(match spec {
        Spec::Policy(policy) if is_newer(spec) => Cow::Owned(Spec::Policy(instead_of(policy)?)),
        // The policies that ask for it are denied there.
        Spec::MaskingRule(rule) if rule.only_by_policy => return None,
        Spec::MaskingRule(rule) if is_newer(spec) => Cow::Owned(Spec::MaskingRule(rule.for_level_4())),
        Spec::Target(target) if is_newer(spec) => {
            let mut disabled = target.clone();
            disabled.disabled = true;
            disabled.credential.kind = CredentialKind::Password;
            disabled.credential.source = CredentialSource::None;
            Cow::Owned(Spec::Target(disabled))
        }
        _ => Cow::Borrowed(spec),
    })
}

/// In the place of a policy with obligations, or with conditions that are not known: one that denies what it speaks of. Who does not know obligations would
/// permit without them, by this policy or by another that it binds; and who cannot read what forbids, or asks for review, must not go without. None for one
/// on request, nobody is worse bound for not being granted it; nor for one that permits and does no more: it is missed, and nothing else.
pub(super) fn instead_of(policy: &Policy) -> Option<Policy> {
    const REASON: &str = "the gateway is too old for this policy: upgrade it";
    if policy.on_request.is_some() || policy.only_permits() {
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
