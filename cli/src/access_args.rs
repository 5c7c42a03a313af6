//! What the command line takes about access on request.

use std::time::Duration;

use clap::{Args, Subcommand};
use postern_core::Name;

use crate::approval_args::ReviewArgs;
use crate::args::OutputArgs;
use crate::manifest::parse_duration;

#[derive(Debug, Subcommand)]
pub(crate) enum AccessCommand {
    /// Asks for what a policy permits on request, and prints the request's id. With --wait: 0 when it was granted, 3 when it was denied, 4 when nobody
    /// answered in time, 5 when it was taken back or is over.
    Request(RequestArgs),
    /// Requests that wait and grants that last; with --all, all that are remembered.
    List {
        /// Only your own.
        #[arg(long)]
        mine: bool,
        /// Only those that wait for reviewers.
        #[arg(long)]
        pending: bool,
        #[arg(long, conflicts_with = "pending")]
        all: bool,
        /// Only on this target.
        #[arg(long, default_value = "", hide_default_value = true)]
        target: String,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// One request with its reason and reviews.
    Show {
        id: String,
        #[command(flatten)]
        wait: WaitArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Agrees.
    Approve(ReviewArgs),
    /// Refuses: one is enough.
    Deny(ReviewArgs),
    /// Takes a request back, or ends a grant before its time: your own, or one that you may review.
    End {
        id: String,
        /// Why, for the record.
        #[arg(long, default_value = "", hide_default_value = true)]
        because: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct RequestArgs {
    /// Where.
    #[arg(long)]
    pub(crate) target: Name,
    /// Which policy is to permit; to be given where several do on request.
    #[arg(long)]
    pub(crate) policy: Option<Name>,
    /// Why: reviewers and the record see it.
    #[arg(long)]
    pub(crate) reason: String,
    /// For how long, from when it is approved: 30m, 2h. Default: as long as the policy lets.
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) duration: Option<Duration>,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// Waits until it is decided, at most so long: --wait, --wait=10m. Default: until the request lapses.
    #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true, default_missing_value = "30d", value_parser = parse_duration)]
    pub(crate) wait: Option<Duration>,
}
