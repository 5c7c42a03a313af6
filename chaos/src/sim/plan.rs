//! What a seed stands for: how large the cluster is, what its log's bounds are, what goes wrong and how often.

use postern_server::raft::NodeConfig;
#[cfg(feature = "planted-bugs")]
pub use postern_server::raft::Planted;

use super::rng::{chance, pick, stream};
use super::{SECOND, Time};

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A node loses its power, and comes back.
    Crash,
    /// All nodes lose it at once.
    Blackout,
    /// A node's process stands still (SIGSTOP).
    Pause,
    /// The network falls into two parts.
    Partition,
    /// One direction of some links is cut.
    OneWay,
    /// The leader is cut off from all other nodes, not from clients.
    IsolateLeader,
    /// The network loses, repeats and delays.
    Storm,
    /// A node's flushes take long.
    SlowDisk,
    /// A node's disk is full: it stops.
    FullDisk,
    /// A node's clock is set by hours.
    ClockJump,
    /// A node joins and becomes a voter.
    Join,
    /// A member leaves; also the leader.
    Leave,
    /// A node loses its disk, is removed, and another takes its place.
    LoseDisk,
    /// A bit flips on the disk of a node that is down: it must not start, and another takes its place.
    Damage,
    /// Another is to lead.
    Transfer,
}

impl Fault {
    const ALL: [Self; 15] = [
        Self::Crash,
        Self::Blackout,
        Self::Pause,
        Self::Partition,
        Self::OneWay,
        Self::IsolateLeader,
        Self::Storm,
        Self::SlowDisk,
        Self::FullDisk,
        Self::ClockJump,
        Self::Join,
        Self::Leave,
        Self::LoseDisk,
        Self::Damage,
        Self::Transfer,
    ];
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// How many nodes found the cluster.
    pub founders: u64,
    /// How many clients there are.
    pub clients: u64,
    /// How many registers.
    pub keys: u64,
    /// Bytes that some values carry along, at most.
    pub padding: u64,
    /// How long things go wrong.
    pub trouble: Time,
    /// On average between two faults.
    pub calm: Time,
    /// What may go wrong; likelier where it stands more than once.
    pub faults: Vec<Fault>,
    /// Links deliver in order.
    pub ordered: bool,
    /// The log is compacted after so many entries, or bytes.
    pub compact: (u64, u64),
    /// Entries that are kept behind a snapshot.
    pub keep_entries: u64,
    /// Clocks drift by at most so many parts in a million.
    pub drift: u64,
    /// Logs lie in real files too.
    pub files: bool,
    /// A bug that is built in on purpose, to show that the laws would find it.
    #[cfg(feature = "planted-bugs")]
    pub planted: Planted,
}

impl Plan {
    /// That of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut rng = stream(seed, "plan");
        let mut faults = vec![Fault::Crash];
        // Some of all: what hides behind one fault shows with another.
        for fault in Fault::ALL {
            if chance(&mut rng, 450) {
                faults.push(fault);
            }
        }
        Self {
            seed,
            founders: pick(&mut rng, &[1, 3, 3, 3, 3, 5]).unwrap_or(3),
            clients: rng.u64(3..=6),
            keys: rng.u64(1..=4),
            padding: pick(&mut rng, &[0, 1_000, 60_000]).unwrap_or(0),
            trouble: rng.u64(8..=20).saturating_mul(SECOND),
            calm: rng.u64(200..=1_500).saturating_mul(super::MS),
            faults,
            ordered: chance(&mut rng, 400),
            compact: (pick(&mut rng, &[5, 20, 60, 200, 100_000]).unwrap_or(60), rng.u64(4_000..400_000)),
            keep_entries: pick(&mut rng, &[0, 1, 10, 50]).unwrap_or(10),
            drift: pick(&mut rng, &[0, 500, 50_000]).unwrap_or(0),
            files: false,
            #[cfg(feature = "planted-bugs")]
            planted: Planted::None,
        }
    }

    /// That of `seed`, with logs in real files too: processes are killed there, the power does not fail.
    #[must_use]
    pub fn with_files(seed: u64) -> Self {
        let plan = Self::new(seed);
        Self { files: true, trouble: plan.trouble / 3, founders: 3, clients: 3, ..plan }
    }

    /// How node `id` is set up in its life number `nonce`. `patience` is drawn for each life: no two nodes always stand for election together.
    #[must_use]
    pub fn node(&self, id: u64, nonce: u64, patience: usize) -> NodeConfig {
        let founders = if id <= self.founders { (1..=self.founders).collect() } else { Vec::new() };
        NodeConfig {
            founders,
            nonce,
            election_ticks: patience.saturating_add(10),
            // One above: no chance that is not the seed's.
            max_election_ticks: patience.saturating_add(11),
            compact_after: self.compact.0,
            compact_bytes: self.compact.1,
            keep_entries: self.keep_entries,
            #[cfg(feature = "planted-bugs")]
            planted: self.planted,
            ..NodeConfig::new(id)
        }
    }
}
