//! The leader's part: ends jobs that were not heard of in time.
//!
//! A job can only be heard of while the control plane answers. So nothing ends before the leader has led for a job's whole time (a heartbeat and a half)
//! without a break: no change of leaders, no look that the cluster did not answer, no time in which this process or its machine stood still, no jump of
//! its clock. After an outage, however long, each job has all of its time again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use postern_core::Timestamp;
use postern_core::audit::AuditRecord;
use postern_core::job::Job;
use postern_runtime::clock;
use postern_state::Refusal;
use postern_state::commands::EndJob;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::raft::RaftHandle;

/// Between looks while there are jobs, and while there are none.
const BUSY: Duration = Duration::from_millis(500);
const IDLE: Duration = Duration::from_secs(2);
/// Looks that are further apart than this have a break between them.
const BREAK: Duration = Duration::from_secs(4);
/// So much may the clock move against the time that passes between two looks.
const DRIFT: Duration = Duration::from_secs(1);
/// Jobs that are ended with one look.
const AT_ONCE: usize = 256;

/// How long this leader has been looking without a break.
#[derive(Clone, Copy, Debug)]
struct Vigil {
    began: Instant,
    last: (Instant, Timestamp),
}

impl Vigil {
    const fn begin(now: Instant, clock: Timestamp) -> Self {
        Self { began: now, last: (now, clock) }
    }

    /// Another look. What came between the last one and this may have kept jobs from being heard of: then it begins anew.
    fn look(&mut self, now: Instant, clock: Timestamp) {
        let passed = now.saturating_duration_since(self.last.0);
        let moved = clock.millis().abs_diff(self.last.1.plus(passed).millis());
        if passed > BREAK || moved > u64::try_from(DRIFT.as_millis()).unwrap_or(u64::MAX) {
            debug!(?passed, moved, "there was a break: jobs have all of their time again");
            self.began = now;
        }
        self.last = (now, clock);
    }

    /// Whether `job` could have been heard of in all of its time.
    fn covers(&self, job: &Job) -> bool {
        let time = job.next_deadline(Timestamp::default()).since(Timestamp::default());
        self.last.0.saturating_duration_since(self.began) >= time
    }
}

/// Ends jobs that were not heard of, while this node, `node`, leads.
pub(crate) async fn sweep(raft: RaftHandle, node: Arc<str>, stop: CancellationToken) {
    let mut status = raft.status();
    let mut vigil = None;
    loop {
        let mut wait = IDLE;
        let leading = status.borrow_and_update().leading;
        // Of a job that is not applied here yet this node knows soon enough.
        if leading && raft.read_local(|state| state.jobs().len()).await.is_ok_and(|count| count > 0) {
            let (now, clock) = (Instant::now(), raft.stamps().now());
            let looks = vigil.get_or_insert_with(|| Vigil::begin(now, clock));
            looks.look(now, clock);
            // Those that may not end yet are passed over in the state: however many they are, they keep no other from its end.
            let vigil_now = *looks;
            let covered = move |job: &Job| vigil_now.covers(job);
            let read = raft.read(move |state| (state.jobs().len(), state.jobs_unheard_of(clock, covered, AT_ONCE)));
            let found = read.await;
            match found {
                Ok((count, late)) => {
                    #[allow(clippy::cast_precision_loss)] // far fewer
                    metrics::gauge!("postern_control_jobs").set(count as f64);
                    wait = BUSY;
                    futures::future::join_all(late.iter().map(|job| end(&raft, &node, job))).await;
                }
                Err(error) => {
                    debug!(%error, "jobs were not looked at");
                    vigil = None;
                }
            }
        } else {
            vigil = None;
            metrics::gauge!("postern_control_jobs").set(0.0);
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
            // Who does not lead has nothing to look at.
            led = status.wait_for(|status| status.leading), if !leading => if led.is_err() { return },
        }
    }
}

async fn end(raft: &RaftHandle, node: &str, job: &Job) {
    let command = EndJob {
        token: Arc::clone(&job.token),
        unheard_of_since: Some(job.deadline),
        by: "postern".to_owned(),
        because: format!("job {} was not heard of in time", job.name),
    };
    match raft.propose_audited(command, Some(clock::request_id()), Some(record(node, job))).await {
        Ok(Ok(_)) => {
            metrics::counter!("postern_control_jobs_ended_total", "because" => "unheard").increment(1);
            let (job, principal, name, deadline) = (&job.token, &job.principal, &job.name, job.deadline);
            info!(%job, %principal, name, %deadline, "a job was not heard of in time: its token is revoked");
        }
        // Heard of, or ended, in the last moment.
        Ok(Err(Refusal::InvalidState(_) | Refusal::NotFound { .. })) => {}
        Ok(Err(refusal)) => tracing::warn!(%refusal, job = %job.token, "a job that was not heard of is not ended"),
        Err(error) => debug!(%error, job = %job.token, "a job that was not heard of is not ended yet"),
    }
}

/// For the audit log: the member did it by itself.
fn record(node: &str, job: &Job) -> AuditRecord {
    AuditRecord {
        sequence: 0,
        at: Timestamp::default(),
        principal: None,
        certificate: format!("{node}.control"),
        client_address: String::new(),
        node: node.to_owned(),
        method: "/postern.admin.v1.JobService/EndJob".to_owned(),
        objects: vec![format!("Job/{}", job.token)],
        code: String::new(),
        reason: String::new(),
        request_id: String::new(),
        dry_run: false,
        count: 1,
        hash: [0; 32],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postern_core::{Principal, Ttl};

    fn job(heartbeat: u32) -> Job {
        let principal: Principal =
            serde_json::from_value(serde_json::json!({"issuer": "ci", "subject": "robot"})).unwrap();
        Job::new(&principal, &"a".into(), Timestamp::from_secs(1 << 30), ("build".to_owned(), Ttl(heartbeat)))
    }

    #[test]
    fn a_break_gives_every_job_all_of_its_time_again() {
        let (began, at) = (Instant::now(), Timestamp::from_secs(1_000));
        let look = |vigil: &mut Vigil, millis: u64, clock: u64| {
            vigil.look(began + Duration::from_millis(millis), Timestamp::from_millis(at.millis() + clock));
        };
        let mut vigil = Vigil::begin(began, at);
        for half in 1..=20 {
            assert!(!vigil.covers(&job(10)));
            look(&mut vigil, half * 500, half * 500);
        }
        // A heartbeat is not yet all of its time; half of it more is.
        assert!(!vigil.covers(&job(10)) && vigil.covers(&job(5)));
        for half in 21..=30 {
            look(&mut vigil, half * 500, half * 500);
        }
        assert!(vigil.covers(&job(10)));
        // This process stood still.
        look(&mut vigil, 19_500, 19_500);
        assert!(!vigil.covers(&job(5)));
        for half in 40..=60 {
            look(&mut vigil, half * 500, half * 500);
        }
        assert!(vigil.covers(&job(5)));
        // Its clock jumped: deadlines that are over by it were not for those who beat by the time that passes.
        look(&mut vigil, 30_500, 7_230_500);
        assert!(!vigil.covers(&job(5)));
        // A clock that is set right slowly does not.
        let mut vigil = Vigil::begin(began, at);
        (1..=20).for_each(|half| look(&mut vigil, half * 500, half * 510));
        assert!(vigil.covers(&job(5)));
    }
}
