//! The hash chain over a recording's events (I10).

use aws_lc_rs::digest::{Context, SHA256};

use super::event::{Entry, Event};
use super::format::{self, MAX_BODY, RawFrame};
use crate::id::SessionId;
use crate::operation::Digest;
use crate::time::Timestamp;

/// The end of a recording's chain: what the next event is hashed onto.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    session: SessionId,
    next_seq: u64,
    head: Digest,
}

/// An event that cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// It is larger than a frame may be.
    #[error("an event of {0} bytes is larger than a frame may be")]
    TooLarge(usize),
    /// It cannot be put into JSON.
    #[error("cannot encode an event: {0}")]
    Json(#[from] serde_json::Error),
}

/// A frame that does not continue the chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainFault {
    /// The hash is not that of the chain with this body.
    #[error("event {seq}: hash mismatch: it was changed, or an event before it was changed, moved or removed")]
    Hash {
        /// The place at which it stands.
        seq: u64,
    },
    /// The body is no event.
    #[error("event {seq}: unreadable: {why}")]
    Unreadable {
        /// The place at which it stands.
        seq: u64,
        /// What is wrong with it.
        why: String,
    },
    /// The event says that it is of another place.
    #[error("event {seq} says that it is event {says}")]
    Sequence {
        /// The place at which it stands.
        seq: u64,
        /// The place that it claims.
        says: u64,
    },
}

impl Chain {
    /// The chain of a recording with no events yet.
    #[must_use]
    pub fn start(session: SessionId) -> Self {
        let mut hash = Context::new(&SHA256);
        hash.update(b"postern recording v1\0");
        hash.update(&session.to_bytes());
        Self { session, next_seq: 0, head: finish(hash) }
    }

    /// A chain taken up again where it was left.
    #[must_use]
    pub const fn resume(session: SessionId, next_seq: u64, head: Digest) -> Self {
        Self { session, next_seq, head }
    }

    /// The session.
    #[must_use]
    pub const fn session(&self) -> SessionId {
        self.session
    }

    /// The place of the next event; also how many there are.
    #[must_use]
    pub const fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// The hash after the last event.
    #[must_use]
    pub const fn head(&self) -> Digest {
        self.head
    }

    /// Appends `event` to the chain and its frame to `out`; returns its place.
    ///
    /// # Errors
    /// When the event is too large; the chain is then as it was.
    pub fn append(&mut self, at: Timestamp, event: &Event, out: &mut Vec<u8>) -> Result<u64, EncodeError> {
        #[derive(serde::Serialize)]
        struct EntryRef<'a> {
            seq: u64,
            at: Timestamp,
            event: &'a Event,
        }
        let seq = self.next_seq;
        let head = format::write(out, |body| {
            let begin = body.len();
            serde_json::to_writer(&mut *body, &EntryRef { seq, at, event })?;
            let written = body.get(begin..).unwrap_or_default();
            if written.len() > MAX_BODY { Err(EncodeError::TooLarge(written.len())) } else { Ok(self.after(written)) }
        })?;
        self.advance(head);
        Ok(seq)
    }

    /// Checks that `frame` continues the chain, and takes it.
    ///
    /// # Errors
    /// When it does not; the chain is then as it was.
    pub fn accept(&mut self, frame: &RawFrame<'_>) -> Result<Entry, ChainFault> {
        let seq = self.next_seq;
        let head = self.after(frame.body);
        if head.0 != frame.hash {
            return Err(ChainFault::Hash { seq });
        }
        let entry: Entry = serde_json::from_slice(frame.body)
            .map_err(|error| ChainFault::Unreadable { seq, why: error.to_string() })?;
        if entry.seq != seq {
            return Err(ChainFault::Sequence { seq, says: entry.seq });
        }
        self.advance(head);
        Ok(entry)
    }

    fn after(&self, body: &[u8]) -> Digest {
        let mut hash = Context::new(&SHA256);
        hash.update(&self.head.0);
        hash.update(body);
        finish(hash)
    }

    fn advance(&mut self, head: Digest) {
        self.head = head;
        self.next_seq = self.next_seq.saturating_add(1);
    }
}

fn finish(hash: Context) -> Digest {
    let mut out = [0; 32];
    out.copy_from_slice(hash.finish().as_ref());
    Digest(out)
}

/// What a gateway signs to seal a recording of `events` events whose chain ends in `head`.
#[must_use]
pub fn seal_message(session: SessionId, events: u64, head: Digest) -> Vec<u8> {
    let mut message = b"postern recording seal v1\0".to_vec();
    message.extend_from_slice(&session.to_bytes());
    message.extend_from_slice(&events.to_be_bytes());
    message.extend_from_slice(&head.0);
    message
}
