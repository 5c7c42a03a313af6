//! Bytes on their way to the target. The only way in for an operation takes the proof that it was permitted and recorded (I1, I2).

use bytes::{Bytes, BytesMut};
use postern_core::OperationId;

use crate::recorder::Cleared;

/// What waits to be written to the target.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    bytes: BytesMut,
}

impl Outbox {
    /// An operation, with the proof that exactly it was permitted and recorded.
    pub(super) fn operation(
        &mut self,
        cleared: &Cleared,
        operation: OperationId,
        bytes: &Bytes,
    ) -> Result<(), WrongProof> {
        if cleared.operation() != operation {
            return Err(WrongProof);
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// What executes nothing: Sync, Describe, a permitted portal's Execute, rows of a permitted COPY, Parse of a statement that policy does
    /// not deny, and the message that always fails.
    pub(super) fn protocol(&mut self, bytes: &Bytes) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// For the one who writes: to be taken from its beginning only.
    pub(super) fn pending(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }
}

/// The proof is of another operation.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the proof is of another operation")]
pub(super) struct WrongProof;
