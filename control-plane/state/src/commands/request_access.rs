use std::collections::BTreeMap;

use postern_core::access::{AccessRequest, AccessState, AutoApprove, OnRequest, day};
use postern_core::resource::{FieldFault, Kind, Spec};
use postern_core::time::Ttl;
use postern_core::wire::identity::{principal_from_proto, principal_to_proto};
use postern_core::{AccessId, Name, Principal};
use postern_proto::state::v1 as pb;

use crate::entry::{fault, parse};
use crate::outcome::{Outcome, Refusal, Success};
use crate::rule_uses::RuleKey;
use crate::state::{Context, Limits, State};

/// The longest reason, in bytes.
const MAX_REASON: usize = 4_096;

/// Asks for what a policy permits on request. The same id twice is one request. Who may ask is decided here, so that it is decided by the policy of the
/// moment at which the request comes to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestAccess {
    /// Its id.
    pub id: AccessId,
    /// Who asks: verified by the node that proposes this.
    pub requester: Principal,
    /// Where.
    pub target: Name,
    /// What is to permit; none: the one policy that does on request.
    pub policy: Option<Name>,
    /// Why.
    pub reason: String,
    /// For how long; 0: as long as the policy lets.
    pub duration: Ttl,
}

impl RequestAccess {
    pub(crate) fn to_proto(&self) -> pb::RequestAccess {
        pb::RequestAccess {
            id: self.id.to_string(),
            requester: Some(principal_to_proto(&self.requester)),
            target: self.target.to_string(),
            policy: self.policy.as_ref().map(ToString::to_string).unwrap_or_default(),
            reason: self.reason.clone(),
            duration_seconds: self.duration.0,
        }
    }

    pub(crate) fn from_proto(proto: pb::RequestAccess) -> Result<Self, Vec<FieldFault>> {
        let requester = proto.requester.ok_or_else(|| vec![FieldFault::new("requester", "is missing")])?;
        Ok(Self {
            id: parse("id", &proto.id)?,
            requester: principal_from_proto(requester).map_err(fault)?,
            target: parse("target", &proto.target)?,
            policy: (!proto.policy.is_empty()).then(|| parse("policy", &proto.policy)).transpose()?,
            reason: proto.reason,
            duration: Ttl(proto.duration_seconds),
        })
    }

    pub(crate) fn apply(self, cx: &mut Context<'_>) -> Outcome {
        if let Some(known) = cx.state.access(self.id) {
            return if known.is_of(&self.requester) && known.target == self.target {
                Ok(Success::Access { id: self.id, automatic: known.automatic.clone() })
            } else {
                Err(Refusal::AlreadyExists { what: format!("request {}", self.id) })
            };
        }
        let (policy, asked, labels) = self.policy(cx.state)?;
        let duration = if self.duration.0 == 0 { asked.max_duration } else { self.duration };
        if duration > asked.max_duration {
            let most = asked.max_duration.0;
            return Err(Refusal::invalid("duration_seconds", format!("policy {policy} lets {most} at most")));
        }
        self.check_reason(asked.min_reason)?;
        let now = cx.state.now;
        let fits = |rule: &&AutoApprove| rule.approves(&self.requester, &labels, duration, now);
        let mut rules = asked.auto_approve.iter().filter(fits);
        let rule = rules.find(|rule| self.is_left(cx.state, &policy, rule));
        if rule.is_none() && asked.review.is_empty() {
            let mut why = format!("no rule of policy {policy} approves this request, and nobody is named to review it");
            if let Some((rule, most)) = asked.auto_approve.iter().find(fits).and_then(|it| Some((it, it.max_per_day?)))
            {
                why.push_str(&format!(": rule {} has approved {most} today, or too many count by now", rule.name));
            }
            return Err(Refusal::InvalidState(why));
        }
        let counted = rule.filter(|rule| rule.max_per_day.is_some()).map(|rule| self.key(&policy, rule));
        self.check_limits(cx.state)?;
        let access = AccessRequest {
            id: self.id,
            state: if rule.is_some() { AccessState::Active } else { AccessState::Pending },
            requester: self.requester,
            target: self.target,
            policy,
            reason: self.reason,
            duration,
            review: asked.review,
            reviews: Vec::new(),
            requested_at: now,
            expires_at: now.plus(asked.expires.duration()),
            granted_at: rule.map(|_| now),
            ends_at: rule.map(|_| now.plus(duration.duration())),
            automatic: rule.map(|rule| rule.name.clone()),
            ended: None,
            revision: 0,
        };
        if access.weight() > Limits::STANDARD.access_bytes {
            return Err(Refusal::Limit(format!("{} bytes in one request", Limits::STANDARD.access_bytes)));
        }
        let (id, automatic) = (access.id, access.automatic.clone());
        cx.state.put_access(access, cx.effects);
        if let Some(key) = counted {
            let taken = cx.state.rule_uses.on(day(now), &key).saturating_add(1);
            cx.state.rule_uses.put(key, day(now), taken);
        }
        Ok(Success::Access { id, automatic })
    }

    /// By the principal, whichever of its tokens is shown.
    fn key(&self, policy: &Name, rule: &AutoApprove) -> RuleKey {
        (self.requester.id.clone(), policy.clone(), rule.name.as_str().into())
    }

    /// Whether the rule may approve once more today.
    fn is_left(&self, state: &State, policy: &Name, rule: &AutoApprove) -> bool {
        let Some(most) = rule.max_per_day else { return true };
        match state.rule_uses.on(day(state.now), &self.key(policy, rule)) {
            0 => state.rule_uses.len() < Limits::STANDARD.counted_rules,
            taken => taken < most,
        }
    }

    /// The policy that is asked for, and the target's labels. There is one answer for what is not there and what cannot be asked for.
    fn policy(&self, state: &State) -> Result<(Name, OnRequest, BTreeMap<String, String>), Refusal> {
        let none = || Refusal::not_found(format!("target {} that access can be asked for", self.target));
        let target = state.resource(Kind::Target, &self.target).filter(|_| self.requester.reaches(&self.target));
        let labels = target.map(|target| target.metadata.labels.clone()).ok_or_else(none)?;
        let mut found: Vec<(Name, OnRequest)> = Vec::new();
        for object in state.resources(Kind::Policy) {
            if let Spec::Policy(policy) = &object.spec
                && let Some(asked) = &policy.on_request
                && self.policy.as_ref().is_none_or(|wanted| *wanted == object.metadata.name)
                && policy.speaks_of(&self.requester, &self.target, &labels)
            {
                found.push((object.metadata.name.clone(), OnRequest::clone(asked)));
            }
        }
        if found.len() > 1 {
            let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
            return Err(Refusal::invalid("policy", format!("which one? {} permit on request there", names.join(", "))));
        }
        found.pop().map(|(name, asked)| (name, asked, labels)).ok_or_else(none)
    }

    fn check_reason(&self, least: u32) -> Result<(), Refusal> {
        if self.reason.len() > MAX_REASON {
            return Err(Refusal::invalid("reason", format!("is longer than {MAX_REASON} bytes")));
        }
        let least = usize::try_from(least).unwrap_or(usize::MAX);
        if self.reason.trim().chars().count() < least {
            return Err(Refusal::invalid("reason", format!("has fewer than {least} characters")));
        }
        Ok(())
    }

    fn check_limits(&self, state: &State) -> Result<(), Refusal> {
        let limits = Limits::STANDARD;
        if state.accesses.live().len() >= limits.live_access {
            return Err(Refusal::Limit(format!("{} requests and grants that are not over", limits.live_access)));
        }
        let own = state.accesses.live().filter_map(|id| state.access(id));
        if own.filter(|known| known.requester.id == self.requester.id).count() >= limits.live_access_each {
            let most = limits.live_access_each;
            return Err(Refusal::Limit(format!("{most} requests and grants of one principal that are not over")));
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "request_access_tests.rs"]
mod tests;
