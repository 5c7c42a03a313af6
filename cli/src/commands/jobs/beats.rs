//! Tells of a job again and again, for as long as its command runs.

use std::time::Duration;

use postern_proto::admin::v1::{BeatJobRequest, EndJobRequest};
use postern_runtime::backoff::Backoff;
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::client::{Client, FIRST_RETRY, LAST_RETRY, Settings, passes, refused};
use crate::failure::Failure;
use crate::output;

/// How long one member may take for an answer, at the most and at the least: a third of a heartbeat between them, so that two others can be asked in time.
const ANSWER: (Duration, Duration) = (Duration::from_secs(5), Duration::from_millis(1_500));
/// How long whoever ended something waits.
const END_LIMIT: Duration = Duration::from_secs(10);

/// Speaks for one job, by its own token.
pub(super) struct Beats {
    settings: Settings,
    token: String,
    heartbeat: Duration,
    client: Option<Client>,
    place: usize,
}

/// Why it was not taken.
enum Untaken {
    /// There is no such job any more.
    Over(Failure),
    /// Perhaps elsewhere, or later.
    Yet(Failure),
}

impl Beats {
    /// `settings`: with the job's token.
    pub(super) const fn new(settings: Settings, token: String, heartbeat: Duration) -> Self {
        Self { settings, token, heartbeat, client: None, place: 0 }
    }

    /// Goes on for ever: what a job's end means for its command is not ours to say.
    pub(super) async fn keep(&mut self) -> std::convert::Infallible {
        let (mut backoff, mut heard, mut told) = (Backoff::new(FIRST_RETRY, LAST_RETRY), Instant::now(), false);
        tokio::time::sleep(self.heartbeat / 3).await;
        loop {
            let request = BeatJobRequest { token: self.token.clone() };
            match self.ask(async |client| client.jobs().beat_job(request.clone()).await.map(drop)).await {
                Ok(()) => {
                    if told {
                        output::note("the control plane hears of the job again");
                    }
                    (heard, told) = (Instant::now(), false);
                    backoff = Backoff::new(FIRST_RETRY, LAST_RETRY);
                    tokio::time::sleep(self.heartbeat / 3).await;
                }
                Err(Untaken::Over(failure)) => {
                    output::note(format!("the job has ended, and its token is good no more: {failure}"));
                    return std::future::pending().await;
                }
                Err(Untaken::Yet(failure)) => {
                    if !told && heard.elapsed() > self.heartbeat {
                        output::note(format!("the control plane does not hear of the job: {failure}"));
                        told = true;
                    }
                    tokio::time::sleep(backoff.next_delay()).await;
                }
            }
        }
    }

    /// The job is finished. One that has ended is so already.
    pub(super) async fn end(mut self, because: String) -> Result<(), Failure> {
        let mut backoff = Backoff::new(FIRST_RETRY, LAST_RETRY);
        let until = Instant::now() + END_LIMIT;
        loop {
            let request = EndJobRequest { token: self.token.clone(), because: because.clone() };
            let ended = self.ask(async |client| client.jobs().end_job(request.clone()).await.map(drop)).await;
            match ended {
                Ok(()) | Err(Untaken::Over(_)) => return Ok(()),
                Err(Untaken::Yet(failure)) if Instant::now() >= until => return Err(failure),
                Err(Untaken::Yet(_)) => tokio::time::sleep(backoff.next_delay()).await,
            }
        }
    }

    /// Asks the member that answered last, or else the next.
    async fn ask(&mut self, ask: impl AsyncFn(&Client) -> Result<(), Status>) -> Result<(), Untaken> {
        let asked = async {
            let client = match self.client.take() {
                Some(client) => client,
                None => Client::connect_to(&self.settings, self.place).await.map_err(Untaken::Yet)?,
            };
            match ask(&client).await {
                Ok(()) => {
                    self.client = Some(client);
                    Ok(())
                }
                Err(status) if passes(&status) || status.code() == Code::ResourceExhausted => {
                    Err(Untaken::Yet(refused(status)))
                }
                Err(status) => Err(Untaken::Over(refused(status))),
            }
        };
        let late = || Untaken::Yet(Failure::failed("the control plane does not answer"));
        let limit = (self.heartbeat / 3).clamp(ANSWER.1, ANSWER.0);
        let asked = tokio::time::timeout(limit, asked).await.unwrap_or_else(|_| Err(late()));
        if asked.is_err() {
            self.place = self.place.saturating_add(1);
        }
        asked
    }
}
