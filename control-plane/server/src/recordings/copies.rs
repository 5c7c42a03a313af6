//! What other members have of recordings.
//!
//! Each member keeps what gateways brought to it, on its own disk. When a gateway turns to another member in the middle of a session, that
//! one lacks the beginning: the gateway sends it again, or, when its spool has it no more, it is fetched from the member that has it.
//! Whoever asks for a recording gets it from any member: one that does not have all of it passes on what another has.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::future::join_all;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use postern_core::operation::Digest;
use postern_core::recording::{Chain, FrameFault, MAGIC, frames};
use postern_core::session::Session;
use postern_core::{Name, SessionId};
use postern_proto::peer::v1 as pb;
use postern_proto::peer::v1::read_recording_response::Response as Part;
use postern_proto::peer::v1::recording_service_client::RecordingServiceClient;
use postern_proto::peer::v1::recording_service_server::RecordingService;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, Streaming};
use tracing::{debug, error, info, warn};

use super::archive::{Archive, ArchiveError, Archived, Header};
use super::log::{LogBook, packed};
use super::{Append, Located, Recordings, StoreError, Stored, chunks};
use crate::cluster::members::Members;

/// How long a member may take to say what it has.
const ASK_LIMIT: Duration = Duration::from_secs(2);
/// One that did not is not asked again for so long.
const SILENT_FOR: Duration = Duration::from_secs(3);
/// How long fetching may take until the gateway has an answer; what came until then is kept.
const FETCH_LIMIT: Duration = Duration::from_secs(15);
/// How long the store may take to begin to answer.
const STORE_LIMIT: Duration = Duration::from_secs(10);
/// Whole frames are stored once there are so many bytes of them.
const BATCH: usize = 512 << 10;

type Leaves = std::pin::Pin<Box<dyn Stream<Item = Result<pb::ReadLeavesResponse, Status>> + Send>>;
/// A recording's bytes, as they come.
pub(crate) type Bytes = BoxStream<'static, Result<Vec<u8>, Status>>;
type Parts = std::pin::Pin<Box<dyn Stream<Item = Result<pb::ReadRecordingResponse, Status>> + Send>>;

/// Knows where else recordings are. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Copies {
    recordings: Recordings,
    members: Members,
    book: LogBook,
    archive: Archive,
    silent: Arc<Mutex<BTreeMap<u64, Instant>>>,
    /// One after the other: requests of one session come together.
    fetching: Arc<tokio::sync::Mutex<()>>,
}

/// What the other members have.
pub(crate) struct Elsewhere {
    /// The copy that goes furthest.
    pub(crate) best: Option<RemoteCopy>,
    /// Members that did not say.
    pub(crate) silent: Vec<Name>,
}

/// Another member's copy, from the offset on that was asked for.
pub(crate) struct RemoteCopy {
    pub(crate) member: Name,
    pub(crate) next_seq: u64,
    head: Option<Digest>,
    sealed: bool,
    /// Bytes that are still to come.
    left: u64,
    parts: Streaming<pb::ReadRecordingResponse>,
    /// Ends the stream when it is dropped.
    _channel: Channel,
}

/// How far the copy goes that goes furthest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Furthest {
    pub(crate) events: u64,
    pub(crate) head: Digest,
    /// Its gateway's seal is there.
    pub(crate) sealed: bool,
    /// Every member has answered.
    pub(crate) certain: bool,
}

/// Where a recording is read.
pub(crate) enum Copy {
    /// Here.
    Own(Located),
    /// In the store.
    Archived(Box<Archived>),
    /// At another member.
    Other(Box<RemoteCopy>),
}

impl Copy {
    /// The recording's bytes from `offset` on, which is what it was looked for with; an error when they are not whole.
    pub(crate) fn data(self, session: SessionId, offset: u64) -> Bytes {
        match self {
            Self::Own(located) => chunks(located, offset).map_err(move |error| unreadable(session, &error)).boxed(),
            Self::Archived(found) => found.data(offset).map_err(move |error| misread(session, &error)).boxed(),
            Self::Other(copy) => copy.data().boxed(),
        }
    }
}

/// Of what the store gave back.
fn misread(session: SessionId, error: &ArchiveError) -> Status {
    match error {
        ArchiveError::Lies(_) | ArchiveError::NoKey => {
            metrics::counter!("postern_control_archive_lies_total").increment(1);
            error!(%session, %error, "the store does not have the recording that was put there");
            Status::data_loss(error.to_string())
        }
        error => unreadable(session, error),
    }
}

fn unreadable(session: SessionId, error: &dyn std::error::Error) -> Status {
    error!(%session, %error, "a recording cannot be read");
    Status::data_loss("the recording cannot be read")
}

/// What came of fetching.
pub(crate) enum Fetched {
    /// How the recording stands now.
    Stored(Stored),
    /// Every member was asked, and none has what is missing.
    Lost,
}

impl Copies {
    pub(crate) fn new(recordings: Recordings, members: Members, book: LogBook, archive: Archive) -> Self {
        Self { recordings, members, book, archive, silent: Arc::default(), fetching: Arc::default() }
    }

    /// What there is of a session that goes on from `offset` on; none, when there is no more yet.
    ///
    /// # Errors
    /// `UNAVAILABLE` when this member's disk fails.
    pub(crate) async fn beyond(&self, session: SessionId, offset: u64) -> Result<Option<Bytes>, Status> {
        let own = self.recordings.locate(session).await.map_err(|error| Status::unavailable(error.to_string()))?;
        if let Some(own) = own.filter(|own| own.length > offset) {
            return Ok(Some(Copy::Own(own).data(session, offset)));
        }
        let best = self.find(session, offset).await.best.filter(|copy| copy.left > 0);
        Ok(best.map(|copy| Copy::Other(Box::new(copy)).data(session, offset)))
    }

    /// The copy of a recording that goes furthest; of one with so many events, one that has them all when there is one. To be read from `offset` on.
    ///
    /// # Errors
    /// `UNAVAILABLE` when a member that does not answer may have more.
    pub(crate) async fn whole(
        &self,
        session: SessionId,
        events: Option<u64>,
        offset: u64,
    ) -> Result<Option<Copy>, Status> {
        let own = self.recordings.locate(session).await.map_err(|error| Status::unavailable(error.to_string()))?;
        let enough = |next_seq: u64| events.is_some_and(|events| next_seq >= events);
        let next_seq = own.as_ref().map_or(0, |own| own.next_seq);
        if enough(next_seq) {
            return Ok(own.map(Copy::Own));
        }
        // One that is over is in the store, as a rule; one that goes on is not.
        let mut asked = None;
        if let Some(events) = events {
            match self.archived(session).await {
                Ok(Some(found)) if found.header.events >= events => return Ok(Some(Copy::Archived(Box::new(found)))),
                answer => asked = Some(answer.map(drop)),
            }
        }
        let Elsewhere { best, silent } = self.find(session, offset).await;
        let best = best.filter(|copy| copy.next_seq > next_seq);
        let furthest = best.as_ref().map_or(next_seq, |copy| copy.next_seq);
        // Of a session that is not over, or not in the index any more, what there is.
        let fits = if events.is_some() { enough(furthest) } else { furthest > 0 };
        if !fits {
            match asked {
                Some(Err(status)) => return Err(status),
                Some(Ok(())) => {}
                // It may have left the index.
                None => {
                    if let Some(found) = self.archived(session).await? {
                        return Ok(Some(Copy::Archived(Box::new(found))));
                    }
                }
            }
        }
        if !fits && !silent.is_empty() {
            let silent: Vec<&str> = silent.iter().map(Name::as_str).collect();
            let silent = silent.join(", ");
            return Err(Status::unavailable(format!(
                "no member that answers has the whole recording; no answer from {silent}"
            )));
        }
        Ok(best.map(|copy| Copy::Other(Box::new(copy))).or(own.map(Copy::Own)))
    }

    /// What the store has, as this member reaches it.
    async fn archived(&self, session: SessionId) -> Result<Option<Archived>, Status> {
        match timeout(STORE_LIMIT, self.archive.get(session)).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(error @ (ArchiveError::Lies(_) | ArchiveError::NoKey))) => Err(misread(session, &error)),
            Ok(Err(error)) => {
                warn!(%session, %error, "the store of recordings does not tell whether it has a recording");
                Err(Status::unavailable("the store of recordings does not answer"))
            }
            Err(_) => Err(Status::unavailable("the store of recordings does not answer")),
        }
    }

    /// How far the copy of a recording goes that goes furthest; of one of which nobody has anything, to its beginning.
    ///
    /// # Errors
    /// When this member's disk fails, or a member does not tell what its copy ends in.
    pub(crate) async fn furthest(&self, session: SessionId) -> Result<Furthest, StoreError> {
        let own = self.recordings.locate(session).await?;
        // Beyond all that there is: nothing is to be read.
        let Elsewhere { best, silent } = self.find(session, u64::MAX).await;
        let certain = silent.is_empty();
        let own = own.map_or_else(
            || Furthest { events: 0, head: Chain::start(session).head(), sealed: false, certain },
            |own| Furthest { events: own.next_seq, head: own.head, sealed: own.sealed, certain },
        );
        match best.filter(|best| best.next_seq > own.events) {
            None => Ok(own),
            Some(best) => {
                let missing = || StoreError::Io(format!("{} does not tell what its copy ends in", best.member));
                let head = best.head.ok_or_else(missing)?;
                Ok(Furthest { events: best.next_seq, head, sealed: best.sealed, certain })
            }
        }
    }

    /// The session as a sealed recording of it tells it, which is here, or at another member and comes here.
    ///
    /// # Errors
    /// As [`Self::fetch`].
    pub(crate) async fn told(
        &self,
        gateway: &Name,
        session: SessionId,
        events: u64,
    ) -> Result<Option<Arc<Session>>, StoreError> {
        self.fetch(gateway, session, events).await?;
        let nothing = Append { gateway: gateway.clone(), session, first_seq: 0, frames: Vec::new() };
        Ok(self.recordings.append(nothing).await?.done().await?.session)
    }

    /// Asks all other members at once.
    pub(crate) async fn find(&self, session: SessionId, offset: u64) -> Elsewhere {
        let (view, own) = (self.members.view(), self.members.own_id());
        let asked = view.nodes.iter().filter(|node| node.id != own).map(|node| async move {
            if self.is_silent(node.id) {
                return (&node.name, Err(()));
            }
            let answer = timeout(ASK_LIMIT, self.ask(node.id, &node.name, session, offset)).await;
            let answer = answer.map_err(drop).and_then(|answer| {
                answer
                    .map_err(|error| debug!(member = %node.name, %session, error, "a member does not say what it has"))
            });
            if answer.is_err() {
                self.silent().insert(node.id, Instant::now());
            }
            (&node.name, answer)
        });
        let mut found = Elsewhere { best: None, silent: Vec::new() };
        for (name, answer) in join_all(asked).await {
            match answer {
                Ok(Some(copy)) if found.best.as_ref().is_none_or(|best| best.next_seq < copy.next_seq) => {
                    found.best = Some(copy);
                }
                Ok(_) => {}
                Err(()) => found.silent.push(name.clone()),
            }
        }
        found
    }

    async fn ask(&self, id: u64, name: &Name, session: SessionId, offset: u64) -> Result<Option<RemoteCopy>, String> {
        let channel = self.members.peers.connect(id).await.map_err(|error| error.to_string())?;
        let request = pb::ReadRecordingRequest { session: session.to_string(), offset };
        let answer = RecordingServiceClient::new(channel.clone()).read_recording(request).await;
        let mut parts = match answer {
            Ok(answer) => answer.into_inner(),
            Err(status) if status.code() == Code::NotFound => return Ok(None),
            Err(status) => return Err(status.message().to_owned()),
        };
        let first = parts.message().await.map_err(|status| status.message().to_owned())?;
        let Some(Part::Extent(extent)) = first.and_then(|first| first.response) else {
            return Err("it does not say how far its copy goes".to_owned());
        };
        let left = extent.length.saturating_sub(offset);
        let (head, sealed, next_seq) = (Digest::from_slice(&extent.head), extent.sealed, extent.next_seq);
        Ok(Some(RemoteCopy { member: name.clone(), next_seq, head, sealed, left, parts, _channel: channel }))
    }

    fn silent(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Instant>> {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_silent(&self, id: u64) -> bool {
        self.silent().get(&id).is_some_and(|since| since.elapsed() < SILENT_FOR)
    }

    /// Gets what this member lacks of the events before `until`, which `gateway` has no more.
    ///
    /// # Errors
    /// When it cannot be stored here.
    pub(crate) async fn fetch(&self, gateway: &Name, session: SessionId, until: u64) -> Result<Fetched, StoreError> {
        let _alone = self.fetching.lock().await;
        let own = self.recordings.locate(session).await?;
        let (length, next_seq) = own.as_ref().map_or((0, 0), |own| (own.length, own.next_seq));
        let mut stored = Stored { next_seq, refused: None, session: None };
        if next_seq >= until {
            // Another request has seen to it.
            return Ok(Fetched::Stored(stored));
        }
        let Elsewhere { best, silent } = self.find(session, length.max(begin())).await;
        let whole = match best.filter(|copy| copy.next_seq > next_seq) {
            None => true,
            Some(copy) => {
                let member = copy.member.clone();
                let fetched = timeout(FETCH_LIMIT, self.take(gateway, session, copy, &mut stored)).await;
                info!(%session, from = %member, next_seq = stored.next_seq, "got a recording's beginning from another member");
                matches!(fetched, Ok(Ok(())))
            }
        };
        if stored.next_seq < until && stored.refused.is_none() && whole && silent.is_empty() {
            return Ok(Fetched::Lost);
        }
        Ok(Fetched::Stored(stored))
    }

    async fn take(
        &self,
        gateway: &Name,
        session: SessionId,
        copy: RemoteCopy,
        stored: &mut Stored,
    ) -> Result<(), StoreError> {
        let member = copy.member.clone();
        let mut data = Box::pin(copy.data());
        let mut waiting = Vec::new();
        loop {
            let part = data.next().await;
            let ended = part.is_none();
            match part {
                Some(Ok(part)) => waiting.extend_from_slice(&part),
                Some(Err(status)) => {
                    warn!(%session, %member, error = status.message(), "a recording cannot be read at another member");
                    return Err(StoreError::Io("another member's copy".to_owned()));
                }
                None => {}
            }
            if waiting.len() < BATCH && !ended {
                continue;
            }
            let whole = whole_frames(&waiting).map_err(|fault| StoreError::Io(fault.to_string()))?;
            let rest = waiting.split_off(whole);
            let frames = std::mem::replace(&mut waiting, rest);
            if !frames.is_empty() {
                let append = Append { gateway: gateway.clone(), session, first_seq: stored.next_seq, frames };
                *stored = self.recordings.append(append).await?.done().await?;
            }
            if ended || stored.refused.is_some() {
                return Ok(());
            }
        }
    }
}

/// Where a file's frames begin.
fn begin() -> u64 {
    u64::try_from(MAGIC.len()).unwrap_or(0)
}

/// How many bytes the whole frames at the beginning take.
pub(super) fn whole_frames(bytes: &[u8]) -> Result<usize, FrameFault> {
    let mut walk = frames(bytes);
    loop {
        match walk.next() {
            None | Some(Err(FrameFault::Incomplete { .. })) => return Ok(walk.offset()),
            Some(Ok(_)) => {}
            Some(Err(fault)) => return Err(fault),
        }
    }
}

impl RemoteCopy {
    /// Its bytes; an error when they end too soon.
    pub(crate) fn data(self) -> impl Stream<Item = Result<Vec<u8>, Status>> + Send {
        futures::stream::unfold(Some(self), |this| async move {
            let mut this = this?;
            if this.left == 0 {
                return None;
            }
            let part = match this.parts.message().await {
                Ok(part) => part.and_then(|part| part.response),
                Err(status) => return Some((Err(status), None)),
            };
            let Some(Part::Data(data)) = part else {
                let text = format!("the copy of {} is shorter than it was", this.member);
                return Some((Err(Status::data_loss(text)), None));
            };
            this.left = this.left.saturating_sub(u64::try_from(data.len()).unwrap_or(u64::MAX));
            Some((Ok(data), Some(this)))
        })
    }
}

#[tonic::async_trait]
impl RecordingService for Copies {
    type ReadRecordingStream = Parts;

    async fn read_recording(
        &self,
        request: Request<pb::ReadRecordingRequest>,
    ) -> Result<Response<Self::ReadRecordingStream>, Status> {
        self.members.admit(&request)?;
        let request = request.into_inner();
        let session: SessionId =
            request.session.parse().map_err(|_| Status::invalid_argument("session is not a session's id"))?;
        let own = self.recordings.locate(session).await.map_err(|error| Status::unavailable(error.to_string()))?;
        let (extent, data) = match own {
            Some(own) => {
                let (head, sealed) = (own.head.0.to_vec(), own.sealed);
                let extent = pb::RecordingExtent { next_seq: own.next_seq, length: own.length, head, sealed };
                let data = chunks(own, request.offset).map_err(move |error| unreadable(session, &error));
                (extent, data.boxed())
            }
            None => {
                let found = timeout(ASK_LIMIT / 2, self.archived(session)).await;
                let found = found.map_err(|_| Status::unavailable("the store of recordings does not answer"))??;
                let found = found.ok_or_else(|| Status::not_found("this member has nothing of it"))?;
                let Header { events, length, head, .. } = found.header;
                let extent = pb::RecordingExtent { next_seq: events, length, head: head.0.to_vec(), sealed: true };
                let data = found.data(request.offset).map_err(move |error| misread(session, &error));
                (extent, data.boxed())
            }
        };
        let first = Ok(pb::ReadRecordingResponse { response: Some(Part::Extent(extent)) });
        let data = data.map_ok(|data| pb::ReadRecordingResponse { response: Some(Part::Data(data)) });
        Ok(Response::new(Box::pin(futures::stream::once(std::future::ready(first)).chain(data))))
    }

    type ReadLeavesStream = Leaves;

    async fn read_leaves(
        &self,
        request: Request<pb::ReadLeavesRequest>,
    ) -> Result<Response<Self::ReadLeavesStream>, Status> {
        self.members.admit(&request)?;
        let pb::ReadLeavesRequest { from, until } = request.into_inner();
        let book = self.book.clone();
        let parts = futures::stream::try_unfold(from, move |from| {
            let book = book.clone();
            async move {
                let some = book.read(from, until).await.map_err(|error| Status::unavailable(error.to_string()))?;
                let next = from.saturating_add(u64::try_from(some.len()).unwrap_or(u64::MAX));
                Ok((!some.is_empty()).then(|| (pb::ReadLeavesResponse { leaves: packed(&some) }, next)))
            }
        });
        Ok(Response::new(Box::pin(parts)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_parted_from_what_is_still_to_come() {
        let frame = [&3_u32.to_be_bytes()[..], b"{ }", &[7; 32]].concat();
        let two = [&frame[..], &frame[..]].concat();
        for cut in 0..=two.len() {
            let whole = cut / frame.len() * frame.len();
            assert_eq!(whole_frames(&two[..cut]).unwrap(), whole, "cut at {cut}");
        }
        assert!(whole_frames(&[0xff; 40]).is_err());
    }
}
