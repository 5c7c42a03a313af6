//! The replicated state machine of the control plane: pure, total and deterministic.
//!
//! [`State::apply`] takes the log's entries in order. Nodes that applied the same entries hold the same state, to the bit
//! ([`State::hash`]). Time, ids and randomness come in with the entries. A refusal is data, not an error; what this version cannot
//! read halts the node ([`Halt`]), because to skip it would part the node from its peers.

mod access;
mod audit;
pub mod commands;
mod entry;
mod jobs;
mod level;
mod logins;
mod members;
mod outcome;
mod read;
mod reborn;
mod recording_keys;
mod recording_log;
mod requests;
mod resources;
mod reviews;
mod revocations;
mod rule_uses;
mod signing;
mod snapshot;
mod state;
mod tree;
mod uses;
mod webhooks;

pub use audit::chained as audit_hash;
pub use entry::{Command, Entry, FEATURE_LEVEL};
pub use level::{know_as_the_next, known_level};
pub use logins::PendingLogin;
pub use outcome::{Applied, Change, Effect, Halt, ObjectKey, Outcome, Put, Refusal, Success};
pub use recording_keys::{ENCRYPTS_RECORDINGS, RecordingKey};
pub use recording_log::{CLOSES_ORPHANS, KEEPS_WITNESSES, LOGS_RECORDINGS, LogKey, RecordingLog, SignedHead};
pub use signing::{KeyStage, NewSigningKey, SigningKey, accepted_for};
pub use snapshot::RestoreError;
pub use state::{Cluster, IssuerKeys, Limits, State};

#[cfg(test)]
mod property_tests;
