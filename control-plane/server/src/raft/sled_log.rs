//! The log in sled, its snapshots in files beside it.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use raft::eraftpb::Entry;
use raft_prost::Message as _;

use super::log_store::{Cut, Loaded, LogStore, SnapshotRecord, SnapshotWriter, StorageError, Write, check_whole};
use super::snapshot_file::{Pointer, SnapshotDir};
use super::transport::SnapshotSource;
use super::witness::Witness;

const RECORD_VERSION: u8 = 1;
const HARD_STATE: &[u8] = b"h";
/// A snapshot within the record: how the first version kept it. Still read.
const SNAPSHOT: &[u8] = b"s";
/// Which file the snapshot is in.
const POINTER: &[u8] = b"p";
/// The number of the last write.
const NUMBER: &[u8] = b"n";
const ENTRY: u8 = b'e';
const OPEN_ATTEMPTS: u32 = 50;
const OPEN_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// The log in a sled tree. Keys: `e` and the index for entries, `h` for the hard state, `p` for which file has the snapshot, `n` for the
/// number of the write.
///
/// A record is a version byte, a CRC-32 over key and payload (so that a record in another's place is found too), and the payload.
pub struct SledLog {
    database: sled::Db,
    tree: sled::Tree,
    /// sled's own file. Its flush starts the writing and waits for it, but does not tell the disk to empty its cache, nor the file
    /// system to keep the file's new length: this handle does (`fdatasync`).
    file: File,
    /// Where sled keeps what is too large for its file (from 128 KiB on), in files of their own that it never flushes.
    blobs: PathBuf,
    /// Those of them that are known to be durable.
    durable_blobs: BTreeSet<OsString>,
    snapshots: SnapshotDir,
    witness: Witness,
    /// Of the last write that was acknowledged, as far as known outside sled.
    acknowledged: u64,
    number: u64,
    first_index: u64,
    last_index: u64,
}

impl SledLog {
    /// Opens or creates the log in `dir`.
    ///
    /// # Errors
    /// When sled cannot open it: another process has it, or its files are damaged.
    pub fn open(dir: &Path) -> Result<Self, StorageError> {
        let (database, tree) = whole(|| {
            let database = open_database(dir)?;
            let tree = database.open_tree("raft").map_err(storage)?;
            Ok((database, tree))
        })?;
        let file = File::open(dir.join("db")).map_err(io_error)?;
        let (witness, acknowledged) = Witness::open(&dir.join("witness")).map_err(io_error)?;
        let snapshots = SnapshotDir::open(dir.join("snapshots"))?;
        let mut log = Self {
            database,
            tree,
            file,
            blobs: dir.join("blobs"),
            durable_blobs: BTreeSet::new(),
            snapshots,
            witness,
            acknowledged,
            number: 0,
            first_index: 1,
            last_index: 0,
        };
        // A process that was killed may have written what it did not flush. From here on it counts as kept.
        log.flush()?;
        Ok(log)
    }

    fn flush(&mut self) -> Result<(), StorageError> {
        self.database.flush().map_err(storage)?;
        self.flush_blobs().map_err(io_error)?;
        self.file.sync_data().map_err(io_error)
    }

    fn flush_blobs(&mut self) -> io::Result<()> {
        let mut present = BTreeSet::new();
        for item in fs::read_dir(&self.blobs)? {
            present.insert(item?.file_name());
        }
        let mut any = false;
        for name in present.difference(&self.durable_blobs) {
            match File::open(self.blobs.join(name)) {
                Ok(file) => file.sync_data()?,
                // sled removes those that nothing refers to any more, on threads of its own.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            any = true;
        }
        if any {
            File::open(&self.blobs)?.sync_all()?;
        }
        self.durable_blobs = present;
        Ok(())
    }

    fn read(&self) -> Result<(Loaded, Option<Pointer>, u64), StorageError> {
        let (mut loaded, mut pointer, mut number) = (Loaded::default(), None, 0);
        for item in self.tree.iter() {
            let (key, record) = item.map_err(storage)?;
            let payload = open_record(&key, &record)?;
            match &*key {
                HARD_STATE => loaded.hard_state = decode(&key, payload)?,
                SNAPSHOT => loaded.snapshot = Some(read_inline_snapshot(payload)?),
                NUMBER => {
                    number = u64::from_be_bytes(payload.try_into().map_err(|_| corrupt(NUMBER, "it is cut off"))?)
                }
                POINTER => pointer = Some(Pointer::decode(payload).ok_or_else(|| corrupt(POINTER, "it is cut off"))?),
                key if key.first() == Some(&ENTRY) => {
                    let entry: Entry = decode(key, payload)?;
                    if key != entry_key(entry.index) {
                        return Err(corrupt(key, "it holds another entry"));
                    }
                    loaded.entries.push(entry);
                }
                key => return Err(corrupt(key, "no such record is ever written")),
            }
        }
        Ok((loaded, pointer, number))
    }
}

impl LogStore for SledLog {
    fn load(&mut self) -> Result<Loaded, StorageError> {
        let (mut loaded, pointer, number) = whole(|| self.read())?;
        if number < self.acknowledged {
            let what =
                format!("its end is missing: {} writes were acknowledged, {number} are there", self.acknowledged);
            return Err(StorageError::Corrupt { what });
        }
        self.number = number;
        if let Some(pointer) = pointer {
            loaded.snapshot = Some(self.snapshots.load(pointer)?);
        }
        self.snapshots.keep_only(pointer);
        check_whole(&loaded)?;
        let covered = loaded.snapshot.as_ref().map_or(0, |snapshot| snapshot.index);
        self.last_index = loaded.entries.last().map_or(covered, |entry| entry.index);
        self.first_index = loaded.entries.first().map_or(covered.saturating_add(1), |entry| entry.index);
        Ok(loaded)
    }

    fn save(&mut self, write: Write<'_>) -> Result<(), StorageError> {
        let mut batch = sled::Batch::default();
        let (mut first_index, mut last_index) = (self.first_index, self.last_index);
        let cut_to = match write.cut {
            Cut::Nothing => 0,
            Cut::UpTo(index) => index,
            Cut::All => last_index,
        };
        for index in first_index..=cut_to.min(last_index) {
            batch.remove(&entry_key(index)[..]);
        }
        first_index = first_index.max(cut_to.saturating_add(1));
        let mut put = |key: &[u8], payload: &[u8]| batch.insert(key, seal_record(key, payload));
        let number = self.number.saturating_add(1);
        put(NUMBER, &number.to_be_bytes());
        let mut pointer = None;
        if let Some(snapshot) = write.snapshot {
            // Written already, where there was time for it; else now.
            let written = self.snapshots.write(snapshot)?;
            put(POINTER, &written.encode());
            pointer = Some(written);
        }
        if let Some(hard_state) = write.hard_state {
            put(HARD_STATE, &hard_state.encode_to_vec());
        }
        for entry in write.entries {
            put(&entry_key(entry.index), &entry.encode_to_vec());
        }
        if write.snapshot.is_some() {
            batch.remove(SNAPSHOT);
        }
        if let (Some(first), Some(last)) = (write.entries.first(), write.entries.last()) {
            // A new leader's entries replace the tail of an old one's.
            for index in last.index.saturating_add(1)..=last_index {
                batch.remove(&entry_key(index)[..]);
            }
            first_index = first_index.min(first.index);
            last_index = last.index;
        } else if write.cut == Cut::All {
            last_index = write.snapshot.map_or(0, |snapshot| snapshot.index);
            first_index = last_index.saturating_add(1);
        }
        self.tree.apply_batch(batch).map_err(storage)?;
        self.flush()?;
        self.witness.write(number).map_err(io_error)?;
        self.number = number;
        (self.first_index, self.last_index) = (first_index, last_index.max(first_index.saturating_sub(1)));
        if pointer.is_some() {
            self.snapshots.keep_only(pointer);
        }
        Ok(())
    }

    fn snapshot_writer(&self) -> SnapshotWriter {
        let snapshots = self.snapshots.clone();
        Box::new(move |snapshot| snapshots.write(snapshot).map(drop))
    }

    fn snapshots(&self) -> Arc<dyn SnapshotSource> {
        Arc::new(self.snapshots.clone())
    }
}

/// sled falls over some of the damage that it meets.
fn whole<T>(read: impl FnOnce() -> Result<T, StorageError>) -> Result<T, StorageError> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err(StorageError::Corrupt { what: "sled cannot read its files".to_owned() }))
}

/// Waits a little for the former owner of the files: sled gives its lock up some time after its last handle.
fn open_database(dir: &Path) -> Result<sled::Db, StorageError> {
    // Flushed by hand, before anything is acknowledged.
    let config = sled::Config::new().path(dir).cache_capacity(32 << 20).flush_every_ms(None);
    let mut patience = OPEN_ATTEMPTS;
    loop {
        match config.open() {
            Ok(database) => return Ok(database),
            Err(sled::Error::Io(error)) if is_locked(&error) && patience > 0 => {
                patience = patience.saturating_sub(1);
                std::thread::park_timeout(OPEN_PAUSE);
            }
            Err(error) => return Err(storage(error)),
        }
    }
}

/// sled gives the lock's failure as text alone.
fn is_locked(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.to_string().contains("could not acquire lock")
}

fn entry_key(index: u64) -> [u8; 9] {
    let mut key = [ENTRY; 9];
    key[1..].copy_from_slice(&index.to_be_bytes());
    key
}

fn seal_record(key: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(payload.len().saturating_add(5));
    record.push(RECORD_VERSION);
    record.extend_from_slice(&checksum(RECORD_VERSION, key, payload).to_be_bytes());
    record.extend_from_slice(payload);
    record
}

fn open_record<'a>(key: &[u8], record: &'a [u8]) -> Result<&'a [u8], StorageError> {
    let (version, rest) = record.split_first().ok_or_else(|| corrupt(key, "it is empty"))?;
    let (sum, payload) = rest.split_first_chunk::<4>().ok_or_else(|| corrupt(key, "it is cut off"))?;
    // The checksum first: a damaged version byte is damage, not a newer version.
    if checksum(*version, key, payload) != u32::from_be_bytes(*sum) {
        return Err(corrupt(key, "its checksum does not match"));
    }
    if *version != RECORD_VERSION {
        return Err(StorageError::Version { version: *version, known: RECORD_VERSION });
    }
    Ok(payload)
}

fn checksum(version: u8, key: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[version]);
    hasher.update(key);
    hasher.update(payload);
    hasher.finalize()
}

fn read_inline_snapshot(payload: &[u8]) -> Result<SnapshotRecord, StorageError> {
    let cut = || corrupt(SNAPSHOT, "it is cut off");
    let (index, rest) = payload.split_first_chunk::<8>().ok_or_else(cut)?;
    let (term, rest) = rest.split_first_chunk::<8>().ok_or_else(cut)?;
    let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
    let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| cut())?;
    let (members, data) = rest.split_at_checked(length).ok_or_else(cut)?;
    Ok(SnapshotRecord {
        index: u64::from_be_bytes(*index),
        term: u64::from_be_bytes(*term),
        members: decode(SNAPSHOT, members)?,
        data: data.to_vec().into(),
    })
}

fn decode<M: raft_prost::Message + Default>(key: &[u8], payload: &[u8]) -> Result<M, StorageError> {
    M::decode(payload).map_err(|error| corrupt(key, &error.to_string()))
}

fn corrupt(key: &[u8], why: &str) -> StorageError {
    let record = match key {
        HARD_STATE => "the hard state".to_owned(),
        SNAPSHOT | POINTER => "the snapshot".to_owned(),
        NUMBER => "the number of the last write".to_owned(),
        [ENTRY, index @ ..] => index
            .first_chunk::<8>()
            .map_or_else(|| "an entry".to_owned(), |index| format!("entry {}", u64::from_be_bytes(*index))),
        _ => "an unknown record".to_owned(),
    };
    StorageError::Corrupt { what: format!("{record}: {why}") }
}

fn io_error(error: io::Error) -> StorageError {
    StorageError::Io(error.to_string())
}

fn storage(error: sled::Error) -> StorageError {
    match error {
        sled::Error::Corruption { .. } => {
            StorageError::Corrupt { what: "sled reports corruption of its files".to_owned() }
        }
        other => StorageError::Io(other.to_string()),
    }
}

#[cfg(test)]
#[path = "sled_log_tests.rs"]
mod tests;
