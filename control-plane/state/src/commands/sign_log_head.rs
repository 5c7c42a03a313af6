use postern_core::resource::FieldFault;
use postern_core::transparency::SignedCheckpoint;
use postern_proto::state::v1 as pb;

use crate::entry::parse;
use crate::outcome::{Outcome, Success};
use crate::state::Context;

/// Publishes a signed head of the log of recordings. Only one that is right, and newer than the last, is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignLogHead {
    /// The head and the log's signature.
    pub checkpoint: SignedCheckpoint,
}

impl SignLogHead {
    pub(crate) fn to_proto(&self) -> pb::SignLogHead {
        pb::SignLogHead { checkpoint: self.checkpoint.to_string() }
    }

    pub(crate) fn from_proto(proto: pb::SignLogHead) -> Result<Self, Vec<FieldFault>> {
        Ok(Self { checkpoint: parse("checkpoint", &proto.checkpoint)? })
    }

    pub(crate) fn apply(self, cx: &mut Context<'_>) -> Outcome {
        let now = cx.state.now;
        cx.state.recording_log.publish(self.checkpoint, now)?;
        Ok(Success::Done)
    }
}

#[cfg(test)]
#[path = "sign_log_head_tests.rs"]
mod tests;
