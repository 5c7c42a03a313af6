//! The spool's files: what is written and flushed, what a restart finds, what may be deleted.
//!
//! Owned by the recorder's thread alone; every method blocks. Each start begins a new segment, so only the segment that was last can
//! have a torn end, and a torn end was never acknowledged.

use std::collections::{BTreeMap, BTreeSet};
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
pub(super) struct SessionState {
    /// The place of its next event; all before it are durable.
    pub(super) next_seq: u64,
    /// What its chain ends in.
    pub(super) head: [u8; 32],
    /// The segment of its last record.
    segment: u64,
    pub(super) sealed: bool,
    /// The control plane has all before this.
    pub(super) acked: u64,
    /// The spool has all from this on.
    pub(super) from: u64,
}

/// Frames to write.
pub(super) struct Append<'a> {
    pub(super) session: SessionId,
    pub(super) first_seq: u64,
    pub(super) count: u32,
    pub(super) seals: bool,
    pub(super) frames: &'a [u8],
}

struct Segment {
    len: u64,
    /// What must be acknowledged before the segment may go, by session.
    needs: BTreeMap<SessionId, u64>,
}

/// The spool's directory, open for writing.
pub(super) struct Spool {
    dir: PathBuf,
    dir_handle: File,
    _lock: File,
    segment_size: u64,
    /// Bytes up to which acknowledged events of sessions that go on are kept.
    keep: u64,
    active: u64,
    file: File,
    segments: BTreeMap<u64, Segment>,
    sessions: BTreeMap<SessionId, SessionState>,
    /// Sessions that are open, or not wholly acknowledged.
    unsettled: BTreeSet<SessionId>,
    bytes: u64,
    /// Segments that were deleted.
    deleted: u64,
    poisoned: bool,
}

pub(super) fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016x}.spool"))
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> SpoolError {
    let path = path.to_owned();
    move |source| SpoolError::Io { path, source }
}

impl Spool {
    /// Opens the spool in `dir`: reads what is there, cuts a torn end off, begins a new segment.
    pub(super) fn open(dir: &Path, segment_size: u64) -> Result<Self, SpoolError> {
        fs::create_dir_all(dir).map_err(at(dir))?;
        restrict(dir).map_err(at(dir))?;
        let lock_path = dir.join("lock");
        let lock =
            OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path).map_err(at(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(SpoolError::InUse(dir.to_owned())),
            Err(fs::TryLockError::Error(source)) => return Err(at(&lock_path)(source)),
        }
        let mut numbers = Vec::new();
        for entry in fs::read_dir(dir).map_err(at(dir))? {
            let name = entry.map_err(at(dir))?.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(".spool"));
            numbers.extend(number.and_then(|number| u64::from_str_radix(number, 16).ok()));
        }
        numbers.sort_unstable();
        let mut segments = BTreeMap::new();
        let mut sessions = BTreeMap::new();
        for number in &numbers {
            let last = numbers.last() == Some(number);
            let segment = read_segment(dir, *number, last, &mut sessions)?;
            segments.insert(*number, segment);
        }
        let active = numbers.last().map_or(1, |last| last.saturating_add(1));
        let dir_handle = File::open(dir).map_err(at(dir))?;
        let file = create_segment(dir, &dir_handle, active).map_err(at(dir))?;
        let bytes = segments.values().map(|segment| segment.len).sum::<u64>();
        let unsettled = sessions.keys().copied().collect();
        let mut spool = Self {
            dir: dir.to_owned(),
            dir_handle,
            _lock: lock,
            segment_size,
            keep: 0,
            active,
            file,
            segments,
            sessions,
            unsettled,
            bytes,
            deleted: 0,
            poisoned: false,
        };
        spool.begun(active);
        Ok(spool)
    }

    /// Keeps what is acknowledged of sessions that go on, up to that many bytes of spool: the member of the control plane that has it may
    /// be lost before the session ends, and another then takes it from the beginning.
    #[must_use]
    pub(super) const fn keeping(mut self, bytes: u64) -> Self {
        self.keep = bytes;
        self
    }

    /// Writes `appends` and makes them durable with one flush. All or none: after an error nothing of them is there.
    pub(super) fn commit(&mut self, appends: &[Append<'_>]) -> io::Result<()> {
        let mut buffer = Vec::new();
        for append in appends {
            let Append { session, first_seq, count, seals, frames } = *append;
            Record::Frames { session, first_seq, count, seals, frames }.encode(&mut buffer);
        }
        self.write(&buffer)?;
        for append in appends {
            let next_seq = append.first_seq.saturating_add(u64::from(append.count));
            let head = append.frames.last_chunk::<32>().copied().unwrap_or_default();
            let (acked, from) =
                self.sessions.get(&append.session).map_or((0, append.first_seq), |state| (state.acked, state.from));
            let state = SessionState { next_seq, head, segment: self.active, sealed: append.seals, acked, from };
            self.sessions.insert(append.session, state);
            self.unsettled.insert(append.session);
            if let Some(segment) = self.segments.get_mut(&self.active) {
                segment.needs.insert(append.session, next_seq);
            }
        }
        Ok(())
    }

    /// The control plane has all of `session` before `next_seq`, or wants none of it. Deletes what nobody needs any more.
    pub(super) fn acknowledged(&mut self, session: SessionId, next_seq: u64) -> io::Result<()> {
        match self.sessions.get_mut(&session) {
            Some(state) if state.acked < next_seq => {
                state.acked = next_seq;
                if state.sealed && next_seq >= state.next_seq {
                    self.unsettled.remove(&session);
                }
            }
            _ => return Ok(()),
        }
        // Looking costs more than one acknowledgement is worth, unless there is need: a new segment and each tick look as well.
        if self.bytes > self.keep || self.unsettled.is_empty() { self.delete_unneeded() } else { Ok(()) }
    }

    /// Another member of the control plane takes the uploads now, and has of these sessions only what comes before the number.
    pub(super) fn rewind(&mut self, sessions: &[(SessionId, u64)]) {
        for (session, next_seq) in sessions {
            if let Some(state) = self.sessions.get_mut(session) {
                state.acked = state.acked.min(*next_seq);
                self.unsettled.insert(*session);
            }
        }
    }

    /// Tries whether writing works again after a failure: a new segment must be made and flushed.
    pub(super) fn probe(&mut self) -> io::Result<()> {
        self.roll()?;
        // A file system can have room for an empty file and for nothing in it.
        let path = self.dir.join("probe");
        let outcome = File::create(&path).and_then(|mut file| {
            file.write_all(&[0x55; 16 << 10])?;
            file.sync_data()
        });
        let removed = fs::remove_file(&path);
        outcome.and(removed)
    }

    /// Sessions with no seal.
    pub(super) fn open_sessions(&self) -> impl Iterator<Item = (SessionId, SessionState)> + '_ {
        self.sessions.iter().filter(|(_, state)| !state.sealed).map(|(session, state)| (*session, *state))
    }

    /// One session, when it has anything in the spool.
    pub(super) fn session(&self, session: SessionId) -> Option<SessionState> {
        self.sessions.get(&session).copied()
    }

    /// Bytes on disk.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The durable length of each segment.
    pub(super) fn segment_lengths(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.segments.iter().map(|(number, segment)| (*number, segment.len))
    }

    /// Every session that has something in the spool.
    pub(super) fn sessions(&self) -> impl Iterator<Item = (SessionId, SessionState)> + '_ {
        self.sessions.iter().map(|(session, state)| (*session, *state))
    }

    /// How many segments were deleted since the start.
    pub(super) const fn deleted(&self) -> u64 {
        self.deleted
    }

    /// Whether the control plane has everything, and every session is sealed.
    pub(super) fn is_settled(&self) -> bool {
        self.unsettled.is_empty()
    }

    /// Whether a failed write could not be undone: what the files hold is then unknown.
    pub(super) const fn is_poisoned(&self) -> bool {
        self.poisoned
    }

    /// The segment that is written to, and its durable length.
    pub(super) fn active(&self) -> (u64, u64) {
        (self.active, self.active_len())
    }

    /// How many segments there are.
    pub(super) fn segment_count(&self) -> usize {
        self.segments.len()
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.active_len() >= self.segment_size {
            self.roll()?;
        }
        let before = self.active_len();
        let written = self.file.write_all(bytes).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // What was refused must not be found by a restart.
            let undone = self
                .file
                .set_len(before)
                .and_then(|()| io::Seek::seek(&mut self.file, io::SeekFrom::Start(before)).map(drop));
            self.poisoned = undone.is_err();
            return Err(error);
        }
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if let Some(segment) = self.segments.get_mut(&self.active) {
            segment.len = segment.len.saturating_add(size);
        }
        self.bytes = self.bytes.saturating_add(size);
        Ok(())
    }

    fn active_len(&self) -> u64 {
        self.segments.get(&self.active).map_or(0, |segment| segment.len)
    }

    fn roll(&mut self) -> io::Result<()> {
        let number = self.active.saturating_add(1);
        self.file = create_segment(&self.dir, &self.dir_handle, number)?;
        self.begun(number);
        self.delete_unneeded()
    }

    fn begun(&mut self, number: u64) {
        let len = u64::try_from(MAGIC.len()).unwrap_or(0);
        self.active = number;
        self.bytes = self.bytes.saturating_add(len);
        self.segments.insert(number, Segment { len, needs: BTreeMap::new() });
    }

    /// Oldest first, and no further than to what is still needed: what is left of a session is whole from some event on.
    pub(super) fn delete_unneeded(&mut self) -> io::Result<()> {
        while let Some((&number, segment)) =
            self.segments.first_key_value().filter(|(number, _)| **number != self.active)
        {
            let acked =
                |(session, n): (&SessionId, &u64)| self.sessions.get(session).is_none_or(|state| state.acked >= *n);
            let goes_on = segment.needs.keys().any(|session| self.unsettled.contains(session));
            if !segment.needs.iter().all(acked) || (goes_on && self.bytes <= self.keep) {
                return Ok(());
            }
            // An open session must stay known: a restart after a crash has to close it.
            let carried: Vec<SessionId> = self
                .sessions
                .iter()
                .filter(|(_, state)| state.segment == number && !state.sealed)
                .map(|(session, _)| *session)
                .collect();
            let mut buffer = Vec::new();
            for session in &carried {
                if let Some(state) = self.sessions.get(session) {
                    Record::Head { session: *session, next_seq: state.next_seq, head: state.head }.encode(&mut buffer);
                }
            }
            if !buffer.is_empty() {
                self.write_in_active(&buffer)?;
            }
            for session in carried {
                if let Some(state) = self.sessions.get_mut(&session) {
                    state.segment = self.active;
                }
            }
            fs::remove_file(segment_path(&self.dir, number))?;
            self.dir_handle.sync_all()?;
            if let Some(gone) = self.segments.remove(&number) {
                self.bytes = self.bytes.saturating_sub(gone.len);
                self.deleted = self.deleted.saturating_add(1);
                for (session, next_seq) in gone.needs {
                    if let Some(state) = self.sessions.get_mut(&session) {
                        state.from = state.from.max(next_seq);
                    }
                }
            }
            self.sessions.retain(|_, state| state.segment != number);
        }
        Ok(())
    }

    /// As [`Self::write`], without rolling: rolling deletes, and deleting writes.
    fn write_in_active(&mut self, bytes: &[u8]) -> io::Result<()> {
        let size = std::mem::replace(&mut self.segment_size, u64::MAX);
        let written = self.write(bytes);
        self.segment_size = size;
        written
    }
}

#[cfg(unix)]
fn restrict(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
}

#[cfg(not(unix))]
fn restrict(_: &Path) -> io::Result<()> {
    Ok(())
}

fn create_segment(dir: &Path, dir_handle: &File, number: u64) -> io::Result<File> {
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

fn read_segment(
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
    let (session, next_seq, head, sealed, had, first) = match record {
        Record::Frames { session, first_seq, count, seals, frames } => {
            let next_seq = first_seq.saturating_add(u64::from(count));
            needs.insert(session, next_seq);
            (session, next_seq, frames.last_chunk::<32>().copied().unwrap_or_default(), seals, 0, first_seq)
        }
        // Written only when all before it had been acknowledged.
        Record::Head { session, next_seq, head } => (session, next_seq, head, false, next_seq, next_seq),
    };
    let (acked, from) = sessions.get(&session).map_or((0, first), |state| (state.acked, state.from));
    sessions.insert(session, SessionState { next_seq, head, segment: number, sealed, acked: acked.max(had), from });
}

#[cfg(test)]
#[path = "spool_tests.rs"]
mod tests;
