//! The keys under which the keys of recordings lie.

use postern_core::Timestamp;
use postern_core::resource::FieldFault;
use postern_core::secret::Sealed;
use postern_core::wire::resource::{sealed_from_proto, sealed_to_proto};
use postern_proto::state::v1 as pb;

use crate::outcome::Refusal;
use crate::state::Cluster;

/// The feature level from which on recordings are encrypted where they lie.
pub const ENCRYPTS_RECORDINGS: u32 = 7;
/// How many there may be: none goes while a recording may lie under it.
const MAX_KEYS: usize = 1_000;

/// Wraps the keys of recordings, each of which has its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordingKey {
    /// From 1, without gaps.
    pub number: u32,
    /// The key, 32 bytes, under the key-encryption key.
    pub sealed: Sealed,
    /// Since when there is one.
    pub since: Timestamp,
}

impl RecordingKey {
    pub(crate) fn to_proto(&self) -> pb::RecordingKey {
        pb::RecordingKey {
            number: self.number,
            sealed: Some(sealed_to_proto(&self.sealed)),
            since_ms: self.since.millis(),
        }
    }

    pub(crate) fn from_proto(proto: pb::RecordingKey) -> Result<Self, Vec<FieldFault>> {
        let sealed = proto.sealed.ok_or_else(|| vec![FieldFault::new("recording_keys.sealed", "is missing")])?;
        Ok(Self {
            number: proto.number,
            sealed: sealed_from_proto(sealed),
            since: Timestamp::from_millis(proto.since_ms),
        })
    }
}

impl Cluster {
    /// Takes the key that comes after the newest.
    pub(crate) fn add_recording_key(&mut self, key: RecordingKey) -> Result<(), Refusal> {
        let newest = self.recording_keys.last().map_or(0, |newest| newest.number);
        if newest.checked_add(1) != Some(key.number) {
            return Err(Refusal::InvalidState(format!("the newest key of recordings is {newest}")));
        }
        if self.recording_keys.len() >= MAX_KEYS {
            return Err(Refusal::Limit(format!("{MAX_KEYS} keys of recordings")));
        }
        self.recording_keys.push(key);
        Ok(())
    }
}
