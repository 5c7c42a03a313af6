//! Recordings, from gateways.

use futures::{StreamExt as _, TryStreamExt as _};
use postern_core::session::Session;
use postern_core::{Name, SessionId};
use postern_proto::gateway::v1 as pb;
use postern_proto::gateway::v1::recording_service_server::RecordingService;
use postern_state::{Refusal, commands};
use tonic::{Request, Response, Status, Streaming};
use tracing::{error, info};

use super::access::Access;
use super::{Answers, status};
use crate::raft::RaftHandle;
use crate::recordings::archive::Archivist;
use crate::recordings::copies::{Copies, Fetched};
use crate::recordings::{Append, Appending, Recordings, Stored};

/// Requests of one stream that may be under way: what shares an fsync.
const PIPELINE: usize = 32;

pub(super) struct Service {
    pub(super) raft: RaftHandle,
    pub(super) access: Access,
    pub(super) recordings: Recordings,
    pub(super) copies: Copies,
    pub(super) archivist: Archivist,
}

/// A request that was handed to the store.
struct Pending {
    gateway: Name,
    session: SessionId,
    opens: bool,
    held_from: u64,
    appending: Appending,
}

/// Counts streams.
struct Stream;

impl Stream {
    fn new() -> Self {
        metrics::gauge!("postern_control_upload_streams_total").increment(1.0);
        Self
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        metrics::gauge!("postern_control_upload_streams_total").decrement(1.0);
    }
}

async fn hand_over(recordings: Recordings, gateway: Name, request: pb::UploadRequest) -> Result<Pending, Status> {
    let session: SessionId = status::parse("session", &request.session)?;
    let opens = request.first_seq == 0;
    let held_from = request.held_from;
    let append = Append { gateway: gateway.clone(), session, first_seq: request.first_seq, frames: request.frames };
    let appending = recordings.append(append).await.map_err(status::store)?;
    Ok(Pending { gateway, session, opens, held_from, appending })
}

/// Answers once the events are durable and the index knows of the session's beginning and end.
async fn finish(
    raft: RaftHandle,
    copies: Copies,
    archivist: Archivist,
    pending: Pending,
) -> Result<pb::UploadResponse, Status> {
    let Pending { gateway, session: id, opens, held_from, appending } = pending;
    let mut stored = appending.done().await.map_err(status::store)?;
    if stored.refused.is_none()
        && stored.next_seq < held_from
        && let Some(next_seq) = whole(&raft, id, &gateway).await?
    {
        return Ok(pb::UploadResponse { session: id.to_string(), next_seq, refused: String::new() });
    }
    if stored.refused.is_none() && stored.next_seq < held_from {
        // Another member had it until now, and the gateway has it no more.
        match copies.fetch(&gateway, id, held_from).await.map_err(status::store)? {
            Fetched::Stored(fetched) => stored = fetched,
            Fetched::Lost => {
                error!(session = %id, %gateway, has = stored.next_seq, gateway_has_from = held_from,
                    "no member of the control plane has a part of a recording that its gateway has deleted");
                stored.refused = Some(format!("no member of the control plane has the events before {held_from}"));
            }
        }
    }
    let Stored { next_seq, mut refused, session } = stored;
    if let Some(session) = session
        && refused.is_none()
        && (opens || session.end.is_some())
    {
        match index(&raft, &session).await? {
            Ok(()) if session.end.is_some() => archivist.sealed(id),
            Ok(()) => {}
            Err(Refusal::Limit(what)) => return Err(status::refused(Refusal::Limit(what))),
            Err(refusal) => refused = Some(refusal.to_string()),
        }
    }
    Ok(pb::UploadResponse { session: id.to_string(), next_seq, refused: refused.unwrap_or_default() })
}

/// How many events the recording of a session of this gateway has, when all of them are known: this member had it, or another, and it is in the store.
async fn whole(raft: &RaftHandle, id: SessionId, gateway: &Name) -> Result<Option<u64>, Status> {
    let gateway = gateway.clone();
    let read = raft.read(move |state| {
        let session = state.session(id).filter(|session| session.gateway == gateway.as_str())?;
        session.sealed().map(|end| end.events)
    });
    read.await.map_err(status::read)
}

/// Idempotent: a gateway that had no answer sends again.
async fn index(raft: &RaftHandle, session: &Session) -> Result<Result<(), Refusal>, Status> {
    let id = session.id;
    let known =
        raft.read(move |state| state.session(id).map(|known| known.sealed().is_some())).await.map_err(status::read)?;
    if known.is_none() {
        let open = commands::OpenSession { session: Session { end: None, ..session.clone() } };
        if let Err(refusal) = raft.propose(open, None).await.map_err(status::propose)? {
            return Ok(Err(refusal));
        }
    }
    let Some(end) = session.end.clone().filter(|_| known != Some(true)) else { return Ok(Ok(())) };
    info!(session = %id, events = end.events, ending = ?end.ending, "a recording is complete");
    let outcome = raft.propose(commands::SealSession { id, end }, None).await.map_err(status::propose)?;
    Ok(outcome.map(drop))
}

#[tonic::async_trait]
impl RecordingService for Service {
    type UploadStream = Answers<pb::UploadResponse>;

    async fn upload(
        &self,
        request: Request<Streaming<pb::UploadRequest>>,
    ) -> Result<Response<Self::UploadStream>, Status> {
        let gateway = self.access.gateway(&request)?;
        let (recordings, copies) = (self.recordings.clone(), self.copies.clone());
        let (raft, archivist, stream) = (self.raft.clone(), self.archivist.clone(), Stream::new());
        let answers = request
            .into_inner()
            // One after the other, so that a session's events come to the store in their order.
            .and_then(move |request| hand_over(recordings.clone(), gateway.clone(), request))
            .map(move |pending| {
                let (raft, copies, archivist, _counted) = (raft.clone(), copies.clone(), archivist.clone(), &stream);
                async move { finish(raft, copies, archivist, pending?).await }
            })
            .buffered(PIPELINE);
        Ok(Response::new(answers.boxed()))
    }
}
