//! The recorder: has events durable before what they tell of takes effect (I2), and brings them to the control plane.
//!
//! Sessions write their frames by themselves ([`log`]) and, by [`Durability::Spooled`], wait for the flush that they share with all others
//! that wait; by [`Durability::Quorum`], then for the control plane. One thread ([`actor`]) flushes, seals and deletes. The [`uploader`] reads behind it what was flushed and deletes nothing
//! itself.
//!
//! ```text
//! session task -- frames --> segment files --> uploader --> control plane
//!      ^---- durable ---- recorder thread <--- acknowledged ----'
//! ```

mod actor;
mod log;
mod seal;
mod session;
mod spool;
mod uploader;

use std::path::PathBuf;
use std::sync::{Arc, Weak};

use postern_core::recording::{EncodeError, Event, Started};
use postern_core::{Code, SessionId};
use postern_runtime::pki::SealSigner;
use postern_runtime::supervisor::{OnEnd, Supervisor};
use tokio::sync::{Notify, mpsc, oneshot, watch};

pub use postern_core::policy::Durability;
pub(crate) use session::{Cleared, Recorded, SessionRecorder, Unacknowledged};
pub(crate) use spool::cipher::SpoolKey;
pub use spool::segment::SpoolError;
pub(crate) use uploader::{UploadClient, Uploader};

use actor::{Msg, View};
use log::Log;
use spool::spare;

/// Messages that wait. Full: whoever has another waits its turn, so this bounds memory and loses nothing.
const MAILBOX: usize = 256;

/// An event could not be made durable: what it tells of must not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RecordError {
    /// The spool cannot be written (disk full, I/O error), or the recorder is gone.
    #[error("the recording spool cannot be written")]
    Unavailable,
    /// The spool holds as much as it may, and the control plane does not take it.
    #[error("the recording spool is full")]
    Full,
    /// The control plane has not acknowledged it in time.
    #[error("the control plane has not acknowledged the operation's record in time")]
    Unacknowledged,
    /// The control plane does not take the session's recording at all.
    #[error("the control plane refuses the session's recording")]
    Refused,
    /// One event is larger than a recording may hold.
    #[error("an event of {0} bytes is larger than a recording may hold")]
    TooLarge(usize),
}

impl RecordError {
    /// What the client is told.
    #[must_use]
    pub(crate) const fn code(&self) -> Code {
        match self {
            Self::Unavailable | Self::Full | Self::Unacknowledged | Self::Refused => Code::RecordingUnavailable,
            Self::TooLarge(_) => Code::TooLarge,
        }
    }
}

impl From<EncodeError> for RecordError {
    fn from(error: EncodeError) -> Self {
        match error {
            EncodeError::TooLarge(size) => Self::TooLarge(size),
            // No event of ours fails to encode; if one does, it is not recorded, so it does not happen.
            EncodeError::Json(_) => Self::Unavailable,
        }
    }
}

/// Where the spool is, and how much it may hold.
#[derive(Clone, Debug)]
pub(crate) struct RecorderConfig {
    /// The spool's directory; made when it is missing.
    pub dir: PathBuf,
    /// Bytes that the spool may hold. New sessions are refused from nine tenths of it on.
    pub max_bytes: u64,
    /// What operations wait for of which no policy says it.
    pub durability: Durability,
}

impl RecorderConfig {
    /// Bytes of a segment, which is deleted as a whole.
    fn segment_size(&self) -> u64 {
        (self.max_bytes / 16).clamp(64 << 10, 8 << 20)
    }
}

/// Starts recordings. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct RecorderHandle {
    way: Way,
    view: watch::Receiver<View>,
    signer: Arc<SealSigner>,
}

/// How sessions reach the spool.
#[derive(Clone, Debug)]
struct Way {
    to: mpsc::Sender<Msg>,
    /// Where they write; the thread's.
    log: Weak<Log>,
    durability: Durability,
}

/// Opens the spool, closes what a crash left open, and starts the recorder's thread. Blocks on the disk.
///
/// # Errors
/// When the spool cannot be used.
pub(crate) fn start(
    config: &RecorderConfig,
    key: SpoolKey,
    signer: SealSigner,
    supervisor: &Supervisor,
) -> Result<(RecorderHandle, Uploader), SpoolError> {
    let signer = Arc::new(signer);
    let (to, mailbox) = mpsc::channel(MAILBOX);
    let (spares, wanted) = std::sync::mpsc::channel();
    let (actor, view) = actor::Actor::open(config, &key, Arc::clone(&signer), mailbox, spares)?;
    let log = actor.log();
    let (making, dir, size) = (Arc::downgrade(&log), config.dir.clone(), config.segment_size());
    let making_key = key.clone();
    supervisor.spawn_blocking_thread("recorder-room", OnEnd::EndPart, move || {
        spare::keep(&making, &dir, &making_key, size, &wanted)
    });
    let way = Way { to: to.clone(), log: Arc::downgrade(&log), durability: config.durability };
    supervisor.spawn("recorder-flush", OnEnd::EndPart, flush_soon(log.written(), to.clone()));
    let urgent = log.urgent();
    drop(log);
    let handle = RecorderHandle { way, view: view.clone(), signer };
    let uploader = Uploader::new(config.dir.clone(), key, view, to, urgent);
    supervisor.spawn_blocking_thread("recorder", OnEnd::StopNode, move || actor.run());
    Ok((handle, uploader))
}

impl RecorderHandle {
    /// Opens a session's recording; its first event is durable on return.
    ///
    /// # Errors
    /// When it cannot be recorded: the session must not begin.
    pub(crate) async fn open(&self, started: Started) -> Result<SessionRecorder, RecordError> {
        let session = started.session;
        let mut recorder = SessionRecorder::new(session, self.way.clone(), Arc::clone(&self.signer));
        recorder.begin(&Event::Started(Box::new(started))).await?;
        Ok(recorder)
    }

    /// Whether new sessions can be recorded, as far as is known.
    #[must_use]
    pub(crate) fn is_ready(&self) -> bool {
        self.view.borrow().ready
    }
}

/// Has the recorder's thread flush what sessions have written without waiting.
async fn flush_soon(written: Arc<Notify>, to: mpsc::Sender<Msg>) {
    loop {
        tokio::select! {
            () = to.closed() => return,
            () = written.notified() => {}
        }
        tokio::time::sleep(log::FLUSH_AFTER).await;
        if to.send(Msg::Flush).await.is_err() {
            return;
        }
    }
}

/// Asks the recorder's thread and waits; any failure to answer is a failure to record.
async fn ask(
    to: &mpsc::Sender<Msg>,
    msg: impl FnOnce(oneshot::Sender<Result<(), RecordError>>) -> Msg,
) -> Result<(), RecordError> {
    let (reply, answer) = oneshot::channel();
    to.send(msg(reply)).await.map_err(|_| RecordError::Unavailable)?;
    answer.await.map_err(|_| RecordError::Unavailable)?
}

/// Frames of one session, encoded and chained.
#[derive(Debug)]
struct Frames {
    session: SessionId,
    first_seq: u64,
    count: u32,
    bytes: Vec<u8>,
}

#[cfg(test)]
mod tests;
