//! Deterministic simulation of a cluster: the real Raft core, replica and state machine, with network, disks and clocks of its own making.
//!
//! One run is one seed, and all of it follows from the seed: who crashes when, which packet is lost, what clients ask. [`runner`] runs many
//! seeds; a run that breaks a law ends there and tells which, with the last lines of its trace and the command that replays it.
//!
//! - [`net`], [`disk`], [`clock`]: what nodes stand on, and how it fails.
//! - [`node`]: one real replica and the io around it. Time passes inside a node too: a flush takes a while, and a crash may fall into it.
//! - [`client`]: clients that write, compare-and-set, delete and read, and retry what has no answer under the same request id.
//! - [`approvals`]: what they ask for, grant and take.
//! - [`faults`], [`members`]: what goes wrong, and who joins and leaves.
//! - [`laws`]: what must hold at every step; [`checker`]: whether what clients saw is linearizable.
//! - [`world`]: the queue of events that all of this hangs on.

pub mod approvals;
pub mod checker;
pub mod client;
pub mod clock;
pub mod disk;
pub mod faults;
pub mod io;
pub mod laws;
pub mod members;
pub mod net;
pub mod node;
pub mod plan;
pub mod rng;
pub mod runner;
pub mod settle;
pub mod trace;
pub mod world;

/// Virtual microseconds since the simulation began.
pub type Time = u64;

/// One millisecond.
pub const MS: Time = 1_000;
/// One second.
pub const SECOND: Time = 1_000_000;

/// A law that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its name.
    pub law: &'static str,
    /// How it was broken.
    pub how: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.law, self.how)
    }
}

/// `law` was broken: `how`.
pub(crate) fn broken<T>(law: &'static str, how: impl Into<String>) -> Result<T, Violation> {
    Err(Violation { law, how: how.into() })
}
