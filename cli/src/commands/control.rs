//! `postern control`: running a member, and making one.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use postern_proto::admin::v1::BackupRequest;
use postern_runtime::pki::{JoinTokenText, write_private};
use postern_server::cluster;
use zeroize::Zeroizing;

use super::when_exactly;
use crate::args::ConnectionArgs;
use crate::client::{connect, read, refused};
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
        (Some(ControlCommand::Backup { out, from_disk: None }), _) => backup(out, connection).await,
        (Some(ControlCommand::Backup { out, from_disk: Some(config) }), _) => salvage(config, out).await,
        (Some(ControlCommand::Restore { config, input, token_ttl, token_out }), _) => {
            restore(config, input, *token_ttl, token_out.as_deref()).await
        }
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

/// A file that is written beside its place, and put there when it is whole.
struct Saving<'a> {
    out: &'a Path,
    part: PathBuf,
    file: File,
    written: u64,
}

impl<'a> Saving<'a> {
    fn begin(out: &'a Path) -> Result<Self, Failure> {
        let mut name =
            out.file_name().map(std::ffi::OsStr::to_owned).ok_or_else(|| Failure::usage("--out takes a file"))?;
        name.push(".part");
        let part = out.with_file_name(name);
        let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&part);
        let file = file.map_err(|error| cannot_write(out, &error))?;
        Ok(Self { out, part, file, written: 0 })
    }

    fn take(&mut self, piece: &[u8]) -> Result<(), Failure> {
        self.file.write_all(piece).map_err(|error| cannot_write(self.out, &error))?;
        self.written = self.written.saturating_add(u64::try_from(piece.len()).unwrap_or_default());
        Ok(())
    }

    fn end(self) -> Result<(), Failure> {
        let done = self.file.sync_all().and_then(|()| std::fs::rename(&self.part, self.out));
        done.map_err(|error| cannot_write(self.out, &error))?;
        output::line(format!(
            "{}: {} bytes. It opens only with the cluster's key-encryption key: keep that too, elsewhere. Recordings are not in it.",
            self.out.display(),
            self.written
        ))
    }
}

impl Drop for Saving<'_> {
    fn drop(&mut self) {
        // Not there any more when it was put in its place.
        let _ = std::fs::remove_file(&self.part);
    }
}

fn cannot_write(out: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format!("{}: {error}", out.display()))
}

async fn backup(out: &Path, connection: &ConnectionArgs) -> Result<(), Failure> {
    let client = connect(connection).await?;
    let mut pieces = client.cluster().backup(BackupRequest {}).await.map_err(refused)?.into_inner();
    let mut saving = Saving::begin(out)?;
    while let Some(piece) = pieces.message().await.map_err(refused)? {
        saving.take(&piece.data)?;
    }
    saving.end()
}

/// What the disk of a member holds that does not run.
async fn salvage(config: &Path, out: &Path) -> Result<(), Failure> {
    let config = roles::control_config(config)?;
    let failed = |error: &dyn std::fmt::Display| Failure::failed(error.to_string());
    let salvaged = postern_server::backup::salvage(&config).await.map_err(|error| failed(&error))?;
    let (index, uncertain) = (salvaged.index, salvaged.uncertain);
    let mut saving = Saving::begin(out)?;
    for piece in salvaged {
        saving.take(&piece.map_err(|error| failed(&error))?)?;
    }
    saving.end()?;
    output::line(format!(
        "It is as this member had it, up to index {index}; the last {uncertain} entries it did not know to be acknowledged. What only members \
         had that are lost is lost: of several that are left, take the one with the highest index."
    ))
}

async fn restore(
    config: &Path,
    input: &Path,
    token_ttl: std::time::Duration,
    token_out: Option<&Path>,
) -> Result<(), Failure> {
    let config = roles::control_config(config)?;
    let restored = postern_server::backup::restore(&config, input, token_ttl)
        .await
        .map_err(|error| Failure::failed(error.to_string()))?;
    output::line(format!(
        "cluster {} as it was at {} (index {}) begins a new life, {}, with {} (member {}) alone. Former members are forgotten: their \
         certificates are good no more, let them join anew with empty data directories. Gateways and agents go on.\n",
        restored.header.cluster_id,
        restored.header.made_at,
        restored.header.index,
        restored.incarnation,
        restored.node_name,
        restored.node_id
    ))?;
    tell_token(&restored.bootstrap_token, restored.token_expires_at, token_out)
}
