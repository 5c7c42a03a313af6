//! Which references in targets this gateway follows.

use std::path::PathBuf;
use std::time::Duration;

use postern_runtime::config::HumanDuration;
use serde::{Deserialize, Serialize};

/// Which references in targets this gateway follows: none that is not allowed here.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CredentialsConfig {
    /// Environment variables; `*` stands for any text: `PG_*`.
    pub env_allow: Vec<String>,
    /// Folders whose files may be read, links followed within them.
    pub file_dirs: Vec<PathBuf>,
    /// `mount/path` of key-value secrets and `mount/role` of database roles; `*` stands for any text: `secret/postern/*`.
    pub vault_allow: Vec<String>,
    /// How long what was read from a key-value store is used without asking again.
    pub kv_ttl: HumanDuration,
    /// How long it may be used while Vault is away.
    pub kv_stale: HumanDuration,
}

impl Default for CredentialsConfig {
    fn default() -> Self {
        Self {
            env_allow: Vec::new(),
            file_dirs: Vec::new(),
            vault_allow: Vec::new(),
            kv_ttl: HumanDuration(Duration::from_secs(60)),
            kv_stale: HumanDuration(Duration::from_secs(3600)),
        }
    }
}

impl CredentialsConfig {
    /// Faults that the form alone does not show.
    pub(crate) fn faults(&self) -> Option<String> {
        let relative = self.file_dirs.iter().find(|dir| !dir.is_absolute());
        if let Some(dir) = relative {
            return Some(format!("credentials.file_dirs: {} is not an absolute path", dir.display()));
        }
        let lists = [("env_allow", &self.env_allow), ("vault_allow", &self.vault_allow)];
        let (list, _) = lists.iter().find(|(_, list)| list.iter().any(String::is_empty))?;
        Some(format!("credentials.{list}: an empty pattern allows nothing"))
    }
}
