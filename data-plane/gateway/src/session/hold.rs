//! A held operation: the client waits, reviewers decide (I7).

use std::fmt::Write as _;

use postern_core::approval::{Approval, ApprovalRequirement, ApprovalState, Review};
use postern_core::operation::Parameter;
use postern_core::policy::{Held, Verdict};
use postern_core::recording::Event;
use postern_core::{ApprovalId, Code, OperationId};
use postern_protocols::postgres::errors::{ErrorFields, client_message};
use postern_protocols::postgres::session::Pending;
use postern_runtime::clock;

use super::End;
use super::relay::Relay;
use crate::approvals::{Hold, HoldUpdate};

/// What reviewers are shown of parameters: how many, and how much of each.
const PARAMETERS: usize = 100;
const PARAMETER: usize = 1000;

/// The operation that waits.
pub(super) struct Waiting {
    pending: Box<Pending>,
    held: Held,
    hold: Hold,
}

impl Waiting {
    /// What happens next. Cancel-safe.
    pub(super) async fn next(&mut self) -> HoldUpdate {
        self.hold.next().await
    }

    fn ids(&self) -> (OperationId, ApprovalId) {
        (self.held.operation(), self.hold.id)
    }
}

impl Relay {
    /// Asks for a review of `pending`, whose decision is recorded.
    pub(super) async fn hold(&mut self, pending: Box<Pending>, held: Held) -> Result<(), End> {
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
        };
        tracing::info!(approval_id = %approval.id, "held for approval");
        let requirement = Some(held.requirement.clone());
        self.note_approval((held.operation(), approval.id), ApprovalState::Pending, requirement, Vec::new()).await?;
        let hold = self.shared.approvals.request(approval, held.waits);
        self.waiting = Some(Waiting { pending, held, hold });
        Ok(())
    }

    /// Takes in what happened to the held operation.
    pub(super) async fn hold_update(&mut self, update: HoldUpdate) -> Result<(), End> {
        let Some(waiting) = self.waiting.take() else { return Ok(()) };
        let ids = waiting.ids();
        match update {
            HoldUpdate::Requested { expires_at } => {
                let requirement = &waiting.held.requirement;
                let by = requirement.groups.join(" or ");
                let many =
                    if requirement.count > 1 { format!("{} members", requirement.count) } else { "a member".into() };
                let mut message = format!("held by Postern: waits for approval {} by {many} of {by}", ids.1);
                if !waiting.held.decision.reason.is_empty() {
                    // Writing to a String cannot fail.
                    let _ = write!(message, ": {}", waiting.held.decision.reason);
                }
                ErrorFields::notice(message)
                    .with_detail(format!("It expires at {expires_at}. Cancel to withdraw it."))
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
        let Some(waiting) = self.waiting.take() else { return Ok(()) };
        let denied = match waiting.pending.operation(waiting.held.operation(), self.to.session) {
            Err(_) => None,
            Ok(operation) => {
                let circumstances = self.circumstances_of(&waiting.pending);
                match self.slice.decide(&operation, clock::decision_id(), &circumstances) {
                    Verdict::Deny(denial) => Some(denial),
                    Verdict::Permit(..) | Verdict::Hold(_) => None,
                }
            }
        };
        match denied {
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
        waiting.hold.withdraw(because);
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
        hold.withdraw(because);
        self.note_approval(ids, ApprovalState::Withdrawn, None, Vec::new()).await?;
        self.not_run(ids.0, code).await?;
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

fn approval_event(
    (operation, approval): (OperationId, ApprovalId),
    state: ApprovalState,
    requirement: Option<ApprovalRequirement>,
    reviews: Vec<Review>,
) -> Event {
    Event::Approval { operation, approval, state, requirement, reviews }
}

/// Parameters as reviewers see them. The digest binds them whole, whatever is cut off here.
fn shown(parameters: &[Parameter]) -> Vec<String> {
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
