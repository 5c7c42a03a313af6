//! The agent's configuration.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use postern_runtime::config::HumanDuration;
use serde::{Deserialize, Serialize};

use crate::allow::AllowRule;
use crate::tunnel::Place;

/// What an agent is told. Who it is stands in its certificate.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// Directory with `node.crt`, `node.key` and `ca.crt`. With a join token it may be empty at first.
    #[serde(default)]
    pub credential_dir: PathBuf,
    /// File with the join token that lets the agent in when it has no certificate yet.
    #[serde(default)]
    pub join_token_file: Option<PathBuf>,
    /// The same in an environment variable, by its name.
    #[serde(default)]
    pub join_token_env: Option<String>,
    /// Its name, when the join token does not say one.
    #[serde(default)]
    pub name: String,
    /// `host:port` of the control plane's API, when it can be reached from here. Without it agents are let in, and renew their
    /// certificates, through gateways.
    #[serde(default)]
    pub control_plane: Vec<String>,
    /// `host:port` (UDP) of gateways to begin with; they tell of the others.
    pub gateways: Vec<String>,
    /// `host:port` (TCP) of the same gateways in the same order, for networks that let no UDP out. Absent: the addresses of `gateways`.
    #[serde(default)]
    pub tcp_gateways: Option<Vec<String>>,
    /// Gateways to have a tunnel to at a time.
    #[serde(default = "tunnels")]
    pub tunnels: usize,
    /// While a tunnel goes over TCP, how soon UDP is tried again; later ones take up to twenty times as long.
    #[serde(default = "udp_probe")]
    pub udp_probe: HumanDuration,
    /// What it may open; nothing else. Empty: nothing.
    #[serde(default)]
    pub allow: Vec<AllowRule>,
    /// Streams open at a time, over all tunnels.
    #[serde(default = "max_streams")]
    pub max_streams: u32,
    /// How long connections may go on after shutdown has begun.
    #[serde(default = "drain_limit")]
    pub drain_limit: HumanDuration,
    /// Where `/healthz`, `/readyz` and `/metrics` are served; nowhere when absent.
    #[serde(default)]
    pub ops_listen: Option<SocketAddr>,
}

const fn max_streams() -> u32 {
    1024
}

const fn udp_probe() -> HumanDuration {
    HumanDuration(Duration::from_secs(15))
}

const fn drain_limit() -> HumanDuration {
    HumanDuration(Duration::from_secs(3600))
}

const fn tunnels() -> usize {
    3
}

impl AgentConfig {
    /// The gateways to begin with.
    pub(crate) fn seeds(&self) -> Vec<Place> {
        let tcp = self.tcp_gateways.as_ref().unwrap_or(&self.gateways);
        let place = |(number, quic): (usize, &String)| Place {
            quic: vec![quic.clone()],
            tcp: tcp.get(number).cloned().into_iter().collect(),
        };
        self.gateways.iter().enumerate().map(place).collect()
    }
}
