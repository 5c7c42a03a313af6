//! One session's recording, as the session sees it.

use std::sync::Arc;

use super::actor::Msg;
use super::log::{Until, Written};
use super::{Durability, Frames, RecordError, Way, ask, seal};
use postern_core::policy::{Covered, Obliged};
use postern_core::recording::{Chain, Event};
use postern_core::{Code, OperationId, SessionId};
use postern_runtime::clock;
use postern_runtime::pki::SealSigner;

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

    /// Records the event of a permitted operation; as durable on return as operations are to be. The answer is what lets it be forwarded.
    ///
    /// # Errors
    /// When it cannot be recorded: the operation must not run.
    pub(crate) async fn operation(&mut self, covered: Covered, event: &Event) -> Result<Cleared, RecordError> {
        self.append(event).await?;
        let permit = covered.into_permit();
        Ok(Cleared { operation: permit.operation(), obliged: permit.into_obliged() })
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
        seal::close(&mut self.chain, clock::now(), code, reason, false, &self.signer, &mut self.waiting)?;
        let frames = self.take();
        ask(&self.way.to, |reply| Msg::Seal { frames, reply }).await?;
        self.sealed = true;
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), RecordError> {
        self.write(match self.way.durability {
            Durability::Spooled => Until::Durable,
            Durability::Buffered => Until::Written,
        })
        .await
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

impl Drop for SessionRecorder {
    fn drop(&mut self) {
        if !self.sealed {
            // A full mailbox loses this; the next start of the gateway then closes the session as interrupted.
            drop(self.way.to.try_send(Msg::Abandoned { session: self.session }));
        }
    }
}
