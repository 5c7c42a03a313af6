//! Stable codes of what a client is told. Each protocol maps them once to its own.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a client was refused, or its session ended. The text form is part of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Code {
    /// Policy denies the operation, or permits nothing on the target.
    Denied,
    /// The operation could not be parsed, classified or resolved (I3).
    Unclassifiable,
    /// The statement is not of the target's grammar, so it is in doubt (I3).
    SyntaxError,
    /// A held operation was denied by a reviewer.
    ApprovalDenied,
    /// A held operation was not reviewed in time.
    ApprovalExpired,
    /// The client cancelled the operation.
    Cancelled,
    /// The client's bytes are not of the protocol.
    ProtocolViolation,
    /// A frame, statement or field is larger than Postern admits (I11).
    TooLarge,
    /// Uses a part of the protocol that Postern does not support.
    Unsupported,
    /// The client must use TLS here.
    TlsRequired,
    /// No token, or none that is well formed.
    TokenMissing,
    /// The token's signature, algorithm, issuer, audience or form is not accepted. One code for all: details go to the log.
    TokenInvalid,
    /// The token's time is over.
    TokenExpired,
    /// The token's time has not begun.
    TokenNotYetValid,
    /// The token was revoked.
    Revoked,
    /// Somebody who may ended this very session.
    Killed,
    /// As many sessions were opened by the token as it is good for.
    TokenSpent,
    /// No such target, or none that the principal may know of.
    UnknownTarget,
    /// The target is down, or refuses connections.
    TargetUnavailable,
    /// The target refused its own credential, or the TLS that is demanded of it.
    TargetRefused,
    /// No agent that serves the target has a tunnel.
    AgentUnavailable,
    /// The credential for the target cannot be had: not allowed, not there, or the vault that holds it is away.
    CredentialUnavailable,
    /// The operation cannot be recorded, so it does not happen (I2).
    RecordingUnavailable,
    /// The gateway has no policy, or its policy is too old (I9).
    PolicyUnavailable,
    /// The control plane cannot be reached for what needs it now.
    ControlPlaneUnavailable,
    /// Past a limit; worth a retry later (I12).
    Overloaded,
    /// More operations in a second than a limit has; worth a retry later (I12).
    RateLimited,
    /// The gateway drains, and takes no new sessions: another one does.
    Draining,
    /// The gateway shuts down, and ends the session for it.
    ShuttingDown,
    /// A fault of Postern's own.
    Internal,
}

impl Code {
    /// The stable text form.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Unclassifiable => "unclassifiable",
            Self::SyntaxError => "syntax-error",
            Self::ApprovalDenied => "approval-denied",
            Self::ApprovalExpired => "approval-expired",
            Self::Cancelled => "cancelled",
            Self::ProtocolViolation => "protocol-violation",
            Self::TooLarge => "too-large",
            Self::Unsupported => "unsupported",
            Self::TlsRequired => "tls-required",
            Self::TokenMissing => "token-missing",
            Self::TokenInvalid => "token-invalid",
            Self::TokenExpired => "token-expired",
            Self::TokenNotYetValid => "token-not-yet-valid",
            Self::Revoked => "revoked",
            Self::Killed => "killed",
            Self::TokenSpent => "token-spent",
            Self::UnknownTarget => "unknown-target",
            Self::TargetUnavailable => "target-unavailable",
            Self::TargetRefused => "target-refused",
            Self::AgentUnavailable => "agent-unavailable",
            Self::CredentialUnavailable => "credential-unavailable",
            Self::RecordingUnavailable => "recording-unavailable",
            Self::PolicyUnavailable => "policy-unavailable",
            Self::ControlPlaneUnavailable => "control-plane-unavailable",
            Self::Overloaded => "overloaded",
            Self::RateLimited => "rate-limited",
            Self::Draining => "draining",
            Self::ShuttingDown => "shutting-down",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
