//! Frames: how a recording lies in a file.
//!
//! A file is [`MAGIC`] and then frames. A frame is the body's length as a big-endian 32-bit number, the body (one JSON object, an
//! [`super::Entry`]), and the chain's 32-byte hash after this body.

use crate::operation::Digest;

/// The first bytes of a recording's file; the last of them is the format's version.
pub const MAGIC: &[u8; 8] = b"PSTNREC\x01";
/// The largest body, in bytes.
pub const MAX_BODY: usize = 16 << 20;

const LENGTH: usize = 4;
const HASH: usize = 32;

/// One frame, not yet checked against the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawFrame<'a> {
    /// One JSON object.
    pub body: &'a [u8],
    /// What the writer says the chain's hash is after it.
    pub hash: [u8; 32],
    /// The whole frame as it lies in the file.
    pub bytes: &'a [u8],
}

/// The bytes do not go on as a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameFault {
    /// They end inside a frame.
    #[error("the bytes end inside a frame, at offset {offset}")]
    Incomplete {
        /// Where the frame begins.
        offset: usize,
    },
    /// A length that no writer writes.
    #[error("impossible frame length {length} at offset {offset}")]
    Length {
        /// What the length field says.
        length: u32,
        /// Where the frame begins.
        offset: usize,
    },
}

impl FrameFault {
    /// The same, where so many bytes of frames came before those that were read.
    #[must_use]
    pub(super) const fn after(self, before: usize) -> Self {
        match self {
            Self::Incomplete { offset } => Self::Incomplete { offset: offset.saturating_add(before) },
            Self::Length { length, offset } => Self::Length { length, offset: offset.saturating_add(before) },
        }
    }
}

/// The frames in some bytes; stops after the first fault.
#[derive(Clone, Debug)]
pub struct Frames<'a> {
    bytes: &'a [u8],
    offset: usize,
    failed: bool,
}

/// Splits `bytes` (without [`MAGIC`]) into frames.
#[must_use]
pub const fn frames(bytes: &[u8]) -> Frames<'_> {
    Frames { bytes, offset: 0, failed: false }
}

impl Frames<'_> {
    /// How many bytes the whole frames so far took.
    #[must_use]
    pub const fn offset(&self) -> usize {
        self.offset
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<RawFrame<'a>, FrameFault>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.bytes.get(self.offset..).filter(|rest| !rest.is_empty() && !self.failed)?;
        let frame = read(rest, self.offset);
        match &frame {
            Ok(frame) => self.offset = self.offset.saturating_add(frame.bytes.len()),
            Err(_) => self.failed = true,
        }
        Some(frame)
    }
}

fn read(bytes: &[u8], offset: usize) -> Result<RawFrame<'_>, FrameFault> {
    let incomplete = FrameFault::Incomplete { offset };
    let (length, rest) = bytes.split_first_chunk::<LENGTH>().ok_or(incomplete)?;
    let length = u32::from_be_bytes(*length);
    let size = usize::try_from(length).unwrap_or(usize::MAX);
    if size == 0 || size > MAX_BODY {
        return Err(FrameFault::Length { length, offset });
    }
    let (body, rest) = rest.split_at_checked(size).ok_or(incomplete)?;
    let hash = *rest.first_chunk::<HASH>().ok_or(incomplete)?;
    let whole = bytes.get(..LENGTH.saturating_add(size).saturating_add(HASH)).ok_or(incomplete)?;
    Ok(RawFrame { body, hash, bytes: whole })
}

/// Appends a frame to `out`: `body` appends what it holds, bounded by [`MAX_BODY`], and says the chain's hash after it. After an error `out`
/// is as it was.
pub(super) fn write<E>(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>) -> Result<Digest, E>) -> Result<Digest, E> {
    let begin = out.len();
    out.extend_from_slice(&[0; LENGTH]);
    match body(out) {
        Ok(hash) => {
            let size = out.len().saturating_sub(begin.saturating_add(LENGTH));
            let length = u32::try_from(size).unwrap_or(u32::MAX);
            if let Some(place) = out.get_mut(begin..begin.saturating_add(LENGTH)) {
                place.copy_from_slice(&length.to_be_bytes());
            }
            out.extend_from_slice(&hash.0);
            Ok(hash)
        }
        Err(error) => {
            out.truncate(begin);
            Err(error)
        }
    }
}
