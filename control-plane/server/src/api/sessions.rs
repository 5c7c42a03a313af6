//! The index of sessions, and their recordings.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};
use postern_core::revocation::{Revocation, Revoked};
use postern_core::session::Session;
use postern_core::wire::identity::session_to_proto;
use postern_core::wire::timestamp_from_proto;
use postern_core::{SessionId, Timestamp};
use postern_proto::admin::v1 as pb;
use postern_proto::admin::v1::session_service_server::SessionService;
use postern_proto::resource::v1 as resource_pb;
use postern_proto::resource::v1::SessionState;
use postern_state::{ObjectKey, commands};
use prost::Message as _;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};
use tracing::info;

use super::access::{Access, Caller};
use super::follow::Follow;
use super::grants::{Object, Verb};
use super::page::{Key, Page, Sizes, order};
use super::revocations::{LONG, MAX_REASON};
use super::watching::{Watched, Watches};
use super::{Answers, status};
use crate::raft::RaftHandle;
use crate::recordings::copies::Copies;
use crate::watch::{Change, ChangeSet, Value};

/// In one request.
const MOST_KILLED: usize = 1_000;
const SIZES: Sizes = Sizes { default: 100, most: 1_000 };

pub(super) struct Service {
    pub(super) raft: RaftHandle,
    pub(super) access: Access,
    pub(super) copies: Copies,
    pub(super) watches: Watches,
    /// Each has one who follows a recording.
    pub(super) followers: Arc<Semaphore>,
}

/// Who follow recordings at one member.
pub(super) const FOLLOWERS: usize = 128;

pub(super) fn may_see(caller: &Caller, session: &Session) -> bool {
    caller.may(Object::Sessions, Verb::Get) || (caller.reaches(&session.target) && caller.is(&session.principal))
}

/// Of one that is gone: whoever could see it.
fn could_see(caller: &Caller, was: Option<&Value>) -> bool {
    match was {
        Some(Value::Session(session)) => may_see(caller, session),
        _ => caller.may(Object::Sessions, Verb::Get),
    }
}

/// What a list asks for beside texts that are compared as they are.
struct Filter {
    state: i32,
    after: Option<Timestamp>,
    before: Option<Timestamp>,
}

impl Filter {
    fn read(request: &pb::ListSessionsRequest) -> Result<Self, Status> {
        let state = request.state;
        if SessionState::try_from(state).is_err() {
            return Err(status::invalid_field("state", "is unknown"));
        }
        let time = |time: &Option<prost_types::Timestamp>| time.as_ref().map(timestamp_from_proto);
        Ok(Self { state, after: time(&request.started_after), before: time(&request.started_before) })
    }

    fn takes(&self, request: &pb::ListSessionsRequest, session: &Session) -> bool {
        let state = match &session.end {
            None => SessionState::Open,
            Some(end) if end.ending.is_interrupted() => SessionState::Interrupted,
            Some(_) => SessionState::Ended,
        };
        (self.state == 0 || self.state == i32::from(state))
            && self.after.is_none_or(|after| session.started_at >= after)
            && self.before.is_none_or(|before| session.started_at < before)
            && (request.target.is_empty() || session.target.as_str() == request.target)
            && (request.gateway.is_empty() || session.gateway == request.gateway)
            && (request.principal.is_empty() || session.principal.id.to_string() == request.principal)
    }
}

impl Service {
    async fn find(&self, caller: &Caller, id: SessionId) -> Result<Arc<Session>, Status> {
        let found = self.raft.read(move |state| state.session(id).cloned()).await.map_err(status::read)?;
        // Who may not see it does not learn that it exists.
        found.filter(|session| may_see(caller, session)).ok_or_else(|| status::not_found("session", id))
    }
}

/// Whether a caller may have the recording of a session.
pub(super) fn may_export(caller: &Caller, session: &Session) -> bool {
    may_see(caller, session) && (caller.may(Object::Recordings, Verb::Export) || caller.is(&session.principal))
}

#[tonic::async_trait]
impl SessionService for Service {
    type ExportSessionStream = Answers<pb::ExportSessionResponse>;

    async fn list_sessions(
        &self,
        request: Request<pb::ListSessionsRequest>,
    ) -> Result<Response<pb::ListSessionsResponse>, Status> {
        let caller = self.access.admitted(&request)?;
        let request = request.into_inner();
        let filter = Filter::read(&request)?;
        let (field, descending) = order(&request.order_by, &["started"], ("started", true))?;
        let (state, times) = (filter.state.to_string(), format!("{:?}{:?}", filter.after, filter.before));
        let query =
            ["sessions", &request.target, &request.principal, &request.gateway, state.as_str(), times.as_str(), field];
        let page = Page::read(request.page_size, SIZES, &request.page_token, &query, descending)?;
        let read = self.raft.read(|state| (state.sessions().cloned().collect::<Vec<_>>(), state.index()));
        let (found, revision) = read.await.map_err(status::read)?;
        let found = found.into_iter().filter(|session| filter.takes(&request, session) && may_see(&caller, session));
        let key = |session: &Arc<Session>| Key { number: session.started_at.millis(), text: session.id.to_string() };
        let (found, next_page_token) = page.cut(found, key, |session| session_to_proto(session).encoded_len());
        let sessions = found.iter().map(|session| session_to_proto(session)).collect();
        Ok(Response::new(pb::ListSessionsResponse { sessions, next_page_token, revision }))
    }

    async fn get_session(
        &self,
        request: Request<pb::GetSessionRequest>,
    ) -> Result<Response<pb::GetSessionResponse>, Status> {
        let call = self.access.call(&request)?;
        let id = status::parse("id", &request.into_inner().id)?;
        call.about(format_args!("Session/{id}"));
        let session = self.find(call.caller(), id).await?;
        Ok(Response::new(pb::GetSessionResponse { session: Some(session_to_proto(&session)) }))
    }

    type WatchSessionsStream = Answers<pb::WatchSessionsResponse>;

    async fn watch_sessions(
        &self,
        request: Request<pb::WatchSessionsRequest>,
    ) -> Result<Response<Self::WatchSessionsStream>, Status> {
        let call = self.access.call(&request)?;
        let from = request.into_inner().from_revision;
        let first = if from == 0 {
            let read = self.raft.read(|state| {
                let open = state.sessions().filter(|session| session.end.is_none());
                (open.cloned().collect::<Vec<_>>(), state.index())
            });
            let (found, revision) = read.await.map_err(status::read)?;
            let seen = found.iter().filter(|session| may_see(call.caller(), session));
            Some((seen.map(|session| told(session, session.revision)).collect(), revision))
        } else {
            None
        };
        let only = |change: &Change| matches!(change.key, ObjectKey::Session(_));
        self.watches.stream(&call, from, first, only, Sessions).await.map(Response::new)
    }

    async fn export_session(
        &self,
        request: Request<pb::ExportSessionRequest>,
    ) -> Result<Response<Self::ExportSessionStream>, Status> {
        let call = self.access.call(&request)?;
        let caller = call.caller().clone();
        let request = request.into_inner();
        let id: SessionId = status::parse("id", &request.id)?;
        call.about(format_args!("Session/{id}"));
        let gone = || status::not_found("recording", id);
        // An old session may have left the index; its recording stays, for auditors.
        let for_auditors = caller.may(Object::Recordings, Verb::Export);
        let events = match self.find(&caller, id).await {
            Err(status) if status.code() == tonic::Code::NotFound && for_auditors => None,
            other => {
                let session = other?;
                if !may_export(&caller, &session) {
                    caller.must(Object::Recordings, Verb::Export)?;
                }
                session.end.as_ref().map(|end| end.events)
            }
        };
        if request.follow {
            let follow = Follow::new(self, &call, id, request.offset).await?;
            info!(%caller, session = %id, "follows a recording");
            return Ok(Response::new(follow.stream()));
        }
        let offset = request.offset;
        let data = self.copies.whole(id, events, offset).await?.ok_or_else(gone)?.data(id, offset);
        info!(%caller, session = %id, "exported a recording");
        let answers = data.map_ok(|data| pb::ExportSessionResponse { data });
        Ok(Response::new(answers.boxed()))
    }

    async fn kill_sessions(
        &self,
        request: Request<pb::KillSessionsRequest>,
    ) -> Result<Response<pb::KillSessionsResponse>, Status> {
        let call = self.access.call(&request)?;
        let request = request.into_inner();
        if !(1..=MOST_KILLED).contains(&request.ids.len()) {
            return Err(status::invalid_field("ids", format!("must be 1 to {MOST_KILLED}")));
        }
        if request.because.len() > MAX_REASON {
            return Err(status::invalid_field("because", format!("is longer than {MAX_REASON} bytes")));
        }
        let ids = request.ids.iter().map(|id| status::parse("ids", id)).collect::<Result<BTreeSet<SessionId>, _>>()?;
        ids.iter().for_each(|id| call.about(format_args!("Session/{id}")));
        let mut caller = call.caller().clone();
        self.access.look_up(&mut caller).await?;
        let mut sessions = Vec::with_capacity(ids.len());
        // Whoever may end all sessions does it as that, be it their own.
        let by_right = caller.may(Object::Sessions, Verb::Delete);
        for id in ids {
            let session = self.find(&caller, id).await?;
            // Whoever was handed a token shall not end what its principal does elsewhere.
            let whole = caller.maybe_principal().is_some_and(postern_core::Principal::is_whole);
            if !(whole && caller.is(&session.principal)) {
                caller.must(Object::Sessions, Verb::Delete)?;
            }
            sessions.push(session);
        }
        // One whose gateway is cut off may go on there: it ends when that hears of it.
        sessions.retain(|session| session.sealed().is_none());
        if sessions.is_empty() {
            return Err(status::with_reason(Status::failed_precondition("the session is over"), "SESSION_OVER"));
        }
        // What bearers end of their own leaves room for what administrators have to.
        let by = if by_right { caller.to_string().chars().take(MAX_REASON / 4).collect() } else { String::new() };
        let until = self.access.clock.now().plus(LONG);
        let revocation = |session: &Arc<Session>| Revocation {
            of: Revoked::Session(session.id),
            issued_before: Timestamp::default(),
            until,
            by: by.clone(),
            because: request.because.clone(),
            at: Timestamp::default(),
            revision: 0,
        };
        let command = commands::RevokeTokens { revocations: sessions.iter().map(revocation).collect() };
        call.write(&self.raft, command, status::request_id(&request.request_id)?).await?;
        metrics::counter!("postern_control_sessions_killed_total")
            .increment(u64::try_from(sessions.len()).unwrap_or(u64::MAX));
        info!(%caller, sessions = sessions.len(), because = request.because, "sessions are ended");
        let sessions = sessions.iter().map(|session| session_to_proto(session)).collect();
        Ok(Response::new(pb::KillSessionsResponse { sessions }))
    }
}

/// A watch of sessions.
struct Sessions;

impl Watched for Sessions {
    type Answer = pb::WatchSessionsResponse;

    fn changed(&mut self, caller: &Caller, set: &ChangeSet) -> Vec<Self::Answer> {
        let seen = set.changes.iter().filter_map(|change| match (&change.key, &change.value) {
            (_, Some(Value::Session(session))) => may_see(caller, session).then(|| told(session, set.revision)),
            (ObjectKey::Session(id), None) => could_see(caller, change.was.as_ref()).then(|| {
                let session = Some(resource_pb::Session { id: id.to_string(), ..Default::default() });
                pb::WatchSessionsResponse { event: pb::WatchEvent::Deleted.into(), session, revision: set.revision }
            }),
            _ => None,
        });
        seen.collect()
    }

    fn bookmark(&self, revision: u64) -> Self::Answer {
        pb::WatchSessionsResponse { event: pb::WatchEvent::Bookmark.into(), session: None, revision }
    }

    /// What each may see is theirs to see.
    fn allowed(&self, _: &Caller) -> Result<(), Status> {
        Ok(())
    }
}

/// A session is new while it is open, and changes once: when it ends.
fn told(session: &Session, revision: u64) -> pb::WatchSessionsResponse {
    let event = if session.end.is_none() { pb::WatchEvent::Added } else { pb::WatchEvent::Modified };
    pb::WatchSessionsResponse { event: event.into(), session: Some(session_to_proto(session)), revision }
}
