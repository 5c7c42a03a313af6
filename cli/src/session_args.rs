//! The arguments of `postern sessions`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::args::OutputArgs;
use crate::revoke_args::Why;

#[derive(Debug, Subcommand)]
pub(crate) enum SessionsCommand {
    /// The newest sessions.
    List {
        /// At most this many.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
        /// Only to this target.
        #[arg(long, default_value = "")]
        target: String,
        /// Only of this principal, ISSUER/SUBJECT.
        #[arg(long, default_value = "")]
        principal: String,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// One session of the index.
    Show {
        id: String,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// What happened, statement by statement, with decisions and (masked) results.
    Replay {
        /// A session's id, or the file of an export.
        recording: String,
        /// Of a session that is open: goes on with what it does, within a second, until it has ended.
        #[arg(long)]
        follow: bool,
        /// `json` prints each event as one line.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Proves that a recording is whole and untouched, or lists what is wrong with it.
    Verify {
        /// A session's id, or the file of an export (then nothing is asked of the control plane when --ca is given).
        recording: String,
    },
    /// Saves a recording as a file.
    Export {
        id: String,
        /// The file; - for standard output.
        #[arg(short = 'o', long = "output", value_name = "FILE")]
        output: PathBuf,
    },
    /// Ends sessions that are open, on whichever gateway they are: what is under way is cancelled, what is held withdrawn.
    Kill(KillArgs),
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true).multiple(true))]
pub(crate) struct KillArgs {
    /// Sessions' ids.
    #[arg(value_name = "ID", group = "which")]
    pub(crate) ids: Vec<String>,
    /// All open ones of this principal, ISSUER/SUBJECT; with --target: and to that target.
    #[arg(long, group = "which", conflicts_with = "ids")]
    pub(crate) principal: Option<String>,
    /// All open ones to this target.
    #[arg(long, group = "which", conflicts_with = "ids")]
    pub(crate) target: Option<String>,
    /// Does not ask before it ends what --principal or --target select.
    #[arg(long)]
    pub(crate) yes: bool,
    /// How long to wait until they have ended, in seconds; 0: not at all.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub(crate) wait: u64,
    #[command(flatten)]
    pub(crate) why: Why,
}
