//! The recorder's thread. It owns the spool; everything that wants to be durable passes through its mailbox.
//!
//! Group commit: all appends that wait are written together and share one flush; then each is answered. After a failed write the
//! sessions in it are broken: they get errors until they end, and are sealed by this thread as soon as writing works again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use postern_core::operation::Digest;
use postern_core::recording::Chain;
use postern_core::{Code, SessionId};
use postern_runtime::clock;
use postern_runtime::pki::SealSigner;
use tokio::sync::{mpsc, oneshot, watch};

use super::spool::{Append, SessionState, Spool, SpoolError};
use super::{Frames, RecordError, RecorderConfig, seal};
use crate::metrics;

/// Bytes that one flush takes at most; a larger event goes alone.
const BATCH: usize = 4 << 20;

type Reply = oneshot::Sender<Result<(), RecordError>>;

#[derive(Debug)]
pub(super) enum Msg {
    /// A session begins.
    Open { frames: Frames, reply: Reply },
    /// A session goes on; `seals` when it ends with this.
    Append { frames: Frames, seals: bool, reply: Option<Reply> },
    /// A session's task is gone without having sealed its recording.
    Abandoned { session: SessionId },
    /// The control plane has all before `next_seq`.
    Acknowledged { session: SessionId, next_seq: u64 },
    /// Another member of the control plane has of these only what comes before the number: the rest is sent again.
    Rewind { sessions: Vec<(SessionId, u64)>, done: oneshot::Sender<()> },
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
    spool: Spool,
    signer: Arc<SealSigner>,
    max_bytes: u64,
    mailbox: mpsc::Receiver<Msg>,
    view: watch::Sender<View>,
    /// Sessions that could not be written, or whose task is gone; to be sealed.
    broken: BTreeMap<SessionId, Code>,
    failed: bool,
}

struct Waiting {
    frames: Frames,
    seals: bool,
    reply: Option<Reply>,
}

impl Actor {
    pub(super) fn open(
        config: &RecorderConfig,
        signer: Arc<SealSigner>,
        mailbox: mpsc::Receiver<Msg>,
    ) -> Result<(Self, watch::Receiver<View>), SpoolError> {
        let segment_size = (config.max_bytes / 16).clamp(64 << 10, 8 << 20);
        let spool = Spool::open(&config.dir, segment_size)?.keeping(config.max_bytes / 8);
        let (view, watcher) = watch::channel(View::default());
        let mut actor =
            Self { spool, signer, max_bytes: config.max_bytes, mailbox, view, broken: BTreeMap::new(), failed: false };
        let left: Vec<SessionId> = actor.spool.open_sessions().map(|(session, _)| session).collect();
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

    /// Runs until it is told to stop, or every handle is gone.
    pub(super) fn run(mut self) {
        let mut stopping = false;
        while let Some(first) = if stopping { self.mailbox.try_recv().ok() } else { self.mailbox.blocking_recv() } {
            let mut appends = Vec::new();
            let mut size = 0_usize;
            let mut next = Some(first);
            while let Some(msg) = next {
                stopping |= matches!(msg, Msg::Stop);
                if let Some(waiting) = self.admit(msg) {
                    size = size.saturating_add(waiting.frames.bytes.len());
                    appends.push(waiting);
                }
                next = if size < BATCH { self.mailbox.try_recv().ok() } else { None };
            }
            if !appends.is_empty() {
                self.commit(appends);
            }
            self.seal_broken();
            self.publish();
            if self.spool.is_poisoned() {
                tracing::error!("the recording spool's files are in an unknown state: stopping");
                return;
            }
        }
    }

    /// What `msg` wants written, unless it is answered at once.
    fn admit(&mut self, msg: Msg) -> Option<Waiting> {
        match msg {
            Msg::Open { frames, reply } => {
                let full = self.spool.bytes() >= self.max_bytes / 10 * 9;
                if full || (self.failed && !self.recover()) {
                    let error = if full { RecordError::Full } else { RecordError::Unavailable };
                    drop(reply.send(Err(error)));
                    return None;
                }
                Some(Waiting { frames, seals: false, reply: Some(reply) })
            }
            Msg::Append { frames, seals, reply } => {
                let size = u64::try_from(frames.bytes.len()).unwrap_or(u64::MAX);
                // A seal is small and ends the session: always let in.
                let full = !seals && self.spool.bytes().saturating_add(size) > self.max_bytes;
                if full || self.failed || self.broken.contains_key(&frames.session) {
                    self.broken.entry(frames.session).or_insert(Code::RecordingUnavailable);
                    let error = if full { RecordError::Full } else { RecordError::Unavailable };
                    refuse(reply, error);
                    return None;
                }
                Some(Waiting { frames, seals, reply })
            }
            Msg::Abandoned { session } => {
                self.broken.entry(session).or_insert(Code::Internal);
                None
            }
            Msg::Acknowledged { session, next_seq } => {
                self.view.send_if_modified(|view| {
                    view.sessions.entry(session).or_default().acked = next_seq;
                    false
                });
                if let Err(error) = self.spool.acknowledged(session, next_seq) {
                    self.fail(&error);
                }
                None
            }
            Msg::Rewind { sessions, done } => {
                self.spool.rewind(&sessions);
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
                if self.failed {
                    self.recover();
                } else if let Err(error) = self.spool.delete_unneeded() {
                    self.fail(&error);
                }
                None
            }
            Msg::Stop => None,
        }
    }

    fn commit(&mut self, waiting: Vec<Waiting>) {
        let began = Instant::now();
        let (accepted, refused) = self.in_order(waiting);
        self.refuse_all(refused);
        let appends: Vec<Append<'_>> = accepted
            .iter()
            .map(|Waiting { frames, seals, .. }| Append {
                session: frames.session,
                first_seq: frames.first_seq,
                count: frames.count,
                seals: *seals,
                frames: &frames.bytes,
            })
            .collect();
        if appends.is_empty() {
            return;
        }
        match self.spool.commit(&appends) {
            Ok(()) => {
                metrics::recorder_flushed(began.elapsed(), appends.len());
                for reply in accepted.into_iter().filter_map(|w| w.reply) {
                    drop(reply.send(Ok(())));
                }
            }
            Err(error) => {
                self.fail(&error);
                self.refuse_all(accepted);
            }
        }
    }

    /// Parts what continues its session's durable chain from what does not: after a failure a session must leave no hole, and after
    /// its seal nothing.
    fn in_order(&self, waiting: Vec<Waiting>) -> (Vec<Waiting>, Vec<Waiting>) {
        let mut expected: BTreeMap<SessionId, Option<u64>> = BTreeMap::new();
        waiting.into_iter().partition(|Waiting { frames, seals, .. }| {
            let next = expected.entry(frames.session).or_insert_with(|| match self.spool.session(frames.session) {
                None => Some(0),
                Some(state) if state.sealed => None,
                Some(state) => Some(state.next_seq),
            });
            let continues = !self.failed && *next == Some(frames.first_seq);
            let after = frames.first_seq.saturating_add(u64::from(frames.count));
            *next = (continues && !seals).then_some(after);
            continues
        })
    }

    fn refuse_all(&mut self, waiting: Vec<Waiting>) {
        for Waiting { frames, reply, .. } in waiting {
            if self.spool.session(frames.session).is_some() {
                self.broken.entry(frames.session).or_insert(Code::RecordingUnavailable);
            }
            refuse(reply, RecordError::Unavailable);
        }
    }

    fn fail(&mut self, error: &std::io::Error) {
        if !self.failed {
            tracing::error!(%error, "the recording spool cannot be written: sessions that need it end");
            metrics::recorder_failed();
        }
        self.failed = true;
    }

    fn recover(&mut self) -> bool {
        match self.spool.probe() {
            Ok(()) => {
                tracing::info!("the recording spool can be written again");
                self.failed = false;
                self.publish();
                true
            }
            Err(_) => false,
        }
    }

    /// Closes the recordings of sessions that could not go on, where writing works.
    fn seal_broken(&mut self) {
        while let Some((session, code)) = self.broken.first_key_value().map(|(s, c)| (*s, *c)) {
            if self.failed {
                return;
            }
            let reason = match code {
                Code::RecordingUnavailable => "the recording could not be written",
                _ => "the session ended unexpectedly",
            };
            if let Err(error) = self.close(session, Some(code), reason, false) {
                self.fail(&error);
                return;
            }
            self.broken.remove(&session);
        }
    }

    fn close(
        &mut self,
        session: SessionId,
        code: Option<Code>,
        reason: &str,
        interrupted: bool,
    ) -> std::io::Result<()> {
        let Some(state) = self.spool.session(session).filter(|state| !state.sealed) else { return Ok(()) };
        let mut chain = Chain::resume(session, state.next_seq, Digest(state.head));
        let mut frames = Vec::new();
        let count = seal::close(&mut chain, clock::now(), code, reason, interrupted, &self.signer, &mut frames)
            .map_err(std::io::Error::other)?;
        self.spool.commit(&[Append { session, first_seq: state.next_seq, count, seals: true, frames: &frames }])
    }

    fn publish(&mut self) {
        let bytes = self.spool.bytes();
        metrics::recorder_spool(bytes);
        let ready = !self.failed && bytes < self.max_bytes / 10 * 9;
        let spool = &self.spool;
        self.view.send_if_modified(|view| {
            let (active, len) = spool.active();
            let mut changed = view.segments.insert(active, len) != Some(len);
            if (view.segments.len(), view.deleted) != (spool.segment_count(), spool.deleted()) {
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
        });
    }
}

fn refuse(reply: Option<Reply>, error: RecordError) {
    if let Some(reply) = reply {
        drop(reply.send(Err(error)));
    }
}
