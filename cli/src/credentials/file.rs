//! Files that are this user's alone.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use postern_runtime::pki::write_private;
use secrecy::{ExposeSecret as _, SecretString};

use crate::failure::Failure;

/// A login is far smaller.
const MAX_FILE: u64 = 1 << 20;
/// Whoever holds the lock asks an identity provider and a control plane.
const LOCK_LIMIT: Duration = Duration::from_secs(45);
const LOCK_POLL: Duration = Duration::from_millis(25);
/// Bits of others than the owner.
const OTHERS: u32 = 0o077;

/// A folder of mode 0700, made when it is first written to.
pub(super) struct Folder(PathBuf);

/// Held until it is dropped, or the process ends.
pub(super) struct Lock(#[allow(dead_code)] File); // for its drop

impl Folder {
    pub(super) const fn at(dir: PathBuf) -> Self {
        Self(dir)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The file, unless others than this user could have read or written it.
    pub(super) fn read(&self, path: &Path) -> Result<Option<SecretString>, Failure> {
        let cannot = |why: String| Failure::failed(format!("{}: {why}", path.display()));
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(cannot(error.to_string())),
        };
        self.check()?;
        private(&file, path)?;
        let mut text = zeroize::Zeroizing::new(String::new());
        file.take(MAX_FILE.saturating_add(1)).read_to_string(&mut text).map_err(|error| cannot(error.to_string()))?;
        if u64::try_from(text.len()).unwrap_or(u64::MAX) > MAX_FILE {
            return Err(cannot("it is larger than 1 MiB".to_owned()));
        }
        Ok(Some(SecretString::from(text.as_str().to_owned())))
    }

    /// Writes it whole, durably, of mode 0600.
    pub(super) fn write(&self, path: &Path, text: &SecretString) -> Result<(), Failure> {
        self.make()?;
        write_private(path, text.expose_secret().as_bytes()).map_err(|error| Failure::failed(error.to_string()))
    }

    /// Whether it was there.
    pub(super) fn remove(&self, path: &Path) -> Result<bool, Failure> {
        match std::fs::remove_file(path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Failure::failed(format!("{}: {error}", path.display()))),
        }
    }

    /// Alone among all processes of this user.
    pub(super) async fn lock(&self, path: &Path) -> Result<Lock, Failure> {
        self.make()?;
        let cannot = |why: String| Failure::failed(format!("{}: {why}", path.display()));
        let file = OpenOptions::new().create(true).write(true).truncate(false).mode(0o600).open(path);
        let file = file.map_err(|error| cannot(error.to_string()))?;
        let ends = Instant::now().checked_add(LOCK_LIMIT);
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Lock(file)),
                Err(TryLockError::Error(error)) => return Err(cannot(error.to_string())),
                Err(TryLockError::WouldBlock) if ends.is_some_and(|ends| Instant::now() < ends) => {
                    tokio::time::sleep(LOCK_POLL).await;
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(cannot("another process has held it for too long".to_owned()));
                }
            }
        }
    }

    pub(super) fn make(&self) -> Result<(), Failure> {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0);
        made.map_err(|error| Failure::failed(format!("cannot make {}: {error}", self.0.display())))?;
        self.check()
    }

    fn check(&self) -> Result<(), Failure> {
        let dir = File::open(&self.0).map_err(|error| Failure::failed(format!("{}: {error}", self.0.display())))?;
        private(&dir, &self.0)
    }
}

/// That it is this user's, and nobody else may do anything with it.
fn private(file: &File, path: &Path) -> Result<(), Failure> {
    let about = file.metadata().map_err(|error| Failure::failed(format!("{}: {error}", path.display())))?;
    if about.uid() != rustix::process::geteuid().as_raw() {
        return Err(Failure::failed(format!("{} is another user's", path.display())));
    }
    if about.mode() & OTHERS != 0 {
        let (mode, right) = (about.mode() & 0o777, if about.is_dir() { "700" } else { "600" });
        return Err(Failure::failed(format!(
            "{} is open to other users (mode {mode:o}): what is in it may be known to them. Log out and in again, or chmod {right} it",
            path.display()
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_others_could_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::at(dir.path().join("a/b"));
        let file = folder.path("x");
        assert!(folder.read(&file).unwrap().is_none());
        folder.write(&file, &SecretString::from("s".to_owned())).unwrap();
        assert_eq!((mode(&folder.0), mode(&file)), (0o700, 0o600));
        assert_eq!(folder.read(&file).unwrap().unwrap().expose_secret(), "s");
        let set = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        for loose in [0o640, 0o604, 0o620, 0o666] {
            set(&file, loose);
            assert!(folder.read(&file).unwrap_err().to_string().contains("open to other users"), "{loose:o}");
        }
        // What is written anew is private again.
        folder.write(&file, &SecretString::from("t".to_owned())).unwrap();
        assert_eq!(mode(&file), 0o600);
        set(&folder.0, 0o755);
        assert!(folder.read(&file).is_err());
        assert!(folder.write(&file, &SecretString::from("u".to_owned())).is_err());
        set(&folder.0, 0o700);
        assert_eq!(folder.read(&file).unwrap().unwrap().expose_secret(), "t");
        assert!(folder.remove(&file).unwrap());
        assert!(!folder.remove(&file).unwrap());
    }

    #[tokio::test]
    async fn one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::at(dir.path().join("x"));
        let path = folder.path("lock");
        let first = folder.lock(&path).await.unwrap();
        let second = tokio::time::timeout(Duration::from_millis(100), folder.lock(&path)).await;
        assert!(second.is_err());
        drop(first);
        folder.lock(&path).await.unwrap();
    }
}
