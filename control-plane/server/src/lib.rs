//! The control plane: one node of the Raft group that owns issuers, targets, policies, approvals and the index of sessions.
//!
//! [`run`] starts it. [`raft`] makes writes durable and agreed on, [`keys`] seals secrets, `api` serves gRPC, `feed` gives gateways
//! their snapshots, `identity` fetches issuers' keys and mints session tokens, `recordings` keeps what gateways upload.

mod accept;
mod api;
pub mod backup;
mod bootstrap;
pub mod cluster;
mod config;
mod feed;
mod fleet;
mod identity;
mod jobs;
pub mod keys;
pub mod peers;
pub mod raft;
mod recordings;
mod run;
mod serve;
mod serving;
pub mod watch;
mod web;
mod webhooks;

pub use config::ControlConfig;
pub use identity::saml::SamlProbe;
pub use run::{ControlError, ControlHandle, run};
pub use web::{FormProbe, WebConfig, WebError};

/// For a test of members of this release beside the next.
#[doc(hidden)]
pub use postern_state::know_as_the_next;
