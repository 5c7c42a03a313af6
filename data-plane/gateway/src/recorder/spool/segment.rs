//! The spool's segments on the disk: how one begins, and what a restart finds in one.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use postern_core::SessionId;

use super::record::{MAGIC, Next, Record, next};

/// The spool cannot be used as it is.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// Reading or writing failed.
    #[error("spool {path}: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// What.
        source: io::Error,
    },
    /// Damage that is no torn end: recorded events would silently be lost.
    #[error("spool segment {path} is damaged at offset {offset}: move the file away to start without what it holds")]
    Damaged {
        /// The segment.
        path: PathBuf,
        /// Where in it.
        offset: usize,
    },
    /// Another process uses the directory.
    #[error("spool {0} is in use by another process")]
    InUse(PathBuf),
}

/// What is known of a session that has something in the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::recorder) struct SessionState {
    /// The place of its next event; all before it are written.
    pub(in crate::recorder) next_seq: u64,
    /// What its chain ends in.
    pub(in crate::recorder) head: [u8; 32],
    /// The segment of its last record.
    pub(in crate::recorder) segment: u64,
    pub(in crate::recorder) sealed: bool,
    /// The control plane has all before this.
    pub(in crate::recorder) acked: u64,
    /// The spool has all from this on.
    pub(in crate::recorder) from: u64,
    /// A record that is written says that the session does not wait until its operations are durable: after a crash some may be missing.
    pub(in crate::recorder) loose: bool,
}

/// What is known of a segment.
pub(in crate::recorder) struct Segment {
    /// What of it is durable, in bytes.
    pub(in crate::recorder) len: u64,
    /// What must be acknowledged before the segment may go, by session.
    pub(in crate::recorder) needs: BTreeMap<SessionId, u64>,
}

/// Where a segment lies.
pub(in crate::recorder) fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016x}.spool"))
}

/// As the spool's error, of this place.
pub(in crate::recorder) fn at(path: &Path) -> impl FnOnce(io::Error) -> SpoolError {
    let path = path.to_owned();
    move |source| SpoolError::Io { path, source }
}

/// A new segment, durable and empty.
pub(in crate::recorder) fn create_segment(dir: &Path, dir_handle: &File, number: u64) -> io::Result<File> {
    let path = segment_path(dir, number);
    let made = OpenOptions::new().write(true).create(true).truncate(true).open(&path).and_then(|mut file| {
        file.write_all(MAGIC)?;
        file.sync_all()?;
        dir_handle.sync_all()?;
        Ok(file)
    });
    if made.is_err() {
        // An unfinished one would be taken for a damaged one.
        drop(fs::remove_file(&path));
    }
    made
}

/// Reads a segment through; cuts a torn end off the last one.
pub(in crate::recorder) fn read_segment(
    dir: &Path,
    number: u64,
    last: bool,
    sessions: &mut BTreeMap<SessionId, SessionState>,
) -> Result<Segment, SpoolError> {
    let path = segment_path(dir, number);
    let bytes = fs::read(&path).map_err(at(&path))?;
    let mut needs = BTreeMap::new();
    let mut offset = if bytes.starts_with(MAGIC) { MAGIC.len() } else { 0 };
    let mut torn = offset == 0;
    while !torn {
        match next(bytes.get(offset..).unwrap_or_default()) {
            Next::End => break,
            Next::Torn => torn = true,
            Next::Record { record, size } => {
                note(record, number, sessions, &mut needs);
                offset = offset.saturating_add(size);
            }
        }
    }
    if torn && !last {
        return Err(SpoolError::Damaged { path, offset });
    }
    if last && !torn {
        // Before the crash it may have been written and not flushed. Its room is of no use any more: nothing follows in it.
        let len = u64::try_from(offset).unwrap_or(u64::MAX);
        let file = OpenOptions::new().write(true).open(&path).map_err(at(&path))?;
        file.set_len(len).and_then(|()| file.sync_all()).map_err(at(&path))?;
    } else if !torn && offset < bytes.len() {
        // Trimmed before the next one began: what is zeros now was something else.
        return Err(SpoolError::Damaged { path, offset });
    }
    if torn {
        let lost = bytes.len().saturating_sub(offset);
        tracing::warn!(segment = %path.display(), lost, "the spool's last segment had a torn end, as after a crash: cut off");
        let file = OpenOptions::new().write(true).open(&path).map_err(at(&path))?;
        if offset == 0 {
            (&file).write_all(MAGIC).map_err(at(&path))?;
            offset = MAGIC.len();
        }
        let len = u64::try_from(offset).unwrap_or(u64::MAX);
        file.set_len(len).and_then(|()| file.sync_all()).map_err(at(&path))?;
    }
    Ok(Segment { len: u64::try_from(offset).unwrap_or(u64::MAX), needs })
}

fn note(
    record: Record<'_>,
    number: u64,
    sessions: &mut BTreeMap<SessionId, SessionState>,
    needs: &mut BTreeMap<SessionId, u64>,
) {
    let (session, next_seq, head, sealed, loose, had, first) = match record {
        Record::Frames { session, first_seq, count, seals, loose, frames } => {
            let next_seq = first_seq.saturating_add(u64::from(count));
            needs.insert(session, next_seq);
            (session, next_seq, frames.last_chunk::<32>().copied().unwrap_or_default(), seals, loose, 0, first_seq)
        }
        // Written only when all before it had been acknowledged.
        Record::Head { session, next_seq, head } => (session, next_seq, head, false, false, next_seq, next_seq),
    };
    let (acked, from) = sessions.get(&session).map_or((0, first), |state| (state.acked, state.from));
    let acked = acked.max(had);
    sessions.insert(session, SessionState { next_seq, head, segment: number, sealed, acked, from, loose });
}
