//! Who a node is, how it keeps time, and its bounds.

use std::time::Duration;

/// Who a node is, how it keeps time, and its bounds. Begin with [`NodeConfig::new`] and change what is to be other:
/// `NodeConfig { compact_after: 100, ..NodeConfig::new(1) }`.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Its id in the group; never 0, never used again.
    pub id: u64,
    /// The voters that the group begins with; only for the very first node, whose log is empty. A node that joins has none and begins with
    /// a snapshot from the leader: with an empty log and no founders it never stands for election.
    pub founders: Vec<u64>,
    /// Another at each start: tells this life's ReadIndex requests from those of a former one. 0: the driver draws one.
    pub nonce: u64,
    /// The length of a tick; only the driver has a clock.
    pub tick: Duration,
    /// Ticks between heartbeats.
    pub heartbeat_ticks: usize,
    /// Ticks without a leader after which a node may stand for election, at the least; also the lease in which nobody votes for another.
    pub election_ticks: usize,
    /// Below how many ticks a node draws the time after which it stands for election: at random, from `election_ticks` on. One more than
    /// those makes it certain, for simulation.
    pub max_election_ticks: usize,
    /// Entries applied since the last snapshot after which the log is compacted.
    pub compact_after: u64,
    /// Bytes of entries applied since the last snapshot after which the log is compacted.
    pub compact_bytes: u64,
    /// Entries that are kept behind a snapshot, for followers that lag a little; at most half of `compact_bytes`.
    pub keep_entries: u64,
    /// Ticks without a word from a peer after which a node that was removed from the group stops; it stops sooner when it is told to. Until
    /// then it votes and acknowledges for those who do not yet know that it was removed.
    pub linger_ticks: u64,
    /// A deliberate fault, to prove that the simulation finds it.
    #[cfg(feature = "planted-bugs")]
    pub planted: Planted,
}

/// A deliberate fault, to prove that the simulation finds it. Never in a build of the binary.
#[cfg(feature = "planted-bugs")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Planted {
    /// None.
    #[default]
    None,
    /// Acknowledges, to clients and to peers, what is not yet saved.
    AckBeforeFlush,
    /// Reads from its own state without asking whether it still leads.
    StaleRead,
}

impl NodeConfig {
    /// A node that joins, as it is run in earnest: 50 ms ticks, a heartbeat each 100 ms, an election after 500 to 1,000 ms.
    #[must_use]
    pub const fn new(id: u64) -> Self {
        Self {
            id,
            founders: Vec::new(),
            nonce: 0,
            tick: Duration::from_millis(50),
            heartbeat_ticks: 2,
            election_ticks: 10,
            max_election_ticks: 20,
            compact_after: 100_000,
            compact_bytes: 64 << 20,
            keep_entries: 5_000,
            linger_ticks: 6_000,
            #[cfg(feature = "planted-bugs")]
            planted: Planted::None,
        }
    }

    /// The very first node of a group.
    #[must_use]
    pub fn founder(id: u64) -> Self {
        Self { founders: vec![id], ..Self::new(id) }
    }

    #[cfg(feature = "planted-bugs")]
    pub(super) fn is_planted(&self, fault: Planted) -> bool {
        self.planted == fault
    }
}
