//! When the log is cut, and where.

use bytes::Bytes;
use postern_state::State;

use super::super::log_store::{Cut, SnapshotRecord, Write};
use super::Core;

impl Core {
    /// Where a snapshot has to be made now, when enough was applied since the last one, or a member waits for one.
    pub(in crate::raft) fn compaction(&self) -> Option<(SnapshotRecord, State)> {
        // It would know of its removal no more when it is started again.
        if self.removed {
            return None;
        }
        let (applied, covered) = (self.applied(), self.snapshot_index());
        let since = applied.saturating_sub(covered);
        let first = covered == 0 && applied > 0 && !self.members().voters.is_empty();
        let due = since >= self.compact_after
            || self.applied_bytes >= self.compact_bytes
            || self.node.store().snapshot_wanted()
            || first;
        (due && since > 0).then(|| {
            let members = self.members().clone();
            let record = SnapshotRecord { index: applied, term: self.applied_term, members, data: Bytes::new() };
            (record, self.state.clone())
        })
    }

    /// What has to be saved of `snapshot`; `None` when a newer one has come meanwhile. After it is durable, [`Core::compacted`].
    pub(in crate::raft) fn compaction_write<'a>(&self, snapshot: &'a SnapshotRecord) -> Option<Write<'a>> {
        let keep_bytes = self.compact_bytes.wrapping_shr(1);
        let store = self.node.store();
        (snapshot.index > store.snapshot_index()).then(|| Write {
            snapshot: Some(snapshot),
            cut: Cut::UpTo(store.cut_for(snapshot.index, self.keep_entries, keep_bytes)),
            ..Write::default()
        })
    }

    /// Forgets what `snapshot`, now durable, covers.
    pub(in crate::raft) fn compacted(&mut self, snapshot: SnapshotRecord, cut: u64) {
        self.node.mut_store().compact(snapshot, cut);
        self.applied_bytes = 0;
    }
}
