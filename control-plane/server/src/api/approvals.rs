//! Approvals, for reviewers and requesters.

use std::sync::Arc;

use postern_core::ApprovalId;
use postern_core::approval::{Approval, ApprovalState};
use postern_core::wire::identity::verdict_from_proto;
use postern_proto::admin::v1 as pb;
use postern_proto::admin::v1::approval_service_server::ApprovalService;
use postern_proto::resource::v1 as resource_pb;
use postern_state::{ObjectKey, commands};
use prost::Message as _;
use tonic::{Request, Response, Status};
use tracing::info;

use super::access::{Access, Caller};
use super::grants::{Object, Verb};
use super::page::{Key, Page, Sizes, order};
use super::veil::Veils;
use super::watching::{Watched, Watches};
use super::{Answers, status};
use crate::raft::RaftHandle;
use crate::watch::{Change, ChangeSet, Value};

const SIZES: Sizes = Sizes { default: 500, most: 1_000 };

pub(super) struct Service {
    pub(super) raft: RaftHandle,
    pub(super) access: Access,
    pub(super) watches: Watches,
}

/// Requesters, those who may review, and whoever may read everything.
fn may_see(caller: &Caller, approval: &Approval) -> bool {
    caller.may(Object::Approvals, Verb::Get)
        || (caller.reaches(&approval.target)
            && (caller.is(&approval.requester)
                || caller.maybe_principal().is_some_and(|own| own.in_any(&approval.requirement.groups))))
}

/// Of one that is gone: whoever could see it.
fn could_see(caller: &Caller, was: Option<&Value>) -> bool {
    match was {
        Some(Value::Approval(approval)) => may_see(caller, approval),
        _ => caller.may(Object::Approvals, Verb::Get),
    }
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
        let veils = Veils::new(self.access.policy());
        let (found, next_page_token) = page.cut(found, key, |approval| veils.shown(&caller, approval).encoded_len());
        let approvals = found.iter().map(|approval| veils.shown(&caller, approval)).collect();
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
        let shown = Veils::new(self.access.policy()).shown(call.caller(), &approval);
        Ok(Response::new(pb::GetApprovalResponse { approval: Some(shown) }))
    }

    async fn review_approval(
        &self,
        request: Request<pb::ReviewApprovalRequest>,
    ) -> Result<Response<pb::ReviewApprovalResponse>, Status> {
        let call = self.access.call(&request)?;
        let caller = call.caller();
        let reviewer = caller.reviewer()?.clone();
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
        let shown = Veils::new(self.access.policy()).shown(caller, &approval);
        Ok(Response::new(pb::ReviewApprovalResponse { approval: Some(shown) }))
    }

    type WatchApprovalsStream = Answers<pb::WatchApprovalsResponse>;

    async fn watch_approvals(
        &self,
        request: Request<pb::WatchApprovalsRequest>,
    ) -> Result<Response<Self::WatchApprovalsStream>, Status> {
        let call = self.access.call(&request)?;
        let from = request.into_inner().from_revision;
        let first = if from == 0 {
            let read = self.raft.read(|state| {
                let pending = state.approvals().filter(|approval| approval.state == ApprovalState::Pending);
                (pending.cloned().collect::<Vec<_>>(), state.index())
            });
            let (found, revision) = read.await.map_err(status::read)?;
            let seen = found.iter().filter(|approval| may_see(call.caller(), approval));
            let to = (&Veils::new(self.access.policy()), call.caller());
            Some((
                seen.map(|approval| told(to, approval, pb::WatchEvent::Added, approval.revision)).collect(),
                revision,
            ))
        } else {
            None
        };
        let only = |change: &Change| matches!(change.key, ObjectKey::Approval(_));
        self.watches.stream(&call, from, first, only, Approvals(self.access.clone())).await.map(Response::new)
    }
}

/// A watch of approvals.
struct Approvals(Access);

impl Watched for Approvals {
    type Answer = pb::WatchApprovalsResponse;

    fn changed(&mut self, caller: &Caller, set: &ChangeSet) -> Vec<Self::Answer> {
        let veils = Veils::new(self.0.policy());
        let to = (&veils, caller);
        let seen = set.changes.iter().filter_map(|change| match (&change.key, &change.value) {
            (_, Some(Value::Approval(approval))) => may_see(caller, approval).then(|| {
                // Until somebody does something about it, it is new.
                let new = approval.state == ApprovalState::Pending && approval.reviews.is_empty();
                told(to, approval, if new { pb::WatchEvent::Added } else { pb::WatchEvent::Modified }, set.revision)
            }),
            (ObjectKey::Approval(id), None) => could_see(caller, change.was.as_ref()).then(|| {
                let approval = Some(resource_pb::Approval { id: id.to_string(), ..Default::default() });
                pb::WatchApprovalsResponse { event: pb::WatchEvent::Deleted.into(), approval, revision: set.revision }
            }),
            _ => None,
        });
        seen.collect()
    }

    fn bookmark(&self, revision: u64) -> Self::Answer {
        pb::WatchApprovalsResponse { event: pb::WatchEvent::Bookmark.into(), approval: None, revision }
    }

    /// What each may see is theirs to see.
    fn allowed(&self, _: &Caller) -> Result<(), Status> {
        Ok(())
    }
}

fn told(
    (veils, caller): (&Veils, &Caller),
    approval: &Approval,
    event: pb::WatchEvent,
    revision: u64,
) -> pb::WatchApprovalsResponse {
    pb::WatchApprovalsResponse { event: event.into(), approval: Some(veils.shown(caller, approval)), revision }
}
