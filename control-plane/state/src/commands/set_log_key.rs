use postern_core::resource::FieldFault;
use postern_proto::state::v1 as pb;

use crate::outcome::{Outcome, Success};
use crate::recording_log::LogKey;
use crate::state::Context;

/// Gives the log of recordings the key that signs its heads: once in a life of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetLogKey {
    /// The key.
    pub key: LogKey,
}

impl SetLogKey {
    pub(crate) fn to_proto(&self) -> pb::SetLogKey {
        pb::SetLogKey { key: Some(self.key.to_proto()) }
    }

    pub(crate) fn from_proto(proto: pb::SetLogKey) -> Result<Self, Vec<FieldFault>> {
        let key = proto.key.ok_or_else(|| vec![FieldFault::new("key", "is missing")])?;
        Ok(Self { key: LogKey::from_proto(key).map_err(|why| vec![FieldFault::new("key", why)])? })
    }

    pub(crate) fn apply(self, cx: &mut Context<'_>) -> Outcome {
        cx.state.recording_log.set_key(self.key)?;
        Ok(Success::Done)
    }
}
