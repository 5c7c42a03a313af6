//! An operation that cannot be decided yet: its turn has not come (I12), or a name in it is newer than the catalog (I3). The session goes on
//! meanwhile: a cancel, the token's and the drain's end, and the client's going away are seen as ever.

use postern_core::{Code, DecisionId, OperationId};
use postern_protocols::postgres::session::Pending;
use postern_runtime::clock;
use tokio::time::{Duration, Instant};

use super::End;
use super::decide::Asked;
use super::relay::Relay;

/// In PostgreSQL's words.
const CANCELLED: &str = "canceling statement due to user request";

/// What is asked, and under which ids it will be decided.
pub(super) struct Question {
    pub(super) pending: Box<Pending>,
    pub(super) asked: Asked,
    pub(super) decision: DecisionId,
    pub(super) operation: OperationId,
}

/// One that waits.
pub(super) struct Delayed {
    question: Question,
    until: Until,
    /// When it goes on at the latest.
    at: Instant,
}

/// What it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    /// Room in a rate.
    Turn,
    /// The catalog to be old enough to be read again.
    Doubt,
    /// The catalog that is being read.
    Catalog,
}

impl Question {
    pub(super) fn new(pending: Box<Pending>, asked: Asked) -> Self {
        Self { pending, asked, decision: clock::decision_id(), operation: clock::operation_id() }
    }
}

/// When the operation that waits, if one does, goes on. Cancel-safe.
pub(super) async fn over(delayed: Option<&Delayed>) {
    match delayed {
        Some(delayed) => tokio::time::sleep_until(delayed.at).await,
        None => std::future::pending().await,
    }
}

impl Relay {
    /// Has the operation wait for its turn.
    pub(super) fn wait_for_turn(&mut self, question: Question, wait: Duration) {
        self.delayed = Some(Delayed { question, until: Until::Turn, at: Instant::now() + wait });
    }

    /// Has the operation wait for names, after so long.
    pub(super) fn wait_for_names(&mut self, question: Question, wait: Duration) {
        let until = Until::Doubt;
        self.delayed = Some(Delayed { question, until, at: Instant::now() + wait });
    }

    /// The time of what waits is over.
    pub(super) async fn go_on(&mut self) -> Result<(), End> {
        let Some(Delayed { question, until, .. }) = self.delayed.take() else { return Ok(()) };
        match until {
            Until::Turn => self.decide_in_turn(question).await,
            Until::Doubt => {
                let at = Instant::now() + self.read_names();
                self.delayed = Some(Delayed { question, until: Until::Catalog, at });
                Ok(())
            }
            // It could not be read in time: names stay in doubt.
            Until::Catalog => self.decide_named(question).await,
        }
    }

    /// The catalog was read: who waits for it goes on.
    pub(super) async fn names_came(&mut self) -> Result<(), End> {
        match self.delayed.take_if(|delayed| delayed.until == Until::Catalog) {
            Some(Delayed { mut question, .. }) => {
                self.session.reconsider(&mut question.pending);
                self.decide_named(question).await
            }
            None => Ok(()),
        }
    }

    /// The client wants the operation cancelled that waits. False when none does.
    pub(super) async fn cancel_delayed(&mut self) -> Result<bool, End> {
        let Some(Delayed { question, .. }) = self.delayed.take() else { return Ok(false) };
        self.undecided(question, Code::Cancelled, CANCELLED.to_owned(), None).await?;
        Ok(true)
    }

    /// The client wanted it cancelled before it was looked at.
    pub(super) async fn cancelled(&mut self, pending: Box<Pending>) -> Result<(), End> {
        let question = Question::new(pending, Asked::Run);
        self.undecided(question, Code::Cancelled, CANCELLED.to_owned(), None).await
    }
}
