//! Protobuf to domain and back: the only place where generated types become ours.
//!
//! What comes in is checked here once; past this border every value is valid by its type.

pub mod access;
mod allowance;
pub mod background;
pub mod cluster;
mod conditions;
mod credential;
mod faults;
pub mod fleet;
pub mod identity;
mod issuer;
pub mod job;
mod login;
mod masking;
mod obligations;
mod older;
mod policy;
pub mod resource;
pub mod review;
pub mod revocation;
mod role;
mod selector;
mod service_account;
pub mod snapshot;
pub mod webhook;

use crate::time::Timestamp;

/// A message that is not as its definition says: from a peer of another version, or a hostile one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct WireError {
    /// The field, by its path.
    pub field: String,
    /// What is wrong with it.
    pub why: String,
}

impl WireError {
    /// At `field`: `why`.
    pub fn new(field: impl Into<String>, why: impl std::fmt::Display) -> Self {
        Self { field: field.into(), why: why.to_string() }
    }
}

/// To protobuf's form.
#[must_use]
pub fn timestamp_to_proto(at: Timestamp) -> prost_types::Timestamp {
    let millis = at.millis();
    prost_types::Timestamp {
        seconds: i64::try_from(millis / 1000).unwrap_or(i64::MAX),
        nanos: i32::try_from(millis % 1000).unwrap_or(0).saturating_mul(1_000_000),
    }
}

/// From protobuf's form; what lies before 1970 becomes its beginning.
#[must_use]
pub fn timestamp_from_proto(at: &prost_types::Timestamp) -> Timestamp {
    let seconds = u64::try_from(at.seconds).unwrap_or(0);
    let millis = u64::try_from(at.nanos).unwrap_or(0) / 1_000_000;
    Timestamp::from_millis(seconds.saturating_mul(1000).saturating_add(millis))
}

fn timestamp_or_zero(at: Option<&prost_types::Timestamp>) -> Timestamp {
    at.map_or(Timestamp::from_millis(0), timestamp_from_proto)
}

fn parse<T: std::str::FromStr>(field: &str, text: &str) -> Result<T, WireError>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error| WireError::new(field, error))
}
