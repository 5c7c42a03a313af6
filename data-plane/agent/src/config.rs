//! The agent's configuration.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::allow::AllowRule;

/// What an agent is told. Who it is stands in its certificate.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// Directory with `node.crt`, `node.key` and `ca.crt`.
    #[serde(default)]
    pub credential_dir: PathBuf,
    /// `host:port` (UDP) of each gateway to keep a tunnel to.
    pub gateways: Vec<String>,
    /// What it may open; nothing else. Empty: nothing.
    #[serde(default)]
    pub allow: Vec<AllowRule>,
    /// Streams open at a time, over all tunnels.
    #[serde(default = "max_streams")]
    pub max_streams: u32,
    /// Where `/healthz`, `/readyz` and `/metrics` are served; nowhere when absent.
    #[serde(default)]
    pub ops_listen: Option<SocketAddr>,
}

const fn max_streams() -> u32 {
    1024
}
