//! The arguments of `postern sessions`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::args::OutputArgs;
use crate::manifest::parse_duration;
use crate::recording::Speed;
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
    Replay(ReplayArgs),
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
pub(crate) struct ReplayArgs {
    /// A session's id, or the file of an export.
    pub(crate) recording: String,
    /// Of a session that is open: goes on with what it does, within a second, until it has ended.
    #[arg(long)]
    pub(crate) follow: bool,
    /// Plays it: 1 at the pace at which it happened, 2 twice as fast. On a terminal: space pauses, + and - change the speed, right and
    /// left skip 10 seconds, n goes to the next match of --search, q quits.
    #[arg(long, value_name = "FACTOR", value_parser = Speed::parse, conflicts_with_all = ["follow", "asciicast"])]
    pub(crate) speed: Option<Speed>,
    /// When nothing happens for longer than this, that is how long it takes.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, conflicts_with = "follow")]
    pub(crate) idle: Option<std::time::Duration>,
    /// Begins so long after the session's beginning: what comes before is shown at once.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, requires = "speed")]
    pub(crate) from: Option<std::time::Duration>,
    /// Begins at the first event that shows this text, in any case of letters.
    #[arg(long, value_name = "TEXT", requires = "speed")]
    pub(crate) search: Option<String>,
    /// Prints it as an asciicast, version 2, for players of terminal recordings.
    #[arg(long, conflicts_with = "follow")]
    pub(crate) asciicast: bool,
    /// `json` prints each event as one line.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
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
