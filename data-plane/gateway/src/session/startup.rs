//! Settings of a startup that SET would be decided for: decided as SET is, and recorded, before the target hears of them.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use postern_core::action::Action;
use postern_core::operation::Operation;
use postern_core::policy::{Circumstances, DecisionRecord, Denial, Freshness, OpenedReviews, PolicySlice, Verdict};
use postern_core::recording::{Completed, Event, OperationEvent, OperationOutcome, Value};
use postern_core::{Code, OperationId, SessionId};
use postern_protocols::postgres::errors::{ErrorFields, client_message};
use postern_protocols::postgres::handshake::{HandshakeError, Startup};
use postern_protocols::postgres::upstream::with_demanded;
use postern_runtime::clock;

use crate::recorder::{RecordError, SessionRecorder};

/// What the target is told at the login.
pub(super) struct Settings {
    pub(super) told: Vec<(String, String)>,
    /// What there is to decide of it, as a statement would say it.
    asked: Option<(String, Vec<Action>)>,
}

/// Why a session does not begin.
pub(super) enum Unbegun {
    /// It cannot be recorded.
    Record(RecordError),
    /// Its settings are not permitted.
    Denied(Box<Denial>),
}

impl From<RecordError> for Unbegun {
    fn from(error: RecordError) -> Self {
        Self::Record(error)
    }
}

impl Settings {
    /// `open`: everything is granted, and nothing masked. Then there is nothing to decide, whatever they are.
    pub(super) fn of(startup: &Startup, open: bool) -> Result<Self, HandshakeError> {
        let beyond = &startup.beyond;
        if open {
            let told = startup.settings.iter().chain(&beyond.parameters).cloned().collect();
            return Ok(Self { told, asked: None });
        }
        let mut told = with_demanded(&startup.settings);
        if beyond.parameters.is_empty() {
            return Ok(Self { told, asked: None });
        }
        let actions = beyond.actions()?;
        told.extend(beyond.parameters.iter().cloned());
        Ok(Self { told, asked: Some((statement(&beyond.parameters), actions)) })
    }

    /// Decides what there is to decide, and has it recorded; seals the recording where that is denied. What is permitted is told to the target by whoever
    /// logs in, and not before this returns.
    pub(super) async fn decide(
        &self,
        slice: &mut PolicySlice,
        (session, source, fresh): (SessionId, IpAddr, Freshness),
        mut recorder: SessionRecorder,
        quorum_limit: Duration,
    ) -> Result<(SessionRecorder, Option<OperationId>), Unbegun> {
        let Some((text, actions)) = &self.asked else { return Ok((recorder, None)) };
        let text = Bytes::copy_from_slice(text.as_bytes());
        let operation = Operation::new(clock::operation_id(), session, text, Vec::new(), actions.clone());
        let at = Circumstances::new(clock::now(), fresh).from(source).in_transaction(Some(false));
        let id = clock::decision_id();
        let denial = match slice.decide(&operation, id, &at) {
            // Nor is one put up for a review afterwards: nothing of the session is known to reviewers yet.
            Verdict::Permit(permit, decision) => match OpenedReviews::default().cover(permit) {
                Ok(covered) => {
                    let recorded = recorder.operation(covered, &event(&operation, decision)).await?;
                    let Err(error) = recorded.within(quorum_limit).await else {
                        return Ok((recorder, Some(operation.id)));
                    };
                    recorder.append(&over(operation.id, OperationOutcome::NotRun { code: error.code() })).await?;
                    recorder.seal(Some(error.code()), &error.to_string()).await?;
                    return Err(error.into());
                }
                Err(_) => {
                    let why = "settings of a startup cannot be put up for a review: SET them in the session".to_owned();
                    slice.deny_unclassified(Code::Denied, why, id, (clock::now(), fresh))
                }
            },
            Verdict::Deny(denial) => denial,
            Verdict::Hold(_) => {
                let why = "settings of a startup cannot wait for a review: SET them in the session".to_owned();
                slice.deny_unclassified(Code::Denied, why, id, (clock::now(), fresh))
            }
        };
        recorder.append(&event(&operation, denial.decision.clone())).await?;
        recorder.append(&over(operation.id, OperationOutcome::NotRun { code: denial.code })).await?;
        recorder.seal(Some(denial.code), &denial.decision.reason).await?;
        Err(Unbegun::Denied(Box::new(denial)))
    }
}

impl Unbegun {
    /// What the client is told, and the log.
    pub(super) fn told(self) -> (Code, ErrorFields, String) {
        match self {
            Self::Record(error) => {
                (error.code(), ErrorFields::fatal(error.code(), client_message(error.code())), error.to_string())
            }
            Self::Denied(denial) => {
                (denial.code, ErrorFields::fatal(denial.code, denial.client_message()), denial.decision.reason)
            }
        }
    }
}

/// That the login took them.
pub(super) fn taken(operation: OperationId) -> Event {
    over(operation, OperationOutcome::Done { tags: vec!["SET".to_owned()] })
}

fn over(operation: OperationId, outcome: OperationOutcome) -> Event {
    Event::Completed(Box::new(Completed {
        operation,
        outcome,
        rows: 0,
        bytes: 0,
        rows_omitted: 0,
        omitted_digest: None,
        rows_in: 0,
    }))
}

fn event(operation: &Operation, decision: DecisionRecord) -> Event {
    Event::Operation(Box::new(OperationEvent {
        operation: operation.id,
        text: Value::from_wire(Some(&operation.text), false),
        parameters: Vec::new(),
        actions: operation.actions.clone(),
        digest: operation.digest,
        decision,
    }))
}

/// As a statement that does the same: for people, and for what an approval would bind.
fn statement(parameters: &[(String, String)]) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let calls: Vec<String> = parameters
        .iter()
        .map(|(name, value)| format!("pg_catalog.set_config({}, {}, false)", quoted(name), quoted(value)))
        .collect();
    format!("SELECT {}", calls.join(", "))
}
