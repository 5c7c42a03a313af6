//! For tests: a disk in memory, and a group of replicas over a network that does as it is told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use postern_core::Timestamp;
use postern_core::secret::Sealed;
use postern_state::{Cluster, Command, Effect, Outcome, State, commands};
use raft::eraftpb::{Entry, Message, MessageType};

use super::log_store::{Cut, Loaded, LogStore, SnapshotRecord, StorageError, Write};
use super::transport::{SnapshotSource, Transport};
use super::*;

/// A disk in memory that can fail, and that keeps only what was saved.
#[derive(Clone, Default)]
pub(super) struct MemoryLog(pub(super) Arc<Mutex<Disk>>);

#[derive(Default)]
pub(super) struct Disk {
    pub(super) loaded: Loaded,
    pub(super) saves: usize,
    pub(super) fail: bool,
}

impl LogStore for MemoryLog {
    fn load(&mut self) -> Result<Loaded, StorageError> {
        Ok(self.0.lock().unwrap().loaded.clone())
    }

    fn save(&mut self, write: Write<'_>) -> Result<(), StorageError> {
        let mut disk = self.0.lock().unwrap();
        if disk.fail {
            return Err(StorageError::Io("no space left".into()));
        }
        disk.saves += 1;
        let loaded = &mut disk.loaded;
        match write.cut {
            Cut::Nothing => {}
            Cut::UpTo(index) => loaded.entries.retain(|entry| entry.index > index),
            Cut::All => loaded.entries.clear(),
        }
        if let Some(first) = write.entries.first() {
            loaded.entries.retain(|entry: &Entry| entry.index < first.index);
            loaded.entries.extend(write.entries.iter().cloned());
        }
        if let Some(hard_state) = write.hard_state {
            loaded.hard_state = hard_state.clone();
        }
        if let Some(snapshot) = write.snapshot {
            loaded.snapshot = Some(SnapshotRecord::clone(snapshot));
        }
        Ok(())
    }

    fn snapshots(&self) -> Arc<dyn SnapshotSource> {
        Arc::new(self.clone())
    }
}

impl SnapshotSource for MemoryLog {
    fn open(&self, index: u64, term: u64) -> Result<Option<Bytes>, StorageError> {
        let disk = self.0.lock().unwrap();
        let kept = disk.loaded.snapshot.as_ref().filter(|it| (it.index, it.term) == (index, term));
        Ok(kept.map(|snapshot| snapshot.data.clone()))
    }
}

fn sealed() -> Sealed {
    Sealed { kek_id: "k".into(), wrapped_key: vec![1], nonce: vec![2], ciphertext: vec![3] }
}

pub(super) fn init() -> Command {
    init_as("c")
}

/// The first entry of a cluster of that id.
pub(crate) fn init_as(id: &str) -> Command {
    let cluster = Cluster {
        id: id.into(),
        ca_pem: "ca".into(),
        ca_key: sealed(),
        session_token_jwks: "{}".into(),
        signing_keys: Vec::new(),
        recording_keys: Vec::new(),
        session_token_key: sealed(),
        mask_key: sealed(),
        incarnation: "i".into(),
    };
    commands::InitCluster(cluster).into()
}

pub(super) fn keys(issuer: &str, jwks: &str) -> Command {
    commands::SetIssuerKeys { issuer: issuer.parse().unwrap(), url: "https://id.example".into(), jwks: jwks.into() }
        .into()
}

#[derive(Clone, Default)]
pub(super) struct Outbox(Arc<Mutex<Vec<Message>>>);

impl Transport for Outbox {
    fn send(&mut self, messages: Vec<Message>) {
        self.0.lock().unwrap().extend(messages);
    }
}

/// Where the state was changed, and how often it was another.
#[derive(Clone, Default)]
pub(super) struct Seen(pub(super) Arc<Mutex<(Vec<u64>, usize)>>);

impl Observer for Seen {
    fn applied(&mut self, _: &State, index: u64, _: &[Effect]) {
        self.0.lock().unwrap().0.push(index);
    }

    fn restored(&mut self, _: &State) {
        self.0.lock().unwrap().1 += 1;
    }
}

pub(super) struct Node {
    pub(super) replica: Replica<MemoryLog, Outbox, Seen>,
    pub(super) log: MemoryLog,
    pub(super) seen: Seen,
    outbox: Outbox,
    /// Leaves it to the next write or tick to tell followers what is committed.
    pub(super) tells_late: bool,
    /// What stopped it.
    pub(super) ended: Option<DriverError>,
}

impl Node {
    pub(super) fn new(config: &NodeConfig, log: MemoryLog) -> Self {
        let (outbox, seen) = (Outbox::default(), Seen::default());
        let replica = Replica::new(config, log.clone(), outbox.clone(), seen.clone()).unwrap();
        Self { replica, log, seen, outbox, tells_late: false, ended: None }
    }

    /// Settles, and makes snapshots at once.
    pub(super) fn settle(&mut self) {
        if self.ended.is_some() {
            return;
        }
        let mut settled = self.replica.settle();
        // At once, as the driver does before long.
        if !self.tells_late && settled.is_ok() {
            self.replica.tell_commit();
            settled = self.replica.settle();
        }
        if let Some(job) = self.replica.take_compaction() {
            settled = settled.and(self.replica.compacted(job.run()));
        }
        self.ended = settled.err();
    }
}

type Loses = Box<dyn Fn(&Message) -> bool>;

/// A group in one thread. Ticks are all at once; messages arrive at once, where no link is cut.
#[derive(Default)]
pub(super) struct Group {
    pub(super) nodes: BTreeMap<u64, Node>,
    cut: BTreeSet<(u64, u64)>,
    /// Kinds of messages that are lost.
    pub(super) lost: Vec<MessageType>,
    /// Messages that are lost.
    pub(super) loses: Option<Loses>,
    pub(super) snapshots_sent: usize,
}

/// Ticks within which anything should have come to pass.
const PATIENCE: usize = 400;

/// Elections come in the order of ids.
pub(super) fn config(id: u64) -> NodeConfig {
    let ticks = 10 + usize::try_from(id).unwrap() * 3;
    NodeConfig {
        nonce: id,
        heartbeat_ticks: 1,
        election_ticks: ticks,
        max_election_ticks: ticks + 1,
        linger_ticks: 100,
        ..NodeConfig::new(id)
    }
}

impl Group {
    /// Founders that have elected a leader.
    pub(super) fn of(ids: &[u64]) -> Self {
        let mut group = Self::default();
        for id in ids {
            group.add(&NodeConfig { founders: ids.to_vec(), ..config(*id) });
        }
        group.until(|group| group.leader().is_some());
        group
    }

    pub(super) fn add(&mut self, config: &NodeConfig) {
        self.nodes.insert(config.id, Node::new(config, MemoryLog::default()));
    }

    /// Kills a node and starts it with what is on its disk.
    pub(super) fn restart(&mut self, config: &NodeConfig) {
        let log = self.nodes.remove(&config.id).unwrap().log;
        self.nodes.insert(config.id, Node::new(config, log));
    }

    pub(super) fn node(&mut self, id: u64) -> &mut Node {
        self.nodes.get_mut(&id).unwrap()
    }

    pub(super) fn status(&self, id: u64) -> Status {
        self.nodes[&id].replica.status()
    }

    /// Who leads and may answer: never two in one term.
    pub(super) fn leader(&self) -> Option<u64> {
        let leaders = self.nodes.values().map(|node| node.replica.status()).filter(|status| status.leading);
        leaders.max_by_key(|status| status.term).map(|status| status.id)
    }

    pub(super) fn isolate(&mut self, id: u64) {
        for other in self.nodes.keys().copied().filter(|other| *other != id) {
            self.cut.insert((id, other));
            self.cut.insert((other, id));
        }
    }

    pub(super) fn heal(&mut self) {
        self.cut.clear();
    }

    /// Settles and delivers until nothing is on its way.
    pub(super) fn quiet(&mut self) {
        loop {
            self.nodes.values_mut().for_each(Node::settle);
            let out = self.nodes.values().flat_map(|node| std::mem::take(&mut *node.outbox.0.lock().unwrap()));
            let messages: Vec<Message> = out.collect();
            if messages.is_empty() {
                return;
            }
            for message in messages {
                self.deliver(message);
            }
        }
    }

    fn deliver(&mut self, mut message: Message) {
        let (from, to, kind) = (message.from, message.to, message.msg_type());
        let arrives = !self.cut.contains(&(from, to)) && !self.lost.contains(&kind);
        let arrives = arrives && self.loses.as_ref().is_none_or(|loses| !loses(&message));
        let arrives = arrives && self.nodes.get(&to).is_some_and(|node| node.ended.is_none());
        if kind == MessageType::MsgSnapshot {
            let metadata = message.get_snapshot().get_metadata();
            assert!(message.get_snapshot().data.is_empty());
            let data = self.nodes[&from].log.open(metadata.index, metadata.term).unwrap();
            let arrives = arrives && data.is_some();
            if let Some(data) = data.filter(|_| arrives) {
                message.mut_snapshot().data = data.to_vec();
                self.snapshots_sent += 1;
                self.node(to).replica.step(message).unwrap();
                self.node(to).settle();
            }
            self.node(from).replica.report_snapshot(to, arrives);
        } else if arrives {
            self.node(to).replica.step(message).unwrap();
        }
    }

    pub(super) fn tick(&mut self) {
        for node in self.nodes.values_mut().filter(|node| node.ended.is_none()) {
            node.replica.tick(Timestamp::from_millis(1_000));
        }
        self.quiet();
    }

    /// Lets time pass until `done`.
    pub(super) fn until(&mut self, done: impl Fn(&Self) -> bool) {
        for _ in 0..PATIENCE {
            if done(self) {
                return;
            }
            self.tick();
        }
        panic!("it did not come to pass");
    }

    /// Proposes, without waiting.
    pub(super) fn propose(&mut self, at: u64, command: Command) -> Slot<Result<Outcome, ProposeError>> {
        let slot = Slot::default();
        let proposal = Proposal::new(command, None);
        self.node(at).replica.propose(proposal, Timestamp::from_millis(1_000), slot.taker());
        slot
    }

    /// Proposes at the leader and waits.
    pub(super) fn write(&mut self, command: Command) -> Result<Outcome, ProposeError> {
        let leader = self.leader().unwrap();
        let slot = self.propose(leader, command);
        self.until(|_| slot.is_some());
        slot.take().unwrap()
    }

    /// Reads the index of the state, without waiting.
    pub(super) fn read(&mut self, at: u64) -> Slot<Result<u64, ReadError>> {
        let slot = Slot::default();
        let (read, failed) = (slot.clone(), slot.taker());
        let read: ReadFn = Box::new(move |state| read.put(Ok(state.index())));
        self.node(at).replica.read(read, Box::new(move |error| failed(Err(error))));
        slot
    }

    pub(super) fn start_change(&mut self, change: MembershipChange, force: bool) -> Slot<Result<u64, MembershipError>> {
        let (slot, leader) = (Slot::default(), self.leader().unwrap());
        self.node(leader).replica.change_membership(change, force, slot.taker());
        slot
    }

    /// Changes the members and waits.
    pub(super) fn change(&mut self, change: MembershipChange) -> Result<u64, MembershipError> {
        let slot = self.start_change(change, false);
        self.until(|_| slot.is_some());
        slot.take().unwrap()
    }

    /// Those that are there and belong.
    fn members(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().filter(|node| node.ended.is_none() && !node.replica.status().removed)
    }

    /// Waits until all have applied the same, and says whether they agree.
    pub(super) fn agree(&mut self) {
        assert!(self.members().count() > 0);
        self.until(|group| {
            let at: BTreeSet<u64> = group.members().map(|node| node.replica.status().applied).collect();
            at.len() == 1
        });
        let hashes: BTreeSet<_> =
            self.members().map(|node| format!("{:?}", node.replica.read_local().hash())).collect();
        assert_eq!(hashes.len(), 1, "states differ");
    }
}

/// Where an answer is put.
pub(super) struct Slot<T>(Arc<Mutex<Option<T>>>);

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Clone for Slot<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Send + 'static> Slot<T> {
    pub(super) fn taker(&self) -> Box<dyn FnOnce(T) + Send> {
        let slot = self.clone();
        Box::new(move |value| slot.put(value))
    }

    fn put(&self, value: T) {
        assert!(self.0.lock().unwrap().replace(value).is_none(), "answered twice");
    }

    pub(super) fn is_some(&self) -> bool {
        self.0.lock().unwrap().is_some()
    }

    pub(super) fn take(&self) -> Option<T> {
        self.0.lock().unwrap().take()
    }
}
