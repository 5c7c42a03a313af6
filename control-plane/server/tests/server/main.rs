//! The control plane over its real gRPC API, on a temporary directory.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod access;
mod approvals;
mod cluster;
mod crud;
mod fleet;
mod hostile_issuers;
mod issuer;
mod issuer_keys;
mod jobs;
mod node;
mod policy;
mod recording_log;
mod recordings;
mod resources;
mod reviews;
mod roles;
mod security;
mod signing;
mod tokens;
mod webhooks;
