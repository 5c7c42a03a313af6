//! Real TLS and real certificates over loopback.

mod admission;
mod cluster;
mod house;
mod links;
mod snapshots;
