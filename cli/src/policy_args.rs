//! What `postern policy` takes.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::args::OutputArgs;
use crate::manifest::parse_duration;

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Says everything that is wrong with the policies of files and folders (.yaml, .yml, .cedar). Asks nobody.
    Validate {
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Prints the schema that policies in Cedar are checked against.
    Schema,
    /// Decides the cases of files (kind: PolicyTest) by the policies that these name, and says which are decided otherwise than expected. Asks nobody.
    Test {
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Says what is decided of a statement of somebody, by which policies, and what of it is not known here.
    Explain(Box<ExplainArgs>),
    /// Decides again what recorded sessions did, by the policies of files, and lists what would be decided otherwise.
    Diff(DiffArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// Policies and targets of these files and folders; otherwise those of the cluster.
    #[arg(long = "file", short = 'f', value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Whose statement: ISSUER/SUBJECT.
    #[arg(long, value_name = "ISSUER/SUBJECT")]
    pub(crate) principal: String,
    /// A group of theirs; may be said several times.
    #[arg(long = "group", value_name = "GROUP")]
    pub(crate) groups: Vec<String>,
    /// A claim that their token has, NAME=VALUE; may be said several times.
    #[arg(long = "claim", value_name = "NAME=VALUE")]
    pub(crate) claims: Vec<String>,
    /// Where.
    #[arg(long)]
    pub(crate) target: String,
    /// Otherwise as the target.
    #[arg(long)]
    pub(crate) database: Option<String>,
    /// From which address.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) source: Option<std::net::IpAddr>,
    /// When, as 2026-11-22T08:30:00Z; otherwise now.
    #[arg(long, value_name = "TIME")]
    pub(crate) at: Option<String>,
    /// A policy that permits on request, and was granted them; may be said several times.
    #[arg(long = "granted", value_name = "POLICY")]
    pub(crate) granted: Vec<String>,
    /// Why it was asked for.
    #[arg(long, requires = "granted", value_name = "TEXT")]
    pub(crate) justification: Option<String>,
    /// How many rows the target expects the statement to return or to write.
    #[arg(long, value_name = "ROWS")]
    pub(crate) estimated_rows: Option<u64>,
    /// Tables and views that there are, SCHEMA.NAME or 'SCHEMA.NAME(COLUMN, COLUMN)'; may be said several times. Otherwise any name is taken for one of the search path's first schema.
    #[arg(long = "relation", value_name = "SCHEMA.NAME")]
    pub(crate) relations: Vec<String>,
    /// Functions that there are, SCHEMA.NAME or 'SCHEMA.NAME volatile definer'; may be said several times. Any other counts as both.
    #[arg(long = "function", value_name = "SCHEMA.NAME")]
    pub(crate) functions: Vec<String>,
    /// A schema in which names are looked up, in this order.
    #[arg(long = "search-path", value_name = "SCHEMA", default_value = "public")]
    pub(crate) search_path: Vec<String>,
    /// The statement.
    pub(crate) statement: String,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// Files and folders of policies; those of the cluster with the same names are replaced by them, the others stay.
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// The files' policies are all that there are.
    #[arg(long)]
    pub(crate) replace_all: bool,
    /// By what sessions did that began so long ago at most.
    #[arg(long, required = true, num_args = 0..=1, default_missing_value = "7d", value_name = "AGE", value_parser = parse_duration)]
    pub(crate) against_sessions: std::time::Duration,
    /// Of these sessions only, on a target.
    #[arg(long)]
    pub(crate) target: Option<String>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}
