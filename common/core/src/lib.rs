//! The domain of Postern, without I/O: every other crate speaks in these types.
//!
//! Pure: no runtime, clock, thread, environment or randomness. Time, seeds and ids are passed in.

pub mod access;
pub mod action;
pub mod allowance;
pub mod approval;
pub mod audit;
pub mod background;
mod certified;
pub mod cluster;
pub mod code;
pub mod delta;
pub mod fleet;
pub mod id;
pub mod issuer;
pub mod job;
pub mod kept;
pub mod masking;
pub mod name;
pub mod node;
pub mod operation;
pub mod policy;
pub mod principal;
pub mod recording;
pub mod resource;
pub mod review;
pub mod revocation;
pub mod role;
pub mod scope;
mod scope_words;
pub mod secret;
pub mod service_account;
pub mod session;
pub mod signed;
pub mod snapshot;
pub mod target;
pub mod time;
pub mod token;
pub mod transparency;
pub mod webhook;
pub mod wire;

pub use code::Code;
pub use id::{AccessId, ApprovalId, DecisionId, OperationId, RequestId, ReviewId, SessionId};
pub use kept::KeptClaims;
pub use name::Name;
pub use principal::Principal;
pub use scope_words::InvalidScope;
pub use time::{Timestamp, Ttl};
