//! One gateway's stream: what it says goes into the directory, and what is new there goes back.

use std::time::{Duration, Instant};

use postern_core::Name;
use postern_core::fleet::{News, Report};
use postern_runtime::clock;
use tokio::sync::watch;

use super::directory::{Cursor, ReportError, StreamId};
use super::{Fleet, NotLeader};

/// Changes are gathered for this long: a gateway is told at most five times a second.
const GATHER: Duration = Duration::from_millis(200);
/// Without news a sign of life is sent this often.
const ALIVE: Duration = Duration::from_secs(5);
/// What a gateway may say in a row, and on average, before it is made to wait.
const BURST: u32 = 256;
const PACE: Duration = Duration::from_millis(20);

/// Why a stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Ended {
    /// Its gateway goes to the leader.
    #[error(transparent)]
    NotLeader(#[from] NotLeader),
    /// What it says is not taken.
    #[error(transparent)]
    Report(#[from] ReportError),
}

/// A gateway that reports. Dropped, its gateway is gone after a grace.
pub(crate) struct Reporting {
    fleet: Fleet,
    stream: StreamId,
    term: u64,
    cursor: Cursor,
    moved: watch::Receiver<u64>,
    /// Something has changed since it was last told.
    dirty: bool,
    sent: Option<Instant>,
    /// When the next report is read.
    pace: Instant,
}

impl Fleet {
    /// A gateway begins to report.
    pub(crate) fn begin(&self, gateway: &Name) -> Result<Reporting, Ended> {
        let moved = self.moved.subscribe();
        let now = Instant::now();
        let (stream, term) = self.with(|directory| {
            let stream = directory.open(gateway, clock::now(), now);
            stream.map(|stream| (stream, directory.epoch().term))
        })??;
        metrics::gauge!("postern_control_fleet_streams").increment(1.0);
        // Whoever spoke for it before is told.
        self.tell();
        let (fleet, cursor) = (self.clone(), Cursor::default());
        Ok(Reporting { fleet, stream, term, cursor, moved, dirty: true, sent: None, pace: now })
    }
}

impl Reporting {
    /// How long the gateway must wait before it is heard again: one that says too much does so at nobody else's cost.
    pub(crate) fn pause(&self) -> Duration {
        self.pace.saturating_duration_since(Instant::now()).saturating_sub(PACE.saturating_mul(BURST))
    }

    /// Takes in what it says.
    pub(crate) fn take(&mut self, report: Report) -> Result<(), Ended> {
        let now = Instant::now();
        self.pace = self.pace.max(now) + PACE;
        if !self.pause().is_zero() {
            metrics::counter!("postern_control_fleet_slowed_total").increment(1);
        }
        metrics::counter!("postern_control_fleet_reports_total").increment(1);
        let (stream, term) = (&self.stream, self.term);
        let moved = self.fleet.with(|directory| {
            // A node that lost the lead and has it again knows nothing of this stream.
            if directory.epoch().term != term {
                return Err(ReportError::Superseded);
            }
            let before = directory.version();
            directory.report(stream, report, now).map(|()| directory.version() != before)
        })??;
        if moved {
            self.fleet.tell();
        }
        Ok(())
    }

    /// The next news for it, or a sign of life. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<News, Ended> {
        loop {
            let mut due = false;
            if !self.dirty {
                let alive = self.sent.map_or_else(Instant::now, |sent| sent + ALIVE);
                tokio::select! {
                    () = tokio::time::sleep_until(alive.into()) => due = true,
                    // The sender is the fleet's own, which this holds.
                    _ = self.moved.changed() => self.dirty = true,
                }
            }
            if let Some(sent) = self.sent.filter(|_| self.dirty) {
                tokio::time::sleep_until((sent + GATHER).into()).await;
            }
            let (stream, term, cursor, now) = (&self.stream, self.term, &mut self.cursor, Instant::now());
            let news = self.fleet.with(|directory| {
                if directory.epoch().term != term || directory.superseded(stream) {
                    return Err(ReportError::Superseded);
                }
                let news = directory.since(cursor, now);
                Ok(news.or_else(|| due.then(|| directory.nothing_new(cursor, now))))
            })??;
            self.dirty = news.as_ref().is_some_and(|news| news.more);
            if let Some(news) = news {
                // The rest of what comes in parts follows at once.
                self.sent = (!news.more).then_some(now);
                metrics::counter!("postern_control_fleet_answers_total").increment(1);
                return Ok(news);
            }
        }
    }
}

impl Drop for Reporting {
    fn drop(&mut self) {
        metrics::gauge!("postern_control_fleet_streams").decrement(1.0);
        let (stream, term) = (&self.stream, self.term);
        let closed = self.fleet.with(|directory| {
            if directory.epoch().term == term {
                directory.close(stream, Instant::now());
            }
        });
        // Of a former life nothing is left to be closed.
        let _ = closed;
    }
}
