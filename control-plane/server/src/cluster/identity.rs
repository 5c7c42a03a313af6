//! Who a node is: `node.json` in its data directory, written when it founds, joins or restores a cluster, and its certificate beside it.
//!
//! A node that has no identity does not start: one that lost its disk must come back as a new member, not as a cluster of its own.

use std::path::{Path, PathBuf};

use postern_core::Name;
use postern_core::node::NodeRole;
use postern_core::wire::resource::{sealed_from_proto, sealed_to_proto};
use postern_proto::resource::v1 as resource_pb;
use postern_runtime::clock;
use postern_runtime::pki::{KeyRequest, NodeCredential, PkiError, create_private_dir, write_private};
use prost::Message as _;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::keys::Kek;
use crate::run::ControlError;

const FILE: &str = "node.json";
const VERSION: u32 = 1;
/// How often the node was started. Not in `node.json`, which a former version must be able to read.
const STARTS_FILE: &str = "starts";
const CERTIFICATE_FILE: &str = "node.crt";
const KEY_FILE: &str = "node.key.sealed";
const CA_FILE: &str = "ca.crt";
/// What the sealed key is of.
const NODE_KEY: &str = "node/key";
/// The sealed key that a node joins by, until it is made.
const JOINING_FILE: &str = "joining.key.sealed";

/// A data directory that no node can start from, or be made in.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// It holds no node.
    #[error(
        "{0} holds no node of a cluster: `postern control init` founds a cluster, `postern control join` joins one, `postern control \
         restore` makes one from a backup. A node that has lost its disk joins again, as a new member"
    )]
    None(String),
    /// It holds something already.
    #[error("{0} is not empty: a new node needs a data directory of its own")]
    NotEmpty(String),
    /// Its log is gone.
    #[error(
        "{dir} holds member {id} ({name}) but not its log: it must not come back without it. Remove the member \
         (`postern cluster remove {name}`), empty the directory, and join again"
    )]
    LogLost {
        /// The data directory.
        dir: String,
        /// The member's id.
        id: u64,
        /// The member's name.
        name: Name,
    },
    /// The file cannot be read.
    #[error("{path}: {why}")]
    Unreadable {
        /// Which.
        path: String,
        /// Why.
        why: String,
    },
    /// Something cannot be written.
    #[error(transparent)]
    Write(#[from] PkiError),
}

/// Another member, as it was known when this was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KnownMember {
    pub(crate) id: u64,
    pub(crate) name: Name,
    pub(crate) peer_address: String,
}

/// What `node.json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NodeFile {
    pub(crate) version: u32,
    pub(crate) cluster_id: String,
    /// Tells one life of the cluster from another.
    pub(crate) incarnation: String,
    pub(crate) id: u64,
    pub(crate) name: Name,
    /// Whether its log has begun: from then on it must be there.
    pub(crate) started: bool,
    /// Whom to talk to until the replicated state tells.
    #[serde(default)]
    pub(crate) members: Vec<KnownMember>,
}

/// A data directory.
#[derive(Clone, Debug)]
pub(crate) struct DataDir(PathBuf);

impl DataDir {
    pub(crate) fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.0.join("raft")
    }

    /// The node's own certificate and key.
    pub(crate) fn credential(&self) -> PathBuf {
        self.0.join("credential")
    }

    pub(crate) fn recordings(&self) -> PathBuf {
        self.0.join("recordings")
    }

    /// Beside the recordings: who saves them saves it.
    pub(crate) fn archive(&self) -> PathBuf {
        self.recordings().join("store")
    }

    pub(crate) fn recording_log(&self) -> PathBuf {
        self.recordings().join("log")
    }

    /// The administrator's credential of a `postern dev`.
    pub(crate) fn admin(&self) -> PathBuf {
        self.0.join("admin")
    }

    pub(crate) fn display(&self) -> String {
        self.0.display().to_string()
    }

    /// Whether a node was made here, wholly.
    pub(crate) fn has_node(&self) -> bool {
        self.0.join(FILE).exists()
    }

    /// Refuses when a node is or was here. A key-encryption key may lie here: it is made, or brought, before.
    pub(crate) fn prepare_new(&self) -> Result<(), IdentityError> {
        self.prepare(&["kek", "lost+found"])
    }

    /// The same, for a node that joins: what a joining left that was interrupted may lie here.
    pub(crate) fn prepare_join(&self) -> Result<(), IdentityError> {
        if self.has_node() || !self.0.join(JOINING_FILE).exists() {
            return self.prepare_new();
        }
        self.prepare(&["kek", "lost+found", JOINING_FILE, "credential"])
    }

    fn prepare(&self, allowed: &[&str]) -> Result<(), IdentityError> {
        create_private_dir(&self.0)?;
        let unreadable =
            |error: std::io::Error| IdentityError::Unreadable { path: self.display(), why: error.to_string() };
        for entry in std::fs::read_dir(&self.0).map_err(unreadable)? {
            let name = entry.map_err(unreadable)?.file_name();
            if !allowed.iter().any(|allowed| name == *allowed) {
                return Err(IdentityError::NotEmpty(self.display()));
            }
        }
        Ok(())
    }

    pub(crate) fn load(&self) -> Result<NodeFile, IdentityError> {
        let path = self.0.join(FILE);
        let unreadable = |why: String| IdentityError::Unreadable { path: path.display().to_string(), why };
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(IdentityError::None(self.display()));
            }
            Err(error) => return Err(unreadable(error.to_string())),
        };
        let file: NodeFile = serde_json::from_slice(&text).map_err(|error| unreadable(error.to_string()))?;
        if file.version != VERSION {
            return Err(unreadable(format!("is of version {}, this program knows {VERSION}", file.version)));
        }
        if file.started && !holds_something(&self.log()) {
            return Err(IdentityError::LogLost { dir: self.display(), id: file.id, name: file.name });
        }
        Ok(file)
    }

    pub(crate) fn save(&self, file: &NodeFile) -> Result<(), IdentityError> {
        let path = self.0.join(FILE);
        let mut text = serde_json::to_vec_pretty(file)
            .map_err(|error| IdentityError::Unreadable { path: path.display().to_string(), why: error.to_string() })?;
        text.push(b'\n');
        write_private(&path, &text)?;
        // The node is made, and the key is its own by now. What is left of it opens nothing that the node's own key does not.
        let _ = std::fs::remove_file(self.0.join(JOINING_FILE));
        Ok(())
    }

    /// Counts a start of the node; the first is 1. Only for whoever has the log open.
    pub(crate) fn count_start(&self) -> Result<u64, IdentityError> {
        let path = self.0.join(STARTS_FILE);
        let unreadable = |error: std::io::Error| IdentityError::Unreadable {
            path: path.display().to_string(),
            why: error.to_string(),
        };
        let former = match std::fs::read(&path) {
            Ok(text) => {
                std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok()).unwrap_or_else(|| {
                    // More than any node was ever started.
                    let seconds = clock::now().millis() / 1_000;
                    warn!(path = %path.display(), "is no number of starts: counting on from {seconds}");
                    seconds
                })
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
            Err(error) => return Err(unreadable(error)),
        };
        let starts = u64::saturating_add(former, 1);
        write_private(&path, format!("{starts}\n").as_bytes())?;
        Ok(starts)
    }
}

/// The node's own certificate, and its key, which lies on the disk sealed under the key-encryption key (I5).
impl DataDir {
    pub(crate) async fn save_credential(&self, kek: &Kek, credential: &NodeCredential) -> Result<(), ControlError> {
        let dir = self.credential();
        create_private_dir(&dir)?;
        let sealed = kek.seal(NODE_KEY, credential.key_pem.expose_secret().as_bytes()).await?;
        write_private(&dir.join(CA_FILE), credential.ca_pem.as_bytes())?;
        write_private(&dir.join(KEY_FILE), &sealed_to_proto(&sealed).encode_to_vec())?;
        Ok(self.save_certificate(&credential.certificate_pem)?)
    }

    /// The key that a node joins by: the one that was made before, or a fresh one, sealed on the disk.
    pub(crate) async fn joining_key(&self, kek: &Kek) -> Result<SecretString, ControlError> {
        let path = self.0.join(JOINING_FILE);
        let unreadable =
            |why: &str| IdentityError::Unreadable { path: path.display().to_string(), why: why.to_owned() };
        match std::fs::read(&path) {
            Ok(bytes) => {
                let sealed = resource_pb::Sealed::decode(bytes.as_slice()).map(sealed_from_proto);
                let key = kek.open_waiting(NODE_KEY, &sealed.map_err(|_| unreadable("is no sealed key"))?).await?;
                let key = std::str::from_utf8(key.expose()).map_err(|_| unreadable("is no key"))?;
                Ok(SecretString::from(key.to_owned()))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let key = KeyRequest::generate_for(NodeRole::Control)?.key_pem;
                let sealed = kek.seal(NODE_KEY, key.expose_secret().as_bytes()).await?;
                write_private(&path, &sealed_to_proto(&sealed).encode_to_vec())?;
                Ok(key)
            }
            Err(error) => Err(unreadable(&error.to_string()).into()),
        }
    }

    /// A renewed certificate of the same key.
    pub(crate) fn save_certificate(&self, certificate_pem: &str) -> Result<(), PkiError> {
        write_private(&self.credential().join(CERTIFICATE_FILE), certificate_pem.as_bytes())
    }

    pub(crate) async fn load_credential(&self, kek: &Kek) -> Result<NodeCredential, ControlError> {
        let dir = self.credential();
        let unreadable =
            |name: &str, why: String| IdentityError::Unreadable { path: dir.join(name).display().to_string(), why };
        let text =
            |name: &str| std::fs::read_to_string(dir.join(name)).map_err(|error| unreadable(name, error.to_string()));
        let bytes = std::fs::read(dir.join(KEY_FILE)).map_err(|error| unreadable(KEY_FILE, error.to_string()))?;
        let sealed = resource_pb::Sealed::decode(bytes.as_slice())
            .map(sealed_from_proto)
            .map_err(|_| unreadable(KEY_FILE, "is no sealed key".to_owned()))?;
        let key = kek.open_waiting(NODE_KEY, &sealed).await?;
        let key = std::str::from_utf8(key.expose()).map_err(|_| unreadable(KEY_FILE, "is no key".to_owned()))?;
        let credential = NodeCredential {
            certificate_pem: text(CERTIFICATE_FILE)?,
            key_pem: SecretString::from(key.to_owned()),
            ca_pem: text(CA_FILE)?,
        };
        // A version that cannot be asked for now is looked at again at the next start.
        if !kek.is_current(&sealed, kek.newest_version().await.ok().flatten()) {
            // The former key-encryption key, or its former version, may be taken away after this.
            self.save_credential(kek, &credential).await?;
        }
        Ok(credential)
    }
}

impl NodeFile {
    pub(crate) fn new(cluster_id: &str, incarnation: &str, id: u64, name: Name) -> Self {
        Self {
            version: VERSION,
            cluster_id: cluster_id.to_owned(),
            incarnation: incarnation.to_owned(),
            id,
            name,
            started: false,
            members: Vec::new(),
        }
    }
}

fn holds_something(dir: &Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_without_its_disk_does_not_start() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::new(&dir.path().join("data"));
        assert!(matches!(data.load(), Err(IdentityError::None(_))));
        data.prepare_new().unwrap();
        std::fs::write(data.0.join("kek"), "x").unwrap();
        data.prepare_new().unwrap();
        let mut file = NodeFile::new("c", "i", 2, "c2".parse().unwrap());
        data.save(&file).unwrap();
        assert_eq!(data.load().unwrap(), file);
        assert!(matches!(data.prepare_new(), Err(IdentityError::NotEmpty(_))));
        assert!(matches!(data.prepare_join(), Err(IdentityError::NotEmpty(_))));
        file.started = true;
        data.save(&file).unwrap();
        assert!(matches!(data.load(), Err(IdentityError::LogLost { id: 2, .. })));
        std::fs::create_dir(data.log()).unwrap();
        assert!(matches!(data.load(), Err(IdentityError::LogLost { .. })));
        std::fs::write(data.log().join("db"), "x").unwrap();
        assert!(data.load().unwrap().started);
    }

    #[test]
    fn a_joining_that_was_interrupted_goes_on_and_nothing_else_does() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::new(dir.path());
        std::fs::create_dir(data.credential()).unwrap();
        assert!(matches!(data.prepare_join(), Err(IdentityError::NotEmpty(_))));
        let joining = dir.path().join(JOINING_FILE);
        std::fs::write(&joining, "sealed").unwrap();
        data.prepare_join().unwrap();
        assert!(matches!(data.prepare_new(), Err(IdentityError::NotEmpty(_))));
        data.save(&NodeFile::new("c", "i", 2, "c2".parse().unwrap())).unwrap();
        assert!(!joining.exists());
        std::fs::write(&joining, "sealed").unwrap();
        assert!(matches!(data.prepare_join(), Err(IdentityError::NotEmpty(_))));
    }

    #[test]
    fn every_start_counts() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::new(dir.path());
        assert_eq!([data.count_start().unwrap(), data.count_start().unwrap()], [1, 2]);
        std::fs::write(dir.path().join(STARTS_FILE), "many").unwrap();
        let counted = data.count_start().unwrap();
        assert!(counted > 1_700_000_000, "{counted}");
        assert_eq!(data.count_start().unwrap(), counted + 1);
    }

    #[test]
    fn an_identity_of_another_form_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::new(dir.path());
        for bad in ["", "{}", r#"{"version":2,"cluster_id":"c","incarnation":"i","id":1,"name":"a","started":false}"#] {
            std::fs::write(dir.path().join(FILE), bad).unwrap();
            assert!(matches!(data.load(), Err(IdentityError::Unreadable { .. })), "{bad}");
        }
    }
}
