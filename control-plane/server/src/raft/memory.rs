//! What raft-rs reads of the log while it runs: the part that is not yet compacted, in memory. The disk has it too, and first.

use std::cell::Cell;
use std::collections::VecDeque;

use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot, SnapshotMetadata};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};
use raft_prost::Message as _;

use super::log_store::{Loaded, SnapshotRecord};

/// The log's working set.
pub(super) struct LogMemory {
    hard_state: HardState,
    members: ConfState,
    /// The last snapshot, without its data: that is on the disk.
    snapshot: SnapshotRecord,
    /// The last entry that is not here any more, and its term. Not after the snapshot.
    before: (u64, u64),
    /// Those after `before`, without gaps.
    entries: VecDeque<Entry>,
    /// Of the entries.
    bytes: u64,
    /// A member needs a snapshot, and there is none that it could take: in the one there is it is not yet a member.
    wanted: Cell<bool>,
}

impl LogMemory {
    /// As loaded; a node that has no snapshot begins with `founders` as its members.
    pub(super) fn new(loaded: Loaded, founders: ConfState) -> Self {
        let snapshot = loaded.snapshot.unwrap_or_else(|| SnapshotRecord { members: founders, ..Default::default() });
        let snapshot = SnapshotRecord { data: Bytes::new(), ..snapshot };
        let mut hard_state = loaded.hard_state;
        // A snapshot covers only what was committed, even where the commit index was written down later.
        hard_state.commit = hard_state.commit.max(snapshot.index);
        let mut entries: VecDeque<Entry> = loaded.entries.into();
        let mut before = (snapshot.index, snapshot.term);
        match (entries.front(), entries.back()) {
            (Some(_), Some(last)) if last.index < snapshot.index => entries.clear(),
            // The first one that was kept behind the snapshot serves as what is before all others.
            (Some(first), _) if first.index <= snapshot.index => {
                before = (first.index, first.term);
                entries.pop_front();
            }
            _ => {}
        }
        let bytes = entries.iter().map(size).sum();
        let members = snapshot.members.clone();
        Self { hard_state, members, snapshot, before, entries, bytes, wanted: Cell::new(false) }
    }

    pub(super) fn append(&mut self, entries: Vec<Entry>) {
        let Some(first) = entries.first() else { return };
        let kept = usize::try_from(first.index.saturating_sub(self.first())).unwrap_or(usize::MAX);
        while self.entries.len() > kept {
            self.bytes = self.bytes.saturating_sub(self.entries.pop_back().as_ref().map_or(0, size));
        }
        self.bytes = self.bytes.saturating_add(entries.iter().map(size).sum());
        self.entries.extend(entries);
    }

    pub(super) fn set_members(&mut self, members: ConfState) {
        self.members = members;
    }

    pub(super) const fn members(&self) -> &ConfState {
        &self.members
    }

    pub(super) const fn snapshot_index(&self) -> u64 {
        self.snapshot.index
    }

    /// Whether a member waits for a newer snapshot.
    pub(super) const fn snapshot_wanted(&self) -> bool {
        self.wanted.get()
    }

    /// Up to where the log may go once there is a snapshot at `index`, with at most `keep` entries and `keep_bytes` left behind it.
    pub(super) fn cut_for(&self, index: u64, keep: u64, keep_bytes: u64) -> u64 {
        if self.snapshot.index == 0 {
            // What members the log began with is known to nobody who gets it from its first entry on.
            return index;
        }
        let (mut cut, mut bytes) = (index, 0_u64);
        while cut > self.before.0 && index.saturating_sub(cut) < keep {
            bytes = bytes.saturating_add(self.at(cut).map_or(0, size));
            if bytes > keep_bytes {
                break;
            }
            cut = cut.saturating_sub(1);
        }
        cut
    }

    /// Takes `snapshot`, and forgets the entries up to `cut`.
    pub(super) fn compact(&mut self, snapshot: SnapshotRecord, cut: u64) {
        let term = if cut == snapshot.index { Some(snapshot.term) } else { self.at(cut).map(|entry| entry.term) };
        if let Some(term) = term.filter(|_| cut >= self.before.0) {
            while self.entries.front().is_some_and(|entry| entry.index <= cut) {
                self.bytes = self.bytes.saturating_sub(self.entries.pop_front().as_ref().map_or(0, size));
            }
            self.before = (cut, term);
        }
        self.snapshot = SnapshotRecord { data: Bytes::new(), ..snapshot };
        self.wanted.set(false);
    }

    /// Begins anew from a leader's snapshot: what was here before counts for nothing.
    pub(super) fn reset_to(&mut self, snapshot: SnapshotRecord) {
        self.entries.clear();
        self.bytes = 0;
        self.before = (snapshot.index, snapshot.term);
        self.members = snapshot.members.clone();
        self.snapshot = SnapshotRecord { data: Bytes::new(), ..snapshot };
        self.wanted.set(false);
    }

    const fn first(&self) -> u64 {
        self.before.0.saturating_add(1)
    }

    fn at(&self, index: u64) -> Option<&Entry> {
        let place = index.checked_sub(self.first())?;
        self.entries.get(usize::try_from(place).ok()?)
    }
}

/// What an entry weighs.
pub(super) fn size(entry: &Entry) -> u64 {
    u64::try_from(entry.encoded_len()).unwrap_or(u64::MAX)
}

fn is_member(members: &ConfState, id: u64) -> bool {
    let lists = [&members.voters, &members.learners, &members.voters_outgoing, &members.learners_next];
    lists.into_iter().any(|list| list.contains(&id))
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
        let (mut found, mut total) = (Vec::new(), 0_u64);
        for index in low..high {
            let entry = self.at(index).ok_or(StorageError::Unavailable)?;
            total = total.saturating_add(size(entry));
            // At least one, whatever its size.
            if total > most && !found.is_empty() {
                break;
            }
            found.push(entry.clone());
        }
        Ok(found)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.before.0 {
            return Ok(self.before.1);
        }
        if index < self.before.0 {
            return Err(StorageError::Compacted.into());
        }
        Ok(self.at(index).ok_or(StorageError::Unavailable)?.term)
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.first())
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.entries.back().map_or(self.before.0, |entry| entry.index))
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        // A node takes a snapshot only if it is a member in it.
        let fits =
            self.snapshot.index > 0 && self.snapshot.index >= request_index && is_member(&self.snapshot.members, to);
        if !fits {
            self.wanted.set(true);
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        }
        let metadata = SnapshotMetadata {
            conf_state: Some(self.snapshot.members.clone()),
            index: self.snapshot.index,
            term: self.snapshot.term,
        };
        // Its data stays on the disk until it is carried (see `transport`).
        Ok(Snapshot { data: Vec::new(), metadata: Some(metadata) })
    }
}
