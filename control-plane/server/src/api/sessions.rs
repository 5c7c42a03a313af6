//! The index of sessions, and their recordings.

use std::io::SeekFrom;
use std::sync::Arc;

use futures::StreamExt as _;
use postern_core::SessionId;
use postern_core::session::Session;
use postern_core::wire::identity::session_to_proto;
use postern_proto::admin::v1 as pb;
use postern_proto::admin::v1::session_service_server::SessionService;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tonic::{Request, Response, Status};
use tracing::{error, info};

use super::access::{Access, Caller};
use super::{Answers, status};
use crate::raft::RaftHandle;
use crate::recordings::Recordings;

const DEFAULT_LIMIT: u32 = 100;
const MAX_LIMIT: u32 = 1_000;
/// Bytes of an export in one message.
const CHUNK: u64 = 64 << 10;

pub(super) struct Service {
    pub(super) raft: RaftHandle,
    pub(super) access: Access,
    pub(super) recordings: Recordings,
}

fn may_see(caller: &Caller, session: &Session) -> bool {
    caller.auditor || (caller.reaches(&session.target) && caller.is(&session.principal))
}

impl Service {
    async fn find(&self, caller: &Caller, id: SessionId) -> Result<Arc<Session>, Status> {
        let found = self.raft.read(move |state| state.session(id).cloned()).await.map_err(status::read)?;
        // Who may not see it does not learn that it exists.
        found
            .filter(|session| may_see(caller, session))
            .ok_or_else(|| Status::not_found(format!("no such session {id}")))
    }
}

#[tonic::async_trait]
impl SessionService for Service {
    type ExportSessionStream = Answers<pb::ExportSessionResponse>;

    async fn list_sessions(
        &self,
        request: Request<pb::ListSessionsRequest>,
    ) -> Result<Response<pb::ListSessionsResponse>, Status> {
        let caller = self.access.known(&request)?;
        let request = request.into_inner();
        let limit = if request.limit == 0 { DEFAULT_LIMIT } else { request.limit.min(MAX_LIMIT) };
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let (target, principal) = (request.target, request.principal);
        let newest = self.raft.read(move |state| {
            let wanted = |session: &&Arc<Session>| {
                (target.is_empty() || session.target.as_str() == target)
                    && (principal.is_empty() || session.principal.id.to_string() == principal)
                    && may_see(&caller, session)
            };
            state.sessions().rev().filter(wanted).take(limit).cloned().collect::<Vec<_>>()
        });
        let newest = newest.await.map_err(status::read)?;
        let sessions = newest.iter().map(|session| session_to_proto(session)).collect();
        Ok(Response::new(pb::ListSessionsResponse { sessions }))
    }

    async fn get_session(
        &self,
        request: Request<pb::GetSessionRequest>,
    ) -> Result<Response<pb::GetSessionResponse>, Status> {
        let caller = self.access.known(&request)?;
        let id = status::parse("id", &request.into_inner().id)?;
        let session = self.find(&caller, id).await?;
        Ok(Response::new(pb::GetSessionResponse { session: Some(session_to_proto(&session)) }))
    }

    async fn export_session(
        &self,
        request: Request<pb::ExportSessionRequest>,
    ) -> Result<Response<Self::ExportSessionStream>, Status> {
        let caller = self.access.known(&request)?;
        let id: SessionId = status::parse("id", &request.into_inner().id)?;
        let gone = || Status::not_found(format!("no recording of session {id} is stored"));
        // An old session may have left the index; its recording stays, for auditors.
        match self.find(&caller, id).await {
            Err(status) if status.code() == tonic::Code::NotFound && caller.auditor => {}
            other => drop(other?),
        }
        let (path, length) = self.recordings.locate(id).await.map_err(status::store)?.ok_or_else(gone)?;
        let unreadable = move |error: std::io::Error| {
            error!(session = %id, %error, "a recording cannot be read");
            Status::data_loss("the recording cannot be read")
        };
        let mut file = tokio::fs::File::open(path).await.map_err(unreadable)?;
        file.seek(SeekFrom::Start(0)).await.map_err(unreadable)?;
        info!(%caller, session = %id, "exported a recording");
        let chunks = futures::stream::unfold((file, length), move |(mut file, left)| async move {
            if left == 0 {
                return None;
            }
            let mut data = Vec::new();
            match (&mut file).take(left.min(CHUNK)).read_to_end(&mut data).await {
                Ok(0) => Some((Err(Status::data_loss("the recording is shorter than it was")), (file, 0))),
                Ok(read) => {
                    let left = left.saturating_sub(u64::try_from(read).unwrap_or(u64::MAX));
                    Some((Ok(pb::ExportSessionResponse { data }), (file, left)))
                }
                Err(error) => Some((Err(unreadable(error)), (file, 0))),
            }
        });
        Ok(Response::new(chunks.boxed()))
    }
}
