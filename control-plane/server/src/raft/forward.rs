//! How a node that does not lead passes a write on.

use futures::future::BoxFuture;
use postern_core::RequestId;
use postern_core::audit::AuditRecord;
use postern_state::{Command, Outcome};

use super::status::ProposeError;

/// Passes a write to the leader.
pub trait Forward: Send + Sync + 'static {
    /// Proposes on `leader`; it does not pass on again.
    fn propose(&self, leader: u64, request: ForwardedProposal) -> BoxFuture<'static, Result<Outcome, ForwardError>>;
}

/// A write on its way to the leader.
#[derive(Clone, Debug)]
pub struct ForwardedProposal {
    /// What to do.
    pub command: Command,
    /// For de-duplication: the way may break after the leader has it.
    pub request_id: RequestId,
    /// Of the call behind it.
    pub audit: Option<AuditRecord>,
}

/// Why a passed write has no outcome.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ForwardError {
    /// Nothing was sent.
    #[error("the leader cannot be reached")]
    Unreachable,
    /// It may or may not come to pass.
    #[error("the outcome is unknown")]
    Unknown,
    /// The leader says why nothing was proposed.
    #[error(transparent)]
    Refused(ProposeError),
}

/// For a cluster of one node.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoForward;

impl Forward for NoForward {
    fn propose(&self, _: u64, _: ForwardedProposal) -> BoxFuture<'static, Result<Outcome, ForwardError>> {
        Box::pin(std::future::ready(Err(ForwardError::Unreachable)))
    }
}
