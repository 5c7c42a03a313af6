//! What carries tunnels, for both of their ends: a [`Link`] with many streams, over QUIC or over one TLS connection.
//!
//! A stream is the same over either: two halves, each with its own end, reset or stop, and its own flow control. What is said inside is
//! the protocol's affair (`tunnel` among the protocols); here are bytes.

mod half;
mod link;
pub mod mux;
mod quic;
pub mod wire;

pub use half::{RecvHalf, SendHalf, StreamFault};
pub use link::{Carrier, Link, LinkError, LinkStats};
pub use quic::{dialing_endpoint, listen, peer_transport, server_config, transport};

/// Why a stream or link was broken off, as both ends write it.
pub mod cause {
    /// Nothing in particular.
    pub const NONE: u32 = 0;
    /// The connection behind the stream broke, as by a TCP reset.
    pub const BROKEN: u32 = 1;
    /// What was asked for is refused.
    pub const REFUSED: u32 = 2;
    /// The peer may not do this, or not with this certificate.
    pub const NOT_ALLOWED: u32 = 3;
    /// The node stops.
    pub const STOPPING: u32 = 4;
    /// More than the peer may have.
    pub const LIMIT: u32 = 5;
    /// The peer does not keep to the protocol.
    pub const PROTOCOL: u32 = 6;
    /// Nothing was heard for too long.
    pub const SILENT: u32 = 7;
    /// Another link has taken its place.
    pub const REPLACED: u32 = 8;
}

/// Bytes that a peer may have in flight on one stream: memory is at most this, and as much for sending, times the streams (I11).
pub const STREAM_WINDOW: u32 = 512 << 10;
/// A link on which nothing is said is heard of this often, so that a path that swallows everything is noticed.
pub const KEEP_ALIVE: std::time::Duration = std::time::Duration::from_secs(5);
/// A link of which nothing was heard for so long is gone.
pub const SILENCE: std::time::Duration = std::time::Duration::from_secs(20);
/// The same between two gateways.
pub const PEER_KEEP_ALIVE: std::time::Duration = std::time::Duration::from_millis(1_500);
/// The same between two gateways.
pub const PEER_SILENCE: std::time::Duration = std::time::Duration::from_secs(10);
