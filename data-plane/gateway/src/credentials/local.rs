//! Passwords in the gateway's own environment and files.

use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

use postern_core::secret::SecretBytes;
use tokio::io::AsyncReadExt as _;
use zeroize::Zeroizing;

use super::{CredentialError, password};

/// Bytes of a file that holds a password.
const MAX_FILE: u64 = 64 << 10;

pub(super) fn variable(name: &str) -> Result<SecretBytes, CredentialError> {
    let value = std::env::var_os(name).filter(|value| !value.is_empty());
    let value = Zeroizing::new(value.ok_or_else(|| CredentialError::Variable(name.to_owned()))?.into_vec());
    password(&value, || format!("the environment variable {name}"))
}

/// Read at each login, so that a file that is replaced is in force at once. One line's end at its end is not of the password.
pub(super) async fn file(path: &Path) -> Result<SecretBytes, CredentialError> {
    let fault = |why: String| CredentialError::File { path: path.display().to_string(), why };
    let io = |error: std::io::Error| fault(error.to_string());
    // Before it is opened: opening a pipe would wait for its other end.
    let known = tokio::fs::metadata(path).await.map_err(io)?;
    if !known.is_file() {
        return Err(fault("not a file".to_owned()));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(256));
    let file = tokio::fs::File::open(path).await.map_err(io)?;
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).await.map_err(io)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(fault(format!("larger than {MAX_FILE} bytes")));
    }
    let text = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    password(text, || format!("file {}", path.display()))
}
