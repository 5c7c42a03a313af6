//! Gateways and the tunnels that they hold: who can reach which agents, as it is now. Soft state: it is told anew, never stored.

use std::cmp::Ordering;

use crate::name::Name;
use crate::target::{Address, TargetSelector};
use crate::time::Timestamp;

/// One life of the directory: a new one begins with each leader of the control plane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Epoch {
    /// The life of the cluster; a restored one has another.
    pub incarnation: String,
    /// The leader's term.
    pub term: u64,
    /// When it began, by the leader's clock. For people.
    pub began_at: Timestamp,
}

/// A gateway, as it tells of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetGateway {
    /// Of its certificate.
    pub name: Name,
    /// Where agents and other gateways reach it over QUIC; the first is the best.
    pub tunnel_addresses: Vec<Address>,
    /// Where agents reach it over TCP.
    pub tunnel_tcp_addresses: Vec<Address>,
    /// Where clients reach it.
    pub client_addresses: Vec<Address>,
    /// Of its program.
    pub version: String,
    /// The lowest version of the tunnel protocol that it speaks.
    pub tunnel_version_min: u32,
    /// The highest one.
    pub tunnel_version: u32,
    /// It takes no new sessions and no new tunnels.
    pub draining: bool,
    /// Open sessions of clients.
    pub sessions: u32,
    /// When its program started.
    pub started_at: Timestamp,
    /// The targets that it serves, as the control plane knows; none: all.
    pub serves: Option<TargetSelector>,
}

/// What a tunnel runs over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// QUIC over UDP.
    Quic,
    /// A multiplexer over TLS over TCP.
    Tcp,
}

/// A tunnel among those of one gateway. An agent has at most one to each.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TunnelKey {
    /// The pool that the agent serves.
    pub pool: Name,
    /// The agent.
    pub agent: Name,
}

/// A tunnel, as the gateway tells that holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetTunnel {
    /// Since when it is up.
    pub since: Timestamp,
    /// Open streams.
    pub streams: u32,
    /// Round trip in microseconds; 0: not known.
    pub rtt_us: u32,
    /// What it runs over.
    pub transport: Transport,
    /// Of the agent's program; empty: not known.
    pub version: String,
    /// The agent is about to stop: what is open goes on, new streams belong elsewhere.
    pub draining: bool,
}

/// How many agents of a pool have a tunnel to one gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// So many.
    pub agents: u32,
    /// Open streams to them.
    pub streams: u64,
    /// Those of them that are about to stop.
    pub draining: u32,
}

/// What is new of a gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// A report begins anew; else it changes what was told before.
    pub whole: bool,
    /// Further parts follow.
    pub more: bool,
    /// The gateway itself; `None`: as before.
    pub gateway: Option<FleetGateway>,
    /// Tunnels that are new, or others than before.
    pub tunnels: Vec<(TunnelKey, FleetTunnel)>,
    /// Tunnels that are gone.
    pub closed: Vec<TunnelKey>,
}

/// What is new in the directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Of which directory.
    pub epoch: Epoch,
    /// Where it stands with this.
    pub version: u64,
    /// These are all; else they change what was told before.
    pub whole: bool,
    /// Further parts follow.
    pub more: bool,
    /// The directory is young: who is not in it may still come.
    pub settling: bool,
    /// Gateways that are new, or others than before.
    pub gateways: Vec<FleetGateway>,
    /// Gateways that are gone.
    pub gone: Vec<Name>,
    /// By gateway and pool, what is held; no agents: nothing any more.
    pub holdings: Vec<(Name, Name, Holding)>,
}

impl Epoch {
    /// Whether this one is newer or older than `other`; `None` for another life of the cluster, of which neither is.
    #[must_use]
    pub fn compare(&self, other: &Self) -> Option<Ordering> {
        (self.incarnation == other.incarnation).then(|| self.term.cmp(&other.term))
    }
}

impl Holding {
    /// Agents that take new streams.
    #[must_use]
    pub const fn staying(&self) -> u32 {
        self.agents.saturating_sub(self.draining)
    }
}

impl FleetGateway {
    /// Addresses of one kind that a gateway may tell.
    pub const MAX_ADDRESSES: usize = 8;
    /// Bytes of a version.
    pub const MAX_VERSION: usize = 64;
}

impl Transport {
    /// The stable text form.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::Tcp => "tcp",
        }
    }
}
