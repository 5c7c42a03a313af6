//! Backups: the whole replicated state at one index, encrypted under the cluster's key-encryption key. Recordings are not in it.
//!
//! The file, integers big-endian:
//!
//! | bytes | |
//! | --- | --- |
//! | 8 | `POSTERNB` |
//! | 4 | length of the header, at most 64 KiB |
//! | n | the header, JSON: version, cluster, incarnation, index, state hash, time, and the data key, sealed |
//! | then | pieces: 4 bytes length of the ciphertext; its highest bit says that it is the last one |
//! | 32 | SHA-256 of all before, by which a copy is checked without a key |
//!
//! A piece is AES-256-GCM (NIST SP 800-38D) of at most 1 MiB, under the file's own data key. Its nonce is its number; its associated data is
//! the SHA-256 of the header and whether it is the last: pieces that are left out, moved, or of another file do not open.

mod restore;
mod salvage;

use std::collections::VecDeque;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::digest::{Context, SHA256, digest};
use aws_lc_rs::rand;
use postern_core::secret::Sealed;
use postern_runtime::clock;
use postern_state::State;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

pub use restore::{Restored, restore};
pub use salvage::{Salvaged, salvage};

use crate::cluster::init::hex;
use crate::keys::{Kek, KeyError};

const MAGIC: &[u8; 8] = b"POSTERNB";
const VERSION: u32 = 1;
const PIECE: usize = 1 << 20;
const TAG: usize = 16;
const MAX_HEADER: usize = 64 << 10;
const LAST: u32 = 1 << 31;
const KEY: usize = 32;
/// What the sealed data key is of.
const DATA_KEY: &str = "backup/data-key";

/// A backup that cannot be made or read.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The key-encryption key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The system cannot encrypt.
    #[error("cannot encrypt")]
    Encrypt,
    /// There is nothing to save.
    #[error("the cluster is not made yet")]
    NoCluster,
    /// Another file.
    #[error("this is no backup")]
    NotABackup,
    /// Of a later version.
    #[error("the backup is of version {0}, this program knows {VERSION}")]
    Version(u32),
    /// It ends too early.
    #[error("the backup is cut short: the copy is not whole")]
    Truncated,
    /// It was changed.
    #[error("the backup is damaged: {0}")]
    Damaged(&'static str),
    /// The state in it cannot be read.
    #[error("the state in the backup: {0}")]
    State(#[from] postern_state::RestoreError),
    /// An entry of the log cannot be applied.
    #[error(transparent)]
    Log(#[from] postern_state::Halt),
    /// The file cannot be read.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

/// What a backup says of itself, in clear.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    version: u32,
    /// The cluster that it is of.
    pub cluster_id: String,
    /// Which life of it.
    pub incarnation: String,
    /// The index that it is at.
    pub index: u64,
    /// SHA-256 of the state.
    pub state_hash: String,
    /// When it was made, RFC 3339.
    pub made_at: String,
    /// Of the program.
    pub program: String,
    key: SealedKey,
}

/// The data key, sealed: bytes in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SealedKey {
    kek_id: String,
    wrapped_key: String,
    nonce: String,
    ciphertext: String,
}

impl From<&Sealed> for SealedKey {
    fn from(sealed: &Sealed) -> Self {
        Self {
            kek_id: sealed.kek_id.clone(),
            wrapped_key: hex(&sealed.wrapped_key),
            nonce: hex(&sealed.nonce),
            ciphertext: hex(&sealed.ciphertext),
        }
    }
}

impl SealedKey {
    fn sealed(&self) -> Option<Sealed> {
        let bytes = |text: &str| -> Option<Vec<u8>> {
            if !text.is_ascii() || !text.len().is_multiple_of(2) {
                return None;
            }
            (0..text.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(text.get(at..at.checked_add(2)?)?, 16).ok())
                .collect()
        };
        Some(Sealed {
            kek_id: self.kek_id.clone(),
            wrapped_key: bytes(&self.wrapped_key)?,
            nonce: bytes(&self.nonce)?,
            ciphertext: bytes(&self.ciphertext)?,
        })
    }
}

/// A backup as it is made: the file, piece by piece.
pub struct Backup {
    key: LessSafeKey,
    header_hash: [u8; 32],
    clear: Zeroizing<Vec<u8>>,
    at: usize,
    number: u64,
    whole: Context,
    ready: VecDeque<Vec<u8>>,
    done: bool,
}

impl Backup {
    /// Of `state`, under a key of its own that is sealed under `kek`.
    ///
    /// # Errors
    /// There is no cluster yet, or nothing can be sealed.
    pub async fn begin(state: &State, kek: &Kek) -> Result<Self, BackupError> {
        let cluster = state.cluster().ok_or(BackupError::NoCluster)?;
        let clear = Zeroizing::new(state.snapshot());
        let mut data_key = Zeroizing::new([0; KEY]);
        rand::fill(data_key.as_mut_slice()).map_err(|_| BackupError::Encrypt)?;
        let sealed = kek.seal(DATA_KEY, data_key.as_slice()).await?;
        let header = Header {
            version: VERSION,
            cluster_id: cluster.id.clone(),
            incarnation: cluster.incarnation.clone(),
            index: state.index(),
            state_hash: hex(digest(&SHA256, &clear).as_ref()),
            made_at: clock::now().to_string(),
            program: env!("CARGO_PKG_VERSION").to_owned(),
            key: SealedKey::from(&sealed),
        };
        let header = serde_json::to_vec(&header).map_err(|_| BackupError::Encrypt)?;
        let length = u32::try_from(header.len()).map_err(|_| BackupError::Encrypt)?;
        let mut first = MAGIC.to_vec();
        first.extend_from_slice(&length.to_be_bytes());
        first.extend_from_slice(&header);
        let mut whole = Context::new(&SHA256);
        whole.update(&first);
        Ok(Self {
            key: aes(&data_key)?,
            header_hash: sha256(&header),
            clear,
            at: 0,
            number: 0,
            whole,
            ready: VecDeque::from([first]),
            done: false,
        })
    }

    fn next_piece(&mut self) -> Result<Vec<u8>, BackupError> {
        let end = self.at.saturating_add(PIECE).min(self.clear.len());
        let last = end == self.clear.len();
        let mut piece = self.clear.get(self.at..end).unwrap_or_default().to_vec();
        let aad = associated(&self.header_hash, last);
        self.key
            .seal_in_place_append_tag(nonce(self.number), Aad::from(aad), &mut piece)
            .map_err(|_| BackupError::Encrypt)?;
        let length = u32::try_from(piece.len()).map_err(|_| BackupError::Encrypt)? | if last { LAST } else { 0 };
        let mut out = length.to_be_bytes().to_vec();
        out.append(&mut piece);
        self.whole.update(&out);
        self.at = end;
        self.number = self.number.saturating_add(1);
        if last {
            self.done = true;
            self.ready.push_back(self.whole.clone().finish().as_ref().to_vec());
        }
        Ok(out)
    }
}

impl Iterator for Backup {
    type Item = Result<Vec<u8>, BackupError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(ready) = self.ready.pop_front() {
            return Some(Ok(ready));
        }
        if self.done {
            return None;
        }
        let piece = self.next_piece();
        self.done |= piece.is_err();
        Some(piece)
    }
}

/// Reads a backup, wholly and strictly: what it says of itself, and the state's bytes.
///
/// # Errors
/// It is not whole, was changed, or `kek` is another key.
pub async fn open(file: &[u8], kek: &Kek) -> Result<(Header, Zeroizing<Vec<u8>>), BackupError> {
    let rest = file.strip_prefix(MAGIC).ok_or(BackupError::NotABackup)?;
    let (length, rest) = take_length(rest)?;
    let length = usize::try_from(length).map_err(|_| BackupError::NotABackup)?;
    if length > MAX_HEADER {
        return Err(BackupError::Damaged("its header is too long"));
    }
    let (header_bytes, mut rest) = rest.split_at_checked(length).ok_or(BackupError::Truncated)?;
    let header: Header = serde_json::from_slice(header_bytes).map_err(|_| BackupError::Damaged("its header"))?;
    if header.version != VERSION {
        return Err(BackupError::Version(header.version));
    }
    let body = rest;
    let sealed = header.key.sealed().ok_or(BackupError::Damaged("its header"))?;
    let data_key = kek.open(DATA_KEY, &sealed).await?;
    let data_key: Zeroizing<[u8; KEY]> =
        Zeroizing::new(data_key.expose().try_into().map_err(|_| BackupError::Damaged("its key"))?);
    let (key, header_hash) = (aes(&data_key)?, sha256(header_bytes));
    let mut clear = Zeroizing::new(Vec::with_capacity(body.len()));
    for number in 0_u64.. {
        let (length, after) = take_length(rest)?;
        let last = length & LAST != 0;
        let length = usize::try_from(length & !LAST).map_err(|_| BackupError::Truncated)?;
        if length > PIECE.saturating_add(TAG) {
            return Err(BackupError::Damaged("the length of a piece"));
        }
        let (piece, after) = after.split_at_checked(length).ok_or(BackupError::Truncated)?;
        let mut piece = Zeroizing::new(piece.to_vec());
        let opened = key
            .open_in_place(nonce(number), Aad::from(associated(&header_hash, last)), piece.as_mut_slice())
            .map_err(|_| BackupError::Damaged("a piece does not open"))?;
        clear.extend_from_slice(opened);
        rest = after;
        if last {
            break;
        }
    }
    let (whole, sum) = file.split_at_checked(file.len().saturating_sub(rest.len())).ok_or(BackupError::Truncated)?;
    if sum.len() < 32 {
        return Err(BackupError::Truncated);
    }
    if sha256(whole) != *sum {
        return Err(BackupError::Damaged("its checksum"));
    }
    if hex(&sha256(&clear)) != header.state_hash {
        return Err(BackupError::Damaged("the state is another than its header says"));
    }
    Ok((header, clear))
}

fn take_length(bytes: &[u8]) -> Result<(u32, &[u8]), BackupError> {
    let (length, rest) = bytes.split_at_checked(4).ok_or(BackupError::Truncated)?;
    let length = length.try_into().map(u32::from_be_bytes).map_err(|_| BackupError::Truncated)?;
    Ok((length, rest))
}

fn aes(key: &[u8; KEY]) -> Result<LessSafeKey, BackupError> {
    UnboundKey::new(&AES_256_GCM, key).map(LessSafeKey::new).map_err(|_| BackupError::Encrypt)
}

/// Never twice under one key: each file has a key of its own.
fn nonce(number: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    for (slot, byte) in bytes.iter_mut().skip(NONCE_LEN - 8).zip(number.to_be_bytes()) {
        *slot = byte;
    }
    Nonce::assume_unique_for_key(bytes)
}

fn associated(header_hash: &[u8; 32], last: bool) -> [u8; 33] {
    let mut out = [u8::from(last); 33];
    for (slot, byte) in out.iter_mut().zip(header_hash) {
        *slot = *byte;
    }
    out
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest(&SHA256, bytes).as_ref().try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests;
