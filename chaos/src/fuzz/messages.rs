//! One member of a real Raft group, and peers that send it anything.
//!
//! The bytes say what happens: time passes, something is proposed, a peer answers as it should, or sends a message of any kind whose terms and
//! indices are near those of the node, or any. The node may refuse, and may stop with an error; it must not panic.

use std::sync::{Arc, Mutex, PoisonError};

use postern_core::Timestamp;
use postern_server::raft::log_store::{Loaded, LogStore, StorageError, Write};
use postern_server::raft::transport::{SnapshotSource, Transport};
use postern_server::raft::{DriverError, MembershipChange, NodeConfig, Proposal, Replica};
use postern_state::{State, commands};
use raft::eraftpb::{ConfState, Entry, EntryType, Message, MessageType, Snapshot, SnapshotMetadata};
use raft_prost::Message as _;

use super::Bytes;
use super::seeds::founding;
use crate::sim::disk::{Disk, Image};

const ID: u64 = 1;
const PEERS: [u64; 3] = [2, 3, 4];
/// Enough to be elected, to lead, and to be led again.
const TURNS: usize = 300;

#[derive(Clone, Default)]
struct Shared {
    disk: Arc<Mutex<Disk>>,
    sent: Arc<Mutex<Vec<Message>>>,
}

struct Log(Shared);

struct Source(Shared);

struct Peers(Shared);

impl LogStore for Log {
    fn load(&mut self) -> Result<Loaded, StorageError> {
        lock(&self.0.disk).view().load()
    }

    fn save(&mut self, write: Write<'_>) -> Result<(), StorageError> {
        let mut disk = lock(&self.0.disk);
        disk.save(write, 0)?;
        disk.flush(0);
        Ok(())
    }

    fn snapshots(&self) -> Arc<dyn SnapshotSource> {
        Arc::new(Source(self.0.clone()))
    }
}

impl SnapshotSource for Source {
    fn open(&self, index: u64, term: u64) -> Result<Option<bytes::Bytes>, StorageError> {
        Ok(lock(&self.0.disk).view().snapshot(index, term))
    }
}

impl Transport for Peers {
    fn send(&mut self, mut messages: Vec<Message>) {
        let mut sent = lock(&self.0.sent);
        sent.append(&mut messages);
        // The newest are what is answered.
        let old = sent.len().saturating_sub(64);
        sent.drain(..old);
    }
}

fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

type Node = Replica<Log, Peers, ()>;

pub(super) fn run(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let shared = Shared::default();
    let alone = bytes.byte() == 1;
    let mut config = NodeConfig {
        nonce: 7,
        compact_after: 8,
        keep_entries: 3,
        max_election_ticks: 11,
        founders: if alone { vec![ID] } else { vec![1, 2, 3] },
        ..NodeConfig::new(ID)
    };
    let start = |config: &NodeConfig| Node::new(config, Log(shared.clone()), Peers(shared.clone()), ());
    let Ok(mut node) = start(&config) else { return };
    let mut now = 1_000;
    for _ in 0..TURNS {
        if bytes.is_empty() {
            break;
        }
        let turned = match bytes.below(12) {
            0 => {
                for _ in 0..=bytes.below(16) {
                    now += 50;
                    node.tick(Timestamp::from_millis(now));
                }
                Ok(())
            }
            1 => {
                propose(&mut node, &mut bytes, now);
                Ok(())
            }
            2..=4 => answer(&mut node, &shared, &mut bytes),
            5 => match Message::decode(bytes.some()) {
                Ok(message) => node.step(message),
                Err(_) => Ok(()),
            },
            6 => {
                node.report_snapshot(bytes.around(2), bytes.byte() & 1 == 0);
                node.report_unreachable(bytes.around(2));
                Ok(())
            }
            7 => {
                // As after a crash. A founder's log is not empty then.
                config.nonce += 1;
                match start(&config) {
                    Ok(again) => node = again,
                    Err(_) => return,
                }
                Ok(())
            }
            _ => {
                let message = message(&node, &shared, &mut bytes);
                node.step(message)
            }
        };
        if turned.and_then(|()| settle(&mut node)).is_err() {
            return;
        }
    }
}

fn settle(node: &mut Node) -> Result<(), DriverError> {
    let committed = node.status().committed;
    node.settle()?;
    if let Some(job) = node.take_compaction() {
        node.compacted(job.run())?;
    }
    assert!(node.status().committed >= committed, "what is committed stays so");
    Ok(())
}

fn propose(node: &mut Node, bytes: &mut Bytes<'_>, now: u64) {
    let at = Timestamp::from_millis(now);
    match bytes.below(6) {
        0 => node.propose(Proposal::new(founding(), None), at, Box::new(drop)),
        1 => node.read(Box::new(|_| ()), Box::new(drop)),
        2 => {
            let id = bytes.around(3);
            let change = match bytes.below(3) {
                0 => MembershipChange::AddLearner(id),
                1 => MembershipChange::Promote(id),
                _ => MembershipChange::Remove(id),
            };
            node.change_membership(change, bytes.byte() & 1 == 0, Box::new(drop));
        }
        3 => node.transfer_leader(bytes.around(2), Box::new(drop)),
        4 => node.propose_encoded(bytes.some().to_vec(), Box::new(drop)),
        _ => node.propose(Proposal::new(commands::ExpireApprovals, None), at, Box::new(drop)),
    }
}

/// What a peer in its right mind answers to something that was sent to it, more or less.
fn answer(node: &mut Node, shared: &Shared, bytes: &mut Bytes<'_>) -> Result<(), DriverError> {
    let asked = {
        let sent = lock(&shared.sent);
        let back = usize::from(bytes.below(8));
        let Some(asked) = sent.iter().rev().nth(back) else { return Ok(()) };
        asked.clone()
    };
    let mut answer = Message { from: asked.to, to: ID, term: asked.term, ..Default::default() };
    let last = asked.entries.last().map_or(asked.index, |entry| entry.index);
    let kind = match asked.msg_type() {
        MessageType::MsgRequestPreVote => MessageType::MsgRequestPreVoteResponse,
        MessageType::MsgRequestVote => MessageType::MsgRequestVoteResponse,
        MessageType::MsgAppend | MessageType::MsgSnapshot => {
            answer.index = last.max(asked.get_snapshot().get_metadata().index);
            MessageType::MsgAppendResponse
        }
        MessageType::MsgHeartbeat => {
            answer.context = asked.context;
            MessageType::MsgHeartbeatResponse
        }
        MessageType::MsgReadIndex => {
            (answer.term, answer.index, answer.entries) = (node.status().term, asked.commit, asked.entries);
            MessageType::MsgReadIndexResp
        }
        _ => return Ok(()),
    };
    answer.set_msg_type(kind);
    if bytes.byte() > 250 {
        answer.reject = true;
        answer.reject_hint = bytes.around(last);
        answer.log_term = bytes.around(answer.term);
    }
    node.step(answer)
}

/// A message of any kind.
fn message(node: &Node, shared: &Shared, bytes: &mut Bytes<'_>) -> Message {
    let status = node.status();
    let index = bytes.around(status.last_index);
    let known = lock(&shared.disk).view().term(index);
    let mut message = Message {
        from: PEERS.get(usize::from(bytes.below(4))).copied().unwrap_or_else(|| bytes.around(2)),
        to: ID,
        term: if bytes.byte() < 16 { bytes.around(status.term) } else { status.term.max(1) },
        index,
        log_term: known.filter(|_| bytes.byte() < 200).unwrap_or_else(|| bytes.around(status.term)),
        commit: bytes.around(status.committed),
        ..Default::default()
    };
    message.msg_type = i32::from(bytes.below(20));
    let (mut at, mut term) = (index, message.log_term.max(1));
    for _ in 0..bytes.below(5) {
        at = at.wrapping_add(1);
        if bytes.byte() < 32 {
            (at, term) = (bytes.around(at), bytes.around(term));
        }
        message.entries.push(entry(at, term.min(message.term), bytes));
    }
    let strange = bytes.byte();
    if strange & 3 == 3 {
        message.reject = true;
        message.reject_hint = bytes.around(status.last_index);
        message.commit_term = bytes.around(status.term);
        message.context = bytes.some().to_vec();
    }
    if strange > 250 {
        message.request_snapshot = bytes.around(0);
        message.priority = i64::from(bytes.byte()) - 128;
        message.deprecated_priority = bytes.around(0);
    }
    if message.msg_type() == MessageType::MsgReadIndex {
        message.term = if bytes.byte() < 200 { 0 } else { message.term };
    }
    if message.msg_type() == MessageType::MsgSnapshot {
        message.snapshot = Some(snapshot(lock(&shared.disk).view(), status.last_index, message.term, bytes));
    }
    message
}

fn entry(index: u64, term: u64, bytes: &mut Bytes<'_>) -> Entry {
    let mut entry = Entry { index, term, ..Default::default() };
    match bytes.below(8) {
        0 => {
            entry.set_entry_type(EntryType::EntryConfChangeV2);
            entry.data = bytes.some().to_vec();
        }
        1 => {
            entry.set_entry_type(EntryType::EntryConfChange);
            entry.data = bytes.some().to_vec();
        }
        2 => entry.data = bytes.some().to_vec(),
        _ => {}
    }
    entry
}

fn snapshot(disk: &Image, last: u64, term: u64, bytes: &mut Bytes<'_>) -> Snapshot {
    let mut list = || (0..bytes.below(4)).map(|_| u64::from(bytes.below(6))).collect::<Vec<_>>();
    let mut members = ConfState {
        voters: list(),
        learners: list(),
        voters_outgoing: list(),
        learners_next: list(),
        ..Default::default()
    };
    members.auto_leave = bytes.byte() > 200;
    if bytes.byte() < 128 {
        members = ConfState { voters: vec![1, 2, 3], ..Default::default() };
    }
    let index = bytes.around(last);
    let data = match bytes.below(4) {
        0 => bytes.some().to_vec(),
        1 => disk.load().ok().and_then(|loaded| loaded.snapshot).map(|found| found.data.to_vec()).unwrap_or_default(),
        _ => State::default().snapshot(),
    };
    let term = if bytes.byte() < 200 { term } else { bytes.around(term) };
    Snapshot { data, metadata: Some(SnapshotMetadata { conf_state: Some(members), index, term }) }
}
