//! The spool's segments on the disk: how one begins, and what a restart finds in one.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use postern_core::SessionId;

use super::cipher::{BEGIN, Opener, SegmentKey, SpoolKey};
use super::record::{MAGIC, Next, Reader, Record};
use crate::metrics;

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
    /// No key of this node's opens it.
    #[error(
        "spool segment {0} does not open with this gateway's key: it was written before the gateway was enrolled anew, or its beginning is \
         damaged. Start with the credential of before, or move the file away to start without what it holds"
    )]
    OtherKey(PathBuf),
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

/// What older gateways wrote, in clear.
const CLEAR: &str = ".spool";
/// What is written.
const SEALED: &str = ".sealed";
/// Older gateways take it for a segment, cannot read it, and do not start. They would not see the sealed segments, and go on as if there were none.
const GUARD: &str = "0000000000000000.spool";
const GUARD_SAYS: &str = "The spool is sealed. This folder keeps gateways from starting on it that are too old to know: see Upgrades, Going back.\n";

/// Where a segment lies.
pub(in crate::recorder) fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016x}{SEALED}"))
}

/// Where a segment of an older gateway lies.
pub(in crate::recorder) fn clear_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016x}{CLEAR}"))
}

/// The segments that are in `dir`, and whether each is in clear.
pub(super) fn segments(dir: &Path) -> Result<BTreeMap<u64, bool>, SpoolError> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).map_err(at(dir))? {
        let name = entry.map_err(at(dir))?.file_name();
        let Some(name) = name.to_str().filter(|name| *name != GUARD) else { continue };
        let clear = name.ends_with(CLEAR);
        let number = name.strip_suffix(CLEAR).or_else(|| name.strip_suffix(SEALED));
        let Some(number) = number.and_then(|number| u64::from_str_radix(number, 16).ok()) else { continue };
        if found.insert(number, clear).is_some() {
            // Nobody but a hand puts two there.
            return Err(SpoolError::Damaged { path: segment_path(dir, number), offset: 0 });
        }
    }
    Ok(found)
}

/// Has gateways refuse the spool that are too old for it; durable on return.
pub(super) fn keep_older_out(dir: &Path, dir_handle: &File) -> Result<(), SpoolError> {
    let guard = dir.join(GUARD);
    if !guard.is_dir() {
        fs::create_dir(&guard).map_err(at(&guard))?;
        // Who looks for what it is finds it; that it is there is enough.
        drop(fs::write(guard.join("README"), GUARD_SAYS));
    }
    // Also after a crash before this.
    dir_handle.sync_all().map_err(at(dir))
}

/// Opens a segment for reading, at any place.
pub(in crate::recorder) fn open_segment(dir: &Path, key: &SpoolKey, number: u64) -> io::Result<(File, Reader)> {
    match File::open(segment_path(dir, number)) {
        Ok(file) => {
            let mut begin = [0; BEGIN];
            file.read_exact_at(&mut begin, 0)?;
            let key = key.open(&begin).map_err(io::Error::other)?;
            Ok((file, Reader::Sealed(Opener::new(key, number))))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok((File::open(clear_path(dir, number))?, Reader::Clear))
        }
        Err(error) => Err(error),
    }
}

/// Deletes a segment.
pub(super) fn remove_segment(dir: &Path, number: u64) -> io::Result<()> {
    match fs::remove_file(segment_path(dir, number)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs::remove_file(clear_path(dir, number)),
        other => other,
    }
}

/// As the spool's error, of this place.
pub(in crate::recorder) fn at(path: &Path) -> impl FnOnce(io::Error) -> SpoolError {
    let path = path.to_owned();
    move |source| SpoolError::Io { path, source }
}

/// A new segment, durable and empty.
pub(super) fn create_segment(
    dir: &Path,
    dir_handle: &File,
    key: &SpoolKey,
    number: u64,
) -> io::Result<(File, SegmentKey)> {
    let path = segment_path(dir, number);
    let (begin, key) = key.begin().map_err(io::Error::other)?;
    let made = OpenOptions::new().write(true).create(true).truncate(true).open(&path).and_then(|mut file| {
        file.write_all(&begin)?;
        file.sync_all()?;
        dir_handle.sync_all()?;
        Ok((file, key))
    });
    if made.is_err() {
        // An unfinished one would be taken for a damaged one.
        drop(fs::remove_file(&path));
    }
    made
}

/// Reads a segment through; cuts a torn end off the last one. None for one that never came to hold anything: it is deleted.
pub(super) fn read_segment(
    dir: &Path,
    key: &SpoolKey,
    (number, clear): (u64, bool),
    last: bool,
    sessions: &mut BTreeMap<SessionId, SessionState>,
) -> Result<Option<Segment>, SpoolError> {
    let path = if clear { clear_path(dir, number) } else { segment_path(dir, number) };
    let mut bytes = fs::read(&path).map_err(at(&path))?;
    let mut reader = if clear {
        Reader::Clear
    } else {
        match key.open(&bytes) {
            Ok(key) => Reader::Sealed(Opener::new(key, number)),
            // Its beginning is durable before anything follows it.
            Err(_) if last && bytes.len() <= BEGIN => {
                fs::remove_file(&path).map_err(at(&path))?;
                return Ok(None);
            }
            Err(_) => return Err(SpoolError::OtherKey(path)),
        }
    };
    let mut needs = BTreeMap::new();
    let mut offset = if !clear || bytes.starts_with(MAGIC) { reader.begin() } else { 0 };
    let mut torn = offset == 0;
    while !torn {
        match reader.next(bytes.get_mut(offset..).unwrap_or_default()) {
            Next::End => break,
            Next::Torn => torn = true,
            Next::Record { record, size, .. } => {
                note(record, number, sessions, &mut needs);
                offset = offset.saturating_add(size);
            }
        }
    }
    if torn && last && !clear && reader.was_durable(&mut bytes, offset) {
        return Err(SpoolError::Damaged { path, offset });
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
        metrics::recorder_torn();
        tracing::warn!(segment = %path.display(), lost, "the spool's last segment had a torn end, as after a crash: cut off");
        let file = OpenOptions::new().write(true).open(&path).map_err(at(&path))?;
        if offset == 0 {
            (&file).write_all(MAGIC).map_err(at(&path))?;
            offset = MAGIC.len();
        }
        let len = u64::try_from(offset).unwrap_or(u64::MAX);
        file.set_len(len).and_then(|()| file.sync_all()).map_err(at(&path))?;
    }
    Ok(Some(Segment { len: u64::try_from(offset).unwrap_or(u64::MAX), needs }))
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
