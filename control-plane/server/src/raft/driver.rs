//! The actor that drives a [`Replica`]: one thread owns it, its log and the reply channels.
//!
//! Clones of [`RaftHandle`] -> bounded mailbox -> this thread -> log (one flush for all that came meanwhile) -> state machine -> replies.
//! Snapshots are encoded and written on a thread of their own; the outcome comes back by the mailbox.
//!
//! The mailbox holds [`MAILBOX`] messages. Writes and reads are let in only up to a part of it, and are told at once when that is full
//! (`Overloaded`: they may retry); the rest is for peers, whose messages Raft may lose.
//! The thread's end before shutdown stops the node: nothing else may answer for the replicated state.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use postern_runtime::clock;
use postern_runtime::supervisor::{OnEnd, Supervisor};
use postern_state::{Effect, State};
use raft::eraftpb::Message;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::config::NodeConfig;
use super::forward::Forward;
use super::handle::{LateReports, RaftHandle};
use super::log_store::{Loaded, LogStore, SnapshotRecord, SnapshotWriter, StorageError, Write};
use super::membership::MembershipReply;
use super::observer::Observer;
use super::proposals::{ProposeReply, ROUND_BYTES};
use super::reads::{ReadFailed, ReadFn};
use super::replica::{DriverError, Replica, SnapshotJob};
use super::stamp::StampClock;
use super::status::{Changes, MembershipChange, Status};
use super::transport::{SnapshotSource, Transport};

/// Messages that may wait for the driver.
const MAILBOX: usize = 16_384;
/// Messages taken before one flush: what groups commits.
const BATCH: usize = 4_096;
/// How long followers wait at the most to be told what is committed. A client that writes one after the other is back sooner, and its next
/// write tells them: that saves half the messages, and half the wake-ups.
const TELL_AFTER: Duration = Duration::from_millis(1);
/// Ticks that are caught up with after a pause; those before are lost, as time is for a node that was stopped.
const CATCH_UP: u32 = 3;

pub(super) enum Msg {
    Propose { entry: Vec<u8>, reply: ProposeReply },
    Read { read: ReadFn, failed: ReadFailed },
    ReadLocal(ReadFn),
    Membership { change: MembershipChange, force: bool, reply: MembershipReply },
    Transfer { to: u64, reply: MembershipReply },
    Step(Box<Message>),
    Unreachable(u64),
    SnapshotStatus { id: u64, ok: bool },
    Compacted(Result<SnapshotRecord, StorageError>),
}

/// Loads the log and starts the driver on a thread of its own, which runs until `stop`.
///
/// # Errors
/// When the log is damaged or of a newer version: the node does not start.
pub fn start(
    config: &NodeConfig,
    log: impl LogStore,
    transport: impl Transport,
    observer: impl Observer,
    forward: Arc<dyn Forward>,
    supervisor: &Supervisor,
    stop: CancellationToken,
) -> Result<RaftHandle, DriverError> {
    let mut config = config.clone();
    if config.nonce == 0 {
        config.nonce = u64::try_from(clock::random_u128() >> 64).unwrap_or(1).max(1);
    }
    let (mailbox, inbox) = sync_channel(MAILBOX);
    let snapshots = log.snapshots();
    let observer = Tee { changes: Changes::default(), observer };
    let replica = Replica::new(&config, Timed(log), transport, observer)?;
    let loaded = replica.read_local();
    let (issuers, approvals) = (loaded.index(), loaded.index());
    let loaded = Changes { applied: loaded.index(), policy: loaded.policy_revision(), issuers, approvals };
    let (changes_out, changes) = watch::channel(loaded);
    let (status_out, status) = watch::channel(replica.status());
    let late_reports = LateReports::default();
    let stamps = StampClock::default();
    let driver = Driver {
        replica,
        inbox,
        late_reports: Arc::clone(&late_reports),
        stamps: stamps.clone(),
        compactions: mailbox.clone(),
        supervisor: supervisor.clone(),
        tick: config.tick,
        stop,
        changes: changes_out,
        status: status_out,
    };
    supervisor.spawn_blocking_thread("raft", OnEnd::StopNode, move || driver.run());
    Ok(RaftHandle::new(mailbox, changes, status, forward, snapshots, late_reports, stamps))
}

/// What a peer's message will have flushed.
fn entry_bytes(message: &Msg) -> usize {
    match message {
        Msg::Step(message) => message.entries.iter().map(|entry| entry.data.len()).sum(),
        _ => 0,
    }
}

struct Driver<L, T, O> {
    replica: Replica<Timed<L>, T, Tee<O>>,
    inbox: Receiver<Msg>,
    late_reports: LateReports,
    stamps: StampClock,
    /// For the outcome of snapshots.
    compactions: SyncSender<Msg>,
    supervisor: Supervisor,
    tick: Duration,
    stop: CancellationToken,
    changes: watch::Sender<Changes>,
    status: watch::Sender<Status>,
}

impl<L: LogStore, T: Transport, O: Observer> Driver<L, T, O> {
    fn run(mut self) {
        let ended = self.turn();
        self.publish_status(true);
        self.replica.abandon();
        match ended {
            Ok(()) => info!("raft stopped"),
            // Told once, here: it is what the process ends with.
            Err(error) => self.supervisor.stop_node(&error.to_string()),
        }
    }

    fn turn(&mut self) -> Result<(), DriverError> {
        let mut next_tick = Instant::now() + self.tick;
        let mut tell_at = None;
        self.settle(true)?;
        while !self.stop.is_cancelled() {
            let patience = tell_at.unwrap_or(next_tick).min(next_tick).saturating_duration_since(Instant::now());
            match self.inbox.recv_timeout(if self.replica.has_queue() { Duration::ZERO } else { patience }) {
                Ok(message) => {
                    let mut bytes = entry_bytes(&message);
                    self.take(message)?;
                    for _ in 1..BATCH {
                        if bytes >= ROUND_BYTES {
                            break;
                        }
                        let Ok(message) = self.inbox.try_recv() else { break };
                        bytes = bytes.saturating_add(entry_bytes(&message));
                        self.take(message)?;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                // It has a sender itself.
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            let now = Instant::now();
            let ticked = now >= next_tick;
            if ticked {
                let late = std::mem::take(&mut *self.late_reports.lock().unwrap_or_else(PoisonError::into_inner));
                late.into_iter().for_each(|(id, ok)| self.replica.report_snapshot(id, ok));
                for _ in 0..CATCH_UP {
                    if now >= next_tick {
                        self.replica.tick(self.stamps.now());
                        next_tick += self.tick;
                    }
                }
                next_tick = next_tick.max(now);
            }
            if tell_at.take_if(|at| now >= *at).is_some() {
                self.replica.tell_commit();
            }
            self.settle(ticked)?;
            tell_at = match self.replica.has_untold_commit() {
                true => tell_at.or_else(|| Some(Instant::now() + TELL_AFTER)),
                false => None,
            };
        }
        Ok(())
    }

    fn take(&mut self, message: Msg) -> Result<(), DriverError> {
        match message {
            Msg::Propose { entry, reply } => self.replica.propose_encoded(entry, reply),
            Msg::Read { read, failed } => self.replica.read(read, failed),
            Msg::ReadLocal(read) => read(self.replica.read_local()),
            Msg::Membership { change, force, reply } => self.replica.change_membership(change, force, reply),
            Msg::Transfer { to, reply } => self.replica.transfer_leader(to, reply),
            Msg::Step(message) => self.replica.step(*message)?,
            Msg::Unreachable(id) => self.replica.report_unreachable(id),
            Msg::SnapshotStatus { id, ok } => self.replica.report_snapshot(id, ok),
            Msg::Compacted(made) => self.replica.compacted(made)?,
        }
        Ok(())
    }

    fn settle(&mut self, ticked: bool) -> Result<(), DriverError> {
        let settled = self.replica.settle();
        let changes = self.replica.observer_mut().changes;
        self.changes.send_if_modified(|known| std::mem::replace(known, changes) != changes);
        self.publish_status(ticked);
        settled?;
        if let Some(job) = self.replica.take_compaction() {
            self.compact(job);
        }
        Ok(())
    }

    fn compact(&self, job: SnapshotJob) {
        let back = self.compactions.clone();
        self.supervisor.spawn_blocking_thread("raft-snapshot", OnEnd::EndPart, move || {
            let started = Instant::now();
            let made = job.run();
            metrics::histogram!("postern_control_snapshot_seconds").record(started.elapsed().as_secs_f64());
            // The driver may have ended.
            let _ = back.send(Msg::Compacted(made));
        });
    }

    /// Indices only with each tick: they change with every batch.
    fn publish_status(&self, all: bool) {
        if !all && !self.replica.is_news_to(&self.status.borrow()) {
            return;
        }
        let status = self.replica.status();
        if all {
            metrics::gauge!("postern_control_applied_index").set(precise(status.applied));
            metrics::gauge!("postern_control_is_leader").set(if status.leading { 1.0 } else { 0.0 });
        }
        self.status.send_if_modified(|known| {
            let tell = *known != status;
            if tell {
                *known = status;
            }
            tell
        });
    }
}

/// Gathers what changed for those who wait for a kind of change, and passes all on.
struct Tee<O> {
    changes: Changes,
    observer: O,
}

impl<O: Observer> Observer for Tee<O> {
    fn applied(&mut self, state: &State, index: u64, effects: &[Effect]) {
        self.changes.applied = index;
        for effect in effects {
            match effect {
                Effect::Changed(_) => {}
                Effect::PolicyChanged => self.changes.policy = index,
                Effect::IssuersChanged => self.changes.issuers = index,
                Effect::ApprovalsChanged => self.changes.approvals = index,
            }
        }
        self.observer.applied(state, index, effects);
    }

    fn restored(&mut self, state: &State) {
        let (index, policy) = (state.index(), state.policy_revision());
        self.changes = Changes { applied: index, policy, issuers: index, approvals: index };
        self.observer.restored(state);
    }
}

/// Measures the disk.
struct Timed<L>(L);

impl<L: LogStore> LogStore for Timed<L> {
    fn load(&mut self) -> Result<Loaded, StorageError> {
        self.0.load()
    }

    fn save(&mut self, write: Write<'_>) -> Result<(), StorageError> {
        let started = Instant::now();
        let saved = self.0.save(write);
        metrics::histogram!("postern_control_flush_seconds").record(started.elapsed().as_secs_f64());
        saved
    }

    fn snapshot_writer(&self) -> SnapshotWriter {
        self.0.snapshot_writer()
    }

    fn snapshots(&self) -> Arc<dyn SnapshotSource> {
        self.0.snapshots()
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
