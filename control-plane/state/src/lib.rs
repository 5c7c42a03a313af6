//! The replicated state machine of the control plane: pure, total and deterministic.
//!
//! [`State::apply`] takes the log's entries in order. Nodes that applied the same entries hold the same state, to the bit
//! ([`State::hash`]). Time, ids and randomness come in with the entries. A refusal is data, not an error; what this version cannot
//! read halts the node ([`Halt`]), because to skip it would part the node from its peers.

pub mod commands;
mod entry;
mod outcome;
mod requests;
mod snapshot;
mod state;

pub use entry::{Command, ENTRY_VERSION, Entry};
pub use outcome::{Applied, Change, Effect, Halt, Outcome, Put, Refusal, Success};
pub use snapshot::RestoreError;
pub use state::{Cluster, IssuerKeys, Limits, State};

#[cfg(test)]
mod property_tests;
