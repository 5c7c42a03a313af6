//! The decision on an operation.

use std::collections::BTreeMap;

use super::decision::{DecisionRecord, Denial, Outcome};
use super::permit::{Held, Permit};
use super::{Effect, Policy};
use crate::action::Action;
use crate::approval::ApprovalRequirement;
use crate::code::Code;
use crate::id::DecisionId;
use crate::name::Name;
use crate::operation::Operation;
use crate::principal::Principal;
use crate::time::Timestamp;

/// The policies that speak of one principal on one target, at one revision.
#[derive(Clone, Debug, Default)]
pub struct PolicySlice {
    revision: u64,
    policies: Vec<(Name, Policy)>,
}

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
    /// Those of `policies` that speak of `principal` on the target.
    #[must_use]
    pub fn new<'a>(
        revision: u64,
        policies: impl IntoIterator<Item = (&'a Name, &'a Policy)>,
        principal: &Principal,
        target: &Name,
        labels: &BTreeMap<String, String>,
    ) -> Self {
        let speaking = policies.into_iter().filter(|(_, policy)| policy.speaks_of(principal, target, labels));
        Self { revision, policies: speaking.map(|(name, policy)| (name.clone(), policy.clone())).collect() }
    }

    /// The revision that it shows.
    #[must_use]
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// Whether anything at all is permitted: without it no session opens.
    #[must_use]
    pub fn permits_anything(&self) -> bool {
        self.policies.iter().any(|(_, policy)| policy.effect == Effect::Permit)
    }

    /// Decides `operation`. A deny outranks a hold, a hold outranks a permit; an action that no policy permits denies the whole.
    #[must_use]
    pub fn decide(&self, operation: &Operation, id: DecisionId, now: Timestamp) -> Verdict {
        let record = |outcome, policies, reason| DecisionRecord {
            id,
            outcome,
            revision: self.revision,
            policies,
            reason,
            at: now,
        };
        match self.weigh(&operation.actions) {
            Ok(weighed) => match weighed.requirement {
                None => {
                    let record = record(Outcome::Permit, weighed.policies, String::new());
                    Verdict::Permit(Permit::by_decision(operation, id), record)
                }
                Some(requirement) => Verdict::Hold(Held {
                    operation: operation.id,
                    digest: operation.digest,
                    decision: record(Outcome::Hold, weighed.policies, weighed.reason),
                    requirement,
                }),
            },
            Err(refusal) => {
                let decision = record(Outcome::Deny, refusal.policies, refusal.reason);
                Verdict::Deny(Denial { code: Code::Denied, decision })
            }
        }
    }

    /// A denial of what could not be classified (I3).
    #[must_use]
    pub fn deny_unclassified(&self, code: Code, reason: String, id: DecisionId, now: Timestamp) -> Denial {
        let decision = DecisionRecord {
            id,
            outcome: Outcome::Deny,
            revision: self.revision,
            policies: Vec::new(),
            reason,
            at: now,
        };
        Denial { code, decision }
    }

    fn weigh(&self, actions: &[Action]) -> Result<Weighed, Refusal> {
        if actions.is_empty() && !self.permits_anything() {
            return Err(Refusal { policies: Vec::new(), reason: "no policy permits anything here".into() });
        }
        let mut weighed = Weighed::default();
        for action in actions {
            let matching = || self.policies.iter().filter(|(_, policy)| policy.matches(action));
            if let Some((name, policy)) = matching().find(|(_, policy)| policy.effect == Effect::Deny) {
                let why = policy.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
                return Err(Refusal {
                    policies: vec![name.clone()],
                    reason: format!("{action} is denied by policy {name}{why}"),
                });
            }
            let mut permitted = false;
            for (name, policy) in matching() {
                permitted = true;
                if let Some(requirement) = &policy.approval {
                    weighed.hold(name, requirement, policy.reason.as_deref())?;
                }
            }
            if !permitted {
                return Err(Refusal { policies: Vec::new(), reason: format!("no policy permits {action}") });
            }
            if weighed.requirement.is_none() {
                for (name, _) in matching() {
                    if !weighed.policies.contains(name) {
                        weighed.policies.push(name.clone());
                    }
                }
            }
        }
        Ok(weighed)
    }
}

#[derive(Default)]
struct Weighed {
    policies: Vec<Name>,
    requirement: Option<ApprovalRequirement>,
    reason: String,
}

struct Refusal {
    policies: Vec<Name>,
    reason: String,
}

impl Weighed {
    /// Adds a policy that asks for review. Several together ask for reviewers that each of them accepts: only the groups in common.
    fn hold(&mut self, name: &Name, asked: &ApprovalRequirement, reason: Option<&str>) -> Result<(), Refusal> {
        let Some(so_far) = &mut self.requirement else {
            self.policies = vec![name.clone()];
            self.requirement = Some(asked.clone());
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
        if so_far.groups.is_empty() {
            let names: Vec<&str> = self.policies.iter().map(Name::as_str).collect();
            let reason = format!("policies {} ask for reviewers with no group in common", names.join(", "));
            return Err(Refusal { policies: self.policies.clone(), reason });
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
