//! The decision on an operation.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::cedar::{Answer, Broken, Cache, Rules};
use super::circumstances::Circumstances;
use super::decision::{DecisionRecord, Denial, Outcome};
use super::freshness::Freshness;
use super::granted::Granted;
use super::obligations::{Obliged, only_reads};
use super::permit::{Held, Permit};
use super::spoken::{Policies, Spoken};
use super::{Effect, Policy};
use crate::action::Action;
use crate::allowance::Allowance;
use crate::approval::ApprovalRequirement;
use crate::code::Code;
use crate::id::DecisionId;
use crate::kept::KeptClaims;
use crate::name::Name;
use crate::operation::Operation;
use crate::principal::Principal;
use crate::scope::Scopes;
use crate::snapshot::Difference;
use crate::time::Timestamp;

/// The policies that speak of one principal on one target, at one revision.
#[derive(Clone, Debug, Default)]
pub struct PolicySlice {
    revision: u64,
    /// By name. Shared: as many sessions as there may be have the same.
    pub(super) policies: Policies,
    /// What the tokens shown leave over of them.
    scopes: Scopes,
    /// Which of those that permit on request do.
    pub(super) granted: Granted,
    /// Where: to say how to ask.
    target: Option<Name>,
    /// How the principal has proven who it is.
    pub(super) claims: KeptClaims,
    /// Those in Cedar.
    rules: Option<InCedar>,
    pub(super) remembered: Cache,
    spoken: Spoken,
}

/// The policies in Cedar of a slice. Shared: as the policies are.
type InCedar = Result<Arc<Rules>, Broken>;

/// What was decided. `Permit` and `Held` are proofs; the record beside them is what is written down.
#[derive(Debug)]
pub enum Verdict {
    /// It may run.
    Permit(Permit, DecisionRecord),
    /// It waits for reviewers.
    Hold(Held),
    /// It does not run.
    Deny(Denial),
}

impl PolicySlice {
    /// Those of `policies` that speak of `principal` on the target; shared with whoever has them.
    #[must_use]
    pub fn new<'a>(
        revision: u64,
        policies: impl IntoIterator<Item = (&'a Name, &'a Arc<Policy>)>,
        principal: &Principal,
        target: &Name,
        labels: &BTreeMap<String, String>,
    ) -> Self {
        let (scopes, reach) = (Scopes::of(principal), principal.reaches(target));
        let speaking = policies.into_iter().filter(|(_, policy)| reach && policy.speaks_of(principal, target, labels));
        let policies: Vec<_> = speaking.map(|(name, policy)| (name.clone(), Arc::clone(policy))).collect();
        Self {
            revision,
            rules: Rules::of(&policies, principal, target, labels).transpose(),
            remembered: Cache::default(),
            spoken: Spoken::default(),
            policies: Arc::new(policies),
            scopes,
            granted: Granted::default(),
            target: Some(target.clone()),
            claims: principal.claims.clone(),
        }
    }

    /// The slice after `differences` between the policies that it is of and those of `revision`, for the same principal, target and labels. In the
    /// time that they take, not all policies. None where they do not concern it.
    #[must_use]
    pub fn after(
        &self,
        revision: u64,
        differences: &[Difference<'_, Policy>],
        principal: &Principal,
        target: &Name,
        labels: &BTreeMap<String, String>,
    ) -> Option<Self> {
        if !principal.reaches(target) {
            return None;
        }
        let speaks = |policy: &&Arc<Policy>| policy.speaks_of(principal, target, labels);
        let mut policies: Option<Vec<(Name, Arc<Policy>)>> = None;
        for difference in differences {
            let now = difference.now.filter(speaks);
            if now.is_none() && difference.was.filter(speaks).is_none() {
                continue;
            }
            let policies = policies.get_or_insert_with(|| self.policies.to_vec());
            let at = policies.binary_search_by(|(known, _)| known.cmp(difference.name));
            match (at, now) {
                (Ok(at), Some(now)) => {
                    if let Some((_, known)) = policies.get_mut(at) {
                        *known = Arc::clone(now);
                    }
                }
                (Ok(at), None) => drop(policies.remove(at)),
                (Err(at), Some(now)) => policies.insert(at, (difference.name.clone(), Arc::clone(now))),
                (Err(_), None) => {}
            }
        }
        policies.map(|policies| Self {
            revision,
            rules: Rules::of(&policies, principal, target, labels).transpose(),
            policies: Arc::new(policies),
            ..self.clone()
        })
    }

    /// Nothing that is in it is another at `revision`.
    pub const fn holds_at(&mut self, revision: u64) {
        self.revision = revision;
    }

    /// The revision that it shows.
    #[must_use]
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// What the principal may use up on the target: the smallest of what its policies say.
    #[must_use]
    pub fn limits(&self) -> Allowance {
        let standing = self.policies.iter().filter(|(name, policy)| self.stands(name, policy));
        standing.fold(Allowance::default(), |limits, (_, policy)| limits.and(policy.limits))
    }

    /// Whether it has the same policies as `other`, within the same scopes and by the same grants: then nothing that is decided by it is decided otherwise.
    #[must_use]
    pub fn says_the_same(&self, other: &Self) -> bool {
        (Arc::ptr_eq(&self.policies, &other.policies) || self.policies == other.policies)
            && self.scopes == other.scopes
            && self.granted == other.granted
            && self.claims == other.claims
    }

    /// Whether no token leaves less over than policy permits.
    pub(super) const fn scopes_are_open(&self) -> bool {
        self.scopes.are_open()
    }

    /// Whether policy asks how many rows the target expects of `actions`: then that is to be found out before they are decided.
    #[must_use]
    pub fn asks_for_estimate(&self, actions: &[Action]) -> bool {
        matches!(&self.rules, Some(Ok(rules)) if rules.ask_for_estimate(actions))
    }

    /// Whether it may hold anything for review.
    #[must_use]
    pub fn may_hold(&self) -> bool {
        self.policies.iter().any(|(_, policy)| policy.approval.is_some())
    }

    /// Whether anything at all is permitted, and not everything denied: without it no session opens.
    #[must_use]
    pub fn permits_anything(&self) -> bool {
        self.policies.iter().any(|(name, policy)| self.permits_by(name, policy))
            && !self.policies.iter().any(|(_, policy)| policy.denies_all())
    }

    /// Whether `actions`, which were permitted or approved, are denied now: by a policy that denies them, or because none permits them any more.
    #[must_use]
    pub fn denies(&self, actions: &[Action], at: &Circumstances) -> bool {
        let answers = self.answers(&mut Cache::default(), actions, at);
        self.weigh(actions, &answers, &mut Spoken::default(), at.fresh).is_err()
    }

    /// What keeps the principal from a session, whatever it does there: the policy, and what it says. Asked when a session opens, and when policy changes.
    #[must_use]
    pub fn forbids_session(&self, at: &Circumstances) -> Option<(Option<&Name>, String)> {
        let answer = match self.rules.as_ref()? {
            Ok(rules) => rules.on_session(at, &self.granted),
            Err(Broken) => Answer::BROKEN,
        };
        if let Some(failed) = answer.fault() {
            let refusal = self.not_evaluated(failed);
            return Some((None, refusal.reason));
        }
        let applying = answer.all().iter().filter_map(|place| self.policies.get(*place));
        let (name, policy) = applying.clone().find(|(_, policy)| policy.effect == Effect::Deny)?;
        Some((Some(name), format!("sessions are denied by policy {name}{}", why(policy))))
    }

    /// Decides `operation`. A deny outranks a hold, a hold outranks a permit; an action that no policy permits denies the whole. What is too
    /// old permits nothing, unless it says otherwise.
    #[must_use]
    pub fn decide(&mut self, operation: &Operation, id: DecisionId, at: &Circumstances) -> Verdict {
        let Circumstances { now, fresh, .. } = *at;
        if let Some(mut left) = self.without_ended(now) {
            return left.decide(operation, id, at);
        }
        let mut remembered = std::mem::take(&mut self.remembered);
        let answers = self.answers(&mut remembered, &operation.actions, at);
        self.remembered = remembered;
        let mut spoken = std::mem::take(&mut self.spoken);
        let weighed = self.weigh(&operation.actions, &answers, &mut spoken, fresh);
        self.spoken = spoken;
        let estimated_rows = at.estimated_rows.filter(|_| self.asks_for_estimate(&operation.actions));
        let record = |outcome, policies: Vec<Name>, reason, obliged| DecisionRecord {
            id,
            outcome,
            revision: self.revision,
            grants: self.grants_of(&policies),
            policies,
            reason,
            at: now,
            policy_age_ms: Some(millis(fresh)),
            estimated_rows,
            obliged,
        };
        match weighed {
            Ok(weighed) => match weighed.requirement {
                None => {
                    let record = record(Outcome::Permit, weighed.policies, String::new(), weighed.obliged.clone());
                    Verdict::Permit(Permit::by_decision(operation, id, weighed.obliged), record)
                }
                Some(requirement) => Verdict::Hold(Held {
                    operation: operation.id,
                    digest: operation.digest,
                    decision: record(Outcome::Hold, weighed.policies, weighed.reason, weighed.obliged.clone()),
                    requirement,
                    waits: weighed.waits,
                    obliged: weighed.obliged,
                }),
            },
            Err(refusal) => {
                let decision = record(Outcome::Deny, refusal.policies, refusal.reason, Obliged::default());
                Verdict::Deny(Denial { code: refusal.code, decision })
            }
        }
    }

    /// A denial of what could not be classified (I3).
    #[must_use]
    pub fn deny_unclassified(
        &self,
        code: Code,
        reason: String,
        id: DecisionId,
        (now, fresh): (Timestamp, Freshness),
    ) -> Denial {
        let decision = DecisionRecord {
            id,
            outcome: Outcome::Deny,
            revision: self.revision,
            policies: Vec::new(),
            reason,
            at: now,
            policy_age_ms: Some(millis(fresh)),
            grants: Vec::new(),
            estimated_rows: None,
            obliged: Obliged::default(),
        };
        Denial { code, decision }
    }

    /// What policies in Cedar say of each of `actions`; nothing, where there are none.
    pub(super) fn answers(&self, remembered: &mut Cache, actions: &[Action], at: &Circumstances) -> Vec<Arc<Answer>> {
        match &self.rules {
            None => Vec::new(),
            Some(Ok(rules)) => remembered.answers(rules, actions, at, &self.granted),
            Some(Err(Broken)) => actions.iter().map(|_| Arc::new(Answer::BROKEN)).collect(),
        }
    }

    fn weigh(
        &self,
        actions: &[Action],
        answers: &[Arc<Answer>],
        spoken: &mut Spoken,
        fresh: Freshness,
    ) -> Result<Weighed, Refusal> {
        if actions.is_empty() && !self.permits_anything() {
            return Err(Refusal::denied(Vec::new(), "no policy permits anything here".into()));
        }
        if actions.is_empty() && !self.keeps(fresh) {
            return Err(Refusal::stale(Vec::new(), fresh));
        }
        let mut weighed = Weighed::default();
        for (place, action) in actions.iter().enumerate() {
            if !self.scopes.cover(action) {
                return Err(Refusal::denied(Vec::new(), format!("{action} is outside of the token's scope")));
            }
            let answer = answers.get(place).map(|answer| &**answer);
            if let Some(failed) = answer.and_then(Answer::fault) {
                return Err(self.not_evaluated(failed));
            }
            let places = spoken.places(&self.policies, action);
            self.weigh_action(action, &self.standing(&places, answer), answer, fresh, &mut weighed)?;
        }
        if actions.is_empty() {
            weighed.obliged = self.obliged_without_actions();
        } else {
            self.mask(&mut weighed.obliged);
        }
        let writes = actions.iter().find(|action| !only_reads(action));
        if let (Some(policy), Some(action)) = (&weighed.obliged.read_only, writes) {
            let reason = format!("policy {policy} permits reading only, and {action} is more");
            return Err(Refusal::denied(vec![policy.clone()], reason));
        }
        Ok(weighed)
    }

    /// Weighs `action`, of which `matching` speak.
    fn weigh_action(
        &self,
        action: &Action,
        matching: &[(&Name, &Policy)],
        answer: Option<&Answer>,
        fresh: Freshness,
        weighed: &mut Weighed,
    ) -> Result<(), Refusal> {
        let matching = || matching.iter().copied();
        if let Some((name, policy)) = matching().find(|(_, policy)| policy.effect == Effect::Deny) {
            let reason = format!("{action} is denied by policy {name}{}", why(policy));
            return Err(Refusal::denied(vec![name.clone()], reason));
        }
        let mut permitted = false;
        let permitting = || matching().filter(|(_, policy)| policy.still_permits(fresh));
        for (name, policy) in matching() {
            permitted |= policy.still_permits(fresh) && policy.is_proven(&self.claims);
            // As with review: what one policy asks, no other takes back.
            weighed.obliged.add(name, &policy.obligations);
            // One that is too old permits nothing, and what others permit is held by it all the same.
            if let Some(requirement) = &policy.approval {
                weighed.hold(name, requirement, policy)?;
            }
        }
        if !permitted {
            if let Some((name, asked)) =
                permitting().find_map(|(name, policy)| Some((name, self.unproven(name, policy)?)))
            {
                return Err(Refusal::denied(vec![name.clone()], format!("{action}: {asked}")));
            }
            let stale: Vec<Name> = matching().map(|(name, _)| name.clone()).collect();
            return Err(if stale.is_empty() {
                let asking = self.may_be_asked_for(action, answer);
                Refusal::denied(stale, format!("no policy permits {action}{asking}"))
            } else {
                Refusal::stale(stale, fresh)
            });
        }
        if weighed.requirement.is_none() {
            for (name, _) in permitting().filter(|(_, policy)| policy.is_proven(&self.claims)) {
                if !weighed.policies.contains(name) {
                    weighed.policies.push(name.clone());
                }
            }
        }
        Ok(())
    }

    /// The policies at `places`, which may speak of an action, that do, and do not wait to be granted.
    fn standing<'a>(&'a self, places: &[usize], answer: Option<&Answer>) -> Vec<(&'a Name, &'a Policy)> {
        let at = |place: &usize| self.policies.get(*place).map(|(name, policy)| (*place, name, &**policy));
        let speaks =
            |place, policy: &Policy| policy.cedar.is_none() || answer.is_some_and(|answer| answer.applies(place));
        let speaking = places.iter().filter_map(at).filter(|(place, _, policy)| speaks(*place, policy));
        speaking.filter(|(_, name, policy)| self.stands(name, policy)).map(|(_, name, policy)| (name, policy)).collect()
    }

    /// The policies that speak of `action`; those in Cedar by what they answered.
    pub(super) fn matching(&self, action: &Action, answer: Option<&Answer>) -> impl Iterator<Item = (&Name, &Policy)> {
        let speaks = move |place: usize, policy: &Policy| match policy.cedar {
            None => policy.matches(action),
            Some(_) => answer.is_some_and(|answer| answer.applies(place)),
        };
        let all = self.policies.iter().enumerate();
        all.filter(move |(place, (_, policy))| speaks(*place, policy)).map(|(_, (name, policy))| (name, &**policy))
    }

    /// Cedar passes by what it cannot evaluate, which may be what forbids or holds: nothing is permitted then (I3).
    fn not_evaluated(&self, failed: &[usize]) -> Refusal {
        let policies: Vec<Name> =
            failed.iter().filter_map(|place| self.policies.get(*place)).map(|(name, _)| name.clone()).collect();
        let names: Vec<&str> = policies.iter().map(Name::as_str).collect();
        Refusal::denied(policies.clone(), format!("policy {} cannot be evaluated here", names.join(", ")))
    }

    /// How to ask for `action`, where a policy permits it on request.
    fn may_be_asked_for(&self, action: &Action, answer: Option<&Answer>) -> String {
        let by = self.matching(action, answer).find(|(name, policy)| !self.stands(name, policy));
        let (Some((name, _)), Some(target)) = (by, &self.target) else { return String::new() };
        format!("; policy {name} does on request: postern access request --target {target} --policy {name}")
    }
}

#[derive(Default)]
struct Weighed {
    policies: Vec<Name>,
    requirement: Option<ApprovalRequirement>,
    waits: bool,
    reason: String,
    obliged: Obliged,
}

struct Refusal {
    code: Code,
    policies: Vec<Name>,
    reason: String,
}

impl Refusal {
    const fn denied(policies: Vec<Name>, reason: String) -> Self {
        Self { code: Code::Denied, policies, reason }
    }

    /// What would permit is too old.
    fn stale(policies: Vec<Name>, fresh: Freshness) -> Self {
        let reason =
            format!("what permits it is too old: the control plane has not confirmed it for {} s", fresh.age.as_secs());
        Self { code: Code::PolicyUnavailable, policies, reason }
    }
}

/// What a policy says to whom it denies.
fn why(policy: &Policy) -> String {
    policy.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"))
}

fn millis(fresh: Freshness) -> u64 {
    u64::try_from(fresh.age.as_millis()).unwrap_or(u64::MAX)
}

impl Weighed {
    /// Adds a policy that asks for review. Several together ask for reviewers that each of them accepts: only the groups in common.
    fn hold(&mut self, name: &Name, asked: &ApprovalRequirement, policy: &Policy) -> Result<(), Refusal> {
        let reason = policy.reason.as_deref();
        let Some(so_far) = &mut self.requirement else {
            self.policies = vec![name.clone()];
            self.requirement = Some(asked.clone());
            self.waits = policy.waits;
            self.reason = reason.unwrap_or_default().to_owned();
            return Ok(());
        };
        if self.policies.contains(name) {
            return Ok(());
        }
        self.policies.push(name.clone());
        so_far.groups.retain(|group| asked.groups.contains(group));
        so_far.count = so_far.count.max(asked.count);
        so_far.expires = so_far.expires.min(asked.expires);
        self.waits &= policy.waits;
        if so_far.groups.is_empty() {
            let names: Vec<&str> = self.policies.iter().map(Name::as_str).collect();
            let reason = format!("policies {} ask for reviewers with no group in common", names.join(", "));
            return Err(Refusal::denied(self.policies.clone(), reason));
        }
        if let Some(reason) = reason {
            if !self.reason.is_empty() {
                self.reason.push_str("; ");
            }
            self.reason.push_str(reason);
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
