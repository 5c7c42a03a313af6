//! The public API as a client sees it.

mod connect;
mod profile;
mod status;

pub(crate) use connect::{Client, connect};
pub(crate) use profile::{Profile, Settings, authority, read, servers, token};
pub(crate) use status::{refused, violations};
