//! The recorder's thread: it alone flushes, deletes and seals.
//!
//! Group commit: all who have written share one flush; then each is answered. After a failed write the sessions in it are broken: they get
//! errors until they end, and are sealed by this thread as soon as writing works again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use postern_core::operation::Digest;
use postern_core::policy::Durability;
use postern_core::recording::{Chain, Gap};
use postern_core::{Code, SessionId};
use postern_runtime::clock;
use postern_runtime::pki::SealSigner;
use tokio::sync::{mpsc, oneshot, watch};

use super::log::{Inner, Log, append_of};
use super::spool::cipher::SpoolKey;
use super::spool::segment::{SessionState, SpoolError};
use super::spool::{Append, Spool};
use super::{Frames, RecordError, RecorderConfig, seal};
use crate::metrics;

/// Bytes that one flush takes at most; a larger event goes alone.
const BATCH: usize = 4 << 20;

pub(super) type Reply = oneshot::Sender<Result<(), RecordError>>;

#[derive(Debug)]
pub(super) enum Msg {
    /// A session begins.
    Open { frames: Frames, reply: Reply },
    /// A session ends with this.
    Seal { frames: Frames, reply: Reply },
    /// A session's task is gone without having sealed its recording.
    Abandoned { session: SessionId },
    /// The control plane has all before `next_seq`.
    Acknowledged { session: SessionId, next_seq: u64 },
    /// Another member of the control plane has of these only what comes before the number: the rest is sent again.
    Rewind { sessions: Vec<(SessionId, u64)>, done: oneshot::Sender<()> },
    /// What is written is to be made durable.
    Flush,
    /// Time passes: try again what failed.
    Tick,
    /// Everything that records has ended.
    Stop,
}

/// What the uploader knows of a session.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Held {
    /// The control plane has all before this.
    pub(super) acked: u64,
    /// The spool has all from this on.
    pub(super) from: u64,
}

/// What others may know of the spool.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    /// Durable length of each segment.
    pub(super) segments: BTreeMap<u64, u64>,
    pub(super) sessions: BTreeMap<SessionId, Held>,
    /// How many segments are gone.
    deleted: u64,
    /// New sessions can be recorded.
    pub(super) ready: bool,
    /// All is sealed and acknowledged.
    pub(super) settled: bool,
}

pub(super) struct Actor {
    log: Arc<Log>,
    signer: Arc<SealSigner>,
    mailbox: mpsc::Receiver<Msg>,
    view: watch::Sender<View>,
    /// Told when the next segment is to be made ready.
    spares: std::sync::mpsc::Sender<()>,
}

struct Waiting {
    frames: Frames,
    seals: bool,
    reply: Reply,
}

/// What is done with one flush.
#[derive(Default)]
struct Batch {
    appends: Vec<Waiting>,
    flush: bool,
}

impl Actor {
    pub(super) fn open(
        config: &RecorderConfig,
        key: &SpoolKey,
        signer: Arc<SealSigner>,
        mailbox: mpsc::Receiver<Msg>,
        spares: std::sync::mpsc::Sender<()>,
    ) -> Result<(Self, watch::Receiver<View>), SpoolError> {
        let mut spool = Spool::open(&config.dir, key, config.segment_size())?.keeping(config.max_bytes / 8);
        spool.reserve();
        let (view, watcher) = watch::channel(View::default());
        let left: Vec<SessionId> = spool.open_sessions().map(|(session, _)| session).collect();
        let actor = Self { log: Arc::new(Log::new(spool, config.max_bytes)), signer, mailbox, view, spares };
        if !left.is_empty() {
            tracing::warn!(sessions = left.len(), "sessions were left open by a crash: closing their recordings");
        }
        for session in left {
            let closed = actor.close(session, None, "the gateway was interrupted", true);
            closed.map_err(|source| SpoolError::Io { path: config.dir.clone(), source })?;
        }
        actor.publish();
        Ok((actor, watcher))
    }

    /// What the sessions write to by themselves.
    pub(super) fn log(&self) -> Arc<Log> {
        Arc::clone(&self.log)
    }

    /// Runs until it is told to stop, or every handle is gone.
    pub(super) fn run(mut self) {
        let mut stopping = false;
        while let Some(first) = if stopping { self.mailbox.try_recv().ok() } else { self.mailbox.blocking_recv() } {
            let mut batch = Batch::default();
            let mut size = 0_usize;
            let mut next = Some(first);
            while let Some(msg) = next {
                stopping |= matches!(msg, Msg::Stop);
                if let Some(waiting) = self.admit(msg, &mut batch) {
                    size = size.saturating_add(waiting.frames.bytes.len());
                    batch.appends.push(waiting);
                }
                next = if size < BATCH { self.mailbox.try_recv().ok() } else { None };
            }
            if !batch.appends.is_empty() || batch.flush || self.log.is_asked() {
                self.commit(batch);
            }
            self.seal_broken();
            self.publish();
            if self.log.lock().spool.wants_spare() {
                // Without whoever makes them segments grow as they are written.
                let _ = self.spares.send(());
            }
            if self.log.lock().spool.is_poisoned() {
                tracing::error!("the recording spool's files are in an unknown state: stopping");
                return;
            }
        }
    }

    /// What `msg` wants written, unless it is answered at once.
    fn admit(&self, msg: Msg, batch: &mut Batch) -> Option<Waiting> {
        match msg {
            Msg::Open { frames, reply } => {
                let (full, failed) = {
                    let inner = self.log.lock();
                    (inner.is_nearly_full(), inner.failed)
                };
                if full || (failed && !self.recover()) {
                    let error = if full { RecordError::Full } else { RecordError::Unavailable };
                    drop(reply.send(Err(error)));
                    return None;
                }
                Some(Waiting { frames, seals: false, reply })
            }
            Msg::Seal { frames, reply } => {
                if let Err(error) = self.log.lock().admit(&frames, true) {
                    drop(reply.send(Err(error)));
                    return None;
                }
                Some(Waiting { frames, seals: true, reply })
            }
            Msg::Flush => {
                batch.flush = true;
                None
            }
            Msg::Abandoned { session } => {
                self.log.lock().broken.entry(session).or_insert(Code::Internal);
                None
            }
            Msg::Acknowledged { session, next_seq } => {
                self.view.send_if_modified(|view| {
                    view.sessions.entry(session).or_default().acked = next_seq;
                    false
                });
                self.log.lock().acknowledged(session, next_seq);
                None
            }
            Msg::Rewind { sessions, done } => {
                self.log.lock().spool.rewind(&sessions);
                self.view.send_if_modified(|view| {
                    for (session, next_seq) in sessions {
                        let held = view.sessions.entry(session).or_default();
                        held.acked = held.acked.min(next_seq);
                    }
                    false
                });
                // The uploader is gone with the node.
                let _ = done.send(());
                None
            }
            Msg::Tick => {
                let failed = self.log.lock().failed;
                if failed {
                    self.recover();
                } else {
                    let mut inner = self.log.lock();
                    if let Err(error) = inner.spool.delete_unneeded() {
                        inner.fail(&error);
                    }
                }
                None
            }
            Msg::Stop => None,
        }
    }

    /// Writes what waits, flushes all that is written, and answers.
    fn commit(&self, batch: Batch) {
        let began = Instant::now();
        let (accepted, written) = {
            let mut inner = self.log.lock();
            let (accepted, refused) = in_order(&inner, batch.appends);
            refuse_all(&mut inner, refused);
            let appends: Vec<Append<'_>> =
                accepted.iter().map(|Waiting { frames, seals, .. }| append_of(frames, *seals, false)).collect();
            let written = if appends.is_empty() { Ok(()) } else { inner.spool.append(&appends) };
            if let Err(error) = &written {
                inner.fail(error);
            }
            (accepted, written)
        };
        match written.and_then(|()| self.log.flush()) {
            Ok(told) => {
                let told = told.saturating_add(accepted.len());
                if told > 0 {
                    metrics::recorder_flushed(began.elapsed(), told);
                }
                for Waiting { reply, .. } in accepted {
                    drop(reply.send(Ok(())));
                }
            }
            Err(_) => refuse_all(&mut self.log.lock(), accepted),
        }
    }

    fn recover(&self) -> bool {
        let recovered = {
            let mut inner = self.log.lock();
            let probed = inner.spool.probe();
            match &probed {
                Ok(()) => inner.failed = false,
                Err(error) => inner.fail(error),
            }
            probed.is_ok()
        };
        if recovered {
            tracing::info!("the recording spool can be written again");
            self.publish();
        }
        recovered
    }

    /// Closes the recordings of sessions that could not go on, where writing works.
    fn seal_broken(&self) {
        loop {
            let (session, code) = {
                let inner = self.log.lock();
                match inner.broken.first_key_value() {
                    Some((session, code)) if !inner.failed => (*session, *code),
                    _ => return,
                }
            };
            let reason = match code {
                Code::RecordingUnavailable => "the recording could not be written",
                _ => "the session ended unexpectedly",
            };
            let closed = self.close(session, Some(code), reason, false);
            let mut inner = self.log.lock();
            if let Err(error) = closed {
                inner.fail(&error);
                return;
            }
            inner.broken.remove(&session);
        }
    }

    fn close(&self, session: SessionId, code: Option<Code>, reason: &str, interrupted: bool) -> std::io::Result<()> {
        let mut inner = self.log.lock();
        let Some(state) = inner.spool.session(session).filter(|state| !state.sealed) else { return Ok(()) };
        let mut chain = Chain::resume(session, state.next_seq, Digest(state.head));
        let mut frames = Vec::new();
        // Whoever writes this after a failure cannot know what else was forwarded.
        let lossy = state.loose && (interrupted || code == Some(Code::RecordingUnavailable));
        let gap = lossy.then(|| Gap { after: state.next_seq.saturating_sub(1), class: Durability::Buffered });
        if let Some(gap) = gap {
            tracing::warn!(%session, "a recording has a gap: {gap}");
            metrics::recorder_gap();
        }
        let count = seal::close(&mut chain, clock::now(), code, reason, interrupted, gap, &self.signer, &mut frames)
            .map_err(std::io::Error::other)?;
        inner.spool.commit(&[Append {
            session,
            first_seq: state.next_seq,
            count,
            seals: true,
            loose: false,
            frames: &frames,
        }])
    }

    fn publish(&self) {
        if self.publish_view() {
            self.log.flushed();
        }
    }

    /// Whether there was anything new.
    fn publish_view(&self) -> bool {
        let inner = self.log.lock();
        metrics::recorder_spool(inner.spool.bytes());
        self.log.tell_fill(&inner);
        let ready = !inner.failed && !inner.is_nearly_full();
        let spool = &inner.spool;
        self.view.send_if_modified(|view| {
            let (active, len) = spool.active();
            // Sessions have gone on writing to the one that was active, up to its end.
            let rolled = view.segments.last_key_value().is_none_or(|(last, _)| *last != active);
            let mut changed = view.segments.insert(active, len) != Some(len);
            if rolled || view.deleted != spool.deleted() {
                view.segments = spool.segment_lengths().collect();
                let held =
                    |(session, state): (_, SessionState)| (session, Held { acked: state.acked, from: state.from });
                view.sessions = spool.sessions().map(held).collect();
                view.deleted = spool.deleted();
                changed = true;
            }
            changed |= (view.ready, view.settled) != (ready, spool.is_settled());
            (view.ready, view.settled) = (ready, spool.is_settled());
            changed
        })
    }
}

/// Parts what continues its session's recording from what does not: after a failure a session must leave no hole, and after its seal
/// nothing.
fn in_order(inner: &Inner, waiting: Vec<Waiting>) -> (Vec<Waiting>, Vec<Waiting>) {
    let mut expected: BTreeMap<SessionId, Option<u64>> = BTreeMap::new();
    waiting.into_iter().partition(|Waiting { frames, seals, .. }| {
        let next = expected.entry(frames.session).or_insert_with(|| inner.next_seq(frames.session));
        let continues = !inner.failed && *next == Some(frames.first_seq);
        let after = frames.first_seq.saturating_add(u64::from(frames.count));
        *next = (continues && !seals).then_some(after);
        continues
    })
}

fn refuse_all(inner: &mut Inner, waiting: Vec<Waiting>) {
    for Waiting { frames, reply, .. } in waiting {
        inner.give_up(frames.session);
        drop(reply.send(Err(RecordError::Unavailable)));
    }
}
