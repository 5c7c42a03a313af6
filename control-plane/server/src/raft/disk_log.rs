//! The log on a disk: writes in the write-ahead log, snapshots in files, and in sled where both begin.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use raft::eraftpb::{Entry, HardState};
use raft_prost::Message as _;

use super::log_store::{Cut, Loaded, LogStore, SnapshotWriter, StorageError, Write, check_whole};
use super::snapshot_file::{Pointer, SnapshotDir};
use super::transport::SnapshotSource;
use super::wal::{Parts, Record, Start, Wal};
use super::witness::Witness;

const RECORD_VERSION: u8 = 1;
const HARD_STATE: &[u8] = b"h";
/// Which file the snapshot is in.
const POINTER: &[u8] = b"p";
/// The number of the last write.
const NUMBER: &[u8] = b"n";
/// The segment that the write-ahead log begins with, and the number of its first write.
const START: &[u8] = b"w";
/// Entries, by index: how it was before there was a write-ahead log. They are taken over once.
const ENTRY: u8 = b'e';
const OPEN_ATTEMPTS: u32 = 50;
const OPEN_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// The log of a node.
///
/// A write is durable with the write-ahead log alone. sled has a checkpoint: what stood when the log was cut last, and where it begins since.
/// It is flushed before the segments and snapshots that it makes superfluous are removed.
///
/// A record in sled is a version byte, a CRC-32 over key and payload (so that a record in another's place is found too), and the payload.
pub struct DiskLog {
    dir: PathBuf,
    database: sled::Db,
    tree: sled::Tree,
    /// sled's own file. Its flush starts the writing and waits for it, but does not tell the disk to empty its cache, nor the file
    /// system to keep the file's new length: this handle does (`fdatasync`).
    file: File,
    /// Open once it was loaded.
    wal: Option<Wal>,
    snapshots: SnapshotDir,
    witness: Witness,
    /// Of the last write that was acknowledged, as far as known outside the log.
    acknowledged: u64,
}

/// What sled has.
#[derive(Default)]
struct Checkpoint {
    hard_state: HardState,
    pointer: Option<Pointer>,
    number: u64,
    start: Option<Start>,
    entries: Vec<Entry>,
}

impl DiskLog {
    /// Opens or creates the log in `dir`.
    ///
    /// # Errors
    /// When sled cannot open its files: another process has them, or they are damaged.
    pub fn open(dir: &Path) -> Result<Self, StorageError> {
        let (database, tree) = whole(|| {
            let database = open_database(dir)?;
            let tree = database.open_tree("raft").map_err(storage)?;
            Ok((database, tree))
        })?;
        keep_names(dir).map_err(io_error)?;
        let file = File::open(dir.join("db")).map_err(io_error)?;
        let (witness, acknowledged) = Witness::open(&dir.join("witness")).map_err(io_error)?;
        let snapshots = SnapshotDir::open(dir.join("snapshots"))?;
        let log = Self { dir: dir.to_owned(), database, tree, file, wal: None, snapshots, witness, acknowledged };
        // A process that was killed may have written what it did not flush. From here on it counts as kept.
        log.flush()?;
        Ok(log)
    }

    fn flush(&self) -> Result<(), StorageError> {
        self.database.flush().map_err(storage)?;
        self.file.sync_data().map_err(io_error)
    }

    fn read_checkpoint(&self) -> Result<Checkpoint, StorageError> {
        let mut found = Checkpoint::default();
        for item in self.tree.iter() {
            let (key, record) = item.map_err(storage)?;
            let payload = open_record(&key, &record)?;
            let cut_off = || corrupt(&key, "it is cut off");
            match &*key {
                HARD_STATE => found.hard_state = decode(&key, payload)?,
                NUMBER => found.number = u64::from_be_bytes(payload.try_into().map_err(|_| cut_off())?),
                POINTER => found.pointer = Some(Pointer::decode(payload).ok_or_else(cut_off)?),
                START => {
                    let (&[segment, write], []) = payload.as_chunks::<8>() else { return Err(cut_off()) };
                    found.start =
                        Some(Start { segment: u64::from_be_bytes(segment), write: u64::from_be_bytes(write) });
                }
                key if key.first() == Some(&ENTRY) => {
                    let entry: Entry = decode(key, payload)?;
                    if key != entry_key(entry.index) {
                        return Err(corrupt(key, "it holds another entry"));
                    }
                    found.entries.push(entry);
                }
                key => return Err(corrupt(key, "no such record is ever written")),
            }
        }
        Ok(found)
    }

    /// Has sled know where the log begins, and removes what lies before.
    fn checkpoint(&mut self, start: Start, superfluous: &[Entry]) -> Result<(), StorageError> {
        let Some(wal) = &mut self.wal else { return Err(not_loaded()) };
        let mut batch = sled::Batch::default();
        let mut put = |key: &[u8], payload: &[u8]| batch.insert(key, seal_record(key, payload));
        put(HARD_STATE, &wal.hard_state().encode_to_vec());
        put(NUMBER, &wal.number().to_be_bytes());
        put(START, [start.segment.to_be_bytes(), start.write.to_be_bytes()].as_flattened());
        if let Some(pointer) = wal.pointer() {
            put(POINTER, &pointer.encode());
        }
        for entry in superfluous {
            batch.remove(&entry_key(entry.index)[..]);
        }
        let pointer = wal.pointer();
        self.tree.apply_batch(batch).map_err(storage)?;
        self.flush()?;
        self.witness.flush().map_err(io_error)?;
        if let Some(wal) = &mut self.wal {
            wal.begin_at(start);
        }
        self.snapshots.keep_only(pointer);
        Ok(())
    }
}

impl LogStore for DiskLog {
    fn load(&mut self) -> Result<Loaded, StorageError> {
        let Checkpoint { hard_state, pointer, number, start, entries } = whole(|| self.read_checkpoint())?;
        let taken_over = entries.clone();
        let mut loaded = Loaded { hard_state: hard_state.clone(), snapshot: None, entries };
        let mut newest = pointer;
        let mut wal = Wal::open(self.dir.join("wal"), start, number, |record| {
            let Record { cut, pointer, hard_state, entries } = record;
            newest = pointer.or(newest);
            if let Some(hard_state) = hard_state {
                loaded.hard_state = hard_state;
            }
            take(&mut loaded.entries, cut, entries);
        })?;
        if wal.number() < self.acknowledged.max(number) {
            let (there, acknowledged) = (wal.number(), self.acknowledged.max(number));
            let what = format!("its end is missing: {acknowledged} writes were acknowledged, {there} are there");
            return Err(StorageError::Corrupt { what });
        }
        // All that was found was flushed when it was opened.
        self.witness.write(wal.number()).map_err(io_error)?;
        self.witness.flush().map_err(io_error)?;
        if let Some(pointer) = newest {
            loaded.snapshot = Some(self.snapshots.load(pointer)?);
        }
        check_whole(&loaded)?;
        let old = start.is_none() && number > 0;
        if old {
            let write = Parts { pointer, hard_state: Some(&hard_state), entries: &taken_over, ..Parts::default() };
            wal.append(&write)?;
        }
        let start = wal.start_without(0);
        self.wal = Some(wal);
        match start.filter(|_| old) {
            Some(start) => self.checkpoint(start, &taken_over)?,
            None => self.snapshots.keep_only(newest),
        }
        Ok(loaded)
    }

    fn save(&mut self, write: Write<'_>) -> Result<(), StorageError> {
        let Some(wal) = &mut self.wal else { return Err(not_loaded()) };
        // Written already, where there was time for it; else now.
        let pointer = write.snapshot.map(|snapshot| self.snapshots.write(snapshot)).transpose()?;
        wal.append(&Parts { cut: write.cut, pointer, hard_state: write.hard_state, entries: write.entries })?;
        self.witness.write(wal.number()).map_err(io_error)?;
        let start = match write.cut {
            Cut::Nothing if pointer.is_none() => return Ok(()),
            Cut::Nothing => wal.start_without(0),
            Cut::UpTo(index) => wal.start_without(index),
            Cut::All => wal.start_without(u64::MAX),
        };
        match start {
            Some(start) => self.checkpoint(start, &[]),
            None => Ok(()),
        }
    }

    fn snapshot_writer(&self) -> SnapshotWriter {
        let snapshots = self.snapshots.clone();
        Box::new(move |snapshot| snapshots.write(snapshot).map(drop))
    }

    fn snapshots(&self) -> Arc<dyn SnapshotSource> {
        Arc::new(self.snapshots.clone())
    }
}

/// What a write does to the entries that were there before.
fn take(entries: &mut Vec<Entry>, cut: Cut, new: Vec<Entry>) {
    match cut {
        Cut::Nothing => {}
        Cut::UpTo(index) => drop(entries.drain(..entries.partition_point(|entry| entry.index <= index))),
        Cut::All => entries.clear(),
    }
    if let Some(first) = new.first() {
        // A new leader's entries replace the tail of an old one's.
        entries.truncate(entries.partition_point(|entry| entry.index < first.index));
    }
    entries.extend(new);
}

/// sled falls over some of the damage that it meets.
fn whole<T>(read: impl FnOnce() -> Result<T, StorageError>) -> Result<T, StorageError> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err(StorageError::Corrupt { what: "sled cannot read its files".to_owned() }))
}

/// Waits a little for the former owner of the files: sled gives its lock up some time after its last handle.
fn open_database(dir: &Path) -> Result<sled::Db, StorageError> {
    let config = sled::Config::new().path(dir).cache_capacity(4 << 20).flush_every_ms(None);
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

/// sled writes its settings once and flushes neither them nor its files' names. Half of the settings is damage to it: they are to be whole before anything
/// is acknowledged.
fn keep_names(dir: &Path) -> io::Result<()> {
    File::open(dir.join("conf"))?.sync_all()?;
    File::open(dir)?.sync_all()?;
    dir.parent().map_or(Ok(()), |above| File::open(above)?.sync_all())
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

fn decode<M: raft_prost::Message + Default>(key: &[u8], payload: &[u8]) -> Result<M, StorageError> {
    M::decode(payload).map_err(|error| corrupt(key, &error.to_string()))
}

fn corrupt(key: &[u8], why: &str) -> StorageError {
    let record = match key {
        HARD_STATE => "the hard state".to_owned(),
        POINTER => "the snapshot".to_owned(),
        NUMBER => "the number of the last write".to_owned(),
        START => "where the log begins".to_owned(),
        [ENTRY, index @ ..] => index
            .first_chunk::<8>()
            .map_or_else(|| "an entry".to_owned(), |index| format!("entry {}", u64::from_be_bytes(*index))),
        _ => "an unknown record".to_owned(),
    };
    StorageError::Corrupt { what: format!("{record}: {why}") }
}

fn not_loaded() -> StorageError {
    StorageError::Io("the log was not read before it was written to".to_owned())
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
#[path = "disk_log_tests.rs"]
mod tests;
