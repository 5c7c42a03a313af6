//! Raft and the state machine together, without I/O: messages, ticks and proposals go in; what has to be persisted, sent and answered
//! comes out. The driver does it, and so does a simulation.

use std::collections::BTreeMap;

use postern_core::Timestamp;
use postern_state::{Applied, Entry, Halt, RestoreError, State};
use raft::eraftpb::{ConfChange, ConfChangeV2, ConfState, Entry as LogEntry, EntryType, HardState, Message};
use raft::{RawNode, StateRole};
use raft_prost::Message as _;

use super::log_store::{Loaded, SnapshotRecord, Write};
use super::memory::LogMemory;
use super::observer::Observer;
use super::slog_bridge;

/// Who a node is and how it keeps time.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Its id in the group; never 0, never used again.
    pub id: u64,
    /// The voters that the group begins with; only read by a node with an empty log.
    pub founders: Vec<u64>,
    /// Ticks without a leader after which a node stands for election.
    pub election_ticks: usize,
    /// Ticks between heartbeats.
    pub heartbeat_ticks: usize,
    /// Entries applied since the last snapshot after which the log is compacted.
    pub compact_after: u64,
}

/// The node cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum CoreError {
    /// raft-rs refuses: its configuration or its log is not valid.
    #[error("raft: {0}")]
    Raft(#[from] raft::Error),
    /// The state machine cannot read an entry.
    #[error(transparent)]
    Halt(#[from] Halt),
    /// The state machine cannot read a snapshot.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// A membership entry cannot be read.
    #[error("membership change at entry {index} cannot be decoded")]
    Membership {
        /// Its place in the log.
        index: u64,
    },
}

/// A node without its I/O.
pub struct Core {
    node: RawNode<LogMemory>,
    state: State,
    applied_term: u64,
    compact_after: u64,
    next_read: u64,
    reads: BTreeMap<u64, Option<u64>>,
}

/// What has to be done with the outside, in this order: persist, send, tell [`Core::persisted`].
pub struct Ready {
    inner: raft::Ready,
    hard_state: Option<HardState>,
    snapshot: Option<SnapshotRecord>,
    messages: Vec<Message>,
}

/// What came of a [`Ready`].
#[derive(Default)]
pub struct Progress {
    /// Entries that were applied: index, term and what came of each. Membership and empty entries are not among them.
    pub applied: Vec<(u64, u64, Applied)>,
    /// To peers.
    pub messages: Vec<Message>,
}

/// A linearizable read that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReadTicket(u64);

impl Core {
    /// Takes up where `loaded` left off.
    ///
    /// # Errors
    /// When the log or its snapshot cannot be read by this version.
    pub fn new(config: &NodeConfig, loaded: Loaded) -> Result<Self, CoreError> {
        let state = match &loaded.snapshot {
            Some(snapshot) => State::restore(&snapshot.data)?,
            None => State::default(),
        };
        let snapshot_index = loaded.snapshot.as_ref().map_or(0, |snapshot| snapshot.index);
        let snapshot_term = loaded.snapshot.as_ref().map_or(0, |snapshot| snapshot.term);
        let founders = ConfState { voters: config.founders.clone(), ..Default::default() };
        let raft_config = raft::Config {
            id: config.id,
            election_tick: config.election_ticks,
            heartbeat_tick: config.heartbeat_ticks,
            applied: snapshot_index,
            max_size_per_msg: 1 << 20,
            max_inflight_msgs: 256,
            check_quorum: true,
            pre_vote: true,
            batch_append: true,
            max_uncommitted_size: 64 << 20,
            max_committed_size_per_ready: 16 << 20,
            ..Default::default()
        };
        let memory = LogMemory::new(loaded, founders);
        let node = RawNode::new(&raft_config, memory, &slog_bridge::logger())?;
        let mut core = Self {
            node,
            state,
            applied_term: snapshot_term,
            compact_after: config.compact_after,
            next_read: 0,
            reads: BTreeMap::new(),
        };
        // Alone, there is nobody to wait for.
        if core.node.store().members().voters == [config.id] {
            core.node.campaign()?;
        }
        Ok(core)
    }

    /// The replicated state as far as it is applied here.
    #[must_use]
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// Whether this node leads and knows all that was committed before it did.
    #[must_use]
    pub fn is_ready_leader(&self) -> bool {
        self.is_leader() && self.node.raft.commit_to_current_term()
    }

    /// Whether this node leads.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    /// The leader, as far as known; 0 when there is none.
    #[must_use]
    pub fn leader(&self) -> u64 {
        self.node.raft.leader_id
    }

    /// The current term.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.node.raft.term
    }

    /// The last entry known to be committed.
    #[must_use]
    pub fn committed(&self) -> u64 {
        self.node.raft.raft_log.committed
    }

    /// A tick of the clock.
    pub fn tick(&mut self) {
        self.node.tick();
    }

    /// A message from a peer.
    ///
    /// # Errors
    /// When it is not for this node or makes no sense; harmless.
    pub fn step(&mut self, message: Message) -> Result<(), CoreError> {
        Ok(self.node.step(message)?)
    }

    /// Proposes `entry`; `(index, term)` at which it will stand if it is committed.
    ///
    /// # Errors
    /// When this node does not lead, or too much is uncommitted.
    pub fn propose(&mut self, entry: &Entry) -> Result<(u64, u64), CoreError> {
        self.node.propose(Vec::new(), entry.encode())?;
        Ok((self.node.raft.raft_log.last_index(), self.node.raft.term))
    }

    /// Asks for a linearizable read (ReadIndex). Only to be called on a ready leader; see [`Core::take_reads`].
    pub fn read(&mut self) -> ReadTicket {
        self.next_read = self.next_read.saturating_add(1);
        self.reads.insert(self.next_read, None);
        self.node.read_index(self.next_read.to_be_bytes().to_vec());
        ReadTicket(self.next_read)
    }

    /// Reads that may be answered from [`Core::state`] now.
    pub fn take_reads(&mut self) -> Vec<ReadTicket> {
        let applied = self.state_index();
        let ready = |index: &Option<u64>| index.is_some_and(|index| index <= applied);
        let done: Vec<u64> = self.reads.iter().filter(|(_, index)| ready(index)).map(|(ticket, _)| *ticket).collect();
        for ticket in &done {
            self.reads.remove(ticket);
        }
        done.into_iter().map(ReadTicket).collect()
    }

    /// Forgets reads that wait: they were asked of a leader that no longer leads.
    pub fn drop_reads(&mut self) {
        self.reads.clear();
    }

    /// What has to be persisted and sent; `None` when there is nothing to do.
    pub fn ready(&mut self) -> Option<Ready> {
        if !self.node.has_ready() {
            return None;
        }
        let mut inner = self.node.ready();
        for read in inner.take_read_states() {
            let ticket = read.request_ctx.as_slice().try_into().map(u64::from_be_bytes);
            if let Some(waiting) = ticket.ok().and_then(|ticket| self.reads.get_mut(&ticket)) {
                *waiting = Some(read.index);
            }
        }
        let snapshot = (!inner.snapshot().is_empty()).then(|| {
            let (data, metadata) = (inner.snapshot().data.clone(), inner.snapshot().get_metadata());
            SnapshotRecord {
                index: metadata.index,
                term: metadata.term,
                members: metadata.get_conf_state().clone(),
                data,
            }
        });
        let hard_state = inner.hs().cloned();
        let messages = inner.take_messages();
        Some(Ready { inner, hard_state, snapshot, messages })
    }

    /// Goes on after `ready` was made durable: applies what is committed.
    ///
    /// # Errors
    /// When an entry cannot be applied: the node stops.
    pub fn persisted(&mut self, mut ready: Ready, observer: &mut impl Observer) -> Result<Progress, CoreError> {
        let mut progress = Progress::default();
        if let Some(snapshot) = ready.snapshot.take() {
            self.state = State::restore(&snapshot.data)?;
            observer.restored(&self.state);
            self.applied_term = snapshot.term;
            self.node.mut_store().reset_to(snapshot);
        }
        let memory = self.node.mut_store();
        memory.append(ready.inner.entries());
        if let Some(hard_state) = ready.hard_state.take() {
            memory.set_hard_state(hard_state);
        }
        progress.messages.append(&mut ready.inner.take_persisted_messages());
        let committed = ready.inner.take_committed_entries();
        self.apply(committed, &mut progress, observer)?;

        let mut light = self.node.advance(ready.inner);
        if let Some(commit) = light.commit_index() {
            let mut hard_state = self.node.store().hard_state().clone();
            hard_state.commit = commit;
            // Made durable with the next write: losing it loses nothing that was acknowledged.
            self.node.mut_store().set_hard_state(hard_state);
        }
        progress.messages.append(&mut light.take_messages());
        let committed = light.take_committed_entries();
        self.apply(committed, &mut progress, observer)?;
        self.node.advance_apply();
        Ok(progress)
    }

    /// A snapshot to store, when enough was applied since the last one. After it is durable, [`Core::compacted`].
    #[must_use]
    pub fn compaction(&self) -> Option<SnapshotRecord> {
        let applied = self.state_index();
        let since = applied.saturating_sub(self.node.store().snapshot_index());
        (since >= self.compact_after).then(|| SnapshotRecord {
            index: applied,
            term: self.applied_term,
            members: self.node.store().members().clone(),
            data: self.state.snapshot(),
        })
    }

    /// Term, vote and commit index as they are now.
    #[must_use]
    pub fn hard_state(&self) -> &HardState {
        self.node.store().hard_state()
    }

    /// Forgets what `snapshot`, now durable, covers.
    pub fn compacted(&mut self, snapshot: SnapshotRecord) {
        self.node.mut_store().compact(snapshot);
    }

    /// The last entry applied, membership and empty ones included.
    fn state_index(&self) -> u64 {
        self.node.raft.raft_log.applied
    }

    fn apply(
        &mut self,
        entries: Vec<LogEntry>,
        progress: &mut Progress,
        observer: &mut impl Observer,
    ) -> Result<(), CoreError> {
        for entry in entries {
            self.applied_term = entry.term;
            match entry.entry_type() {
                // A new leader's first entry has no data.
                EntryType::EntryNormal if entry.data.is_empty() => {}
                EntryType::EntryNormal => {
                    let applied = self.state.apply(entry.index, &entry.data)?;
                    observer.applied(&self.state, entry.index, &applied.effects);
                    progress.applied.push((entry.index, entry.term, applied));
                }
                EntryType::EntryConfChange => {
                    let change = ConfChange::decode(entry.data.as_slice())
                        .map_err(|_| CoreError::Membership { index: entry.index })?;
                    let members = self.node.apply_conf_change(&change)?;
                    self.node.mut_store().set_members(members);
                }
                EntryType::EntryConfChangeV2 => {
                    let change = ConfChangeV2::decode(entry.data.as_slice())
                        .map_err(|_| CoreError::Membership { index: entry.index })?;
                    let members = self.node.apply_conf_change(&change)?;
                    self.node.mut_store().set_members(members);
                }
            }
        }
        Ok(())
    }
}

impl Ready {
    /// What has to be durable before anything of it is acknowledged.
    #[must_use]
    pub fn write(&self) -> Write<'_> {
        Write { entries: self.inner.entries(), hard_state: self.hard_state.as_ref(), snapshot: self.snapshot.as_ref() }
    }

    /// Whether there is nothing to persist.
    #[must_use]
    pub fn is_volatile(&self) -> bool {
        self.inner.entries().is_empty() && self.hard_state.is_none() && self.snapshot.is_none()
    }

    /// What may be sent before it is durable.
    pub fn take_messages(&mut self) -> Vec<Message> {
        std::mem::take(&mut self.messages)
    }
}

/// An entry for the log, stamped by the leader.
#[must_use]
pub fn stamp(command: postern_state::Command, request_id: Option<postern_core::RequestId>, now: Timestamp) -> Entry {
    Entry { proposed_at: now, request_id, command, audit: None }
}
