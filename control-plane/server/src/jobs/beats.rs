//! Takes down that jobs were heard of, as seldom as may be.
//!
//! The API's calls -> bounded mailbox -> one task, on every node -> one entry of the log for all jobs that were heard of while the entry before was on
//! its way. What was written down lately is not written again ([`Job::rest`]): this is by the time that passes here, and by no clock, so that members
//! whose clocks differ do not cut a job's time short. The supervisor owns the task. A full mailbox refuses the beat, and the job tries again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use postern_core::job::Job;
use postern_runtime::clock;
use postern_runtime::supervisor::{OnEnd, Supervisor};
use postern_state::commands::BeatJobs;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::raft::{ProposeError, RaftHandle};

/// Beats that wait; more are refused.
const MAILBOX: usize = 4_096;
/// Jobs that are remembered: as many as there may be.
const REMEMBERED: usize = 20_000;

/// Takes beats. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Beats {
    mailbox: mpsc::Sender<Msg>,
}

struct Msg {
    token: Arc<str>,
    rest: Duration,
    done: oneshot::Sender<Result<(), ProposeError>>,
}

impl Beats {
    /// Starts the task.
    pub(crate) fn start(raft: RaftHandle, supervisor: &Supervisor) -> Self {
        let (mailbox, inbox) = mpsc::channel(MAILBOX);
        supervisor.spawn("job-beats", OnEnd::StopNode, run(raft, inbox, supervisor.sessions_ended_token()));
        Self { mailbox }
    }

    /// Returns once it is sure that the job was heard of now.
    ///
    /// # Errors
    /// It is not: try again.
    pub(crate) async fn heard_of(&self, job: &Job) -> Result<(), ProposeError> {
        let (done, answer) = oneshot::channel();
        let message = Msg { token: Arc::clone(&job.token), rest: job.rest(), done };
        self.mailbox.try_send(message).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ProposeError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => ProposeError::Stopped,
        })?;
        answer.await.unwrap_or(Err(ProposeError::Stopped))
    }
}

async fn run(raft: RaftHandle, mut inbox: mpsc::Receiver<Msg>, stop: CancellationToken) {
    let mut lately = Lately::default();
    let mut messages = Vec::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            count = inbox.recv_many(&mut messages, BeatJobs::MOST) => if count == 0 { return },
        }
        let now = Instant::now();
        let (known, new): (Vec<Msg>, Vec<Msg>) =
            messages.drain(..).partition(|message| lately.has(&message.token, now));
        // Whoever asked may be gone.
        known.into_iter().for_each(|message| drop(message.done.send(Ok(()))));
        if new.is_empty() {
            continue;
        }
        let tokens: Vec<Arc<str>> = new.iter().map(|message| Arc::clone(&message.token)).collect();
        let written = raft.propose(BeatJobs { tokens }, Some(clock::request_id())).await;
        let written = match written {
            Ok(Ok(_)) => Ok(()),
            // It asks for nothing that could be refused, but by a cluster that has no jobs.
            Ok(Err(_)) => Err(ProposeError::Unknown),
            Err(error) => Err(error),
        };
        for Msg { token, rest, done } in new {
            if written.is_ok() {
                // From before it was asked for: it holds from later on.
                lately.remember(token, now, rest);
            }
            let _ = done.send(written.clone());
        }
    }
}

/// What was written down lately.
#[derive(Default)]
struct Lately {
    until: BTreeMap<Arc<str>, Instant>,
}

impl Lately {
    fn has(&self, token: &str, now: Instant) -> bool {
        self.until.get(token).is_some_and(|until| *until > now)
    }

    fn remember(&mut self, token: Arc<str>, now: Instant, rest: Duration) {
        if self.until.len() >= REMEMBERED && !self.until.contains_key(&token) {
            self.until.retain(|_, until| *until > now);
        }
        // Of what does not fit every beat is written down.
        if self.until.len() < REMEMBERED || self.until.contains_key(&token) {
            self.until.insert(token, now + rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postern_core::{Principal, Timestamp, Ttl};

    fn job() -> Job {
        let principal: Principal =
            serde_json::from_value(serde_json::json!({"issuer": "ci", "subject": "robot"})).unwrap();
        let ends = Timestamp::from_secs(1 << 30);
        Job::new(&principal, &"a".into(), ends, ("build".to_owned(), Ttl(10)))
    }

    #[test]
    fn it_is_never_taken_for_dead_within_a_heartbeat_of_what_was_heard() {
        let (began, mut lately, mut job) = (Instant::now(), Lately::default(), job());
        let mut written = 0;
        for millis in (0..100_000).step_by(700) {
            let (now, at) = (began + Duration::from_millis(millis), Timestamp::from_millis(millis));
            if !lately.has("a", now) {
                lately.remember("a".into(), now, job.rest());
                job.deadline = job.next_deadline(at);
                written += 1;
            }
            let left = job.deadline.since(at).as_millis();
            assert!((10_000..=15_000).contains(&left), "{left} at {millis}");
        }
        // About once in half a heartbeat.
        assert!((15..=20).contains(&written), "{written}");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (now, mut lately) = (Instant::now(), Lately::default());
        for n in 0..=REMEMBERED {
            lately.remember(n.to_string().into(), now, Duration::from_secs(5));
        }
        assert_eq!(lately.until.len(), REMEMBERED);
        assert!(lately.has("0", now) && !lately.has(&REMEMBERED.to_string(), now));
        let later = now + Duration::from_secs(6);
        lately.remember("x".into(), later, Duration::from_secs(5));
        assert!(lately.has("x", later) && lately.until.len() == 1);
    }
}
