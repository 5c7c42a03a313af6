//! Snapshots on their way out: one at a time for each peer, in pieces, at a bounded rate, over a connection of their own.
//!
//! Raft offers one by a message without data and then waits for what became of it. A transfer that breaks off goes on where the receiver
//! says that it has got to; after some attempts Raft is told that it failed, and offers a newer one when the peer is back.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use bytes::Bytes;
use futures::Stream;
use postern_proto::peer::v1 as pb;
use postern_proto::peer::v1::peer_service_client::PeerServiceClient;
use postern_runtime::backoff::Backoff;
use postern_runtime::supervisor::OnEnd;
use raft::eraftpb::Message;
use raft_prost::Message as _;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;
use tonic::{Code, Status};
use tracing::{debug, info, warn};

use super::Shared;
use super::dial::DialError;
use super::link::Peer;
use crate::raft::log_store::StorageError;

/// Of one chunk's data.
const CHUNK: usize = 256 << 10;
const ATTEMPTS: u32 = 8;
const RETRY_BASE: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// A receiver that neither takes data nor tells of its progress for this long is given up.
const STALL_LIMIT: Duration = Duration::from_secs(15);

/// The snapshot that Raft offered last: a newer one takes its place.
#[derive(Default)]
pub(super) struct Offers {
    waiting: Mutex<Option<Message>>,
    arrived: Notify,
}

impl Offers {
    pub(super) fn put(&self, offer: Message) {
        *self.lock() = Some(offer);
        self.arrived.notify_one();
    }

    async fn next(&self) -> Message {
        loop {
            let arrived = self.arrived.notified();
            if let Some(offer) = self.lock().take() {
                return offer;
            }
            arrived.await;
        }
    }

    fn has_newer(&self) -> bool {
        self.lock().is_some()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Message>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, thiserror::Error)]
enum ShipError {
    #[error("a newer one has taken its place")]
    Gone,
    #[error("it cannot be read: {0}")]
    Disk(#[from] StorageError),
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("{0}")]
    Refused(Box<Status>),
    #[error("no progress for {STALL_LIMIT:?}")]
    Stalled,
    #[error("it stopped in the middle")]
    Ended,
}

impl From<Status> for ShipError {
    fn from(status: Status) -> Self {
        Self::Refused(Box::new(status))
    }
}

/// A snapshot, ready to be sent.
struct Parcel {
    header: pb::SnapshotHeader,
    data: Bytes,
}

/// Sends what Raft offers, until the peer is no member any more.
pub(super) async fn run(shared: Arc<Shared>, peer: Arc<Peer>) {
    loop {
        let offer = tokio::select! {
            () = peer.stop.cancelled() => return,
            offer = peer.offers.next() => offer,
        };
        let index = offer.get_snapshot().get_metadata().index;
        let sent = tokio::select! {
            () = peer.stop.cancelled() => return,
            sent = deliver(&shared, &peer, offer) => sent,
        };
        match &sent {
            Ok(()) => info!(peer = peer.id, index, "a peer has installed a snapshot"),
            Err(error) => warn!(peer = peer.id, index, %error, "a snapshot did not get to a peer"),
        }
        if let Some(raft) = shared.raft() {
            raft.report_snapshot(peer.id, sent.is_ok());
        }
    }
}

async fn deliver(shared: &Arc<Shared>, peer: &Peer, offer: Message) -> Result<(), ShipError> {
    let parcel = parcel(shared, peer, offer).await?;
    let mut backoff = Backoff::new(RETRY_BASE, RETRY_MAX);
    let mut attempt = 1;
    loop {
        let error = match transfer(shared, peer, &parcel).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if attempt >= ATTEMPTS || peer.offers.has_newer() {
            return Err(error);
        }
        debug!(peer = peer.id, index = parcel.header.index, attempt, %error, "a snapshot is sent on after a break");
        attempt = attempt.saturating_add(1);
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

/// Reads and hashes the data on a thread of its own: it may be large.
async fn parcel(shared: &Arc<Shared>, peer: &Peer, mut offer: Message) -> Result<Parcel, ShipError> {
    let raft = Arc::clone(shared.raft().ok_or(ShipError::Gone)?);
    let (index, term) = (offer.get_snapshot().get_metadata().index, offer.get_snapshot().get_metadata().term);
    // A message that still held the data would carry it twice.
    offer.mut_snapshot().data.clear();
    let hello = shared.hello(peer.id);
    let (done, ready) = oneshot::channel();
    shared.supervisor.spawn_blocking_thread("snapshot-read", OnEnd::EndPart, move || {
        let parcel = || {
            let data = raft.snapshot(index, term)?.ok_or(ShipError::Gone)?;
            let header = pb::SnapshotHeader {
                hello: Some(hello),
                message: offer.encode_to_vec().into(),
                index,
                term,
                length: u64::try_from(data.len()).unwrap_or(u64::MAX),
                sha256: Bytes::copy_from_slice(digest::digest(&digest::SHA256, &data).as_ref()),
            };
            Ok(Parcel { header, data })
        };
        // Nobody waits any more when the peer was removed meanwhile.
        let _ = done.send(parcel());
    });
    ready.await.map_err(|_| ShipError::Gone)?
}

async fn transfer(shared: &Arc<Shared>, peer: &Peer, parcel: &Parcel) -> Result<(), ShipError> {
    let entry = shared.book.get(peer.id).ok_or(DialError::NoAddress)?;
    let channel = shared.dialer.connect(&entry).await?;
    let mut client = PeerServiceClient::new(channel);
    let (begin, from) = oneshot::channel();
    let chunks = Chunks {
        header: Some(parcel.header.clone()),
        from: Some(from),
        data: parcel.data.clone(),
        offset: 0,
        rate: shared.config.snapshot_rate.max(1),
        pace: None,
        label: peer.id.to_string(),
    };
    let answers = timeout(STALL_LIMIT, client.install_snapshot(chunks.stream())).await;
    let mut answers = answers.map_err(|_| ShipError::Stalled)??.into_inner();
    let mut begin = Some(begin);
    loop {
        let answer = timeout(STALL_LIMIT, answers.message()).await.map_err(|_| ShipError::Stalled)??;
        match answer.and_then(|answer| answer.response) {
            Some(pb::install_snapshot_response::Response::Received(received)) => {
                if let Some(begin) = begin.take() {
                    debug!(peer = peer.id, index = parcel.header.index, received, "a snapshot goes on from here");
                    let _ = begin.send(received);
                }
            }
            Some(pb::install_snapshot_response::Response::Installed(true)) => return Ok(()),
            Some(pb::install_snapshot_response::Response::Installed(false)) => {
                return Err(Status::new(Code::Aborted, "it was not installed").into());
            }
            None => return Err(ShipError::Ended),
        }
    }
}

/// The header, then, once the receiver has said from where, the chunks.
struct Chunks {
    header: Option<pb::SnapshotHeader>,
    from: Option<oneshot::Receiver<u64>>,
    data: Bytes,
    offset: usize,
    /// Bytes a second.
    rate: u64,
    /// Since when, and how much was sent since.
    pace: Option<(Instant, u64)>,
    label: String,
}

impl Chunks {
    fn stream(self) -> impl Stream<Item = pb::InstallSnapshotRequest> + Send + 'static {
        futures::stream::unfold(self, |mut this| async move {
            let request = this.next().await?;
            Some((pb::InstallSnapshotRequest { request: Some(request) }, this))
        })
    }

    async fn next(&mut self) -> Option<pb::install_snapshot_request::Request> {
        use pb::install_snapshot_request::Request;
        if let Some(header) = self.header.take() {
            return Some(Request::Header(header));
        }
        if let Some(from) = self.from.take() {
            self.offset = usize::try_from(from.await.ok()?).ok()?;
        }
        let rest = self.data.len().checked_sub(self.offset)?;
        if rest == 0 {
            // The stream stays open until the receiver is done with it.
            return std::future::pending().await;
        }
        self.pause().await;
        let data = self.data.slice(self.offset..self.offset.saturating_add(rest.min(CHUNK)));
        let offset = u64::try_from(self.offset).ok()?;
        self.offset = self.offset.saturating_add(data.len());
        let length = u64::try_from(data.len()).ok()?;
        if let Some((_, sent)) = &mut self.pace {
            *sent = sent.saturating_add(length);
        }
        metrics::counter!("postern_control_peer_snapshot_bytes_total", "peer" => self.label.clone(), "direction" => "out")
            .increment(length);
        let crc32 = crc32fast::hash(&data);
        Some(Request::Chunk(pb::SnapshotChunk { offset, data, crc32 }))
    }

    /// Waits while more was sent than the rate allows.
    async fn pause(&mut self) {
        let (since, sent) = *self.pace.get_or_insert_with(|| (Instant::now(), 0));
        let due = Duration::from_millis(sent.saturating_mul(1_000).checked_div(self.rate).unwrap_or(0));
        tokio::time::sleep(due.saturating_sub(since.elapsed())).await;
    }
}
