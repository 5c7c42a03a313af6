//! A spool that has no room for another operation: it waits, and so does its session. What runs already is recorded to its end in the room that is kept for that.

use postern_core::Code;
use postern_protocols::postgres::errors::ErrorFields;
use tokio::time::{Duration, Instant};

use super::End;
use super::decide::Asked;
use super::delayed::Question;
use super::relay::Relay;
use crate::metrics;

/// How often it is looked whether there is room again.
const LOOK: Duration = Duration::from_millis(100);

const FULL: &str = "the recording spool is full";

impl Relay {
    /// The operation, if there is room to record it. Else it waits, or has waited for too long and is refused; the session goes on.
    pub(super) async fn in_room(&mut self, mut question: Question) -> Result<Option<Question>, End> {
        let limit = self.shared.config.spool_full_wait.0;
        // What is only prepared runs nothing. Without a wait the session ends where its operation is not recorded.
        if question.asked == Asked::Prepare || limit.is_zero() || self.recorder.has_room() {
            if let Some(since) = question.roomless.take() {
                metrics::recorder_held_back(since.elapsed());
            }
            return Ok(Some(question));
        }
        let since = *question.roomless.get_or_insert_with(Instant::now);
        let left = limit.saturating_sub(since.elapsed());
        if left.is_zero() {
            metrics::recorder_held_back(since.elapsed());
            metrics::recorder_refused();
            tracing::warn!(operation_id = %question.operation, session_id = %self.to.session, "not run: {FULL}");
            let hint = "The control plane does not take recordings as fast as they are made. Try again later.";
            self.undecided(question, Code::RecordingUnavailable, FULL.to_owned(), Some(hint.to_owned())).await?;
            return Ok(None);
        }
        if !std::mem::replace(&mut self.told_roomless, true) {
            ErrorFields::notice(format!("held back by Postern: {FULL}"))
                .with_detail(format!(
                    "It runs once there is room, or is refused after {} s. Cancel to withdraw it.",
                    limit.as_secs()
                ))
                .encode(&mut self.to_client);
        }
        self.wait_for_room(question, left.min(LOOK));
        Ok(None)
    }
}
