//! An object store that speaks S3 (moto's, installed by `scripts/bootstrap.sh test`), over TLS, that fails as it is told to.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::postern::http_get;
use super::process::{Process, free_port, wait_until};

const SCRIPT: &str = "chaos/s3/server.py";
const STARTS: Duration = Duration::from_secs(60);

/// What it does instead of what it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing else.
    Well,
    /// It says that it is busy.
    Away,
    /// It takes a request and does not answer.
    Hang,
    /// It has no room.
    Full,
    /// It says that it has kept what it has not.
    Forget,
    /// It gives another recording.
    Other,
    /// One byte of a recording is another.
    Flip,
    /// A recording ends too early, and that is said to be all.
    Short,
    /// A recording ends too early.
    Cut,
}

/// The server. Dropping it ends it; it keeps everything in memory.
#[derive(Debug)]
pub struct ObjectStore {
    folder: tempfile::TempDir,
    port: u16,
    control: u16,
    _process: Process,
}

impl ObjectStore {
    /// Starts on free ports, with the buckets `recordings`, `recordings-locked` and `keys`.
    ///
    /// # Errors
    /// When it is not installed, or does not start.
    pub fn start() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("a package lies in a workspace")?;
        let python = root.join(".tools/s3/bin/python");
        ensure!(python.exists(), "{} is not there: run `scripts/bootstrap.sh test`", python.display());
        let (folder, port, control) = (tempfile::tempdir()?, free_port()?, free_port()?);
        let script = root.join(SCRIPT).display().to_string();
        let arguments = [script, port.to_string(), control.to_string(), folder.path().display().to_string()];
        let process = Process::start("object-store", &python, &arguments, &[], None, folder.path())?;
        let ready = folder.path().join("ready");
        wait_until(STARTS, "the object store to serve", || Ok(ready.exists()))
            .with_context(|| std::fs::read_to_string(folder.path().join("object-store.err")).unwrap_or_default())?;
        Ok(Self { folder, port, control, _process: process })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The table of a configuration that keeps recordings here, in the bucket `bucket`, and their keys in another.
    ///
    /// # Errors
    /// When it has no key.
    pub fn config(&self, bucket: &str) -> Result<String> {
        let id = std::fs::read_to_string(self.file("access_key_id"))?;
        Ok(format!(
            "[control.recordings.store]\nkind = \"s3\"\nbucket = \"{bucket}\"\nkey_bucket = \"keys\"\nprefix = \"postern/test\"\n\
             region = \"eu-central-1\"\nendpoint = \"https://127.0.0.1:{}\"\nca_file = \"{}\"\naccess_key_id = \"{}\"\n\
             secret_access_key_file = \"{}\"\n",
            self.port,
            self.file("ca.crt").display(),
            id.trim(),
            self.file("secret_access_key").display(),
        ))
    }

    /// From now on it does this.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn does(&self, fault: Fault) -> Result<()> {
        self.told(&format!("/fault?do={}", format!("{fault:?}").to_lowercase())).map(drop)
    }

    /// The names of a bucket's objects, each with its size.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn objects(&self, bucket: &str) -> Result<Vec<(String, u64)>> {
        let found = self.told(&format!("/objects?bucket={bucket}"))?;
        let found = found.as_object().context("a map of objects")?;
        Ok(found.iter().map(|(name, size)| (name.clone(), size.as_u64().unwrap_or(0))).collect())
    }

    /// Deletes an object.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn delete(&self, bucket: &str, key: &str) -> Result<()> {
        self.told(&format!("/delete?bucket={bucket}&key={key}")).map(drop)
    }

    /// How an object is locked; empty when it is not.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn lock(&self, bucket: &str, key: &str) -> Result<String> {
        let lock = self.told(&format!("/lock?bucket={bucket}&key={key}"))?;
        Ok(lock.get("mode").and_then(Value::as_str).unwrap_or_default().to_owned())
    }

    /// What it was asked, one line for each request.
    ///
    /// # Errors
    /// When that cannot be read.
    pub fn requests(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.file("object-store.out"))?)
    }

    fn told(&self, path: &str) -> Result<Value> {
        Ok(serde_json::from_str(&http_get(&format!("127.0.0.1:{}", self.control), path)?)?)
    }
}
