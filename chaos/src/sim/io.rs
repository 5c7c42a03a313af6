//! What a replica is given for a log, a transport and an observer. All three note what they were told and when within the node's turn; the
//! world lets it happen at that time, unless the node has crashed before.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use fastrand::Rng;
use postern_core::Timestamp;
use postern_server::raft::log_store::{DiskLog, Loaded, LogStore, SnapshotWriter, StorageError, Write};
use postern_server::raft::transport::{SnapshotSource, Transport};
use postern_server::raft::{MembershipChange, MembershipError, Observer};
use postern_state::{Effect, State};
use raft::eraftpb::{Message, MessageType};
use raft_prost::Message as _;

use super::client::{Packet, Reply};
use super::disk::Disk;
use super::{MS, Time};

/// Every so many entries, the whole state is compared.
pub const HASH_EVERY: u64 = 16;

/// What a node does to the world.
pub enum Output {
    /// Sends Raft's message.
    Raft {
        /// To whom.
        to: u64,
        /// In its wire form.
        bytes: Vec<u8>,
        /// For the trace.
        kind: MessageType,
        /// The sender's term; of a leader, where its kind is a leader's.
        term: u64,
        /// What it says, for the trace.
        text: String,
    },
    /// Was to send a snapshot that has given way to a newer one.
    SnapshotGone(u64),
    /// Has applied an entry.
    Applied(Box<AppliedEntry>),
    /// Has taken a state from a snapshot, at this index of the state.
    Restored {
        /// The last entry in it that is the state machine's.
        index: u64,
        /// The state's hash.
        hash: [u8; 32],
    },
    /// Answers a client.
    Answer {
        /// What was asked.
        asked: Box<Packet>,
        /// What the node says.
        reply: Box<Reply>,
    },
    /// Answers whoever changes the members, or (`None`) wants another leader.
    Membership(Option<MembershipChange>, Result<u64, MembershipError>),
}

/// An entry as a node has applied it.
pub struct AppliedEntry {
    /// Its place in the log.
    pub index: u64,
    /// Its term and data as they stand in the node's log, if they do.
    pub entry: Option<(u64, Vec<u8>)>,
    /// What it has changed.
    pub effects: Vec<Effect>,
    /// Logical time after it.
    pub now: Timestamp,
    /// The state's hash after it, every [`HASH_EVERY`] entries.
    pub hash: Option<[u8; 32]>,
}

/// Log matching: an entry's index and term name its data and its predecessor. Shared by all nodes.
#[derive(Default)]
pub struct LogLaw {
    entries: std::collections::BTreeMap<(u64, u64), (Option<u64>, Vec<u8>)>,
    broken: Option<String>,
}

/// One node's io.
pub struct Io {
    /// Whose.
    pub id: u64,
    /// When the node's turn began.
    pub now: Time,
    /// How long the turn has taken so far.
    pub elapsed: Time,
    /// What it did, and how far into the turn.
    pub outputs: Vec<(Time, Output)>,
    /// Its disk.
    pub disk: Disk,
    /// What a flush takes, at least and at most.
    pub flush: (Time, Time),
    /// How often it flushed.
    pub flushes: u64,
    rng: Rng,
    laws: Arc<Mutex<LogLaw>>,
}

/// A node's io, shared by the parts of its replica; it outlives them.
#[derive(Clone)]
pub struct SharedIo(Arc<Mutex<Io>>);

impl SharedIo {
    /// With an empty disk.
    #[must_use]
    pub fn new(id: u64, rng: Rng, laws: Arc<Mutex<LogLaw>>) -> Self {
        let (disk, outputs) = (Disk::default(), Vec::new());
        let io = Io { id, now: 0, elapsed: 0, outputs, disk, flush: (50, MS), flushes: 0, rng, laws };
        Self(Arc::new(Mutex::new(io)))
    }

    /// The io itself.
    pub fn get(&self) -> MutexGuard<'_, Io> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that `output` happens now.
    pub fn put(&self, output: Output) {
        let mut io = self.get();
        let at = io.elapsed;
        io.outputs.push((at, output));
    }
}

impl Io {
    /// The next random number below `most`, of this node's own.
    pub fn random(&mut self, most: u64) -> u64 {
        self.rng.u64(0..most.max(1))
    }

    /// Loses what is not flushed at `now`.
    pub fn crash(&mut self, now: Time) {
        self.disk.crash(now, &mut self.rng);
        self.outputs.clear();
    }

    /// Log matching is broken.
    fn breaks(&self, how: String) {
        self.laws.lock().unwrap_or_else(PoisonError::into_inner).broken.get_or_insert(how);
    }
}

impl LogLaw {
    /// The first violation, if there was one.
    #[must_use]
    pub fn broken(&self) -> Option<&String> {
        self.broken.as_ref()
    }

    fn learn(&mut self, node: u64, index: u64, term: u64, before: Option<u64>, data: &[u8]) {
        let Some((known_before, known)) = self.entries.get(&(index, term)) else {
            self.entries.insert((index, term), (before, data.to_vec()));
            return;
        };
        let same_before = known_before.is_none() || before.is_none() || *known_before == before;
        if (known != data || !same_before) && self.broken.is_none() {
            let what = if known == data { "predecessor" } else { "data" };
            self.broken = Some(format!("node {node} has entry {index} of term {term} with another {what} than others"));
        }
    }
}

/// The log: the simulated disk, and, where a run has them, real files that are written with it.
pub struct SimLog {
    io: SharedIo,
    files: Option<DiskLog>,
}

impl SimLog {
    /// On the simulated disk alone, or in `dir` too.
    ///
    /// # Errors
    /// When the real log does not open.
    pub fn open(io: SharedIo, dir: Option<&PathBuf>) -> Result<Self, StorageError> {
        Ok(Self { io, files: dir.map(|dir| DiskLog::open(dir)).transpose()? })
    }
}

impl LogStore for SimLog {
    fn load(&mut self) -> Result<Loaded, StorageError> {
        let simulated = self.io.get().disk.load()?;
        let Some(files) = &mut self.files else { return Ok(simulated) };
        let loaded = files.load()?;
        if loaded != simulated {
            let what = format!(
                "the files hold {} entries and commit {}, {} and {} were written",
                loaded.entries.len(),
                loaded.hard_state.commit,
                simulated.entries.len(),
                simulated.hard_state.commit
            );
            return Err(StorageError::Io(what));
        }
        Ok(loaded)
    }

    fn save(&mut self, write: Write<'_>) -> Result<(), StorageError> {
        let mut io = self.io.get();
        let (least, most) = io.flush;
        let took = io.rng.u64(least..=most.max(least));
        io.elapsed = io.elapsed.saturating_add(took);
        io.flushes = io.flushes.saturating_add(1);
        let (now, done_at) = (io.now, io.now.saturating_add(io.elapsed));
        io.disk.flush(now);
        io.disk.save(write, done_at)?;
        let (id, laws) = (io.id, Arc::clone(&io.laws));
        let mut laws = laws.lock().unwrap_or_else(PoisonError::into_inner);
        let mut before = write.entries.first().and_then(|first| io.disk.view().term(first.index.saturating_sub(1)));
        for entry in write.entries {
            laws.learn(id, entry.index, entry.term, before, &entry.data);
            before = Some(entry.term);
        }
        drop(io);
        match &mut self.files {
            Some(files) => files.save(write),
            None => Ok(()),
        }
    }

    fn snapshot_writer(&self) -> SnapshotWriter {
        self.files.as_ref().map_or_else(|| -> SnapshotWriter { Box::new(|_| Ok(())) }, LogStore::snapshot_writer)
    }

    fn snapshots(&self) -> Arc<dyn SnapshotSource> {
        match &self.files {
            Some(files) => files.snapshots(),
            None => Arc::new(Snapshots(self.io.clone())),
        }
    }
}

/// The snapshots on the simulated disk.
struct Snapshots(SharedIo);

impl SnapshotSource for Snapshots {
    fn open(&self, index: u64, term: u64) -> Result<Option<Bytes>, StorageError> {
        Ok(self.0.get().disk.view().snapshot(index, term))
    }
}

/// The transport: messages leave when their time in the turn has come.
pub struct SimTransport {
    /// Where it notes what leaves.
    pub io: SharedIo,
    /// Where a snapshot's data is.
    pub snapshots: Arc<dyn SnapshotSource>,
}

impl Transport for SimTransport {
    fn send(&mut self, messages: Vec<Message>) {
        for mut message in messages {
            if message.get_msg_type() == MessageType::MsgSnapshot {
                let metadata = message.get_snapshot().get_metadata();
                // A disk that fails is as one that has it no more.
                let Ok(Some(data)) = self.snapshots.open(metadata.index, metadata.term) else {
                    self.io.put(Output::SnapshotGone(message.to));
                    continue;
                };
                message.mut_snapshot().data = data.to_vec();
            }
            if let Some(first) = message.entries.first()
                && message.get_msg_type() == MessageType::MsgAppend
                && first.index != message.index.saturating_add(1)
            {
                let how = format!("an append at {} begins with entry {}", message.index, first.index);
                self.io.get().breaks(how);
            }
            let (to, kind, term) = (message.to, message.get_msg_type(), message.term);
            let text = in_words(&message);
            self.io.put(Output::Raft { to, bytes: message.encode_to_vec(), kind, term, text });
        }
    }
}

fn in_words(message: &Message) -> String {
    let Message { term, index, log_term, commit, reject, reject_hint, .. } = message;
    let mut text = format!("term {term} at {index}/{log_term} commit {commit}");
    if let (Some(first), Some(last)) = (message.entries.first(), message.entries.last()) {
        text.push_str(&format!(" entries {}..={}", first.index, last.index));
    }
    if *reject {
        text.push_str(&format!(" rejected, hint {reject_hint}"));
    }
    text
}

/// The observer: notes every entry, with what stands in the log for it.
pub struct SimObserver(pub SharedIo);

impl Observer for SimObserver {
    fn applied(&mut self, state: &State, index: u64, effects: &[Effect]) {
        let entry = self.0.get().disk.view().entry(index).map(|entry| (entry.term, entry.data.clone()));
        let hash = index.is_multiple_of(HASH_EVERY).then(|| state.hash());
        let effects = effects.to_vec();
        self.0.put(Output::Applied(Box::new(AppliedEntry { index, entry, effects, now: state.now(), hash })));
    }

    fn restored(&mut self, state: &State) {
        self.0.put(Output::Restored { index: state.index(), hash: state.hash() });
    }
}
