//! What the command line takes about `postern dev`.

use std::net::SocketAddr;

use clap::{Args, Subcommand};

use crate::manifest::parse_duration;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct DevArgs {
    #[command(subcommand)]
    pub(crate) command: Option<DevCommand>,
    #[command(flatten)]
    pub(crate) options: DevOptions,
}

/// Port 0 takes a free one, and the same again on the next start if it is still free.
#[derive(Debug, Args)]
pub(crate) struct DevOptions {
    /// The public API.
    #[arg(long, default_value = "127.0.0.1:15480")]
    pub(crate) admin_listen: SocketAddr,
    /// Where clients of PostgreSQL connect to.
    #[arg(long, default_value = "127.0.0.1:15432")]
    pub(crate) postgres_listen: SocketAddr,
    /// The gateway's end of tunnels (UDP).
    #[arg(long, default_value = "127.0.0.1:15433")]
    pub(crate) tunnel_listen: SocketAddr,
    /// The development issuer; loopback only.
    #[arg(long, default_value = "127.0.0.1:15481")]
    pub(crate) issuer_listen: SocketAddr,
    /// Health and metrics of the control plane; the gateway's and the agent's are on the two ports after it.
    #[arg(long, default_value = "127.0.0.1:15490")]
    pub(crate) ops_listen: SocketAddr,
    /// OAuth's endpoints and what browsers reach, by https://localhost:PORT; without it they are not served.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) web_listen: Option<SocketAddr>,
    /// Proofs of possession (DPoP) must have a nonce of the control plane's.
    #[arg(long)]
    pub(crate) dpop_nonces: bool,
    /// What the agent may open besides loopback: HOST:PORT, where `*` stands for any port; may be given again.
    #[arg(long = "agent-allow", value_name = "HOST:PORT")]
    pub(crate) agent_allow: Vec<String>,
    /// What to log: a filter such as info or postern_gateway=debug.
    #[arg(long, default_value = "info,postern_server::raft=warn", value_name = "FILTER")]
    pub(crate) log: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DevCommand {
    /// Makes an OIDC token of the development issuer, and prints it.
    Token(DevTokenArgs),
}

#[derive(Debug, Args)]
pub(crate) struct DevTokenArgs {
    /// Who: the `sub` claim.
    #[arg(long)]
    pub(crate) subject: String,
    /// A group of theirs; may be given again.
    #[arg(long = "group", visible_alias = "groups", value_delimiter = ',', value_name = "GROUP")]
    pub(crate) groups: Vec<String>,
    /// The `aud` claim.
    #[arg(long, default_value = "postern")]
    pub(crate) audience: String,
    /// How long it is good for.
    #[arg(long, default_value = "1h", value_parser = parse_duration)]
    pub(crate) ttl: std::time::Duration,
    /// Issued this long ago: for tests of expiry.
    #[arg(long, value_parser = parse_duration, hide = true)]
    pub(crate) issued_ago: Option<std::time::Duration>,
    /// Good only after this time from now: for tests.
    #[arg(long, value_parser = parse_duration, hide = true)]
    pub(crate) not_before_in: Option<std::time::Duration>,
    /// Another `iss` claim: for tests.
    #[arg(long, hide = true)]
    pub(crate) issuer_claim: Option<String>,
}
