//! Operations of class `quorum`: decided and recorded, they wait until the control plane has their record.

use std::sync::Arc;

use postern_core::Code;
use postern_core::policy::{Denial, Verdict};
use postern_protocols::postgres::errors::ErrorFields;
use postern_protocols::postgres::session::Pending;
use postern_runtime::clock;
use tokio::time::Instant;

use super::End;
use super::decide::Asked;
use super::delayed::Question;
use super::relay::Relay;
use crate::metrics;
use crate::policy_feed::Standing;
use crate::recorder::{RecordError, Unacknowledged};

/// One whose record is on its way.
pub(super) struct Recorded {
    waits: Unacknowledged,
    /// What it was decided by.
    standing: Arc<Standing>,
    since: Instant,
}

impl Recorded {
    /// Over when it is known whether the control plane has it. Cancel-safe.
    pub(super) async fn known(&mut self) {
        self.waits.acknowledged().await;
    }
}

impl Relay {
    /// Has the operation wait for the acknowledgement of its record.
    pub(super) fn forward_later(&mut self, pending: Box<Pending>, waits: Unacknowledged) {
        let operation = waits.operation();
        let question = Question { operation, ..Question::new(pending, Asked::Run) };
        let recorded = Recorded { waits, standing: Arc::clone(&self.standing), since: Instant::now() };
        self.wait_for_acknowledgement(question, recorded);
    }

    /// It came, or its time is over. What policy denies by now is not forwarded.
    pub(super) async fn acknowledged(&mut self, question: Question, recorded: Recorded) -> Result<(), End> {
        let before = recorded.standing;
        self.take_policy().await?;
        let mut waits = recorded.waits;
        if !Arc::ptr_eq(&before, &self.standing)
            && let Err((code, fields)) = self.decide_again(&question, &mut waits)
        {
            return self.not_cleared(question, &fields, code).await;
        }
        match waits.clear() {
            Ok(cleared) => {
                metrics::acknowledged_after(recorded.since.elapsed());
                self.release(question.pending, &cleared).await
            }
            Err(error) => {
                metrics::unacknowledged();
                let code = error.code();
                tracing::warn!(operation_id = %question.operation, %error, "not run");
                let fields = ErrorFields::error(code, error.to_string());
                self.not_cleared(question, &fields, code).await?;
                match error {
                    RecordError::Unacknowledged => Ok(()),
                    // It will not be otherwise later.
                    error => Err(error.into()),
                }
            }
        }
    }

    /// Policy has changed since: what it denies now does not run, and what it binds, runs bound.
    fn decide_again(&mut self, question: &Question, waits: &mut Unacknowledged) -> Result<(), (Code, ErrorFields)> {
        let again = |why: &str| (Code::Denied, ErrorFields::error(Code::Denied, why.to_owned()));
        let denied = |denial: &Denial| (denial.code, ErrorFields::denial(denial));
        let unfollowed = question.pending.unfollowed().filter(|_| !self.slice.grants_everything(self.freshness()));
        let followed = match unfollowed {
            Some(refusal) => Err(refusal),
            None => question.pending.operation(question.operation, self.to.session),
        };
        let operation =
            followed.map_err(|refusal| (refusal.code, ErrorFields::error(refusal.code, refusal.reason.clone())))?;
        let circumstances = self.circumstances_of(&question.pending);
        let also = match self.slice.decide(&operation, clock::decision_id(), &circumstances) {
            Verdict::Deny(denial) => return Err(denied(&denial)),
            Verdict::Permit(permit, _) => permit.into_obliged(),
            Verdict::Hold(held) if waits.is_approved() => held.obliged().clone(),
            Verdict::Hold(_) => return Err(again("policy asks now for an approval: run it again")),
        };
        if !self.reviews.missing(&also).is_empty() {
            return Err(again("policy asks now for a review afterwards: run it again"));
        }
        question
            .pending
            .fits(&also)
            .map_err(|refusal| (refusal.code, ErrorFields::error(refusal.code, refusal.reason)))?;
        waits.oblige(also);
        Ok(())
    }

    /// It does not run: the recording and the client are told.
    pub(super) async fn not_cleared(
        &mut self,
        question: Question,
        fields: &ErrorFields,
        code: Code,
    ) -> Result<(), End> {
        self.not_run(question.operation, code).await?;
        self.history.decided(question.operation, question.pending.text(), Some(code));
        self.refuse(question.pending, fields);
        Ok(())
    }
}
