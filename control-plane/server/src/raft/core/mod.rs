//! Raft and the state machine together, without I/O: messages, ticks and proposals go in; what has to be persisted, sent and answered
//! comes out. [`Replica`](super::Replica) does it.

mod compaction;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use postern_state::{Applied, Halt, RestoreError, State};
use raft::eraftpb::{
    ConfChange, ConfChangeType, ConfChangeV2, ConfState, Entry as LogEntry, EntryType, HardState, Message, MessageType,
};
use raft::{RawNode, SnapshotStatus, StateRole};
use raft_prost::Message as _;

use super::accept::{self, Refusal};
use super::config::NodeConfig;
use super::log_store::{Cut, Loaded, SnapshotRecord, Write};
use super::memory::{LogMemory, size};
use super::slog_bridge;

/// Of one `MsgAppend`.
const MESSAGE_BYTES: u64 = 1 << 20;
/// `MsgAppend`s on their way to one peer.
const IN_FLIGHT: usize = 64;
/// Of all entries that are proposed and not yet committed.
const UNCOMMITTED_BYTES: u64 = 64 << 20;
/// Of the entries applied in one turn.
const COMMITTED_BYTES: u64 = 16 << 20;
/// Former members that are remembered.
const MOST_LEFT: usize = 1_024;

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
    /// A peer's message makes no sense; nothing was done with it.
    #[error("a peer's message was refused: {0}")]
    Malformed(&'static str),
    /// What this node has acknowledged is no longer in its log.
    #[error(
        "the leader counts on this node's entries up to {known}, and its log ends at {last}: what it had acknowledged is lost. It must not go \
         on with that; remove it from the cluster and join the machine as a new member with an empty data directory"
    )]
    Lost {
        /// What the leader counts on.
        known: u64,
        /// The last entry here.
        last: u64,
    },
    /// A membership entry cannot be read.
    #[error("membership change at entry {index} cannot be decoded")]
    Membership {
        /// Its place in the log.
        index: u64,
    },
}

/// A node without its I/O.
pub(super) struct Core {
    pub(super) node: RawNode<LogMemory>,
    state: State,
    applied_term: u64,
    /// Of the entries applied since the last snapshot.
    applied_bytes: u64,
    compact_after: u64,
    compact_bytes: u64,
    keep_entries: u64,
    /// Term, vote and commit index as they are on the disk.
    saved: HardState,
    /// A leader's snapshot that Raft has taken and that is not yet durable.
    incoming: Option<Incoming>,
    /// How far this leader's appends say that entries count.
    told_commit: u64,
    nonce: u64,
    next_read: u64,
    reads: BTreeMap<ReadTicket, Option<u64>>,
    removed: bool,
    /// Those that were members once, as far as this node has seen it in this life.
    left: BTreeSet<u64>,
    /// Entries that changed the members were applied, and the disk does not know yet that they count.
    members_changed: bool,
}

struct Incoming {
    index: u64,
    term: u64,
    data: Bytes,
    state: State,
}

/// What has to be done with the outside, in this order: send, persist, tell [`Core::persisted`].
pub(super) struct Ready {
    inner: raft::Ready,
    hard_state: Option<HardState>,
    snapshot: Option<(SnapshotRecord, State)>,
    /// Its messages may only be sent once it is durable.
    hold: bool,
}

/// What came of a [`Ready`].
#[derive(Default)]
pub(super) struct Progress {
    /// To be made durable before the messages are sent.
    pub(super) hard_state: Option<HardState>,
    /// To peers.
    pub(super) messages: Vec<Message>,
}

/// What stood at a place in the log, as it is applied.
pub(super) enum AppliedEntry<'a> {
    /// A command.
    Command { index: u64, term: u64, state: &'a State, applied: Applied },
    /// A change of the members, or what is left of a refused one.
    Members { index: u64, term: u64 },
    /// The state is a leader's.
    Restored { state: &'a State },
}

/// A linearizable read that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ReadTicket(u64);

impl Core {
    /// Takes up where `loaded` left off.
    pub(super) fn new(config: &NodeConfig, loaded: Loaded) -> Result<Self, CoreError> {
        let state = match &loaded.snapshot {
            Some(snapshot) => State::restore(&snapshot.data)?,
            None => State::default(),
        };
        let snapshot_index = loaded.snapshot.as_ref().map_or(0, |snapshot| snapshot.index);
        let applied_term = loaded.snapshot.as_ref().map_or(0, |snapshot| snapshot.term);
        // A log without a snapshot is of before there was a genesis: of a single node.
        let alone = loaded.snapshot.is_none() && !loaded.entries.is_empty() && config.founders.is_empty();
        let voters = if alone { vec![config.id] } else { config.founders.clone() };
        let founders = ConfState { voters, ..Default::default() };
        let raft_config = raft::Config {
            id: config.id,
            election_tick: config.election_ticks,
            min_election_tick: config.election_ticks,
            max_election_tick: config.max_election_ticks,
            heartbeat_tick: config.heartbeat_ticks,
            applied: snapshot_index,
            max_size_per_msg: MESSAGE_BYTES,
            max_inflight_msgs: IN_FLIGHT,
            check_quorum: true,
            // Under load it rides on the next append; see `Core::tell_commit`.
            skip_bcast_commit: true,
            pre_vote: true,
            // raft-rs 0.7 would add entries that it sends again to an empty append that waits and begins behind them: the follower takes
            // them for later ones, and acknowledges an entry that it does not have.
            batch_append: false,
            max_uncommitted_size: UNCOMMITTED_BYTES,
            max_committed_size_per_ready: COMMITTED_BYTES,
            ..Default::default()
        };
        let saved = loaded.hard_state.clone();
        let memory = LogMemory::new(loaded, founders);
        let node = RawNode::new(&raft_config, memory, &slog_bridge::logger())?;
        let mut core = Self {
            node,
            state,
            applied_term,
            applied_bytes: 0,
            compact_after: config.compact_after.max(1),
            compact_bytes: config.compact_bytes.max(1),
            keep_entries: config.keep_entries,
            saved,
            incoming: None,
            told_commit: 0,
            nonce: config.nonce,
            next_read: 0,
            reads: BTreeMap::new(),
            removed: false,
            left: BTreeSet::new(),
            members_changed: false,
        };
        // Alone, there is nobody to wait for.
        if core.node.store().members().voters == [config.id] {
            core.node.campaign()?;
        }
        Ok(core)
    }

    /// The replicated state as far as it is applied here.
    pub(super) const fn state(&self) -> &State {
        &self.state
    }

    /// Whether this node leads and knows all that was committed before it did.
    pub(super) fn is_ready_leader(&self) -> bool {
        self.is_leader() && self.node.raft.commit_to_current_term()
    }

    pub(super) fn is_leader(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    /// The leader, as far as known. Whoever was removed is told of none any more.
    pub(super) fn leader(&self) -> Option<u64> {
        Some(self.node.raft.leader_id).filter(|leader| *leader != 0 && !self.removed)
    }

    pub(super) fn term(&self) -> u64 {
        self.node.raft.term
    }

    pub(super) fn committed(&self) -> u64 {
        self.node.raft.raft_log.committed
    }

    pub(super) fn last_index(&self) -> u64 {
        self.node.raft.raft_log.last_index()
    }

    pub(super) fn snapshot_index(&self) -> u64 {
        self.node.store().snapshot_index()
    }

    /// The last entry applied, membership and empty ones included.
    pub(super) fn applied(&self) -> u64 {
        self.node.raft.raft_log.applied
    }

    /// The members as far as they are applied here.
    pub(super) fn members(&self) -> &ConfState {
        self.node.store().members()
    }

    /// Whether an entry said that this node is no member any more.
    pub(super) const fn is_removed(&self) -> bool {
        self.removed
    }

    /// Whether an entry said that `id` is no member any more.
    pub(super) fn has_left(&self, id: u64) -> bool {
        self.left.contains(&id)
    }

    /// A message from a peer. What makes no sense is refused and does no harm.
    pub(super) fn step(&mut self, mut message: Message) -> Result<(), CoreError> {
        accept::check(&self.node, &message).map_err(|refusal| match refusal {
            Refusal::Malformed(why) => CoreError::Malformed(why),
            Refusal::Lost { known, last } => CoreError::Lost { known, last },
        })?;
        if message.msg_type() != MessageType::MsgSnapshot {
            return Ok(self.node.step(message)?);
        }
        let metadata = message.get_snapshot().get_metadata();
        let (index, term) = (metadata.index, metadata.term);
        if index <= self.committed() {
            return Ok(self.node.step(message)?);
        }
        // Read before Raft takes it: a node that cannot read it stops with its own log as it was.
        let data = Bytes::from(std::mem::take(&mut message.mut_snapshot().data));
        let state = State::restore(&data)?;
        if state.index() > index {
            return Err(CoreError::Malformed("a snapshot's state is newer than it says"));
        }
        self.node.step(message)?;
        let taken = self.node.snap().map(|snapshot| snapshot.get_metadata());
        if taken.is_some_and(|taken| (taken.index, taken.term) == (index, term)) {
            self.incoming = Some(Incoming { index, term, data, state });
        }
        Ok(())
    }

    /// Proposes entries, which will stand one after the other; `(first index, term)` if they are committed. All or none.
    pub(super) fn propose(&mut self, entries: Vec<Vec<u8>>) -> Result<(u64, u64), CoreError> {
        let first = self.last_index().saturating_add(1);
        let mut message = Message { from: self.node.raft.id, ..Default::default() };
        message.set_msg_type(MessageType::MsgPropose);
        message.entries = entries.into_iter().map(|data| LogEntry { data, ..Default::default() }).collect();
        self.node.raft.step(message)?;
        self.told_commit = self.committed();
        Ok((first, self.term()))
    }

    /// Whether more is committed than this leader's appends say.
    pub(super) fn has_untold_commit(&self) -> bool {
        self.is_leader() && self.told_commit < self.committed()
    }

    /// Has the followers know what is committed, with an append of its own.
    pub(super) fn tell_commit(&mut self) {
        if self.has_untold_commit() {
            self.told_commit = self.committed();
            self.node.raft.bcast_append();
        }
    }

    /// Asks for a linearizable read (ReadIndex); see [`Core::take_reads`].
    pub(super) fn read(&mut self) -> ReadTicket {
        self.next_read = self.next_read.saturating_add(1);
        let ticket = ReadTicket(self.next_read);
        self.reads.insert(ticket, None);
        // Unique among all nodes and all their lives: the leader knows requests by this alone.
        let context = [self.node.raft.id, self.nonce, ticket.0].map(u64::to_be_bytes).concat();
        self.node.read_index(context);
        ticket
    }

    /// Reads that may be answered from [`Core::state`] now.
    pub(super) fn take_reads(&mut self) -> Vec<ReadTicket> {
        let applied = self.applied();
        let ready = |index: &Option<u64>| index.is_some_and(|index| index <= applied);
        self.reads.extract_if(.., |_, index| ready(index)).map(|(ticket, _)| ticket).collect()
    }

    /// Whether the leader's answer has come.
    pub(super) fn is_answered(&self, ticket: ReadTicket) -> bool {
        self.reads.get(&ticket).is_some_and(Option::is_some)
    }

    /// Forgets a read that waits.
    pub(super) fn drop_read(&mut self, ticket: ReadTicket) {
        self.reads.remove(&ticket);
    }

    pub(super) fn report_snapshot(&mut self, id: u64, ok: bool) {
        self.node.report_snapshot(id, if ok { SnapshotStatus::Finish } else { SnapshotStatus::Failure });
    }

    /// What has to be persisted and sent; `None` when there is nothing to do.
    pub(super) fn ready(&mut self) -> Option<Ready> {
        if !self.node.has_ready() {
            return None;
        }
        let mut inner = self.node.ready();
        for read in inner.take_read_states() {
            let Some(ticket) = self.ticket(&read.request_ctx) else { continue };
            if let Some(waiting) = self.reads.get_mut(&ticket) {
                *waiting = Some(read.index);
            }
        }
        let metadata = inner.snapshot().get_metadata();
        let (index, term) = (metadata.index, metadata.term);
        let members = metadata.get_conf_state().clone();
        let taken = self.incoming.take_if(|incoming| (incoming.index, incoming.term) == (index, term));
        let snapshot = taken.map(|taken| {
            let Incoming { index, term, data, state } = taken;
            (SnapshotRecord { index, term, members, data }, state)
        });
        // The commit index alone need not be durable. With anything else it is: what a node was told of the members before it took an entry
        // must not be forgotten with the entry kept.
        let now = self.node.raft.hard_state();
        let hold = self.agrees_on_members();
        let hard_state = ((inner.must_sync() || hold) && now != self.saved).then_some(now);
        Some(Ready { inner, hard_state, snapshot, hold })
    }

    /// Whether a change of the members is committed, and this leader's disk does not know it yet. It must before others are told: a member
    /// that learns of its removal stops, and whoever stays must be able to go on without it, even after a loss of power.
    fn agrees_on_members(&self) -> bool {
        let agreed = self.node.raft.pending_conf_index;
        self.is_leader() && self.saved.commit < agreed && agreed <= self.committed()
    }

    /// Goes on after `ready` was made durable: applies what is committed, and tells `each` of it.
    pub(super) fn persisted(
        &mut self,
        mut ready: Ready,
        mut each: impl FnMut(AppliedEntry<'_>),
    ) -> Result<Progress, CoreError> {
        let mut progress = Progress { messages: ready.inner.take_messages(), hard_state: None };
        if let Some((snapshot, state)) = ready.snapshot.take() {
            (self.state, self.applied_term, self.applied_bytes) = (state, snapshot.term, 0);
            self.note_who_left(&snapshot.members);
            self.node.mut_store().reset_to(snapshot);
            each(AppliedEntry::Restored { state: &self.state });
        }
        self.node.mut_store().append(ready.inner.take_entries());
        if let Some(hard_state) = ready.hard_state.take() {
            self.saved = hard_state;
        }
        progress.messages.append(&mut ready.inner.take_persisted_messages());
        let committed = ready.inner.take_committed_entries();
        self.apply(committed, &mut each)?;

        let mut light = self.node.advance(ready.inner);
        progress.messages.append(&mut light.take_messages());
        let committed = light.take_committed_entries();
        self.apply(committed, &mut each)?;
        self.node.advance_apply();
        // A member that forgets who belongs would wait for those who do no more, if it comes back and they do not.
        let now = self.node.raft.hard_state();
        if (std::mem::take(&mut self.members_changed) || self.agrees_on_members()) && now != self.saved {
            self.saved = now.clone();
            progress.hard_state = Some(now);
        }
        Ok(progress)
    }

    fn ticket(&self, context: &[u8]) -> Option<ReadTicket> {
        let (id, rest) = context.split_first_chunk::<8>()?;
        let (nonce, ticket) = rest.split_first_chunk::<8>()?;
        let own = u64::from_be_bytes(*id) == self.node.raft.id && u64::from_be_bytes(*nonce) == self.nonce;
        own.then_some(ReadTicket(u64::from_be_bytes(ticket.try_into().ok()?)))
    }

    fn apply(&mut self, entries: Vec<LogEntry>, each: &mut impl FnMut(AppliedEntry<'_>)) -> Result<(), CoreError> {
        for entry in entries {
            let (index, term) = (entry.index, entry.term);
            self.applied_term = term;
            self.applied_bytes = self.applied_bytes.saturating_add(size(&entry));
            match entry.entry_type() {
                // A new leader's first entry has no data; nor has a membership change that the leader refused.
                EntryType::EntryNormal if entry.data.is_empty() => each(AppliedEntry::Members { index, term }),
                EntryType::EntryNormal => {
                    let applied = self.state.apply(index, &entry.data)?;
                    each(AppliedEntry::Command { index, term, state: &self.state, applied });
                }
                kind => {
                    let unknown = CoreError::Membership { index };
                    let members = if kind == EntryType::EntryConfChange {
                        let change = ConfChange::decode(entry.data.as_slice()).ok();
                        let change = change.filter(|change| ConfChangeType::is_valid(change.change_type));
                        self.node.apply_conf_change(&change.ok_or(unknown)?)?
                    } else {
                        let change = ConfChangeV2::decode(entry.data.as_slice()).ok();
                        self.node.apply_conf_change(&change.filter(accept::is_known).ok_or(unknown)?)?
                    };
                    self.set_members(members);
                    each(AppliedEntry::Members { index, term });
                }
            }
        }
        Ok(())
    }

    fn set_members(&mut self, members: ConfState) {
        self.note_who_left(&members);
        self.node.mut_store().set_members(members);
        self.members_changed = true;
        // A leader that goes on outside of its group falls over the next entry that it commits. Whoever stays elects another, and has this
        // node's vote for it; or is told by its refusal what was committed.
        if self.removed && self.node.raft.state != StateRole::Follower {
            let term = self.term();
            self.node.raft.become_follower(term, raft::INVALID_ID);
            self.node.raft.msgs.clear();
        }
    }

    fn note_who_left(&mut self, members: &ConfState) {
        let (was, is): (BTreeSet<u64>, BTreeSet<u64>) = (ids(self.members()).collect(), ids(members).collect());
        let own = self.node.raft.id;
        self.removed = (self.removed || was.contains(&own)) && !is.contains(&own);
        self.left.extend(was.difference(&is));
        self.left.retain(|id| !is.contains(id));
        while self.left.len() > MOST_LEFT {
            self.left.pop_first();
        }
    }
}

fn ids(members: &ConfState) -> impl Iterator<Item = u64> {
    let lists = [&members.voters, &members.voters_outgoing, &members.learners, &members.learners_next];
    lists.into_iter().flatten().copied()
}

impl Ready {
    /// What has to be durable before anything of it is acknowledged; `None` when there is nothing.
    pub(super) fn write(&self) -> Option<Write<'_>> {
        let snapshot = self.snapshot.as_ref().map(|(snapshot, _)| snapshot);
        let cut = if snapshot.is_some() { Cut::All } else { Cut::Nothing };
        let write = Write { entries: self.inner.entries(), hard_state: self.hard_state.as_ref(), snapshot, cut };
        let nothing = write.entries.is_empty() && write.hard_state.is_none() && snapshot.is_none();
        (!nothing).then_some(write)
    }

    /// What may be sent before it is durable.
    pub(super) fn take_messages(&mut self) -> Vec<Message> {
        if self.hold { Vec::new() } else { self.inner.take_messages() }
    }
}
