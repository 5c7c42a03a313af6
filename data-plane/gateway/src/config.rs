//! The gateway's configuration.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use postern_runtime::config::{ByteSize, HumanDuration};
use postern_runtime::vault::VaultConfig;
use serde::{Deserialize, Serialize};

use crate::credentials::config::CredentialsConfig;
use crate::fleet::FleetConfig;
use crate::recorder::Durability;
use crate::tunnels::TunnelsConfig;

/// What a gateway is told. Who it is stands in its certificate; targets and policy come from the control plane.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayConfig {
    /// Directory with `node.crt`, `node.key` and `ca.crt`.
    #[serde(default)]
    pub credential_dir: PathBuf,
    /// Where PostgreSQL clients connect (TCP).
    pub postgres_listen: SocketAddr,
    /// Where agents dial in (UDP); without it there are no tunnels.
    #[serde(default)]
    pub tunnel_listen: Option<SocketAddr>,
    /// Where agents dial in over TCP, when their network lets no UDP out.
    #[serde(default)]
    pub tunnel_tcp_listen: Option<SocketAddr>,
    /// How they are taken.
    #[serde(default)]
    pub tunnels: TunnelsConfig,
    /// Where `/healthz`, `/readyz` and `/metrics` are served; nowhere when absent.
    #[serde(default)]
    pub ops_listen: Option<SocketAddr>,
    /// `host:port` of the gRPC API of each node of the control plane, or of some.
    pub control_plane: Addresses,
    /// Where recordings wait for the control plane. On a disk that keeps what is flushed.
    pub spool_dir: PathBuf,
    /// Bytes that may wait there. New sessions are refused from nine tenths of it on.
    #[serde(default = "spool_max")]
    pub spool_max: ByteSize,
    /// How long an operation waits at most where there is no room for its record. Then it is refused, and the session goes on. Zero: the session ends.
    #[serde(default = "spool_full_wait")]
    pub spool_full_wait: HumanDuration,
    /// What a recorded operation must have survived before it is forwarded, where no policy says it: the loss of the gateway, of the machine, or of the process.
    #[serde(default)]
    pub durability: Durability,
    /// How long an operation of class `quorum` waits for the control plane to have its record. Then it is refused.
    #[serde(default = "quorum_limit")]
    pub quorum_limit: HumanDuration,
    /// The certificate that clients see.
    #[serde(default)]
    pub listener: ListenerConfig,
    /// How it takes part in the fleet.
    #[serde(default)]
    pub fleet: FleetConfig,
    /// Bounds on what clients may use up.
    #[serde(default)]
    pub limits: Limits,
    /// Which references to credentials this gateway follows.
    #[serde(default)]
    pub credentials: CredentialsConfig,
    /// The Vault that holds credentials of targets.
    #[serde(default)]
    pub vault: Option<VaultConfig>,
    /// Policy that the control plane confirmed longer ago opens no session.
    #[serde(default = "staleness_limit")]
    pub staleness_limit: HumanDuration,
    /// The policy on the gateway's own disk.
    #[serde(default)]
    pub kept_policy: KeptPolicyConfig,
    /// While an operation is held its client is sent something this often that it does not notice: proxies between them would else end a connection
    /// that is silent. `0s`: never.
    #[serde(default = "hold_keep_alive")]
    pub hold_keep_alive: HumanDuration,
    /// How long reviewers wait for the target's estimate of a held operation before they are told of it without.
    #[serde(default = "estimate_limit")]
    pub estimate_limit: HumanDuration,
    /// How long sessions may go on after shutdown has begun. Those that are left then are ended.
    #[serde(default = "drain_limit")]
    pub drain_limit: HumanDuration,
    /// From when on, after shutdown has begun, a session is ended that is idle outside a transaction.
    #[serde(default = "drain_idle_grace")]
    pub drain_idle_grace: HumanDuration,
    /// How long, after shutdown has begun, new connections are told to go elsewhere before the port is closed.
    #[serde(default = "drain_notice")]
    pub drain_notice: HumanDuration,
    /// How long, after the last session's end, recordings may take to reach the control plane. The rest waits in the spool.
    #[serde(default = "flush_limit")]
    pub flush_limit: HumanDuration,
}

/// The policy on the gateway's own disk: by it a gateway that starts while the control plane is away serves until the staleness limit.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeptPolicyConfig {
    /// Whether it is kept at all.
    pub enabled: bool,
    /// Where; `policy` in the spool's directory when absent.
    pub dir: Option<PathBuf>,
    /// Whether credentials that came from the control plane are kept with it, and the key of the `hash` mask. Without them such targets cannot be
    /// reached after a restart, and such masks give NULL, until the control plane answers.
    pub credentials: bool,
}

impl Default for KeptPolicyConfig {
    fn default() -> Self {
        Self { enabled: true, dir: None, credentials: false }
    }
}

/// One or several `host:port`: a text, with commas between, or a list of texts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "OneOrMany", into = "Vec<String>")]
pub struct Addresses(Vec<String>);

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl Addresses {
    /// Each of them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &String> {
        self.0.iter()
    }
}

impl TryFrom<OneOrMany> for Addresses {
    type Error = &'static str;

    fn try_from(from: OneOrMany) -> Result<Self, Self::Error> {
        let all: Vec<String> = match from {
            OneOrMany::One(text) => text.split(',').map(|one| one.trim().to_owned()).collect(),
            OneOrMany::Many(all) => all,
        };
        if all.is_empty() || all.iter().any(String::is_empty) {
            return Err("expected host:port, or a list of them");
        }
        Ok(Self(all))
    }
}

impl From<Addresses> for Vec<String> {
    fn from(addresses: Addresses) -> Self {
        addresses.0
    }
}

/// The certificate that clients see. Without files, one is made at each start.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListenerConfig {
    /// Certificate chain, PEM.
    pub certificate_file: Option<PathBuf>,
    /// Its key, PEM.
    pub key_file: Option<PathBuf>,
    /// Names for a certificate that is made at the start, beside `localhost` and loopback addresses.
    pub names: Vec<String>,
}

/// Bounds on what clients may use up.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Sessions at a time: connections whose token was accepted.
    pub max_connections: u32,
    /// Connections at a time that have shown no token yet. When there are more, the oldest of them goes.
    pub max_handshakes: u32,
    /// Those of one address (of one /64, with IPv6).
    pub max_handshakes_per_address: u32,
    /// Connections in a second, of all, that ask for TLS or a session; 0: no limit.
    pub connections_per_second: u32,
    /// Operations in a second, of all; 0: no limit.
    pub operations_per_second: u32,
    /// How long an operation past a rate may wait for its turn before it is refused.
    pub operation_wait: HumanDuration,
    /// What one principal may have. With `sessions = 0`, half of `max_connections`.
    pub principal: Quota,
    /// What all sessions on one target may have.
    pub target: Quota,
    /// From the first byte to the token.
    pub handshake_timeout: HumanDuration,
    /// From the token to the target's answer, its login and catalog included.
    pub connect_timeout: HumanDuration,
    /// Bytes of one session that may wait for either side before the other is read no further; targets and policies may say less.
    pub in_flight: ByteSize,
    /// The longest statement.
    pub max_statement_bytes: ByteSize,
    /// Rows of an operation's result that the recording keeps.
    pub recorded_rows: u32,
    /// Bytes of them that it keeps.
    pub recorded_bytes: ByteSize,
    /// Whether the recording has a digest of the rows that it leaves out.
    pub digest_omitted: bool,
}

/// What one of many may have of a gateway; 0: no limit.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Quota {
    /// Sessions at a time.
    pub sessions: u32,
    /// New sessions in a second, and as many at once.
    pub connections_per_second: u32,
    /// Operations in a second, and as many at once.
    pub operations_per_second: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 1000,
            max_handshakes: 512,
            max_handshakes_per_address: 256,
            connections_per_second: 500,
            operations_per_second: 0,
            operation_wait: HumanDuration(Duration::from_secs(1)),
            principal: Quota::default(),
            target: Quota::default(),
            handshake_timeout: HumanDuration(Duration::from_secs(15)),
            connect_timeout: HumanDuration(Duration::from_secs(20)),
            in_flight: ByteSize(64 << 10),
            max_statement_bytes: ByteSize(1 << 20),
            recorded_rows: 1000,
            recorded_bytes: ByteSize(1 << 20),
            digest_omitted: true,
        }
    }
}

const fn spool_max() -> ByteSize {
    ByteSize(1 << 30)
}

const fn spool_full_wait() -> HumanDuration {
    HumanDuration(Duration::from_secs(30))
}

const fn quorum_limit() -> HumanDuration {
    HumanDuration(Duration::from_secs(10))
}

const fn staleness_limit() -> HumanDuration {
    HumanDuration(Duration::from_secs(600))
}

const fn hold_keep_alive() -> HumanDuration {
    HumanDuration(Duration::from_secs(60))
}

const fn estimate_limit() -> HumanDuration {
    HumanDuration(Duration::from_millis(500))
}

const fn drain_limit() -> HumanDuration {
    HumanDuration(Duration::from_secs(3600))
}

const fn drain_idle_grace() -> HumanDuration {
    HumanDuration(Duration::from_secs(300))
}

const fn drain_notice() -> HumanDuration {
    HumanDuration(Duration::from_secs(10))
}

const fn flush_limit() -> HumanDuration {
    HumanDuration(Duration::from_secs(30))
}
