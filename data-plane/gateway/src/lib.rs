//! The gateway: where clients connect, and the only place that lets an operation through.

pub mod approvals;
mod cancel;
mod catalogs;
pub mod config;
mod control;
mod identify;
mod metrics;
pub mod policy_feed;
pub mod recorder;
mod tunnel_wire;
pub mod tunnels;
mod upstream;
