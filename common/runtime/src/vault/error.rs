//! What a Vault answers when it does not do what it is asked.

use std::time::Duration;

use hyper::StatusCode;
use serde::Deserialize;

use crate::http::HttpError;

/// A call to Vault failed. Holds no secret: neither a token, nor what was sent, nor what came back but its error texts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// The configuration is not usable.
    #[error("Vault: {0}")]
    Config(String),
    /// The node has no means to log in.
    #[error("Vault login: {0}")]
    Login(String),
    /// No connection, or it broke.
    #[error("Vault cannot be reached: {0}")]
    Unreachable(String),
    /// No answer in time.
    #[error("Vault did not answer within {0:?}")]
    Timeout(Duration),
    /// It is sealed (503), or not yet initialised.
    #[error("Vault is sealed or not ready: {0}")]
    Sealed(String),
    /// A standby that does not forward.
    #[error(
        "Vault at this address is a standby that forwards nothing: give the address of the active node, or of a balancer"
    )]
    Standby,
    /// A quota of Vault's.
    #[error("Vault asks to call less often")]
    RateLimited,
    /// The token is wrong or over, or its policy does not have the path.
    #[error("Vault refused {path}: {detail} (the token is wrong or expired, or its policy lacks this path)")]
    Denied {
        /// What was called.
        path: String,
        /// Vault's words.
        detail: String,
    },
    /// There is nothing there, or it was deleted.
    #[error("Vault has no {path}{detail}")]
    NotFound {
        /// What was called.
        path: String,
        /// What is known of it.
        detail: &'static str,
    },
    /// Any other answer.
    #[error("Vault answered {status} to {path}: {detail}")]
    Status {
        /// The HTTP status.
        status: u16,
        /// What was called.
        path: String,
        /// Vault's words.
        detail: String,
    },
    /// The answer has another form than it must have.
    #[error("Vault's answer to {path}: {what}")]
    Form {
        /// What was called.
        path: String,
        /// What is wrong.
        what: &'static str,
    },
}

impl VaultError {
    /// Whether the same call may succeed later without anybody's doing at this node.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Timeout(_) | Self::Sealed(_) | Self::Standby | Self::RateLimited => true,
            Self::Status { status, .. } => *status >= 500 || *status == 412,
            Self::Config(_) | Self::Login(_) | Self::Denied { .. } | Self::NotFound { .. } | Self::Form { .. } => false,
        }
    }
}

impl From<HttpError> for VaultError {
    fn from(error: HttpError) -> Self {
        match error {
            HttpError::Timeout(limit) => Self::Timeout(limit),
            HttpError::Transport(why) => Self::Unreachable(why),
            other => Self::Config(other.to_string()),
        }
    }
}

#[derive(Default, Deserialize)]
struct Errors {
    #[serde(default)]
    errors: Vec<String>,
}

/// Longest text of Vault's that goes into an error.
const MAX_DETAIL: usize = 300;

/// The error of an answer that is no success.
pub(super) fn of(status: StatusCode, path: &str, body: &[u8]) -> VaultError {
    let errors: Errors = serde_json::from_slice(body).unwrap_or_default();
    let words = errors.errors.join("; ");
    let clean = words.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_DETAIL).collect::<String>();
    let detail = clean.split_whitespace().collect::<Vec<_>>().join(" ");
    let path = path.to_owned();
    match status {
        StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => VaultError::Denied { path, detail },
        // Of a deleted version the answer has its metadata, and no errors.
        StatusCode::NOT_FOUND if errors.errors.is_empty() && deleted(body) => {
            VaultError::NotFound { path, detail: ": that version was deleted" }
        }
        StatusCode::NOT_FOUND => VaultError::NotFound { path, detail: "" },
        StatusCode::SERVICE_UNAVAILABLE => VaultError::Sealed(detail),
        StatusCode::TOO_MANY_REQUESTS => VaultError::RateLimited,
        StatusCode::TEMPORARY_REDIRECT => VaultError::Standby,
        _ => VaultError::Status { status: status.as_u16(), path, detail },
    }
}

fn deleted(body: &[u8]) -> bool {
    let answer: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    answer.pointer("/data/metadata").is_some_and(serde_json::Value::is_object)
}
