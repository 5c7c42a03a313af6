//! The public API as a client sees it.

mod again;
mod connect;
mod pages;
mod profile;
mod shown;
mod status;

pub(crate) use again::{FIRST_RETRY, GIVE_UP, LAST_RETRY, again_and_again, passes};
pub(crate) use connect::{Client, connect};
pub(crate) use pages::every_page;
pub(crate) use profile::{Profile, Settings, authority, client_key, read, servers, token};
pub(crate) use status::{refused, violations};
