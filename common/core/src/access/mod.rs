//! Just-in-time access: a policy that permits on request, the requests for it, and the grants that come of them.
//!
//! A policy with [`OnRequest`] permits nothing by itself. Who is among its principals may ask for it, on one target and for a while; once the reviewers
//! that it names have agreed, or a rule of its own agreed for them, a [`Grant`] has it permit that principal there, until the grant ends (I7).

mod grants;
mod review;
mod rule;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::approval::Review;
use crate::id::AccessId;
use crate::name::Name;
use crate::principal::{Principal, PrincipalId};
use crate::time::{Timestamp, Ttl};

pub use grants::Grants;
pub use review::{Reviewers, agreed, may_review};
pub use rule::{AutoApprove, Hours, day};
pub(crate) use rule::{DAY, EVERY_DAY};

/// What a policy that permits on request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnRequest {
    /// All of these have to agree, each by people of its own; none: only a rule can.
    pub review: Vec<Reviewers>,
    /// The longest that a grant may last.
    pub max_duration: Ttl,
    /// How long a request may stay unanswered.
    pub expires: Ttl,
    /// The fewest characters of a reason.
    pub min_reason: u32,
    /// What agrees without anybody being asked, the first that does.
    pub auto_approve: Vec<AutoApprove>,
}

/// A request for access, its reviews, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessRequest {
    /// Its id; also that of the grant.
    pub id: AccessId,
    /// Where it stands.
    pub state: AccessState,
    /// Who asked.
    pub requester: Principal,
    /// Where.
    pub target: Name,
    /// The policy that is to permit.
    pub policy: Name,
    /// Why, in their words.
    pub reason: String,
    /// For how long, from when it is approved.
    pub duration: Ttl,
    /// Who has to agree: as the policy said when it was asked for.
    pub review: Vec<Reviewers>,
    /// What has been said so far: at most one by each reviewer.
    pub reviews: Vec<Review>,
    /// When it was asked, by the control plane's logical clock.
    pub requested_at: Timestamp,
    /// When it lapses, unanswered.
    pub expires_at: Timestamp,
    /// When it was approved.
    pub granted_at: Option<Timestamp>,
    /// When the grant ends, or has ended.
    pub ends_at: Option<Timestamp>,
    /// The rule that approved it in place of people.
    pub automatic: Option<String>,
    /// Who ended or withdrew it, and why.
    pub ended: Option<Ended>,
    /// The Raft index of its last change.
    pub revision: u64,
}

/// Why a request or a grant is over before its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Who, for people.
    pub by: String,
    /// Why, in their words.
    pub because: String,
}

/// Where a request stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AccessState {
    /// Waits for reviewers.
    Pending,
    /// Granted, until its end.
    Active,
    /// A reviewer said no.
    Denied,
    /// Nobody answered in time.
    Expired,
    /// Taken back before it was answered.
    Withdrawn,
    /// Granted, and ended before its time.
    Ended,
    /// Granted, and its time is over.
    Over,
}

/// That a policy permits somebody something on a target for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The request's.
    pub id: AccessId,
    /// Whom.
    pub principal: PrincipalId,
    /// The tokens that it was asked for with, from the root's, where they were narrowed or handed on: it holds for these, and for what is made from
    /// the last of them. Empty: for all of the principal's.
    pub chain: Vec<Arc<str>>,
    /// Where.
    pub target: Name,
    /// Which policy.
    pub policy: Name,
    /// Until then.
    pub ends_at: Timestamp,
    /// Why it was asked for, in the requester's words; empty where who told of it did not know.
    pub reason: Arc<str>,
}

impl AccessState {
    /// The stable text form.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Denied => "denied",
            Self::Expired => "expired",
            Self::Withdrawn => "withdrawn",
            Self::Ended => "ended",
            Self::Over => "over",
        }
    }

    /// No further change is possible.
    #[must_use]
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Pending | Self::Active)
    }
}

impl AccessRequest {
    /// What it grants; none, while or once it grants nothing.
    #[must_use]
    pub fn grant(&self) -> Option<Grant> {
        let ends_at = self.ends_at.filter(|_| self.state == AccessState::Active)?;
        Some(Grant {
            id: self.id,
            principal: self.requester.id.clone(),
            chain: self.requester.chain.iter().map(|link| Arc::clone(&link.token)).collect(),
            target: self.target.clone(),
            policy: self.policy.clone(),
            ends_at,
            reason: self.reason.as_str().into(),
        })
    }

    /// When time changes it next, if nobody does before.
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        match self.state {
            AccessState::Pending => Some(self.expires_at),
            AccessState::Active => self.ends_at,
            _ => None,
        }
    }

    /// Whether `principal` is who asked: by the same tokens, where those were narrowed or handed on.
    #[must_use]
    pub fn is_of(&self, principal: &Principal) -> bool {
        self.requester.id == principal.id && same_line(principal, self.requester.chain.iter().map(|link| &link.token))
    }

    /// About how many bytes it takes to keep: all of its text that comes from outside.
    #[must_use]
    pub fn weight(&self) -> usize {
        let of = |principal: &Principal| {
            let groups = principal.groups.iter().map(|group| group.len());
            let chain = principal.chain.iter().map(crate::principal::Link::weight);
            groups.chain(chain).fold(principal.id.subject.len(), usize::saturating_add)
        };
        let reviews = self.reviews.iter().map(|review| of(&review.reviewer).saturating_add(review.comment.len()));
        let groups = self.review.iter().flat_map(|asked| asked.groups.iter().map(String::len));
        let ended = self.ended.as_ref().map_or(0, |ended| ended.by.len().saturating_add(ended.because.len()));
        reviews.chain(groups).chain([of(&self.requester), self.reason.len(), ended, 256]).fold(0, usize::saturating_add)
    }
}

impl Grant {
    /// Whether it holds for `principal`. What is made from a token has no more than the token has (I6): so it holds for the tokens that it was asked for
    /// with, those that they were made from, and those that are made from them; not for others that were made from the same.
    #[must_use]
    pub fn holds_for(&self, principal: &Principal) -> bool {
        self.principal == principal.id && same_line(principal, &self.chain)
    }
}

/// Whether the principal's tokens begin like `chain`, or `chain` begins like them.
fn same_line<'a>(principal: &Principal, chain: impl IntoIterator<Item = &'a Arc<str>>) -> bool {
    principal.chain.iter().zip(chain).all(|(link, token)| link.token == *token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::principal::Link;
    use crate::scope::Scope;

    fn who(subject: &str, tokens: &[&str]) -> Principal {
        let link = |token: &&str| Link { token: (*token).into(), actor: None, scope: Scope::default() };
        Principal {
            id: PrincipalId { issuer: "corp".parse().unwrap(), subject: subject.into() },
            groups: Default::default(),
            token_id: None,
            expires_at: None,
            chain: tokens.iter().map(link).collect(),
            claims: Default::default(),
        }
    }

    fn grant(tokens: &[&str]) -> Grant {
        Grant {
            id: AccessId::new(Timestamp::from_millis(1), 1),
            principal: who("deploy", &[]).id,
            chain: tokens.iter().map(|token| (*token).into()).collect(),
            target: "shop".parse().unwrap(),
            policy: "p".parse().unwrap(),
            ends_at: Timestamp::from_millis(9),
            reason: "".into(),
        }
    }

    #[test]
    fn a_grant_holds_along_the_line_of_tokens_and_not_beside_it() {
        let narrow = grant(&["root", "planner"]);
        for tokens in [&[][..], &["root"], &["root", "planner"], &["root", "planner", "tool"]] {
            assert!(narrow.holds_for(&who("deploy", tokens)), "{tokens:?}");
        }
        for tokens in [&["other"][..], &["root", "sibling"], &["root", "sibling", "planner"], &["planner"]] {
            assert!(!narrow.holds_for(&who("deploy", tokens)), "{tokens:?}");
        }
        assert!(!narrow.holds_for(&who("eve", &["root", "planner"])));
        assert!(grant(&[]).holds_for(&who("deploy", &["any"])));
    }

    proptest::proptest! {
        /// I6: whatever a token was asked for with, a child never has what its parent has not.
        #[test]
        fn a_child_has_no_grant_that_its_parent_has_not(
            asked in proptest::collection::vec("[ab]", 0..4), shown in proptest::collection::vec("[ab]", 1..5),
        ) {
            let asked: Vec<&str> = asked.iter().map(String::as_str).collect();
            let shown: Vec<&str> = shown.iter().map(String::as_str).collect();
            let child = grant(&asked).holds_for(&who("deploy", &shown));
            let parent = grant(&asked).holds_for(&who("deploy", &shown[..shown.len() - 1]));
            proptest::prop_assert!(!child || parent);
        }
    }
}
