//! Frames and messages of protocol 3 (section "Message Formats"). Text stays bytes; every count is checked before it is believed.

pub mod backend;
pub mod frontend;
mod reader;
pub mod startup;
pub mod write;

use bytes::{Bytes, BytesMut};

pub(crate) use reader::Reader;

/// Bytes before a frame's body: its tag and its length.
pub const HEADER: usize = 5;

/// The bytes are not of the protocol, or past a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// A length that no message can have.
    #[error("message '{}' has an impossible length", tag.escape_ascii())]
    BadLength {
        /// The message's tag.
        tag: u8,
    },
    /// Longer than the limit for its kind.
    #[error("message '{}' of {length} bytes is longer than {limit}", tag.escape_ascii())]
    TooLong {
        /// The message's tag.
        tag: u8,
        /// Its length, in bytes.
        length: usize,
        /// What is admitted, in bytes.
        limit: usize,
    },
    /// The body is not as its tag says.
    #[error("message '{}' is malformed: {what}", tag.escape_ascii())]
    Malformed {
        /// The message's tag.
        tag: u8,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A tag that means nothing here.
    #[error("unexpected message '{}'", tag.escape_ascii())]
    UnknownTag {
        /// The tag.
        tag: u8,
    },
}

/// How long frames may be, in bytes, tag and length included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Query and Parse.
    pub statement: usize,
    /// Bind, CopyData, DataRow and every other frame that carries data.
    pub frame: usize,
}

/// Frames of fixed or short form: nothing in them carries data (PostgreSQL's own PQ_SMALL_MESSAGE_LIMIT).
const SMALL: usize = 10_000;

impl Default for Limits {
    fn default() -> Self {
        Self { statement: 1 << 20, frame: 64 << 20 }
    }
}

/// One message, exactly as it came.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    raw: Bytes,
}

/// Tag and length only: bodies hold statements and values.
impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Frame('{}', {} bytes)", self.tag().escape_ascii(), self.raw.len())
    }
}

impl Frame {
    /// What kind of message it is.
    #[must_use]
    pub fn tag(&self) -> u8 {
        self.raw.first().copied().unwrap_or_default()
    }

    /// What follows tag and length.
    #[must_use]
    pub fn body(&self) -> Bytes {
        self.raw.slice(HEADER.min(self.raw.len())..)
    }

    /// The whole frame.
    #[must_use]
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// The whole frame.
    #[must_use]
    pub fn into_raw(self) -> Bytes {
        self.raw
    }
}

/// Which end a frame comes from: limits differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The client.
    Frontend,
    /// The server.
    Backend,
}

/// Tag and whole length of the first frame in `buffer`; `None` while its header is incomplete. Refuses a length past
/// the limit as soon as it is seen, so that nothing is ever held for it.
///
/// # Errors
/// When the length is impossible or past the limit for the tag.
pub fn peek(buffer: &[u8], from: Origin, limits: &Limits) -> Result<Option<(u8, usize)>, CodecError> {
    let Some(&[tag, a, b, c, d]) = buffer.first_chunk::<HEADER>() else {
        return Ok(None);
    };
    // The length counts itself, but not the tag.
    let length = i32::from_be_bytes([a, b, c, d]);
    let length = usize::try_from(length).ok().filter(|length| *length >= 4).ok_or(CodecError::BadLength { tag })?;
    let whole = length.saturating_add(1);
    let limit = limit_of(tag, from, limits);
    if whole > limit {
        return Err(CodecError::TooLong { tag, length: whole, limit });
    }
    Ok(Some((tag, whole)))
}

/// Takes the first frame out of `buffer`; `None` while it is incomplete.
///
/// # Errors
/// As [`peek`].
pub fn next_frame(buffer: &mut BytesMut, from: Origin, limits: &Limits) -> Result<Option<Frame>, CodecError> {
    match peek(buffer, from, limits)? {
        Some((_, whole)) if buffer.len() >= whole => Ok(Some(Frame { raw: buffer.split_to(whole).freeze() })),
        _ => Ok(None),
    }
}

fn limit_of(tag: u8, from: Origin, limits: &Limits) -> usize {
    match (from, tag) {
        (Origin::Frontend, frontend::QUERY | frontend::PARSE) => limits.statement.saturating_add(SMALL),
        (Origin::Frontend, frontend::BIND | frontend::FUNCTION_CALL | frontend::COPY_DATA) => limits.frame,
        (Origin::Frontend, frontend::PASSWORD) => 64 << 10,
        (Origin::Frontend, _) => SMALL,
        (Origin::Backend, backend::READY_FOR_QUERY | backend::BACKEND_KEY_DATA) => SMALL,
        (Origin::Backend, _) => limits.frame,
    }
}

#[cfg(test)]
mod tests;
