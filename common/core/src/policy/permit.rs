//! Leave to run one operation, as a value that nobody else can make (I1).

use crate::approval::{Approval, ApprovalRequirement, ApprovalState};
use crate::id::{ApprovalId, DecisionId, OperationId};
use crate::operation::{Digest, Operation};

use super::decision::DecisionRecord;
use super::obligations::Obliged;

/// Leave to run exactly one operation. Made only by a decision, or by a consumed approval; the recorder takes it before anything is
/// forwarded. It cannot be copied.
#[derive(Debug)]
#[must_use = "an operation runs only with its permit"]
pub struct Permit {
    operation: OperationId,
    digest: Digest,
    decision: DecisionId,
    approval: Option<ApprovalId>,
    obliged: Obliged,
}

/// An operation that waits for reviewers.
#[derive(Debug)]
#[must_use = "a held operation must be released or refused"]
pub struct Held {
    pub(super) operation: OperationId,
    pub(super) digest: Digest,
    /// What was decided.
    pub decision: DecisionRecord,
    /// What is asked for.
    pub requirement: ApprovalRequirement,
    /// Whether it waits while the control plane is away; else it is refused soon.
    pub waits: bool,
    pub(super) obliged: Obliged,
}

/// Proof that the control plane let an approval be taken: from the answer to a consume request alone (`wire`).
#[derive(Debug)]
pub struct ConsumedApproval {
    id: ApprovalId,
    operation: OperationId,
    digest: Digest,
}

/// The approval is not of this operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the approval is of another operation")]
pub struct Mismatch;

impl Permit {
    pub(super) fn by_decision(operation: &Operation, decision: DecisionId, obliged: Obliged) -> Self {
        Self { operation: operation.id, digest: operation.digest, decision, approval: None, obliged }
    }

    /// Which operation may run.
    #[must_use]
    pub const fn operation(&self) -> OperationId {
        self.operation
    }

    /// The exact bytes and parameters that may run.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// The decision behind it.
    #[must_use]
    pub const fn decision(&self) -> DecisionId {
        self.decision
    }

    /// The approval behind it, when it was held.
    #[must_use]
    pub const fn approval(&self) -> Option<ApprovalId> {
        self.approval
    }

    /// How it may run only.
    #[must_use]
    pub const fn obliged(&self) -> &Obliged {
        &self.obliged
    }

    /// Likewise, where nothing else is asked of it any more.
    #[must_use]
    pub fn into_obliged(self) -> Obliged {
        self.obliged
    }
}

impl Held {
    /// The operation that waits.
    #[must_use]
    pub const fn operation(&self) -> OperationId {
        self.operation
    }

    /// What an approval must bind.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// How it may run only.
    #[must_use]
    pub const fn obliged(&self) -> &Obliged {
        &self.obliged
    }

    /// Policy has changed meanwhile, and would let it run like this only: both hold.
    pub fn oblige(&mut self, also: Obliged) {
        self.obliged = std::mem::take(&mut self.obliged).and(also);
    }

    /// Turns a consumed approval into leave to run.
    ///
    /// # Errors
    /// When the approval binds another operation, or other bytes (I7).
    pub fn release(self, consumed: ConsumedApproval) -> Result<Permit, Mismatch> {
        if consumed.operation != self.operation || consumed.digest != self.digest {
            return Err(Mismatch);
        }
        Ok(Permit {
            operation: self.operation,
            digest: self.digest,
            decision: self.decision.id,
            approval: Some(consumed.id),
            obliged: self.obliged,
        })
    }
}

impl ConsumedApproval {
    /// Reads the control plane's answer to a consume request; `None` unless it says that this call consumed it.
    #[must_use]
    pub fn from_answer(approval: &Approval) -> Option<Self> {
        (approval.state == ApprovalState::Consumed).then_some(Self {
            id: approval.id,
            operation: approval.operation,
            digest: approval.digest,
        })
    }
}
