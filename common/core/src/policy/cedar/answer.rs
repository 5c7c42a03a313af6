//! What policies in Cedar answer, and answers that are remembered.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use cedar_policy::{AuthorizationError, PolicyId, Response};

use super::entities::read_only;
use super::rules::Rules;
use crate::action::Action;
use crate::policy::{Circumstances, Granted};

/// Which policies of a slice apply: where one that forbids does, those that forbid; else those that permit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    /// By their place in the slice.
    apply: Vec<usize>,
    /// Some could not be evaluated. Cedar passes them by, and one that forbids or holds must not be passed by (I3).
    failed: Vec<usize>,
    broken: bool,
}

impl Answer {
    /// Nothing could be asked.
    pub(crate) const BROKEN: Self = Self { apply: Vec::new(), failed: Vec::new(), broken: true };

    pub(super) fn of(response: &Response) -> Self {
        fn place(id: &PolicyId) -> Option<usize> {
            let text: &str = id.as_ref();
            text.parse().ok()
        }
        let found = response.diagnostics();
        let failed: Option<Vec<usize>> =
            found.errors().map(|AuthorizationError::PolicyEvaluationError(error)| place(error.policy_id())).collect();
        let apply: Option<Vec<usize>> = found.reason().map(place).collect();
        match (apply, failed) {
            (Some(apply), Some(failed)) => Self { apply, failed, broken: false },
            _ => Self::BROKEN,
        }
    }

    /// Whether the policy at `place` applies.
    pub(crate) fn applies(&self, place: usize) -> bool {
        self.apply.contains(&place)
    }

    /// Those that apply.
    pub(crate) fn all(&self) -> &[usize] {
        &self.apply
    }

    /// The places of those that could not be evaluated, where all is not known.
    pub(crate) fn fault(&self) -> Option<&[usize]> {
        (self.broken || !self.failed.is_empty()).then_some(&self.failed)
    }
}

/// Answers of one session: to evaluate costs some microseconds a policy, and sessions do the same again and again. A copy begins empty: it is of
/// another session.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    answers: BTreeMap<Action, Remembered>,
    source: Option<IpAddr>,
}

#[derive(Debug)]
struct Remembered {
    read_only: bool,
    in_transaction: Option<bool>,
    estimated_rows: Option<u64>,
    /// Of which second, where the time matters.
    second: u64,
    answer: Arc<Answer>,
}

impl Cache {
    /// Actions that are remembered (I11).
    const MOST: usize = 256;

    /// What `rules` answer to each of `actions`, of one operation of who was `granted` that.
    pub(crate) fn answers(
        &mut self,
        rules: &Rules,
        actions: &[Action],
        at: &Circumstances,
        granted: &Granted,
    ) -> Vec<Arc<Answer>> {
        if self.source != at.source {
            self.answers.clear();
            self.source = at.source;
        }
        let read_only = read_only(actions);
        let second = if rules.is_timed() { at.now.secs() } else { 0 };
        let estimated_rows = at.estimated_rows.filter(|_| rules.asks().estimate);
        let told = (read_only, at.in_transaction, estimated_rows, second);
        let answer = |action: &Action| {
            // What nobody asks for does not make another action of it.
            let action = &*rules.as_asked(action);
            if let Some(known) = self.answers.get(action)
                && (known.read_only, known.in_transaction, known.estimated_rows, known.second) == told
            {
                return Arc::clone(&known.answer);
            }
            let answer = Arc::new(rules.on_action(action, read_only, at, granted));
            if self.answers.len() >= Self::MOST {
                self.answers.clear();
            }
            let known = Remembered {
                read_only,
                in_transaction: at.in_transaction,
                estimated_rows,
                second,
                answer: Arc::clone(&answer),
            };
            self.answers.insert(action.clone(), known);
            answer
        };
        actions.iter().map(answer).collect()
    }
}

impl Clone for Cache {
    fn clone(&self) -> Self {
        Self::default()
    }
}
