//! What the target expects of a statement before it runs: its planner's guess, taken on a connection of Postern's own, read-only.
//!
//! Nothing is executed: plain EXPLAIN plans. Planning evaluates constant expressions, and with them functions that are marked immutable or
//! stable; where the account that Postern logs in with could have made one, nothing is planned (see docs/threat-model.md). An estimate never
//! fails an operation: there is one in time, or a reason why not.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use postern_core::background::Estimate;
use postern_core::operation::Parameter;
use postern_protocols::postgres::codec::{self, CodecError, Limits, Origin, backend, write};
use postern_protocols::postgres::session::Plannable;
use postern_protocols::postgres::upstream::with_demanded;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Semaphore;

use crate::upstream::{Destination, Dialer, Recorded, Upstream, UpstreamError};

/// Estimates under way at a time, over all targets (I12): each is a connection of its own.
const AT_ONCE: usize = 8;
/// Frames of a plan.
const LIMITS: Limits = Limits { statement: 0, frame: 1 << 20 };
/// Bytes of a reason that comes from the target.
const REASON: usize = 200;

/// What bounds the transaction. The client's statement can change none of it: it is planned, not run.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = '400ms'; \
                     SET LOCAL lock_timeout = '100ms'";

/// In milliseconds; 0: no limit. As a new session of this account has them.
const SETTINGS: &str = "SELECT name, reset_val FROM pg_catalog.pg_settings WHERE name IN \
                        ('idle_in_transaction_session_timeout', 'idle_session_timeout', 'transaction_timeout')";

/// A function that planning might run and that this account, or a role that it is a member of, could have made: not of the system, not of a
/// language that only superusers write.
const OWN_FUNCTION: &str = "SELECT pg_catalog.format('%I.%I', n.nspname, p.proname) FROM pg_catalog.pg_proc p \
     JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace \
     JOIN pg_catalog.pg_language l ON l.oid OPERATOR(pg_catalog.=) p.prolang \
     WHERE p.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid AND p.provolatile IN ('i', 's') \
     AND l.lanname NOT IN ('internal', 'c') AND pg_catalog.pg_has_role(p.proowner, 'USAGE') LIMIT 1";

/// The target's limits on sessions that do nothing, where it has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct IdleLimits {
    /// In a transaction, since its last answer.
    pub(crate) in_transaction: Option<Duration>,
    /// Outside of one, since its last answer.
    pub(crate) session: Option<Duration>,
    /// A transaction as a whole.
    pub(crate) transaction: Option<Duration>,
}

/// What a look at the target came to.
#[derive(Debug)]
pub(crate) struct Looked {
    pub(crate) estimate: Estimate,
    /// Where the target could be asked.
    pub(crate) limits: Option<IdleLimits>,
}

impl Looked {
    /// How many rows it expects to be returned, or written where that is more.
    pub(crate) const fn rows(&self) -> Option<u64> {
        match self.estimate {
            Estimate::Planned { returned, written, .. } if written > returned => Some(written),
            Estimate::Planned { returned, .. } => Some(returned),
            Estimate::Unknown { .. } => None,
        }
    }
}

/// A statement to be planned.
pub(crate) struct Question {
    pub(crate) of: Destination,
    pub(crate) text: Bytes,
    pub(crate) parameters: Vec<Parameter>,
    /// How, or why not.
    pub(crate) plannable: Result<Plannable, &'static str>,
}

/// Asks targets. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Estimator {
    dialer: Dialer,
    places: Arc<Semaphore>,
    /// How long an estimate may take in all.
    limit: Duration,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum EstimateError {
    #[error("the target could not be asked")]
    Upstream(#[from] UpstreamError),
    #[error("the target could not be understood")]
    Codec(#[from] CodecError),
    #[error("the target says {sqlstate}: {message}")]
    Refused { sqlstate: String, message: String },
    #[error("its plan is not of a form that Postern knows")]
    Plan,
    #[error("planning might run {0}, which the target's account could have made")]
    OwnFunction(String),
    #[error("{0}")]
    NotPlannable(&'static str),
}

impl Estimator {
    pub(crate) fn new(dialer: Dialer, limit: Duration) -> Self {
        Self { dialer, places: Arc::new(Semaphore::new(AT_ONCE)), limit }
    }

    /// How long a look takes at most.
    pub(crate) const fn limit(&self) -> Duration {
        self.limit
    }

    /// Looks at the target; done within the limit.
    pub(crate) async fn look(&self, question: Question) -> Looked {
        let unknown = |why: String| Estimate::Unknown { why };
        let mut limits = None;
        let asked = async {
            let Ok(_place) = self.places.acquire().await else { return Err(EstimateError::Plan) };
            self.ask(&question, &mut limits).await
        };
        let estimate = match tokio::time::timeout(self.limit, asked).await {
            Ok(Ok(estimate)) => estimate,
            Ok(Err(error)) => {
                if let EstimateError::Upstream(error) = &error {
                    tracing::debug!(target = %question.of.name, %error, "no estimate");
                }
                unknown(error.to_string())
            }
            Err(_) => unknown(format!("no answer of the target within {} ms", self.limit.as_millis())),
        };
        Looked { estimate, limits }
    }

    async fn ask(&self, question: &Question, limits: &mut Option<IdleLimits>) -> Result<Estimate, EstimateError> {
        let settings = with_demanded(&[("application_name".to_owned(), "postern estimate".to_owned())]);
        let mut upstream = self.dialer.login(&question.of, &settings, &Recorded::needless()).await?;
        let answer = asked(&mut upstream, question, limits).await;
        // A courtesy: the target would notice the end anyway.
        let _ = upstream.stream.write_all(&write::terminate()).await;
        let _ = upstream.stream.shutdown().await;
        answer
    }
}

async fn asked(
    upstream: &mut Upstream,
    question: &Question,
    limits: &mut Option<IdleLimits>,
) -> Result<Estimate, EstimateError> {
    simple(upstream, BEGIN).await?;
    *limits = Some(idle_limits(&simple(upstream, SETTINGS).await?));
    let plannable = question.plannable.as_ref().map_err(|why| EstimateError::NotPlannable(why))?;
    if let Some(function) = simple(upstream, OWN_FUNCTION).await?.into_iter().flatten().next() {
        return Err(EstimateError::OwnFunction(function));
    }
    let path: Vec<String> = plannable.search_path.iter().map(|schema| quoted(schema)).collect();
    let path = if path.is_empty() { "''".to_owned() } else { path.join(", ") };
    simple(upstream, &format!("SET LOCAL search_path = {path}")).await?;
    let mut out = BytesMut::new();
    let mut statement = BytesMut::from(&b"EXPLAIN (FORMAT JSON) "[..]);
    statement.extend_from_slice(&question.text);
    // By the extended protocol: a text of several statements is refused by the server itself.
    write::parse(&mut out, b"", &statement, &plannable.types);
    write::bind(&mut out, b"", b"", &question.parameters);
    write::execute(&mut out, b"");
    write::sync(&mut out);
    let rows = exchange(upstream, &out).await?;
    let plan: String = rows.into_iter().flatten().collect();
    read_plan(&plan)
}

/// Runs a statement of Postern's own; its rows, NULL as an empty text.
pub(crate) async fn simple(upstream: &mut Upstream, statement: &str) -> Result<Vec<Vec<String>>, EstimateError> {
    let mut query = BytesMut::new();
    write::query(&mut query, statement.as_bytes());
    exchange(upstream, &query).await
}

/// Sends, and reads rows up to ReadyForQuery. NULL is empty.
async fn exchange(upstream: &mut Upstream, out: &[u8]) -> Result<Vec<Vec<String>>, EstimateError> {
    let Upstream { stream, received, .. } = upstream;
    stream.write_all(out).await.map_err(UpstreamError::Broken)?;
    stream.flush().await.map_err(UpstreamError::Broken)?;
    let (mut rows, mut bytes, mut refused) = (Vec::new(), 0_usize, None);
    loop {
        while let Some(frame) = codec::next_frame(received, Origin::Backend, &LIMITS)? {
            match frame.tag() {
                backend::DATA_ROW => {
                    bytes = bytes.saturating_add(frame.body().len());
                    if bytes > LIMITS.frame {
                        return Err(EstimateError::Plan);
                    }
                    let text = |value: Option<Bytes>| {
                        String::from_utf8(value.unwrap_or_default().into()).map_err(|_| EstimateError::Plan)
                    };
                    rows.push(backend::data_row(&frame)?.into_iter().map(text).collect::<Result<Vec<_>, _>>()?);
                }
                backend::ERROR => {
                    let fields = backend::message_fields(&frame)?;
                    let message = backend::field(&fields, b'M');
                    let sqlstate = backend::field(&fields, b'C').to_owned();
                    refused = Some(EstimateError::Refused { message: said(&sqlstate, message), sqlstate });
                }
                backend::READY_FOR_QUERY => return refused.map_or(Ok(rows), Err),
                _ => {}
            }
        }
        received.reserve(8 << 10);
        if stream.read_buf(received).await.map_err(UpstreamError::Broken)? == 0 {
            return Err(refused.unwrap_or_else(|| UpstreamError::Closed.into()));
        }
    }
}

/// The target's words, where they quote no value: errors of class 42 name relations and columns, all others may quote data (I4).
fn said(sqlstate: &str, message: &str) -> String {
    match sqlstate {
        "42P01" => "one of its relations does not exist for other sessions, or not yet".to_owned(),
        "57014" => "planning took too long".to_owned(),
        "55P03" => "a lock is held on one of its relations".to_owned(),
        code if code.starts_with("42") => {
            message.get(..message.floor_char_boundary(REASON)).unwrap_or_default().to_owned()
        }
        _ => "it cannot be planned".to_owned(),
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn idle_limits(rows: &[Vec<String>]) -> IdleLimits {
    let limit = |wanted: &str| {
        let row = rows.iter().find(|row| row.first().is_some_and(|name| name == wanted))?;
        let milliseconds: u64 = row.get(1)?.parse().ok()?;
        (milliseconds > 0).then(|| Duration::from_millis(milliseconds))
    };
    IdleLimits {
        in_transaction: limit("idle_in_transaction_session_timeout"),
        session: limit("idle_session_timeout"),
        transaction: limit("transaction_timeout"),
    }
}

/// As EXPLAIN has it, as far as it is looked at.
#[derive(Deserialize)]
struct Explained {
    #[serde(rename = "Plan")]
    plan: Plan,
}

#[derive(Deserialize)]
struct Plan {
    #[serde(rename = "Node Type")]
    node: String,
    #[serde(rename = "Parent Relationship", default)]
    relationship: String,
    #[serde(rename = "Plan Rows", default)]
    rows: f64,
    #[serde(rename = "Total Cost", default)]
    cost: f64,
    #[serde(rename = "Plans", default)]
    plans: Vec<Plan>,
}

fn read_plan(json: &str) -> Result<Estimate, EstimateError> {
    let explained: Vec<Explained> = serde_json::from_str(json).map_err(|_| EstimateError::Plan)?;
    let [Explained { plan }] = explained.as_slice() else { return Err(EstimateError::Plan) };
    Ok(Estimate::Planned { returned: count(plan.rows), written: count(written(plan)), cost: count(plan.cost) })
}

/// Rows that come to nodes which write. The plans under a node are not deeper than the text's own nesting.
fn written(plan: &Plan) -> f64 {
    let below: f64 = plan.plans.iter().map(written).sum();
    if plan.node != "ModifyTable" {
        return below;
    }
    let own = plan.plans.iter().filter(|plan| !matches!(&*plan.relationship, "InitPlan" | "SubPlan"));
    below + own.map(|plan| plan.rows).sum::<f64>()
}

/// A float that counts, as a whole number.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // saturates, and NaN is 0
fn count(number: f64) -> u64 {
    number.max(0.0).ceil() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_is_returned_and_what_is_written() {
        let select = r#"[{"Plan": {"Node Type": "Seq Scan", "Plan Rows": 20, "Total Cost": 1.2}}]"#;
        assert_eq!(read_plan(select).unwrap(), Estimate::Planned { returned: 20, written: 0, cost: 2 });
        let delete = r#"[{"Plan": {"Node Type": "ModifyTable", "Operation": "Delete", "Plan Rows": 0, "Total Cost": 9.0, "Plans": [
            {"Node Type": "Seq Scan", "Parent Relationship": "Outer", "Plan Rows": 7, "Total Cost": 9.0},
            {"Node Type": "Result", "Parent Relationship": "InitPlan", "Plan Rows": 1, "Total Cost": 0.1}]}}]"#;
        assert_eq!(read_plan(delete).unwrap(), Estimate::Planned { returned: 0, written: 7, cost: 9 });
        let cte = r#"[{"Plan": {"Node Type": "CTE Scan", "Plan Rows": 3, "Total Cost": 2, "Plans": [
            {"Node Type": "ModifyTable", "Parent Relationship": "InitPlan", "Plan Rows": 3, "Total Cost": 1, "Plans": [
              {"Node Type": "Index Scan", "Parent Relationship": "Outer", "Plan Rows": 3, "Total Cost": 1}]}]}}]"#;
        assert_eq!(read_plan(cte).unwrap(), Estimate::Planned { returned: 3, written: 3, cost: 2 });
    }

    #[test]
    fn what_is_no_plan_is_none() {
        let deep = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
        for bad in ["", "[]", "{}", "[{\"Plan\": 3}]", "[{\"Plan\": {}}, {\"Plan\": {}}]", &deep] {
            assert!(read_plan(bad).is_err(), "{bad:.40}");
        }
        assert_eq!((count(f64::NAN), count(-3.0), count(f64::INFINITY)), (0, 0, u64::MAX));
    }

    #[test]
    fn settings_are_milliseconds_and_zero_is_none() {
        let row = |name: &str, value: &str| vec![name.to_owned(), value.to_owned()];
        let rows = [row("idle_in_transaction_session_timeout", "3000"), row("idle_session_timeout", "0")];
        let limits = IdleLimits { in_transaction: Some(Duration::from_secs(3)), ..IdleLimits::default() };
        assert_eq!(idle_limits(&rows), limits);
    }

    #[test]
    fn what_may_quote_data_is_not_repeated() {
        assert_eq!(said("22P02", "invalid input syntax for type integer: \"secret\""), "it cannot be planned");
        assert_eq!(said("42501", "permission denied for table t"), "permission denied for table t");
    }
}
