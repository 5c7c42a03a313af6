//! What `postern approvals` and `postern webhooks` take.

use clap::{Args, Subcommand};

use crate::args::OutputArgs;

#[derive(Debug, Subcommand)]
pub(crate) enum ApprovalsCommand {
    /// Those that wait; with --all, all that are remembered.
    List {
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// One approval with its statement and reviews.
    Show {
        id: String,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Lets the operation run.
    Approve(ReviewArgs),
    /// Refuses the operation.
    Deny(ReviewArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum WebhooksCommand {
    /// All of them: what waits, what was delivered, what failed.
    List {
        #[command(flatten)]
        output: OutputArgs,
    },
    /// One of them.
    Show {
        name: String,
        #[command(flatten)]
        output: OutputArgs,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ReviewArgs {
    pub(crate) id: String,
    /// Why, for the requester and the record.
    #[arg(long, default_value = "")]
    pub(crate) comment: String,
}
