//! What a deliberate fault needs.

use raft::eraftpb::{Entry, HardState};

use super::log_store::{Cut, SnapshotRecord, Write};

/// A write that is saved too late.
pub(super) struct OwnedWrite {
    entries: Vec<Entry>,
    hard_state: Option<HardState>,
    snapshot: Option<SnapshotRecord>,
    cut: Cut,
}

impl OwnedWrite {
    pub(super) fn of(write: Write<'_>) -> Self {
        Self {
            entries: write.entries.to_vec(),
            hard_state: write.hard_state.cloned(),
            snapshot: write.snapshot.cloned(),
            cut: write.cut,
        }
    }

    pub(super) fn borrow(&self) -> Write<'_> {
        Write {
            entries: &self.entries,
            hard_state: self.hard_state.as_ref(),
            snapshot: self.snapshot.as_ref(),
            cut: self.cut,
        }
    }
}
