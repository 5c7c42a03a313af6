//! `postern control`: running a member, and making one.

use std::path::Path;

use postern_runtime::pki::{JoinTokenText, write_private};
use postern_server::cluster;
use zeroize::Zeroizing;

use super::when_exactly;
use crate::args::ConnectionArgs;
use crate::client::read;
use crate::cluster_args::{ControlArgs, ControlCommand};
use crate::failure::Failure;
use crate::{output, roles};

pub(crate) async fn run(args: &ControlArgs, connection: &ConnectionArgs) -> Result<(), Failure> {
    match (&args.command, &args.config) {
        (None, Some(config)) | (Some(ControlCommand::Run { config }), _) => roles::control(config).await,
        (None, None) => Err(Failure::usage("which node? give --config FILE")),
        (Some(ControlCommand::Init { config, token_ttl, token_out }), _) => {
            init(config, *token_ttl, token_out.as_deref()).await
        }
        (Some(ControlCommand::Join { config, peers }), _) => join(config, peers, connection).await,
        (Some(ControlCommand::Backup { .. } | ControlCommand::Restore { .. }), _) => Err(Failure::failed("not yet")),
    }
}

async fn init(config: &Path, token_ttl: std::time::Duration, token_out: Option<&Path>) -> Result<(), Failure> {
    let config = roles::control_config(config)?;
    let founded = cluster::init(&config, token_ttl).await.map_err(|error| Failure::failed(error.to_string()))?;
    output::line(format!(
        "cluster {} was founded; its first member is {}.\n\n  authority  SHA-256 {}\n",
        founded.cluster_id, founded.node_name, founded.ca_fingerprint
    ))?;
    tell_token(&founded.bootstrap_token, founded.token_expires_at, token_out)
}

/// Prints the first administrator's token, or writes it, and says what to do with it.
pub(super) fn tell_token(
    token: &JoinTokenText,
    until: postern_core::Timestamp,
    out: Option<&Path>,
) -> Result<(), Failure> {
    let text = Zeroizing::new(format!("{}\n", *token.to_text()));
    let file = match out {
        Some(path) => {
            write_private(path, text.as_bytes()).map_err(|error| Failure::failed(error.to_string()))?;
            path.display().to_string()
        }
        None => {
            output::line("The first administrator's token, good once; it is not told again:\n")?;
            output::raw(text.as_bytes())?;
            output::line("")?;
            "FILE".to_owned()
        }
    };
    output::line(format!(
        "Start the node (postern control --config ...), and before {} turn the token into a certificate:\n\n  \
         postern cluster redeem --server https://HOST:PORT --token-file {file} --name NAME --out DIR",
        when_exactly(until)
    ))
}

/// The join token of `--token-file`.
pub(super) fn join_token(connection: &ConnectionArgs) -> Result<JoinTokenText, Failure> {
    let Some(path) = &connection.token_file else {
        return Err(Failure::usage(
            "which join token? give --token-file, a file with the line that `cluster token create` printed",
        ));
    };
    let text = Zeroizing::new(read(path)?);
    text.parse().map_err(|error| Failure::failed(format!("{}: {error}", path.display())))
}

async fn join(config: &Path, peers: &[String], connection: &ConnectionArgs) -> Result<(), Failure> {
    let token = join_token(connection)?;
    let config = roles::control_config(config)?;
    let joined = cluster::join(&config, &token, peers).await.map_err(|error| Failure::failed(error.to_string()))?;
    output::line(format!(
        "cluster {} has let {} in as member {}. It takes part once it runs: postern control --config ...",
        joined.cluster_id, joined.node_name, joined.node_id
    ))
}
