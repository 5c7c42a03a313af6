//! What the command line takes about jobs.

use std::ffi::OsString;
use std::time::Duration;

use clap::{Args, Subcommand};
use postern_core::Name;
use postern_core::target::Address;

use crate::args::OutputArgs;
use crate::manifest::parse_duration;
use crate::token_args::NarrowArgs;

#[derive(Debug, Subcommand)]
pub(crate) enum JobCommand {
    /// Runs a command as a job, with a token of its own in its environment (POSTERN_TOKEN) that ends with it; with TARGET, also what PostgreSQL's clients
    /// read. When this process dies without a word, the token ends when the next heartbeats are missed.
    Run(Box<JobRunArgs>),
    /// Ties the session token in POSTERN_TOKEN or --token-file to a job: beat it, and end it.
    Start {
        /// What people call it.
        #[arg(long)]
        name: String,
        /// How long it may go unheard of: 5s to 1h.
        #[arg(long, default_value = "30s", value_name = "TIME", value_parser = parse_duration)]
        heartbeat: Duration,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Says that a job is alive, by its token in POSTERN_TOKEN or --token-file, or by one that was made from that.
    Beat {
        /// The id of the job's token. Default: the nearest job of the token.
        id: Option<String>,
    },
    /// Ends a job: its token is revoked, and all that was made from it, open sessions too.
    End {
        /// The id of the job's token. Default: the nearest job of the token in POSTERN_TOKEN or --token-file.
        id: Option<String>,
        /// For the record.
        #[arg(long, default_value = "", hide_default_value = true)]
        because: String,
    },
    /// Jobs that have not ended: yours, or all for who may list tokens.
    List {
        #[command(flatten)]
        output: OutputArgs,
    },
    /// One job.
    Show {
        /// The id of the job's token. Default: the nearest job of the token in POSTERN_TOKEN or --token-file.
        id: Option<String>,
        #[command(flatten)]
        output: OutputArgs,
    },
}

#[derive(Debug, Args)]
pub(crate) struct JobRunArgs {
    /// The target that PostgreSQL's clients of the command are led to; the token is good for it and for each --target.
    #[arg(value_name = "TARGET")]
    pub(crate) connect: Option<Name>,
    /// What people call the job. Default: the command's name.
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// How long it may go unheard of: 5s to 1h. It is told of three times as often.
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = parse_duration)]
    pub(crate) heartbeat: Duration,
    #[command(flatten)]
    pub(crate) narrow: NarrowArgs,
    /// The longest that the job may take: 15m, 8h. At most as long as the token or login that it is made from. Default: as is usual of the issuer, 1h
    /// where nothing is.
    #[arg(long, value_parser = parse_duration)]
    pub(crate) ttl: Option<Duration>,
    /// The database. Default: the target's only one.
    #[arg(long, value_name = "NAME", requires = "connect")]
    pub(crate) database: Option<String>,
    /// Where a gateway is, HOST:PORT; may be given again. Default: those that the control plane knows.
    #[arg(long, env = "POSTERN_GATEWAY", value_delimiter = ',', value_name = "ADDRESS")]
    pub(crate) gateway: Vec<Address>,
    /// The authority of a gateway's own certificate, for gateways that have one: a PEM file, or "system". Default: the cluster's authority.
    #[arg(long, env = "POSTERN_GATEWAY_CA", value_name = "FILE")]
    pub(crate) gateway_ca: Option<String>,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}
