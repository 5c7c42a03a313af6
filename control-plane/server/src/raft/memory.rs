//! What raft-rs reads of the log while it runs: the part that is not yet compacted, in memory. The disk has it too, and first.

use std::collections::VecDeque;

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot, SnapshotMetadata};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};
use raft_prost::Message as _;

use super::log_store::{Loaded, SnapshotRecord};

/// The log's working set.
pub(super) struct LogMemory {
    hard_state: HardState,
    members: ConfState,
    /// The last snapshot: data for followers that need it.
    snapshot: SnapshotRecord,
    /// Those after the snapshot, without gaps.
    entries: VecDeque<Entry>,
}

impl LogMemory {
    /// As loaded; a fresh node begins with `founders` as its members.
    pub(super) fn new(loaded: Loaded, founders: ConfState) -> Self {
        let snapshot = loaded.snapshot.unwrap_or_else(|| SnapshotRecord { members: founders, ..Default::default() });
        let mut hard_state = loaded.hard_state;
        // A snapshot covers only what was committed, even where the commit index was written down later.
        hard_state.commit = hard_state.commit.max(snapshot.index);
        Self { hard_state, members: snapshot.members.clone(), snapshot, entries: loaded.entries.into() }
    }

    pub(super) fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        let kept = first.index.saturating_sub(self.first());
        self.entries.truncate(usize::try_from(kept).unwrap_or(usize::MAX));
        self.entries.extend(entries.iter().cloned());
    }

    pub(super) fn set_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
    }

    pub(super) fn set_members(&mut self, members: ConfState) {
        self.members = members;
    }

    pub(super) const fn hard_state(&self) -> &HardState {
        &self.hard_state
    }

    pub(super) const fn members(&self) -> &ConfState {
        &self.members
    }

    pub(super) const fn snapshot_index(&self) -> u64 {
        self.snapshot.index
    }

    /// Takes `snapshot` as the log's new beginning.
    pub(super) fn compact(&mut self, snapshot: SnapshotRecord) {
        while self.entries.front().is_some_and(|entry| entry.index <= snapshot.index) {
            self.entries.pop_front();
        }
        self.snapshot = snapshot;
    }

    /// Begins anew from a leader's snapshot: what was here before counts for nothing.
    pub(super) fn reset_to(&mut self, snapshot: SnapshotRecord) {
        self.entries.clear();
        self.members = snapshot.members.clone();
        self.snapshot = snapshot;
    }

    const fn first(&self) -> u64 {
        self.snapshot.index.saturating_add(1)
    }

    fn at(&self, index: u64) -> Option<&Entry> {
        let place = index.checked_sub(self.first())?;
        self.entries.get(usize::try_from(place).ok()?)
    }
}

impl Storage for LogMemory {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState { hard_state: self.hard_state.clone(), conf_state: self.members.clone() })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low < self.first() {
            return Err(StorageError::Compacted.into());
        }
        let most = max_size.into().unwrap_or(u64::MAX);
        let (mut found, mut size) = (Vec::new(), 0_u64);
        for index in low..high {
            let entry = self.at(index).ok_or(StorageError::Unavailable)?;
            size = size.saturating_add(u64::try_from(entry.encoded_len()).unwrap_or(u64::MAX));
            // At least one, whatever its size.
            if size > most && !found.is_empty() {
                break;
            }
            found.push(entry.clone());
        }
        Ok(found)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.snapshot.index {
            return Ok(self.snapshot.term);
        }
        if index < self.snapshot.index {
            return Err(StorageError::Compacted.into());
        }
        Ok(self.at(index).ok_or(StorageError::Unavailable)?.term)
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.first())
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.entries.back().map_or(self.snapshot.index, |entry| entry.index))
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        if self.snapshot.index == 0 || self.snapshot.index < request_index {
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        }
        let metadata = SnapshotMetadata {
            conf_state: Some(self.snapshot.members.clone()),
            index: self.snapshot.index,
            term: self.snapshot.term,
        };
        Ok(Snapshot { data: self.snapshot.data.clone(), metadata: Some(metadata) })
    }
}
