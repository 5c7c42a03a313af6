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
use super::grants::{Object, Verb};
use super::page::{Key, Page, Sizes, order};
use super::{Answers, status};
use crate::raft::RaftHandle;

const SIZES: Sizes = Sizes { default: 500, most: 1_000 };

pub(super) struct Service {
    pub(super) raft: RaftHandle,
    pub(super) access: Access,
}

/// Requesters, those who may review, and whoever may read everything.
fn may_see(caller: &Caller, approval: &Approval) -> bool {
    caller.may(Object::Approvals, Verb::Get)
        || (caller.reaches(&approval.target)
            && (caller.is(&approval.requester)
                || caller.maybe_principal().is_some_and(|own| own.in_any(&approval.requirement.groups))))
}

pub(super) async fn find(raft: &RaftHandle, id: ApprovalId) -> Result<Arc<Approval>, Status> {
    let found = raft.read(move |state| state.approval(id).cloned()).await.map_err(status::read)?;
    found.ok_or_else(|| not_found(id))
}

fn not_found(id: ApprovalId) -> Status {
    status::not_found("approval", id)
}

#[tonic::async_trait]
impl ApprovalService for Service {
    async fn list_approvals(
        &self,
        request: Request<pb::ListApprovalsRequest>,
    ) -> Result<Response<pb::ListApprovalsResponse>, Status> {
        let caller = self.access.admitted(&request)?;
        let request = request.into_inner();
        let (field, descending) = order(&request.order_by, &["requested"], ("requested", true))?;
        let all = if request.all { "all" } else { "" };
        let query = ["approvals", all, &request.target, &request.requester, &request.session, field];
        let page = Page::read(request.page_size, SIZES, &request.page_token, &query, descending)?;
        let read = self.raft.read(|state| (state.approvals().cloned().collect::<Vec<_>>(), state.index()));
        let (found, revision) = read.await.map_err(status::read)?;
        let found = found.into_iter().filter(|approval| {
            (request.all || approval.state == ApprovalState::Pending)
                && (request.target.is_empty() || approval.target.as_str() == request.target)
                && (request.requester.is_empty() || approval.requester.id.to_string() == request.requester)
                && (request.session.is_empty() || approval.session.to_string() == request.session)
                && may_see(&caller, approval)
        });
        let key =
            |approval: &Arc<Approval>| Key { number: approval.requested_at.millis(), text: approval.id.to_string() };
        let (found, next_page_token) = page.cut(found, key, |approval| approval_to_proto(approval).encoded_len());
        let approvals = found.iter().map(|approval| approval_to_proto(approval)).collect();
        Ok(Response::new(pb::ListApprovalsResponse { approvals, next_page_token, revision }))
    }

    async fn get_approval(
        &self,
        request: Request<pb::GetApprovalRequest>,
    ) -> Result<Response<pb::GetApprovalResponse>, Status> {
        let call = self.access.call(&request)?;
        let id: ApprovalId = status::parse("id", &request.into_inner().id)?;
        call.about(format_args!("Approval/{id}"));
        let approval = find(&self.raft, id).await?;
        // Who may not see it does not learn that it exists.
        if !may_see(call.caller(), &approval) {
            return Err(not_found(id));
        }
        Ok(Response::new(pb::GetApprovalResponse { approval: Some(approval_to_proto(&approval)) }))
    }

    async fn review_approval(
        &self,
        request: Request<pb::ReviewApprovalRequest>,
    ) -> Result<Response<pb::ReviewApprovalResponse>, Status> {
        let call = self.access.call(&request)?;
        let caller = call.caller();
        // A certificate is no person: n reviewers are n people (I7).
        let reviewer = caller.principal()?.clone();
        let request = request.into_inner();
        let request_id = status::request_id(&request.request_id)?;
        let id: ApprovalId = status::parse("id", &request.id)?;
        call.about(format_args!("Approval/{id}"));
        let verdict = verdict_from_proto(request.verdict).map_err(status::wire)?;
        if !may_see(caller, &*find(&self.raft, id).await?) {
            return Err(not_found(id));
        }
        let command = commands::ReviewApproval { id, reviewer, verdict, comment: request.comment };
        call.write(&self.raft, command, request_id).await?;
        let approval = find(&self.raft, id).await?;
        info!(approval = %id, reviewer = %caller, ?verdict, state = approval.state.as_str(), "reviewed");
        Ok(Response::new(pb::ReviewApprovalResponse { approval: Some(approval_to_proto(&approval)) }))
    }

    type WatchApprovalsStream = Answers<pb::WatchApprovalsResponse>;

    async fn watch_approvals(
        &self,
        _: Request<pb::WatchApprovalsRequest>,
    ) -> Result<Response<Self::WatchApprovalsStream>, Status> {
        Err(Status::unimplemented("not yet"))
    }
}
