//! A node's disk: what is durable, and what is written and not yet flushed, apart. A crash loses the unflushed end.

use std::collections::BTreeMap;

use fastrand::Rng;
use postern_server::raft::log_store::{Cut, Loaded, SnapshotRecord, StorageError, Write, check_whole};
use raft::eraftpb::{Entry, HardState};

use super::Time;

/// What lies on a disk.
#[derive(Clone, Debug, Default)]
pub struct Image {
    hard_state: HardState,
    snapshot: Option<SnapshotRecord>,
    entries: BTreeMap<u64, Entry>,
}

/// A [`Write`] that is under way.
struct Pending {
    /// When its flush is over.
    done_at: Time,
    entries: Vec<Entry>,
    hard_state: Option<HardState>,
    snapshot: Option<SnapshotRecord>,
    cut: Cut,
}

/// See the module.
#[derive(Default)]
pub struct Disk {
    durable: Image,
    unflushed: Vec<Pending>,
    /// As the node itself sees it: with what is not yet flushed.
    view: Image,
    /// Nothing more can be written.
    pub full: bool,
    /// A record is not as it was written: which. The real log finds it by its checksum.
    pub damaged: Option<String>,
}

impl Image {
    /// As the real log does it.
    fn write(&mut self, pending: Pending) {
        match pending.cut {
            Cut::Nothing => {}
            Cut::UpTo(last) => self.entries = self.entries.split_off(&last.saturating_add(1)),
            Cut::All => self.entries.clear(),
        }
        if pending.snapshot.is_some() {
            self.snapshot = pending.snapshot;
        }
        if let Some(first) = pending.entries.first() {
            drop(self.entries.split_off(&first.index));
        }
        self.entries.extend(pending.entries.into_iter().map(|entry| (entry.index, entry)));
        if let Some(hard_state) = pending.hard_state {
            self.hard_state = hard_state;
        }
    }

    /// The entry at `index`, while it is there.
    #[must_use]
    pub fn entry(&self, index: u64) -> Option<&Entry> {
        self.entries.get(&index)
    }

    /// The term of the entry at `index`, as far as it is known here.
    #[must_use]
    pub fn term(&self, index: u64) -> Option<u64> {
        let snapshot = self.snapshot.as_ref().filter(|snapshot| snapshot.index == index);
        self.entry(index).map(|entry| entry.term).or_else(|| snapshot.map(|snapshot| snapshot.term))
    }

    /// The data of the snapshot at `index` of `term`, while it is the newest.
    #[must_use]
    pub fn snapshot(&self, index: u64, term: u64) -> Option<bytes::Bytes> {
        let snapshot = self.snapshot.as_ref().filter(|snapshot| (snapshot.index, snapshot.term) == (index, term));
        snapshot.map(|snapshot| snapshot.data.clone())
    }

    /// What a node finds when it starts; refused as the real log refuses it.
    ///
    /// # Errors
    /// When something is missing.
    pub fn load(&self) -> Result<Loaded, StorageError> {
        let loaded = Loaded {
            hard_state: self.hard_state.clone(),
            snapshot: self.snapshot.clone(),
            entries: self.entries.values().cloned().collect(),
        };
        check_whole(&loaded)?;
        Ok(loaded)
    }
}

impl Disk {
    /// As the node sees it.
    #[must_use]
    pub const fn view(&self) -> &Image {
        &self.view
    }

    /// Takes `write`, whose flush is over at `done_at`.
    ///
    /// # Errors
    /// When the disk is full: nothing of it is written.
    pub fn save(&mut self, write: Write<'_>, done_at: Time) -> Result<(), StorageError> {
        if self.full {
            return Err(StorageError::Io("no space left on device".to_owned()));
        }
        let pending = || Pending {
            done_at,
            entries: write.entries.to_vec(),
            hard_state: write.hard_state.cloned(),
            snapshot: write.snapshot.cloned(),
            cut: write.cut,
        };
        self.view.write(pending());
        self.unflushed.push(pending());
        Ok(())
    }

    /// What a node finds when it starts.
    ///
    /// # Errors
    /// When something is missing, or not as it was written.
    pub fn load(&self) -> Result<Loaded, StorageError> {
        match &self.damaged {
            Some(what) => Err(StorageError::Corrupt { what: what.clone() }),
            None => self.view.load(),
        }
    }

    /// A bit of a record flips.
    pub fn damage(&mut self, rng: &mut Rng) {
        let at = rng.usize(0..=self.view.entries.len());
        let what =
            self.view.entries.keys().nth(at).map_or_else(|| "hard state".to_owned(), |index| format!("entry {index}"));
        self.damaged = Some(what);
    }

    /// What was flushed by `now` is durable.
    pub fn flush(&mut self, now: Time) {
        let rest = self.unflushed.iter().position(|pending| pending.done_at > now).unwrap_or(self.unflushed.len());
        for pending in self.unflushed.drain(..rest) {
            self.durable.write(pending);
        }
    }

    /// The power fails at `now`: of what was not flushed, some of the first writes may have made it.
    pub fn crash(&mut self, now: Time, rng: &mut Rng) {
        self.flush(now);
        let lucky = rng.usize(0..=self.unflushed.len());
        for pending in self.unflushed.drain(..lucky) {
            self.durable.write(pending);
        }
        self.unflushed.clear();
        self.view = self.durable.clone();
    }

    /// The process dies at any moment, the machine lives: what was written stays.
    pub fn kill(&mut self) {
        self.flush(Time::MAX);
    }

    /// A new, empty one in its place.
    pub fn replace(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::rng::stream;

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, ..Default::default() }
    }

    fn save(disk: &mut Disk, entries: &[Entry], commit: u64, done_at: Time) {
        let hard_state = HardState { term: 1, vote: 1, commit };
        disk.save(Write { entries, hard_state: Some(&hard_state), ..Write::default() }, done_at).unwrap();
    }

    fn last(disk: &Disk) -> u64 {
        disk.view().load().unwrap().entries.last().map_or(0, |entry| entry.index)
    }

    #[test]
    fn a_crash_keeps_what_was_flushed_and_loses_an_end_of_the_rest() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..50 {
            let mut disk = Disk::default();
            for index in 1..=4 {
                save(&mut disk, &[entry(index, 1)], 0, index * 10);
            }
            assert_eq!(last(&disk), 4);
            disk.crash(20, &mut stream(seed, "disk"));
            seen.insert(last(&disk));
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [2, 3, 4]);
    }

    #[test]
    fn writes_as_the_real_log_does() {
        let mut disk = Disk::default();
        save(&mut disk, &(1..=5).map(|index| entry(index, 1)).collect::<Vec<_>>(), 3, 1);
        save(&mut disk, &[entry(4, 2)], 3, 2);
        assert_eq!(last(&disk), 4);
        assert_eq!(disk.view().term(4), Some(2));
        let snapshot = SnapshotRecord { index: 3, term: 1, ..Default::default() };
        disk.save(Write { snapshot: Some(&snapshot), cut: Cut::UpTo(2), ..Write::default() }, 3).unwrap();
        assert_eq!(disk.view().load().unwrap().entries.len(), 2);
        let snapshot = SnapshotRecord { index: 9, term: 2, ..Default::default() };
        disk.save(Write { snapshot: Some(&snapshot), cut: Cut::All, ..Write::default() }, 4).unwrap();
        assert_eq!((disk.view().load().unwrap().entries.len(), disk.view().term(9)), (0, Some(2)));
        disk.full = true;
        assert!(disk.save(Write::default(), 5).is_err());
    }

    #[test]
    fn what_is_missing_is_refused() {
        let mut disk = Disk::default();
        save(&mut disk, &[entry(1, 1)], 2, 1);
        assert!(disk.view().load().unwrap_err().to_string().contains("are committed"));
        let mut disk = Disk::default();
        save(&mut disk, &[entry(1, 1), entry(3, 1)], 0, 1);
        assert!(disk.view().load().unwrap_err().to_string().contains("entry 2 is missing"));
    }
}
