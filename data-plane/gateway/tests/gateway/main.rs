//! The gateway between a real driver and a real PostgreSQL, with a control plane that is played here, and the real agent's way in through
//! tunnels tested in its own crate.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod control;
mod house;
mod sessions;
mod target;
mod waiting;
