//! The spool's files: what is written and flushed, what a restart finds, what may be deleted.
//!
//! What is written survives the process, what is flushed survives the machine. Every method but the shortest blocks; a flush alone can be
//! made with nobody waiting ([`Spool::begin_sync`]). Each start begins a new segment, so only the segment that was last can have a torn
//! end, and a torn end was never acknowledged.

pub(super) mod cipher;
pub(super) mod record;
mod roll;
pub(super) mod segment;
pub(super) mod spare;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use postern_core::SessionId;
use postern_runtime::pki::create_private_dir;

use crate::metrics;

use cipher::{Sealer, SpoolKey};
use record::Record;
use segment::{Segment, SessionState, SpoolError, at, create_segment, read_segment};
use spare::Spare;

/// Room for records that is kept from one write to the next.
const KEPT_BUFFER: usize = 256 << 10;

/// Frames to write.
pub(super) struct Append<'a> {
    pub(super) session: SessionId,
    pub(super) first_seq: u64,
    pub(super) count: u32,
    pub(super) seals: bool,
    /// The session does not wait until its operations are durable.
    pub(super) loose: bool,
    pub(super) frames: &'a [u8],
}

/// What an append that is not durable has changed.
struct Undo {
    session: SessionId,
    state: Option<SessionState>,
    needs: Option<u64>,
}

/// A flush under way: of what had been written when it began.
pub(super) struct Sync {
    file: Arc<File>,
    written: u64,
    appends: usize,
    generation: u64,
    undone: u64,
}

impl Sync {
    /// Blocks until it is durable.
    pub(super) fn run(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// The spool's directory, open for writing.
pub(super) struct Spool {
    dir: PathBuf,
    dir_handle: File,
    _lock: File,
    key: SpoolKey,
    segment_size: u64,
    /// Bytes up to which acknowledged events of sessions that go on are kept.
    keep: u64,
    active: u64,
    file: Arc<File>,
    /// Of the active segment. None once something was cut off it: nothing more is written there.
    sealer: Option<Sealer>,
    /// Bytes of the active segment, durable or not.
    written: u64,
    /// The length of its file: what is past those are zeros.
    room: u64,
    /// What was cut off its end may still be on the disk.
    cut_off: bool,
    /// Segments are to have room before it is needed.
    reserves: bool,
    spare: Spare,
    /// Appends that are not durable, in order.
    unsynced: Vec<Undo>,
    /// Changes whenever a flush that is under way no longer says what is durable.
    generation: u64,
    /// How often what was written has been undone.
    undone: u64,
    /// Sessions of which something was written that is not there any more.
    lost: Vec<SessionId>,
    /// Records on their way to the file.
    buffer: Vec<u8>,
    segments: BTreeMap<u64, Segment>,
    sessions: BTreeMap<SessionId, SessionState>,
    /// Sessions that are open, or not wholly acknowledged.
    unsettled: BTreeSet<SessionId>,
    bytes: u64,
    /// Segments that were deleted.
    deleted: u64,
    poisoned: bool,
}

impl Spool {
    /// Opens the spool in `dir`: reads what is there, cuts a torn end off, begins a new segment.
    pub(super) fn open(dir: &Path, key: &SpoolKey, segment_size: u64) -> Result<Self, SpoolError> {
        create_private_dir(dir).map_err(|error| at(dir)(io::Error::other(error)))?;
        let lock_path = dir.join("lock");
        let lock =
            OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path).map_err(at(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(SpoolError::InUse(dir.to_owned())),
            Err(fs::TryLockError::Error(source)) => return Err(at(&lock_path)(source)),
        }
        let found = segment::segments(dir)?;
        let missing =
            found.keys().zip(found.keys().skip(1)).filter(|(one, next)| one.saturating_add(1) < **next).count();
        if missing > 0 {
            metrics::recorder_missing();
            tracing::error!(dir = %dir.display(), places = missing, "segments of the spool are missing: recordings lack what they held");
        }
        let mut segments = BTreeMap::new();
        let mut sessions = BTreeMap::new();
        for (number, clear) in &found {
            let last = found.last_key_value().is_some_and(|(last, _)| last == number);
            if let Some(segment) = read_segment(dir, key, (*number, *clear), last, &mut sessions)? {
                segments.insert(*number, segment);
            }
        }
        // Of an earlier life, and perhaps not whole.
        drop(fs::remove_file(spare::path(dir)));
        let active = segments.last_key_value().map_or(1, |(last, _)| last.saturating_add(1));
        let dir_handle = File::open(dir).map_err(at(dir))?;
        segment::keep_older_out(dir, &dir_handle)?;
        let (file, begun) = create_segment(dir, &dir_handle, key, active).map_err(at(dir))?;
        let bytes = segments.values().map(|segment| segment.len).sum::<u64>();
        let unsettled = sessions.keys().copied().collect();
        let mut spool = Self {
            dir: dir.to_owned(),
            dir_handle,
            _lock: lock,
            key: key.clone(),
            segment_size,
            keep: 0,
            active,
            file: Arc::new(file),
            sealer: None,
            written: 0,
            room: 0,
            cut_off: false,
            reserves: false,
            spare: Spare::None,
            unsynced: Vec::new(),
            generation: 0,
            undone: 0,
            lost: Vec::new(),
            buffer: Vec::new(),
            segments,
            sessions,
            unsettled,
            bytes,
            deleted: 0,
            poisoned: false,
        };
        spool.begun(active, begun);
        Ok(spool)
    }

    /// Keeps what is acknowledged of sessions that go on, up to that many bytes of spool: the member of the control plane that has it may
    /// be lost before the session ends, and another then takes it from the beginning.
    #[must_use]
    pub(super) const fn keeping(mut self, bytes: u64) -> Self {
        self.keep = bytes;
        self
    }

    /// Writes `appends` and makes them, and all before them, durable. All or none: after an error nothing of them is there.
    pub(super) fn commit(&mut self, appends: &[Append<'_>]) -> io::Result<()> {
        self.append(appends)?;
        self.sync_now()
    }

    /// Writes `appends`; durable with the next flush. All or none: after an error nothing of them is there.
    pub(super) fn append(&mut self, appends: &[Append<'_>]) -> io::Result<()> {
        if self.written >= self.segment_size || self.sealer.is_none() {
            self.roll()?;
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let durable = self.active_len();
        // It is back once all of them are sealed: no place in the segment is used twice.
        let Some(mut sealer) = self.sealer.take() else { return Err(io::Error::other("no segment to write to")) };
        let sealed = appends.iter().try_for_each(|append| {
            let Append { session, first_seq, count, seals, frames, .. } = *append;
            let record = Record::Frames { session, first_seq, count, seals, loose: self.is_loose(append), frames };
            record.seal(&mut sealer, durable, &mut buffer)
        });
        let outcome = match sealed {
            Ok(()) => {
                self.sealer = Some(sealer);
                self.write(&buffer)
            }
            Err(error) => Err(io::Error::other(error)),
        };
        // One large event must not cost its room for ever.
        if buffer.capacity() <= KEPT_BUFFER {
            self.buffer = buffer;
        }
        outcome?;
        for append in appends {
            let next_seq = append.first_seq.saturating_add(u64::from(append.count));
            let head = append.frames.last_chunk::<32>().copied().unwrap_or_default();
            let (acked, from) =
                self.sessions.get(&append.session).map_or((0, append.first_seq), |state| (state.acked, state.from));
            let (segment, sealed, loose) = (self.active, append.seals, self.is_loose(append));
            let state = SessionState { next_seq, head, segment, sealed, acked, from, loose };
            let state = self.sessions.insert(append.session, state);
            self.unsettled.insert(append.session);
            let needs =
                self.segments.get_mut(&self.active).and_then(|segment| segment.needs.insert(append.session, next_seq));
            self.unsynced.push(Undo { session: append.session, state, needs });
        }
        Ok(())
    }

    /// From the first such operation on, each of a session's records says it: older ones are deleted.
    fn is_loose(&self, append: &Append<'_>) -> bool {
        let before = self.sessions.get(&append.session).is_some_and(|state| state.loose);
        !append.seals && (append.loose || before)
    }

    /// A flush of all that is written, to be run with nobody waiting for the spool, and then to be told of by [`Self::end_sync`].
    pub(super) fn begin_sync(&self) -> Sync {
        Sync {
            file: Arc::clone(&self.file),
            written: self.written,
            appends: self.unsynced.len(),
            generation: self.generation,
            undone: self.undone,
        }
    }

    /// Takes in what came of a flush. After an error nothing is there any more that was not durable.
    pub(super) fn end_sync(&mut self, sync: &Sync, outcome: io::Result<()>) -> io::Result<()> {
        let settled = sync.generation != self.generation;
        match &outcome {
            // Another flush was told of the error: what this one was to make durable is not there.
            Ok(()) if sync.undone != self.undone => return Err(io::Error::other("undone by another flush")),
            // Another flush has settled it meanwhile.
            Ok(()) if settled => {}
            Ok(()) => {
                self.unsynced.drain(..sync.appends.min(self.unsynced.len()));
                self.set_durable(sync.written);
            }
            Err(_) => {
                // Of two flushes of one file, one alone is told of an error.
                self.poisoned |= settled;
                self.undo_unsynced();
            }
        }
        outcome
    }

    /// Sessions of which something was written, and is not there any more after an error.
    pub(super) fn take_lost(&mut self) -> Vec<SessionId> {
        std::mem::take(&mut self.lost)
    }

    /// Makes all durable that is written.
    fn sync_now(&mut self) -> io::Result<()> {
        if self.unsynced.is_empty() && self.written == self.active_len() {
            return Ok(());
        }
        let outcome = self.file.sync_data();
        self.generation = self.generation.wrapping_add(1);
        if outcome.is_ok() {
            self.unsynced.clear();
            self.set_durable(self.written);
        } else {
            self.undo_unsynced();
        }
        outcome
    }

    fn set_durable(&mut self, len: u64) {
        if let Some(segment) = self.segments.get_mut(&self.active) {
            segment.len = len;
        }
    }

    /// What was refused must not be found by a restart.
    fn undo_unsynced(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        self.undone = self.undone.wrapping_add(1);
        for Undo { session, state, needs } in std::mem::take(&mut self.unsynced).into_iter().rev() {
            self.lost.push(session);
            if let Some(segment) = self.segments.get_mut(&self.active) {
                match needs {
                    Some(needs) => segment.needs.insert(session, needs),
                    None => segment.needs.remove(&session),
                };
            }
            match state {
                Some(state) => {
                    // What was acknowledged meanwhile was durable.
                    let acked = self.sessions.get(&session).map_or(0, |now| now.acked);
                    self.sessions.insert(session, SessionState { acked: state.acked.max(acked), ..state });
                    self.unsettled.insert(session);
                }
                None => {
                    self.sessions.remove(&session);
                    self.unsettled.remove(&session);
                }
            }
        }
        self.cut(self.active_len());
    }

    /// Cuts what is written off at `len`. Nothing more is written to this segment: what was there may still be on the disk, sealed in the same places.
    fn cut(&mut self, len: u64) {
        self.sealer = None;
        let file = self.file.as_ref();
        let undone = file.set_len(len).and_then(|()| io::Seek::seek(&mut &*file, io::SeekFrom::Start(len)).map(drop));
        self.poisoned |= undone.is_err();
        self.bytes = self.bytes.saturating_sub(self.written.saturating_sub(len));
        self.written = len;
        self.room = len;
        self.cut_off = true;
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

    /// All or nothing.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let before = self.written;
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let written = self.file.as_ref().write_all(bytes);
        self.written = before.saturating_add(size);
        self.bytes = self.bytes.saturating_add(size);
        if written.is_err() {
            self.cut(before);
        }
        written
    }

    fn active_len(&self) -> u64 {
        self.segments.get(&self.active).map_or(0, |segment| segment.len)
    }
}

#[cfg(test)]
mod tests;
