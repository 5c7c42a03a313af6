//! Snapshots as files: written beside the log while it goes on, and read when a peer needs one.
//!
//! `<index>-<term>.snapshot` is a header, the members, and the data in chunks, each with its CRC-32. It is written under another name,
//! flushed, and renamed: a file of that name is whole, or damaged. The log's pointer says which file counts; others are remains of a
//! crash, and are removed.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use raft_prost::Message as _;

use super::log_store::{SnapshotRecord, StorageError};
use super::transport::SnapshotSource;

const MAGIC: [u8; 8] = *b"pstnsnap";
const VERSION: u8 = 1;
/// Magic, version, index, term, length of the members, length of the data, CRC-32 of all before it and of the members.
const HEADER: usize = 8 + 1 + 8 + 8 + 4 + 8 + 4;
const CHUNK: usize = 1 << 20;
const EXTENSION: &str = "snapshot";

/// Where a node's snapshot files lie.
#[derive(Clone, Debug)]
pub(super) struct SnapshotDir(PathBuf);

/// Which file counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pointer {
    pub(super) index: u64,
    pub(super) term: u64,
    /// Of the data.
    pub(super) length: u64,
}

impl Pointer {
    pub(super) fn encode(self) -> [u8; 24] {
        let mut out = [0; 24];
        for (place, value) in out.chunks_exact_mut(8).zip([self.index, self.term, self.length]) {
            place.copy_from_slice(&value.to_be_bytes());
        }
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: [u8; 24] = bytes.try_into().ok()?;
        let mut values = bytes.as_chunks::<8>().0.iter().map(|value| u64::from_be_bytes(*value));
        Some(Self { index: values.next()?, term: values.next()?, length: values.next()? })
    }

    fn of(snapshot: &SnapshotRecord) -> Self {
        Self { index: snapshot.index, term: snapshot.term, length: length(&snapshot.data) }
    }
}

impl SnapshotDir {
    pub(super) fn open(dir: PathBuf) -> Result<Self, StorageError> {
        let made =
            fs::create_dir_all(&dir).and_then(|()| dir.parent().map_or(Ok(()), |above| File::open(above)?.sync_all()));
        made.map_err(|error| io_error(&dir, &error))?;
        Ok(Self(dir))
    }

    /// Durable when it returns. Does nothing when exactly this snapshot is there.
    pub(super) fn write(&self, snapshot: &SnapshotRecord) -> Result<Pointer, StorageError> {
        let pointer = Pointer::of(snapshot);
        let path = self.path(pointer.index, pointer.term);
        if self.header(pointer).is_ok() {
            return Ok(pointer);
        }
        let temporary = path.with_extension("tmp");
        let written = (|| {
            let mut file = File::create(&temporary)?;
            file.write_all(&header(snapshot))?;
            for chunk in snapshot.data.chunks(CHUNK) {
                file.write_all(&crc32fast::hash(chunk).to_be_bytes())?;
                file.write_all(chunk)?;
            }
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            File::open(&self.0)?.sync_all()
        })();
        written.map_err(|error| io_error(&path, &error))?;
        Ok(pointer)
    }

    /// What `pointer` stands for, checked.
    pub(super) fn load(&self, pointer: Pointer) -> Result<SnapshotRecord, StorageError> {
        let (mut file, members) = self.header(pointer)?;
        let path = self.path(pointer.index, pointer.term);
        let cut = |error: io::Error| match error.kind() {
            io::ErrorKind::UnexpectedEof => damaged(&path, "it is cut off"),
            _ => io_error(&path, &error),
        };
        let total = usize::try_from(pointer.length).map_err(|_| damaged(&path, "it is too long"))?;
        // Only as much memory as the file has data, whatever its header says.
        let size = file.metadata().map_err(|error| io_error(&path, &error))?.len();
        if size < pointer.length {
            return Err(damaged(&path, "it is cut off"));
        }
        let mut data = vec![0; total];
        for chunk in data.chunks_mut(CHUNK) {
            let mut sum = [0; 4];
            file.read_exact(&mut sum).map_err(cut)?;
            file.read_exact(chunk).map_err(cut)?;
            if crc32fast::hash(chunk) != u32::from_be_bytes(sum) {
                return Err(damaged(&path, "a checksum does not match"));
            }
        }
        if file.read(&mut [0]).map_err(cut)? != 0 {
            return Err(damaged(&path, "it is longer than it should be"));
        }
        let members =
            raft::eraftpb::ConfState::decode(members.as_slice()).map_err(|error| damaged(&path, &error.to_string()))?;
        Ok(SnapshotRecord { index: pointer.index, term: pointer.term, members, data: data.into() })
    }

    /// Removes the files that do not count. What cannot be removed does no harm.
    pub(super) fn keep_only(&self, pointer: Option<Pointer>) {
        let kept = pointer.map(|pointer| self.path(pointer.index, pointer.term));
        let Ok(files) = fs::read_dir(&self.0) else { return };
        for path in files.filter_map(|file| Some(file.ok()?.path())).filter(|path| Some(path) != kept.as_ref()) {
            if let Err(error) = fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "a former snapshot stays on the disk");
            }
        }
    }

    /// The open file, behind its header, and the members.
    fn header(&self, pointer: Pointer) -> Result<(File, Vec<u8>), StorageError> {
        let path = self.path(pointer.index, pointer.term);
        let mut file = File::open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => damaged(&path, "it is missing"),
            _ => io_error(&path, &error),
        })?;
        let read = |error: io::Error| match error.kind() {
            io::ErrorKind::UnexpectedEof => damaged(&path, "it is cut off"),
            _ => io_error(&path, &error),
        };
        let mut fixed = [0; HEADER];
        file.read_exact(&mut fixed).map_err(read)?;
        let found = Header::parse(&fixed).ok_or_else(|| damaged(&path, "it is no snapshot"))?;
        let size = file.metadata().map_err(read)?.len();
        if u64::from(found.members) > size {
            return Err(damaged(&path, "it is cut off"));
        }
        let mut members = vec![0; usize::try_from(found.members).unwrap_or(usize::MAX)];
        file.read_exact(&mut members).map_err(read)?;
        if found.checksum != header_checksum(&fixed, &members) {
            return Err(damaged(&path, "its header's checksum does not match"));
        }
        if found.version != VERSION {
            return Err(StorageError::Version { version: found.version, known: VERSION });
        }
        if found.pointer != pointer {
            return Err(damaged(&path, "it is another snapshot"));
        }
        Ok((file, members))
    }

    fn path(&self, index: u64, term: u64) -> PathBuf {
        self.0.join(format!("{index:020}-{term:020}.{EXTENSION}"))
    }
}

impl SnapshotSource for SnapshotDir {
    fn open(&self, index: u64, term: u64) -> Result<Option<Bytes>, StorageError> {
        let path = self.path(index, term);
        let mut fixed = [0; HEADER];
        let found = File::open(&path).and_then(|mut file| file.read_exact(&mut fixed));
        if let Err(error) = found {
            return if error.kind() == io::ErrorKind::NotFound { Ok(None) } else { Err(io_error(&path, &error)) };
        }
        let header = Header::parse(&fixed).ok_or_else(|| damaged(&path, "it is no snapshot"))?;
        Ok(Some(self.load(header.pointer)?.data))
    }
}

struct Header {
    version: u8,
    pointer: Pointer,
    members: u32,
    checksum: u32,
}

impl Header {
    fn parse(bytes: &[u8; HEADER]) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk::<8>()?;
        let (version, rest) = rest.split_first()?;
        let (index, rest) = rest.split_first_chunk::<8>()?;
        let (term, rest) = rest.split_first_chunk::<8>()?;
        let (members, rest) = rest.split_first_chunk::<4>()?;
        let (length, rest) = rest.split_first_chunk::<8>()?;
        let (checksum, _) = rest.split_first_chunk::<4>()?;
        (*magic == MAGIC).then_some(())?;
        Some(Self {
            version: *version,
            pointer: Pointer {
                index: u64::from_be_bytes(*index),
                term: u64::from_be_bytes(*term),
                length: u64::from_be_bytes(*length),
            },
            members: u32::from_be_bytes(*members),
            checksum: u32::from_be_bytes(*checksum),
        })
    }
}

fn header(snapshot: &SnapshotRecord) -> Vec<u8> {
    let members = snapshot.members.encode_to_vec();
    let mut out = Vec::with_capacity(HEADER.saturating_add(members.len()));
    out.extend_from_slice(&MAGIC);
    out.push(VERSION);
    out.extend_from_slice(&snapshot.index.to_be_bytes());
    out.extend_from_slice(&snapshot.term.to_be_bytes());
    out.extend_from_slice(&u32::try_from(members.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(&length(&snapshot.data).to_be_bytes());
    let sum = header_checksum(&out, &members);
    out.extend_from_slice(&sum.to_be_bytes());
    out.extend_from_slice(&members);
    out
}

/// Over the header without its last field, and the members.
fn header_checksum(header: &[u8], members: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header.get(..HEADER.saturating_sub(4)).unwrap_or(header));
    hasher.update(members);
    hasher.finalize()
}

fn length(data: &[u8]) -> u64 {
    u64::try_from(data.len()).unwrap_or(u64::MAX)
}

fn damaged(path: &Path, why: &str) -> StorageError {
    StorageError::Corrupt { what: format!("the snapshot file {}: {why}", path.display()) }
}

fn io_error(path: &Path, error: &io::Error) -> StorageError {
    StorageError::Io(format!("{}: {error}", path.display()))
}

#[cfg(test)]
#[path = "snapshot_file_tests.rs"]
mod tests;
