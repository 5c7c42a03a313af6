//! One node without threads, clocks and mailboxes: what the driver does, and what the simulation drives directly.
//!
//! ```text
//! propose, read, step, tick, ...  ->  settle: send -> save (one flush for all) -> apply -> observe -> answer
//! take_compaction -> job.run() anywhere -> compacted
//! ```
//!
//! Whoever drives it calls [`Replica::settle`] after each batch of calls: only then is anything persisted, sent or answered.

use postern_core::Timestamp;
use postern_state::{Entry, State, commands};
use raft::eraftpb::{ConfState, HardState, Message};

use super::config::NodeConfig;
use super::core::{AppliedEntry, Core, CoreError};
use super::log_store::{Loaded, LogStore, SnapshotRecord, SnapshotWriter, StorageError, Write};
use super::membership::{Clock, Membership, MembershipReply};
use super::observer::Observer;
use super::proposals::{Proposal, Proposals, ProposeReply};
use super::reads::{ReadFailed, ReadFn, Reads};
use super::status::{MemberStatus, MembershipChange, MembershipError, ReadError, Status};
use super::transport::Transport;

/// Reads that wait.
const READS: usize = 16_384;
/// Of ticks, in election timeouts: how long a read waits for a leader and its answer. 5 seconds as a node is run in earnest.
const READ_PATIENCE: u64 = 10;

/// The node cannot start, or go on.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The log.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Raft or the state machine.
    #[error(transparent)]
    Core(#[from] CoreError),
    /// The group goes on without this node.
    #[error(
        "this node was removed from the cluster: it holds no data that counts any more. To bring the machine back, empty its data \
         directory and join it as a new member"
    )]
    Removed,
}

/// A node without threads, clocks and mailboxes.
pub struct Replica<L, T, O> {
    core: Core,
    log: L,
    transport: T,
    observer: O,
    proposals: Proposals,
    reads: Reads,
    membership: Membership,
    ticks: u64,
    election_ticks: u64,
    /// Since then, in ticks, this node is no member any more and has not heard of one.
    lingers_since: Option<u64>,
    linger_ticks: u64,
    /// The deadline for which an expiry was proposed last.
    expiry_proposed: Timestamp,
    /// Writes that were not saved before they were acknowledged.
    #[cfg(feature = "planted-bugs")]
    unsaved: Vec<super::planted::OwnedWrite>,
    #[cfg(feature = "planted-bugs")]
    config: NodeConfig,
    job: Option<SnapshotJob>,
    compacting: bool,
}

/// A snapshot to be made, where blocking is allowed and while the replica goes on.
pub struct SnapshotJob {
    record: SnapshotRecord,
    state: State,
    writer: SnapshotWriter,
}

impl SnapshotJob {
    /// Encodes the state and writes it down, for [`Replica::compacted`].
    ///
    /// # Errors
    /// When the disk fails.
    pub fn run(self) -> Result<SnapshotRecord, StorageError> {
        let record = SnapshotRecord { data: self.state.snapshot().into(), ..self.record };
        (self.writer)(&record)?;
        Ok(record)
    }
}

impl<L: LogStore, T: Transport, O: Observer> Replica<L, T, O> {
    /// Loads the log, and makes the beginning of the group where `config` has founders and the log is empty.
    ///
    /// # Errors
    /// When the log is damaged or of a newer version: the node does not start.
    pub fn new(config: &NodeConfig, mut log: L, transport: T, mut observer: O) -> Result<Self, DriverError> {
        let mut loaded = log.load()?;
        if loaded == Loaded::default() && !config.founders.is_empty() {
            loaded = genesis(config);
            log.save(Write {
                hard_state: Some(&loaded.hard_state),
                snapshot: loaded.snapshot.as_ref(),
                ..Write::default()
            })?;
        }
        let core = Core::new(config, loaded)?;
        observer.restored(core.state());
        let election_ticks = u64::try_from(config.election_ticks).unwrap_or(u64::MAX);
        Ok(Self {
            core,
            log,
            transport,
            observer,
            proposals: Proposals::default(),
            reads: Reads::new(election_ticks, election_ticks.saturating_mul(READ_PATIENCE)),
            membership: Membership::default(),
            ticks: 0,
            election_ticks,
            lingers_since: None,
            linger_ticks: config.linger_ticks,
            expiry_proposed: Timestamp::default(),
            #[cfg(feature = "planted-bugs")]
            unsaved: Vec::new(),
            #[cfg(feature = "planted-bugs")]
            config: config.clone(),
            job: None,
            compacting: false,
        })
    }

    /// Writes. `now` is this node's clock, which counts if it leads. `reply` is called in `settle`, now or in a later one.
    pub fn propose(&mut self, proposal: Proposal, now: Timestamp, reply: ProposeReply) {
        let Proposal { command, request_id, audit } = proposal;
        let entry = Entry { proposed_at: now, request_id, command, audit };
        self.propose_encoded(entry.encode(), reply);
    }

    /// Writes an entry as [`Entry::encode`] gave it.
    pub fn propose_encoded(&mut self, entry: Vec<u8>, reply: ProposeReply) {
        self.proposals.push(&self.core, entry, reply);
    }

    /// Reads linearizably, on any node: `read` sees every write that was acknowledged before this call. Called in `settle`.
    pub fn read(&mut self, read: ReadFn, failed: ReadFailed) {
        if self.core.is_removed() {
            return failed(ReadError::NotLeader);
        }
        if self.reads.len() >= READS {
            return failed(ReadError::Overloaded);
        }
        #[cfg(feature = "planted-bugs")]
        if self.config.is_planted(super::config::Planted::StaleRead) {
            return read(self.core.state());
        }
        self.reads.push(read, failed, self.ticks);
    }

    /// The state as far as it is applied here, which may be behind.
    #[must_use]
    pub const fn read_local(&self) -> &State {
        self.core.state()
    }

    /// Changes who belongs to the group: on the leader, one at a time. Not below a quorum of voters heard of lately, unless `force`; never
    /// the last voter.
    pub fn change_membership(&mut self, change: MembershipChange, force: bool, reply: MembershipReply) {
        let clock = self.clock();
        self.membership.change(&mut self.core, clock, change, force, reply);
    }

    /// Hands leadership to `to`, or with 0 to the voter that is most up to date. On the leader. Writes meanwhile are told that nobody leads.
    pub fn transfer_leader(&mut self, to: u64, reply: MembershipReply) {
        let clock = self.clock();
        self.membership.transfer(&mut self.core, clock, to, false, reply);
    }

    /// A message from a peer, with a snapshot's data in it. What makes no sense does no harm.
    ///
    /// # Errors
    /// When it is a snapshot that this version cannot read: the node stops, its log is as it was.
    pub fn step(&mut self, message: Message) -> Result<(), DriverError> {
        let peer = message.from;
        self.membership.heard(peer, self.ticks);
        // Whoever knows that this node was removed has nothing to say to it.
        self.lingers_since = self.lingers_since.map(|_| self.ticks);
        match self.core.step(message) {
            Ok(()) => Ok(()),
            Err(CoreError::Raft(error)) => {
                tracing::debug!(%error, "a peer's message was refused");
                Ok(())
            }
            Err(error @ CoreError::Malformed(_)) => {
                tracing::warn!(%error, peer, "a member sends what makes no sense");
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Messages to `id` were lost.
    pub fn report_unreachable(&mut self, id: u64) {
        self.core.node.report_unreachable(id);
    }

    /// What became of a snapshot to `id`.
    pub fn report_snapshot(&mut self, id: u64, ok: bool) {
        self.core.report_snapshot(id, ok);
    }

    /// A tick of the clock; `now` is this node's.
    pub fn tick(&mut self, now: Timestamp) {
        self.ticks = self.ticks.saturating_add(1);
        self.core.node.tick();
        self.core.tell_commit();
        self.expire_approvals(now);
        self.reads.tick(&mut self.core, self.ticks);
        self.membership.tick(&mut self.core);
    }

    /// Persists, sends, applies and answers until there is nothing left to do.
    ///
    /// # Errors
    /// When the node cannot go on, or is no member any more and not needed by one. It is to be dropped then: what waits is told that the outcome is unknown.
    pub fn settle(&mut self) -> Result<(), DriverError> {
        #[cfg(feature = "planted-bugs")]
        for write in std::mem::take(&mut self.unsaved) {
            self.log.save(write.borrow())?;
        }
        self.proposals.propose(&mut self.core);
        loop {
            self.reads.ask(&mut self.core, self.ticks);
            if !self.turn()? {
                break;
            }
        }
        self.reads.answer(&mut self.core);
        self.proposals.settled(&self.core);
        self.membership.settled(&self.core, self.ticks);
        if !self.compacting
            && let Some((record, state)) = self.core.compaction()
        {
            self.compacting = true;
            self.job = Some(SnapshotJob { record, state, writer: self.log.snapshot_writer() });
        }
        self.linger()
    }

    /// A node that was removed does not stop at once: whoever stays may have its removal in the log and not know that it was committed. If
    /// the one who knew is lost, they need this node's vote, or to be told by it.
    fn linger(&mut self) -> Result<(), DriverError> {
        if !self.core.is_removed() {
            self.lingers_since = None;
            return Ok(());
        }
        if self.lingers_since.is_none() {
            tracing::warn!(
                "this node was removed from the cluster: it serves nobody any more, and stops once the other members say that they know"
            );
        }
        self.reads.refuse(&mut self.core, ReadError::NotLeader);
        let since = *self.lingers_since.get_or_insert(self.ticks);
        if self.ticks.saturating_sub(since) < self.linger_ticks { Ok(()) } else { Err(DriverError::Removed) }
    }

    /// Whether there are writes left that `settle` did not get to: it is to be called again soon.
    pub(super) fn has_queue(&self) -> bool {
        self.proposals.has_queue()
    }

    /// Whether followers have not been told of what is committed. The next write tells them; without one, [`Replica::tell_commit`] does, or
    /// the next tick.
    pub(super) fn has_untold_commit(&self) -> bool {
        self.core.has_untold_commit()
    }

    /// Tells followers what is committed, for when no write does.
    pub fn tell_commit(&mut self) {
        self.core.tell_commit();
    }

    /// A snapshot to be made, after `settle`: at most one at a time. Its outcome goes to [`Replica::compacted`].
    pub fn take_compaction(&mut self) -> Option<SnapshotJob> {
        self.job.take()
    }

    /// What [`SnapshotJob::run`] gave: the log goes up to there.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn compacted(&mut self, made: Result<SnapshotRecord, StorageError>) -> Result<(), DriverError> {
        self.compacting = false;
        let snapshot = made?;
        let Some(write) = self.core.compaction_write(&snapshot) else { return Ok(()) };
        let super::log_store::Cut::UpTo(cut) = write.cut else { return Ok(()) };
        tracing::info!(index = snapshot.index, bytes = snapshot.data.len(), cut, "the log is compacted");
        self.log.save(write)?;
        self.core.compacted(snapshot, cut);
        Ok(())
    }

    /// How the node stands.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            id: self.core.node.raft.id,
            term: self.core.term(),
            leader: self.core.leader().unwrap_or(0),
            leading: self.core.is_ready_leader(),
            committed: self.core.committed(),
            applied: self.core.applied(),
            last_index: self.core.last_index(),
            snapshot_index: self.core.snapshot_index(),
            members: self.membership.status(&self.core, self.clock()),
            removed: self.core.is_removed(),
        }
    }

    /// Whether what matters at once is another than `known` says: who leads, and who belongs to the group.
    #[must_use]
    pub fn is_news_to(&self, known: &Status) -> bool {
        let core = &self.core;
        let roles = (core.term(), core.leader().unwrap_or(0), core.is_ready_leader(), core.is_removed());
        let ConfState { voters, learners, learners_next, .. } = core.members();
        let count = [voters.len(), learners.len(), learners_next.len()].into_iter().fold(0, usize::saturating_add);
        let is_member = |member: &MemberStatus| match member.voter {
            true => voters.contains(&member.id),
            false => learners.contains(&member.id) || learners_next.contains(&member.id),
        };
        roles != (known.term, known.leader, known.leading, known.removed)
            || count != known.members.len()
            || !known.members.iter().all(is_member)
    }

    /// Tells all that waits that there will be no answer.
    pub fn abandon(&mut self) {
        self.proposals.abandon();
        self.reads.fail(ReadError::Stopped);
        self.membership.fail(&MembershipError::Unknown);
    }

    /// For tests that bring about what only a mishap does.
    #[cfg(test)]
    pub(super) const fn core_mut(&mut self) -> &mut Core {
        &mut self.core
    }

    pub(super) const fn observer_mut(&mut self) -> &mut O {
        &mut self.observer
    }

    /// One round of persisting and applying; whether there was anything to do.
    fn turn(&mut self) -> Result<bool, DriverError> {
        let Some(mut ready) = self.core.ready() else { return Ok(false) };
        send(&mut self.transport, ready.take_messages());
        if let Some(write) = ready.write() {
            #[cfg(feature = "planted-bugs")]
            let write = if self.config.is_planted(super::config::Planted::AckBeforeFlush) {
                self.unsaved.push(super::planted::OwnedWrite::of(write));
                None
            } else {
                Some(write)
            };
            #[cfg(not(feature = "planted-bugs"))]
            let write = Some(write);
            if let Some(write) = write {
                self.log.save(write)?;
            }
        }
        let (observer, proposals) = (&mut self.observer, &mut self.proposals);
        let mut members = Vec::new();
        let progress = self.core.persisted(ready, |entry| match entry {
            AppliedEntry::Command { index, term, state, applied } => {
                observer.applied(state, index, &applied.effects);
                proposals.applied(index, term, applied.outcome);
            }
            AppliedEntry::Members { index, term } => members.push((index, term)),
            AppliedEntry::Restored { state } => observer.restored(state),
        })?;
        if let Some(hard_state) = &progress.hard_state {
            self.log.save(Write { hard_state: Some(hard_state), ..Write::default() })?;
        }
        send(&mut self.transport, progress.messages);
        for (index, term) in members {
            self.membership.applied(&mut self.core, index, term);
        }
        Ok(true)
    }

    /// Lets approvals lapse on time, even when nothing else is written.
    fn expire_approvals(&mut self, now: Timestamp) {
        let Some(deadline) = self.core.state().next_deadline() else { return };
        if deadline <= now && deadline != self.expiry_proposed && self.core.is_ready_leader() {
            self.expiry_proposed = deadline;
            let proposal = Proposal { command: commands::ExpireApprovals.into(), request_id: None, audit: None };
            self.propose(proposal, now, Box::new(drop));
        }
    }

    const fn clock(&self) -> Clock {
        let silence = self.election_ticks;
        Clock { now: self.ticks, silence, transfer: silence.saturating_mul(2) }
    }
}

/// The first entry of a group is a snapshot: of the empty state, with the founders as members. The log goes on from there, so that whoever
/// joins later gets a snapshot first, and with it the members, which are in no entry.
fn genesis(config: &NodeConfig) -> Loaded {
    let members = ConfState { voters: config.founders.clone(), ..Default::default() };
    let data = State::default().snapshot().into();
    Loaded {
        hard_state: HardState { term: 1, vote: 0, commit: 1 },
        snapshot: Some(SnapshotRecord { index: 1, term: 1, members, data }),
        entries: Vec::new(),
    }
}

fn send(transport: &mut impl Transport, messages: Vec<Message>) {
    if !messages.is_empty() {
        transport.send(messages);
    }
}

#[cfg(test)]
#[path = "replica_tests.rs"]
mod tests;
