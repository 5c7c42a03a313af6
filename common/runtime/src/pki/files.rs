//! Files that only their owner may read, written whole or not at all.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use super::PkiError;

/// Creates `dir` and its parents with mode 0700, durable on return: what is flushed in a directory is lost with the directory's own name. A directory
/// that exists is narrowed to 0700.
///
/// # Errors
/// Names the directory.
pub fn create_private_dir(dir: &Path) -> Result<(), PkiError> {
    let fault = |source| PkiError::File { path: dir.display().to_string(), source };
    let missing: Vec<&Path> = dir.ancestors().take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists()).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(fault)?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).map_err(fault)?;
    for made in missing {
        let parent = made.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent).and_then(|parent| parent.sync_all()).map_err(fault)?;
    }
    Ok(())
}

/// Writes `content` to `path` with mode 0600: to a temporary file beside it, fsynced, renamed over it, the directory fsynced.
///
/// # Errors
/// Names the file.
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), PkiError> {
    write(path, content).map_err(|source| PkiError::File { path: path.display().to_string(), source })
}

fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file name"));
    };
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{:016x}", fastrand::u64(..)));
    let temporary = dir.join(temporary);
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    })();
    if written.is_err() {
        // The first error is the one to tell.
        let _ = std::fs::remove_file(&temporary);
    }
    written?;
    File::open(dir)?.sync_all()
}
