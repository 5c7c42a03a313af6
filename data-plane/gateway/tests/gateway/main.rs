//! The gateway between a real driver and a real PostgreSQL; control plane and agents are played here.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod background;
mod bad_input;
mod black_hole;
mod control;
mod drain;
mod failover;
mod house;
mod issuer_keys;
mod limits;
#[path = "../../../agent/tests/agent/logged.rs"]
mod logged;
mod names;
mod redecide;
mod relay;
mod relay_streams;
mod renewal;
mod sessions;
mod target;
mod token_ttl;
mod tunnels;
mod waiting;
mod ways;
