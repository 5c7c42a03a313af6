//! An operation that is to be reviewed afterwards: it waits until the control plane has that in its state, once in a session for each review.

use postern_core::Code;
use postern_core::Timestamp;
use postern_core::operation::Operation;
use postern_core::policy::{DecisionRecord, ReviewAsked};
use postern_core::review::{MAX_REVIEW_WEIGHT, ReviewItem, beginning};
use postern_protocols::postgres::analyze::Values;
use postern_protocols::postgres::session::Pending;
use postern_runtime::clock;
use postern_runtime::supervisor::OnEnd;
use tokio::sync::oneshot;

use super::End;
use super::delayed::Question;
use super::hold::shown;
use super::relay::Relay;

/// Reviews that one operation may be asked for at once.
const MOST: usize = 32;
/// Policy may ask for others while it is asked for some: so often that is followed.
const ROUNDS: u8 = 4;

impl Relay {
    /// Has the control plane take what `decision` asks for and the session does not have. The operation is decided again when it has.
    pub(super) async fn review_first(
        &mut self,
        mut question: Question,
        operation: &Operation,
        (decision, missing): (&DecisionRecord, Vec<ReviewAsked>),
    ) -> Result<(), End> {
        question.rounds = question.rounds.saturating_add(1);
        if missing.len() > MOST || question.rounds > ROUNDS {
            return self.unreviewed(question, "policy asks for more reviews than there can be").await;
        }
        let items: Vec<(ReviewItem, ReviewAsked)> = missing
            .into_iter()
            .map(|asked| (self.item(&question.pending, operation, decision, &asked), asked))
            .collect();
        let (to, answer) = oneshot::channel();
        let reviews = self.shared.reviews.clone();
        self.shared.supervisor.spawn("review", OnEnd::EndSession, async move {
            let opened = reviews.open_all(&items).await;
            if let Err(error) = &opened {
                tracing::warn!(%error, "what is to be reviewed afterwards does not run");
            }
            // The operation may have been given up meanwhile.
            let _ = to.send(opened.map_err(|error| error.to_string()));
        });
        self.wait_for_review(question, answer);
        Ok(())
    }

    /// The control plane has answered, or not in time.
    pub(super) async fn review_came(&mut self, mut question: Question) -> Result<(), End> {
        match question.reviewed.take() {
            Some(Ok(opened)) => {
                for opened in opened {
                    self.reviews.add(opened);
                }
                self.decide_looked(question).await
            }
            Some(Err(why)) => self.unreviewed(question, &why).await,
            None => self.unreviewed(question, "the control plane does not answer").await,
        }
    }

    async fn unreviewed(&mut self, question: Question, why: &str) -> Result<(), End> {
        tracing::info!(operation_id = %question.operation, why, "refused: it could not be put up for review");
        let reason = format!("this is to be reviewed afterwards, and cannot be put up for review: {why}");
        let hint = "It has not run. Run it again when the control plane is there.".to_owned();
        self.undecided(question, Code::ControlPlaneUnavailable, reason, Some(hint)).await
    }

    /// What reviewers will see of it.
    fn item(
        &self,
        pending: &Pending,
        operation: &Operation,
        decision: &DecisionRecord,
        asked: &ReviewAsked,
    ) -> ReviewItem {
        let Values { relations, values } = self.session.values(pending);
        // Classified, so it is UTF-8.
        let (text, values, text_cut) = beginning(std::str::from_utf8(pending.text()).unwrap_or_default(), values);
        let asking = self.slice.speaking().filter(|(name, _)| asked.policies.contains(*name));
        let reasons: Vec<&str> = asking.filter_map(|(_, policy)| policy.reason.as_deref()).collect();
        let mut item = ReviewItem {
            id: clock::review_id(),
            principal: self.principal.clone(),
            target: self.to.name.clone(),
            session: self.to.session,
            gateway: self.shared.gateway.to_string(),
            operation: operation.id,
            digest: operation.digest,
            text,
            text_cut,
            parameters: shown(pending.parameters()),
            actions: operation.actions.iter().map(ToString::to_string).collect(),
            policies: asked.policies.iter().map(ToString::to_string).collect(),
            policy_revision: decision.revision,
            reason: reasons.join("; "),
            groups: asked.groups.iter().cloned().collect(),
            opened_at: Timestamp::default(),
            due_at: Timestamp::default(),
            overdue: false,
            session_over: false,
            closed: None,
            revision: 0,
            relations,
            values,
        };
        // Names as long as names can be, or very many: a reviewer finds the rest in the recording.
        if item.weight() > MAX_REVIEW_WEIGHT {
            item.actions.truncate(100);
            item.parameters.clear();
            item.relations = Vec::new();
            for value in &mut item.values {
                value.columns = vec!["*".into()];
            }
        }
        if item.weight() > MAX_REVIEW_WEIGHT {
            item.actions.clear();
        }
        item
    }
}
