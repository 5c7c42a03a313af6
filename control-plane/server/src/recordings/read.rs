//! Reading a recording from this member's disk, as a reader elsewhere gets it: in clear, from an offset on.

use std::io;
use std::path::PathBuf;

use futures::Stream;
use postern_core::recording::MAGIC;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

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
    pub(super) path: PathBuf,
    pub(super) encrypted: Option<Encrypted>,
    /// Bytes of it that are durable, as a reader gets them.
    pub(crate) length: u64,
    /// All events before it are durable.
    pub(crate) next_seq: u64,
}

enum Source {
    Clear { file: tokio::fs::File },
    Encrypted { file: tokio::fs::File, by: Encrypted, index: u64, skip: u64 },
}

/// What is durable of a recording, from an offset on.
pub(crate) fn chunks(located: Located, offset: u64) -> impl Stream<Item = io::Result<Vec<u8>>> + Send {
    let left = located.length.saturating_sub(offset);
    futures::stream::try_unfold((None, left), move |(source, left)| {
        let located = located.clone();
        async move {
            if left == 0 {
                return Ok(None);
            }
            let mut source = match source {
                Some(source) => source,
                None => Source::open(located, offset).await?,
            };
            let mut data = source.next(left).await?;
            data.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            let left = left.saturating_sub(bytes(data.len()));
            Ok(Some((data, (Some(source), left))))
        }
    })
}

fn too_short() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the recording is shorter than it was")
}

impl Source {
    async fn open(located: Located, offset: u64) -> io::Result<Self> {
        let mut file = tokio::fs::File::open(located.path).await?;
        let Some(by) = located.encrypted else {
            file.seek(io::SeekFrom::Start(offset)).await?;
            return Ok(Self::Clear { file });
        };
        let mut header = [0; HEADER];
        file.read_exact(&mut header).await?;
        if header != by.header {
            return Err(io::Error::other("the recording is another than it was"));
        }
        Ok(Self::Encrypted { file, by, index: 0, skip: offset })
    }

    /// Some of the next bytes, at least one.
    async fn next(&mut self, left: u64) -> io::Result<Vec<u8>> {
        match self {
            Self::Clear { file } => {
                let mut data = Vec::new();
                let read = file.take(left.min(CHUNK)).read_to_end(&mut data).await?;
                if read == 0 { Err(too_short()) } else { Ok(data) }
            }
            Self::Encrypted { file, by, index, skip } => loop {
                // What a reader gets begins with what an encrypted file has not.
                if *index == 0
                    && let Some(magic) =
                        usize::try_from(*skip).ok().and_then(|skip| MAGIC.get(skip..)).filter(|magic| !magic.is_empty())
                {
                    let magic = magic.to_vec();
                    *skip = bytes(MAGIC.len());
                    return Ok(magic);
                }
                let content = piece(file, by, *index).await?;
                if *index == 0 {
                    *skip = skip.saturating_sub(bytes(MAGIC.len()));
                }
                *index = index.saturating_add(1);
                let skipped = usize::try_from(*skip).unwrap_or(usize::MAX).min(content.len());
                *skip = skip.saturating_sub(bytes(skipped));
                if let Some(rest) = content.get(skipped..).filter(|rest| !rest.is_empty()) {
                    return Ok(rest.to_vec());
                }
            },
        }
    }
}

async fn piece(file: &mut tokio::fs::File, by: &Encrypted, index: u64) -> io::Result<Vec<u8>> {
    let mut length = [0; LENGTH];
    file.read_exact(&mut length).await?;
    let mut piece = vec![0; piece_length(index, length).map_err(io::Error::other)?];
    file.read_exact(&mut piece).await?;
    let by = by.clone();
    let opened = tokio::task::spawn_blocking(move || by.open(index, piece)).await.map_err(io::Error::other)?;
    Ok(opened.map_err(io::Error::other)?.0)
}
