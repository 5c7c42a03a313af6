//! Raft: how writes to the control plane become durable, ordered and agreed on (I8).
//!
//! Three layers, each usable without the next: [`core`] is raft-rs and the state machine without I/O; [`log_store`] keeps the log on a
//! disk; [`driver`] is the actor that turns between them and answers the rest of the server through a [`RaftHandle`].
//!
//! Nothing is acknowledged before it is flushed. What cannot be read or understood stops the node: it is never skipped.

pub mod core;
mod driver;
pub mod log_store;
mod memory;
mod observer;
mod slog_bridge;
pub mod transport;

pub use self::core::NodeConfig;
pub use driver::{Changes, DriverError, ProposeError, RaftHandle, ReadError, Status, start};
pub use observer::Observer;
