//! The gateway's metrics, by name, in one place; those of tunnels, the fleet and relaying are there.

use std::sync::LazyLock;
use std::time::Duration;

use metrics::{Counter, Histogram, counter, gauge, histogram};
use postern_core::Code;
use postern_core::policy::Outcome;

use crate::limits::{What, Whose};

/// What each operation touches: to look a metric up by its name costs more than to count. Made at the first use, which is after the exporter's start.
struct PerOperation {
    permitted: Counter,
    held: Counter,
    denied: Counter,
    decision_seconds: Histogram,
    buffered_writes: Counter,
    flush_seconds: Histogram,
    batch_appends: Histogram,
}

static PER_OPERATION: LazyLock<PerOperation> = LazyLock::new(|| {
    let operations = |outcome: Outcome| counter!("postern_gateway_operations_total", "outcome" => outcome.as_str());
    PerOperation {
        permitted: operations(Outcome::Permit),
        held: operations(Outcome::Hold),
        denied: operations(Outcome::Deny),
        decision_seconds: histogram!("postern_gateway_decision_seconds"),
        buffered_writes: counter!("postern_gateway_recorder_buffered_writes_total"),
        flush_seconds: histogram!("postern_gateway_recorder_flush_seconds"),
        batch_appends: histogram!("postern_gateway_recorder_batch_appends"),
    }
});

/// A gauge that counts what is alive.
#[derive(Debug)]
pub(crate) struct Alive(&'static str);

impl Alive {
    pub(crate) fn new(name: &'static str) -> Self {
        gauge!(name).increment(1.0);
        Self(name)
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        gauge!(self.0).decrement(1.0);
    }
}

pub(crate) fn connection() -> Alive {
    counter!("postern_gateway_connections_total").increment(1);
    Alive::new("postern_gateway_connections_open")
}

pub(crate) fn session_opened() -> Alive {
    counter!("postern_gateway_sessions_total").increment(1);
    Alive::new("postern_gateway_sessions_open")
}

pub(crate) fn refused(code: Code) {
    counter!("postern_gateway_sessions_refused_total", "code" => code.as_str()).increment(1);
}

pub(crate) fn login_slowed(by: &'static str) {
    counter!("postern_gateway_logins_slowed_total", "by" => by).increment(1);
}

pub(crate) fn issuer_keys_asked() {
    counter!("postern_gateway_issuer_key_demands_total").increment(1);
}

pub(crate) fn session_ended(code: Option<Code>) {
    let code = code.map_or("none", Code::as_str);
    counter!("postern_gateway_sessions_ended_total", "code" => code).increment(1);
}

/// Whether a session that was wanted was ready.
pub(crate) fn spare_wanted(ready: bool) {
    counter!("postern_gateway_spare_sessions_wanted_total", "ready" => if ready { "yes" } else { "no" }).increment(1);
}

pub(crate) fn spare_sessions(ready: usize) {
    gauge!("postern_gateway_spare_sessions").set(f64::from(u32::try_from(ready).unwrap_or(u32::MAX)));
}

pub(crate) fn limited(whose: Whose, what: What) {
    let whose = match whose {
        Whose::Principal => "principal",
        Whose::Pair => "principal-on-target",
        Whose::Target => "target",
        Whose::Node => "node",
    };
    let what = match what {
        What::Sessions => "sessions",
        What::Connections => "connections",
        What::Operations => "operations",
        What::Statements => "statements",
    };
    counter!("postern_gateway_limited_total", "whose" => whose, "what" => what).increment(1);
}

pub(crate) fn handshake_pushed_out() {
    counter!("postern_gateway_handshakes_pushed_out_total").increment(1);
}

pub(crate) fn draining(yes: bool) {
    gauge!("postern_gateway_draining").set(if yes { 1.0 } else { 0.0 });
}

pub(crate) fn token_refused(reason: &'static str) {
    counter!("postern_gateway_tokens_refused_total", "reason" => reason).increment(1);
}

pub(crate) fn credential(source: &'static str, had: bool) {
    let outcome = if had { "had" } else { "failed" };
    counter!("postern_gateway_credentials_total", "source" => source, "outcome" => outcome).increment(1);
}

pub(crate) fn decided(outcome: Outcome, took: Duration) {
    let counter = match outcome {
        Outcome::Permit => &PER_OPERATION.permitted,
        Outcome::Hold => &PER_OPERATION.held,
        Outcome::Deny => &PER_OPERATION.denied,
    };
    counter.increment(1);
    PER_OPERATION.decision_seconds.record(took.as_secs_f64());
}

pub(crate) fn held(outcome: &'static str, waited: Duration) {
    histogram!("postern_gateway_hold_wait_seconds", "outcome" => outcome).record(waited.as_secs_f64());
}

pub(crate) fn review_opened(outcome: &'static str) {
    counter!("postern_gateway_reviews_total", "outcome" => outcome).increment(1);
}

pub(crate) fn holding() -> Alive {
    Alive::new("postern_gateway_operations_held")
}

pub(crate) fn cancelled(known: bool) {
    counter!("postern_gateway_cancel_requests_total", "known" => if known { "yes" } else { "no" }).increment(1);
}

pub(crate) fn recorder_flushed(took: Duration, batch: usize) {
    PER_OPERATION.flush_seconds.record(took.as_secs_f64());
    PER_OPERATION.batch_appends.record(f64::from(u32::try_from(batch).unwrap_or(u32::MAX)));
}

pub(crate) fn recorder_buffered() {
    PER_OPERATION.buffered_writes.increment(1);
}

/// An operation's record was acknowledged before it ran, after so long.
pub(crate) fn acknowledged_after(took: Duration) {
    histogram!("postern_gateway_quorum_seconds").record(took.as_secs_f64());
}

/// It was not, so it did not run.
pub(crate) fn unacknowledged() {
    counter!("postern_gateway_quorum_refused_total").increment(1);
}

pub(crate) fn recorder_failed() {
    counter!("postern_gateway_recorder_failures_total").increment(1);
}

/// The spool's last segment had a torn end at a start.
pub(crate) fn recorder_torn() {
    counter!("postern_gateway_recorder_torn_ends_total").increment(1);
}

/// Segments in the middle of the spool were not there at a start.
pub(crate) fn recorder_missing() {
    counter!("postern_gateway_recorder_missing_segments_total").increment(1);
}

pub(crate) fn recorder_gap() {
    counter!("postern_gateway_recorder_gaps_total").increment(1);
}

pub(crate) fn recorder_held_back(wait: Duration) {
    histogram!("postern_gateway_recorder_held_back_seconds").record(wait);
}

pub(crate) fn recorder_refused() {
    counter!("postern_gateway_recorder_refused_total").increment(1);
}

pub(crate) fn recorder_spool(bytes: u64) {
    // Whole up to 2^53.
    #[allow(clippy::cast_precision_loss)]
    gauge!("postern_gateway_recorder_spool_bytes").set(bytes as f64);
}

pub(crate) fn upload_failed() {
    counter!("postern_gateway_upload_failures_total").increment(1);
}

pub(crate) fn upload_stalled() {
    counter!("postern_gateway_upload_stalled_total").increment(1);
}

pub(crate) fn upload_refused() {
    counter!("postern_gateway_upload_refused_total").increment(1);
}

pub(crate) fn tunnel() -> Alive {
    counter!("postern_gateway_tunnels_total").increment(1);
    Alive::new("postern_gateway_tunnels_open")
}

pub(crate) fn policy(revision: u64) {
    #[allow(clippy::cast_precision_loss)] // whole up to 2^53
    gauge!("postern_gateway_policy_revision").set(revision as f64);
}

pub(crate) fn policy_refused() {
    counter!("postern_gateway_policy_refused_total").increment(1);
}

pub(crate) fn policy_kept(outcome: &'static str) {
    counter!("postern_gateway_policy_kept_total", "outcome" => outcome).increment(1);
}

pub(crate) fn policy_kept_revision(revision: u64) {
    #[allow(clippy::cast_precision_loss)] // whole up to 2^53
    gauge!("postern_gateway_policy_kept_revision").set(revision as f64);
}

pub(crate) fn policy_keep_failed() {
    counter!("postern_gateway_policy_keep_failures_total").increment(1);
}

pub(crate) fn policy_age(age: Duration) {
    gauge!("postern_gateway_policy_age_seconds").set(age.as_secs_f64());
}

pub(crate) fn upstream_failed(code: Code) {
    counter!("postern_gateway_upstream_failures_total", "code" => code.as_str()).increment(1);
}
