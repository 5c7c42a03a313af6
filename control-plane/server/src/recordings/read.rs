//! Reading a recording from this member's disk, as a reader elsewhere gets it: in clear, from an offset on.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use futures::Stream;
use postern_core::operation::Digest;
use postern_core::recording::MAGIC;

use super::cipher::{CipherFault, DataKey, KEY_SLOT, KeySlot, LENGTH, piece_length};
use super::file::bytes;

/// The first bytes of a recording that is encrypted on a disk; the last of them is the form's version.
pub(super) const ENCRYPTED: &[u8; 8] = b"PSTNENC\x01";
const HEADER: usize = ENCRYPTED.len() + KEY_SLOT;
/// Bytes of a recording in one piece.
const CHUNK: u64 = 64 << 10;

/// How a file is encrypted.
#[derive(Clone, Debug)]
pub(super) struct Encrypted {
    key: DataKey,
    header: [u8; HEADER],
}

impl Encrypted {
    pub(super) fn new(key: DataKey, slot: &KeySlot) -> Self {
        let mut header = [0; HEADER];
        for (to, from) in header.iter_mut().zip(ENCRYPTED.iter().chain(slot.as_bytes())) {
            *to = *from;
        }
        Self { key, header }
    }

    pub(super) const fn key(&self) -> &DataKey {
        &self.key
    }

    /// What stands before the pieces.
    pub(super) const fn header(&self) -> &[u8; HEADER] {
        &self.header
    }

    pub(super) fn open(&self, index: u64, piece: Vec<u8>) -> Result<(Vec<u8>, bool), CipherFault> {
        self.key.open(&self.header, index, piece)
    }
}

/// Where a recording lies, and how far it goes.
#[derive(Clone, Debug)]
pub(crate) struct Located {
    /// Open: it may be put into the store, and be gone from here, while it is read.
    pub(super) file: Arc<File>,
    pub(super) encrypted: Option<Encrypted>,
    /// Bytes of it that are durable, as a reader gets them.
    pub(crate) length: u64,
    /// All events before it are durable.
    pub(crate) next_seq: u64,
    /// The chain's hash after them.
    pub(crate) head: Digest,
    /// Its gateway's seal is there.
    pub(crate) sealed: bool,
}

/// How far a file was read.
struct Source {
    located: Located,
    /// In the file.
    at: u64,
    index: u64,
    /// Of what the next pieces hold, bytes that are not wanted.
    skip: u64,
}

/// What is durable of a recording, from an offset on.
pub(crate) fn chunks(located: Located, offset: u64) -> impl Stream<Item = io::Result<Vec<u8>>> + Send {
    let left = located.length.saturating_sub(offset);
    let source = Source::new(located, offset);
    futures::stream::try_unfold((source, left), |(source, left)| async move {
        if left == 0 {
            return Ok(None);
        }
        // The disk may be slow, and a piece takes its time to open.
        let next = tokio::task::spawn_blocking(move || source.next(left));
        let (mut data, source) = next.await.map_err(io::Error::other)??;
        data.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        let left = left.saturating_sub(bytes(data.len()));
        Ok(Some((data, (source, left))))
    })
}

impl Source {
    fn new(located: Located, offset: u64) -> Self {
        let at = if located.encrypted.is_some() { bytes(HEADER) } else { offset };
        Self { located, at, index: 0, skip: offset }
    }

    /// Some of the next bytes, at least one.
    fn next(mut self, left: u64) -> io::Result<(Vec<u8>, Self)> {
        let Some(by) = self.located.encrypted.clone() else {
            let mut data = vec![0; usize::try_from(left.min(CHUNK)).unwrap_or(0)];
            self.located.file.read_exact_at(&mut data, self.at)?;
            self.at = self.at.saturating_add(bytes(data.len()));
            return Ok((data, self));
        };
        loop {
            // What a reader gets begins with what an encrypted file has not.
            let content = if self.index == 0 { MAGIC.to_vec() } else { self.piece(&by)? };
            self.index = self.index.saturating_add(1);
            let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(content.len());
            self.skip = self.skip.saturating_sub(bytes(skipped));
            if let Some(rest) = content.get(skipped..).filter(|rest| !rest.is_empty()) {
                return Ok((rest.to_vec(), self));
            }
        }
    }

    fn piece(&mut self, by: &Encrypted) -> io::Result<Vec<u8>> {
        let index = self.index.saturating_sub(1);
        let mut length = [0; LENGTH];
        self.located.file.read_exact_at(&mut length, self.at)?;
        let mut piece = vec![0; piece_length(index, length).map_err(io::Error::other)?];
        self.at = self.at.saturating_add(bytes(LENGTH));
        self.located.file.read_exact_at(&mut piece, self.at)?;
        self.at = self.at.saturating_add(bytes(piece.len()));
        Ok(by.open(index, piece).map_err(io::Error::other)?.0)
    }
}
