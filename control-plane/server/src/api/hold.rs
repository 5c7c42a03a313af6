//! Held operations, for gateways.

use std::sync::Arc;

use futures::StreamExt as _;
use postern_core::approval::{Approval, ApprovalState};
use postern_core::operation::Digest;
use postern_core::time::Ttl;
use postern_core::wire::identity::{approval_from_proto, approval_to_proto};
use postern_core::{ApprovalId, RequestId};
use postern_proto::gateway::v1 as pb;
use postern_proto::gateway::v1::hold_service_server::HoldService;
use postern_proto::resource::v1 as resource_pb;
use postern_state::{Command, State, commands};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tracing::info;

use super::access::Access;
use super::approvals::find;
use super::{Answers, status};
use crate::raft::{Changes, RaftHandle};

/// The feature level from which on reviewers are told more than the operation itself.
const TOLD: u32 = 5;

pub(super) struct Service {
    pub(super) raft: RaftHandle,
    pub(super) access: Access,
    pub(super) stop: CancellationToken,
}

impl Service {
    /// Writes, and tells how the approval then stands.
    async fn write(
        &self,
        id: ApprovalId,
        command: impl Into<Command>,
        request_id: Option<RequestId>,
    ) -> Result<Option<resource_pb::Approval>, Status> {
        let outcome = self.raft.propose(command, request_id).await.map_err(status::propose)?;
        outcome.map_err(status::refused)?;
        Ok(Some(approval_to_proto(&*find(&self.raft, id).await?)))
    }
}

#[tonic::async_trait]
impl HoldService for Service {
    type WatchApprovalStream = Answers<pb::WatchApprovalResponse>;

    async fn request_approval(
        &self,
        request: Request<pb::RequestApprovalRequest>,
    ) -> Result<Response<pb::RequestApprovalResponse>, Status> {
        let gateway = self.access.gateway(&request)?;
        let request = request.into_inner();
        let mut approval = request.approval.ok_or_else(|| status::invalid_field("approval", "is missing"))?;
        // A gateway asks; where it stands is not the gateway's to say.
        approval.state = resource_pb::ApprovalState::Pending.into();
        let mut approval = approval_from_proto(approval).map_err(status::wire)?;
        if approval.background.is_some() && self.raft.read(State::feature_level).await.map_err(status::read)? < TOLD {
            // Members that do not know it would leave it out. Nothing is decided by it.
            approval.background = None;
        }
        let id = approval.id;
        info!(%gateway, approval = %id, session = %approval.session, requester = %approval.requester, "approval requested");
        let command = commands::RequestApproval { approval, expires: Ttl(request.expires_seconds) };
        let approval = self.write(id, command, None).await?;
        Ok(Response::new(pb::RequestApprovalResponse { approval }))
    }

    async fn watch_approval(
        &self,
        request: Request<pb::WatchApprovalRequest>,
    ) -> Result<Response<Self::WatchApprovalStream>, Status> {
        self.access.gateway(&request)?;
        let id: ApprovalId = status::parse("id", &request.into_inner().id)?;
        let watcher = Watcher {
            id,
            raft: self.raft.clone(),
            changes: self.raft.changes(),
            stop: self.stop.clone(),
            sent: None,
            over: false,
        };
        // Known at once whether there is such an approval.
        find(&self.raft, id).await?;
        let answers = futures::stream::unfold(watcher, |mut watcher| async move {
            let answer = match watcher.next().await {
                Ok(approval) => Ok(pb::WatchApprovalResponse { approval: Some(approval_to_proto(&*approval?)) }),
                Err(status) => {
                    watcher.over = true;
                    Err(status)
                }
            };
            Some((answer, watcher))
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn consume_approval(
        &self,
        request: Request<pb::ConsumeApprovalRequest>,
    ) -> Result<Response<pb::ConsumeApprovalResponse>, Status> {
        let gateway = self.access.gateway(&request)?;
        let request = request.into_inner();
        let request_id = status::request_id(&request.request_id)?;
        let id: ApprovalId = status::parse("id", &request.id)?;
        let session = status::parse("session", &request.session)?;
        let digest =
            Digest::from_slice(&request.digest).ok_or_else(|| status::invalid_field("digest", "has not 32 bytes"))?;
        let command = commands::ConsumeApproval { id, session, digest };
        let approval = self.write(id, command, request_id).await?;
        info!(%gateway, approval = %id, %session, "approval consumed");
        Ok(Response::new(pb::ConsumeApprovalResponse { approval }))
    }

    async fn withdraw_approval(
        &self,
        request: Request<pb::WithdrawApprovalRequest>,
    ) -> Result<Response<pb::WithdrawApprovalResponse>, Status> {
        let gateway = self.access.gateway(&request)?;
        let request = request.into_inner();
        let id: ApprovalId = status::parse("id", &request.id)?;
        info!(%gateway, approval = %id, because = request.because, "approval withdrawn");
        let command = commands::WithdrawApproval { id, because: request.because };
        let approval = self.write(id, command, None).await?;
        Ok(Response::new(pb::WithdrawApprovalResponse { approval }))
    }
}

/// A gateway that waits for one approval.
struct Watcher {
    id: ApprovalId,
    raft: RaftHandle,
    changes: watch::Receiver<Changes>,
    stop: CancellationToken,
    /// The revision that was sent last.
    sent: Option<u64>,
    over: bool,
}

impl Watcher {
    /// The approval when it has changed; `None` after it stopped being pending, or when the node stops.
    async fn next(&mut self) -> Result<Option<Arc<Approval>>, Status> {
        while !self.over {
            let seen = self.changes.borrow_and_update().approvals;
            let approval = find(&self.raft, self.id).await?;
            if self.sent != Some(approval.revision) {
                self.sent = Some(approval.revision);
                self.over = approval.state != ApprovalState::Pending;
                return Ok(Some(approval));
            }
            tokio::select! {
                () = self.stop.cancelled() => return Ok(None),
                changed = self.changes.wait_for(|now| now.approvals != seen) => if changed.is_err() { return Ok(None) },
            }
        }
        Ok(None)
    }
}
