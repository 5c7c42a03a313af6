//! What applying an entry gives.

use postern_core::access::AccessState;
use postern_core::approval::ApprovalState;
use postern_core::resource::{FieldFault, Kind};
use postern_core::{AccessId, ApprovalId, Name, Principal, ReviewId, SessionId};
use serde::{Deserialize, Serialize};

/// What applying one entry gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// For whoever proposed it.
    pub outcome: Outcome,
    /// For the node: what to do about it. In order, without repetition.
    pub effects: Vec<Effect>,
}

/// The same on every node, and for every retry with the same request id.
pub type Outcome = Result<Success, Refusal>;

/// Done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Success {
    /// Nothing more to tell.
    Done,
    /// What became of each object, in the request's order.
    Put(Vec<Put>),
    /// The object is gone.
    Deleted {
        /// The index of the change.
        revision: u64,
    },
    /// The approval as it is now stands in the state.
    Approval(ApprovalId),
    /// The review after the fact as it is now stands in the state.
    Review(ReviewId),
    /// The session as it is now stands in the state.
    Session(SessionId),
    /// A join token let somebody in.
    Redeemed {
        /// For a member of the control plane: its id.
        node_id: Option<u64>,
    },
    /// Who logged in.
    Login(Box<Principal>),
    /// The request for access as it is now stands in the state.
    Access {
        /// Which.
        id: AccessId,
        /// The rule that approved it.
        automatic: Option<String>,
    },
    /// How many certificates were revoked now.
    Revoked(u32),
    /// The key that signs session tokens, or will.
    SigningKey(String),
    /// What became of data keys.
    Rewrapped {
        /// They are under the new key-encryption key.
        changed: u32,
        /// They were not as expected any more, and stay as they are.
        skipped: u32,
    },
}

/// What became of one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Put {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: Name,
    /// What was done.
    pub change: Change,
    /// The object's revision now.
    pub revision: u64,
}

/// What was done to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// It is new.
    Created,
    /// It is another than before.
    Changed,
    /// It was so already; its revision stays.
    Unchanged,
}

/// Why nothing was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// There is no such thing.
    #[error("no such {what}")]
    NotFound {
        /// What there is none of.
        what: String,
    },
    /// Another change came first.
    #[error("{what} is at revision {actual}, not {expected}")]
    Stale {
        /// What.
        what: String,
        /// The revision that the writer had seen.
        expected: u64,
        /// The revision that it is at; 0 when it does not exist.
        actual: u64,
    },
    /// It must not exist, and does.
    #[error("{what} already exists")]
    AlreadyExists {
        /// What.
        what: String,
    },
    /// Something still refers to it.
    #[error("{what} is used by {by}")]
    InUse {
        /// What.
        what: String,
        /// By what.
        by: String,
    },
    /// The approval no longer waits, or is not granted.
    #[error("the approval is {}", .0.as_str())]
    ApprovalState(ApprovalState),
    /// The request for access no longer waits, or is over.
    #[error("the request is {}", .0.as_str())]
    AccessState(AccessState),
    /// The state that the command needs is not there.
    #[error("{0}")]
    InvalidState(String),
    /// Requesters do not review for themselves, nor for whom they act (I7).
    #[error("a requester does not review their own request")]
    SelfReview,
    /// Not a member of the reviewers' groups.
    #[error("not a member of the groups that review this")]
    NotAReviewer,
    /// Each reviewer answers once.
    #[error("this reviewer has answered already")]
    AlreadyReviewed,
    /// The approval is of another session or operation (I7).
    #[error("the approval binds another operation")]
    Mismatch,
    /// The command's fields are not as they must be.
    #[error("invalid: {}", list(.0))]
    Invalid(Vec<FieldFault>),
    /// A bound of the state is reached (I11).
    #[error("limit reached: {0}")]
    Limit(String),
    /// The join token lets nobody in, or not this one.
    #[error("the join token {0}")]
    Token(String),
    /// It may be presented once, and was.
    #[error("it was presented before")]
    Spent,
    /// The cluster is not at the feature level that the command needs.
    #[error("needs feature level {needed}, the cluster is at {level}: upgrade every member first")]
    FeatureLevel {
        /// What the command needs.
        needed: u32,
        /// Where the cluster is.
        level: u32,
    },
}

/// What an entry has changed. Where it is gone, the state no longer holds it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ObjectKey {
    /// A declared object.
    Resource(Kind, Name),
    /// The keys of an issuer.
    IssuerKeys(Name),
    /// An approval.
    Approval(ApprovalId),
    /// A session.
    Session(SessionId),
    /// A request for access.
    Access(AccessId),
    /// A member of the control plane.
    Node(u64),
    /// A join token, by its id.
    JoinToken(String),
    /// A node's certificate, by its serial.
    Certificate(String),
    /// A gateway.
    Gateway(Name),
    /// The cluster's own record: its keys, its feature level.
    Cluster,
    /// The audit log has more records.
    Audit,
    /// More tokens are revoked.
    Revocations,
}

/// What the node does after commit; on the leader at least once, idempotent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// An object is new, another than before, or gone.
    Changed(ObjectKey),
    /// Gateways need a newer snapshot.
    PolicyChanged,
    /// Issuers were declared, changed or removed: fetch their keys.
    IssuersChanged,
    /// Whoever waits for an approval, or for access, looks again.
    ApprovalsChanged,
}

/// The node must not go on: it cannot read what its peers can.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Halt {
    /// Not an entry at all.
    #[error("entry {index} cannot be decoded: {why}")]
    Undecodable {
        /// Its place in the log.
        index: u64,
        /// What is wrong.
        why: String,
    },
    /// Written by a newer version.
    #[error("entry {index} has version {version}, this node knows up to {known}")]
    UnknownVersion {
        /// Its place in the log.
        index: u64,
        /// Its version.
        version: u32,
        /// What this node knows.
        known: u32,
    },
    /// A command that this version does not know.
    #[error("entry {index} holds no command that this node knows")]
    UnknownCommand {
        /// Its place in the log.
        index: u64,
    },
    /// The cluster has come to a feature level that this version does not know.
    #[error("entry {index} raises the feature level to {level}, this node knows up to {known}: upgrade it")]
    FeatureLevel {
        /// Its place in the log.
        index: u64,
        /// The cluster's level.
        level: u32,
        /// What this node knows.
        known: u32,
    },
    /// Entries come in order, each once.
    #[error("entry {index} comes after entry {applied} was applied")]
    OutOfOrder {
        /// Its place in the log.
        index: u64,
        /// The last one applied.
        applied: u64,
    },
}

impl Refusal {
    /// The name of the gRPC status code that callers see (google.rpc.Code).
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "NOT_FOUND",
            Self::Stale { .. } => "ABORTED",
            Self::AlreadyExists { .. } => "ALREADY_EXISTS",
            Self::SelfReview | Self::NotAReviewer | Self::Token(_) => "PERMISSION_DENIED",
            Self::Spent => "UNAUTHENTICATED",
            Self::Invalid(_) => "INVALID_ARGUMENT",
            Self::Limit(_) => "RESOURCE_EXHAUSTED",
            Self::InUse { .. }
            | Self::ApprovalState(_)
            | Self::AccessState(_)
            | Self::InvalidState(_)
            | Self::AlreadyReviewed
            | Self::FeatureLevel { .. }
            | Self::Mismatch => "FAILED_PRECONDITION",
        }
    }

    pub(crate) fn not_found(what: impl Into<String>) -> Self {
        Self::NotFound { what: what.into() }
    }

    pub(crate) fn invalid(path: &str, message: impl Into<String>) -> Self {
        Self::Invalid(vec![FieldFault::new(path, message)])
    }
}

impl Effect {
    pub(crate) fn add_to(self, effects: &mut Vec<Self>) {
        if !effects.contains(&self) {
            effects.push(self);
        }
    }
}

fn list(faults: &[FieldFault]) -> String {
    let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
    faults.join("; ")
}
