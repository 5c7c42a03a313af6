//! An operation that cannot be decided yet: its turn has not come (I12), a name in it is newer than the catalog (I3), policy asks what the target expects of it, or the control plane
//! is to have it down for review first; or that is recorded, and not yet where it is to be (I2). The session goes on meanwhile: a cancel, the token's and the drain's end, and the client's going away are seen as ever.

use postern_core::policy::OpenedReview;
use postern_core::{Code, DecisionId, OperationId};
use postern_protocols::postgres::errors::ErrorFields;
use postern_protocols::postgres::session::Pending;
use postern_runtime::clock;
use postern_runtime::supervisor::OnEnd;
use tokio::sync::oneshot;
use tokio::time::{Duration, Instant};

use super::End;
use super::acknowledged::Recorded;
use super::decide::Asked;
use super::relay::Relay;
use crate::estimate::Looked;
use crate::reviews;

/// An estimate is done within its own limit; so long its answer may take to come here.
const MARGIN: Duration = Duration::from_millis(100);

/// In PostgreSQL's words.
const CANCELLED: &str = "canceling statement due to user request";

/// What is asked, and under which ids it will be decided.
pub(super) struct Question {
    pub(super) pending: Box<Pending>,
    pub(super) asked: Asked,
    pub(super) decision: DecisionId,
    pub(super) operation: OperationId,
    /// What the target expects of it; none: it was not asked.
    pub(super) looked: Option<Looked>,
    /// What became of the reviews that it was to be put up for.
    pub(super) reviewed: Option<ReviewsOpened>,
    /// How often it was.
    pub(super) rounds: u8,
    /// Since when it waits for room in the spool.
    pub(super) roomless: Option<Instant>,
}

/// The items of review that the control plane has, or why it does not have them all.
pub(super) type ReviewsOpened = Result<Vec<OpenedReview>, String>;

/// One that waits.
pub(super) struct Delayed {
    question: Question,
    until: Until,
    /// When it goes on at the latest.
    at: Instant,
    /// What may come before.
    answer: Answer,
}

/// What may come before its time is over.
enum Answer {
    None,
    Estimate(oneshot::Receiver<Looked>),
    Review(oneshot::Receiver<ReviewsOpened>),
    /// It is decided, and recorded.
    Recorded(Box<Recorded>),
}

/// What it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    /// Room in a rate.
    Turn,
    /// Room in the spool.
    Room,
    /// The catalog to be old enough to be read again.
    Doubt,
    /// The catalog that is being read.
    Catalog,
    /// What the target expects of it.
    Estimate,
    /// The control plane to have it down for review.
    Review,
    /// The control plane to have its record.
    Acknowledged,
}

impl Question {
    pub(super) fn new(pending: Box<Pending>, asked: Asked) -> Self {
        Self {
            pending,
            asked,
            decision: clock::decision_id(),
            operation: clock::operation_id(),
            looked: None,
            reviewed: None,
            rounds: 0,
            roomless: None,
        }
    }

    /// How many rows the target expects.
    pub(super) fn estimated_rows(&self) -> Option<u64> {
        self.looked.as_ref().and_then(Looked::rows)
    }
}

/// When the operation that waits, if one does, goes on. Cancel-safe.
pub(super) async fn over(delayed: Option<&mut Delayed>) {
    let Some(Delayed { question, at, answer, .. }) = delayed else { return std::future::pending().await };
    let came = async {
        match answer {
            Answer::None => std::future::pending().await,
            // Where its task is gone, nothing is known.
            Answer::Estimate(from) => question.looked = from.await.ok(),
            Answer::Review(from) => question.reviewed = from.await.ok(),
            Answer::Recorded(recorded) => recorded.known().await,
        }
    };
    tokio::select! {
        biased;
        () = came => {
            if !matches!(answer, Answer::Recorded(_)) {
                *answer = Answer::None;
            }
            *at = Instant::now();
        }
        () = tokio::time::sleep_until(*at) => {}
    }
}

impl Relay {
    /// Has the operation wait for its turn.
    pub(super) fn wait_for_turn(&mut self, question: Question, wait: Duration) {
        self.delayed = Some(Delayed { question, until: Until::Turn, at: Instant::now() + wait, answer: Answer::None });
    }

    /// Has the operation wait for room in the spool, and look again after so long.
    pub(super) fn wait_for_room(&mut self, question: Question, wait: Duration) {
        self.delayed = Some(Delayed { question, until: Until::Room, at: Instant::now() + wait, answer: Answer::None });
    }

    /// Has the operation wait for names, after so long.
    pub(super) fn wait_for_names(&mut self, question: Question, wait: Duration) {
        let until = Until::Doubt;
        self.delayed = Some(Delayed { question, until, at: Instant::now() + wait, answer: Answer::None });
    }

    /// Has the target asked what it expects of the operation. It goes on when that is known, or when it has taken too long.
    pub(super) fn wait_for_estimate(&mut self, question: Question) {
        let (to, answer) = oneshot::channel();
        let asked = self.planned(&question.pending);
        let estimator = self.shared.estimator.clone();
        let at = Instant::now() + estimator.limit() + MARGIN;
        self.shared.supervisor.spawn("estimate", OnEnd::EndSession, async move {
            let looked = estimator.look(asked).await;
            // The operation may have been given up meanwhile.
            let _ = to.send(looked);
        });
        self.delayed = Some(Delayed { question, until: Until::Estimate, at, answer: Answer::Estimate(answer) });
    }

    /// Has the operation wait until the control plane has it down for review.
    pub(super) fn wait_for_review(&mut self, question: Question, answer: oneshot::Receiver<ReviewsOpened>) {
        let at = Instant::now() + reviews::WAIT + MARGIN;
        self.delayed = Some(Delayed { question, until: Until::Review, at, answer: Answer::Review(answer) });
    }

    /// Has the operation wait until the control plane has its record.
    pub(super) fn wait_for_acknowledgement(&mut self, question: Question, recorded: Recorded) {
        let at = Instant::now() + self.shared.config.quorum_limit.0;
        self.delayed =
            Some(Delayed { question, until: Until::Acknowledged, at, answer: Answer::Recorded(Box::new(recorded)) });
    }

    /// The time of what waits is over.
    pub(super) async fn go_on(&mut self) -> Result<(), End> {
        let Some(Delayed { question, until, answer, .. }) = self.delayed.take() else { return Ok(()) };
        if let Answer::Recorded(recorded) = answer {
            return self.acknowledged(question, *recorded).await;
        }
        match until {
            Until::Turn | Until::Room => self.decide_in_turn(question).await,
            Until::Doubt => {
                let at = Instant::now() + self.read_names();
                self.delayed = Some(Delayed { question, until: Until::Catalog, at, answer: Answer::None });
                Ok(())
            }
            // It could not be read in time: names stay in doubt.
            Until::Catalog => self.decide_named(question).await,
            Until::Estimate => self.decide_looked(question).await,
            Until::Review => self.review_came(question).await,
            // Its record is its answer, above.
            Until::Acknowledged => Ok(()),
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
        let Some(Delayed { question, answer, .. }) = self.delayed.take() else { return Ok(false) };
        if let Answer::Recorded(_) = answer {
            self.not_cleared(question, &ErrorFields::error(Code::Cancelled, CANCELLED), Code::Cancelled).await?;
            return Ok(true);
        }
        self.undecided(question, Code::Cancelled, CANCELLED.to_owned(), None).await?;
        Ok(true)
    }

    /// The session ends while an operation waits: the recording has it already, and says that it did not run.
    pub(super) async fn abandon_delayed(&mut self) -> Result<(), End> {
        match self.delayed.take() {
            Some(Delayed { question, answer: Answer::Recorded(_), .. }) => {
                self.not_run(question.operation, Code::Cancelled).await
            }
            _ => Ok(()),
        }
    }

    /// The client wanted it cancelled before it was looked at.
    pub(super) async fn cancelled(&mut self, pending: Box<Pending>) -> Result<(), End> {
        let question = Question::new(pending, Asked::Run);
        self.undecided(question, Code::Cancelled, CANCELLED.to_owned(), None).await
    }
}
