//! A backup without a cluster: from the disk of a member that is left when a majority is lost for good.

use std::path::Path;

use postern_state::State;
use raft::eraftpb::EntryType;

use super::{Backup, BackupError};
use crate::cluster::identity::DataDir;
use crate::config::ControlConfig;
use crate::raft::log_store::{DiskLog, Loaded, LogStore as _, StorageError, check_whole};
use crate::run::{ControlError, kek};

/// What a member's disk holds, as a backup.
pub struct Salvaged {
    /// The index that it reaches.
    pub index: u64,
    /// How many entries at its end the member did not know to be acknowledged. They are in it: they may have been.
    pub uncertain: u64,
    backup: Backup,
}

impl Iterator for Salvaged {
    type Item = Result<Vec<u8>, BackupError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.backup.next()
    }
}

/// Reads the data directory of a member that does not run, to the end of its log, and seals it as a backup. The directory stays as it is.
///
/// # Errors
/// When the member runs, its log is damaged, or its key-encryption key is another.
pub async fn salvage(config: &ControlConfig) -> Result<Salvaged, ControlError> {
    let data = DataDir::new(&config.data_dir);
    data.load()?;
    let kek = kek(config, true)?;
    let loaded = load(&data.log())?;
    let committed = loaded.hard_state.commit;
    let state = replay(&loaded)?;
    let uncertain = state.index().saturating_sub(committed);
    let backup = Backup::begin(&state, &kek).await?;
    Ok(Salvaged { index: state.index(), uncertain, backup })
}

fn load(dir: &Path) -> Result<Loaded, ControlError> {
    let fault = |source: StorageError| ControlError::Log { dir: dir.display().to_string(), source };
    let loaded = DiskLog::open(dir).and_then(|mut log| log.load()).map_err(fault)?;
    check_whole(&loaded).map_err(fault)?;
    Ok(loaded)
}

fn replay(loaded: &Loaded) -> Result<State, BackupError> {
    let mut state = match &loaded.snapshot {
        Some(snapshot) => State::restore(&snapshot.data)?,
        None => State::default(),
    };
    let covered = loaded.snapshot.as_ref().map_or(0, |snapshot| snapshot.index);
    let commands = loaded.entries.iter().filter(|entry| {
        // What changes the members is of no account for a cluster that begins anew.
        entry.index > covered && entry.entry_type() == EntryType::EntryNormal && !entry.data.is_empty()
    });
    for entry in commands {
        state.apply(entry.index, &entry.data)?;
    }
    Ok(state)
}
