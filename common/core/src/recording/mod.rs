//! Recordings: the append-only, hash-chained log of a session (docs/recording-format.md).
//!
//! [`Chain`] writes and checks the chain, [`frames`] splits bytes into frames, [`verify`] judges a whole file offline.

mod chain;
mod event;
mod format;
mod verify;

pub use chain::{Chain, ChainFault, EncodeError, seal_message};
pub use event::{ColumnInfo, Completed, Entry, Event, Gap, OperationEvent, OperationOutcome, Started, Value};
pub use format::{FrameFault, Frames, MAGIC, MAX_BODY, RawFrame, frames};
pub use verify::{Authority, Fault, Report, Verifier, verify};
