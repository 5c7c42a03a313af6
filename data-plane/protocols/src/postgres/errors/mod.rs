//! Postern's codes in PostgreSQL's terms, and the messages that carry them.

use bytes::{Bytes, BytesMut};
use postern_core::Code;
use postern_core::policy::Denial;

use super::codec::backend::{self, Fields};
use super::codec::write;

/// Severity of a message (section "Error and Notice Message Fields", S and V).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The operation failed.
    Error,
    /// The session ends.
    Fatal,
    /// For information.
    Notice,
}

/// What a client is told, in PostgreSQL's form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorFields {
    /// How grave.
    pub severity: Severity,
    /// Five characters (appendix "PostgreSQL Error Codes").
    pub sqlstate: &'static str,
    /// For people, one line.
    pub message: String,
    /// More of it.
    pub detail: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
}

/// The one map of Postern's codes to SQLSTATE. Chosen for what drivers do with them: 57P03 and class 53 are worth a
/// retry, class 28 asks for other credentials, 42501 leaves the session alive.
#[must_use]
pub const fn sqlstate(code: Code) -> &'static str {
    match code {
        // insufficient_privilege
        Code::Denied | Code::Unclassifiable | Code::ApprovalDenied | Code::ApprovalExpired => "42501",
        // syntax_error: drivers tell a typing error from a denial.
        Code::SyntaxError => "42601",
        // query_canceled
        Code::Cancelled => "57014",
        // protocol_violation
        Code::ProtocolViolation => "08P01",
        // program_limit_exceeded
        Code::TooLarge => "54000",
        // feature_not_supported
        Code::Unsupported => "0A000",
        // invalid_authorization_specification
        Code::TlsRequired => "28000",
        // invalid_password
        Code::TokenMissing
        | Code::TokenInvalid
        | Code::TokenExpired
        | Code::TokenNotYetValid
        | Code::Revoked
        | Code::TokenSpent => "28P01",
        // invalid_catalog_name
        Code::UnknownTarget => "3D000",
        // cannot_connect_now: libpq then tries the next of its hosts.
        Code::Draining
        | Code::TargetUnavailable
        | Code::AgentUnavailable
        | Code::CredentialUnavailable
        | Code::PolicyUnavailable
        | Code::ControlPlaneUnavailable => "57P03",
        // sqlserver_rejected_establishment_of_sqlconnection
        Code::TargetRefused => "08004",
        // io_error
        Code::RecordingUnavailable => "58030",
        // too_many_connections
        Code::Overloaded => "53300",
        // configuration_limit_exceeded
        Code::RateLimited => "53400",
        // admin_shutdown
        Code::ShuttingDown | Code::Killed => "57P01",
        // internal_error; also for codes that are newer than this map
        _ => "XX000",
    }
}

/// What a client is told where nothing more exact is known. Says nothing that a stranger may not know.
#[must_use]
pub const fn client_message(code: Code) -> &'static str {
    match code {
        Code::Denied => "denied by policy",
        Code::Unclassifiable => "denied: what the statement does is in doubt",
        Code::SyntaxError => "syntax error",
        Code::ApprovalDenied => "denied by a reviewer",
        Code::ApprovalExpired => "denied: nobody reviewed it in time",
        Code::Cancelled => "canceled by the client",
        Code::ProtocolViolation => "the message is not of the protocol",
        Code::TooLarge => "the message is larger than Postern admits",
        Code::Unsupported => "not supported by Postern",
        Code::TlsRequired => "TLS is required here",
        Code::TokenMissing => "a token is required: send it as the password",
        Code::TokenInvalid => "the token is not accepted",
        Code::TokenExpired => "the token has expired",
        Code::Revoked => "the token was revoked",
        Code::Killed => "the session was ended by an operator, or by its own principal",
        Code::TokenSpent => "the token was used as often as it may be",
        Code::TokenNotYetValid => "the token is not valid yet",
        Code::UnknownTarget => "no such target, or no access to it",
        Code::TargetUnavailable => "the target cannot be reached now",
        Code::TargetRefused => "the target refused the gateway",
        Code::AgentUnavailable => "no agent for the target is connected now",
        Code::CredentialUnavailable => "the gateway has no credential for the target now",
        Code::RecordingUnavailable => "the session cannot be recorded, so it cannot go on",
        Code::PolicyUnavailable => "the gateway has no current policy",
        Code::ControlPlaneUnavailable => "the control plane cannot be reached now",
        Code::Overloaded => "too many sessions: try again later",
        Code::RateLimited => "too many operations in a second: try again later",
        Code::Draining => "the gateway is shutting down and takes no new sessions: connect again",
        Code::ShuttingDown => "the gateway is shutting down",
        _ => "internal error of the gateway",
    }
}

impl Severity {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
            Self::Notice => "NOTICE",
        }
    }
}

impl ErrorFields {
    /// An error that leaves the session alive.
    pub fn error(code: Code, message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, sqlstate: sqlstate(code), message: message.into(), detail: None, hint: None }
    }

    /// The generic error of `code`.
    #[must_use]
    pub fn of(code: Code) -> Self {
        Self::error(code, client_message(code))
    }

    /// An error with which the session ends.
    pub fn fatal(code: Code, message: impl Into<String>) -> Self {
        Self { severity: Severity::Fatal, ..Self::error(code, message) }
    }

    /// A notice; it has no part in the protocol's state and may be sent between any two messages.
    pub fn notice(message: impl Into<String>) -> Self {
        // successful_completion
        Self { severity: Severity::Notice, sqlstate: "00000", message: message.into(), detail: None, hint: None }
    }

    /// A denial: its reason and its decision's id.
    #[must_use]
    pub fn denial(denial: &Denial) -> Self {
        Self::error(denial.code, denial.client_message())
    }

    /// With more of it.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// With what to do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The message's fields.
    #[must_use]
    pub fn fields(&self) -> Fields {
        let severity = self.severity.as_str();
        let mut fields = vec![
            (b'S', severity.as_bytes().to_vec()),
            (b'V', severity.as_bytes().to_vec()),
            (b'C', self.sqlstate.as_bytes().to_vec()),
            (b'M', self.message.as_bytes().to_vec()),
        ];
        fields.extend(self.detail.as_ref().map(|detail| (b'D', detail.as_bytes().to_vec())));
        fields.extend(self.hint.as_ref().map(|hint| (b'H', hint.as_bytes().to_vec())));
        fields
    }

    /// Appends an ErrorResponse, or a NoticeResponse, to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        let tag = match self.severity {
            Severity::Error | Severity::Fatal => backend::ERROR,
            Severity::Notice => backend::NOTICE,
        };
        write::message(out, tag, &self.fields());
    }

    /// As a message of its own.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::new();
        self.encode(&mut out);
        out.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_laid_out_as_documented() {
        let bytes = ErrorFields::error(Code::Denied, "no").with_hint("ask").to_bytes();
        assert_eq!(&bytes[..], b"E\0\0\0\x23SERROR\0VERROR\0C42501\0Mno\0Hask\0\0".as_slice());
        // A zero in a text must not end the message early.
        let bytes = ErrorFields::notice("a\0Mb").to_bytes();
        assert!(bytes.ends_with(b"Ma\0\0"), "{bytes:?}");
    }
}
