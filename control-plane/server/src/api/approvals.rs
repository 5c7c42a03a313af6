//! Approvals, for reviewers and requesters.

use std::sync::Arc;

use postern_core::ApprovalId;
use postern_core::approval::{Approval, ApprovalState};
use postern_core::wire::identity::{approval_to_proto, verdict_from_proto};
use postern_proto::admin::v1 as pb;
use postern_proto::admin::v1::approval_service_server::ApprovalService;
use postern_state::commands;
use prost::Message as _;
use tonic::{Request, Response, Status};
use tracing::info;

use super::access::{Access, Caller};
use super::status;
use crate::raft::RaftHandle;

/// Bytes of one list: below what clients take by default (4 MiB).
const MAX_LIST_BYTES: usize = 3 << 20;

pub(super) struct Service {
    pub(super) raft: RaftHandle,
    pub(super) access: Access,
}

/// Requesters, those who may review, and whoever may read everything.
fn may_see(caller: &Caller, approval: &Approval) -> bool {
    caller.auditor
        || (caller.reaches(&approval.target)
            && (caller.is(&approval.requester)
                || caller.maybe_principal().is_some_and(|own| own.in_any(&approval.requirement.groups))))
}

pub(super) async fn find(raft: &RaftHandle, id: ApprovalId) -> Result<Arc<Approval>, Status> {
    let found = raft.read(move |state| state.approval(id).cloned()).await.map_err(status::read)?;
    found.ok_or_else(|| not_found(id))
}

fn not_found(id: ApprovalId) -> Status {
    Status::not_found(format!("no such approval {id}"))
}

#[tonic::async_trait]
impl ApprovalService for Service {
    async fn list_approvals(
        &self,
        request: Request<pb::ListApprovalsRequest>,
    ) -> Result<Response<pb::ListApprovalsResponse>, Status> {
        let caller = self.access.known(&request)?;
        let all = request.into_inner().all;
        let newest = self.raft.read(move |state| {
            let wanted = state.approvals().rev().filter(|approval| all || approval.state == ApprovalState::Pending);
            wanted.cloned().collect::<Vec<_>>()
        });
        let newest = newest.await.map_err(status::read)?;
        let (mut approvals, mut bytes) = (Vec::new(), 0_usize);
        for approval in newest.iter().filter(|approval| may_see(&caller, approval)) {
            let proto = approval_to_proto(approval);
            bytes = bytes.saturating_add(proto.encoded_len());
            if bytes > MAX_LIST_BYTES {
                break;
            }
            approvals.push(proto);
        }
        Ok(Response::new(pb::ListApprovalsResponse { approvals }))
    }

    async fn get_approval(
        &self,
        request: Request<pb::GetApprovalRequest>,
    ) -> Result<Response<pb::GetApprovalResponse>, Status> {
        let caller = self.access.known(&request)?;
        let id: ApprovalId = status::parse("id", &request.into_inner().id)?;
        let approval = find(&self.raft, id).await?;
        // Who may not see it does not learn that it exists.
        if !may_see(&caller, &approval) {
            return Err(not_found(id));
        }
        Ok(Response::new(pb::GetApprovalResponse { approval: Some(approval_to_proto(&approval)) }))
    }

    async fn review_approval(
        &self,
        request: Request<pb::ReviewApprovalRequest>,
    ) -> Result<Response<pb::ReviewApprovalResponse>, Status> {
        let caller = self.access.caller(&request)?;
        // A certificate is no person: n reviewers are n people (I7).
        let reviewer = caller.principal()?.clone();
        let request = request.into_inner();
        let request_id = status::request_id(&request.request_id)?;
        let id: ApprovalId = status::parse("id", &request.id)?;
        let verdict = verdict_from_proto(request.verdict).map_err(status::wire)?;
        if !may_see(&caller, &*find(&self.raft, id).await?) {
            return Err(not_found(id));
        }
        let command = commands::ReviewApproval { id, reviewer, verdict, comment: request.comment };
        let outcome = self.raft.propose(command, request_id).await.map_err(status::propose)?;
        outcome.map_err(status::refused)?;
        let approval = find(&self.raft, id).await?;
        info!(approval = %id, reviewer = %caller, ?verdict, state = approval.state.as_str(), "reviewed");
        Ok(Response::new(pb::ReviewApprovalResponse { approval: Some(approval_to_proto(&approval)) }))
    }
}
