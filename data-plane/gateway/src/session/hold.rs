//! A held operation: the client waits, reviewers decide (I7).

use std::borrow::Cow;
use std::fmt::Write as _;

use bytes::BytesMut;
use postern_core::approval::{Approval, ApprovalRequirement, ApprovalState, Review};
use postern_core::background::{Background, Ending, MAX_BACKGROUND};
use postern_core::operation::Parameter;
use postern_core::policy::{Held, Verdict};
use postern_core::recording::Event;
use postern_core::{ApprovalId, Code, OperationId, Timestamp};
use postern_protocols::postgres::analyze::Values;
use postern_protocols::postgres::codec::{self, Origin, backend, write};
use postern_protocols::postgres::errors::{ErrorFields, client_message};
use postern_protocols::postgres::session::Pending;
use postern_runtime::clock;
use tokio::time::Instant;

use super::End;
use super::relay::Relay;
use crate::approvals::{Hold, HoldUpdate};
use crate::estimate::{IdleLimits, Looked, Question};

/// What reviewers are shown of parameters: how many, and how much of each.
const PARAMETERS: usize = 100;
const PARAMETER: usize = 1000;

/// What any target says of itself at the login, and never again: said twice, no client notices.
const CONSTANT: (&str, &str) = ("integer_datetimes", "on");

/// The operation that waits.
pub(super) struct Waiting {
    pending: Box<Pending>,
    held: Held,
    hold: Hold,
    /// When the client is next sent something; never, where the configuration says so.
    beat: Option<Instant>,
    /// What the target ended the session by.
    lost: Option<String>,
    /// How many rows the target expects, where policy asked.
    estimated_rows: Option<u64>,
}

/// What happens to the operation that waits.
#[derive(Debug)]
pub(super) enum Next {
    Update(HoldUpdate),
    Beat,
}

impl Waiting {
    /// What happens next. Cancel-safe.
    pub(super) async fn next(&mut self) -> Next {
        let beat = async {
            match self.beat {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            update = self.hold.next() => Next::Update(update),
            () = beat => Next::Beat,
        }
    }

    fn ids(&self) -> (OperationId, ApprovalId) {
        (self.held.operation(), self.hold.id)
    }
}

impl Relay {
    /// Asks for a review of `pending`, whose decision is recorded.
    pub(super) async fn hold(&mut self, pending: Box<Pending>, held: Held, looked: Option<Looked>) -> Result<(), End> {
        let now = clock::now();
        let approval = Approval {
            id: clock::approval_id(),
            state: ApprovalState::Pending,
            requester: self.principal.clone(),
            target: self.to.name.clone(),
            session: self.to.session,
            operation: held.operation(),
            digest: held.digest(),
            // Classified, so it is UTF-8.
            text: std::str::from_utf8(pending.text()).unwrap_or_default().to_owned(),
            parameters: shown(pending.parameters()),
            actions: pending.actions().unwrap_or_default().iter().map(ToString::to_string).collect(),
            policies: held.decision.policies.iter().map(ToString::to_string).collect(),
            reason: held.decision.reason.clone(),
            requirement: held.requirement.clone(),
            reviews: Vec::new(),
            requested_at: now,
            expires_at: now.plus(held.requirement.expires.duration()),
            revision: 0,
            withdrawn_because: String::new(),
            background: None,
        };
        let estimated_rows = looked.as_ref().and_then(Looked::rows);
        let look = self.look(&pending, held.operation(), looked);
        tracing::info!(approval_id = %approval.id, "held for approval");
        let requirement = Some(held.requirement.clone());
        self.note_approval((held.operation(), approval.id), ApprovalState::Pending, requirement, Vec::new()).await?;
        let hold = self.shared.approvals.request(approval, held.waits, look);
        self.waiting = Some(Waiting { pending, held, hold, beat: self.next_beat(), lost: None, estimated_rows });
        Ok(())
    }

    /// What reviewers are told beside the operation: what is known at once, and what the target says within a moment.
    fn look(
        &self,
        pending: &Pending,
        operation: OperationId,
        looked: Option<Looked>,
    ) -> impl Future<Output = Background> + Send + 'static {
        let masked = match self.feed.borrow().fresh(self.shared.config.staleness_limit.0) {
            Some((current, _)) => current.snapshot.masks_anybody(&self.to.name),
            None => true,
        };
        let (past, earlier) = self.history.shown(operation, masked);
        let Values { relations, values } = self.session.values(pending);
        let transaction_since = self.history.transaction_since();
        let idle_since = self.session.target_is_idle().then(|| self.history.idle_since());
        let own_limits = self.history.sets_limits();
        let estimator = self.shared.estimator.clone();
        let question = self.planned(pending);
        async move {
            let looked = match looked {
                Some(looked) => looked,
                None => estimator.look(question).await,
            };
            let Looked { estimate, limits } = looked;
            let ends = limits.filter(|_| !own_limits).and_then(|limits| ending(limits, idle_since, transaction_since));
            let mut told =
                Background { estimate: Some(estimate), transaction_since, ends, past, earlier, relations, values };
            if told.weight() > MAX_BACKGROUND {
                // Names as long as names can be. Of what is told least is missed of this; and what values are set against may then be anything.
                told.past = Vec::new();
                told.relations = Vec::new();
                for value in &mut told.values {
                    value.columns = vec!["*".into()];
                }
            }
            told
        }
    }

    /// What the target is asked of `pending`.
    pub(super) fn planned(&self, pending: &Pending) -> Question {
        Question {
            of: self.to.clone(),
            text: pending.text().clone(),
            parameters: pending.parameters().to_vec(),
            plannable: self.session.plannable(pending),
        }
    }

    fn next_beat(&self) -> Option<Instant> {
        let every = self.shared.config.hold_keep_alive.0;
        (self.says_constant && !every.is_zero()).then(|| Instant::now() + every)
    }

    /// Has the client's connection not be silent for longer: what lies between would forget it.
    pub(super) fn beat(&mut self) {
        // In the middle of other answers there is no silence.
        if self.session.current_operation().is_none() && self.to_client.is_empty() {
            write::parameter_status(&mut self.to_client, CONSTANT.0, CONSTANT.1);
        }
        let next = self.next_beat();
        if let Some(waiting) = &mut self.waiting {
            waiting.beat = next;
        }
    }

    /// Whether [`CONSTANT`] can be said again.
    pub(super) fn said_constant(parameters: &[(String, String)]) -> bool {
        parameters.iter().any(|(name, value)| (name.as_str(), value.as_str()) == CONSTANT)
    }

    /// The target has said something that goes to the client, from `length` on. While an operation is held and nothing else is under way, that an error
    /// comes means that the target ends the session: the client is told what becomes of the held operation, before the target's own words.
    pub(super) fn note_target_ends(&mut self, length: usize, was_idle: bool) {
        let Some(waiting) = self.waiting.as_mut().filter(|_| was_idle) else { return };
        let Some(said) = self.to_client.get(length..).filter(|said| said.first() == Some(&backend::ERROR)) else {
            return;
        };
        let limits = codec::Limits::default();
        let frame = codec::next_frame(&mut BytesMut::from(said), Origin::Backend, &limits).ok().flatten();
        let fields = frame.and_then(|frame| backend::message_fields(&frame).ok()).unwrap_or_default();
        let sqlstate = backend::field(&fields, b'C');
        let why = match sqlstate {
            "25P03" => "the target ended the session by idle_in_transaction_session_timeout".to_owned(),
            "57P05" => "the target ended the session by idle_session_timeout".to_owned(),
            "25P04" => "the target ended the session by transaction_timeout".to_owned(),
            other => format!("the target ended the session ({other})"),
        };
        let mut notice = BytesMut::new();
        let message = format!("approval {} is withdrawn: {why}; nothing has run", waiting.hold.id);
        ErrorFields::notice(message).encode(&mut notice);
        waiting.lost = Some(why);
        notice.extend_from_slice(said);
        self.to_client.truncate(length);
        self.to_client.extend_from_slice(&notice);
    }

    /// Takes in what happened to the held operation.
    pub(super) async fn hold_update(&mut self, update: HoldUpdate) -> Result<(), End> {
        let Some(waiting) = self.waiting.take() else { return Ok(()) };
        let ids = waiting.ids();
        match update {
            HoldUpdate::Requested { expires_at, ends } => {
                let requirement = &waiting.held.requirement;
                let by = requirement.groups.join(" or ");
                let many =
                    if requirement.count > 1 { format!("{} members", requirement.count) } else { "a member".into() };
                let mut message = format!("held by Postern: waits for approval {} by {many} of {by}", ids.1);
                if !waiting.held.decision.reason.is_empty() {
                    // Writing to a String cannot fail.
                    let _ = write!(message, ": {}", waiting.held.decision.reason);
                }
                let ends = ends.map(|Ending { at, setting }| {
                    let what = if setting == "idle_session_timeout" { "session" } else { "transaction" };
                    format!(" The target ends this {what} at {at} ({setting}).")
                });
                let ends = ends.unwrap_or_default();
                ErrorFields::notice(message)
                    .with_detail(format!("It expires at {expires_at}.{ends} Cancel to withdraw it."))
                    .encode(&mut self.to_client);
                self.waiting = Some(waiting);
                Ok(())
            }
            HoldUpdate::Granted { consumed, reviews } => {
                tracing::info!(operation_id = %ids.0, approval_id = %ids.1, "approved");
                let Waiting { pending, held, .. } = waiting;
                match held.release(consumed) {
                    Ok(permit) => {
                        let event = approval_event(ids, ApprovalState::Consumed, None, reviews);
                        self.forward(pending, permit, &event).await
                    }
                    // The control plane answered with another operation's approval.
                    Err(error) => {
                        tracing::error!(operation_id = %ids.0, approval_id = %ids.1, %error, "approval not taken");
                        self.not_run(ids.0, Code::Internal).await?;
                        self.refuse(pending, &ErrorFields::of(Code::Internal));
                        Ok(())
                    }
                }
            }
            HoldUpdate::Refused { state, reviews } => {
                let code = match state {
                    ApprovalState::Denied => Code::ApprovalDenied,
                    ApprovalState::Withdrawn => Code::Cancelled,
                    _ => Code::ApprovalExpired,
                };
                let comment = reviews.iter().rev().map(|review| review.comment.as_str()).find(|c| !c.is_empty());
                let because = match (code, comment) {
                    (Code::ApprovalDenied, Some(comment)) => format!(": {comment}"),
                    _ => String::new(),
                };
                let message = format!("{}{because} (approval {})", client_message(code), ids.1);
                self.not_released(waiting, state, reviews, code, message).await
            }
            HoldUpdate::Unavailable => {
                let code = Code::ControlPlaneUnavailable;
                let message = format!("{} (approval {})", client_message(code), ids.1);
                self.not_released(waiting, ApprovalState::Withdrawn, Vec::new(), code, message).await
            }
        }
    }

    /// The client wants the held operation cancelled. False when none is held.
    pub(super) async fn cancel_held(&mut self) -> Result<bool, End> {
        let Some(waiting) = self.waiting.take() else { return Ok(false) };
        let message = "canceling statement due to user request".to_owned();
        self.give_up(waiting, "the client cancelled", Code::Cancelled, message).await?;
        Ok(true)
    }

    /// Policy changed, or became too old, while an operation waits: what is denied now is not released later.
    pub(super) async fn recheck_held(&mut self) -> Result<(), End> {
        let Some(mut waiting) = self.waiting.take() else { return Ok(()) };
        let denied = match waiting.pending.operation(waiting.held.operation(), self.to.session) {
            Err(_) => None,
            Ok(operation) => {
                let circumstances = self.circumstances_of(&waiting.pending).estimated(waiting.estimated_rows);
                match self.slice.decide(&operation, clock::decision_id(), &circumstances) {
                    Verdict::Deny(denial) => Some(denial),
                    Verdict::Permit(permit, _) => {
                        waiting.held.oblige(permit.into_obliged());
                        None
                    }
                    Verdict::Hold(held) => {
                        waiting.held.oblige(held.obliged().clone());
                        None
                    }
                }
            }
        };
        match denied {
            // It was asked for while the operation waited: a grant would find it without.
            None if !self.reviews.missing(waiting.held.obliged()).is_empty() => {
                let message = "policy asks now for a review afterwards: run it again".to_owned();
                self.give_up(waiting, "policy asks for a review of it now", Code::Denied, message).await?;
            }
            None => self.waiting = Some(waiting),
            Some(denial) => {
                let message = denial.client_message();
                self.give_up(waiting, "policy denies it now", denial.code, message).await?;
            }
        }
        Ok(())
    }

    /// The session ends while an operation waits.
    pub(super) async fn abandon_held(&mut self, because: &'static str) -> Result<(), End> {
        let Some(waiting) = self.waiting.take() else { return Ok(()) };
        let ids = waiting.ids();
        waiting.hold.withdraw(waiting.lost.map_or(Cow::Borrowed(because), Cow::Owned));
        self.note_approval(ids, ApprovalState::Withdrawn, None, Vec::new()).await?;
        self.not_run(ids.0, Code::Cancelled).await
    }

    async fn give_up(
        &mut self,
        waiting: Waiting,
        because: &'static str,
        code: Code,
        message: String,
    ) -> Result<(), End> {
        let ids = waiting.ids();
        tracing::info!(operation_id = %ids.0, approval_id = %ids.1, because, "withdrawn");
        let Waiting { pending, hold, .. } = waiting;
        hold.withdraw(Cow::Borrowed(because));
        self.note_approval(ids, ApprovalState::Withdrawn, None, Vec::new()).await?;
        self.not_run(ids.0, code).await?;
        self.history.decided(ids.0, pending.text(), Some(code));
        self.refuse(pending, &ErrorFields::error(code, message));
        Ok(())
    }

    async fn not_released(
        &mut self,
        waiting: Waiting,
        state: ApprovalState,
        reviews: Vec<Review>,
        code: Code,
        message: String,
    ) -> Result<(), End> {
        let ids = waiting.ids();
        tracing::info!(operation_id = %ids.0, approval_id = %ids.1, state = state.as_str(), "not released");
        self.note_approval(ids, state, None, reviews).await?;
        self.not_run(ids.0, code).await?;
        self.history.decided(ids.0, waiting.pending.text(), Some(code));
        self.refuse(waiting.pending, &ErrorFields::error(code, message));
        Ok(())
    }

    async fn note_approval(
        &mut self,
        ids: (OperationId, ApprovalId),
        state: ApprovalState,
        requirement: Option<ApprovalRequirement>,
        reviews: Vec<Review>,
    ) -> Result<(), End> {
        Ok(self.recorder.append(&approval_event(ids, state, requirement, reviews)).await?)
    }
}

/// When the target ends the transaction or the session, if nothing comes before: idle since, and in a transaction since.
fn ending(limits: IdleLimits, idle: Option<Timestamp>, transaction: Option<Timestamp>) -> Option<Ending> {
    let end = |since: Option<Timestamp>, limit: Option<std::time::Duration>, setting: &str| {
        since.zip(limit).map(|(since, limit)| Ending { at: since.plus(limit), setting: setting.to_owned() })
    };
    let whole = end(transaction, limits.transaction, "transaction_timeout");
    let idle = match transaction {
        Some(_) => end(idle, limits.in_transaction, "idle_in_transaction_session_timeout"),
        None => end(idle, limits.session, "idle_session_timeout"),
    };
    whole.into_iter().chain(idle).min_by_key(|ending| ending.at)
}

fn approval_event(
    (operation, approval): (OperationId, ApprovalId),
    state: ApprovalState,
    requirement: Option<ApprovalRequirement>,
    reviews: Vec<Review>,
) -> Event {
    Event::Approval { operation, approval, state, requirement, reviews }
}

/// Parameters as reviewers see them. The digest binds them whole, whatever is cut off here.
pub(super) fn shown(parameters: &[Parameter]) -> Vec<String> {
    let one = |parameter: &Parameter| match &parameter.value {
        None => "NULL".to_owned(),
        Some(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) if !parameter.binary && text.len() <= PARAMETER => text.to_owned(),
            Ok(text) if !parameter.binary => {
                let start: String = text.chars().take(PARAMETER).collect();
                format!("{start}… ({} bytes)", bytes.len())
            }
            _ => {
                let hex = bytes.iter().take(PARAMETER / 2).fold(String::from("\\x"), |mut hex, byte| {
                    let _ = write!(hex, "{byte:02x}");
                    hex
                });
                if bytes.len() > PARAMETER / 2 { format!("{hex}… ({} bytes)", bytes.len()) } else { hex }
            }
        },
    };
    let mut all: Vec<String> = parameters.iter().take(PARAMETERS).map(one).collect();
    if let Some(more) = parameters.len().checked_sub(PARAMETERS).filter(|more| *more > 0) {
        all.push(format!("… and {more} more"));
    }
    all
}
