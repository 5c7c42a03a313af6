//! What goes between a session and its gateway.

use std::sync::Arc;

use bytes::Bytes;
use postern_core::Code;
use postern_core::action::Action;
use postern_core::id::{OperationId, SessionId};
use postern_core::operation::{Operation, Parameter};
use postern_core::recording::{ColumnInfo, Completed, Value};

use super::names::{Prepared, Source};
use crate::postgres::analyze::{Statement, Unclassifiable};
use crate::postgres::codec::CodecError;
use crate::postgres::codec::frontend::ResultFormats;
use crate::postgres::errors::{ErrorFields, client_message};
use crate::postgres::mask::MaskError;

/// What the client's bytes come to.
#[derive(Debug)]
pub enum ClientStep {
    /// Read more from the client.
    NeedMore,
    /// Call again when [`super::Session::next_server`] has taken something, or when the operation that is out was permitted or refused; do
    /// not read from the client meanwhile.
    Wait,
    /// No operation in it: to the server. May be empty.
    Forward(Bytes),
    /// An operation. Nothing of it is forwarded until it is permitted.
    Decide(Box<Pending>),
    /// A statement to be prepared: decided as an operation would be. Permit it also when the verdict is to hold, since preparing executes
    /// nothing; refuse it when it is denied.
    Prepare(Box<Pending>),
    /// The client ends the session: to the server, then close.
    Terminate(Bytes),
}

/// An operation that waits for its decision.
pub struct Pending {
    pub(super) text: Bytes,
    pub(super) parameters: Vec<Parameter>,
    pub(super) classified: Result<Arc<Statement>, Unclassifiable>,
    pub(super) message: Message,
    /// Of the session's names, when it was classified.
    pub(super) generation: u64,
}

/// The message that it came in.
pub(super) enum Message {
    Query {
        raw: Bytes,
    },
    Parse {
        raw: Bytes,
        name: Bytes,
        prepared: Option<Prepared>,
    },
    Bind {
        raw: Bytes,
        name: Bytes,
        source: Source,
        formats: ResultFormats,
    },
    /// Of a portal that the session knows nothing of.
    Execute {
        raw: Bytes,
        name: Bytes,
    },
    FunctionCall {
        raw: Bytes,
    },
}

/// What a refusal sends. At least one is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// To the client.
    pub to_client: Bytes,
    /// To the server.
    pub to_server: Bytes,
}

/// What the server's bytes come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerProgress {
    /// Read more from the server.
    NeedMore,
    /// Enough waits for the client, or for the recorder: take it away and call again before reading more.
    Full,
}

/// What happened to operations, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum ResultEvent {
    /// The columns of a result, before its rows.
    Columns {
        /// The operation that they answer.
        operation: OperationId,
        /// In order.
        columns: Vec<ColumnInfo>,
    },
    /// A row, as the client sees it. Only as many as the limits say.
    Row {
        /// The operation that it answers.
        operation: OperationId,
        /// In order of the columns; of COPY TO STDOUT, one value: the row as written.
        values: Vec<Value>,
    },
    /// It is over.
    Completed(Box<Completed>),
}

/// The session cannot go on. Tell the client [`ProtocolError::fields`] and close both sides.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// The client's bytes are not of the protocol.
    #[error("client: {0}")]
    Client(CodecError),
    /// The client's message has no place here.
    #[error("client: unexpected message '{}' during COPY", .0.escape_ascii())]
    DuringCopy(u8),
    /// The server's bytes are not of the protocol.
    #[error("target: {0}")]
    Server(CodecError),
    /// The server's message answers nothing that was asked.
    #[error("target: message '{}' answers nothing that was asked", .0.escape_ascii())]
    Unexpected(u8),
    /// The server left the settings under which statements are classified.
    #[error("target: {0} was changed; statements can no longer be read as the target reads them")]
    Setting(&'static str),
    /// A row could not be masked, so it is not shown (I4).
    #[error("target: {0}")]
    Mask(#[from] MaskError),
    /// The rules of masking changed under a COPY that they now speak of.
    #[error("masking: {0}")]
    Unmaskable(Unclassifiable),
}

impl ProtocolError {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::Client(CodecError::TooLong { .. }) | Self::Server(CodecError::TooLong { .. }) => Code::TooLarge,
            Self::Client(_) | Self::DuringCopy(_) => Code::ProtocolViolation,
            Self::Unmaskable(_) => Code::Denied,
            Self::Server(_) | Self::Unexpected(_) | Self::Setting(_) | Self::Mask(_) => Code::Internal,
        }
    }

    /// What the client is told.
    #[must_use]
    pub fn fields(&self) -> ErrorFields {
        let code = self.code();
        match self {
            Self::Client(CodecError::TooLong { length, limit, .. }) => ErrorFields::fatal(
                code,
                format!("a message of {length} bytes is longer than the {limit} that are admitted"),
            ),
            Self::Server(CodecError::TooLong { length, limit, .. }) => ErrorFields::fatal(
                code,
                format!("the target sent a message of {length} bytes, longer than the {limit} that are admitted"),
            ),
            Self::Client(_) | Self::DuringCopy(_) => ErrorFields::fatal(code, client_message(code)),
            Self::Server(_) | Self::Unexpected(_) => ErrorFields::fatal(code, "the target broke the protocol"),
            Self::Setting(name) => ErrorFields::fatal(code, format!("{name} was changed: the session cannot go on")),
            Self::Mask(_) => ErrorFields::fatal(code, "a row could not be masked"),
            Self::Unmaskable(_) => ErrorFields::fatal(code, "masking rules changed during COPY"),
        }
    }
}

impl Pending {
    /// The statement, exactly as the client sent it; for Bind, as it was prepared.
    #[must_use]
    pub fn text(&self) -> &Bytes {
        &self.text
    }

    /// Parameter values as sent.
    #[must_use]
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// What it does.
    ///
    /// # Errors
    /// When that is in doubt: refuse it (I3).
    pub fn actions(&self) -> Result<&[Action], &Unclassifiable> {
        self.classified.as_ref().map(|statement| statement.actions.as_slice())
    }

    /// Why it could not be classified, where it passes only because everything is granted: ask again when it is decided.
    #[must_use]
    pub fn unfollowed(&self) -> Option<&Unclassifiable> {
        self.classified.as_ref().ok().and_then(|statement| statement.unfollowed.as_deref())
    }

    /// As policy decides it.
    ///
    /// # Errors
    /// As [`Pending::actions`].
    pub fn operation(&self, id: OperationId, session: SessionId) -> Result<Operation, &Unclassifiable> {
        let actions = self.actions()?.to_vec();
        Ok(Operation::new(id, session, self.text.clone(), self.parameters.clone(), actions))
    }
}

/// Statements and parameters hold data: only their sizes are shown.
impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self.message {
            Message::Query { .. } => "Query",
            Message::Parse { .. } => "Parse",
            Message::Bind { .. } => "Bind",
            Message::Execute { .. } => "Execute",
            Message::FunctionCall { .. } => "FunctionCall",
        };
        write!(f, "Pending({kind}, {} bytes, {} parameters)", self.text.len(), self.parameters.len())
    }
}
