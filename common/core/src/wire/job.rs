//! Jobs.

use postern_proto::resource::v1 as pb;

use super::identity::{principal_from_proto, principal_to_proto};
use super::{WireError, timestamp_or_zero, timestamp_to_proto};
use crate::job::{DEFAULT_HEARTBEAT, HEARTBEATS, Job, MAX_NAME};
use crate::time::Ttl;

/// To protobuf.
#[must_use]
pub fn job_to_proto(job: &Job) -> pb::Job {
    pb::Job {
        token: job.token.to_string(),
        name: job.name.clone(),
        principal: Some(principal_to_proto(&job.principal)),
        heartbeat_seconds: job.heartbeat.0,
        started_at: Some(timestamp_to_proto(job.started_at)),
        deadline: Some(timestamp_to_proto(job.deadline)),
        ends_at: Some(timestamp_to_proto(job.ends_at)),
        revision: job.revision,
    }
}

/// From protobuf.
///
/// # Errors
/// When it is nobody's, or a name in it is none.
pub fn job_from_proto(job: pb::Job) -> Result<Job, WireError> {
    let principal = job.principal.ok_or_else(|| WireError::new("job.principal", "is missing"))?;
    Ok(Job {
        token: job.token.into(),
        name: job.name,
        principal: principal_from_proto(principal)?,
        heartbeat: Ttl(job.heartbeat_seconds),
        started_at: timestamp_or_zero(job.started_at.as_ref()),
        deadline: timestamp_or_zero(job.deadline.as_ref()),
        ends_at: timestamp_or_zero(job.ends_at.as_ref()),
        revision: job.revision,
    })
}

/// What a job is to be called, and its heartbeat, as somebody asks for it.
///
/// # Errors
/// When it has no name that a job can have, or the heartbeat is too short or too long.
pub fn new_job_from_proto(job: pb::NewJob) -> Result<(String, Ttl), WireError> {
    if job.name.is_empty() || job.name.len() > MAX_NAME || job.name.chars().any(char::is_control) {
        let why = format!("has 1 to {MAX_NAME} bytes, none of them a control character");
        return Err(WireError::new("job.name", why));
    }
    match job.heartbeat_seconds {
        0 => Ok((job.name, DEFAULT_HEARTBEAT)),
        seconds if HEARTBEATS.contains(&seconds) => Ok((job.name, Ttl(seconds))),
        _ => {
            let why = format!("must be {} to {}", HEARTBEATS.start(), HEARTBEATS.end());
            Err(WireError::new("job.heartbeat_seconds", why))
        }
    }
}
