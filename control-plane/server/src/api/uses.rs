//! Tokens that are good for a number of sessions, for gateways that open one.

use postern_core::wire::timestamp_from_proto;
use postern_core::{RequestId, SessionId};
use postern_proto::gateway::v1 as pb;
use postern_proto::gateway::v1::token_use_service_server::TokenUseService;
use postern_state::{Refusal, commands};
use tonic::{Request, Response, Status};

use super::access::Access;
use super::status;
use crate::raft::RaftHandle;

pub(super) struct Service {
    pub(super) raft: RaftHandle,
    pub(super) access: Access,
}

#[tonic::async_trait]
impl TokenUseService for Service {
    async fn take_uses(&self, request: Request<pb::TakeUsesRequest>) -> Result<Response<pb::TakeUsesResponse>, Status> {
        let gateway = self.access.gateway(&request)?;
        let request = request.into_inner();
        let session: SessionId = status::parse("session", &request.session)?;
        let until = request.until.as_ref().map(timestamp_from_proto).unwrap_or_default();
        let uses = request.uses.into_iter().map(|counted| (counted.token.into(), counted.most)).collect();
        // Whoever asks again for the session has the answer that there was.
        let once = RequestId::from_bytes(session.to_bytes());
        let outcome = self.raft.propose(commands::TakeUses { uses, until }, Some(once)).await;
        match outcome.map_err(status::propose)? {
            Ok(_) => Ok(Response::new(pb::TakeUsesResponse {})),
            Err(Refusal::Spent) => {
                tracing::info!(%gateway, %session, "a token is used up");
                Err(status::with_reason(Status::unauthenticated("the token is used up"), "TOKEN_SPENT"))
            }
            Err(refusal) => Err(status::refused(refusal)),
        }
    }
}
