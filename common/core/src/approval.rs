//! Held operations and their reviews (I7).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::background::Background;
use crate::id::{ApprovalId, OperationId, SessionId};
use crate::name::Name;
use crate::operation::Digest;
use crate::principal::Principal;
use crate::time::{Timestamp, Ttl};

/// How long a request may stay unanswered when nothing is said, in seconds.
pub(crate) const DEFAULT_APPROVAL_EXPIRY: u32 = 900;
/// And at most.
pub(crate) const MAX_APPROVAL_EXPIRY: u32 = 86_400;

/// What a policy asks for before an operation may run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalRequirement {
    /// Members of any of these may review.
    pub groups: Vec<String>,
    /// Distinct reviewers needed; at least 1.
    pub count: u32,
    /// How long a request may stay unanswered.
    pub expires: Ttl,
}

/// A held operation's request for review, and its reviews.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approval {
    /// Its id, made by the gateway that holds the operation.
    pub id: ApprovalId,
    /// Where it stands.
    pub state: ApprovalState,
    /// Who asked for the operation.
    pub requester: Principal,
    /// Where it would run.
    pub target: Name,
    /// The session that waits.
    pub session: SessionId,
    /// The operation.
    pub operation: OperationId,
    /// Binds the exact operation.
    pub digest: Digest,
    /// The statement as sent.
    pub text: String,
    /// Its parameters, as text.
    pub parameters: Vec<String>,
    /// Its actions, as text.
    pub actions: Vec<String>,
    /// The policies that hold it.
    pub policies: Vec<String>,
    /// What those policies say of it.
    pub reason: String,
    /// What is needed.
    pub requirement: ApprovalRequirement,
    /// What has been said so far: at most one by each reviewer.
    pub reviews: Vec<Review>,
    /// When it was asked, by the control plane's logical clock.
    pub requested_at: Timestamp,
    /// When it lapses.
    pub expires_at: Timestamp,
    /// The Raft index of its last change.
    pub revision: u64,
    /// Why it was withdrawn.
    pub withdrawn_because: String,
    /// What else reviewers are told; none of a gateway that tells nothing more.
    pub background: Option<Arc<Background>>,
}

/// Where an approval stands. Only `Pending` changes by review; only `Approved` can be consumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ApprovalState {
    /// Waits for reviewers.
    Pending,
    /// Granted, and not yet taken.
    Approved,
    /// A reviewer said no.
    Denied,
    /// Granted and taken for execution.
    Consumed,
    /// Nobody answered in time, or the grant was not taken in time.
    Expired,
    /// The client went away or cancelled.
    Withdrawn,
}

/// What a reviewer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReviewVerdict {
    /// It may run.
    Approve,
    /// It may not: one such answer ends the request.
    Deny,
}

/// One reviewer's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Review {
    /// Who.
    pub reviewer: Principal,
    /// What.
    pub verdict: ReviewVerdict,
    /// Why, in their words.
    pub comment: String,
    /// When, by the control plane's logical clock.
    pub at: Timestamp,
}

impl ApprovalState {
    /// The stable text form.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Denied => "denied",
            Self::Consumed => "consumed",
            Self::Expired => "expired",
            Self::Withdrawn => "withdrawn",
        }
    }

    /// No further change is possible.
    #[must_use]
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Pending | Self::Approved)
    }
}
