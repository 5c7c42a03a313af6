//! One session's recording, as the session sees it.

use std::sync::Arc;
use std::time::Duration;

use super::actor::Msg;
use super::log::{Until, Written};
use super::{Durability, Frames, RecordError, Way, ask, seal};
use crate::metrics;
use postern_core::policy::{Covered, Obliged, Permit};
use postern_core::recording::{Chain, Event};
use postern_core::{Code, OperationId, SessionId};
use postern_runtime::clock;
use postern_runtime::pki::SealSigner;
use tokio::sync::oneshot;

/// Frames that may wait for the next flush, in bytes. Past it, the session waits for the disk.
const WAITING: usize = 256 << 10;
/// Room for them that a session keeps.
const KEPT: usize = 4 << 10;

/// Proof that an operation is permitted and recorded, as durably as the gateway is to record. Only the recorder makes one, from a [`Covered`] permit; only with one does
/// anything of an operation go to a target (I1, I2).
#[derive(Debug)]
#[must_use = "the operation was recorded as forwarded"]
pub(crate) struct Cleared {
    operation: OperationId,
    obliged: Obliged,
}

impl Cleared {
    /// Which operation may go.
    #[must_use]
    pub(crate) const fn operation(&self) -> OperationId {
        self.operation
    }

    /// How it may run only.
    #[must_use]
    pub(crate) const fn obliged(&self) -> &Obliged {
        &self.obliged
    }
}

/// What became of a permitted operation's event.
#[derive(Debug)]
#[must_use = "the operation was recorded as forwarded"]
pub(crate) enum Recorded {
    /// It is as durable as it is to be.
    Cleared(Cleared),
    /// It is on the gateway's disk, and the control plane is to have it, too.
    Unacknowledged(Unacknowledged),
}

/// A permitted operation whose event is on its way to the control plane. It is cleared by the acknowledgement alone.
#[derive(Debug)]
#[must_use = "the operation was recorded, and does not run before it is cleared"]
pub(crate) struct Unacknowledged {
    cleared: Cleared,
    answer: oneshot::Receiver<Result<(), RecordError>>,
    came: Option<Result<(), RecordError>>,
    approved: bool,
}

impl Recorded {
    /// Waits for what it waits for, but no longer than `limit`.
    ///
    /// # Errors
    /// When it does not come, or the recording is refused: the operation must not run.
    pub(crate) async fn within(self, limit: Duration) -> Result<Cleared, RecordError> {
        match self {
            Self::Cleared(cleared) => Ok(cleared),
            Self::Unacknowledged(mut waits) => {
                // What has not come is an error below.
                let _ = tokio::time::timeout(limit, waits.acknowledged()).await;
                waits.clear()
            }
        }
    }
}

impl Unacknowledged {
    /// Which operation waits.
    pub(crate) const fn operation(&self) -> OperationId {
        self.cleared.operation
    }

    /// Whether it was held, and is let go by an approval.
    pub(crate) const fn is_approved(&self) -> bool {
        self.approved
    }

    /// Over when it is known whether the control plane has it. Cancel-safe.
    pub(crate) async fn acknowledged(&mut self) {
        if self.came.is_none() {
            self.came = Some((&mut self.answer).await.unwrap_or(Err(RecordError::Unavailable)));
        }
    }

    /// Policy has changed meanwhile, and would let it run like this only: both hold.
    pub(crate) fn oblige(&mut self, also: Obliged) {
        self.cleared.obliged = std::mem::take(&mut self.cleared.obliged).and(also);
    }

    /// What lets it be forwarded.
    ///
    /// # Errors
    /// When the control plane has not acknowledged it: the operation must not run.
    pub(crate) fn clear(self) -> Result<Cleared, RecordError> {
        self.came.unwrap_or(Err(RecordError::Unacknowledged)).map(|()| self.cleared)
    }
}

/// Writes one session's recording. Dropped without [`SessionRecorder::seal`], the recorder's thread closes it as broken off.
#[derive(Debug)]
pub(crate) struct SessionRecorder {
    session: SessionId,
    chain: Chain,
    waiting: Vec<u8>,
    first_seq: u64,
    way: Way,
    signer: Arc<SealSigner>,
    sealed: bool,
}

impl SessionRecorder {
    pub(super) fn new(session: SessionId, way: Way, signer: Arc<SealSigner>) -> Self {
        let chain = Chain::start(session);
        Self { session, chain, waiting: Vec::new(), first_seq: 0, way, signer, sealed: false }
    }

    pub(super) async fn begin(&mut self, started: &Event) -> Result<(), RecordError> {
        self.chain.append(clock::now(), started, &mut self.waiting)?;
        let frames = self.take();
        ask(&self.way.to, |reply| Msg::Open { frames, reply }).await
    }

    /// Records the event of a permitted operation, as durably as policy asks for, or else as the gateway is to. The answer is what lets it be forwarded.
    ///
    /// # Errors
    /// When it cannot be recorded: the operation must not run.
    pub(crate) async fn operation(&mut self, covered: Covered, event: &Event) -> Result<Recorded, RecordError> {
        let permit = covered.into_permit();
        let class = self.class_of(&permit);
        self.hold_back().await;
        self.chain.append(clock::now(), event, &mut self.waiting)?;
        // Before it is written: what is flushed with somebody waiting is sent at once.
        let answer = match class {
            Durability::Quorum => {
                let log = self.way.log.upgrade().ok_or(RecordError::Unavailable)?;
                Some(log.acknowledgement(self.session, self.chain.next_seq()))
            }
            Durability::Spooled | Durability::Buffered => None,
        };
        self.write(until(class)).await?;
        let approved = permit.approval().is_some();
        let cleared = Cleared { operation: permit.operation(), obliged: permit.into_obliged() };
        Ok(match answer {
            None => Recorded::Cleared(cleared),
            Some(answer) => Recorded::Unacknowledged(Unacknowledged { cleared, answer, came: None, approved }),
        })
    }

    /// Whether the spool has room for another operation, as far as is known. Without a recorder nothing is recorded, and says so itself.
    pub(crate) fn has_room(&self) -> bool {
        self.way.log.upgrade().is_none_or(|log| log.has_room())
    }

    /// Waits for as long as the spool's fill asks for. What is recorded before the wait is in order with what comes after.
    async fn hold_back(&self) {
        let wait = self.way.log.upgrade().map(|log| log.pressure()).unwrap_or_default();
        if !wait.is_zero() {
            metrics::recorder_held_back(wait);
            tokio::time::sleep(wait).await;
        }
    }

    fn class_of(&self, permit: &Permit) -> Durability {
        permit.obliged().durability.as_ref().map_or(self.way.durability, |by| by.limit)
    }

    /// Records `event`; as durable on return as operations are to be, with all before it.
    ///
    /// # Errors
    /// When it cannot be recorded.
    pub(crate) async fn append(&mut self, event: &Event) -> Result<(), RecordError> {
        self.chain.append(clock::now(), event, &mut self.waiting)?;
        self.flush().await
    }

    /// Records `event`, in order; durable with the next flush. Waits only when much is waiting.
    ///
    /// # Errors
    /// When it cannot be recorded.
    pub(crate) async fn enqueue(&mut self, event: &Event) -> Result<(), RecordError> {
        self.chain.append(clock::now(), event, &mut self.waiting)?;
        if self.waiting.len() >= WAITING { self.flush().await } else { Ok(()) }
    }

    /// Whether anything waits for the next flush.
    pub(crate) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Writes what waits, without waiting for the disk.
    ///
    /// # Errors
    /// When it cannot be recorded.
    pub(crate) async fn push(&mut self) -> Result<(), RecordError> {
        self.write(Until::Written).await
    }

    /// Ends the recording and signs it; durable on return.
    ///
    /// # Errors
    /// When it cannot be recorded; the recorder's thread then seals it once it can write again.
    pub(crate) async fn seal(mut self, code: Option<Code>, reason: &str) -> Result<(), RecordError> {
        seal::close(&mut self.chain, clock::now(), code, reason, false, None, &self.signer, &mut self.waiting)?;
        let frames = self.take();
        ask(&self.way.to, |reply| Msg::Seal { frames, reply }).await?;
        self.sealed = true;
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), RecordError> {
        self.write(until(self.way.durability)).await
    }

    async fn write(&mut self, until: Until) -> Result<(), RecordError> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let frames = self.take();
        let log = self.way.log.upgrade().ok_or(RecordError::Unavailable)?;
        let written = log.write(&frames, until, &self.way.to)?;
        drop(log);
        // The room is used again.
        self.waiting = frames.bytes;
        self.waiting.clear();
        self.waiting.shrink_to(KEPT);
        match written {
            Written::Soon => Ok(()),
            Written::Flushing(answer) => answer.await.map_err(|_| RecordError::Unavailable)?,
        }
    }

    fn take(&mut self) -> Frames {
        let bytes = std::mem::take(&mut self.waiting);
        let next_seq = self.chain.next_seq();
        let count = u32::try_from(next_seq.saturating_sub(self.first_seq)).unwrap_or(u32::MAX);
        let frames = Frames { session: self.session, first_seq: self.first_seq, count, bytes };
        self.first_seq = next_seq;
        frames
    }
}

/// What of the gateway's own disk is waited for.
const fn until(class: Durability) -> Until {
    match class {
        Durability::Quorum | Durability::Spooled => Until::Durable,
        Durability::Buffered => Until::Marked,
    }
}

impl Drop for SessionRecorder {
    fn drop(&mut self) {
        if !self.sealed {
            // A full mailbox loses this; the next start of the gateway then closes the session as interrupted.
            drop(self.way.to.try_send(Msg::Abandoned { session: self.session }));
        }
    }
}
