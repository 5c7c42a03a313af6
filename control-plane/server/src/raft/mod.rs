//! Raft: how writes to the control plane become durable, ordered and agreed on (I8).
//!
//! | layer | is |
//! | --- | --- |
//! | `core` | raft-rs and the state machine without I/O |
//! | [`Replica`] | one node without threads, clocks and mailboxes: log, proposals, reads, members. Simulation drives it |
//! | `driver` | the actor that owns a replica and gives it time; the rest of the server has a [`RaftHandle`] |
//! | [`log_store`] | what the disk has to keep; [`log_store::DiskLog`] does: a write-ahead log, its checkpoint in sled, snapshots in files |
//! | [`transport`], [`Forward`], [`Observer`] | the ways out: to peers, to the leader, to watches |
//!
//! Nothing is acknowledged before it is flushed. What cannot be read or understood stops the node: it is never skipped.

mod accept;
mod config;
mod core;
mod disk_log;
mod driver;
mod forward;
mod handle;
pub mod log_store;
mod membership;
mod memory;
mod observer;
#[cfg(feature = "planted-bugs")]
mod planted;
mod proposals;
mod reads;
mod replica;
mod slog_bridge;
mod snapshot_file;
mod stamp;
mod status;
#[cfg(test)]
pub(crate) mod testing;
pub mod transport;
mod wal;
mod witness;

pub use self::core::CoreError;
pub use config::NodeConfig;
#[cfg(feature = "planted-bugs")]
pub use config::Planted;
pub use driver::start;
pub use forward::{Forward, ForwardError, ForwardedProposal, NoForward};
pub use handle::RaftHandle;
pub use membership::MembershipReply;
pub use observer::Observer;
pub use proposals::{ENTRY_BYTES, Proposal, ProposeReply};
pub use reads::{ReadFailed, ReadFn};
pub use replica::{DriverError, Replica, SnapshotJob};
pub(crate) use stamp::{StampClock, Verdict};
pub use status::{Changes, MemberStatus, MembershipChange, MembershipError, ProposeError, ReadError, Status};
