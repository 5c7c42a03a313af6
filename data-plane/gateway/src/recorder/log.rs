//! The spool as the recorder's thread and the sessions share it: what may be written, and what failed.
//!
//! A session writes here itself: a call of a few microseconds, as the system keeps what is written in memory. Those of class `spooled` then
//! wait for the thread's next flush, which all share that have written before it began; for those of class `buffered` it comes soon. Those of class `quorum` wait for
//! the flush, and then until the control plane has acknowledged what they wrote.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use postern_core::{Code, SessionId};
use tokio::sync::{Notify, mpsc, oneshot};

use super::actor::{Msg, Reply};
use super::spool::{Append, Spool, Sync};
use super::{Frames, RecordError};
use crate::metrics;

/// What is written by sessions of class `buffered` is flushed after so long: what the loss of the machine, not of the process, can cost.
pub(super) const FLUSH_AFTER: Duration = Duration::from_millis(5);
/// When the disk takes longer than this, sessions wait for it: the loss stays bounded.
const LATE: Duration = Duration::from_millis(50);
/// What an operation waits at most before it is written, when the spool is all but full.
pub(super) const MOST_HELD_BACK: Duration = Duration::from_millis(250);
/// The place that a session is acknowledged up to whose recording the control plane refuses: nothing more of it is sent.
pub(super) const REFUSED: u64 = u64::MAX;

/// Shared between the recorder's thread and the sessions.
pub(super) struct Log {
    inner: Mutex<Inner>,
    /// Milliseconds that each operation waits before it is written.
    pressure: AtomicU64,
    /// There is room for another operation.
    room: AtomicBool,
    /// Something was written that nobody will flush by itself.
    written: Arc<Notify>,
    /// Something was flushed that is to be acknowledged before its operation runs.
    urgent: Arc<Notify>,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").finish_non_exhaustive()
    }
}

/// What is known under the lock.
pub(super) struct Inner {
    pub(super) spool: Spool,
    max_bytes: u64,
    /// Sessions that could not be written, or whose task is gone; to be sealed.
    pub(super) broken: BTreeMap<SessionId, Code>,
    pub(super) failed: bool,
    /// When the oldest write was made that nobody has flushed, by a session that did not wait.
    since: Option<Instant>,
    /// Those who wait for what they have written since the last flush began.
    waiters: Vec<Reply>,
    /// The thread is to flush, and has not begun.
    asked: bool,
    /// Who waits until the control plane has what comes before the number. An operation at a time of each session.
    unacknowledged: BTreeMap<SessionId, (u64, Reply)>,
}

/// What became of a write.
#[derive(Debug)]
#[must_use = "what is to be waited for is not durable before"]
pub(super) enum Written {
    /// It will be flushed soon.
    Soon,
    /// To be waited for.
    Flushing(oneshot::Receiver<Result<(), RecordError>>),
}

/// What a session waits for once it has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// Nothing, unless the disk is behind.
    Written,
    /// The same once a durable record says that the session does not wait: a crash then shows where operations may be missing.
    Marked,
    /// What it wrote is durable.
    Durable,
}

impl Log {
    pub(super) fn new(spool: Spool, max_bytes: u64) -> Self {
        let inner = Inner {
            spool,
            max_bytes,
            broken: BTreeMap::new(),
            failed: false,
            since: None,
            waiters: Vec::new(),
            asked: false,
            unacknowledged: BTreeMap::new(),
        };
        Self {
            inner: Mutex::new(inner),
            pressure: AtomicU64::new(0),
            room: AtomicBool::new(true),
            written: Arc::default(),
            urgent: Arc::default(),
        }
    }

    /// What an operation is to wait before it is written: the fuller the spool, the longer, so that uploads catch up before anybody has to be refused.
    pub(super) fn pressure(&self) -> Duration {
        Duration::from_millis(self.pressure.load(Ordering::Relaxed))
    }

    /// Whether there is room for another operation.
    pub(super) fn has_room(&self) -> bool {
        self.room.load(Ordering::Relaxed)
    }

    /// Tells those who do not look for themselves how full the spool is.
    pub(super) fn tell_fill(&self, inner: &Inner) {
        let pressure = u64::try_from(inner.pressure().as_millis()).unwrap_or(u64::MAX);
        self.pressure.store(pressure, Ordering::Relaxed);
        self.room.store(inner.has_room(), Ordering::Relaxed);
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes `frames`; they survive the process on return, and the machine a little later, or once what is told of is over.
    pub(super) fn write(&self, frames: &Frames, until: Until, to: &mpsc::Sender<Msg>) -> Result<Written, RecordError> {
        let written = self.try_write(frames, until, to);
        if written.is_err() {
            // The thread seals whom it hit.
            self.written.notify_one();
        }
        written
    }

    fn try_write(&self, frames: &Frames, until: Until, to: &mpsc::Sender<Msg>) -> Result<Written, RecordError> {
        let mut inner = self.lock();
        inner.admit(frames, false)?;
        if !inner.continues(frames) {
            inner.give_up(frames.session);
            return Err(RecordError::Unavailable);
        }
        let marked = inner.spool.session(frames.session).is_some_and(|state| state.loose);
        if let Err(error) = inner.spool.append(&[append_of(frames, false, until == Until::Marked)]) {
            inner.fail(&error);
            inner.give_up(frames.session);
            return Err(RecordError::Unavailable);
        }
        if until == Until::Written || (until == Until::Marked && marked) {
            let first = inner.since.is_none();
            let since = *inner.since.get_or_insert_with(Instant::now);
            if first || since.elapsed() <= LATE {
                drop(inner);
                metrics::recorder_buffered();
                if first {
                    self.written.notify_one();
                }
                return Ok(Written::Soon);
            }
        }
        let (reply, answer) = oneshot::channel();
        inner.waiters.push(reply);
        let first = !std::mem::replace(&mut inner.asked, true);
        drop(inner);
        // Where the mailbox is full the thread has to look at it, and then sees who waits.
        if first && matches!(to.try_send(Msg::Flush), Err(mpsc::error::TrySendError::Closed(_))) {
            return Err(RecordError::Unavailable);
        }
        Ok(Written::Flushing(answer))
    }

    /// Whether somebody waits for a flush that has not begun.
    pub(super) fn is_asked(&self) -> bool {
        self.lock().asked
    }

    /// Told when something was written that nobody waits for.
    pub(super) fn written(&self) -> Arc<Notify> {
        Arc::clone(&self.written)
    }

    /// Told when something was flushed that an operation waits for: it is sent at once.
    pub(super) fn urgent(&self) -> Arc<Notify> {
        Arc::clone(&self.urgent)
    }

    /// What tells that the control plane has all of `session` before `next_seq`, which is to be written then.
    pub(super) fn acknowledgement(
        &self,
        session: SessionId,
        next_seq: u64,
    ) -> oneshot::Receiver<Result<(), RecordError>> {
        let mut inner = self.lock();
        let (reply, answer) = oneshot::channel();
        if inner.spool.session(session).is_some_and(|state| state.acked == REFUSED) {
            // Nobody has gone yet who waits.
            drop(reply.send(Err(RecordError::Refused)));
        } else {
            inner.unacknowledged.insert(session, (next_seq, reply));
        }
        answer
    }

    /// Something was flushed: whoever waits for it to be acknowledged has it sent.
    pub(super) fn flushed(&self) {
        if self.lock().unacknowledged.values().any(|(_, reply)| !reply.is_closed()) {
            self.urgent.notify_one();
        }
    }

    /// Flushes all that is written, with nobody waiting for the lock meanwhile, and tells those who wait for it. How many they were.
    pub(super) fn flush(&self) -> io::Result<usize> {
        let (sync, waiters) = {
            let mut inner = self.lock();
            inner.since = None;
            inner.asked = false;
            (inner.spool.begin_sync(), std::mem::take(&mut inner.waiters))
        };
        let outcome = sync.run();
        let ended = self.lock().end_sync(&sync, outcome);
        let count = waiters.len();
        let told = if ended.is_ok() { Ok(()) } else { Err(RecordError::Unavailable) };
        for waiter in waiters {
            // Whoever is gone does not wait.
            drop(waiter.send(told.clone()));
        }
        ended.map(|()| count)
    }
}

impl Inner {
    /// Whether `frames` may be written at all.
    pub(super) fn admit(&mut self, frames: &Frames, seals: bool) -> Result<(), RecordError> {
        let size = u64::try_from(frames.bytes.len()).unwrap_or(u64::MAX);
        // A seal is small and ends the session: always let in.
        let full = !seals && self.spool.bytes().saturating_add(size) > self.max_bytes;
        if full || self.failed || self.broken.contains_key(&frames.session) {
            self.broken.entry(frames.session).or_insert(Code::RecordingUnavailable);
            return Err(if full { RecordError::Full } else { RecordError::Unavailable });
        }
        Ok(())
    }

    /// Whether new sessions have to be refused.
    pub(super) fn is_nearly_full(&self) -> bool {
        self.spool.bytes() >= self.max_bytes / 10 * 9
    }

    /// Whether another operation may be recorded. The last sixteenth is for what runs already, and for refusals and ends.
    fn has_room(&self) -> bool {
        self.spool.bytes() < self.max_bytes.saturating_sub(self.max_bytes / 16)
    }

    /// From three quarters of the spool on, in proportion.
    fn pressure(&self) -> Duration {
        let from = self.max_bytes / 4 * 3;
        let over = self.spool.bytes().saturating_sub(from);
        let span = self.max_bytes.saturating_sub(from).max(1);
        let most = u64::try_from(MOST_HELD_BACK.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis((over.saturating_mul(most) / span).min(most))
    }

    /// Whether `frames` go on where their session's recording ends: after a failure there must be no hole, and after its seal nothing.
    fn continues(&self, frames: &Frames) -> bool {
        self.next_seq(frames.session) == Some(frames.first_seq)
    }

    /// The place of a session's next event; none after its seal.
    pub(super) fn next_seq(&self, session: SessionId) -> Option<u64> {
        match self.spool.session(session) {
            None => Some(0),
            Some(state) if state.sealed => None,
            Some(state) => Some(state.next_seq),
        }
    }

    /// The control plane has all of `session` before `next_seq`.
    pub(super) fn acknowledged(&mut self, session: SessionId, next_seq: u64) {
        if let Err(error) = self.spool.acknowledged(session, next_seq) {
            self.fail(&error);
        }
        self.unacknowledged.retain(|_, (_, reply)| !reply.is_closed());
        if self.unacknowledged.get(&session).is_some_and(|(wanted, _)| next_seq >= *wanted)
            && let Some((_, reply)) = self.unacknowledged.remove(&session)
        {
            // Whoever is gone does not wait.
            drop(reply.send(if next_seq == REFUSED { Err(RecordError::Refused) } else { Ok(()) }));
        }
    }

    /// The session gets errors until it ends, and is sealed once writing works.
    pub(super) fn give_up(&mut self, session: SessionId) {
        if self.spool.session(session).is_some() {
            self.broken.entry(session).or_insert(Code::RecordingUnavailable);
        }
    }

    pub(super) fn end_sync(&mut self, sync: &Sync, outcome: io::Result<()>) -> io::Result<()> {
        let ended = self.spool.end_sync(sync, outcome);
        if let Err(error) = &ended {
            self.fail(error);
        }
        ended
    }

    /// Notes that writing does not work, and whom that hit.
    pub(super) fn fail(&mut self, error: &io::Error) {
        if !self.failed {
            tracing::error!(%error, "the recording spool cannot be written: sessions that need it end");
            metrics::recorder_failed();
        }
        self.failed = true;
        // Of what they wrote nobody knows how much is there.
        for waiter in self.waiters.drain(..) {
            drop(waiter.send(Err(RecordError::Unavailable)));
        }
        for session in self.spool.take_lost() {
            self.give_up(session);
        }
    }
}

/// `frames`, as the spool takes them.
pub(super) fn append_of(frames: &Frames, seals: bool, loose: bool) -> Append<'_> {
    let Frames { session, first_seq, count, bytes } = frames;
    Append { session: *session, first_seq: *first_seq, count: *count, seals, loose, frames: bytes }
}
