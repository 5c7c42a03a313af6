//! What the command line takes about clusters.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use crate::args::{CertRole, OutputArgs};
use crate::manifest::parse_duration;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct ControlArgs {
    #[command(subcommand)]
    pub(crate) command: Option<ControlCommand>,
    /// Runs the node that this configuration is of (as `control run`).
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ControlCommand {
    /// Runs a node that `init`, `join` or `restore` has made.
    Run {
        /// The node's configuration, TOML.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Founds a cluster: its authority and keys, its first member, and a token for the first administrator.
    Init {
        /// The first member's configuration, TOML.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// How long the token is good for.
        #[arg(long, default_value = "24h", value_parser = parse_duration)]
        token_ttl: Duration,
        /// Writes the token into this file (0600) instead of printing it.
        #[arg(long, value_name = "FILE")]
        token_out: Option<PathBuf>,
    },
    /// Makes this a new member of a cluster, by a join token (--token-file). It joins when it is run.
    Join {
        /// The new member's configuration, TOML.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Public API of a member; may be given again.
        #[arg(long = "peer", required = true, value_name = "HOST:PORT")]
        peers: Vec<String>,
    },
    /// Saves the whole replicated state of a running cluster, encrypted under its key-encryption key. Recordings are not in it.
    Backup {
        /// A majority is lost for good: saves what lies on the disk of this member, which must not run. Its configuration, TOML.
        #[arg(long, value_name = "FILE")]
        from_disk: Option<PathBuf>,
        /// The file.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Makes a new cluster of one member from a backup: the same data and authority, a new life.
    Restore {
        /// The member's configuration, TOML; its key-encryption key must be the backup's.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// The backup.
        #[arg(long = "in", value_name = "FILE")]
        input: PathBuf,
        /// How long the token for an administrator is good for.
        #[arg(long, default_value = "24h", value_parser = parse_duration)]
        token_ttl: Duration,
        /// Writes the token into this file (0600) instead of printing it.
        #[arg(long, value_name = "FILE")]
        token_out: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// How every member stands.
    Status {
        #[command(flatten)]
        output: OutputArgs,
    },
    /// The members, where they are and what they run.
    Members {
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Takes a member out for good.
    Remove {
        /// Its name or id.
        member: String,
        /// Even when those that stay and answer are no majority: the cluster may then stand still.
        #[arg(long)]
        force: bool,
    },
    /// Makes a learner a voter.
    Promote {
        /// Its name or id.
        member: String,
    },
    /// Another member shall lead.
    TransferLeader {
        /// A voter's name or id; otherwise whichever has caught up best.
        member: Option<String>,
    },
    /// Has another key sign session tokens, or drops one that somebody else may have. `cluster status` shows how they stand.
    RotateSigningKey(RotateSigningKeyArgs),
    /// Join tokens.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Turns a join token (--token-file) into a certificate, for an administrator, gateway or agent. The key never leaves this machine.
    Redeem {
        /// Name to be in the certificate; the token may say it already.
        #[arg(long, default_value = "")]
        name: String,
        /// A further DNS name or IP address in the certificate; may be given again.
        #[arg(long = "alt-name", value_name = "NAME")]
        alt_names: Vec<String>,
        /// The folder for node.crt, node.key and ca.crt.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

/// By what session tokens are signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SigningAlgorithm {
    Eddsa,
    Es256,
}

#[derive(Debug, Args)]
pub(crate) struct RotateSigningKeyArgs {
    /// How long the new key is published before it signs; otherwise as the member is configured, ten minutes unless it says otherwise.
    #[arg(long, value_parser = parse_duration, conflicts_with_all = ["now", "revoke", "revoke_current"])]
    pub(crate) publish_for: Option<Duration>,
    /// It signs at once: who has not heard of it yet refuses its tokens for a moment, others' caches of the JWKS for longer.
    #[arg(long, conflicts_with_all = ["revoke", "revoke_current"])]
    pub(crate) now: bool,
    /// What the new key signs by. Default: as the one that signs now. Every gateway must be of this release before it is ES256.
    #[arg(long, value_enum, conflicts_with_all = ["revoke", "revoke_current"])]
    pub(crate) algorithm: Option<SigningAlgorithm>,
    /// Returns when the new key signs.
    #[arg(long, conflicts_with_all = ["revoke", "revoke_current"])]
    pub(crate) wait: bool,
    /// Drops this key instead: its tokens and all that was made of them are good no more, and sessions by them end.
    #[arg(long, value_name = "KID", conflicts_with = "revoke_current")]
    pub(crate) revoke: Option<String>,
    /// Drops the key that signs now; the one that is published signs from now on, or a new one.
    #[arg(long)]
    pub(crate) revoke_current: bool,
    /// Why it is dropped; kept with the revocation.
    #[arg(long, default_value = "")]
    pub(crate) reason: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Makes a join token, and prints it: it is not told again.
    Create(CreateTokenArgs),
    /// Join tokens, without their secrets.
    List {
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Takes a join token back.
    Delete { id: String },
}

#[derive(Debug, Args)]
pub(crate) struct CreateTokenArgs {
    /// What its holder becomes.
    #[arg(long, value_enum)]
    pub(crate) role: CertRole,
    /// How long it is good for.
    #[arg(long, default_value = "1h", value_parser = parse_duration)]
    pub(crate) ttl: Duration,
    /// How often.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) uses: u32,
    /// Only for this name.
    #[arg(long, default_value = "")]
    pub(crate) name: String,
    /// For an agent: the pool that it serves.
    #[arg(long, default_value = "")]
    pub(crate) pool: String,
    /// For a gateway: only targets with this label, KEY=VALUE; may be given again.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) serves: Vec<String>,
    /// For a member of the control plane: it stays a learner until it is promoted.
    #[arg(long)]
    pub(crate) learner: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum FleetCommand {
    /// Gateways that report to the control plane.
    Gateways {
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Agents that have a tunnel, and which gateways hold it.
    Agents {
        /// Of this pool alone.
        #[arg(long, default_value = "")]
        pool: String,
        /// With a tunnel to this gateway alone.
        #[arg(long, default_value = "")]
        gateway: String,
        #[command(flatten)]
        output: OutputArgs,
    },
}
