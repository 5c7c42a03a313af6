//! How a recording is encrypted where it lies: in pieces, under a key of its own, which lies beside under a key of the cluster's.
//!
//! The form is in docs/recording-store.md. A piece holds whole frames, compressed (zstd, RFC 8878) and encrypted (AES-256-GCM, NIST SP
//! 800-38D), and is bound to its recording and its place in it: so none can be changed, moved or put into another recording. That none is
//! missing at the end is told by the last piece's mark, and in a recording that goes on by its chain.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, MAX_TAG_LEN, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::rand;
use postern_core::SessionId;
use postern_core::recording::{MAX_BODY, frames};
use zeroize::Zeroizing;

/// Bytes of a key.
pub(super) const KEY: usize = 32;
/// Bytes of a [`KeySlot`].
pub(super) const KEY_SLOT: usize = 4 + NONCE_LEN + KEY + MAX_TAG_LEN;
/// Bytes of frames in a piece, unless one frame has more.
pub(super) const PIECE: usize = 256 << 10;
/// The largest content of a piece: one frame of the largest size.
const MAX_CONTENT: usize = MAX_BODY + 64;
/// What stands before a piece's content in clear: how long it is.
pub(super) const LENGTH: usize = 4;
/// The largest piece without its length: what zstd makes larger is stored as it is.
pub(super) const MAX_PIECE: usize = NONCE_LEN + 1 + MAX_CONTENT + MAX_TAG_LEN;
const MIN_PIECE: usize = NONCE_LEN + 1 + MAX_TAG_LEN;

const COMPRESSED: u8 = 1;
const LAST: u8 = 2;
/// Smaller ones gain nothing.
const WORTH_COMPRESSING: usize = 128;

/// A recording that does not open.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CipherFault {
    /// Not under this key, changed, or put in another's place.
    #[error("its key does not open: it is not under key {0} of recordings, or damaged")]
    Key(u32),
    /// Changed, moved, or of another recording.
    #[error("piece {0} does not open: it was changed, or is not of this place")]
    Piece(u64),
    /// No piece is so long.
    #[error("piece {0} has an impossible length")]
    Length(u64),
    /// What is compressed in it is damaged, or longer than it may be.
    #[error("piece {0} does not unpack")]
    Unpack(u64),
    /// The system has no randomness, or the key is none.
    #[error("cannot encrypt")]
    Encrypt,
}

/// A key of one recording.
#[derive(Clone)]
pub(super) struct DataKey {
    session: SessionId,
    key: Arc<LessSafeKey>,
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataKey").field("session", &self.session).finish_non_exhaustive()
    }
}

/// A recording's key as it lies beside it: the number of the key that it is under, a nonce, and the key, encrypted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct KeySlot([u8; KEY_SLOT]);

impl fmt::Debug for KeySlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeySlot").field("number", &self.number()).finish_non_exhaustive()
    }
}

impl KeySlot {
    pub(super) const fn from_bytes(bytes: [u8; KEY_SLOT]) -> Self {
        Self(bytes)
    }

    pub(super) const fn as_bytes(&self) -> &[u8; KEY_SLOT] {
        &self.0
    }

    /// Which of the cluster's keys it is under.
    pub(super) fn number(&self) -> u32 {
        self.0.first_chunk().map_or(0, |number| u32::from_be_bytes(*number))
    }
}

/// One of the cluster's keys of recordings.
#[derive(Clone)]
pub(super) struct WrappingKey {
    number: u32,
    key: Arc<LessSafeKey>,
}

impl WrappingKey {
    pub(super) fn new(number: u32, key: &[u8]) -> Result<Self, CipherFault> {
        let key = UnboundKey::new(&AES_256_GCM, key).map_err(|_| CipherFault::Encrypt)?;
        Ok(Self { number, key: Arc::new(LessSafeKey::new(key)) })
    }

    /// A new key for a recording.
    pub(super) fn make(&self, session: SessionId) -> Result<(DataKey, KeySlot), CipherFault> {
        let mut key = Zeroizing::new([0; KEY]);
        rand::fill(key.as_mut_slice()).map_err(|_| CipherFault::Encrypt)?;
        let nonce = nonce()?;
        let mut wrapped = Zeroizing::new(key.to_vec());
        let tag = self
            .key
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), key_of(session), wrapped.as_mut_slice())
            .map_err(|_| CipherFault::Encrypt)?;
        let parts: [&[u8]; 4] = [&self.number.to_be_bytes(), &nonce, &wrapped, tag.as_ref()];
        let slot = parts.concat().try_into().map_err(|_| CipherFault::Encrypt)?;
        Ok((DataKey::new(session, key.as_slice())?, KeySlot(slot)))
    }

    /// The key that lies in `slot`.
    pub(super) fn open(&self, session: SessionId, slot: &KeySlot) -> Result<DataKey, CipherFault> {
        let fault = || CipherFault::Key(self.number);
        let (_, rest) = slot.0.split_first_chunk::<4>().ok_or_else(fault)?;
        let (nonce, wrapped) = rest.split_first_chunk::<NONCE_LEN>().ok_or_else(fault)?;
        let mut wrapped = Zeroizing::new(wrapped.to_vec());
        let key = self
            .key
            .open_in_place(Nonce::assume_unique_for_key(*nonce), key_of(session), wrapped.as_mut_slice())
            .map_err(|_| fault())?;
        DataKey::new(session, key)
    }
}

fn nonce() -> Result<[u8; NONCE_LEN], CipherFault> {
    let mut nonce = [0; NONCE_LEN];
    rand::fill(&mut nonce).map_err(|_| CipherFault::Encrypt)?;
    Ok(nonce)
}

fn key_of(session: SessionId) -> Aad<Vec<u8>> {
    Aad::from([&b"postern recording key v1\0"[..], &session.to_bytes()].concat())
}

impl DataKey {
    fn new(session: SessionId, key: &[u8]) -> Result<Self, CipherFault> {
        let key = UnboundKey::new(&AES_256_GCM, key).map_err(|_| CipherFault::Encrypt)?;
        Ok(Self { session, key: Arc::new(LessSafeKey::new(key)) })
    }

    /// `header` stands before the pieces: it is as whole as they are.
    fn place(&self, header: &[u8], index: u64) -> Aad<Vec<u8>> {
        let parts: [&[u8]; 4] =
            [b"postern recording piece v1\0", &self.session.to_bytes(), &index.to_be_bytes(), header];
        Aad::from(parts.concat())
    }

    /// Appends the piece at `index` to `out`, with its length.
    pub(super) fn seal(&self, piece: Piece<'_>, out: &mut Vec<u8>) -> Result<(), CipherFault> {
        let Piece { header, index, content, last, level } = piece;
        let mut flags = if last { LAST } else { 0 };
        let packed = (content.len() >= WORTH_COMPRESSING)
            .then(|| zstd::bulk::compress(content, level).ok())
            .flatten()
            .filter(|packed| packed.len() < content.len());
        if packed.is_some() {
            flags |= COMPRESSED;
        }
        let content = packed.as_deref().unwrap_or(content);
        let length = NONCE_LEN.saturating_add(1).saturating_add(content.len()).saturating_add(MAX_TAG_LEN);
        let nonce = nonce()?;
        let begin = out.len();
        out.reserve(LENGTH.saturating_add(length));
        out.extend_from_slice(&u32::try_from(length).map_err(|_| CipherFault::Length(index))?.to_be_bytes());
        out.extend_from_slice(&nonce);
        let clear = out.len();
        out.push(flags);
        out.extend_from_slice(content);
        let sealed = out.get_mut(clear..).map(|content| {
            let nonce = Nonce::assume_unique_for_key(nonce);
            self.key.seal_in_place_separate_tag(nonce, self.place(header, index), content)
        });
        match sealed {
            Some(Ok(tag)) => {
                out.extend_from_slice(tag.as_ref());
                Ok(())
            }
            _ => {
                out.truncate(begin);
                Err(CipherFault::Encrypt)
            }
        }
    }

    /// What the piece at `index` holds, without the length before it; and whether it is the last one.
    pub(super) fn open(&self, header: &[u8], index: u64, mut piece: Vec<u8>) -> Result<(Vec<u8>, bool), CipherFault> {
        let fault = || CipherFault::Piece(index);
        let (nonce, sealed) = piece.split_first_chunk_mut::<NONCE_LEN>().ok_or_else(fault)?;
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let clear = self.key.open_in_place(nonce, self.place(header, index), sealed).map_err(|_| fault())?;
        let (flags, content) = clear.split_first().ok_or_else(fault)?;
        let content = match flags & COMPRESSED {
            0 => content.to_vec(),
            // Of a bounded size, whatever it says.
            _ => zstd::bulk::decompress(content, MAX_CONTENT).map_err(|_| CipherFault::Unpack(index))?,
        };
        Ok((content, flags & LAST != 0))
    }
}

/// What goes into a piece.
#[derive(Clone, Copy)]
pub(super) struct Piece<'a> {
    /// What stands before all pieces.
    pub(super) header: &'a [u8],
    /// Its place.
    pub(super) index: u64,
    /// Whole frames.
    pub(super) content: &'a [u8],
    /// None comes after it.
    pub(super) last: bool,
    /// Of zstd.
    pub(super) level: i32,
}

/// How long the piece at `index` says that it is.
pub(super) fn piece_length(index: u64, length: [u8; LENGTH]) -> Result<usize, CipherFault> {
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if (MIN_PIECE..=MAX_PIECE).contains(&length) { Ok(length) } else { Err(CipherFault::Length(index)) }
}

/// Parts `bytes`, which are whole frames, into pieces of whole frames: each as large as it may be.
pub(super) fn pieces(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (mut walk, mut begin, mut done) = (frames(bytes), 0, false);
    std::iter::from_fn(move || {
        loop {
            if done {
                return None;
            }
            let before = walk.offset();
            let next = walk.next();
            let end = walk.offset();
            if next.is_none() || matches!(next, Some(Err(_))) {
                done = true;
                // What is no frame is not lost here: whoever reads it tells.
                return bytes.get(begin..).filter(|rest| !rest.is_empty());
            }
            if end.saturating_sub(begin) > PIECE && before > begin {
                let piece = bytes.get(begin..before);
                begin = before;
                return piece;
            }
        }
    })
}

#[cfg(test)]
#[path = "cipher_tests.rs"]
mod tests;
