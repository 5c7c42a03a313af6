//! Just-in-time access, for those who ask and those who review.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use postern_core::access::{AccessRequest, AccessState, may_review};
use postern_core::time::Ttl;
use postern_core::wire::access::access_to_proto;
use postern_core::wire::identity::verdict_from_proto;
use postern_core::{AccessId, Name};
use postern_proto::admin::v1 as pb;
use postern_proto::admin::v1::access_service_server::AccessService;
use postern_proto::resource::v1 as resource_pb;
use postern_runtime::clock;
use postern_state::commands;
use prost::Message as _;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tracing::info;

use super::access::{Access, Caller};
use super::grants::{Object, Verb};
use super::page::{Key, Page, Sizes};
use super::rights::Rights;
use super::{Answers, status};
use crate::raft::{Changes, RaftHandle};

/// How long one stream lasts: then the caller comes again, with a token that is still good.
const STREAM_LIFE: Duration = Duration::from_secs(300);
const SIZES: Sizes = Sizes { default: 500, most: 1_000 };

pub(super) struct Service {
    pub(super) raft: RaftHandle,
    pub(super) access: Access,
    pub(super) stop: CancellationToken,
}

/// Whoever asked, by the tokens they asked with; those who may review; and whoever may read everything. A token that is for other targets sees nothing.
fn may_see(caller: &Caller, access: &AccessRequest) -> bool {
    caller.may(Object::Approvals, Verb::Get)
        || (caller.reaches(&access.target) && (is_of(caller, access) || reviews(caller, access)))
}

fn is_of(caller: &Caller, access: &AccessRequest) -> bool {
    caller.maybe_principal().is_some_and(|own| access.is_of(own))
}

/// A token that was handed on is no person's word.
fn reviews(caller: &Caller, access: &AccessRequest) -> bool {
    caller.maybe_principal().is_some_and(|own| !own.is_handed_on() && may_review(&access.review, own))
}

async fn find(raft: &RaftHandle, id: AccessId) -> Result<Arc<AccessRequest>, Status> {
    let found = raft.read(move |state| state.access(id).cloned()).await.map_err(status::read)?;
    found.ok_or_else(|| not_found(id))
}

fn not_found(id: AccessId) -> Status {
    status::not_found("request", id)
}

impl Service {
    /// Who may not see it does not learn that it exists.
    async fn seen(&self, caller: &Caller, id: AccessId) -> Result<Arc<AccessRequest>, Status> {
        let access = find(&self.raft, id).await?;
        if may_see(caller, &access) { Ok(access) } else { Err(not_found(id)) }
    }

    async fn told(&self, id: AccessId) -> Result<Option<resource_pb::AccessRequest>, Status> {
        Ok(Some(access_to_proto(&*find(&self.raft, id).await?)))
    }
}

#[tonic::async_trait]
impl AccessService for Service {
    async fn request_access(
        &self,
        request: Request<pb::RequestAccessRequest>,
    ) -> Result<Response<pb::RequestAccessResponse>, Status> {
        let call = self.access.call(&request)?;
        let requester = call.caller().principal()?.clone();
        let request = request.into_inner();
        let id: AccessId = if request.id.is_empty() { clock::access_id() } else { status::parse("id", &request.id)? };
        let target: Name = status::parse("target", &request.target)?;
        let policy = (!request.policy.is_empty()).then(|| status::parse("policy", &request.policy)).transpose()?;
        call.about(format_args!("Access/{id}"));
        call.about(format_args!("Target/{target}"));
        let (reason, duration) = (request.reason, Ttl(request.duration_seconds));
        let command = commands::RequestAccess { id, requester, target, policy, reason, duration };
        call.write(&self.raft, command, None).await?;
        let access = find(&self.raft, id).await?;
        let (state, automatic) = (access.state.as_str(), access.automatic.as_deref());
        info!(access = %id, requester = %access.requester, target = %access.target, policy = %access.policy, state, automatic, "access requested");
        Ok(Response::new(pb::RequestAccessResponse { access: Some(access_to_proto(&access)) }))
    }

    async fn list_access(
        &self,
        request: Request<pb::ListAccessRequest>,
    ) -> Result<Response<pb::ListAccessResponse>, Status> {
        let caller = self.access.admitted(&request)?;
        let request = request.into_inner();
        let flags = format!("{} {} {}", request.all, request.mine, request.pending);
        let query = ["access", &flags, &request.target, &request.requester];
        let page = Page::read(request.page_size, SIZES, &request.page_token, &query, true)?;
        let read = self.raft.read(|state| state.accesses().cloned().collect::<Vec<_>>());
        let found = read.await.map_err(status::read)?.into_iter().filter(|access| {
            (request.all || !access.state.is_final())
                && (!request.pending || access.state == AccessState::Pending)
                && (!request.mine || is_of(&caller, access))
                && (request.target.is_empty() || access.target.as_str() == request.target)
                && (request.requester.is_empty() || access.requester.id.to_string() == request.requester)
                && may_see(&caller, access)
        });
        let key =
            |access: &Arc<AccessRequest>| Key { number: access.requested_at.millis(), text: access.id.to_string() };
        let (found, next_page_token) = page.cut(found, key, |access| access_to_proto(access).encoded_len());
        let access = found.iter().map(|access| access_to_proto(access)).collect();
        Ok(Response::new(pb::ListAccessResponse { access, next_page_token }))
    }

    async fn get_access(
        &self,
        request: Request<pb::GetAccessRequest>,
    ) -> Result<Response<pb::GetAccessResponse>, Status> {
        let call = self.access.call(&request)?;
        let id: AccessId = status::parse("id", &request.into_inner().id)?;
        call.about(format_args!("Access/{id}"));
        let access = self.seen(call.caller(), id).await?;
        Ok(Response::new(pb::GetAccessResponse { access: Some(access_to_proto(&access)) }))
    }

    async fn review_access(
        &self,
        request: Request<pb::ReviewAccessRequest>,
    ) -> Result<Response<pb::ReviewAccessResponse>, Status> {
        let call = self.access.call(&request)?;
        let reviewer = call.caller().reviewer()?.clone();
        let request = request.into_inner();
        let request_id = status::request_id(&request.request_id)?;
        let id: AccessId = status::parse("id", &request.id)?;
        call.about(format_args!("Access/{id}"));
        let verdict = verdict_from_proto(request.verdict).map_err(status::wire)?;
        self.seen(call.caller(), id).await?;
        let command = commands::ReviewAccess { id, reviewer, verdict, comment: request.comment };
        call.write(&self.raft, command, request_id).await?;
        let access = find(&self.raft, id).await?;
        info!(access = %id, reviewer = %call.caller(), ?verdict, state = access.state.as_str(), "access reviewed");
        Ok(Response::new(pb::ReviewAccessResponse { access: Some(access_to_proto(&access)) }))
    }

    async fn end_access(
        &self,
        request: Request<pb::EndAccessRequest>,
    ) -> Result<Response<pb::EndAccessResponse>, Status> {
        let call = self.access.call(&request)?;
        let caller = call.caller();
        let request = request.into_inner();
        let id: AccessId = status::parse("id", &request.id)?;
        call.about(format_args!("Access/{id}"));
        let known = self.seen(caller, id).await?;
        if !is_of(caller, &known) && !reviews(caller, &known) {
            caller.must(Object::Approvals, Verb::Manage)?;
        }
        let by = caller.to_string();
        let command = commands::EndAccess { id, by, because: request.because };
        call.write(&self.raft, command, None).await?;
        info!(access = %id, by = %caller, "access ended");
        Ok(Response::new(pb::EndAccessResponse { access: self.told(id).await? }))
    }

    type WatchAccessStream = Answers<pb::WatchAccessResponse>;

    async fn watch_access(
        &self,
        request: Request<pb::WatchAccessRequest>,
    ) -> Result<Response<Self::WatchAccessStream>, Status> {
        let call = self.access.call(&request)?;
        let id: AccessId = status::parse("id", &request.into_inner().id)?;
        call.about(format_args!("Access/{id}"));
        self.seen(call.caller(), id).await?;
        let watcher = Watcher {
            id,
            rights: Rights::new(self.access.clone(), call.caller().clone()),
            raft: self.raft.clone(),
            changes: self.raft.changes(),
            stop: self.stop.clone(),
            until: Instant::now() + STREAM_LIFE,
            sent: None,
            over: false,
        };
        let answers = futures::stream::unfold(watcher, |mut watcher| async move {
            let answer = match watcher.next().await {
                Ok(access) => Ok(pb::WatchAccessResponse { access: Some(access_to_proto(&*access?)) }),
                Err(status) => {
                    watcher.over = true;
                    Err(status)
                }
            };
            Some((answer, watcher))
        });
        Ok(Response::new(answers.boxed()))
    }
}

/// Somebody who waits for one request.
struct Watcher {
    id: AccessId,
    rights: Rights,
    raft: RaftHandle,
    changes: watch::Receiver<Changes>,
    stop: CancellationToken,
    until: Instant,
    /// The revision that was sent last.
    sent: Option<u64>,
    over: bool,
}

impl Watcher {
    /// The request when it has changed; `None` after it was over, when the stream has lasted long enough, or when the node stops. Refuses who may not see
    /// it any more.
    async fn next(&mut self) -> Result<Option<Arc<AccessRequest>>, Status> {
        while !self.over {
            let seen = *self.changes.borrow_and_update();
            let looked = self.rights.look().await?;
            let access = find(&self.raft, self.id).await?;
            if looked && !may_see(self.rights.caller(), &access) {
                return Err(not_found(self.id));
            }
            if self.sent != Some(access.revision) {
                self.sent = Some(access.revision);
                self.over = access.state.is_final();
                return Ok(Some(access));
            }
            let changed = tokio::select! {
                () = self.stop.cancelled() => return Ok(None),
                () = tokio::time::sleep_until(self.until) => return Ok(None),
                () = self.rights.due() => None,
                changed = self.changes.wait_for(|now| (now.approvals, now.policy) != (seen.approvals, seen.policy)) => {
                    let Ok(now) = changed else { return Ok(None) };
                    // Among what gateways decide by are revocations and issuers.
                    Some(now.policy).filter(|policy| *policy != seen.policy)
                }
            };
            changed.into_iter().for_each(|revision| self.rights.changed(revision));
        }
        Ok(None)
    }
}
