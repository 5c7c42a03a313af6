//! What the command line takes about connecting to targets.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use postern_core::Name;
use postern_core::target::Address;

use crate::manifest::parse_duration;

/// Which target, and how.
#[derive(Debug, Args)]
pub(crate) struct ReachArgs {
    /// The target.
    pub(crate) target: Name,
    /// The database. Default: the target's only one.
    #[arg(long, value_name = "NAME")]
    pub(crate) database: Option<String>,
    /// How long the token is good for: 15m, 8h. At most as long as the login. Sessions end with it. Default: as is usual of the issuer, 1h where
    /// nothing is.
    #[arg(long, value_parser = parse_duration)]
    pub(crate) ttl: Option<Duration>,
    /// Who is handed the token: the name is in every record of what is done by it.
    #[arg(long = "as", value_name = "NAME")]
    pub(crate) actor: Option<String>,
    /// Where a gateway is, HOST:PORT; may be given again. Default: those that the control plane knows.
    #[arg(long, env = "POSTERN_GATEWAY", value_delimiter = ',', value_name = "ADDRESS")]
    pub(crate) gateway: Vec<Address>,
    /// The authority of a gateway's own certificate, for gateways that have one: a PEM file, or "system". Default: the cluster's authority.
    #[arg(long, env = "POSTERN_GATEWAY_CA", value_name = "FILE")]
    pub(crate) gateway_ca: Option<String>,
}

/// How to print the environment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum EnvFormat {
    /// `export NAME='value'`, for `eval "$(...)"`.
    #[default]
    Shell,
    /// `set -gx NAME 'value'`.
    Fish,
    /// `NAME="value"`.
    Dotenv,
    /// An object.
    Json,
    /// An entry of a connection service file.
    Pgservice,
}

#[derive(Debug, Args)]
pub(crate) struct EnvArgs {
    #[command(flatten)]
    pub(crate) reach: ReachArgs,
    /// How to print it.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: EnvFormat,
    /// Puts the token into a file of mode 0600 (PGPASSFILE) rather than into what is printed.
    #[arg(long)]
    pub(crate) passfile: bool,
    /// Writes the entry into PGSERVICEFILE (~/.pg_service.conf), in the place of the one that was written before, and prints nothing; the token into
    /// a file of mode 0600.
    #[arg(long, conflicts_with = "format")]
    pub(crate) write: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    #[command(flatten)]
    pub(crate) reach: ReachArgs,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<std::ffi::OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct ProxyArgs {
    #[command(flatten)]
    pub(crate) reach: ReachArgs,
    /// The port; 0: any.
    #[arg(long)]
    pub(crate) port: u16,
    /// The loopback address.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub(crate) listen: IpAddr,
    /// Listens on a Unix socket in this folder instead, which only this user can open: without a password.
    #[arg(long, value_name = "DIR", conflicts_with = "listen")]
    pub(crate) socket: Option<PathBuf>,
    /// A file for the password that local clients must give, made anew, of mode 0600. Default: it is shown once.
    #[arg(long, value_name = "FILE", conflicts_with = "socket")]
    pub(crate) password_file: Option<PathBuf>,
}
