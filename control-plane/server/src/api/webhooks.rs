//! How deliveries to webhooks go.

use postern_core::resource::Kind;
use postern_core::wire::webhook::status_to_proto;
use postern_proto::admin::v1 as pb;
use postern_proto::admin::v1::webhook_service_server::WebhookService;
use tonic::{Request, Response, Status};

use super::access::Access;
use super::status;
use crate::raft::RaftHandle;

pub(super) struct Service {
    pub(super) raft: RaftHandle,
    pub(super) access: Access,
}

#[tonic::async_trait]
impl WebhookService for Service {
    async fn list_webhook_statuses(
        &self,
        request: Request<pb::ListWebhookStatusesRequest>,
    ) -> Result<Response<pb::ListWebhookStatusesResponse>, Status> {
        self.access.call(&request)?;
        let read = self.raft.read(|state| {
            let all = state.resources(Kind::Webhook).map(|webhook| {
                let name = &webhook.metadata.name;
                let (known, waiting) = state.webhook_status(name);
                let mut told = status_to_proto(name.as_str(), &known);
                told.waiting = u64::try_from(waiting).unwrap_or(u64::MAX);
                told
            });
            all.collect::<Vec<_>>()
        });
        let statuses = read.await.map_err(status::read)?;
        Ok(Response::new(pb::ListWebhookStatusesResponse { statuses }))
    }
}
