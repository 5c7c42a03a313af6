//! The log on a disk.

use std::path::Path;

use raft::eraftpb::{ConfState, Entry, HardState};
use raft_prost::Message as _;

/// What a node has on its disk when it starts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loaded {
    /// Term, vote and commit index.
    pub hard_state: HardState,
    /// The last snapshot; none before the first compaction.
    pub snapshot: Option<SnapshotRecord>,
    /// The log after the snapshot, without gaps.
    pub entries: Vec<Entry>,
}

/// A snapshot of the state machine, and where in the log it stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SnapshotRecord {
    /// The last entry that it covers.
    pub index: u64,
    /// That entry's term.
    pub term: u64,
    /// The members at that entry.
    pub members: ConfState,
    /// The state, as the state machine wrote it.
    pub data: Vec<u8>,
}

/// What has to be durable together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Write<'a> {
    /// Appended; those from the first one's index on that were there before are gone.
    pub entries: &'a [Entry],
    /// Replaces the former one.
    pub hard_state: Option<&'a HardState>,
    /// Replaces the former one, and the entries that it covers.
    pub snapshot: Option<&'a SnapshotRecord>,
}

/// The disk failed, or holds what this node did not write. The node stops; it never serves from such a log.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// Reading or writing failed.
    #[error("the log's disk failed: {0}")]
    Io(String),
    /// A record is not as it was written.
    #[error(
        "the log is damaged: {what}. Restore this node from its peers or from a backup; it does not start from damaged data"
    )]
    Corrupt {
        /// Which record, and what is wrong with it.
        what: String,
    },
    /// A record was written by a newer version.
    #[error("the log has a record of version {version}, this node knows up to {RECORD_VERSION}")]
    Version {
        /// The record's version.
        version: u8,
    },
}

/// Keeps a node's log. Narrow, so that simulation can put a memory in its place that loses what was not flushed.
pub trait LogStore: Send + 'static {
    /// All of it, checked.
    ///
    /// # Errors
    /// When the disk fails or any record is not as it was written.
    fn load(&mut self) -> Result<Loaded, StorageError>;

    /// Durable when it returns.
    ///
    /// # Errors
    /// When the disk fails: nothing of `write` may then be acknowledged, and the node stops.
    fn save(&mut self, write: Write<'_>) -> Result<(), StorageError>;
}

const RECORD_VERSION: u8 = 1;
const HARD_STATE: &[u8] = b"h";
const SNAPSHOT: &[u8] = b"s";
const ENTRY: u8 = b'e';
const OPEN_ATTEMPTS: u32 = 50;
const OPEN_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// The log in a sled tree. Keys: `e` and the index for entries, `h` for the hard state, `s` for the snapshot.
///
/// A record is a version byte, a CRC-32 over key and payload (so that a record in another's place is found too), and the payload.
pub struct SledLog {
    database: sled::Db,
    tree: sled::Tree,
    last_index: u64,
}

impl SledLog {
    /// Opens or creates the log in `dir`.
    ///
    /// # Errors
    /// When sled cannot open it: another process has it, or its files are damaged.
    pub fn open(dir: &Path) -> Result<Self, StorageError> {
        let database = open_database(dir)?;
        let tree = database.open_tree("raft").map_err(storage)?;
        Ok(Self { database, tree, last_index: 0 })
    }
}

impl LogStore for SledLog {
    fn load(&mut self) -> Result<Loaded, StorageError> {
        let mut loaded = Loaded::default();
        let mut any = false;
        for item in self.tree.iter() {
            let (key, record) = item.map_err(storage)?;
            any = true;
            let payload = open_record(&key, &record)?;
            match &*key {
                HARD_STATE => loaded.hard_state = decode(&key, payload)?,
                SNAPSHOT => loaded.snapshot = Some(read_snapshot(payload)?),
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
        check_whole(&loaded, any)?;
        let covered = loaded.snapshot.as_ref().map_or(0, |snapshot| snapshot.index);
        loaded.entries.retain(|entry| entry.index > covered);
        self.last_index = loaded.entries.last().map_or(covered, |entry| entry.index);
        Ok(loaded)
    }

    fn save(&mut self, write: Write<'_>) -> Result<(), StorageError> {
        let mut batch = sled::Batch::default();
        let mut put = |key: &[u8], payload: &[u8]| batch.insert(key, seal_record(key, payload));
        if let Some(hard_state) = write.hard_state {
            put(HARD_STATE, &hard_state.encode_to_vec());
        }
        for entry in write.entries {
            put(&entry_key(entry.index), &entry.encode_to_vec());
        }
        if let Some(snapshot) = write.snapshot {
            put(SNAPSHOT, &write_snapshot(snapshot));
        }
        let mut last_index = self.last_index;
        if let (Some(first), Some(last)) = (write.entries.first(), write.entries.last()) {
            // A new leader's entries replace the tail of an old one's.
            for index in last.index.saturating_add(1)..=last_index.max(first.index) {
                batch.remove(&entry_key(index)[..]);
            }
            last_index = last.index;
        }
        if let Some(snapshot) = write.snapshot {
            for key in self.tree.range(entry_key(0)..=entry_key(snapshot.index)).keys() {
                batch.remove(key.map_err(storage)?);
            }
            last_index = last_index.max(snapshot.index);
        }
        self.tree.apply_batch(batch).map_err(storage)?;
        self.database.flush().map_err(storage)?;
        self.last_index = last_index;
        Ok(())
    }
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
fn is_locked(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::WouldBlock || error.to_string().contains("could not acquire lock")
}

/// The log has no gap, begins where the snapshot ends, and reaches as far as it was committed.
fn check_whole(loaded: &Loaded, any: bool) -> Result<(), StorageError> {
    let fault = |what: String| Err(StorageError::Corrupt { what });
    let covered = loaded.snapshot.as_ref().map_or(0, |snapshot| snapshot.index);
    let mut expected = loaded.entries.first().map_or(covered, |first| first.index.saturating_sub(1));
    if expected > covered {
        return fault(format!("entries {} to {expected} are missing", covered.saturating_add(1)));
    }
    for entry in &loaded.entries {
        expected = expected.saturating_add(1);
        if entry.index != expected {
            return fault(format!("entry {expected} is missing"));
        }
    }
    let last = expected.max(covered);
    if any && loaded.hard_state == HardState::default() {
        return fault("the hard state is missing".to_owned());
    }
    if loaded.hard_state.commit > last {
        return fault(format!("{} entries are committed, the last one here is {last}", loaded.hard_state.commit));
    }
    Ok(())
}

fn entry_key(index: u64) -> [u8; 9] {
    let mut key = [ENTRY; 9];
    key[1..].copy_from_slice(&index.to_be_bytes());
    key
}

fn seal_record(key: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(payload.len().saturating_add(5));
    record.push(RECORD_VERSION);
    record.extend_from_slice(&checksum(key, payload).to_be_bytes());
    record.extend_from_slice(payload);
    record
}

fn open_record<'a>(key: &[u8], record: &'a [u8]) -> Result<&'a [u8], StorageError> {
    let (version, rest) = record.split_first().ok_or_else(|| corrupt(key, "it is empty"))?;
    let (sum, payload) = rest.split_first_chunk::<4>().ok_or_else(|| corrupt(key, "it is cut off"))?;
    // The checksum first: a damaged version byte is damage, not a newer version.
    if checksum_with_version(*version, key, payload) != u32::from_be_bytes(*sum) {
        return Err(corrupt(key, "its checksum does not match"));
    }
    if *version != RECORD_VERSION {
        return Err(StorageError::Version { version: *version });
    }
    Ok(payload)
}

fn checksum(key: &[u8], payload: &[u8]) -> u32 {
    checksum_with_version(RECORD_VERSION, key, payload)
}

fn checksum_with_version(version: u8, key: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[version]);
    hasher.update(key);
    hasher.update(payload);
    hasher.finalize()
}

fn write_snapshot(snapshot: &SnapshotRecord) -> Vec<u8> {
    let members = snapshot.members.encode_to_vec();
    let mut out = Vec::with_capacity(snapshot.data.len().saturating_add(members.len()).saturating_add(20));
    out.extend_from_slice(&snapshot.index.to_be_bytes());
    out.extend_from_slice(&snapshot.term.to_be_bytes());
    out.extend_from_slice(&u32::try_from(members.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(&members);
    out.extend_from_slice(&snapshot.data);
    out
}

fn read_snapshot(payload: &[u8]) -> Result<SnapshotRecord, StorageError> {
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
        data: data.to_vec(),
    })
}

fn decode<M: raft_prost::Message + Default>(key: &[u8], payload: &[u8]) -> Result<M, StorageError> {
    M::decode(payload).map_err(|error| corrupt(key, &error.to_string()))
}

fn corrupt(key: &[u8], why: &str) -> StorageError {
    let record = match key {
        HARD_STATE => "the hard state".to_owned(),
        SNAPSHOT => "the snapshot".to_owned(),
        [ENTRY, index @ ..] => index
            .first_chunk::<8>()
            .map_or_else(|| "an entry".to_owned(), |index| format!("entry {}", u64::from_be_bytes(*index))),
        _ => "an unknown record".to_owned(),
    };
    StorageError::Corrupt { what: format!("{record}: {why}") }
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
#[path = "log_store_tests.rs"]
mod tests;
