//! A new cluster of one member from a backup: the same data and authority, a new life.

use std::path::Path;
use std::time::Duration;

use postern_core::Timestamp;
use postern_runtime::pki::JoinTokenText;
use postern_state::State;
use raft::eraftpb::{ConfState, HardState};

use super::{BackupError, Header, open};
use crate::bootstrap;
use crate::cluster::identity::{DataDir, NodeFile};
use crate::cluster::init::{Solo, admit, own_record};
use crate::config::ControlConfig;
use crate::raft::log_store::{DiskLog, LogStore as _, SnapshotRecord, Write};
use crate::run::{ControlError, kek};

const LIMIT: Duration = Duration::from_secs(120);
/// The restored log begins in this term.
const TERM: u64 = 1;

/// A cluster that was restored. Its node is not running yet.
pub struct Restored {
    /// What the backup said of itself.
    pub header: Header,
    /// Tells this life of the cluster from the former one.
    pub incarnation: String,
    /// The one member's name.
    pub node_name: postern_core::Name,
    /// Its id: none that the former cluster had.
    pub node_id: u64,
    /// Makes an administrator: one use. Secret.
    pub bootstrap_token: JoinTokenText,
    /// Until when.
    pub token_expires_at: Timestamp,
}

/// Makes the configuration's data directory a new cluster from the backup in `file`.
///
/// # Errors
/// When the directory holds something already, the backup is damaged, or its key-encryption key is another.
pub async fn restore(config: &ControlConfig, file: &Path, token_ttl: Duration) -> Result<Restored, ControlError> {
    if let Some(fault) = config.faults() {
        return Err(ControlError::Config(fault));
    }
    let bytes = std::fs::read(file).map_err(|source| BackupError::File { path: file.display().to_string(), source })?;
    let data = DataDir::new(&config.data_dir);
    data.prepare_new()?;
    let kek = kek(config, true)?;
    tokio::time::timeout(LIMIT, kek.ready()).await.map_err(|_| ControlError::Slow(LIMIT))??;
    let (header, clear) = open(&bytes, &kek).await?;
    let name = config.name().ok_or(ControlError::NoCluster)?;
    let founder = own_record(config, 0, &name, &kek, config.listen, config.peer_listen)?;
    let incarnation = bootstrap::incarnation();
    let mut state = State::restore(&clear).map_err(BackupError::State)?;
    let node_id = state.begin_anew(&incarnation, founder).ok_or(BackupError::NoCluster)?;
    let cluster = state.cluster().cloned().ok_or(ControlError::NoCluster)?;

    write_log(&data.log(), node_id, &state)?;
    let keys = bootstrap::open_keys(&kek, cluster, config.certificate_lifetime.0).await?;
    let raft = Solo::start(&data.log(), node_id, Vec::new())?;
    let token = tokio::time::timeout(LIMIT, admit(config, &data, &kek, &keys, &raft.handle, &name, token_ttl)).await;
    raft.close().await;
    let token = token.map_err(|_| ControlError::Slow(LIMIT))??;
    let mut file = NodeFile::new(&keys.cluster.id, &incarnation, node_id, name.clone());
    file.started = true;
    // Last: with it, the node is made.
    data.save(&file)?;
    Ok(Restored {
        header,
        incarnation,
        node_name: name,
        node_id,
        bootstrap_token: token.text,
        token_expires_at: token.expires_at,
    })
}

/// A log that begins with the state, and with one voter.
fn write_log(dir: &Path, node_id: u64, state: &State) -> Result<(), ControlError> {
    let fault = |source| ControlError::Log { dir: dir.display().to_string(), source };
    let mut log = DiskLog::open(dir).map_err(fault)?;
    log.load().map_err(fault)?;
    let index = state.index();
    let snapshot = SnapshotRecord {
        index,
        term: TERM,
        members: ConfState { voters: vec![node_id], ..Default::default() },
        data: state.snapshot().into(),
    };
    let hard_state = HardState { term: TERM, vote: 0, commit: index };
    log.save(Write { snapshot: Some(&snapshot), hard_state: Some(&hard_state), ..Default::default() }).map_err(fault)
}
