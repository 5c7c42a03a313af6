//! The decision on an operation, and what follows from it. The only caller of [`super::outbox::Outbox::operation`].

use std::time::Instant;

use postern_core::action::Action;
use postern_core::operation::{Digest, Parameter};
use postern_core::policy::{DecisionRecord, Denial, Obliged, Outcome, Permit, Verdict};
use postern_core::recording::{Completed, Event, OperationEvent, OperationOutcome, Value};
use postern_core::{Code, OperationId};
use postern_protocols::postgres::errors::ErrorFields;
use postern_protocols::postgres::session::Pending;
use postern_runtime::{clock, telemetry};
use tracing::Instrument as _;

use super::End;
use super::delayed::Question;
use super::relay::Relay;
use crate::limits::Exceeded;
use crate::metrics;
use crate::recorder::{Cleared, RecordError, Recorded};

/// What of an operation is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// To run it.
    Run,
    /// To have it parsed: it executes nothing, and is decided again when it is to run.
    Prepare,
}

impl From<RecordError> for End {
    fn from(error: RecordError) -> Self {
        Self::logged(error.code(), error)
    }
}

impl Relay {
    /// Has `pending` wait for its turn, then decides it by the newest policy, records the decision, and forwards, holds or refuses.
    pub(super) async fn decide(&mut self, pending: Box<Pending>, asked: Asked) -> Result<(), End> {
        let question = Question::new(pending, asked);
        let turn = match asked {
            Asked::Run => self.place.operation(),
            Asked::Prepare => self.place.statement(),
        };
        match turn {
            Ok(wait) if wait.is_zero() => self.decide_in_turn(question).await,
            Ok(wait) => {
                self.wait_for_turn(question, wait);
                Ok(())
            }
            Err(exceeded) => self.shed(question, exceeded).await,
        }
    }

    /// Decides it, once what its names mean is settled.
    pub(super) async fn decide_in_turn(&mut self, question: Question) -> Result<(), End> {
        let Some(question) = self.in_room(question).await? else { return Ok(()) };
        // It may have changed while the operation waited.
        self.take_policy().await?;
        match self.doubts(&question.pending) {
            Some(wait) => {
                self.wait_for_names(question, wait);
                Ok(())
            }
            None => self.decide_named(question).await,
        }
    }

    /// Decides it as its names are known, once the target has told what it expects of it, where policy asks for that.
    pub(super) async fn decide_named(&mut self, question: Question) -> Result<(), End> {
        let asks = self.slice.asks_for_estimate(question.pending.actions().unwrap_or_default());
        // What cannot be planned is not known, and the target is not bothered.
        if asks && question.asked == Asked::Run && self.session.plannable(&question.pending).is_ok() {
            self.wait_for_estimate(question);
            return Ok(());
        }
        self.decide_looked(question).await
    }

    /// Decides it by what is known.
    pub(super) async fn decide_looked(&mut self, question: Question) -> Result<(), End> {
        if !telemetry::exports_spans() {
            return self.decide_now(question).await;
        }
        let span = tracing::info_span!(
            "operation",
            session_id = %self.to.session,
            operation_id = %question.operation,
            decision_id = %question.decision,
            policy_age_ms = tracing::field::Empty
        );
        self.decide_now(question).instrument(span).await
    }

    async fn decide_now(&mut self, question: Question) -> Result<(), End> {
        self.take_policy().await?;
        let began = Instant::now();
        let circumstances = self.circumstances_of(&question.pending).estimated(question.estimated_rows());
        let Question { pending, asked, decision: id, operation: operation_id, looked, rounds, .. } = question;
        let fresh = circumstances.fresh;
        if telemetry::exports_spans() {
            tracing::Span::current().record("policy_age_ms", u64::try_from(fresh.age.as_millis()).unwrap_or(u64::MAX));
        }
        let followed = match pending.unfollowed() {
            Some(refusal) if !self.slice.grants_everything(fresh) => Err(refusal),
            _ => pending.operation(operation_id, self.to.session),
        };
        let operation = match followed {
            Ok(operation) => operation,
            Err(refusal) => {
                let denial =
                    self.slice.deny_unclassified(refusal.code, refusal.reason.clone(), id, (clock::now(), fresh));
                metrics::decided(Outcome::Deny, began.elapsed());
                return self.deny(pending, operation_id, denial).await;
            }
        };
        let mut verdict = self.slice.decide(&operation, id, &circumstances);
        if asked == Asked::Prepare && self.slice.asks_for_estimate(&operation.actions) {
            // Nobody has said by which values it will run: it may be prepared if by any it could.
            for rows in [0, u64::MAX] {
                if matches!(verdict, Verdict::Deny(_)) {
                    verdict = self.slice.decide(&operation, id, &circumstances.estimated(Some(rows)));
                }
            }
        }
        let record = match &verdict {
            Verdict::Permit(_, record) => Some(record),
            Verdict::Hold(held) => Some(&held.decision),
            Verdict::Deny(_) => None,
        };
        let obliged = record.map(|record| &record.obliged);
        if let (Asked::Run, Some(Err(refusal))) = (asked, obliged.map(|obliged| pending.fits(obliged))) {
            let denial = self.slice.deny_unclassified(refusal.code, refusal.reason, id, (clock::now(), fresh));
            metrics::decided(Outcome::Deny, began.elapsed());
            return self.deny(pending, operation_id, denial).await;
        }
        if let (Asked::Run, Some(record)) = (asked, record) {
            let missing = self.reviews.missing(&record.obliged);
            if !missing.is_empty() {
                let question = Question {
                    pending,
                    asked,
                    decision: id,
                    operation: operation_id,
                    looked,
                    reviewed: None,
                    rounds,
                    roomless: None,
                };
                return self.review_first(question, &operation, (record, missing)).await;
            }
        }
        metrics::decided(outcome(&verdict), began.elapsed());
        match (verdict, asked) {
            (Verdict::Deny(denial), _) => self.deny(pending, operation_id, denial).await,
            (Verdict::Permit(..) | Verdict::Hold(_), Asked::Prepare) => {
                // It runs nothing, so nothing binds it.
                let bytes = self.session.permit(pending, operation_id, Obliged::default());
                self.outbox.protocol(&bytes);
                Ok(())
            }
            (Verdict::Permit(permit, mut decision), Asked::Run) => {
                tracing::debug!("permitted");
                self.reviews.name(&mut decision.obliged);
                self.note_strangers(operation_id, &pending);
                let event = event(operation_id, &pending, decision, operation.digest);
                self.forward(pending, permit, &event).await
            }
            (Verdict::Hold(mut held), Asked::Run) => {
                self.reviews.name(&mut held.decision.obliged);
                let event = event(operation_id, &pending, held.decision.clone(), operation.digest);
                self.recorder.append(&event).await?;
                self.hold(pending, held, looked).await
            }
        }
    }

    /// Refuses an operation past a limit.
    async fn shed(&mut self, question: Question, exceeded: Exceeded) -> Result<(), End> {
        tracing::debug!(operation_id = %question.operation, %exceeded, "shed");
        let hint = exceeded.after.map(|after| format!("There is room again in {} ms.", after.as_millis().max(1)));
        self.undecided(question, Code::RateLimited, exceeded.to_string(), hint).await
    }

    /// Refuses what was never decided. It is recorded without waiting for the disk: whoever floods must not make others wait for it.
    pub(super) async fn undecided(
        &mut self,
        question: Question,
        code: Code,
        reason: String,
        hint: Option<String>,
    ) -> Result<(), End> {
        let Question { pending, decision: id, operation, .. } = question;
        let denial = self.slice.deny_unclassified(code, reason, id, (clock::now(), self.freshness()));
        let digest = Digest::of(self.to.session, pending.text(), pending.parameters());
        let event = event(operation, &pending, denial.decision.clone(), digest);
        match self.recorder.enqueue(&event).await {
            Ok(()) => self.recorder.enqueue(&never_ran(operation, denial.code)).await?,
            Err(RecordError::TooLarge(_)) => {}
            Err(error) => return Err(error.into()),
        }
        let fields = match code {
            Code::Cancelled => ErrorFields::error(code, denial.decision.reason),
            _ => ErrorFields::denial(&denial),
        };
        let fields = match hint {
            Some(hint) => fields.with_hint(hint),
            None => fields,
        };
        self.refuse(pending, &fields);
        Ok(())
    }

    /// Records, then forwards. An operation too large to be recorded does not run, and the session goes on.
    pub(super) async fn forward(&mut self, pending: Box<Pending>, permit: Permit, event: &Event) -> Result<(), End> {
        let operation = permit.operation();
        let covered = match self.reviews.cover(permit) {
            Ok(covered) => covered,
            // Whoever calls has seen to it before.
            Err(error) => {
                tracing::error!(operation_id = %operation, %error, "not run");
                self.not_run(operation, Code::Internal).await?;
                self.refuse(pending, &ErrorFields::of(Code::Internal));
                return Ok(());
            }
        };
        let recorded = match self.recorder.operation(covered, event).await {
            Ok(recorded) => recorded,
            Err(RecordError::TooLarge(size)) => {
                tracing::info!(operation_id = %operation, size, "refused: too large to be recorded");
                let fields =
                    ErrorFields::error(Code::TooLarge, "the statement with its parameters is too large to be recorded");
                self.refuse(pending, &fields);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        match recorded {
            Recorded::Cleared(cleared) => self.release(pending, &cleared).await,
            Recorded::Unacknowledged(waits) => {
                self.forward_later(pending, waits);
                Ok(())
            }
        }
    }

    /// Forwards what is cleared.
    pub(super) async fn release(&mut self, pending: Box<Pending>, cleared: &Cleared) -> Result<(), End> {
        let operation = cleared.operation();
        self.history.decided(operation, pending.text(), None);
        let bytes = self.session.permit(pending, operation, cleared.obliged().how_it_runs());
        self.outbox.operation(cleared, operation, &bytes).map_err(|error| End::logged(Code::Internal, error))
    }

    async fn deny(&mut self, pending: Box<Pending>, operation: OperationId, denial: Denial) -> Result<(), End> {
        tracing::info!(
            operation_id = %operation,
            decision_id = %denial.decision.id,
            code = %denial.code,
            reason = denial.decision.reason,
            "denied"
        );
        let digest = Digest::of(self.to.session, pending.text(), pending.parameters());
        self.history.decided(operation, pending.text(), Some(denial.code));
        let event = event(operation, &pending, denial.decision.clone(), digest);
        match self.recorder.enqueue(&event).await {
            Ok(()) => self.not_run(operation, denial.code).await?,
            // Not even its text fits: it is refused all the same.
            Err(RecordError::TooLarge(_)) => {}
            Err(error) => return Err(error.into()),
        }
        self.refuse(pending, &ErrorFields::denial(&denial));
        Ok(())
    }

    /// Records that `operation` never reached the target; durable on return.
    pub(super) async fn not_run(&mut self, operation: OperationId, code: Code) -> Result<(), End> {
        Ok(self.recorder.append(&never_ran(operation, code)).await?)
    }

    /// Has the client told, in the place where the target's answer would be.
    pub(super) fn refuse(&mut self, pending: Box<Pending>, fields: &ErrorFields) {
        let refused = self.session.refuse(pending, fields);
        self.to_client.extend_from_slice(&refused.to_client);
        self.outbox.protocol(&refused.to_server);
    }
}

fn never_ran(operation: OperationId, code: Code) -> Event {
    Event::Completed(Box::new(Completed {
        operation,
        outcome: OperationOutcome::NotRun { code },
        rows: 0,
        bytes: 0,
        rows_omitted: 0,
        omitted_digest: None,
        rows_in: 0,
    }))
}

fn event(operation: OperationId, pending: &Pending, decision: DecisionRecord, digest: Digest) -> Event {
    Event::Operation(Box::new(OperationEvent {
        operation,
        text: Value::from_wire(Some(pending.text()), false),
        parameters: pending.parameters().iter().map(value).collect(),
        actions: pending.actions().map(<[Action]>::to_vec).unwrap_or_default(),
        digest,
        decision,
    }))
}

fn value(parameter: &Parameter) -> Value {
    Value::from_wire(parameter.value.as_deref(), parameter.binary)
}

const fn outcome(verdict: &Verdict) -> Outcome {
    match verdict {
        Verdict::Permit(..) => Outcome::Permit,
        Verdict::Hold(_) => Outcome::Hold,
        Verdict::Deny(_) => Outcome::Deny,
    }
}
