//! Keeps recordings: takes frames from gateways, checks them against the chain, and has them durable before they are acknowledged.
//!
//! Upload calls -> [`Recordings`] -> bounded mailbox -> one thread that owns the files: a batch of appends, one fsync for each file,
//! then the answers. What waits in the mailbox is bounded by number and by bytes (I11): a full one makes callers wait, and through
//! them, by HTTP/2's flow control, gateways.

pub(crate) mod archive;
mod cipher;
pub(crate) mod copies;
mod file;
pub(crate) mod keys;
pub(crate) mod log;
mod note;
pub(crate) mod orphans;
mod progress;
mod read;
mod store;

use std::io;
use std::path::Path;
use std::sync::Arc;

use postern_core::session::Session;
use postern_core::{Name, SessionId};
use postern_runtime::supervisor::{OnEnd, Supervisor};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use archive::Header;
use keys::RecordingKeys;
pub(crate) use read::{Located, chunks};
use store::Store;

const MAILBOX: usize = 256;
/// Bytes of frames that may wait.
const WAITING_BYTES: usize = 64 << 20;

/// Frames of one session.
pub(crate) struct Append {
    /// Whose certificate they came by.
    pub(crate) gateway: Name,
    pub(crate) session: SessionId,
    pub(crate) first_seq: u64,
    pub(crate) frames: Vec<u8>,
}

/// How a session's recording stands.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    /// All events before it are durable.
    pub(crate) next_seq: u64,
    /// The recording is refused, and why.
    pub(crate) refused: Option<String>,
    /// The session as the index shall have it; none before its first event.
    pub(crate) session: Option<Arc<Session>>,
}

/// The store cannot take or find a recording now.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// The disk failed or is full: nothing of the request counts.
    #[error("the recording cannot be stored: {0}")]
    Io(String),
    /// The node stops.
    #[error("the recordings' store stops")]
    Stopped,
}

enum Msg {
    Append { append: Append, reply: oneshot::Sender<Result<Stored, StoreError>>, _room: OwnedSemaphorePermit },
    Locate { session: SessionId, reply: oneshot::Sender<Result<Option<Located>, StoreError>> },
    Sealed { session: SessionId, reply: oneshot::Sender<Result<Option<(Header, Located)>, StoreError>> },
    Archived { session: SessionId, reply: oneshot::Sender<Result<(), StoreError>> },
    Overtaken { session: SessionId, events: u64, reply: oneshot::Sender<Result<bool, StoreError>> },
    Stop,
}

/// An append that is under way.
pub(crate) struct Appending(oneshot::Receiver<Result<Stored, StoreError>>);

/// Asks the store. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Recordings {
    to: mpsc::Sender<Msg>,
    room: Arc<Semaphore>,
}

impl Recordings {
    /// Starts the store's thread over `dir`.
    pub(crate) fn start(dir: &Path, keys: RecordingKeys, supervisor: &Supervisor) -> io::Result<Self> {
        let store = Store::open(dir, keys)?;
        let (to, inbox) = mpsc::channel(MAILBOX);
        supervisor.spawn_blocking_thread("recordings", OnEnd::StopNode, move || store::run(store, inbox));
        Ok(Self { to, room: Arc::new(Semaphore::new(WAITING_BYTES)) })
    }

    /// Hands frames over, in the order of the calls; waits while too much waits already.
    pub(crate) async fn append(&self, append: Append) -> Result<Appending, StoreError> {
        let size = u32::try_from(append.frames.len().min(WAITING_BYTES)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).acquire_many_owned(size).await.map_err(|_| StoreError::Stopped)?;
        let (reply, answer) = oneshot::channel();
        let message = Msg::Append { append, reply, _room: room };
        self.to.send(message).await.map_err(|_| StoreError::Stopped)?;
        Ok(Appending(answer))
    }

    /// What this member has of a session's recording.
    pub(crate) async fn locate(&self, session: SessionId) -> Result<Option<Located>, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.to.send(Msg::Locate { session, reply }).await.map_err(|_| StoreError::Stopped)?;
        answer.await.unwrap_or(Err(StoreError::Stopped))
    }

    /// A recording that is sealed, and is on this member's disk.
    async fn sealed(&self, session: SessionId) -> Result<Option<(Header, Located)>, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.to.send(Msg::Sealed { session, reply }).await.map_err(|_| StoreError::Stopped)?;
        answer.await.unwrap_or(Err(StoreError::Stopped))
    }

    /// It is in the store, whole: it goes from this member's disk.
    async fn archived(&self, session: SessionId) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        self.to.send(Msg::Archived { session, reply }).await.map_err(|_| StoreError::Stopped)?;
        answer.await.unwrap_or(Err(StoreError::Stopped))
    }

    /// The store has all of a recording, `events`: of what is here of it, when it is a part, nothing stays. Whether there was.
    async fn overtaken(&self, session: SessionId, events: u64) -> Result<bool, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.to.send(Msg::Overtaken { session, events, reply }).await.map_err(|_| StoreError::Stopped)?;
        answer.await.unwrap_or(Err(StoreError::Stopped))
    }

    /// Ends the thread once all that waits is stored.
    pub(crate) async fn stop(&self) {
        // It may have ended already.
        let _ = self.to.send(Msg::Stop).await;
    }
}

impl Appending {
    /// How it went, once durable.
    pub(crate) async fn done(self) -> Result<Stored, StoreError> {
        self.0.await.unwrap_or(Err(StoreError::Stopped))
    }
}
