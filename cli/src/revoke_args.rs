//! What the command line takes about revocation.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use postern_core::Name;

use crate::args::OutputArgs;

#[derive(Debug, Subcommand)]
pub(crate) enum RevokeCommand {
    /// Tokens by their ids; or one that is shown. Without either: the token in POSTERN_TOKEN or --token-file itself, which its bearer may always.
    Token {
        /// As records and `postern token show` name them.
        #[arg(value_name = "ID", conflicts_with = "file")]
        ids: Vec<String>,
        /// A file with the token to revoke; - for standard input.
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// And all that is made of it, however deep.
        #[arg(long)]
        subtree: bool,
        /// The Issuer whose tokens have these ids. Default: they are session tokens, or links.
        #[arg(long, value_name = "ISSUER", requires = "ids")]
        issuer: Option<Name>,
        #[command(flatten)]
        why: Why,
    },
    /// All tokens of one identity, ISSUER/SUBJECT, and those that are handed to it.
    Principal {
        #[arg(value_name = "ISSUER/SUBJECT")]
        principal: String,
        #[command(flatten)]
        before: Before,
        #[command(flatten)]
        why: Why,
    },
    /// All tokens that an issuer vouches for with a claim that it keeps.
    Claim {
        issuer: Name,
        #[arg(value_name = "CLAIM=VALUE")]
        claim: String,
        #[command(flatten)]
        before: Before,
        #[command(flatten)]
        why: Why,
    },
    /// All tokens of an issuer.
    Issuer {
        name: Name,
        #[command(flatten)]
        before: Before,
        #[command(flatten)]
        why: Why,
    },
    /// All tokens that there are, of every issuer: your own, too.
    All {
        /// Those that were issued no later: "now", or a time as in 2026-01-31T12:00:00Z.
        #[arg(long, value_name = "TIME", value_parser = parse_time)]
        before: When,
        #[command(flatten)]
        why: Why,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum RevocationsCommand {
    /// Those that are in force.
    List {
        #[command(flatten)]
        output: OutputArgs,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Before {
    /// Those that were issued no later: "now", or a time as in 2026-01-31T12:00:00Z.
    #[arg(long, value_name = "TIME", default_value = "now", value_parser = parse_time)]
    pub(crate) before: When,
}

#[derive(Debug, Args)]
pub(crate) struct Why {
    /// For the record.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub(crate) reason: String,
}

/// A time; none: now, by the control plane's clock.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct When(pub(crate) Option<prost_types::Timestamp>);

fn parse_time(text: &str) -> Result<When, String> {
    match text {
        "now" => Ok(When(None)),
        text => {
            text.parse().map(|at| When(Some(at))).map_err(|_| "not \"now\", nor like 2026-01-31T12:00:00Z".to_owned())
        }
    }
}
