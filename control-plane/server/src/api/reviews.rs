//! Reviews after the fact, for those who close them and those who look after them.

use std::sync::Arc;

use postern_core::ReviewId;
use postern_core::review::ReviewItem;
use postern_core::wire::review::finding_from_proto;
use postern_proto::admin::v1 as pb;
use postern_proto::admin::v1::review_service_server::ReviewService;
use postern_state::commands;
use prost::Message as _;
use tonic::{Request, Response, Status};
use tracing::info;

use super::access::{Access, Caller};
use super::grants::{Object, Verb};
use super::page::{Key, Page, Sizes, order};
use super::status;
use super::veil::Veils;
use crate::raft::RaftHandle;

const SIZES: Sizes = Sizes { default: 500, most: 1_000 };

pub(super) struct Service {
    pub(super) raft: RaftHandle,
    pub(super) access: Access,
}

/// Who did it, those who may close it, and whoever may read everything.
fn may_see(caller: &Caller, item: &ReviewItem) -> bool {
    caller.may(Object::Approvals, Verb::Get)
        || (caller.reaches(&item.target)
            && (caller.is(&item.principal) || caller.maybe_principal().is_some_and(|own| own.in_any(&item.groups))))
}

pub(super) async fn find(raft: &RaftHandle, id: ReviewId) -> Result<Arc<ReviewItem>, Status> {
    let found = raft.read(move |state| state.review(id).cloned()).await.map_err(status::read)?;
    found.ok_or_else(|| not_found(id))
}

fn not_found(id: ReviewId) -> Status {
    status::not_found("review", id)
}

#[tonic::async_trait]
impl ReviewService for Service {
    async fn list_reviews(
        &self,
        request: Request<pb::ListReviewsRequest>,
    ) -> Result<Response<pb::ListReviewsResponse>, Status> {
        let caller = self.access.admitted(&request)?;
        let request = request.into_inner();
        let (field, descending) = order(&request.order_by, &["opened"], ("opened", true))?;
        let selection = pb::ReviewSelection::try_from(request.selection)
            .map_err(|_| status::invalid_field("selection", "is unknown"))?;
        let query = ["reviews", selection.as_str_name(), &request.target, &request.principal, &request.session, field];
        let page = Page::read(request.page_size, SIZES, &request.page_token, &query, descending)?;
        let read = self.raft.read(|state| (state.reviews().cloned().collect::<Vec<_>>(), state.index()));
        let (found, revision) = read.await.map_err(status::read)?;
        let selected = |item: &ReviewItem| match selection {
            pb::ReviewSelection::Unspecified | pb::ReviewSelection::Open => item.closed.is_none(),
            pb::ReviewSelection::Overdue => item.closed.is_none() && item.overdue,
            pb::ReviewSelection::All => true,
        };
        let found = found.into_iter().filter(|item| {
            selected(item)
                && (request.target.is_empty() || item.target.as_str() == request.target)
                && (request.principal.is_empty() || item.principal.id.to_string() == request.principal)
                && (request.session.is_empty() || item.session.to_string() == request.session)
                && may_see(&caller, item)
        });
        let key = |item: &Arc<ReviewItem>| Key { number: item.opened_at.millis(), text: item.id.to_string() };
        let veils = Veils::new(self.access.policy());
        let (found, next_page_token) = page.cut(found, key, |item| veils.shown_review(&caller, item).encoded_len());
        let reviews = found.iter().map(|item| veils.shown_review(&caller, item)).collect();
        Ok(Response::new(pb::ListReviewsResponse { reviews, next_page_token, revision }))
    }

    async fn get_review(
        &self,
        request: Request<pb::GetReviewRequest>,
    ) -> Result<Response<pb::GetReviewResponse>, Status> {
        let call = self.access.call(&request)?;
        let id: ReviewId = status::parse("id", &request.into_inner().id)?;
        call.about(format_args!("Review/{id}"));
        let item = find(&self.raft, id).await?;
        // Who may not see it does not learn that it exists.
        if !may_see(call.caller(), &item) {
            return Err(not_found(id));
        }
        let shown = Veils::new(self.access.policy()).shown_review(call.caller(), &item);
        Ok(Response::new(pb::GetReviewResponse { review: Some(shown) }))
    }

    async fn close_review(
        &self,
        request: Request<pb::CloseReviewRequest>,
    ) -> Result<Response<pb::CloseReviewResponse>, Status> {
        let call = self.access.call(&request)?;
        let caller = call.caller();
        let reviewer = caller.reviewer()?.clone();
        let request = request.into_inner();
        let request_id = status::request_id(&request.request_id)?;
        let id: ReviewId = status::parse("id", &request.id)?;
        call.about(format_args!("Review/{id}"));
        let finding = finding_from_proto(request.finding).map_err(status::wire)?;
        if !may_see(caller, &*find(&self.raft, id).await?) {
            return Err(not_found(id));
        }
        let command = commands::CloseReview { id, reviewer, finding, comment: request.comment };
        call.write(&self.raft, command, request_id).await?;
        info!(review = %id, reviewer = %caller, finding = finding.as_str(), "a review was closed");
        let item = find(&self.raft, id).await?;
        let shown = Veils::new(self.access.policy()).shown_review(caller, &item);
        Ok(Response::new(pb::CloseReviewResponse { review: Some(shown) }))
    }
}
