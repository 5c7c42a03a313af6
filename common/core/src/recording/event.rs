//! What a recording says. Old recordings stay readable for ever: a variant or field is added, never changed or removed.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::action::Action;
use crate::approval::{ApprovalRequirement, ApprovalState, Review};
use crate::code::Code;
use crate::id::{ApprovalId, OperationId, SessionId};
use crate::name::Name;
use crate::operation::Digest;
use crate::policy::{DecisionRecord, Durability};
use crate::principal::Principal;
use crate::target::Protocol;
use crate::time::Timestamp;

/// One entry of a recording: an event at its place and time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Place in the recording, from 0.
    pub seq: u64,
    /// When, by the gateway's clock.
    pub at: Timestamp,
    /// What.
    pub event: Event,
}

/// What happened in a session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", rename_all_fields = "snake_case")]
pub enum Event {
    /// Always the first.
    Started(Box<Started>),
    /// An operation and what was decided of it; written before any byte of it is forwarded (I2).
    Operation(Box<OperationEvent>),
    /// A held operation's approval changed state.
    Approval {
        /// The operation that waits.
        operation: OperationId,
        /// The approval.
        approval: ApprovalId,
        /// Its new state.
        state: ApprovalState,
        /// With `pending`: what is needed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        requirement: Option<ApprovalRequirement>,
        /// What reviewers said so far.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        reviews: Vec<Review>,
    },
    /// The columns of a result, before its rows.
    Columns {
        /// The operation that they answer.
        operation: OperationId,
        /// In order.
        columns: Vec<ColumnInfo>,
    },
    /// Rows of a result, as the client saw them: masked values masked (I4).
    Rows {
        /// The operation that they answer.
        operation: OperationId,
        /// In order.
        rows: Vec<Vec<Value>>,
    },
    /// An operation ended.
    Completed(Box<Completed>),
    /// The client asked to cancel what runs.
    CancelRequested {
        /// From where, as the gateway saw it.
        client_address: String,
    },
    /// The session ended.
    Ended {
        /// Why, as a stable code; none for an orderly end.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<Code>,
        /// For people.
        reason: String,
        /// The gateway died and another start of it wrote this.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        interrupted: bool,
        /// What was forwarded may be missing before this event.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        gap: Option<Gap>,
    },
    /// Always the last: the gateway's signature over all before it.
    Sealed {
        /// How many events are before this one.
        events: u64,
        /// What their chain ends in.
        head: Digest,
        /// Ed25519 (RFC 8032) over [`super::seal_message`], base64.
        signature: String,
        /// The gateway's certificate, DER, base64.
        certificate: String,
    },
}

/// A place at which operations that were forwarded may be missing: their records were written, and not durable, when the disk was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The last event before it; all to there is complete. What is missing came later than this.
    pub after: u64,
    /// Only operations of this class can be missing.
    pub class: Durability,
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "operations of class {} that ran after event {} may be missing", self.class.as_str(), self.after)
    }
}

/// The opening of a session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Started {
    /// The session.
    pub session: SessionId,
    /// Who.
    pub principal: Principal,
    /// Where to.
    pub target: Name,
    /// What is spoken.
    pub protocol: Protocol,
    /// Which database, for a database target.
    pub database: String,
    /// The cluster.
    pub cluster: String,
    /// Through which gateway.
    pub gateway: String,
    /// From where, as the gateway saw it.
    pub client_address: String,
    /// What the client calls itself; not to be trusted.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub application: String,
    /// The policy revision at the opening.
    pub revision: u64,
}

/// An operation and what was decided of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OperationEvent {
    /// The operation.
    pub operation: OperationId,
    /// The statement as sent.
    pub text: Value,
    /// Its parameters as sent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parameters: Vec<Value>,
    /// What it does.
    pub actions: Vec<Action>,
    /// Over session, text and parameters.
    pub digest: Digest,
    /// What was decided.
    pub decision: DecisionRecord,
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Completed {
    /// The operation.
    pub operation: OperationId,
    /// Its outcome.
    #[serde(flatten)]
    pub outcome: OperationOutcome,
    /// Rows that left for the client.
    pub rows: u64,
    /// Bytes of those rows.
    pub bytes: u64,
    /// Rows that the recording leaves out, past its limit.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rows_omitted: u64,
    /// SHA-256 over the messages of the target's protocol, headers included, in which those rows left for the client, one after another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub omitted_digest: Option<Digest>,
    /// Rows that came in by COPY.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rows_in: u64,
}

/// The outcome of an operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum OperationOutcome {
    /// The target did it.
    Done {
        /// The target's own words, one for each statement (`SELECT 3`).
        tags: Vec<String>,
    },
    /// The target refused it.
    Failed {
        /// Its error code (SQLSTATE).
        sqlstate: String,
        /// Its message, masked where a masked table was read.
        message: String,
    },
    /// It never reached the target: denied, expired, withdrawn or cancelled.
    NotRun {
        /// Why.
        code: Code,
    },
    /// The connection to the target was lost: it may or may not have happened.
    Unknown,
}

/// A column of a result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnInfo {
    /// As the target names it.
    pub name: Arc<str>,
    /// The mask that was laid over it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<Arc<str>>,
}

/// A value or text as sent: as text where it is UTF-8, else its bytes in base64. Nothing is lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// NULL: JSON's null.
    Null,
    /// Text: a JSON string.
    Text(String),
    /// Bytes that are no text, or a binary format: an object.
    Binary {
        /// Base64 with padding.
        base64: String,
    },
}

impl Value {
    /// From bytes on the wire; `binary` when they are in the protocol's binary format.
    #[must_use]
    pub fn from_wire(bytes: Option<&[u8]>, binary: bool) -> Self {
        use base64::Engine as _;
        match bytes {
            None => Self::Null,
            Some(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) if !binary => Self::Text(text.to_owned()),
                _ => Self::Binary { base64: base64::engine::general_purpose::STANDARD.encode(bytes) },
            },
        }
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's form
fn is_zero(count: &u64) -> bool {
    *count == 0
}
