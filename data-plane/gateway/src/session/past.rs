//! The session so far, as the reviewers of a held operation are shown it: kept where policy may hold anything at all.

use std::collections::VecDeque;

use postern_core::background::{MAX_PAST, MAX_PAST_TEXT, Past};
use postern_core::recording::{Completed, OperationOutcome};
use postern_core::{Code, OperationId, Timestamp};
use postern_protocols::postgres::analyze::blanked;
use postern_protocols::postgres::codec::backend::TransactionStatus;
use postern_runtime::clock;
use tokio::time::Instant;

/// Bytes of what the target says at an operation's end.
const MAX_OUTCOME: usize = 120;

/// The newest operations, and since when the target is as it is.
#[derive(Debug)]
pub(super) struct History {
    /// Whether anything may be held: else nothing is kept.
    pub(super) kept: bool,
    newest: VecDeque<(OperationId, Past)>,
    earlier: u64,
    /// When the target last said anything.
    answered: Instant,
    /// Since when the session is in a transaction.
    transaction: Option<Instant>,
    /// The session may have set the target's limits on idle sessions itself.
    sets_limits: bool,
}

impl History {
    pub(super) fn new(kept: bool) -> Self {
        Self {
            kept,
            newest: VecDeque::new(),
            earlier: 0,
            answered: Instant::now(),
            transaction: None,
            sets_limits: false,
        }
    }

    /// An operation was decided: it runs, or `refused` says why it does not.
    pub(super) fn decided(&mut self, operation: OperationId, text: &[u8], refused: Option<Code>) {
        if !self.kept {
            return;
        }
        let mut past = if self.newest.len() >= MAX_PAST {
            self.earlier = self.earlier.saturating_add(1);
            // Its memory serves again.
            self.newest.pop_front().map(|(_, past)| past)
        } else {
            None
        }
        .unwrap_or_else(|| Past {
            at: Timestamp::default(),
            text: String::new(),
            outcome: String::new(),
            rows: 0,
        });
        self.sets_limits |= speaks_of_limits(text);
        past.text.clear();
        past.text.push_str(beginning(text));
        past.outcome.clear();
        if let Some(code) = refused {
            past.outcome.push_str(code.as_str());
        }
        (past.at, past.rows) = (clock::now(), 0);
        self.newest.push_back((operation, past));
    }

    /// An operation is over.
    pub(super) fn over(&mut self, completed: &Completed) {
        if !self.kept {
            return;
        }
        let known = self.newest.iter_mut().rev().find(|(operation, _)| *operation == completed.operation);
        let Some((_, past)) = known else { return };
        past.rows = completed.rows;
        past.outcome.clear();
        match &completed.outcome {
            OperationOutcome::Done { tags } => past.outcome.push_str(&tags.join("; ")),
            // The target's message may quote values.
            OperationOutcome::Failed { sqlstate, .. } => {
                past.outcome.push_str("failed: ");
                past.outcome.push_str(sqlstate);
            }
            OperationOutcome::NotRun { code } => past.outcome.push_str(code.as_str()),
            OperationOutcome::Unknown => past.outcome.push_str("unknown"),
        }
        past.outcome.truncate(past.outcome.floor_char_boundary(MAX_OUTCOME));
    }

    /// The target has answered something.
    pub(super) fn answered(&mut self, status: TransactionStatus) {
        if !self.kept {
            return;
        }
        self.answered = Instant::now();
        match status {
            TransactionStatus::Idle => self.transaction = None,
            _ => drop(self.transaction.get_or_insert(self.answered)),
        }
    }

    /// For how long the target has had nothing to do.
    pub(super) fn idle_since(&self) -> Timestamp {
        ago(self.answered)
    }

    /// Since when the session is in a transaction.
    pub(super) fn transaction_since(&self) -> Option<Timestamp> {
        self.transaction.map(ago)
    }

    /// Whether the session may have set the target's limits on idle sessions itself: then nobody else knows them.
    pub(super) const fn sets_limits(&self) -> bool {
        self.sets_limits
    }

    /// The newest operations but `held`, and how many were before. Where masks hold on the target, without values.
    pub(super) fn shown(&self, held: OperationId, masked: bool) -> (Vec<Past>, u64) {
        let shown = self.newest.iter().filter(|(operation, _)| *operation != held).map(|(_, past)| {
            let text = if masked { without_values(&past.text) } else { past.text.clone() };
            Past { text, ..past.clone() }
        });
        (shown.collect(), self.earlier)
    }
}

/// Whether it may name one of the settings that end idle sessions, or another of the kind. A name that is put together where it runs is missed, and
/// then the session's own reviewers are told the account's limit.
fn speaks_of_limits(text: &[u8]) -> bool {
    const NAME: &[u8] = b"_timeout";
    let sets = text.first().is_some_and(|first| b"sSrR".contains(first));
    sets && text.windows(NAME.len()).any(|part| part.eq_ignore_ascii_case(NAME))
}

fn ago(then: Instant) -> Timestamp {
    let passed = u64::try_from(then.elapsed().as_millis()).unwrap_or(u64::MAX);
    Timestamp::from_millis(clock::now().millis().saturating_sub(passed))
}

/// As much as is shown of a text.
fn beginning(text: &[u8]) -> &str {
    let cut = text.get(..MAX_PAST_TEXT).unwrap_or(text);
    match std::str::from_utf8(cut) {
        Ok(text) => text,
        Err(error) => cut.get(..error.valid_up_to()).and_then(|cut| std::str::from_utf8(cut).ok()).unwrap_or_default(),
    }
}

/// A text that was cut off inside a value cannot be told from it: then only its first word is shown.
fn without_values(text: &str) -> String {
    let first = || text.split_whitespace().next().filter(|word| word.bytes().all(|byte| byte.is_ascii_alphabetic()));
    blanked(text).unwrap_or_else(|| format!("{} ...", first().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(operation: OperationId, rows: u64) -> Completed {
        let outcome = OperationOutcome::Done { tags: vec![format!("SELECT {rows}")] };
        Completed { operation, outcome, rows, bytes: 0, rows_omitted: 0, omitted_digest: None, rows_in: 0 }
    }

    #[test]
    fn the_newest_are_kept_and_the_rest_counted() {
        let mut history = History::new(true);
        let all: Vec<OperationId> = (0..30).map(|_| clock::operation_id()).collect();
        for (place, id) in all.iter().enumerate() {
            history.decided(*id, format!("SELECT {place}").as_bytes(), None);
            history.over(&done(*id, 3));
        }
        history.decided(all[0], b"DELETE FROM t", Some(Code::Denied));
        let (past, earlier) = history.shown(clock::operation_id(), false);
        assert_eq!((past.len(), earlier), (MAX_PAST, 11));
        assert_eq!((&*past[0].text, &*past[0].outcome, past[0].rows), ("SELECT 11", "SELECT 3", 3));
        assert_eq!(past[19].outcome, Code::Denied.as_str());
        let (past, _) = history.shown(all[29], true);
        assert_eq!((past.len(), &*past[0].text), (MAX_PAST - 1, "SELECT ..."));
    }

    #[test]
    fn nothing_is_kept_where_nothing_may_be_held() {
        let mut history = History::new(false);
        history.decided(clock::operation_id(), b"SELECT 1", None);
        assert_eq!(history.shown(clock::operation_id(), false), (Vec::new(), 0));
    }

    #[test]
    fn a_text_cut_off_in_a_value_shows_none_of_it() {
        assert_eq!(without_values("SELECT 'secr"), "SELECT ...");
        assert_eq!(without_values("'secr"), " ...");
        let long = format!("SELECT '{}'", "ä".repeat(300));
        assert!(beginning(long.as_bytes()).len() <= MAX_PAST_TEXT);
        assert_eq!(without_values(beginning(long.as_bytes())), "SELECT ...");
    }

    #[test]
    fn a_transaction_is_as_old_as_its_first_answer() {
        let mut history = History::new(true);
        history.answered(TransactionStatus::Open);
        history.transaction = history.transaction.and_then(|at| at.checked_sub(std::time::Duration::from_secs(5)));
        history.answered(TransactionStatus::Failed);
        assert!(history.transaction_since().unwrap().millis() + 4_000 < history.idle_since().millis());
        history.answered(TransactionStatus::Idle);
        assert_eq!(history.transaction_since(), None);
    }

    #[test]
    fn settings_of_the_sessions_own_are_noticed() {
        assert!(speaks_of_limits(b"SET idle_in_transaction_session_timeout = 0"));
        assert!(speaks_of_limits(b"select set_config('idle_session_TIMEOUT', '1s', false)"));
        assert!(!speaks_of_limits(b"SELECT timeout FROM t") && !speaks_of_limits(b""));
    }
}
