//! What is measured of a crowd: the leader's work, and what a storm took.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::super::roles::sum_of;
use super::Crowd;

/// Counters of the leader, as they stand.
#[derive(Clone, Copy, Debug)]
struct Counters {
    at: Instant,
    processor: f64,
    reports: f64,
    report_bytes: f64,
    answers: f64,
    answer_bytes: f64,
}

/// The leader from here on.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    member: usize,
    process: u32,
    began: Counters,
}

/// What the leader did in a time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    /// The time.
    pub seconds: f64,
    /// Seconds of its processor.
    pub processor: f64,
    /// Messages of gateways.
    pub reports: f64,
    /// Their bytes.
    pub report_bytes: f64,
    /// Messages to gateways.
    pub answers: f64,
    /// Their bytes.
    pub answer_bytes: f64,
}

/// What gateways and agents did, since they began or between two looks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Storm {
    /// Tunnels that came up.
    pub up: f64,
    /// Tunnels that were lost, and tries that failed.
    pub failed: f64,
    /// Tries that gateways sent away to come later: too many at once.
    pub busy: f64,
    /// Handshakes that gateways gave up.
    pub handshakes: f64,
    /// Tunnels over TCP that are up.
    pub over_tcp: f64,
}

impl Storm {
    /// What was done since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            up: self.up - before.up,
            failed: self.failed - before.failed,
            busy: self.busy - before.busy,
            handshakes: self.handshakes - before.handshakes,
            over_tcp: self.over_tcp,
        }
    }
}

impl Crowd {
    /// Begins to look at the leader.
    ///
    /// # Errors
    /// When there is none, or it does not answer.
    pub fn watch_leader(&mut self) -> Result<Window> {
        let member = self.cluster.leader()?;
        let process = self.cluster.member(member)?.process()?.id();
        Ok(Window { member, process, began: self.counters(member, process)? })
    }

    /// What the leader did since.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn load(&mut self, window: &Window) -> Result<Load> {
        let (before, now) = (window.began, self.counters(window.member, window.process)?);
        Ok(Load {
            seconds: now.at.saturating_duration_since(before.at).as_secs_f64(),
            processor: now.processor - before.processor,
            reports: now.reports - before.reports,
            report_bytes: now.report_bytes - before.report_bytes,
            answers: now.answers - before.answers,
            answer_bytes: now.answer_bytes - before.answer_bytes,
        })
    }

    fn counters(&mut self, member: usize, process: u32) -> Result<Counters> {
        let text = self.cluster.member(member)?.metrics()?;
        let of = |what: &str| sum_of(&text, &format!("postern_control_fleet_{what}_total"), "");
        Ok(Counters {
            at: Instant::now(),
            processor: processor_seconds(process)?,
            reports: of("reports"),
            report_bytes: of("report_bytes"),
            answers: of("answers"),
            answer_bytes: of("answer_bytes"),
        })
    }

    /// What gateways and agents have done so far.
    #[must_use]
    pub fn storm(&self) -> Storm {
        let text = self.metrics();
        let refused =
            |reason: &str| sum_of(&text, "postern_gateway_tunnels_refused_total", &format!("reason=\"{reason}\""));
        Storm {
            up: sum_of(&text, "postern_gateway_tunnels_total", ""),
            failed: sum_of(&text, "postern_agent_tunnel_failures_total", ""),
            busy: refused("busy") + refused("full"),
            handshakes: refused("handshake"),
            over_tcp: sum_of(&text, "postern_agent_tunnels_open", "carrier=\"tcp\""),
        }
    }
}

/// User and system time of a process so far (proc(5): fields 14 and 15 of `stat`, in hundredths of a second).
fn processor_seconds(process: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name, field 2, may have blanks; it ends with the last parenthesis.
    let fields: Vec<&str> = stat.rsplit_once(')').context("no name")?.1.split_whitespace().collect();
    let ticks = |place: usize| -> Result<f64> { Ok(fields.get(place).context("too few fields")?.parse()?) };
    Ok(Duration::from_secs_f64((ticks(11)? + ticks(12)?) / 100.0).as_secs_f64())
}
