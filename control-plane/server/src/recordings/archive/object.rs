//! The form of a recording in the store: a header in clear, then pieces, of which the last says so.

use std::collections::VecDeque;

use bytes::{Buf as _, Bytes, BytesMut};
use futures::TryStreamExt as _;
use futures::stream::BoxStream;
use postern_core::SessionId;
use postern_core::operation::Digest;

use super::super::cipher::{CipherFault, DataKey, LENGTH, PIECE, Piece, piece_length, pieces};
use super::super::copies::whole_frames;
use super::ArchiveError;

/// The first bytes of a recording in the store; the last of them is the form's version.
const ARCHIVED: &[u8; 8] = b"PSTNARC\x01";
/// Bytes of a header.
pub(super) const HEADER: usize = 72;
/// Of zstd: a recording is written once and kept for years.
const LEVEL: i32 = 6;
/// Frames that wait for a piece to be full.
const GATHER: usize = 2 * PIECE;

/// What a recording in the store says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Whose it is.
    pub(crate) session: SessionId,
    /// Its events, with the seal.
    pub(crate) events: u64,
    /// Its bytes, as a reader gets them.
    pub(crate) length: u64,
    /// What its chain ends in.
    pub(crate) head: Digest,
}

impl Header {
    fn to_bytes(self) -> Vec<u8> {
        let parts: [&[u8]; 5] =
            [ARCHIVED, &self.session.to_bytes(), &self.events.to_be_bytes(), &self.length.to_be_bytes(), &self.head.0];
        parts.concat()
    }

    /// Nothing that it says counts before a piece has been opened with it.
    pub(super) fn read(bytes: &[u8], session: SessionId) -> Result<Self, ArchiveError> {
        let lies = |what: &str| ArchiveError::Lies(what.to_owned());
        let rest = bytes.strip_prefix(ARCHIVED.as_slice()).ok_or_else(|| lies("it has not a recording's form"))?;
        let rest = rest.strip_prefix(session.to_bytes().as_slice()).ok_or_else(|| lies("it is of another session"))?;
        let short = || lies("it is shorter than a recording");
        let (events, rest) = rest.split_first_chunk().ok_or_else(short)?;
        let (length, rest) = rest.split_first_chunk().ok_or_else(short)?;
        let head = *rest.first_chunk().ok_or_else(short)?;
        let (events, length) = (u64::from_be_bytes(*events), u64::from_be_bytes(*length));
        Ok(Self { session, events, length, head: Digest(head) })
    }
}

/// Makes an object of frames.
pub(super) struct Writer {
    key: DataKey,
    header: Vec<u8>,
    index: u64,
    waiting: Vec<u8>,
    out: Vec<u8>,
}

impl Writer {
    pub(super) fn new(header: &Header, key: DataKey) -> Self {
        let header = header.to_bytes();
        Self { key, out: header.clone(), header, index: 0, waiting: Vec::new() }
    }

    /// What has been made and not taken, in bytes.
    pub(super) fn len(&self) -> usize {
        self.out.len()
    }

    /// What has been made since the last time.
    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// Takes some bytes of frames.
    pub(super) async fn push(&mut self, clear: &[u8]) -> Result<(), ArchiveError> {
        self.waiting.extend_from_slice(clear);
        if self.waiting.len() < GATHER { Ok(()) } else { self.pack(false).await }
    }

    /// No more come.
    pub(super) async fn finish(&mut self) -> Result<(), ArchiveError> {
        self.pack(true).await
    }

    /// Makes pieces of all whole frames but those that another may still come to; of all, and the mark of the end, at the end.
    async fn pack(&mut self, ended: bool) -> Result<(), ArchiveError> {
        let whole = whole_frames(&self.waiting).map_err(|fault| ArchiveError::Lies(fault.to_string()))?;
        let rest = self.waiting.split_off(whole);
        if ended && !rest.is_empty() {
            return Err(ArchiveError::Disk(std::io::Error::other("the recording ends inside a frame")));
        }
        let clear = std::mem::replace(&mut self.waiting, rest);
        let (key, header, mut index, mut out) =
            (self.key.clone(), self.header.clone(), self.index, std::mem::take(&mut self.out));
        // Compressing takes its time.
        let packed = tokio::task::spawn_blocking(move || {
            let mut left = Vec::new();
            let mut parts: VecDeque<&[u8]> = pieces(&clear).collect();
            if !ended && let Some(last) = parts.pop_back() {
                left = last.to_vec();
            }
            for content in parts {
                key.seal(Piece { header: &header, index, content, last: false, level: LEVEL }, &mut out)?;
                index = index.saturating_add(1);
            }
            if ended {
                key.seal(Piece { header: &header, index, content: &[], last: true, level: LEVEL }, &mut out)?;
            }
            Ok::<_, CipherFault>((out, index, left))
        });
        let (out, index, mut left) = packed.await.map_err(std::io::Error::other)??;
        left.append(&mut self.waiting);
        (self.out, self.index, self.waiting) = (out, index, left);
        Ok(())
    }
}

/// Opens an object, piece by piece.
pub(super) struct Reader {
    key: DataKey,
    header: Vec<u8>,
    index: u64,
    buffer: BytesMut,
    ended: bool,
}

impl Reader {
    pub(super) fn new(header: &Header, key: DataKey) -> Self {
        Self { key, header: header.to_bytes(), index: 0, buffer: BytesMut::new(), ended: false }
    }

    /// What the next piece holds; none after the last, which must be the end.
    pub(super) async fn next(
        &mut self,
        body: &mut BoxStream<'static, object_store::Result<Bytes>>,
    ) -> Result<Option<Vec<u8>>, ArchiveError> {
        let lies = |what: &str| ArchiveError::Lies(what.to_owned());
        loop {
            if self.ended {
                let more = !self.buffer.is_empty() || self.more(body).await?;
                return if more { Err(lies("something follows its end")) } else { Ok(None) };
            }
            if !self.fill(LENGTH, body).await? {
                return Err(lies("it is cut off"));
            }
            let length = self.buffer.first_chunk().map(|length| piece_length(self.index, *length));
            let length = length.ok_or_else(|| lies("it is cut off"))??;
            if !self.fill(LENGTH.saturating_add(length), body).await? {
                return Err(lies("it is cut off"));
            }
            self.buffer.advance(LENGTH);
            let piece = self.buffer.split_to(length).to_vec();
            let (key, header, index) = (self.key.clone(), self.header.clone(), self.index);
            let opened = tokio::task::spawn_blocking(move || key.open(&header, index, piece));
            let (content, last) = opened.await.map_err(std::io::Error::other)??;
            self.index = self.index.saturating_add(1);
            self.ended = last;
            if !content.is_empty() {
                return Ok(Some(content));
            }
        }
    }

    async fn fill(
        &mut self,
        length: usize,
        body: &mut BoxStream<'static, object_store::Result<Bytes>>,
    ) -> Result<bool, ArchiveError> {
        while self.buffer.len() < length {
            if !self.more(body).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn more(&mut self, body: &mut BoxStream<'static, object_store::Result<Bytes>>) -> Result<bool, ArchiveError> {
        while let Some(part) = body.try_next().await? {
            if !part.is_empty() {
                self.buffer.extend_from_slice(&part);
                return Ok(true);
            }
        }
        Ok(false)
    }
}
