//! The log on a disk: what has to be kept, and in what order.

use std::sync::Arc;

use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, HardState};

use super::transport::SnapshotSource;

pub use super::disk_log::DiskLog;

/// What a node has on its disk when it starts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loaded {
    /// Term, vote and commit index.
    pub hard_state: HardState,
    /// The last snapshot; a founder's first one is its genesis.
    pub snapshot: Option<SnapshotRecord>,
    /// The log, without gaps. It may begin before the end of the snapshot: kept for followers that lag.
    pub entries: Vec<Entry>,
}

/// A snapshot of the state machine, and where in the log it stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SnapshotRecord {
    /// The last entry that it covers.
    pub index: u64,
    /// That entry's term.
    pub term: u64,
    /// The members at that entry.
    pub members: ConfState,
    /// The state, as the state machine wrote it.
    pub data: Bytes,
}

/// Which of the entries that were there before go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cut {
    /// None, but for those in whose place new ones come.
    #[default]
    Nothing,
    /// Those up to this one: a snapshot covers them.
    UpTo(u64),
    /// All: the log begins anew with a leader's snapshot.
    All,
}

/// What has to be durable together. In this order: `cut`, then the rest.
#[derive(Clone, Copy, Debug, Default)]
pub struct Write<'a> {
    /// Appended; those from the first one's index on that were there before are gone.
    pub entries: &'a [Entry],
    /// Replaces the former one.
    pub hard_state: Option<&'a HardState>,
    /// Replaces the former one.
    pub snapshot: Option<&'a SnapshotRecord>,
    /// What goes.
    pub cut: Cut,
}

/// The disk failed, or holds what this node did not write. The node stops; it never serves from such a log.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// Reading or writing failed.
    #[error("the log's disk failed: {0}")]
    Io(String),
    /// A record is not as it was written.
    #[error(
        "the log is damaged: {what}. Restore this node from its peers or from a backup; it does not start from damaged data"
    )]
    Corrupt {
        /// Which record, and what is wrong with it.
        what: String,
    },
    /// A record was written by a newer version.
    #[error("the log has a record of version {version}, this node knows up to {known}: upgrade it")]
    Version {
        /// The record's version.
        version: u8,
        /// The newest that this node reads.
        known: u8,
    },
}

/// Makes a snapshot durable, where blocking is allowed and while the log goes on. It counts only once [`LogStore::save`] has been given it.
pub type SnapshotWriter = Box<dyn FnOnce(&SnapshotRecord) -> Result<(), StorageError> + Send>;

/// Keeps a node's log. Narrow, so that simulation can put a memory in its place that loses what was not flushed.
pub trait LogStore: Send + 'static {
    /// All of it, checked.
    ///
    /// # Errors
    /// When the disk fails or any record is not as it was written.
    fn load(&mut self) -> Result<Loaded, StorageError>;

    /// Durable when it returns.
    ///
    /// # Errors
    /// When the disk fails: nothing of `write` may then be acknowledged, and the node stops.
    fn save(&mut self, write: Write<'_>) -> Result<(), StorageError>;

    /// Writes a snapshot ahead of `save`, away from the driver's thread. The default leaves all to `save`.
    fn snapshot_writer(&self) -> SnapshotWriter {
        Box::new(|_| Ok(()))
    }

    /// The snapshots that were saved.
    fn snapshots(&self) -> Arc<dyn SnapshotSource>;
}

/// The log has no gap, joins its snapshot, and reaches as far as it was committed.
///
/// # Errors
/// With what is missing.
pub fn check_whole(loaded: &Loaded) -> Result<(), StorageError> {
    let fault = |what: String| Err(StorageError::Corrupt { what });
    let (covered, term) = loaded.snapshot.as_ref().map_or((0, 0), |snapshot| (snapshot.index, snapshot.term));
    let mut expected = loaded.entries.first().map_or(covered, |first| first.index.saturating_sub(1));
    if expected > covered {
        return fault(format!("entries {} to {expected} are missing", covered.saturating_add(1)));
    }
    for entry in &loaded.entries {
        expected = expected.saturating_add(1);
        if entry.index != expected {
            return fault(format!("entry {expected} is missing"));
        }
        if entry.index == covered && entry.term != term {
            return fault(format!("entry {covered} is of term {}, the snapshot at it of term {term}", entry.term));
        }
    }
    let last = expected.max(covered);
    if last > 0 && loaded.hard_state == HardState::default() {
        return fault("the hard state is missing".to_owned());
    }
    if loaded.hard_state.commit > last {
        return fault(format!("{} entries are committed, the last one here is {last}", loaded.hard_state.commit));
    }
    Ok(())
}
