//! The write-ahead log: every write is one frame, appended to a file and durable with one `fdatasync`.
//!
//! The files are segments, `wal/<number>.wal`. Each begins with a frame that has the hard state and the snapshot's pointer, so that those
//! before it can go once a snapshot covers their entries. Room is made ahead, in zeros: an append then changes no metadata, and the disk is
//! waited for once.
//!
//! One write is under way at a time, and none begins before the one before it is durable. So only the last can be half written, and only in
//! the last segment: what is not whole there and has nothing behind it was never acknowledged, and is dropped. Anything else that is not
//! whole is damage: the numbers of the writes would have a gap, and the node does not start.

mod frame;

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

pub(super) use frame::{Parts, Record};

use super::log_store::StorageError;
use super::snapshot_file::Pointer;
use raft::eraftpb::HardState;

/// A segment is full past this.
const SEGMENT_BYTES: u64 = 16 << 20;
/// Room that is made at once.
const STEP: usize = 1 << 20;
const EXTENSION: &str = "wal";

/// The open log.
pub(super) struct Wal {
    dir: PathBuf,
    /// The last one is written to.
    segments: VecDeque<Segment>,
    file: File,
    path: PathBuf,
    /// Where the next frame goes.
    end: u64,
    /// Up to where the file has room.
    room: u64,
    /// Of the last write.
    number: u64,
    hard_state: HardState,
    pointer: Option<Pointer>,
    buffer: Vec<u8>,
    zeros: Vec<u8>,
    segment_bytes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Segment {
    number: u64,
    /// The number of its first write.
    first_write: u64,
    /// The highest entry in it.
    last_entry: u64,
}

/// Where a log begins: kept outside it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Start {
    pub(super) segment: u64,
    /// The number of the segment's first write.
    pub(super) write: u64,
}

impl Wal {
    /// Opens the log in `dir` or begins a new one, with the first write after number `before`; tells `each` of every write, in order.
    /// `start` is where it begins, if it was ever begun.
    pub(super) fn open(
        dir: PathBuf,
        start: Option<Start>,
        before: u64,
        mut each: impl FnMut(Record),
    ) -> Result<Self, StorageError> {
        create_folder(&dir).map_err(|error| fault(&dir, &error))?;
        let files = segments_in(&dir, start.map_or(0, |start| start.segment))?;
        let mut segments = VecDeque::new();
        let mut number = start.map_or(before, |start| start.write.saturating_sub(1));
        let (mut hard_state, mut pointer) = (HardState::default(), None);
        let mut last = None;
        let count = files.len();
        for (place, (segment, path)) in files.into_iter().enumerate() {
            let expected = match (segments.back(), start) {
                (Some(Segment { number, .. }), _) => number.saturating_add(1),
                (None, Some(start)) => start.segment,
                (None, None) => segment,
            };
            if segment != expected {
                return Err(damaged(&dir.join(name(expected)), "it is missing"));
            }
            let bytes = fs::read(&path).map_err(|error| fault(&path, &error))?;
            let (mut at, mut last_entry, before) = (0, 0, number);
            while let Some((frame, taken)) = bytes.get(at..).and_then(|rest| frame::decode(rest, segment)) {
                if frame.number != number.saturating_add(1) {
                    let why = format!("write {} comes after write {number}", frame.number);
                    return Err(damaged(&path, &why));
                }
                let record = frame.read()?;
                number = frame.number;
                at = at.saturating_add(taken);
                last_entry = record.entries.last().map_or(last_entry, |entry| entry.index.max(last_entry));
                pointer = record.pointer.or(pointer);
                if let Some(newer) = &record.hard_state {
                    hard_state = newer.clone();
                }
                each(record);
            }
            if number == before {
                // Broken off before its first write: it goes, and the one before it is gone on with.
                let is_last = place.saturating_add(1) == count;
                let begun = start.is_some_and(|start| start.segment == segment) || is_followed(&bytes, segment);
                if begun || !is_last {
                    return Err(damaged(&path, "its first write is not as it was written"));
                }
                fs::remove_file(&path).map_err(|error| fault(&path, &error))?;
                continue;
            }
            segments.push_back(Segment { number: segment, first_write: before.saturating_add(1), last_entry });
            last = Some((path, segment, bytes, at));
        }
        if let Some((path, segment, bytes, at)) = &last
            && is_followed(bytes.get(*at..).unwrap_or_default(), *segment)
        {
            return Err(damaged(path, &format!("write {} is not as it was written", number.saturating_add(1))));
        }
        if let (None, Some(start)) = (&last, start) {
            return Err(damaged(&dir.join(name(start.segment)), "it is missing"));
        }
        let (buffer, zeros, segment_bytes) = (Vec::new(), vec![0; STEP], SEGMENT_BYTES);
        let Some((path, _, bytes, at)) = last else {
            let (file, path) = create(&dir, 1)?;
            segments.push_back(Segment { number: 1, first_write: number.saturating_add(1), last_entry: 0 });
            return Ok(Self {
                dir,
                segments,
                file,
                path,
                end: 0,
                room: 0,
                number,
                hard_state,
                pointer,
                buffer,
                zeros,
                segment_bytes,
            });
        };
        let file = OpenOptions::new().write(true).open(&path).map_err(|error| fault(&path, &error))?;
        let (end, room) = (long(at), long(bytes.len()));
        let mut this =
            Self { dir, segments, file, path, end, room, number, hard_state, pointer, buffer, zeros, segment_bytes };
        if bytes.get(at..).unwrap_or_default().iter().any(|byte| *byte != 0) {
            tracing::info!(path = %this.path.display(), "a write that was broken off is dropped");
            this.room = end;
            this.make_room(long(bytes.len()))?;
        }
        // A process that was killed may have written what it did not flush. From here on it counts as kept.
        this.file.sync_data().map_err(|error| fault(&this.path, &error))?;
        Ok(this)
    }

    /// Appends one write. Durable when it returns.
    pub(super) fn append(&mut self, parts: &Parts<'_>) -> Result<(), StorageError> {
        let mut number = self.encode(parts)?;
        if self.end > 0 && self.end.saturating_add(long(self.buffer.len())) > self.segment_bytes {
            self.begin_segment()?;
            number = self.encode(parts)?;
        }
        let until = self.end.saturating_add(long(self.buffer.len()));
        self.make_room(until)?;
        self.file.write_all_at(&self.buffer, self.end).map_err(|error| fault(&self.path, &error))?;
        self.file.sync_data().map_err(|error| fault(&self.path, &error))?;
        (self.end, self.number) = (until, number);
        self.pointer = parts.pointer.or(self.pointer);
        if let Some(hard_state) = parts.hard_state {
            self.hard_state = hard_state.clone();
        }
        if let (Some(segment), Some(last)) = (self.segments.back_mut(), parts.entries.last()) {
            segment.last_entry = segment.last_entry.max(last.index);
        }
        // One large write must not hold its memory for ever.
        self.buffer.shrink_to(STEP);
        Ok(())
    }

    /// The number of the last write.
    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    pub(super) const fn hard_state(&self) -> &HardState {
        &self.hard_state
    }

    pub(super) const fn pointer(&self) -> Option<Pointer> {
        self.pointer
    }

    /// Where it could begin if no entry up to `index` were needed.
    pub(super) fn start_without(&self, index: u64) -> Option<Start> {
        let needed = self.segments.iter().find(|segment| segment.last_entry > index).or(self.segments.back())?;
        Some(Start { segment: needed.number, write: needed.first_write })
    }

    /// Removes what lies before `start`. What cannot be removed does no harm.
    pub(super) fn begin_at(&mut self, start: Start) {
        while self.segments.len() > 1
            && let Some(segment) = self.segments.pop_front_if(|segment| segment.number < start.segment)
        {
            remove(&self.dir.join(name(segment.number)));
        }
    }

    /// Fills the buffer with a write; its number. A segment's first one comes behind what is needed of those before it: as it was, since the
    /// new one may be broken off.
    fn encode(&mut self, parts: &Parts<'_>) -> Result<u64, StorageError> {
        let segment = self.segments.back().map_or(1, |segment| segment.number);
        let mut number = self.number.saturating_add(1);
        self.buffer.clear();
        if self.end == 0 {
            let hard_state = Some(&self.hard_state).filter(|known| **known != HardState::default());
            let head = Parts { pointer: self.pointer, hard_state, ..Parts::default() };
            frame::encode(&mut self.buffer, segment, number, &head)?;
            number = number.saturating_add(1);
        }
        frame::encode(&mut self.buffer, segment, number, parts)?;
        Ok(number)
    }

    fn begin_segment(&mut self) -> Result<(), StorageError> {
        let number = self.segments.back().map_or(1, |segment| segment.number.saturating_add(1));
        (self.file, self.path) = create(&self.dir, number)?;
        (self.end, self.room) = (0, 0);
        let first_write = self.number.saturating_add(1);
        self.segments.push_back(Segment { number, first_write, last_entry: 0 });
        Ok(())
    }

    /// Zeros up to `until` at least.
    fn make_room(&mut self, until: u64) -> Result<(), StorageError> {
        while self.room < until {
            self.file.write_all_at(&self.zeros, self.room).map_err(|error| fault(&self.path, &error))?;
            self.room = self.room.saturating_add(long(self.zeros.len()));
        }
        Ok(())
    }
}

/// Whether a whole frame lies anywhere in `tail`: then what is before it is no broken-off write.
fn is_followed(tail: &[u8], segment: u64) -> bool {
    (0..tail.len())
        .step_by(frame::ALIGN)
        .skip(1)
        .any(|at| tail.get(at..).is_some_and(|rest| frame::decode(rest, segment).is_some()))
}

/// The segments from `first` on, in order. Those before it are remains.
fn segments_in(dir: &Path, first: u64) -> Result<Vec<(u64, PathBuf)>, StorageError> {
    let mut found = Vec::new();
    for item in fs::read_dir(dir).map_err(|error| fault(dir, &error))? {
        let path = item.map_err(|error| fault(dir, &error))?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
        let Some(number) = number.filter(|_| path.extension().is_some_and(|found| found == EXTENSION)) else {
            continue;
        };
        if number < first {
            remove(&path);
        } else {
            found.push((number, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Durable when it returns: what is in it is no use without it.
fn create_folder(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    dir.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

fn create(dir: &Path, number: u64) -> Result<(File, PathBuf), StorageError> {
    let path = dir.join(name(number));
    let made = (|| {
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&path)?;
        File::open(dir)?.sync_all()?;
        Ok(file)
    })();
    made.map(|file| (file, path.clone())).map_err(|error| fault(&path, &error))
}

fn name(number: u64) -> String {
    format!("{number:020}.{EXTENSION}")
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!(path = %path.display(), %error, "a part of the log that is not needed stays on the disk");
    }
}

fn long(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

fn damaged(path: &Path, why: &str) -> StorageError {
    StorageError::Corrupt { what: format!("{}: {why}", path.display()) }
}

fn fault(path: &Path, error: &io::Error) -> StorageError {
    StorageError::Io(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests;
