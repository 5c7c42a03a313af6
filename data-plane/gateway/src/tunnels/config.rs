//! How a gateway takes tunnels.

use postern_protocols::tunnel::GatewayAddress;
use serde::{Deserialize, Serialize};

/// How a gateway takes tunnels.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TunnelsConfig {
    /// `host:port` (UDP) by which agents reach this gateway; told to all of them.
    pub addresses: Vec<String>,
    /// The same over TCP, for agents whose network lets no UDP out.
    pub tcp_addresses: Vec<String>,
    /// Tunnels at a time; further agents are told to come back later.
    pub max_tunnels: u32,
    /// Handshakes a second. Agents that come all at once are let in one after the other at this pace.
    pub handshakes_per_second: u32,
}

impl Default for TunnelsConfig {
    fn default() -> Self {
        Self { addresses: Vec::new(), tcp_addresses: Vec::new(), max_tunnels: 4096, handshakes_per_second: 300 }
    }
}

impl TunnelsConfig {
    /// What agents are told of this gateway; nothing without an address.
    pub(crate) fn advertised(&self, name: &str, draining: bool) -> Option<GatewayAddress> {
        let (quic, tcp) = (self.addresses.clone(), self.tcp_addresses.clone());
        (!quic.is_empty() || !tcp.is_empty()).then(|| GatewayAddress { name: name.to_owned(), quic, tcp, draining })
    }
}
