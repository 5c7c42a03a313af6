//! Jobs: session tokens that end when the work that they were made for does.

use std::sync::Arc;

use postern_core::Principal;
use postern_core::job::Job;
use postern_core::wire::job::{job_to_proto, new_job_from_proto};
use postern_proto::admin::v1 as pb;
use postern_proto::admin::v1::job_service_server::JobService;
use postern_proto::resource::v1 as resource_pb;
use postern_state::commands::{EndJob, StartJob};
use prost::Message as _;
use tonic::{Request, Response, Status};
use tracing::info;

use super::access::{Access, Caller};
use super::call::Call;
use super::grants::{Object, Verb};
use super::page::{Key, Page, Sizes};
use super::status;
use crate::jobs::Beats;
use crate::raft::RaftHandle;

const SIZES: Sizes = Sizes { default: 500, most: 1_000 };
const MAX_REASON: usize = 256;
/// Of who ended another's job.
const MAX_BY: usize = 64;

/// Jobs, for every way to ask. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Jobs {
    pub(crate) raft: RaftHandle,
    pub(crate) beats: Beats,
}

impl Jobs {
    /// Takes down that the job is alive, for who shows `own`: the job of `token`, or the nearest of those that `own` is of.
    ///
    /// # Errors
    /// There is none, it is none of theirs, or it cannot be taken down now.
    pub(crate) async fn heard_of(&self, own: &Principal, token: &str) -> Result<Arc<Job>, Status> {
        let job = match token {
            "" => self.nearest(own).await?,
            token => self.find(token).await?,
        };
        if !job.is_told_of_by(own) {
            if !job.is_ended_by(own) {
                return Err(not_found(&job.token));
            }
            let text = "only its own token, or one that was made from it, says that a job is alive";
            return Err(status::with_reason(Status::permission_denied(text), "FORBIDDEN"));
        }
        self.beats.heard_of(&job).await.map_err(status::propose)?;
        metrics::counter!("postern_control_job_beats_total").increment(1);
        self.find(&job.token).await
    }

    /// Has `job`, whose token was made for this `call`, in the state.
    ///
    /// # Errors
    /// There are too many jobs, or the cluster does not answer.
    pub(super) async fn start(&self, call: &Call, job: Job) -> Result<(), Status> {
        call.about(format_args!("Job/{}", job.token));
        info!(job = %job.token, principal = %job.principal, name = job.name, heartbeat = job.heartbeat.0, "a token is tied to a job");
        call.write(&self.raft, StartJob { job }, None).await.map(drop)
    }

    async fn find(&self, token: &str) -> Result<Arc<Job>, Status> {
        let asked: Arc<str> = token.into();
        let found = self.raft.read(move |state| state.job(&asked).cloned()).await.map_err(status::read)?;
        found.ok_or_else(|| not_found(token))
    }

    async fn nearest(&self, own: &Principal) -> Result<Arc<Job>, Status> {
        let tokens: Vec<Arc<str>> = own.tokens().cloned().collect();
        let found = self.raft.read(move |state| tokens.iter().rev().find_map(|token| state.job(token)).cloned());
        let none = || {
            let text = "no job is tied to this token, nor to one that it was made from; or it has ended";
            status::with_reason(Status::not_found(text), "NOT_FOUND")
        };
        found.await.map_err(status::read)?.ok_or_else(none)
    }
}

fn not_found(token: &str) -> Status {
    status::not_found("job", token)
}

/// Those whose job it is in some way, and whoever may list tokens.
fn may_see(caller: &Caller, job: &Job) -> bool {
    let own = caller.maybe_principal();
    caller.may(Object::Tokens, Verb::List) || own.is_some_and(|own| job.is_told_of_by(own) || job.is_ended_by(own))
}

#[derive(Clone)]
pub(super) struct Service {
    pub(super) access: Access,
    pub(super) jobs: Jobs,
}

impl Service {
    /// Who may not see it does not learn that it exists.
    async fn seen(&self, caller: &Caller, token: &str) -> Result<Arc<Job>, Status> {
        if token.is_empty() {
            return self.jobs.nearest(caller.principal()?).await;
        }
        let job = self.jobs.find(token).await?;
        if may_see(caller, &job) { Ok(job) } else { Err(not_found(token)) }
    }
}

#[tonic::async_trait]
impl JobService for Service {
    async fn start_job(&self, request: Request<pb::StartJobRequest>) -> Result<Response<pb::StartJobResponse>, Status> {
        let call = self.access.call(&request)?;
        let own = call.caller().principal()?;
        let (Some(token), Some(ends_at), true) = (&own.token_id, own.expires_at, call.caller().shows_session_token())
        else {
            let text = "a job is tied to a session token: exchange this one first";
            return Err(status::with_reason(Status::failed_precondition(text), "NO_SESSION_TOKEN"));
        };
        let asked = request.get_ref().job.clone().unwrap_or_default();
        let asked = new_job_from_proto(asked).map_err(status::wire)?;
        self.jobs.start(&call, Job::new(own, token, ends_at, asked)).await?;
        let job = self.jobs.find(token).await?;
        Ok(Response::new(pb::StartJobResponse { job: told(&job) }))
    }

    async fn beat_job(&self, request: Request<pb::BeatJobRequest>) -> Result<Response<pb::BeatJobResponse>, Status> {
        let call = self.access.call(&request)?;
        let job = self.jobs.heard_of(call.caller().principal()?, &request.get_ref().token).await?;
        Ok(Response::new(pb::BeatJobResponse { job: told(&job) }))
    }

    async fn end_job(&self, request: Request<pb::EndJobRequest>) -> Result<Response<pb::EndJobResponse>, Status> {
        let call = self.access.call(&request)?;
        let (caller, request) = (call.caller(), request.into_inner());
        if request.because.len() > MAX_REASON {
            return Err(status::invalid_field("because", format!("is longer than {MAX_REASON} bytes")));
        }
        let job = self.seen(caller, &request.token).await?;
        call.about(format_args!("Job/{}", job.token));
        let own = caller.maybe_principal().is_some_and(|own| job.is_ended_by(own));
        if !own {
            caller.must(Object::Revocations, Verb::Create)?;
        }
        let by = if own { String::new() } else { caller.to_string().chars().take(MAX_BY).collect() };
        let because = match request.because {
            none if none.is_empty() => format!("job {} is finished", job.name),
            because => because,
        };
        let token = Arc::clone(&job.token);
        call.write(&self.jobs.raft, EndJob { token, unheard_of_since: None, by, because }, None).await?;
        metrics::counter!("postern_control_jobs_ended_total", "because" => "finished").increment(1);
        info!(job = %job.token, by = %caller, name = job.name, "a job is finished: its token is revoked");
        Ok(Response::new(pb::EndJobResponse {}))
    }

    async fn get_job(&self, request: Request<pb::GetJobRequest>) -> Result<Response<pb::GetJobResponse>, Status> {
        let call = self.access.call(&request)?;
        let job = self.seen(call.caller(), &request.get_ref().token).await?;
        Ok(Response::new(pb::GetJobResponse { job: told(&job) }))
    }

    async fn list_jobs(&self, request: Request<pb::ListJobsRequest>) -> Result<Response<pb::ListJobsResponse>, Status> {
        let caller = self.access.admitted(&request)?;
        let request = request.into_inner();
        let page = Page::read(request.page_size, SIZES, &request.page_token, &["jobs"], false)?;
        let read = self.jobs.raft.read(|state| state.jobs().cloned().collect::<Vec<_>>());
        let found = read.await.map_err(status::read)?.into_iter().filter(|job| may_see(&caller, job));
        let key = |job: &Arc<Job>| Key { number: job.started_at.millis(), text: job.token.to_string() };
        let (found, next_page_token) = page.cut(found, key, |job| job_to_proto(job).encoded_len());
        Ok(Response::new(pb::ListJobsResponse {
            jobs: found.iter().map(|job| job_to_proto(job)).collect(),
            next_page_token,
        }))
    }
}

fn told(job: &Job) -> Option<resource_pb::Job> {
    Some(job_to_proto(job))
}
