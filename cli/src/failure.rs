//! How a command fails, in words for people, and with which exit code.

use std::process::ExitCode;

/// A command that did not do what it was asked. Its text never holds a token or secret.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Refused or failed: exit code 1.
    #[error("{0}")]
    Failed(String),
    /// Asked for in a way that cannot be: exit code 2.
    #[error("{0}")]
    Usage(String),
    /// Several things, one a line: exit code 1.
    #[error("{}", .0.join("\n"))]
    Many(Vec<String>),
    /// Done, and it came to nothing: the exit code says how.
    #[error("{0}")]
    Coded(String, u8),
    /// The command has said all itself: exit code 1.
    #[error("")]
    Told,
    /// Whoever read our output has gone.
    #[error("")]
    PipeClosed,
}

impl Failure {
    pub(crate) fn failed(text: impl Into<String>) -> Self {
        Self::Failed(text.into())
    }

    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self::Usage(text.into())
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Failed(_) | Self::Many(_) | Self::Told => ExitCode::from(1),
            Self::Usage(_) => ExitCode::from(2),
            Self::Coded(_, code) => ExitCode::from(*code),
            // As a shell shows a program ended by SIGPIPE.
            Self::PipeClosed => ExitCode::from(141),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe { Self::PipeClosed } else { Self::Failed(error.to_string()) }
    }
}
