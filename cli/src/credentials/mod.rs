//! What a login leaves on this machine: the session token, and by what it is renewed.
//!
//! One login for each cluster, by the fingerprint of its authority: a token is never shown to another. Whoever changes it holds a lock, so that
//! of several processes one renews, and a refresh token that is rotated is spent once.

mod file;
mod renew;

use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};

pub(crate) use renew::current;

use crate::client::Settings;
use crate::failure::Failure;
use file::Folder;

/// A login.
pub(crate) struct Kept {
    /// Whom it makes, for people.
    pub(crate) principal: String,
    /// The Issuer's name.
    pub(crate) issuer: String,
    pub(crate) token: SecretString,
    /// Seconds.
    pub(crate) expires_at: u64,
    /// For how long a token is asked for, in seconds.
    pub(crate) ttl: u64,
    /// What it is good for; empty: all that policy permits.
    pub(crate) targets: Vec<String>,
    /// None: only a new login renews it.
    pub(crate) renewal: Option<Renewal>,
}

/// By what a session token is renewed without a browser.
pub(crate) struct Renewal {
    pub(crate) refresh_token: SecretString,
    /// The issuer's.
    pub(crate) url: String,
    pub(crate) client_id: String,
    pub(crate) ca_pem: String,
    pub(crate) token_endpoint: String,
    pub(crate) revocation_endpoint: Option<String>,
    /// Of the ID token: a renewed one is of the same.
    pub(crate) subject: String,
}

/// As it is written. Never shown.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    version: u32,
    principal: String,
    issuer: String,
    token: String,
    expires_at: u64,
    ttl: u64,
    #[serde(default)]
    targets: Vec<String>,
    #[serde(default)]
    renewal: Option<WrittenRenewal>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenRenewal {
    refresh_token: String,
    url: String,
    client_id: String,
    #[serde(default)]
    ca_pem: String,
    token_endpoint: String,
    #[serde(default)]
    revocation_endpoint: Option<String>,
    subject: String,
}

const VERSION: u32 = 1;

/// Where the login of one cluster is kept.
pub(crate) struct Store {
    folder: Folder,
    name: String,
}

impl Store {
    /// Of the cluster that `settings` lead to.
    pub(crate) fn of(settings: &Settings) -> Result<Self, Failure> {
        Ok(Self { folder: Folder::at(home()?.join("logins")), name: cluster_of(&settings.ca_pem) })
    }

    /// For people.
    pub(crate) fn place(&self) -> String {
        self.file().display().to_string()
    }

    fn file(&self) -> PathBuf {
        self.folder.path(&format!("{}.json", self.name))
    }

    /// The login, if there is one.
    pub(crate) fn load(&self) -> Result<Option<Kept>, Failure> {
        let file = self.file();
        let Some(text) = self.folder.read(&file)? else { return Ok(None) };
        // What is wrong with it is not told by the parser: it would quote what it found.
        let written: Written = serde_json::from_str(text.expose_secret())
            .ok()
            .filter(|written: &Written| written.version == VERSION)
            .ok_or_else(|| {
                Failure::failed(format!("{}: not as this program writes it; log in again", file.display()))
            })?;
        Ok(Some(written.into()))
    }

    /// Puts `kept` in the place of what is there.
    pub(crate) async fn save(&self, kept: &Kept) -> Result<(), Failure> {
        let _lock = self.lock().await?;
        self.write(kept)
    }

    fn write(&self, kept: &Kept) -> Result<(), Failure> {
        let text =
            serde_json::to_string_pretty(&Written::from(kept)).map_err(|error| Failure::failed(error.to_string()))?;
        self.folder.write(&self.file(), &SecretString::from(text))
    }

    /// Whether there was one.
    pub(crate) async fn remove(&self) -> Result<bool, Failure> {
        let _lock = self.lock().await?;
        self.folder.remove(&self.file())
    }

    async fn lock(&self) -> Result<file::Lock, Failure> {
        self.folder.lock(&self.folder.path(&format!("{}.lock", self.name))).await
    }
}

/// What files of a cluster are called by: a fingerprint of its authority.
pub(crate) fn cluster_of(ca_pem: &str) -> String {
    let fingerprint = digest(&SHA256, ca_pem.trim().as_bytes());
    fingerprint.as_ref().iter().take(12).map(|byte| format!("{byte:02x}")).collect()
}

/// The folder of this user's own: `POSTERN_HOME`, or `postern` among their configuration.
pub(crate) fn home() -> Result<PathBuf, Failure> {
    let set = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = set("POSTERN_HOME")
        .or_else(|| set("XDG_CONFIG_HOME").map(|dir| dir.join("postern")))
        .or_else(|| set("HOME").map(|dir| dir.join(".config/postern")));
    home.ok_or_else(|| Failure::failed("where is your home? set HOME, or POSTERN_HOME to an absolute path"))
}

/// Makes a folder of mode 0700, or sees that it is this user's alone.
pub(crate) fn private_folder(folder: &Path) -> Result<(), Failure> {
    Folder::at(folder.to_owned()).make()
}

/// A file of this user's own folder, written whole; nobody else's to read.
pub(crate) fn write_own(file: &Path, text: &str) -> Result<(), Failure> {
    let folder = Folder::at(file.parent().map(Path::to_path_buf).unwrap_or_default());
    folder.write(file, &SecretString::from(text.to_owned()))
}

impl From<Written> for Kept {
    fn from(it: Written) -> Self {
        Self {
            principal: it.principal,
            issuer: it.issuer,
            token: it.token.into(),
            expires_at: it.expires_at,
            ttl: it.ttl,
            targets: it.targets,
            renewal: it.renewal.map(|it| Renewal {
                refresh_token: it.refresh_token.into(),
                url: it.url,
                client_id: it.client_id,
                ca_pem: it.ca_pem,
                token_endpoint: it.token_endpoint,
                revocation_endpoint: it.revocation_endpoint,
                subject: it.subject,
            }),
        }
    }
}

impl From<&Kept> for Written {
    fn from(it: &Kept) -> Self {
        Self {
            version: VERSION,
            principal: it.principal.clone(),
            issuer: it.issuer.clone(),
            token: it.token.expose_secret().to_owned(),
            expires_at: it.expires_at,
            ttl: it.ttl,
            targets: it.targets.clone(),
            renewal: it.renewal.as_ref().map(|it| WrittenRenewal {
                refresh_token: it.refresh_token.expose_secret().to_owned(),
                url: it.url.clone(),
                client_id: it.client_id.clone(),
                ca_pem: it.ca_pem.clone(),
                token_endpoint: it.token_endpoint.clone(),
                revocation_endpoint: it.revocation_endpoint.clone(),
                subject: it.subject.clone(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> Kept {
        Kept {
            principal: "corp/alice".into(),
            issuer: "corp".into(),
            token: "session-token".to_owned().into(),
            expires_at: 7,
            ttl: 900,
            targets: vec!["shop".into()],
            renewal: Some(Renewal {
                refresh_token: "refresh-token".to_owned().into(),
                url: "https://id.example".into(),
                client_id: "cli".into(),
                ca_pem: String::new(),
                token_endpoint: "https://id.example/token".into(),
                revocation_endpoint: None,
                subject: "alice".into(),
            }),
        }
    }

    fn store(dir: &Path) -> Store {
        Store { folder: Folder::at(dir.join("logins")), name: "x".into() }
    }

    #[tokio::test]
    async fn what_is_kept_is_read_again_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        assert!(store.load().unwrap().is_none());
        assert!(!store.remove().await.unwrap());
        store.save(&kept()).await.unwrap();
        let read = store.load().unwrap().unwrap();
        assert_eq!((read.principal.as_str(), read.token.expose_secret()), ("corp/alice", "session-token"));
        assert_eq!((read.expires_at, read.ttl, read.targets.len()), (7, 900, 1));
        assert_eq!(read.renewal.unwrap().refresh_token.expose_secret(), "refresh-token");
        assert!(store.remove().await.unwrap());
        assert!(store.load().unwrap().is_none());
    }

    #[tokio::test]
    async fn what_is_not_ours_is_not_read_and_not_quoted() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        store.save(&kept()).await.unwrap();
        for text in ["{\"version\": 2, \"token\": \"secret\"}", "secret", "{\"version\":1,\"secret\":1}"] {
            store.folder.write(&store.file(), &SecretString::from(text.to_owned())).unwrap();
            let failure = store.load().err().unwrap().to_string();
            assert!(failure.contains("log in again") && !failure.contains("secret"), "{failure}");
        }
    }
}
