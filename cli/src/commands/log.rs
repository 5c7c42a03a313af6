//! `postern log`.

use std::collections::BTreeSet;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postern_core::SessionId;
use postern_core::transparency::{Leaf, SignedCheckpoint};
use postern_proto::admin::v1::{GetEvidenceRequest, GetHeadRequest, GetHeadResponse, ListLeavesRequest};

use super::sessions::save;
use crate::args::ConnectionArgs;
use crate::client::{Client, connect, refused};
use crate::failure::Failure;
use crate::log_args::LogCommand;
use crate::output;

/// The files of an export.
pub(crate) const HEAD: &str = "head";
pub(crate) const SINCE: &str = "since";
pub(crate) const EDGE: &str = "edge";
pub(crate) const LEAVES: &str = "leaves";
/// Leaves asked for at once.
const PAGE: u32 = 4_000;

pub(crate) async fn run(command: &LogCommand, connection: &ConnectionArgs) -> Result<(), Failure> {
    let client = connect(connection).await?;
    match command {
        LogCommand::Head { witnessed } => output::raw(head(&client, *witnessed).await?.checkpoint.as_bytes()),
        LogCommand::Key => output::line(head(&client, false).await?.key),
        LogCommand::Prove { id, output: path, witnessed } => {
            let request = GetEvidenceRequest { session: id.clone(), witnessed: *witnessed };
            let evidence = client.log().get_evidence(request).await.map_err(refused)?.into_inner().evidence;
            match path {
                Some(path) => write(path, evidence.as_bytes()),
                None => output::raw(evidence.as_bytes()),
            }
        }
        LogCommand::Export { dir, since, no_recordings, witnessed } => {
            export(&client, dir, since.as_deref(), !no_recordings, *witnessed).await
        }
    }
}

async fn head(client: &Client, witnessed: bool) -> Result<GetHeadResponse, Failure> {
    Ok(client.log().get_head(GetHeadRequest { witnessed }).await.map_err(refused)?.into_inner())
}

/// A head that lies in a file.
pub(crate) fn kept(path: &Path) -> Result<SignedCheckpoint, Failure> {
    let failed = |why: String| Failure::failed(format!("{}: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    text.parse().map_err(|fault: postern_core::transparency::CheckpointFault| failed(fault.to_string()))
}

async fn export(
    client: &Client,
    dir: &Path,
    since: Option<&Path>,
    recordings: bool,
    witnessed: bool,
) -> Result<(), Failure> {
    let older = since.map(kept).transpose()?;
    std::fs::create_dir_all(dir).map_err(|error| Failure::failed(format!("{}: {error}", dir.display())))?;
    if std::fs::read_dir(dir)?.next().is_some() {
        return Err(Failure::failed(format!("{} is not empty", dir.display())));
    }
    let newest = head(client, witnessed).await?.checkpoint;
    let newer: SignedCheckpoint =
        newest.parse().map_err(|_| Failure::failed("the control plane's head of the log cannot be read"))?;
    let first = older.as_ref().map_or(0, |older| older.head().size);
    let (leaves, edge) = leaves(client, first, newer.head().size).await?;
    let mut count = 0_usize;
    if recordings {
        // An orphan may have several.
        let mut seen = BTreeSet::new();
        for leaf in leaves.iter().filter(|leaf| seen.insert(leaf.session)) {
            let id = leaf.session.to_string();
            let path = dir.join(format!("{id}.rec"));
            match save(client, &id, &path).await {
                Ok(_) => count = count.saturating_add(1),
                // Whoever verifies says that it is missing: the rest is exported all the same.
                Err(failure) => {
                    output::note(format!("{id} cannot be exported: {failure}"));
                    drop(std::fs::remove_file(&path));
                }
            }
        }
    }
    write(&dir.join(EDGE), edge.iter().map(|peak| STANDARD.encode(peak) + "\n").collect::<String>().as_bytes())?;
    write(&dir.join(LEAVES), &leaves.iter().flat_map(Leaf::to_bytes).collect::<Vec<u8>>())?;
    if let Some(older) = older {
        write(&dir.join(SINCE), older.to_string().as_bytes())?;
    }
    // Last: a folder without it is no whole export.
    write(&dir.join(HEAD), newest.as_bytes())?;
    output::line(format!("{}: leaves {first} to {}, {count} recordings", dir.display(), newer.head().size))
}

/// The leaves between two sizes, and the full subtrees of the smaller tree.
async fn leaves(client: &Client, first: u64, size: u64) -> Result<(Vec<Leaf>, Vec<Vec<u8>>), Failure> {
    let (mut leaves, mut edge): (Vec<Leaf>, Option<Vec<Vec<u8>>>) = (Vec::new(), None);
    loop {
        let next = first.saturating_add(u64::try_from(leaves.len()).unwrap_or(u64::MAX));
        if next >= size && edge.is_some() {
            break;
        }
        let left = u32::try_from(size.saturating_sub(next)).unwrap_or(u32::MAX).clamp(1, PAGE);
        let request = ListLeavesRequest { from: next, page_size: left };
        let page = client.log().list_leaves(request).await.map_err(refused)?.into_inner();
        edge.get_or_insert(page.edge);
        if page.leaves.is_empty() {
            break;
        }
        for leaf in page.leaves {
            leaves.push(Leaf::from_bytes(&leaf).map_err(|fault| Failure::failed(fault.to_string()))?);
        }
        // The log may have grown meanwhile.
        leaves.truncate(usize::try_from(size.saturating_sub(first)).unwrap_or(usize::MAX));
    }
    Ok((leaves, edge.unwrap_or_default()))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    std::fs::write(path, bytes).map_err(|error| Failure::failed(format!("cannot write {}: {error}", path.display())))
}

/// Whose recording a file of an export is, by its name.
pub(crate) fn named(path: &Path) -> Option<SessionId> {
    path.file_stem()?.to_str()?.parse().ok()
}
