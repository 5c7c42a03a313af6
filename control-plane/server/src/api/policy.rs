//! Policy, for gateways.

use futures::StreamExt as _;
use postern_proto::gateway::v1 as pb;
use postern_proto::gateway::v1::policy_feed_service_server::PolicyFeedService;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tracing::info;

use super::Answers;
use super::access::Access;
use crate::feed::{Ended, Published, Watcher};

pub(super) struct Service {
    pub(super) published: Published,
    pub(super) access: Access,
    pub(super) stop: CancellationToken,
}

/// All of them: go to another node, or come again.
fn ended(why: Ended) -> Status {
    match why {
        Ended::TooSlow => Status::aborted(why.to_string()),
        Ended::Behind { .. } | Ended::Busy | Ended::Lost | Ended::Stopping => Status::unavailable(why.to_string()),
    }
}

#[tonic::async_trait]
impl PolicyFeedService for Service {
    type WatchStream = Answers<pb::WatchResponse>;

    async fn watch(&self, request: Request<pb::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let gateway = self.access.gateway(&request)?;
        let pb::WatchRequest { known_revision, incarnation } = request.into_inner();
        let (published, stop) = (self.published.clone(), self.stop.clone());
        let watcher = Watcher::new(published, gateway.clone(), known_revision, &incarnation, stop).await;
        let watcher = watcher.map_err(ended)?;
        info!(%gateway, known_revision, "a gateway watches the policy");
        let answers = futures::stream::unfold(Some(watcher), |watcher| async move {
            let mut watcher = watcher?;
            match watcher.next().await {
                Ok(answer) => Some((Ok(answer), Some(watcher))),
                Err(why) => Some((Err(ended(why)), None)),
            }
        });
        Ok(Response::new(answers.boxed()))
    }
}
