use postern_core::job::{HEARTBEATS, Job, MAX_NAME};
use postern_core::resource::FieldFault;
use postern_core::token::MAX_DEPTH;
use postern_core::wire::job::{job_from_proto, job_to_proto};
use postern_proto::state::v1 as pb;

use crate::entry::fault;
use crate::outcome::{Outcome, Refusal, Success};
use crate::state::{Context, Limits};

const MAX_TOKEN: usize = 255;
/// Tokens in one chain, as `TakeUses` has it.
const MAX_CHAIN: usize = 2 * (MAX_DEPTH as usize) + 2;

/// Ties a session token to a job. Twice is as good as once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartJob {
    /// The job; when it began, its deadline and its revision are set by applying it.
    pub job: Job,
}

impl StartJob {
    pub(crate) fn to_proto(&self) -> pb::StartJob {
        pb::StartJob { job: Some(job_to_proto(&self.job)) }
    }

    pub(crate) fn from_proto(proto: pb::StartJob) -> Result<Self, Vec<FieldFault>> {
        let job = proto.job.ok_or_else(|| vec![FieldFault::new("job", "is missing")])?;
        Ok(Self { job: job_from_proto(job).map_err(fault)? })
    }

    pub(crate) fn apply(self, cx: &mut Context<'_>) -> Outcome {
        let (now, limits) = (cx.state.now, Limits::STANDARD);
        let mut job = self.job;
        if let Some(known) = cx.state.job(&job.token) {
            if (&known.name, known.heartbeat) == (&job.name, job.heartbeat) {
                return Ok(Success::Done);
            }
            return Err(Refusal::AlreadyExists { what: format!("job {} of this token", known.name) });
        }
        if !HEARTBEATS.contains(&job.heartbeat.0) {
            let (least, most) = (HEARTBEATS.start(), HEARTBEATS.end());
            return Err(Refusal::invalid("heartbeat_seconds", format!("must be {least} to {most}")));
        }
        if job.name.is_empty() || job.name.len() > MAX_NAME || job.name.chars().any(char::is_control) {
            let why = format!("has 1 to {MAX_NAME} bytes, none of them a control character");
            return Err(Refusal::invalid("name", why));
        }
        let its_own = job.principal.token_id.as_ref() == Some(&job.token) && job.principal.chain.len() <= MAX_CHAIN;
        if job.token.is_empty() || job.token.len() > MAX_TOKEN || job.ends_at <= now || !its_own {
            return Err(Refusal::invalid("token", "is none that could be tied to a job"));
        }
        if cx.state.jobs.len() >= limits.jobs {
            return Err(Refusal::Limit(format!("{} jobs", limits.jobs)));
        }
        if cx.state.jobs.of(&job.principal.id) >= limits.jobs_each {
            return Err(Refusal::Limit(format!("{} jobs of one principal", limits.jobs_each)));
        }
        (job.started_at, job.deadline, job.revision) = (now, job.next_deadline(now), cx.state.index);
        cx.state.jobs.put(job);
        Ok(Success::Done)
    }
}

#[cfg(test)]
#[path = "start_job_tests.rs"]
mod tests;
