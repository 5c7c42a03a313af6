//! The log of recordings: heads for everybody, proofs for whoever may see the recording.

use postern_core::SessionId;
use postern_core::wire::timestamp_to_proto;
use postern_proto::admin::v1 as pb;
use postern_proto::admin::v1::log_service_server::LogService;
use tonic::{Request, Response, Status};

use super::access::Access;
use super::grants::{Object, Verb};
use super::sessions::may_see;
use super::{page_size, status};
use crate::raft::RaftHandle;
use crate::recordings::log::{Heads, LogBook, LogError};

pub(super) struct Service {
    pub(super) raft: RaftHandle,
    pub(super) access: Access,
    pub(super) book: LogBook,
}

fn failed(error: LogError) -> Status {
    match error {
        LogError::NotYet(why) => Status::unavailable(why),
        LogError::NotThere(why) => Status::not_found(why),
        error @ (LogError::Disk(_) | LogError::Flush) => {
            tracing::error!(%error, "a proof cannot be given");
            Status::data_loss("the log of recordings cannot be read here")
        }
    }
}

#[tonic::async_trait]
impl LogService for Service {
    async fn get_head(&self, request: Request<pb::GetHeadRequest>) -> Result<Response<pb::GetHeadResponse>, Status> {
        let of = Heads::witnessed(request.into_inner().witnessed);
        let (checkpoint, key, at) = self.book.head(of).map_err(failed)?;
        let published_at = Some(timestamp_to_proto(at));
        Ok(Response::new(pb::GetHeadResponse { checkpoint: checkpoint.to_string(), key, published_at }))
    }

    async fn get_evidence(
        &self,
        request: Request<pb::GetEvidenceRequest>,
    ) -> Result<Response<pb::GetEvidenceResponse>, Status> {
        let call = self.access.call(&request)?;
        let request = request.into_inner();
        let id: SessionId = status::parse("session", &request.session)?;
        call.about(format_args!("Session/{id}"));
        // One that is in the index no more is for those who may see all.
        let known = self.raft.read(move |state| state.session(id).cloned()).await.map_err(status::read)?;
        let events = known.as_ref().and_then(|session| session.end.as_ref()).map(|end| end.events);
        let may = match known {
            Some(session) => may_see(call.caller(), &session),
            None => call.caller().may(Object::Sessions, Verb::Get),
        };
        if !may {
            return Err(status::not_found("session", id));
        }
        let evidence = self.book.evidence(id, events, Heads::witnessed(request.witnessed)).await.map_err(failed)?;
        Ok(Response::new(pb::GetEvidenceResponse { evidence: evidence.to_string() }))
    }

    async fn get_consistency(
        &self,
        request: Request<pb::GetConsistencyRequest>,
    ) -> Result<Response<pb::GetConsistencyResponse>, Status> {
        let found = self.book.consistency(request.into_inner().old_size).await.map_err(failed)?;
        let proof = found.proof.iter().map(|hash| hash.0.to_vec()).collect();
        Ok(Response::new(pb::GetConsistencyResponse { checkpoint: found.checkpoint.to_string(), proof }))
    }

    async fn list_leaves(
        &self,
        request: Request<pb::ListLeavesRequest>,
    ) -> Result<Response<pb::ListLeavesResponse>, Status> {
        self.access.call(&request)?;
        let request = request.into_inner();
        let count = u64::try_from(page_size(request.page_size, 1_000, 10_000)).unwrap_or(1_000);
        let size = self.book.head(Heads::All).map_err(failed)?.0.head().size;
        let until = request.from.saturating_add(count).min(size);
        let edge = self.book.edge(request.from.min(until)).await.map_err(failed)?;
        let leaves = self.book.read(request.from.min(until), until).await.map_err(failed)?;
        Ok(Response::new(pb::ListLeavesResponse {
            leaves: leaves.iter().map(|leaf| leaf.to_bytes().to_vec()).collect(),
            edge: edge.iter().map(|peak| peak.0.to_vec()).collect(),
        }))
    }
}
