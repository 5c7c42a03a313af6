//! Snapshots on their way in: into a file first, one at a time.
//!
//! The file is named by exactly which snapshot it holds, so that a sender who comes back, or a node that was restarted, goes on where it
//! broke off. It is read once it is whole, checked against its digest, and given to Raft; it goes once the state is applied.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest;
use futures::future::BoxFuture;
use futures::{FutureExt as _, Stream};
use postern_proto::peer::v1 as pb;
use postern_runtime::pki::create_private_dir;
use postern_runtime::supervisor::OnEnd;
use raft::eraftpb::{Message, MessageType};
use raft_prost::Message as _;
use tokio::fs::{File, OpenOptions};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{OwnedMutexGuard, oneshot};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};
use tracing::{error, info, warn};

use super::service::Caller;
use super::{RaftSide, Shared};

/// The largest snapshot that is taken in: it has to fit into memory.
const MAX_SNAPSHOT: u64 = 1 << 30;
const MAX_CHUNK: usize = 1 << 20;
/// Progress is told after this many bytes.
const TELL_EVERY: u64 = 1 << 20;
/// While the state is applied, the sender hears this often that it is not forgotten.
const TELL_AFTER: Duration = Duration::from_secs(1);
/// How long Raft may take to apply it.
const APPLY_LIMIT: Duration = Duration::from_secs(30);
/// How long a transfer may take to give way to a newer one.
const GIVE_WAY_LIMIT: Duration = Duration::from_secs(5);
/// A sender that sends nothing for this long is gone.
const STALL_LIMIT: Duration = Duration::from_secs(15);
const SUFFIX: &str = ".part";

/// The transfer that goes on, if one does.
#[derive(Default)]
pub(super) struct Installs {
    current: Mutex<Option<(u64, CancellationToken)>>,
    running: Arc<tokio::sync::Mutex<()>>,
}

impl Installs {
    /// The only transfer from now on. One of an older or the same term gives way: its sender came back, or there is a newer leader.
    async fn enter(&self, term: u64) -> Result<(CancellationToken, OwnedMutexGuard<()>), Status> {
        let busy = || Status::aborted("another snapshot is on its way to this member");
        let token = CancellationToken::new();
        {
            let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((running, former)) = &*current {
                if *running > term && self.running.try_lock().is_err() {
                    return Err(busy());
                }
                former.cancel();
            }
            *current = Some((term, token.clone()));
        }
        let guard = timeout(GIVE_WAY_LIMIT, Arc::clone(&self.running).lock_owned()).await.map_err(|_| busy())?;
        if token.is_cancelled() {
            return Err(busy());
        }
        Ok((token, guard))
    }
}

/// Checks the header and opens the file; what follows happens as the sender reads the answers.
pub(super) async fn begin(
    shared: &Arc<Shared>,
    installs: &Installs,
    raft: Arc<dyn RaftSide>,
    caller: &Caller,
    header: pb::SnapshotHeader,
    incoming: Streaming<pb::InstallSnapshotRequest>,
) -> Result<impl Stream<Item = Result<pb::InstallSnapshotResponse, Status>> + Send + 'static, Status> {
    let message = offer(&header, caller, shared.config.node_id)?;
    let (gives_way, running) = installs.enter(message.term).await?;
    let dir = shared.config.data_dir.join("incoming");
    let (file, path, received) = open(&dir, &header).await.map_err(|error| disk(&error))?;
    // Entries may have come by another way since it was offered.
    let has = raft.applied(header.index).now_or_never().is_some();
    if !has {
        info!(peer = caller.id, index = header.index, length = header.length, received, "a snapshot comes in");
    }
    let install = Install {
        shared: Arc::clone(shared),
        raft,
        label: caller.id.to_string(),
        header,
        message: Some(message),
        incoming,
        file,
        path,
        received,
        told: None,
        applying: has.then(|| (futures::future::ready(()).boxed(), Instant::now() + APPLY_LIMIT)),
        gives_way,
        _running: running,
    };
    Ok(install.answers())
}

/// The Raft message of a header, when it is what the header says.
fn offer(header: &pb::SnapshotHeader, caller: &Caller, own: u64) -> Result<Message, Status> {
    let invalid = |what: &str| Status::invalid_argument(format!("the snapshot's header: {what}"));
    let message = Message::decode(header.message.as_ref()).map_err(|_| invalid("its message cannot be decoded"))?;
    if message.msg_type() != MessageType::MsgSnapshot || message.from != caller.id || message.to != own {
        return Err(invalid("its message is not the caller's offer to this member"));
    }
    let metadata = message.get_snapshot().get_metadata();
    if header.index == 0 || metadata.index != header.index || metadata.term != header.term {
        return Err(invalid("index and term are not those of its message"));
    }
    if !message.get_snapshot().data.is_empty() {
        return Err(invalid("the data comes in chunks"));
    }
    if header.sha256.len() != digest::SHA256_OUTPUT_LEN {
        return Err(invalid("sha256 has 32 bytes"));
    }
    if header.length > MAX_SNAPSHOT {
        return Err(invalid(&format!("more than {MAX_SNAPSHOT} bytes")));
    }
    Ok(message)
}

/// The file of exactly this snapshot and how much it has; those of others go.
async fn open(dir: &Path, header: &pb::SnapshotHeader) -> io::Result<(File, PathBuf, u64)> {
    create_private_dir(dir).map_err(io::Error::other)?;
    let mut digest = String::new();
    for byte in &header.sha256 {
        use std::fmt::Write as _;
        let _ = write!(digest, "{byte:02x}");
    }
    let path = dir.join(format!("{}-{}-{digest}{SUFFIX}", header.index, header.term));
    let mut files = tokio::fs::read_dir(dir).await?;
    while let Some(other) = files.next_entry().await? {
        let other = other.path();
        if other != path && other.to_str().is_some_and(|name| name.ends_with(SUFFIX)) {
            tokio::fs::remove_file(&other).await?;
        }
    }
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path).await?;
    let mut received = file.metadata().await?.len();
    if received > header.length {
        file.set_len(0).await?;
        received = 0;
    }
    Ok((file, path, received))
}

struct Install {
    shared: Arc<Shared>,
    raft: Arc<dyn RaftSide>,
    label: String,
    header: pb::SnapshotHeader,
    message: Option<Message>,
    incoming: Streaming<pb::InstallSnapshotRequest>,
    file: File,
    path: PathBuf,
    received: u64,
    /// What the sender knows to be received.
    told: Option<u64>,
    /// Raft has it, until when.
    applying: Option<(BoxFuture<'static, ()>, Instant)>,
    gives_way: CancellationToken,
    _running: OwnedMutexGuard<()>,
}

enum Next {
    Received(u64),
    Installed,
}

impl Install {
    fn answers(self) -> impl Stream<Item = Result<pb::InstallSnapshotResponse, Status>> + Send + 'static {
        use pb::install_snapshot_response::Response;
        let respond = |response| Ok(pb::InstallSnapshotResponse { response: Some(response) });
        futures::stream::unfold(Some(self), move |this| async move {
            let mut this = this?;
            match Box::pin(this.next()).await {
                Ok(Next::Received(received)) => Some((respond(Response::Received(received)), Some(this))),
                Ok(Next::Installed) => Some((respond(Response::Installed(true)), None)),
                Err(status) => {
                    warn!(
                        index = this.header.index,
                        received = this.received,
                        error = status.message(),
                        "a snapshot did not come in"
                    );
                    Some((Err(status), None))
                }
            }
        })
    }

    async fn next(&mut self) -> Result<Next, Status> {
        if self.applying.is_none() {
            if self.told.is_none() {
                return Ok(self.tell());
            }
            while self.received < self.header.length {
                self.receive().await?;
                if self.received.saturating_sub(self.told.unwrap_or(0)) >= TELL_EVERY {
                    return Ok(self.tell());
                }
            }
            let message = self.verify().await?;
            let applied = self.raft.applied(self.header.index);
            self.raft.step(message);
            self.applying = Some((applied, Instant::now() + APPLY_LIMIT));
        }
        let Some((applied, deadline)) = &mut self.applying else { return Ok(self.tell()) };
        match timeout(TELL_AFTER, applied).await {
            Ok(()) => {
                // A file that stays behind goes with the next snapshot.
                let _ = tokio::fs::remove_file(&self.path).await;
                Ok(Next::Installed)
            }
            Err(_) if Instant::now() < *deadline => Ok(self.tell()),
            Err(_) => Err(Status::aborted("Raft did not take the snapshot over")),
        }
    }

    fn tell(&mut self) -> Next {
        self.told = Some(self.received);
        Next::Received(self.received)
    }

    async fn receive(&mut self) -> Result<(), Status> {
        let request = tokio::select! {
            () = self.shared.stop.cancelled() => return Err(Status::unavailable("this member stops")),
            () = self.gives_way.cancelled() => return Err(Status::aborted("a newer transfer took this one's place")),
            request = timeout(STALL_LIMIT, self.incoming.message()) => {
                request.map_err(|_| Status::deadline_exceeded("no data any more"))??
            }
        };
        let Some(pb::install_snapshot_request::Request::Chunk(chunk)) = request.and_then(|request| request.request)
        else {
            return Err(Status::invalid_argument("the snapshot ends before its end"));
        };
        let length = u64::try_from(chunk.data.len()).unwrap_or(u64::MAX);
        let end = self.received.saturating_add(length);
        if chunk.offset != self.received || length == 0 || chunk.data.len() > MAX_CHUNK || end > self.header.length {
            return Err(Status::invalid_argument("a chunk does not follow the one before"));
        }
        if crc32fast::hash(&chunk.data) != chunk.crc32 {
            metrics::counter!("postern_control_peer_snapshot_damaged_total").increment(1);
            return Err(Status::data_loss(format!("the chunk at {} does not have its checksum", chunk.offset)));
        }
        self.file.write_all(&chunk.data).await.map_err(|error| disk(&error))?;
        self.received = end;
        metrics::counter!("postern_control_peer_snapshot_bytes_total", "peer" => self.label.clone(), "direction" => "in")
            .increment(length);
        Ok(())
    }

    /// The whole of it, durable and checked, as Raft takes it.
    async fn verify(&mut self) -> Result<Message, Status> {
        self.file.flush().await.map_err(|error| disk(&error))?;
        self.file.sync_all().await.map_err(|error| disk(&error))?;
        let (done, read) = oneshot::channel();
        let path = self.path.clone();
        self.shared.supervisor.spawn_blocking_thread("snapshot-verify", OnEnd::EndPart, move || {
            let read = std::fs::read(path).map(|data| (digest::digest(&digest::SHA256, &data), data));
            let _ = done.send(read);
        });
        let stopped = |_| Status::unavailable("this member stops");
        let (found, data) = read.await.map_err(stopped)?.map_err(|error| disk(&error))?;
        if found.as_ref() != self.header.sha256.as_ref() {
            metrics::counter!("postern_control_peer_snapshot_damaged_total").increment(1);
            let _ = tokio::fs::remove_file(&self.path).await;
            return Err(Status::data_loss("the snapshot does not have its checksum: it was discarded"));
        }
        let mut message = self.message.take().ok_or_else(|| Status::internal("the snapshot was given over before"))?;
        message.mut_snapshot().data = data;
        Ok(message)
    }
}

/// Told here in full; the sender learns what it can do about.
fn disk(error: &io::Error) -> Status {
    error!(%error, "an incoming snapshot cannot be stored");
    let code = if error.kind() == io::ErrorKind::StorageFull { Code::ResourceExhausted } else { Code::Internal };
    Status::new(code, "the snapshot cannot be stored")
}
