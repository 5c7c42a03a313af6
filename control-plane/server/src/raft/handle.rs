//! Asking the driver.

use std::collections::BTreeMap;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use postern_core::RequestId;
use postern_core::audit::AuditRecord;
use postern_runtime::backoff::Backoff;
use postern_runtime::clock;
use postern_state::{Command, Entry, Outcome, State};
use raft::eraftpb::Message;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use super::driver::Msg;
use super::forward::{Forward, ForwardError, ForwardedProposal};
use super::proposals::ENTRY_BYTES;
use super::stamp::StampClock;
use super::status::{Changes, MembershipChange, MembershipError, ProposeError, ReadError, Status};
use super::transport::SnapshotSource;

/// Writes that this node's callers may have under way.
const WRITES: usize = 8_192;
/// Their bytes, in units of [`UNIT`].
const WRITE_UNITS: usize = 64 << 10;
const UNIT: usize = 1 << 10;
/// Reads that this node's callers may have under way. With the writes less than the mailbox, so that peers are heard in any case.
const READS: usize = 4_096;
/// How long a write is tried: over elections, and over a leader that is lost on the way.
const PROPOSE_LIMIT: Duration = Duration::from_secs(10);
const RETRY_BASE: Duration = Duration::from_millis(10);
const RETRY_MAX: Duration = Duration::from_millis(250);

/// Reports that found the mailbox full, for the next tick: Raft would wait for a lost one for ever. The last one of each peer.
pub(super) type LateReports = Arc<Mutex<BTreeMap<u64, bool>>>;

/// Asks the driver. Cheap to clone.
#[derive(Clone)]
pub struct RaftHandle {
    mailbox: SyncSender<Msg>,
    changes: watch::Receiver<Changes>,
    status: watch::Receiver<Status>,
    forward: Arc<dyn Forward>,
    snapshots: Arc<dyn SnapshotSource>,
    late_reports: LateReports,
    stamps: StampClock,
    writes: Arc<Semaphore>,
    write_units: Arc<Semaphore>,
    reads: Arc<Semaphore>,
    propose_limit: Duration,
}

impl RaftHandle {
    pub(super) fn new(
        mailbox: SyncSender<Msg>,
        changes: watch::Receiver<Changes>,
        status: watch::Receiver<Status>,
        forward: Arc<dyn Forward>,
        snapshots: Arc<dyn SnapshotSource>,
        late_reports: LateReports,
        stamps: StampClock,
    ) -> Self {
        Self {
            mailbox,
            changes,
            status,
            forward,
            snapshots,
            late_reports,
            stamps,
            writes: Arc::new(Semaphore::new(WRITES)),
            write_units: Arc::new(Semaphore::new(WRITE_UNITS)),
            reads: Arc::new(Semaphore::new(READS)),
            propose_limit: PROPOSE_LIMIT,
        }
    }

    /// The time that entries bear.
    pub(crate) const fn stamps(&self) -> &StampClock {
        &self.stamps
    }

    /// Writes: returns once the command is durable on a majority and applied by the leader. On a node that does not lead it is passed on,
    /// and tried again while the leader changes, for up to 10 seconds. A retry with the same request id gives the first outcome.
    ///
    /// # Errors
    /// When there is no outcome; see [`ProposeError`] for whether it may still come to pass. A refusal is an outcome.
    pub async fn propose(
        &self,
        command: impl Into<Command>,
        request_id: Option<RequestId>,
    ) -> Result<Outcome, ProposeError> {
        self.propose_audited(command, request_id, None).await
    }

    /// As [`RaftHandle::propose`]; `audit` is of the call behind it.
    ///
    /// # Errors
    /// See there.
    pub async fn propose_audited(
        &self,
        command: impl Into<Command>,
        request_id: Option<RequestId>,
        audit: Option<AuditRecord>,
    ) -> Result<Outcome, ProposeError> {
        let mut entry = Entry { proposed_at: self.stamps.now(), request_id, command: command.into(), audit };
        metrics::counter!("postern_control_proposals_total", "command" => entry.command.name()).increment(1);
        let (started, mut backoff) = (Instant::now(), Backoff::new(RETRY_BASE, RETRY_MAX));
        let deadline = started + self.propose_limit;
        let mut uncertain = false;
        loop {
            let attempt = timeout_at(deadline, self.attempt(&mut entry)).await;
            let error = match attempt.unwrap_or(Err(ProposeError::Unknown)) {
                Ok(outcome) => {
                    metrics::histogram!("postern_control_commit_seconds").record(started.elapsed().as_secs_f64());
                    return Ok(outcome);
                }
                Err(error) => error,
            };
            uncertain |= error == ProposeError::Unknown;
            let over = match &error {
                // Without a request id a second attempt could do it twice.
                ProposeError::Unknown => entry.request_id.is_none(),
                ProposeError::NotLeader { .. } => false,
                ProposeError::Overloaded => !uncertain,
                ProposeError::TooLarge { .. } | ProposeError::Stopped => true,
            };
            if over || Instant::now() >= deadline {
                return Err(if uncertain { ProposeError::Unknown } else { error });
            }
            let pause = tokio::time::sleep(backoff.next_delay());
            if error == (ProposeError::NotLeader { leader: None }) {
                let mut status = self.status.clone();
                // A leader may be known sooner.
                let _ = timeout_at(deadline, async {
                    tokio::select! {
                        () = pause => {}
                        _ = status.changed() => {}
                    }
                })
                .await;
            } else {
                pause.await;
            }
        }
    }

    /// Writes on this node alone, for a peer that passed it on: what this node does not lead is not passed on again.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn propose_here(&self, proposal: ForwardedProposal) -> Result<Outcome, ProposeError> {
        let ForwardedProposal { command, request_id, audit } = proposal;
        let mut entry = Entry { proposed_at: self.stamps.now(), request_id: Some(request_id), command, audit };
        self.propose_to_driver(&mut entry).await
    }

    async fn attempt(&self, entry: &mut Entry) -> Result<Outcome, ProposeError> {
        let (own, leader) = {
            let status = self.status.borrow();
            (status.id, status.leader)
        };
        if leader == 0 || leader == own {
            return self.propose_to_driver(entry).await;
        }
        let request_id = *entry.request_id.get_or_insert_with(clock::request_id);
        let request = ForwardedProposal { command: entry.command.clone(), request_id, audit: entry.audit.clone() };
        self.forward.propose(leader, request).await.map_err(|error| match error {
            ForwardError::Unreachable | ForwardError::Refused(ProposeError::Stopped) => {
                ProposeError::NotLeader { leader: None }
            }
            ForwardError::Unknown => ProposeError::Unknown,
            ForwardError::Refused(refusal) => refusal,
        })
    }

    async fn propose_to_driver(&self, entry: &mut Entry) -> Result<Outcome, ProposeError> {
        entry.proposed_at = self.stamps.now();
        let encoded = entry.encode();
        let bytes = encoded.len();
        if bytes > ENTRY_BYTES {
            return Err(ProposeError::TooLarge { limit: ENTRY_BYTES });
        }
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX);
        let permits = (take(&self.writes, 1), take(&self.write_units, units));
        let (Some(one), Some(units)) = permits else { return Err(shed()) };
        let (reply, answer) = oneshot::channel();
        let reply = Box::new(move |outcome| {
            // Before the answer: whoever has it finds room for the next.
            drop((one, units));
            // Whoever asked may be gone.
            let _ = reply.send(outcome);
        });
        self.mailbox.try_send(Msg::Propose { entry: encoded, reply }).map_err(|error| match error {
            TrySendError::Full(_) => shed(),
            TrySendError::Disconnected(_) => ProposeError::Stopped,
        })?;
        // A driver that ends drops the reply: the entry may be in the log.
        answer.await.unwrap_or(Err(ProposeError::Unknown))
    }

    /// Reads linearizably, on any node: `read` sees every write that was acknowledged before this call (ReadIndex). It runs on the driver's
    /// thread: take out what is needed, no more.
    ///
    /// # Errors
    /// When nobody vouches for the state in time (5 seconds).
    pub async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&State) -> T + Send + 'static,
    ) -> Result<T, ReadError> {
        let permit = take(&self.reads, 1).ok_or(ReadError::Overloaded)?;
        let (answer, answered) = oneshot::channel();
        let (fail, failed) = oneshot::channel();
        // Nobody may wait for it any more: that is no fault.
        let read = Box::new(move |state: &State| {
            let value = read(state);
            drop(permit);
            let _ = answer.send(value);
        });
        let failed_reply = Box::new(move |error| {
            let _ = fail.send(error);
        });
        self.send(Msg::Read { read, failed: failed_reply }, ReadError::Overloaded, ReadError::Stopped)?;
        match answered.await {
            Ok(value) => Ok(value),
            Err(_) => Err(failed.await.unwrap_or(ReadError::Stopped)),
        }
    }

    /// Reads what is applied here, which may be behind what is acknowledged. On the driver's thread, as [`RaftHandle::read`].
    ///
    /// # Errors
    /// When too much waits, or the node stops.
    pub async fn read_local<T: Send + 'static>(
        &self,
        read: impl FnOnce(&State) -> T + Send + 'static,
    ) -> Result<T, ReadError> {
        let permit = take(&self.reads, 1).ok_or(ReadError::Overloaded)?;
        let (answer, answered) = oneshot::channel();
        let read = Box::new(move |state: &State| {
            let value = read(state);
            drop(permit);
            let _ = answer.send(value);
        });
        self.send(Msg::ReadLocal(read), ReadError::Overloaded, ReadError::Stopped)?;
        answered.await.map_err(|_| ReadError::Stopped)
    }

    /// Changes who belongs to the group; on the leader only. Returns the index of the entry with which it was done.
    ///
    /// # Errors
    /// See [`MembershipError`]; `NotLeader` for the removal of the leader itself, once it has handed over: ask again there.
    pub async fn change_membership(&self, change: MembershipChange, force: bool) -> Result<u64, MembershipError> {
        let (answer, answered) = oneshot::channel();
        let reply = Box::new(move |outcome| drop(answer.send(outcome)));
        let message = Msg::Membership { change, force, reply };
        self.send(message, MembershipError::Overloaded, MembershipError::Stopped)?;
        answered.await.unwrap_or(Err(MembershipError::Unknown))
    }

    /// Hands leadership to `to`, or with 0 to the voter that is most up to date; on the leader only. Returns who leads.
    ///
    /// # Errors
    /// See [`MembershipError`].
    pub async fn transfer_leader(&self, to: u64) -> Result<u64, MembershipError> {
        let (answer, answered) = oneshot::channel();
        let reply = Box::new(move |outcome| drop(answer.send(outcome)));
        self.send(Msg::Transfer { to, reply }, MembershipError::Overloaded, MembershipError::Stopped)?;
        answered.await.unwrap_or(Err(MembershipError::Unknown))
    }

    /// A message from a peer. Lost when the mailbox is full: Raft allows for it.
    pub fn step(&self, message: Message) {
        self.tell(Msg::Step(Box::new(message)));
    }

    /// Messages to `id` were lost: what it has got is found out anew.
    pub fn report_unreachable(&self, id: u64) {
        self.tell(Msg::Unreachable(id));
    }

    /// What became of the snapshot to `id`. Has to be told for each one that the transport was given.
    pub fn report_snapshot(&self, id: u64, ok: bool) {
        if let Err(TrySendError::Full(_)) = self.mailbox.try_send(Msg::SnapshotStatus { id, ok }) {
            self.late_reports.lock().unwrap_or_else(PoisonError::into_inner).insert(id, ok);
        }
    }

    /// The snapshots that `MsgSnapshot`s stand for.
    #[must_use]
    pub fn snapshots(&self) -> Arc<dyn SnapshotSource> {
        Arc::clone(&self.snapshots)
    }

    /// What changed last; for feeds and watches.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Changes> {
        self.changes.clone()
    }

    /// How the node stands. Told at once when the leader or the members change; indices follow with each tick.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Returns once the entry at `index` is applied here, whatever it is, or the node stops.
    pub async fn applied(&self, index: u64) {
        // An error is the end of the driver.
        let _ = self.status.clone().wait_for(|status| status.applied >= index).await;
    }

    fn send<E>(&self, message: Msg, full: E, stopped: E) -> Result<(), E> {
        self.mailbox.try_send(message).map_err(|error| match error {
            TrySendError::Full(_) => full,
            TrySendError::Disconnected(_) => stopped,
        })
    }

    fn tell(&self, message: Msg) {
        if let Err(TrySendError::Full(_)) = self.mailbox.try_send(message) {
            metrics::counter!("postern_control_peer_messages_shed_total").increment(1);
        }
    }
}

fn take(permits: &Arc<Semaphore>, count: u32) -> Option<OwnedSemaphorePermit> {
    Arc::clone(permits).try_acquire_many_owned(count).ok()
}

fn shed() -> ProposeError {
    metrics::counter!("postern_control_shed_total").increment(1);
    ProposeError::Overloaded
}

#[cfg(test)]
#[path = "handle_tests.rs"]
mod tests;
