//! How messages and snapshots reach the other members.

use bytes::Bytes;
use raft::eraftpb::Message;

use super::log_store::StorageError;

/// Carries messages to peers. May lose, repeat and reorder them: Raft allows for it. Never blocks.
///
/// A `MsgSnapshot` comes through here too, with `snapshot.data` EMPTY: whoever carries it takes the data from the node's
/// [`SnapshotSource`] by the index and term of its metadata, and gives the receiver a message with the data in it
/// (`RaftHandle::step`, which empties it before Raft sees it). What became of it is told by `RaftHandle::report_snapshot`; until then
/// the leader sends that peer no entries.
pub trait Transport: Send + 'static {
    /// Sends what can be sent.
    fn send(&mut self, messages: Vec<Message>);
}

/// The snapshots that this node has, for those who carry them to peers. Only the newest is kept: at most one copy in memory for each
/// transfer, none when there is no transfer (for a log on a disk).
pub trait SnapshotSource: Send + Sync + 'static {
    /// The data of exactly that snapshot; `None` once a newer one has taken its place. Reads from the disk: call it where blocking is
    /// allowed.
    ///
    /// # Errors
    /// When the disk fails or the data is not as it was written.
    fn open(&self, index: u64, term: u64) -> Result<Option<Bytes>, StorageError>;
}

/// For a cluster of one node.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoPeers;

impl Transport for NoPeers {
    fn send(&mut self, messages: Vec<Message>) {
        debug_assert!(messages.is_empty(), "a single node has nobody to talk to");
    }
}
