//! What stays on a member's disk of a recording that went into the store: how it ended, for a gateway that was not told yet.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use postern_core::SessionId;
use postern_core::session::Session;
use postern_core::wire::identity::{session_from_proto, session_to_proto};
use postern_proto::resource::v1 as pb;
use prost::Message as _;

/// A gateway asks again within moments of being back; what it asks for later is taken in anew, and found in the store.
pub(super) const KEPT: Duration = Duration::from_secs(7 * 86_400);
/// Ends the names of notes.
pub(super) const EXTENSION: &str = "done";

fn path(recording: &Path) -> PathBuf {
    recording.with_extension(EXTENSION)
}

/// Writes the note of `session`, whose recording is at `recording`; durable.
pub(super) fn write(recording: &Path, session: &Session) -> io::Result<()> {
    let (path, part) = (path(recording), recording.with_extension("part"));
    let mut options = File::options();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&part)?;
    file.write_all(&session_to_proto(session).encode_to_vec())?;
    file.sync_all()?;
    std::fs::rename(&part, &path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

/// The note of a recording, when there is one. One that is not readable is none: the store has the recording.
pub(super) fn read(recording: &Path, id: SessionId) -> io::Result<Option<Session>> {
    let bytes = match std::fs::read(path(recording)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let session = pb::Session::decode(bytes.as_slice()).ok().and_then(|session| session_from_proto(session).ok());
    Ok(session.filter(|session| session.id == id && session.end.is_some()))
}
