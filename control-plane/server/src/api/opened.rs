//! Reviews after the fact, for gateways that are about to run what asks for one.

use postern_core::time::Ttl;
use postern_core::wire::review::{item_from_proto, item_to_proto};
use postern_proto::gateway::v1 as pb;
use postern_proto::gateway::v1::review_service_server::ReviewService;
use postern_state::{Success, commands};
use tonic::{Request, Response, Status};
use tracing::info;

use super::access::Access;
use super::{reviews, status};
use crate::raft::RaftHandle;

pub(super) struct Service {
    pub(super) raft: RaftHandle,
    pub(super) access: Access,
}

#[tonic::async_trait]
impl ReviewService for Service {
    async fn open_review(
        &self,
        request: Request<pb::OpenReviewRequest>,
    ) -> Result<Response<pb::OpenReviewResponse>, Status> {
        let gateway = self.access.gateway(&request)?;
        let request = request.into_inner();
        let mut item = request.item.ok_or_else(|| status::invalid_field("item", "is missing"))?;
        // How it ends is not the gateway's to say, and whose it is, is what its certificate says.
        item.closed = None;
        item.gateway = gateway.to_string();
        let item = item_from_proto(item).map_err(status::wire)?;
        let (asked, session) = (item.id, item.session);
        let command = commands::OpenReview { item, within: Ttl(request.within_seconds) };
        let outcome = self.raft.propose(command, None).await.map_err(status::propose)?;
        let id = match outcome.map_err(status::refused)? {
            Success::Review(id) => id,
            _ => asked,
        };
        let item = reviews::find(&self.raft, id).await?;
        if id == asked {
            info!(%gateway, review = %id, %session, principal = %item.principal, "to be reviewed afterwards");
        }
        Ok(Response::new(pb::OpenReviewResponse { item: Some(item_to_proto(&item)) }))
    }
}
