//! Policy: what principals may do on targets, and the decision on each operation.
//!
//! A deny outranks a hold, a hold outranks a permit, and what no policy permits is denied. A session takes a [`PolicySlice`] of the
//! policies that speak of its principal and target, and decides each operation by it.

mod afterwards;
mod authentication;
pub mod cedar;
mod circumstances;
mod decide;
mod decision;
mod durability;
mod everything;
mod explain;
mod freshness;
mod granted;
mod obligations;
mod pattern;
mod permit;
mod spoken;
#[cfg(test)]
mod testing;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use afterwards::{Covered, OpenedReview, OpenedReviews, ReviewAfterwards, ReviewAsked, Uncovered};
pub(crate) use afterwards::{DEFAULT_REVIEW_WITHIN, MAX_REVIEW_WITHIN};
pub use authentication::Authentication;
pub use circumstances::Circumstances;
pub use decide::{PolicySlice, Verdict};
pub use decision::{DecisionRecord, Denial, Outcome};
pub use durability::Durability;
pub(crate) use freshness::MAX_STALENESS;
pub use freshness::{Freshness, MIN_STALENESS, OnStale, Staleness};
pub use granted::Granted;
pub(crate) use obligations::MAX_STATEMENT_TIMEOUT;
pub use obligations::{By, Obligations, Obliged};
pub use pattern::{InvalidPattern, Pattern};
pub use permit::{ConsumedApproval, Held, Mismatch, Permit};

use crate::access::OnRequest;
use crate::action::{Action, Verb};
use crate::allowance::Allowance;
use crate::approval::ApprovalRequirement;
use crate::name::Name;
use crate::principal::{Principal, PrincipalId};
use crate::target::TargetSelector;

/// Permits or denies actions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Permit or deny.
    pub effect: Effect,
    /// Of whom.
    pub principals: PrincipalSelector,
    /// Where.
    pub targets: TargetSelector,
    /// What is done.
    pub actions: Vec<ActionPattern>,
    /// To what; empty: to anything.
    pub resources: Vec<Pattern>,
    /// Facts that the statement must have.
    pub when: Conditions,
    /// With [`Effect::Permit`]: only after review.
    pub approval: Option<ApprovalRequirement>,
    /// With an approval: whether what is held waits while the control plane is away, for as long as the request may; else it is refused soon.
    pub waits: bool,
    /// With [`Effect::Permit`]: how old it may be.
    pub staleness: Staleness,
    /// With [`Effect::Permit`]: what each identity of which it speaks may use up on each target of which it speaks, at a gateway.
    pub limits: Allowance,
    /// With [`Effect::Permit`]: it permits those only who were granted access on request.
    pub on_request: Option<Box<OnRequest>>,
    /// With [`Effect::Permit`]: what binds everything that it applies to, whatever else permits it.
    pub obligations: Obligations,
    /// Shown to the client when this policy denies or holds.
    pub reason: Option<String>,
    /// In Cedar: says whom, where, what and when, in the place of `principals`, `targets`, `actions`, `resources` and `when`, which are empty then.
    pub cedar: Option<Arc<cedar::Rule>>,
}

/// What a policy does to what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Permits, or holds when it asks for approval.
    Permit,
    /// Denies, whatever permits.
    Deny,
}

/// Which principals a rule speaks of: any of the groups, of the subjects or of the tokens. Empty: nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrincipalSelector {
    /// Group names; `*` stands for every verified principal.
    pub groups: Vec<String>,
    /// Single identities.
    pub subjects: Vec<PrincipalId>,
    /// Whoever presented one of these tokens, or one that was made from it, by their `jti`.
    pub tokens: Vec<String>,
}

/// Which verbs a rule speaks of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ActionPattern {
    /// `*`
    Any,
    /// `sql:*`: every verb of a family.
    Family(String),
    /// `sql:select`
    Exactly(Verb),
}

/// Facts that a statement must have for a policy to apply to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// Whether a WHERE clause bounds an UPDATE or DELETE. A statement to which it does not apply never matches.
    pub bounded: Option<bool>,
    /// With [`Effect::Permit`]: how its principal must have logged in for it to permit. Its approval and its limits hold in any case: else
    /// who has proven less could do more.
    pub authentication: Option<Authentication>,
}

impl PrincipalSelector {
    /// Whether `principal` is meant.
    #[must_use]
    pub fn matches(&self, principal: &Principal) -> bool {
        principal.in_any(&self.groups)
            || self.subjects.contains(&principal.id)
            // What is made from a token shares its fate.
            || (!self.tokens.is_empty() && principal.tokens().any(|token| self.tokens.iter().any(|known| **known == **token)))
    }
}

impl ActionPattern {
    /// From `*`, `sql:*` or a verb.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::Any);
        }
        match text.strip_suffix(":*") {
            Some(family) => {
                let prefix = format!("{family}:");
                let known = Verb::ALL.iter().any(|verb| verb.as_str().starts_with(&prefix));
                known.then_some(Self::Family(prefix))
            }
            None => text.parse().ok().map(Self::Exactly),
        }
    }

    /// Whether `verb` is meant.
    #[must_use]
    pub fn matches(&self, verb: Verb) -> bool {
        match self {
            Self::Any => true,
            Self::Family(prefix) => verb.as_str().starts_with(prefix),
            Self::Exactly(exactly) => *exactly == verb,
        }
    }
}

/// As [`ActionPattern::parse`] reads it.
impl std::fmt::Display for ActionPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Family(prefix) => write!(f, "{prefix}*"),
            Self::Exactly(verb) => write!(f, "{verb}"),
        }
    }
}

impl Policy {
    /// One that speaks of nobody and nothing, and asks for nothing.
    #[must_use]
    pub fn new(effect: Effect) -> Self {
        Self {
            effect,
            principals: PrincipalSelector::default(),
            targets: TargetSelector::default(),
            actions: Vec::new(),
            resources: Vec::new(),
            when: Conditions::default(),
            approval: None,
            waits: false,
            staleness: Staleness::default(),
            limits: Allowance::default(),
            on_request: None,
            obligations: Obligations::default(),
            reason: None,
            cedar: None,
        }
    }

    /// Whether the policy speaks of `principal` on the target at all. One in Cedar may have conditions beyond that.
    #[must_use]
    pub fn speaks_of(&self, principal: &Principal, target: &Name, labels: &BTreeMap<String, String>) -> bool {
        if let Some(rule) = &self.cedar {
            return rule.may_speak_of(principal, target);
        }
        self.principals.matches(principal) && self.targets.matches(target, labels)
    }

    /// Says nothing that members and gateways of feature level 4 do not know.
    #[must_use]
    pub fn is_of_level_4(&self) -> bool {
        self.obligations.is_empty() && self.cedar.as_ref().is_none_or(|rule| rule.is_of_level_4())
    }

    /// Says nothing that members and gateways of feature level 5 do not know.
    #[must_use]
    pub const fn is_of_level_5(&self) -> bool {
        self.obligations.durability.is_none()
    }

    /// Whether it permits, and without it nothing is done that is not done with it.
    #[must_use]
    pub fn only_permits(&self) -> bool {
        self.effect == Effect::Permit
            && self.approval.is_none()
            && self.limits == Allowance::default()
            && self.obligations.is_empty()
    }

    /// Whether it denies everything of which it speaks.
    #[must_use]
    pub fn denies_all(&self) -> bool {
        if let Some(rule) = &self.cedar {
            return rule.denies_all();
        }
        self.effect == Effect::Deny
            && self.actions.contains(&ActionPattern::Any)
            && self.resources.is_empty()
            && self.when == Conditions::default()
    }

    /// Whether it speaks of `action`. One in Cedar is asked by the slice that it is in.
    #[must_use]
    pub(super) fn matches(&self, action: &Action) -> bool {
        self.actions.iter().any(|pattern| pattern.matches(action.verb))
            && (self.resources.is_empty() || self.resources.iter().any(|pattern| pattern.matches(&action.object)))
            && (self.when.bounded.is_none() || self.when.bounded == action.bounded)
    }
}
