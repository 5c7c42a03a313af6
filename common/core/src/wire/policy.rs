//! Policies.

use std::sync::Arc;
use std::time::Duration;

use postern_proto::resource::v1 as pb;

use super::faults::{Faults, MAX_TEXT};
use super::{access, allowance, conditions, obligations, selector};
use crate::allowance::Allowance;
use crate::approval::{ApprovalRequirement, DEFAULT_APPROVAL_EXPIRY, MAX_APPROVAL_EXPIRY};
use crate::policy::cedar::Rule;
use crate::policy::{ActionPattern, Effect, MAX_STALENESS, OnStale, Policy, Staleness};
use crate::time::Ttl;

pub(super) fn read(spec: pb::PolicySpec, faults: &mut Faults) -> Policy {
    let in_cedar = spec.effect == i32::from(pb::Effect::Cedar);
    if in_cedar == spec.cedar.is_empty() {
        // Whoever does not know of Cedar would take it for what speaks of nobody.
        faults.add("spec.cedar", "and the effect of what is in Cedar come together");
    }
    let cedar = match Rule::parse(&spec.cedar) {
        Ok(rule) if in_cedar => Some(Arc::new(rule)),
        Err(error) if in_cedar => {
            faults.add("spec.cedar", error.to_string());
            None
        }
        _ => None,
    };
    let effect = effect(&spec, cedar.as_deref(), faults);
    if in_cedar {
        nothing_beside(&spec, faults);
    } else if spec.actions.is_empty() {
        faults.add("spec.actions", "must name at least one action");
    }
    let waits = spec.approval.as_ref().is_some_and(|asked| match pb::WhenAway::try_from(asked.when_away) {
        Ok(pb::WhenAway::Wait) => true,
        Ok(pb::WhenAway::Fail | pb::WhenAway::Unspecified) => false,
        Err(_) => {
            faults.add("spec.approval.whenAway", "must be \"fail\" or \"wait\"");
            false
        }
    });
    let approval = spec.approval.map(|asked| requirement(asked, effect, faults));
    let (principals, targets) = match in_cedar {
        true => Default::default(),
        false => {
            (selector::principals("spec.principals", spec.principals, faults), selector::targets(spec.targets, faults))
        }
    };
    if effect == Effect::Permit && !principals.tokens.is_empty() {
        faults.add("spec.principals.tokens", "has a meaning only with effect \"deny\"");
    }
    if effect == Effect::Deny && spec.limits.is_some() {
        faults.add("spec.limits", "has no meaning with effect \"deny\"");
    }
    faults.bound("spec.reason", spec.reason.len(), MAX_TEXT);
    if effect == Effect::Deny && spec.on_request.is_some() {
        faults.add("spec.onRequest", "has no meaning with effect \"deny\"");
    }
    let said = Policy {
        effect,
        principals,
        targets,
        actions: actions(&spec.actions, faults),
        resources: selector::patterns("spec.resources", &spec.resources, faults),
        when: conditions::read(spec.when.unwrap_or_default(), effect, faults),
        approval,
        waits,
        staleness: staleness(spec.max_staleness_seconds, spec.on_stale, effect, faults),
        limits: allowance::read(spec.limits, faults),
        on_request: spec.on_request.map(|asked| Box::new(access::on_request(asked, faults))),
        obligations: obligations::read(spec.obligations, effect, faults),
        reason: Some(spec.reason).filter(|reason| !reason.is_empty()),
        cedar: None,
    };
    match cedar {
        Some(rule) => with_annotated(said, rule, faults),
        None => said,
    }
}

fn effect(spec: &pb::PolicySpec, cedar: Option<&Rule>, faults: &mut Faults) -> Effect {
    match pb::Effect::try_from(spec.effect) {
        Ok(pb::Effect::Cedar) => cedar.map_or(Effect::Deny, Rule::effect),
        Ok(pb::Effect::Permit) if spec.on_request.is_some() => {
            // Whoever does not know of requests would take it for what permits without one.
            faults.add("spec.effect", "must be that of what permits on request, where \"onRequest\" is given");
            Effect::Permit
        }
        Ok(pb::Effect::Permit) => Effect::Permit,
        Ok(pb::Effect::PermitOnRequest) => {
            if spec.on_request.is_none() {
                faults.add("spec.onRequest", "is needed by what permits on request");
            }
            Effect::Permit
        }
        Ok(pb::Effect::Deny) => Effect::Deny,
        _ => {
            faults.add("spec.effect", "must be \"permit\" or \"deny\"");
            Effect::Deny
        }
    }
}

/// What Cedar says is not said twice.
fn nothing_beside(spec: &pb::PolicySpec, faults: &mut Faults) {
    let said = [
        ("spec.principals", spec.principals.is_some()),
        ("spec.targets", spec.targets.is_some()),
        ("spec.actions", !spec.actions.is_empty()),
        ("spec.resources", !spec.resources.is_empty()),
        ("spec.when", spec.when.is_some()),
    ];
    for (field, _) in said.into_iter().filter(|(_, is_said)| *is_said) {
        faults.add(field, "is said by the policy in Cedar itself");
    }
}

/// `said`, and what the annotations of `rule` say.
fn with_annotated(mut said: Policy, rule: Arc<Rule>, faults: &mut Faults) -> Policy {
    fn one<T>(field: &str, beside: &mut T, is_said: bool, annotated: Option<T>, faults: &mut Faults) {
        if let Some(annotated) = annotated {
            if is_said {
                faults.add(field, "is said by an annotation of the policy in Cedar already");
            }
            *beside = annotated;
        }
    }
    let annotated = rule.annotated().clone();
    let is_said = said.approval.is_some();
    if annotated.approval.is_some() {
        said.waits = annotated.waits;
    }
    one("spec.approval", &mut said.approval, is_said, annotated.approval.map(Some), faults);
    let is_said = said.staleness != Staleness::default();
    one("spec.maxStaleness", &mut said.staleness, is_said, annotated.staleness, faults);
    let is_said = said.limits != Allowance::default();
    one("spec.limits", &mut said.limits, is_said, annotated.limits, faults);
    let is_said = !said.obligations.is_empty();
    one("spec.obligations", &mut said.obligations, is_said, annotated.obligations, faults);
    let is_said = said.reason.is_some();
    one("spec.reason", &mut said.reason, is_said, annotated.reason.map(Some), faults);
    Policy { cedar: Some(rule), ..said }
}

fn actions(texts: &[String], faults: &mut Faults) -> Vec<ActionPattern> {
    faults.bound_all("spec.actions", texts);
    let mut actions = Vec::new();
    for (place, text) in texts.iter().enumerate() {
        match ActionPattern::parse(text) {
            Some(pattern) => actions.push(pattern),
            None => faults.add(
                format!("spec.actions[{place}]"),
                format!("{text:?} is no action (try \"sql:select\", \"sql:*\", \"*\")"),
            ),
        }
    }
    actions
}

fn staleness(max: Option<u32>, then: i32, effect: Effect, faults: &mut Faults) -> Staleness {
    let denies = effect == Effect::Deny;
    if denies && max.is_some() {
        faults.add("spec.maxStaleness", "has no meaning with effect \"deny\", which is never too old");
    }
    if max.is_some_and(|max| max > MAX_STALENESS) {
        faults.add("spec.maxStaleness", format!("must be at most {MAX_STALENESS} seconds"));
    }
    let then = match pb::OnStale::try_from(then) {
        Ok(pb::OnStale::Unspecified) => OnStale::End,
        Ok(_) if denies => {
            faults.add("spec.onStale", "has no meaning with effect \"deny\", which is never too old");
            OnStale::End
        }
        Ok(pb::OnStale::End) => OnStale::End,
        Ok(pb::OnStale::Keep) => OnStale::Keep,
        Err(_) => {
            faults.add("spec.onStale", "must be \"end\" or \"keep\"");
            OnStale::End
        }
    };
    Staleness { max: max.map(|max| Duration::from_secs(u64::from(max))), then }
}

fn requirement(asked: pb::ApprovalRequirement, effect: Effect, faults: &mut Faults) -> ApprovalRequirement {
    if effect == Effect::Deny {
        faults.add("spec.approval", "has no meaning with effect \"deny\"");
    }
    if asked.groups.is_empty() {
        faults.add("spec.approval.groups", "must name at least one group of reviewers");
    }
    faults.bound_all("spec.approval.groups", &asked.groups);
    if asked.count > 16 {
        faults.add("spec.approval.count", "must be at most 16");
    }
    if asked.expires_seconds > MAX_APPROVAL_EXPIRY {
        faults.add("spec.approval.expires", format!("must be at most {MAX_APPROVAL_EXPIRY} seconds"));
    }
    let expires = if asked.expires_seconds == 0 { DEFAULT_APPROVAL_EXPIRY } else { asked.expires_seconds };
    ApprovalRequirement { groups: asked.groups, count: asked.count.max(1), expires: Ttl(expires) }
}

pub(super) fn to_proto(policy: &Policy) -> pb::PolicySpec {
    // What an annotation says is told by the policy's text alone.
    let annotated = policy.cedar.as_ref().map(|rule| rule.annotated().clone()).unwrap_or_default();
    let effect = match policy.effect {
        // Told apart by the effect, too: who does not know it refuses the policy.
        _ if policy.cedar.is_some() => pb::Effect::Cedar,
        Effect::Permit if policy.on_request.is_some() => pb::Effect::PermitOnRequest,
        Effect::Permit => pb::Effect::Permit,
        Effect::Deny => pb::Effect::Deny,
    };
    let selects = policy.cedar.is_none();
    let staleness = if annotated.staleness.is_some() { Staleness::default() } else { policy.staleness };
    let asked = policy.approval.as_ref().filter(|_| annotated.approval.is_none());
    pb::PolicySpec {
        effect: effect.into(),
        principals: selects.then(|| selector::principals_to_proto(&policy.principals)),
        targets: selects.then(|| selector::targets_to_proto(&policy.targets)),
        actions: policy.actions.iter().map(ToString::to_string).collect(),
        resources: policy.resources.iter().map(ToString::to_string).collect(),
        when: conditions::to_proto(&policy.when),
        approval: asked.map(|asked| pb::ApprovalRequirement {
            groups: asked.groups.clone(),
            count: asked.count,
            expires_seconds: asked.expires.0,
            when_away: if policy.waits { pb::WhenAway::Wait } else { pb::WhenAway::Unspecified }.into(),
        }),
        reason: policy.reason.clone().filter(|_| annotated.reason.is_none()).unwrap_or_default(),
        max_staleness_seconds: staleness.max.map(|max| u32::try_from(max.as_secs()).unwrap_or(u32::MAX)),
        on_stale: match staleness.then {
            // As before there was a choice: the same policy is the same bytes.
            OnStale::End => pb::OnStale::Unspecified,
            OnStale::Keep => pb::OnStale::Keep,
        }
        .into(),
        limits: if annotated.limits.is_some() { None } else { allowance::to_proto(policy.limits) },
        on_request: policy.on_request.as_deref().map(access::on_request_to_proto),
        obligations: match annotated.obligations {
            Some(_) => None,
            None => obligations::to_proto(&policy.obligations),
        },
        cedar: policy.cedar.as_ref().map(|rule| rule.text().to_owned()).unwrap_or_default(),
    }
}
