//! The actor that drives Raft: one thread owns the core, the log and the reply channels.
//!
//! Clones of [`RaftHandle`] -> bounded mailbox -> this thread -> log (one flush for all that came meanwhile) -> state machine -> replies.
//! The mailbox holds [`MAILBOX`] messages; when it is full, callers are told at once (`ProposeError::Overloaded`) and may retry.
//! Its end before shutdown stops the node: nothing else may answer for the replicated state.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use postern_core::{RequestId, Timestamp};
use postern_runtime::clock;
use postern_runtime::supervisor::{OnEnd, Supervisor};
use postern_state::{Command, Effect, Outcome, State, commands};
use raft::eraftpb::Message;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::core::{Core, CoreError, NodeConfig, Progress, ReadTicket, stamp};
use super::log_store::{LogStore, StorageError, Write};
use super::observer::Observer;
use super::transport::Transport;

/// Messages that may wait for the driver.
const MAILBOX: usize = 4_096;
/// Messages taken before one flush: what groups commits.
const BATCH: usize = 1_024;
const TICK: Duration = Duration::from_millis(100);

type ReadFn = Box<dyn FnOnce(&State) + Send>;

enum Msg {
    Propose {
        command: Box<Command>,
        request_id: Option<RequestId>,
        reply: oneshot::Sender<Result<Outcome, ProposeError>>,
    },
    Read {
        read: ReadFn,
        failed: oneshot::Sender<ReadError>,
    },
    Step(Box<Message>),
}

/// Asks the driver. Cheap to clone.
#[derive(Clone)]
pub struct RaftHandle {
    mailbox: SyncSender<Msg>,
    changes: watch::Receiver<Changes>,
    status: watch::Receiver<Status>,
}

/// Why a write has no outcome.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Too much waits already: nothing was proposed; retry later.
    #[error("too many writes wait")]
    Overloaded,
    /// This node does not lead: nothing was proposed.
    #[error("this node does not lead")]
    NotLeader {
        /// Who does, as far as known.
        leader: Option<u64>,
    },
    /// It may or may not come to pass: retry with the same request id.
    #[error("the outcome is unknown")]
    Unknown,
    /// The node stops.
    #[error("the node stops")]
    Stopped,
}

/// Why a read has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Too much waits already.
    #[error("too many reads wait")]
    Overloaded,
    /// This node does not lead, or no longer.
    #[error("this node does not lead")]
    NotLeader,
    /// The node stops.
    #[error("the node stops")]
    Stopped,
}

/// Up to where this node has applied, and the last change of each kind that somebody waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The last entry applied.
    pub applied: u64,
    /// The last change to what gateways decide by.
    pub policy: u64,
    /// The last change to an issuer.
    pub issuers: u64,
    /// The last change to an approval.
    pub approvals: u64,
}

/// How the node stands in its group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Its id.
    pub id: u64,
    /// The current term.
    pub term: u64,
    /// The leader; 0 when there is none.
    pub leader: u64,
    /// Whether this node leads and may answer.
    pub leading: bool,
    /// The last entry known to be committed.
    pub committed: u64,
}

/// The node cannot start, or go on.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The log.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Raft or the state machine.
    #[error(transparent)]
    Core(#[from] CoreError),
}

/// Loads the log and starts the driver on a thread of its own, which runs until `stop`.
///
/// # Errors
/// When the log is damaged or of a newer version: the node does not start.
pub fn start(
    config: &NodeConfig,
    mut log: impl LogStore,
    transport: impl Transport,
    mut observer: impl Observer,
    supervisor: &Supervisor,
    stop: CancellationToken,
) -> Result<RaftHandle, DriverError> {
    let core = Core::new(config, log.load()?)?;
    observer.restored(core.state());
    let (mailbox, inbox) = sync_channel(MAILBOX);
    let loaded = Changes {
        applied: core.state().index(),
        policy: core.state().policy_revision(),
        issuers: core.state().index(),
        approvals: core.state().index(),
    };
    let (changes_out, changes) = watch::channel(loaded);
    let (status_out, status) = watch::channel(Status { id: config.id, ..Status::default() });
    let driver = Driver {
        core,
        log,
        transport,
        observer,
        inbox,
        stop,
        changes: changes_out,
        status: status_out,
        proposals: BTreeMap::new(),
        waiting: Vec::new(),
        asked: BTreeMap::new(),
        expiry_proposed: Timestamp::default(),
    };
    supervisor.spawn_blocking_thread("raft", OnEnd::StopNode, move || driver.run());
    Ok(RaftHandle { mailbox, changes, status })
}

impl RaftHandle {
    /// Writes: returns once the command is durable on a majority and applied here. A retry with the same request id gives the first outcome.
    ///
    /// # Errors
    /// When there is no outcome; see [`ProposeError`] for whether it may still come to pass. A refusal is an outcome.
    pub async fn propose(
        &self,
        command: impl Into<Command>,
        request_id: Option<RequestId>,
    ) -> Result<Outcome, ProposeError> {
        let (reply, answer) = oneshot::channel();
        let message = Msg::Propose { command: Box::new(command.into()), request_id, reply };
        self.mailbox.try_send(message).map_err(|error| match error {
            TrySendError::Full(_) => {
                metrics::counter!("postern_control_shed_total").increment(1);
                ProposeError::Overloaded
            }
            TrySendError::Disconnected(_) => ProposeError::Stopped,
        })?;
        // A driver that ends drops the reply: the entry may be in the log.
        answer.await.unwrap_or(Err(ProposeError::Unknown))
    }

    /// Reads linearizably: `read` sees every write that was acknowledged before this call (ReadIndex). It runs on the driver's thread:
    /// take out what is needed, no more.
    ///
    /// # Errors
    /// When this node cannot vouch for its state.
    pub async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&State) -> T + Send + 'static,
    ) -> Result<T, ReadError> {
        let (answer, answered) = oneshot::channel();
        let (failed, failure) = oneshot::channel();
        // Nobody may wait for it any more: that is no fault.
        let read: ReadFn = Box::new(move |state| drop(answer.send(read(state))));
        self.mailbox.try_send(Msg::Read { read, failed }).map_err(|error| match error {
            TrySendError::Full(_) => ReadError::Overloaded,
            TrySendError::Disconnected(_) => ReadError::Stopped,
        })?;
        match answered.await {
            Ok(value) => Ok(value),
            Err(_) => Err(failure.await.unwrap_or(ReadError::Stopped)),
        }
    }

    /// What changed last; for feeds and watches.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Changes> {
        self.changes.clone()
    }

    /// How the node stands.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// A message from a peer. Lost when the mailbox is full: Raft allows for it.
    pub fn step(&self, message: Message) {
        let _ = self.mailbox.try_send(Msg::Step(Box::new(message)));
    }
}

struct WaitingWrite {
    /// The term that it was proposed in.
    term: u64,
    reply: oneshot::Sender<Result<Outcome, ProposeError>>,
    since: Instant,
}

struct WaitingRead {
    read: ReadFn,
    failed: oneshot::Sender<ReadError>,
}

struct Driver<L, T, O> {
    core: Core,
    log: L,
    transport: T,
    observer: O,
    inbox: Receiver<Msg>,
    stop: CancellationToken,
    changes: watch::Sender<Changes>,
    status: watch::Sender<Status>,
    /// By index.
    proposals: BTreeMap<u64, WaitingWrite>,
    /// Reads that are not yet asked for: this node may become a ready leader at any moment.
    waiting: Vec<WaitingRead>,
    /// Reads asked for together, by their ticket.
    asked: BTreeMap<ReadTicket, Vec<WaitingRead>>,
    /// The deadline for which an expiry was proposed last.
    expiry_proposed: Timestamp,
}

impl<L: LogStore, T: Transport, O: Observer> Driver<L, T, O> {
    fn run(mut self) {
        match self.turn() {
            Ok(()) => info!("raft stopped"),
            // Told once, here; the end of this thread stops the node.
            Err(error) => error!(%error, "the node cannot go on"),
        }
    }

    fn turn(&mut self) -> Result<(), DriverError> {
        let mut next_tick = Instant::now() + TICK;
        self.settle()?;
        while !self.stop.is_cancelled() {
            match self.inbox.recv_timeout(next_tick.saturating_duration_since(Instant::now())) {
                Ok(message) => {
                    self.take(message);
                    for _ in 1..BATCH {
                        match self.inbox.try_recv() {
                            Ok(message) => self.take(message),
                            Err(_) => break,
                        }
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                // Every handle is gone: nobody can ask any more.
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            let now = Instant::now();
            if now >= next_tick {
                self.core.tick();
                self.expire_approvals();
                next_tick = now + TICK;
            }
            self.ask_reads();
            self.settle()?;
        }
        Ok(())
    }

    fn take(&mut self, message: Msg) {
        match message {
            Msg::Propose { command, request_id, reply } => self.propose(*command, request_id, Some(reply)),
            Msg::Read { read, failed } => self.waiting.push(WaitingRead { read, failed }),
            Msg::Step(message) => {
                if let Err(error) = self.core.step(*message) {
                    tracing::debug!(%error, "a peer's message was refused");
                }
            }
        }
    }

    fn propose(
        &mut self,
        command: Command,
        request_id: Option<RequestId>,
        reply: Option<oneshot::Sender<Result<Outcome, ProposeError>>>,
    ) {
        metrics::counter!("postern_control_proposals_total", "command" => command.name()).increment(1);
        let proposed = self.core.propose(&stamp(command, request_id, clock::now()));
        let Some(reply) = reply else { return };
        match proposed {
            Ok((index, term)) => {
                self.proposals.insert(index, WaitingWrite { term, reply, since: Instant::now() });
            }
            Err(_) => {
                let refusal = if self.core.is_leader() {
                    ProposeError::Overloaded
                } else {
                    ProposeError::NotLeader { leader: Some(self.core.leader()).filter(|leader| *leader != 0) }
                };
                // Whoever asked may be gone.
                let _ = reply.send(Err(refusal));
            }
        }
    }

    /// Lets approvals lapse on time, even when nothing else is written.
    fn expire_approvals(&mut self) {
        let Some(deadline) = self.core.state().next_deadline() else { return };
        if deadline <= clock::now() && deadline != self.expiry_proposed && self.core.is_ready_leader() {
            self.expiry_proposed = deadline;
            self.propose(commands::ExpireApprovals.into(), None, None);
        }
    }

    /// One ReadIndex for all reads that came meanwhile.
    fn ask_reads(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        if self.core.is_ready_leader() {
            let ticket = self.core.read();
            self.asked.insert(ticket, std::mem::take(&mut self.waiting));
        } else if !self.core.is_leader() && self.core.leader() != 0 {
            self.fail_reads();
        }
    }

    fn fail_reads(&mut self) {
        let asked = std::mem::take(&mut self.asked).into_values().flatten();
        for read in std::mem::take(&mut self.waiting).into_iter().chain(asked) {
            let _ = read.failed.send(ReadError::NotLeader);
        }
        self.core.drop_reads();
    }

    /// Persists, applies and answers until there is nothing left to do.
    fn settle(&mut self) -> Result<(), DriverError> {
        while let Some(mut ready) = self.core.ready() {
            self.send(ready.take_messages());
            if !ready.is_volatile() {
                let started = Instant::now();
                self.log.save(ready.write())?;
                metrics::histogram!("postern_control_flush_seconds").record(started.elapsed().as_secs_f64());
            }
            let progress = self.core.persisted(ready, &mut self.observer)?;
            self.finish(progress);
        }
        for ticket in self.core.take_reads() {
            for read in self.asked.remove(&ticket).unwrap_or_default() {
                (read.read)(self.core.state());
            }
        }
        if let Some(snapshot) = self.core.compaction() {
            info!(index = snapshot.index, bytes = snapshot.data.len(), "compacting the log");
            let hard_state = Some(self.core.hard_state());
            self.log.save(Write { snapshot: Some(&snapshot), hard_state, entries: &[] })?;
            self.core.compacted(snapshot);
        }
        self.publish_status();
        Ok(())
    }

    fn finish(&mut self, progress: Progress) {
        self.send(progress.messages);
        let mut changes = *self.changes.borrow();
        for (index, term, applied) in progress.applied {
            changes.applied = index;
            for effect in &applied.effects {
                match effect {
                    Effect::Changed(_) => {}
                    Effect::PolicyChanged => changes.policy = index,
                    Effect::IssuersChanged => changes.issuers = index,
                    Effect::ApprovalsChanged => changes.approvals = index,
                }
            }
            let Some(waiting) = self.proposals.remove(&index) else { continue };
            metrics::histogram!("postern_control_commit_seconds").record(waiting.since.elapsed().as_secs_f64());
            // Another leader's entry stands where ours would have: ours may yet be elsewhere, under its request id.
            let outcome = if term == waiting.term { Ok(applied.outcome) } else { Err(ProposeError::Unknown) };
            let _ = waiting.reply.send(outcome);
        }
        metrics::gauge!("postern_control_applied_index").set(precise(changes.applied));
        self.changes.send_if_modified(|known| std::mem::replace(known, changes) != changes);
    }

    fn send(&mut self, messages: Vec<Message>) {
        if !messages.is_empty() {
            self.transport.send(messages);
        }
    }

    fn publish_status(&mut self) {
        let former = *self.status.borrow();
        let status = Status {
            id: former.id,
            term: self.core.term(),
            leader: self.core.leader(),
            leading: self.core.is_ready_leader(),
            committed: self.core.committed(),
        };
        if former.leading && !status.leading {
            self.fail_reads();
            for waiting in std::mem::take(&mut self.proposals).into_values() {
                let _ = waiting.reply.send(Err(ProposeError::Unknown));
            }
        }
        self.status.send_if_modified(|known| std::mem::replace(known, status) != status);
    }
}

/// For a gauge: exact below 2^53.
#[allow(clippy::cast_precision_loss)] // an index never gets there
const fn precise(index: u64) -> f64 {
    index as f64
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;
