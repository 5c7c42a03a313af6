//! One write in the write-ahead log, as bytes.
//!
//! | field | bytes | is |
//! | --- | --- | --- |
//! | magic | 4 | `pWAL` |
//! | length | 4 | of the payload |
//! | number | 8 | of the write: one more than that of the write before it |
//! | checksum | 4 | CRC-32 over the segment's number, the number, the length and the payload |
//! | nothing | 4 | zero |
//! | payload | length | a version, what is in it, and the parts, in the order of [`Parts`]' fields |
//! | padding | 0..8 | zeros: a frame begins at a multiple of eight |
//!
//! Integers are big-endian. A segment's number is in the checksum, so that no frame of another file is ever taken for one of this.

use raft::eraftpb::{Entry, HardState};
use raft_prost::Message as _;

use super::super::log_store::{Cut, StorageError};
use super::super::snapshot_file::Pointer;

const MAGIC: [u8; 4] = *b"pWAL";
const VERSION: u8 = 1;
const HEADER: usize = 24;
/// Where frames begin.
pub(super) const ALIGN: usize = 8;

const HAS_CUT_UP_TO: u8 = 1;
const HAS_CUT_ALL: u8 = 2;
const HAS_POINTER: u8 = 4;
const HAS_HARD_STATE: u8 = 8;

/// What one write consists of.
#[derive(Clone, Copy, Default)]
pub(in super::super) struct Parts<'a> {
    pub(in super::super) cut: Cut,
    pub(in super::super) pointer: Option<Pointer>,
    pub(in super::super) hard_state: Option<&'a HardState>,
    pub(in super::super) entries: &'a [Entry],
}

/// The same, read back.
#[derive(Debug, PartialEq)]
pub(in super::super) struct Record {
    pub(in super::super) cut: Cut,
    pub(in super::super) pointer: Option<Pointer>,
    pub(in super::super) hard_state: Option<HardState>,
    pub(in super::super) entries: Vec<Entry>,
}

/// A frame whose checksum is right.
pub(super) struct Frame<'a> {
    pub(super) number: u64,
    payload: &'a [u8],
}

/// Appends a frame to `out`, which begins at a multiple of [`ALIGN`].
pub(super) fn encode(out: &mut Vec<u8>, segment: u64, number: u64, parts: &Parts<'_>) -> Result<(), StorageError> {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER]);
    let mut flags = 0;
    let cut = match parts.cut {
        Cut::Nothing => None,
        Cut::UpTo(index) => {
            flags |= HAS_CUT_UP_TO;
            Some(index)
        }
        Cut::All => {
            flags |= HAS_CUT_ALL;
            None
        }
    };
    if parts.pointer.is_some() {
        flags |= HAS_POINTER;
    }
    if parts.hard_state.is_some() {
        flags |= HAS_HARD_STATE;
    }
    out.extend_from_slice(&[VERSION, flags]);
    if let Some(index) = cut {
        out.extend_from_slice(&index.to_be_bytes());
    }
    if let Some(pointer) = parts.pointer {
        out.extend_from_slice(&pointer.encode());
    }
    if let Some(HardState { term, vote, commit }) = parts.hard_state {
        for value in [term, vote, commit] {
            out.extend_from_slice(&value.to_be_bytes());
        }
    }
    for entry in parts.entries {
        entry.encode_length_delimited(out).map_err(|error| StorageError::Io(error.to_string()))?;
    }
    let length = out.len().saturating_sub(start.saturating_add(HEADER));
    let length = u32::try_from(length).map_err(|_| StorageError::Io("one write of more than 4 GiB".to_owned()))?;
    let payload = out.get(start.saturating_add(HEADER)..).unwrap_or_default();
    let sum = checksum(segment, number, length, payload);
    let header = [&MAGIC[..], &length.to_be_bytes(), &number.to_be_bytes(), &sum.to_be_bytes(), &[0; 4]].concat();
    if let Some(place) = out.get_mut(start..start.saturating_add(HEADER)) {
        place.copy_from_slice(&header);
    }
    out.resize(out.len().next_multiple_of(ALIGN), 0);
    Ok(())
}

/// The frame that `bytes` begin with, and how many bytes it takes up; `None` when there is none, or it is not whole.
pub(super) fn decode(bytes: &[u8], segment: u64) -> Option<(Frame<'_>, usize)> {
    let (header, rest) = bytes.split_first_chunk::<HEADER>()?;
    let (magic, header) = header.split_first_chunk::<4>()?;
    let (length, header) = header.split_first_chunk::<4>()?;
    let (number, header) = header.split_first_chunk::<8>()?;
    let (sum, _) = header.split_first_chunk::<4>()?;
    if *magic != MAGIC {
        return None;
    }
    let (length, number) = (u32::from_be_bytes(*length), u64::from_be_bytes(*number));
    let payload = rest.get(..usize::try_from(length).ok()?)?;
    if checksum(segment, number, length, payload) != u32::from_be_bytes(*sum) {
        return None;
    }
    let taken = HEADER.checked_add(payload.len())?.next_multiple_of(ALIGN);
    Some((Frame { number, payload }, taken))
}

impl Frame<'_> {
    /// What is in it. Its checksum is right: what cannot be read was never written by this version.
    pub(super) fn read(&self) -> Result<Record, StorageError> {
        let cut_off = || StorageError::Corrupt { what: format!("write {}: it is cut off", self.number) };
        let (&[version, flags], mut rest) = self.payload.split_first_chunk::<2>().ok_or_else(cut_off)?;
        if version != VERSION {
            return Err(StorageError::Version { version, known: VERSION });
        }
        let mut record = Record { cut: Cut::Nothing, pointer: None, hard_state: None, entries: Vec::new() };
        let mut integer = || {
            let (value, others) = rest.split_first_chunk::<8>().ok_or_else(cut_off)?;
            rest = others;
            Ok::<_, StorageError>(u64::from_be_bytes(*value))
        };
        if flags & HAS_CUT_UP_TO != 0 {
            record.cut = Cut::UpTo(integer()?);
        }
        if flags & HAS_CUT_ALL != 0 {
            record.cut = Cut::All;
        }
        if flags & HAS_POINTER != 0 {
            record.pointer = Some(Pointer { index: integer()?, term: integer()?, length: integer()? });
        }
        if flags & HAS_HARD_STATE != 0 {
            record.hard_state = Some(HardState { term: integer()?, vote: integer()?, commit: integer()? });
        }
        while !rest.is_empty() {
            let entry = Entry::decode_length_delimited(&mut rest)
                .map_err(|error| StorageError::Corrupt { what: format!("write {}: {error}", self.number) })?;
            record.entries.push(entry);
        }
        Ok(record)
    }
}

pub(super) fn checksum(segment: u64, number: u64, length: u32, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&segment.to_be_bytes());
    hasher.update(&number.to_be_bytes());
    hasher.update(&length.to_be_bytes());
    hasher.update(payload);
    hasher.finalize()
}
