//! Brings the spool's records to the control plane, in order, as often as it takes.
//!
//! It reads what the recorder's thread has flushed, sends it, and passes acknowledgements back; the thread deletes. A lost connection,
//! or a restart, begins again at the oldest segment and skips what is acknowledged: the store takes what it already has without harm.
//!
//! Each member of the control plane has files of its own. When another takes over, it says that it lacks what the one before it had
//! acknowledged. What of it the spool still has is sent again; what it has not, the new member gets from the one before it. Until it can,
//! that session waits in the spool and the others go on.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use postern_core::SessionId;
use postern_proto::gateway::v1::recording_service_client::RecordingServiceClient;
use postern_proto::gateway::v1::{UploadRequest, UploadResponse};
use postern_runtime::backoff::Backoff;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::actor::{Held, Msg, View};
use super::log::REFUSED;
use super::spool::cipher::SpoolKey;
use super::spool::record::{MAX_RECORD, Next, Reader, Record};
use super::spool::segment::open_segment;
use crate::control::Failover;
use crate::metrics;

/// Client of the control plane's recording service.
pub(crate) type UploadClient = RecordingServiceClient<Failover>;

/// Requests sent and not acknowledged; and their bytes.
const WINDOW: usize = 64;
const WINDOW_BYTES: usize = 8 << 20;
/// What is read of the spool at once. Of that, all records of one session go as one request, up to half of it.
const BLOCK: usize = 1 << 20;
const BATCH: usize = BLOCK / 2;
/// How long what was recorded may wait for more: sessions that wait for an answer come first, and one request for many events costs all less.
const GATHER: Duration = Duration::from_millis(25);
/// An acknowledgement that takes longer means that the connection, or its other end, hangs.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
const TICK: Duration = Duration::from_secs(1);
/// What is left of the time for the last recordings when shutdown is to hurry.
const HURRIED: Duration = Duration::from_secs(2);
/// When a session is tried again whose earlier events are at a member that does not answer.
const STALLED_FOR: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
enum UploadError {
    #[error("{}: {}", .0.code(), .0.message())]
    Status(#[from] tonic::Status),
    #[error("the stream ended")]
    Ended,
    #[error("no acknowledgement in {} s", ANSWER_LIMIT.as_secs())]
    Silent,
    #[error("the spool cannot be read: {0}")]
    Read(#[from] std::io::Error),
    #[error("the spool cannot be read: segment {segment:016x} is damaged at offset {offset}")]
    Damaged { segment: u64, offset: u64 },
    #[error("the control plane lacks events that it was sent")]
    Gap,
    #[error("the recorder has stopped")]
    Recorder,
    #[error("the control plane answered with something else than a session: {0}")]
    Answer(String),
    #[error("it begins again")]
    Again,
}

/// The uploading task.
#[derive(Debug)]
pub(crate) struct Uploader {
    dir: PathBuf,
    key: SpoolKey,
    view: watch::Receiver<View>,
    to: mpsc::Sender<Msg>,
    /// Told when something was flushed that an operation waits for.
    urgent: Arc<Notify>,
    /// Sessions that were told of because they wait.
    told: BTreeSet<SessionId>,
}

/// Where the next record is.
#[derive(Debug, Default)]
struct Cursor {
    segment: u64,
    offset: u64,
    /// Of the segment, at this place. None before its beginning was read.
    reader: Option<Reader>,
}

impl Cursor {
    const fn at(segment: u64) -> Self {
        Self { segment, offset: 0, reader: None }
    }
}

/// Sessions of which the member at the other end lacks what another had.
#[derive(Debug, Default)]
struct Behind {
    /// To be sent again, from there on.
    rewound: BTreeMap<SessionId, u64>,
    /// The spool does not have it any more either.
    stalled: BTreeSet<SessionId>,
    retry: Option<Instant>,
}

impl Behind {
    fn has(&self, session: &SessionId) -> bool {
        self.rewound.contains_key(session) || self.stalled.contains(session)
    }

    /// Whether the stream is to begin again, with what is not acknowledged then.
    fn begins_anew(&self) -> bool {
        !self.rewound.is_empty() || self.retry.is_some_and(|at| at <= Instant::now())
    }

    /// Ends when stalled sessions are due.
    async fn due(&self) {
        match self.retry {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }
}

/// A request, and what will be waited for once it is sent.
type Request = (UploadRequest, Sent);

/// Records of one session that follow each other.
struct Gathered {
    session: SessionId,
    first_seq: u64,
    next_seq: u64,
    frames: Vec<u8>,
}

/// A request that is sent and not acknowledged.
struct Sent {
    session: SessionId,
    next_seq: u64,
    size: usize,
}

impl Uploader {
    pub(super) const fn new(
        dir: PathBuf,
        key: SpoolKey,
        view: watch::Receiver<View>,
        to: mpsc::Sender<Msg>,
        urgent: Arc<Notify>,
    ) -> Self {
        Self { dir, key, view, to, urgent, told: BTreeSet::new() }
    }

    /// Uploads until `stop`, then until all is acknowledged or `flush_limit` is over; little longer than `hurry`.
    pub(crate) async fn run(
        mut self,
        client: UploadClient,
        stop: CancellationToken,
        flush_limit: Duration,
        hurry: CancellationToken,
    ) {
        let view = self.view.clone();
        let finished = async move {
            stop.cancelled().await;
            let mut view = view;
            let hurried = async {
                hurry.cancelled().await;
                tokio::time::sleep(HURRIED).await;
            };
            let late = tokio::select! {
                _ = view.wait_for(|view| view.settled) => return,
                () = tokio::time::sleep(flush_limit) => "in time",
                () = hurried => "at once",
            };
            tracing::warn!("the control plane did not take all recordings {late}: the rest stays in the spool");
        };
        tokio::select! {
            () = finished => {}
            () = self.forever(client) => {}
        }
        // Everything that records has ended: the thread may go too.
        drop(self.to.send(Msg::Stop).await);
    }

    async fn forever(&mut self, mut client: UploadClient) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let mut told = false;
        loop {
            if self.has_something().await.is_err() {
                return;
            }
            let mut progress = false;
            match self.connected(&mut client, &mut progress).await {
                Ok(never) => match never {},
                Err(UploadError::Recorder) => return,
                Err(UploadError::Again) => {
                    backoff.reset();
                    continue;
                }
                Err(error) => {
                    if progress {
                        backoff.reset();
                        told = false;
                    }
                    // Once per outage; the gauge of the spool's size shows how long it lasts.
                    if !told {
                        tracing::warn!(%error, "recordings cannot be uploaded: they stay in the spool");
                        told = true;
                    }
                    metrics::upload_failed();
                }
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    /// Waits until there is something that the control plane lacks.
    async fn has_something(&mut self) -> Result<(), UploadError> {
        loop {
            if !self.view.borrow_and_update().settled {
                return Ok(());
            }
            self.changed_or_tick().await?;
        }
    }

    async fn changed_or_tick(&mut self) -> Result<(), UploadError> {
        match tokio::time::timeout(TICK, self.view.changed()).await {
            Ok(changed) => changed.map_err(|_| UploadError::Recorder),
            // The thread retries a failed disk when it is told that time passes.
            Err(_) => self.to.send(Msg::Tick).await.map_err(|_| UploadError::Recorder),
        }
    }

    async fn connected(
        &mut self,
        client: &mut UploadClient,
        progress: &mut bool,
    ) -> Result<std::convert::Infallible, UploadError> {
        let (requests, outgoing) = mpsc::channel::<UploadRequest>(4);
        let mut cursor = Cursor::default();
        let mut behind = Behind::default();
        let mut pending = self.read(&mut cursor, &behind.stalled).await?;
        // The first request may have to be there before the server answers at all.
        let mut sent: VecDeque<Sent> = VecDeque::new();
        if let Some(request) = pending.pop_front() {
            send(&requests, request, &mut sent).await?;
        }
        let answer = tokio::time::timeout(ANSWER_LIMIT, client.upload(ReceiverStream::new(outgoing)));
        let mut answers = answer.await.map_err(|_| UploadError::Silent)??.into_inner();
        // When what was recorded since is looked at.
        let mut look: Option<Instant> = None;
        loop {
            let anew = behind.begins_anew();
            if anew {
                // First all answers, so that none of them is taken for one to what is sent again.
                pending.clear();
                if sent.is_empty() {
                    return self.rewind(behind.rewound).await;
                }
            } else if pending.is_empty() && look.is_none_or(|at| at <= Instant::now()) {
                look = None;
                pending = self.read(&mut cursor, &behind.stalled).await?;
            }
            let unacknowledged: usize = sent.iter().map(|sent| sent.size).sum();
            let room = sent.len() < WINDOW && unacknowledged < WINDOW_BYTES;
            tokio::select! {
                answer = answers.message() => {
                    let answer = answer?.ok_or(UploadError::Ended)?;
                    *progress |= self.take(answer, &mut sent, &mut behind).await?;
                    pending.retain(|(_, place)| !behind.has(&place.session));
                }
                permit = requests.reserve(), if room && !pending.is_empty() => {
                    let permit = permit.map_err(|_| UploadError::Ended)?;
                    if let Some((request, place)) = pending.pop_front() {
                        permit.send(request);
                        sent.push_back(place);
                    }
                }
                changed = self.view.changed(), if pending.is_empty() && look.is_none() && !anew => {
                    changed.map_err(|_| UploadError::Recorder)?;
                    look = Some(Instant::now() + GATHER);
                }
                () = tokio::time::sleep_until(look.unwrap_or_else(Instant::now)), if look.is_some() && !anew => {}
                () = self.urgent.notified(), if !anew => look = Some(Instant::now()),
                () = behind.due(), if !anew => {}
                () = tokio::time::sleep(ANSWER_LIMIT), if !sent.is_empty() => return Err(UploadError::Silent),
                () = tokio::time::sleep(TICK), if sent.is_empty() => {
                    self.to.send(Msg::Tick).await.map_err(|_| UploadError::Recorder)?;
                }
            }
        }
    }

    /// Has what a new member lacks sent again, on a new stream.
    async fn rewind(&self, sessions: BTreeMap<SessionId, u64>) -> Result<std::convert::Infallible, UploadError> {
        if sessions.is_empty() {
            return Err(UploadError::Again);
        }
        tracing::info!(
            sessions = sessions.len(),
            "another member of the control plane takes recordings: sending again what it lacks"
        );
        let (done, rewound) = oneshot::channel();
        let message = Msg::Rewind { sessions: sessions.into_iter().collect(), done };
        self.to.send(message).await.map_err(|_| UploadError::Recorder)?;
        rewound.await.map_err(|_| UploadError::Recorder)?;
        Err(UploadError::Again)
    }

    /// Takes an answer in; whether it brought a session forward.
    async fn take(
        &mut self,
        answer: UploadResponse,
        sent: &mut VecDeque<Sent>,
        behind: &mut Behind,
    ) -> Result<bool, UploadError> {
        let session: SessionId =
            answer.session.parse().map_err(|_| UploadError::Answer(answer.session.chars().take(64).collect()))?;
        let Held { acked: known, from } = self.view.borrow().sessions.get(&session).copied().unwrap_or_default();
        let mut next_seq = answer.next_seq;
        if !answer.refused.is_empty() {
            tracing::error!(%session, reason = answer.refused, "the control plane refuses this session's recording");
            metrics::upload_refused();
            next_seq = REFUSED;
        } else if behind.has(&session) {
            // To a request that was under way when this came to light.
            return Ok(false);
        } else if next_seq < known.max(from) {
            // Another member has them, on its own disk.
            if next_seq >= from {
                behind.rewound.insert(session, next_seq);
            } else {
                if self.told.insert(session) {
                    tracing::warn!(%session, next_seq, from, "a recording waits for the member of the control plane that has its beginning");
                }
                metrics::upload_stalled();
                behind.stalled.insert(session);
                behind.retry.get_or_insert_with(|| Instant::now() + STALLED_FOR);
            }
            sent.retain(|sent| sent.session != session);
            return Ok(false);
        } else if sent.iter().find(|sent| sent.session == session).is_some_and(|first| next_seq < first.next_seq)
            && next_seq == known
        {
            return Err(UploadError::Gap);
        }
        sent.retain(|sent| sent.session != session || sent.next_seq > next_seq);
        if next_seq > known {
            self.told.remove(&session);
            self.to.send(Msg::Acknowledged { session, next_seq }).await.map_err(|_| UploadError::Recorder)?;
        }
        Ok(true)
    }

    /// The next requests from the spool, as many as a block of it holds. Skips what is acknowledged.
    async fn read(
        &mut self,
        cursor: &mut Cursor,
        skip: &BTreeSet<SessionId>,
    ) -> Result<VecDeque<Request>, UploadError> {
        loop {
            let (found, len) = {
                let view = self.view.borrow_and_update();
                let Some((segment, len)) = view.segments.range(cursor.segment..).next().map(|(s, l)| (*s, *l)) else {
                    return Ok(VecDeque::new());
                };
                (segment, len)
            };
            if found != cursor.segment {
                *cursor = Cursor::at(found);
            }
            if cursor.offset >= len {
                let another = self.view.borrow().segments.range(found.saturating_add(1)..).next().is_some();
                if !another {
                    return Ok(VecDeque::new());
                }
                *cursor = Cursor::at(found.saturating_add(1));
                continue;
            }
            let (mut bytes, mut reader) = match self.load(cursor, len).await {
                Ok(loaded) => loaded,
                // Deleted since: everything in it is acknowledged.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    *cursor = Cursor::at(found.saturating_add(1));
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            cursor.offset = cursor.offset.max(u64::try_from(reader.begin()).unwrap_or(u64::MAX));
            let (requests, taken) = self.gather(&mut bytes, &mut reader, skip);
            cursor.reader = Some(reader);
            if taken == 0 && cursor.offset < len {
                return Err(UploadError::Damaged { segment: found, offset: cursor.offset });
            }
            cursor.offset = cursor.offset.saturating_add(u64::try_from(taken).unwrap_or(u64::MAX));
            if !requests.is_empty() {
                return Ok(requests);
            }
        }
    }

    /// Reads at least one whole record.
    async fn load(&self, cursor: &mut Cursor, len: u64) -> std::io::Result<(Vec<u8>, Reader)> {
        let (dir, key) = (self.dir.clone(), self.key.clone());
        let Cursor { segment, offset, reader } = std::mem::take(cursor);
        *cursor = Cursor { segment, offset, reader: None };
        // All of it on one thread: each step of an asynchronous file is a hop there and back.
        let read = tokio::task::spawn_blocking(move || {
            let (mut file, new) = open_segment(&dir, &key, segment)?;
            let reader = reader.unwrap_or(new);
            let offset = offset.max(u64::try_from(reader.begin()).unwrap_or(u64::MAX));
            let left = usize::try_from(len.saturating_sub(offset)).unwrap_or(usize::MAX);
            let mut bytes = part(&mut file, offset, left.min(BLOCK))?;
            if reader.size(&bytes).is_some_and(|size| size > bytes.len()) {
                bytes = part(&mut file, offset, left.min(MAX_RECORD))?;
            }
            Ok((bytes, reader))
        });
        read.await.map_err(std::io::Error::other)?
    }

    /// What `bytes` hold, whole records of them: a request for each session, or several where one would be too large. Also how many bytes were looked
    /// at. The records of sessions that are busy at once lie in between each other; a request for each record would cost more than all else.
    fn gather(&self, bytes: &mut [u8], reader: &mut Reader, skip: &BTreeSet<SessionId>) -> (VecDeque<Request>, usize) {
        let view = self.view.borrow();
        let mut taken = 0_usize;
        let mut gathered: Vec<Gathered> = Vec::new();
        let mut last_of: BTreeMap<SessionId, usize> = BTreeMap::new();
        while let Next::Record { record, size, .. } = reader.next(bytes.get_mut(taken..).unwrap_or_default()) {
            taken = taken.saturating_add(size);
            let Record::Frames { session, first_seq, count, frames, .. } = record else { continue };
            let next_seq = first_seq.saturating_add(u64::from(count));
            let acked = view.sessions.get(&session).is_some_and(|held| held.acked >= next_seq);
            if acked || skip.contains(&session) {
                continue;
            }
            match last_of.get(&session).and_then(|place| gathered.get_mut(*place)) {
                Some(last) if last.next_seq == first_seq && last.frames.len().saturating_add(frames.len()) <= BATCH => {
                    last.next_seq = next_seq;
                    last.frames.extend_from_slice(frames);
                }
                _ => {
                    last_of.insert(session, gathered.len());
                    gathered.push(Gathered { session, first_seq, next_seq, frames: frames.to_vec() });
                }
            }
        }
        let request = |Gathered { session, first_seq, next_seq, frames }: Gathered| {
            let size = frames.len();
            let held_from = view.sessions.get(&session).map_or(0, |held| held.from);
            let request = UploadRequest { session: session.to_string(), first_seq, frames, held_from };
            (request, Sent { session, next_seq, size })
        };
        (gathered.into_iter().map(request).collect(), taken)
    }
}

/// `most` bytes from `offset` on; fewer when the file ends before.
fn part(file: &mut File, offset: u64, most: usize) -> std::io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::with_capacity(most);
    file.take(u64::try_from(most).unwrap_or(u64::MAX)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

async fn send(
    requests: &mpsc::Sender<UploadRequest>,
    (request, place): Request,
    sent: &mut VecDeque<Sent>,
) -> Result<(), UploadError> {
    requests.send(request).await.map_err(|_| UploadError::Ended)?;
    sent.push_back(place);
    Ok(())
}
