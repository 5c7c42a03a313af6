//! Where things are in the folder of a `postern dev`, and what it tells about itself there.

use std::fs::{File, TryLockError};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use postern_runtime::pki::{create_private_dir, write_private};
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// The folder of a `postern dev`.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    root: PathBuf,
}

/// Held as long as the process runs: two on one folder would break each other's log.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

/// Where everything listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Endpoints {
    /// The public API.
    pub(super) admin: SocketAddr,
    /// Where clients connect to.
    pub(super) postgres: SocketAddr,
    /// UDP.
    pub(super) tunnel: SocketAddr,
    pub(super) issuer: SocketAddr,
    /// Health and metrics.
    pub(super) ops: SocketAddr,
    pub(super) pid: u32,
}

impl Endpoints {
    /// The development issuer's `iss`.
    pub(super) fn issuer_url(&self) -> String {
        format!("http://{}", self.issuer)
    }
}

impl Layout {
    /// The folder of `data_dir`, made if it is not there, as an absolute path.
    pub(super) fn create(data_dir: &Path) -> Result<Self, Failure> {
        create_private_dir(data_dir).map_err(|error| Failure::failed(error.to_string()))?;
        let root =
            data_dir.canonicalize().map_err(|error| Failure::failed(format!("{}: {error}", data_dir.display())))?;
        Ok(Self { root })
    }

    /// A folder that a `postern dev` has made.
    pub(super) fn existing(data_dir: &Path) -> Self {
        Self { root: data_dir.to_owned() }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn control(&self) -> PathBuf {
        self.root.join("control")
    }

    pub(super) fn gateway_credential(&self) -> PathBuf {
        self.root.join("gateway/credential")
    }

    pub(super) fn spool(&self) -> PathBuf {
        self.root.join("gateway/spool")
    }

    pub(super) fn agent_credential(&self) -> PathBuf {
        self.root.join("agent/credential")
    }

    pub(super) fn issuer_key(&self) -> PathBuf {
        self.root.join("issuer.key")
    }

    /// There exactly while everything is up: scripts wait for it.
    fn endpoints_file(&self) -> PathBuf {
        self.root.join("endpoints.json")
    }

    /// Stays when the process ends: the next start takes the same ports, and so the issuer keeps its name.
    fn last_file(&self) -> PathBuf {
        self.root.join("last.json")
    }

    /// Refuses when another process has it.
    pub(super) fn lock(&self) -> Result<Lock, Failure> {
        let path = self.root.join("lock");
        let cannot = |error: std::io::Error| Failure::failed(format!("cannot lock {}: {error}", path.display()));
        let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(cannot)?;
        match file.try_lock() {
            Ok(()) => Ok(Lock { _file: file }),
            Err(TryLockError::WouldBlock) => {
                let by = self.last().map(|endpoints| format!(" (process {})", endpoints.pid)).unwrap_or_default();
                Err(Failure::failed(format!("another `postern dev` runs on {}{by}", self.root.display())))
            }
            Err(TryLockError::Error(error)) => Err(cannot(error)),
        }
    }

    /// Where the last start listened, or this one.
    pub(super) fn last(&self) -> Option<Endpoints> {
        let text = std::fs::read_to_string(self.last_file()).ok()?;
        serde_json::from_str(&text).ok()
    }

    pub(super) fn remember(&self, endpoints: &Endpoints) -> Result<(), Failure> {
        write_json(&self.last_file(), endpoints)
    }

    /// Says that everything is up, and where.
    pub(super) fn announce(&self, endpoints: &Endpoints) -> Result<(), Failure> {
        write_json(&self.endpoints_file(), endpoints)
    }

    /// Takes the announcement back.
    pub(super) fn retract(&self) {
        // Not there before the first start.
        let _ = std::fs::remove_file(self.endpoints_file());
    }
}

pub(super) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), Failure> {
    let mut text = serde_json::to_string_pretty(value).map_err(|error| Failure::failed(error.to_string()))?;
    text.push('\n');
    write_private(path, text.as_bytes()).map_err(|error| Failure::failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_on_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(&dir.path().join("data")).unwrap();
        let lock = layout.lock().unwrap();
        let refused = layout.lock().unwrap_err().to_string();
        assert!(refused.contains("another `postern dev` runs on"), "{refused}");
        drop(lock);
        layout.lock().unwrap();
    }
}
