//! What `postern review` takes.

use clap::{ArgGroup, Args, Subcommand, ValueEnum};

use crate::args::OutputArgs;

#[derive(Debug, Subcommand)]
pub(crate) enum ReviewCommand {
    /// Those that are open; with --overdue, those of them that are overdue; with --all, closed ones, too.
    #[command(group = ArgGroup::new("which"))]
    List {
        /// As without any.
        #[arg(long, group = "which")]
        open: bool,
        #[arg(long, group = "which")]
        overdue: bool,
        #[arg(long, group = "which")]
        all: bool,
        /// Only of this target.
        #[arg(long, default_value = "", hide_default_value = true)]
        target: String,
        /// Only what ISSUER/SUBJECT did.
        #[arg(long, default_value = "", hide_default_value = true)]
        principal: String,
        /// Only of this session.
        #[arg(long, default_value = "", hide_default_value = true)]
        session: String,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// One review: who did what, where, by which policies.
    Show {
        id: String,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Closes a review, once its session has ended.
    Close(CloseArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CloseArgs {
    pub(crate) id: String,
    /// What you found.
    #[arg(long)]
    pub(crate) verdict: FindingArg,
    /// Why, for the record; a concern needs one.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) comment: String,
}

/// What a reviewer found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FindingArg {
    /// It was right.
    Ok,
    /// It was not, or somebody has to look further.
    Concern,
}
