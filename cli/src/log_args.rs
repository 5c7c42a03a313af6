//! What `postern log` and `postern verify` take.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum LogCommand {
    /// Prints the newest signed head. Keep it where nobody of the cluster can change it: all that came before it can be proved by it.
    Head {
        /// The newest that witnesses have signed, too.
        #[arg(long)]
        witnessed: bool,
    },
    /// Prints the key that heads are verified by. Keep it, too.
    Key,
    /// Prints what proves that a session's recording is in the log.
    Prove {
        /// The session.
        id: String,
        /// The file; standard output without it.
        #[arg(short = 'o', long = "output", value_name = "FILE")]
        output: Option<PathBuf>,
        /// By the newest head that witnesses have signed, too.
        #[arg(long)]
        witnessed: bool,
    },
    /// Writes all leaves and recordings that came into the log, since a head or from its beginning, into an empty folder.
    Export {
        /// The folder; made when it is missing.
        dir: PathBuf,
        /// A head that was kept, a file: only what came after it.
        #[arg(long, value_name = "FILE")]
        since: Option<PathBuf>,
        /// Leaves and heads only.
        #[arg(long)]
        no_recordings: bool,
        /// Up to the newest head that witnesses have signed, too.
        #[arg(long)]
        witnessed: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Recordings (their proofs lie beside them as NAME.tlog-proof), and folders of `postern log export`.
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
    /// The log's key as `postern log key` printed it, or a file with it. Without it nothing is said of the log.
    #[arg(long, value_name = "KEY")]
    pub(crate) log_key: Option<String>,
    /// A witness' key, or a file with it: it must have signed the head. May be given several times: all must have.
    #[arg(long = "witness", value_name = "KEY", requires = "log_key")]
    pub(crate) witnesses: Vec<String>,
    /// The head from which on all must be there, a file: for a folder. Without it the folder's own, or the log's beginning.
    #[arg(long, value_name = "FILE")]
    pub(crate) since: Option<PathBuf>,
    /// A head that must be reached, or be the newest there is, a file: for a folder.
    #[arg(long, value_name = "FILE")]
    pub(crate) until: Option<PathBuf>,
}
