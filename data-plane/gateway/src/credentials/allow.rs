//! What the gateway's configuration lets targets refer to.

use std::path::{Path, PathBuf};

use postern_core::target::CredentialSource;

use super::CredentialError;
use super::config::CredentialsConfig;

pub(super) struct Allowed {
    variables: Vec<String>,
    dirs: Vec<PathBuf>,
    vault: Vec<String>,
}

impl Allowed {
    pub(super) fn new(config: &CredentialsConfig) -> Self {
        Self { variables: config.env_allow.clone(), dirs: config.file_dirs.clone(), vault: config.vault_allow.clone() }
    }

    pub(super) fn variable(&self, name: &str) -> Result<(), CredentialError> {
        if self.variables.iter().any(|pattern| matches(pattern, name)) {
            return Ok(());
        }
        let what = format!("environment variable {name}");
        Err(CredentialError::NotAllowed { what, setting: "gateway.credentials.env_allow" })
    }

    /// The file itself, every link followed, when it lies in an allowed folder. Links out of it are not: mounted secrets are links
    /// within their own folder.
    pub(super) async fn file(&self, path: &str) -> Result<PathBuf, CredentialError> {
        let refused =
            || CredentialError::NotAllowed { what: format!("file {path}"), setting: "gateway.credentials.file_dirs" };
        // Before the disk is asked: whether a file exists elsewhere is nobody's business.
        let within = |dir: &&PathBuf| Path::new(path).starts_with(dir);
        let dir = self.dirs.iter().find(within).ok_or_else(refused)?;
        let fault = |error: std::io::Error| CredentialError::File { path: path.to_owned(), why: error.to_string() };
        let real = tokio::fs::canonicalize(path).await.map_err(fault)?;
        let dir = tokio::fs::canonicalize(dir).await.map_err(fault)?;
        if real.starts_with(&dir) { Ok(real) } else { Err(refused()) }
    }

    pub(super) fn vault(&self, source: &CredentialSource) -> Result<(), CredentialError> {
        let path = match source {
            CredentialSource::VaultKv(kv) => format!("{}/{}", kv.mount, kv.path),
            CredentialSource::VaultDatabase(database) => format!("{}/{}", database.mount, database.role),
            _ => return Ok(()),
        };
        if self.vault.iter().any(|pattern| matches(pattern, &path)) {
            return Ok(());
        }
        Err(CredentialError::NotAllowed {
            what: format!("{path} in Vault"),
            setting: "gateway.credentials.vault_allow",
        })
    }
}

/// Whether `text` is what `pattern` says; `*` stands for any text, also for none.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(head) else { return false };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return text.ends_with(part);
        }
        // The earliest place leaves most for the rest.
        let Some((_, after)) = text.split_once(part) else { return false };
        text = after;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text) in [
            ("PG_*", "PG_SHOP"),
            ("*", "x"),
            ("*", ""),
            ("a*b*c", "axxbyyc"),
            ("a*b*c", "abbc"),
            ("secret/postern/*", "secret/postern/a/b"),
            ("same", "same"),
        ] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("PG_*", "PATH"),
            ("PG", "PG_"),
            ("a*b*c", "ac"),
            ("a*bc", "abcd"),
            ("secret/postern/*", "secret/other"),
            ("ab*ba", "aba"),
        ] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }

    #[tokio::test]
    async fn files_outside_are_not_read_whatever_leads_there() {
        let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = |dir: &tempfile::TempDir, name: &str| dir.path().join(name).display().to_string();
        std::fs::write(path(&inside, "good"), "x").unwrap();
        std::fs::write(path(&outside, "bad"), "x").unwrap();
        std::os::unix::fs::symlink(path(&outside, "bad"), path(&inside, "out")).unwrap();
        std::os::unix::fs::symlink(path(&inside, "good"), path(&inside, "link")).unwrap();
        let config = CredentialsConfig { file_dirs: vec![inside.path().to_owned()], ..Default::default() };
        let allowed = Allowed::new(&config);
        assert!(allowed.file(&path(&inside, "good")).await.is_ok());
        assert!(allowed.file(&path(&inside, "link")).await.is_ok());
        for bad in [path(&inside, "out"), path(&outside, "bad"), format!("{}x/good", inside.path().display())] {
            assert!(matches!(allowed.file(&bad).await, Err(CredentialError::NotAllowed { .. })), "{bad}");
        }
        let steps = format!("{}/../{}/bad", inside.path().display(), outside.path().file_name().unwrap().display());
        assert!(matches!(allowed.file(&steps).await, Err(CredentialError::NotAllowed { .. })), "{steps}");
        assert!(matches!(allowed.file(&path(&inside, "none")).await, Err(CredentialError::File { .. })));
    }
}
