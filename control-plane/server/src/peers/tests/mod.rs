//! Real TLS and real certificates over loopback.

mod admission;
mod house;
mod links;
mod snapshots;
