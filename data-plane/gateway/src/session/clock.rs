//! Operations that policy ends early: those that run for too long, by the gateway's clock whatever the target's settings say, and those of which more rows
//! come than may leave. The target is asked to cancel; what does not obey soon costs the session.

use std::time::Duration;

use postern_core::{Code, OperationId};
use postern_runtime::supervisor::OnEnd;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::End;
use super::relay::{FAR, Relay};

/// How long the target may take to stop what it was asked to.
const GRACE: Duration = Duration::from_secs(10);

/// When what the target works at is over.
#[derive(Debug)]
pub(super) struct Clock {
    operation: Option<OperationId>,
    pub(super) at: Instant,
    /// The target was asked to stop it.
    asked: bool,
}

/// A request to cancel that is on its way.
pub(super) type Cancelling = oneshot::Receiver<()>;

impl Default for Clock {
    fn default() -> Self {
        Self { operation: None, at: Instant::now() + FAR, asked: false }
    }
}

impl Clock {
    /// Whether anything is to end at [`Clock::at`].
    pub(super) const fn runs(&self) -> bool {
        self.operation.is_some() || self.asked
    }

    /// Ends at that time. Asked only while it runs: a timer is not made for each wait. Cancel-safe.
    pub(super) async fn over(&self) {
        tokio::time::sleep_until(self.at).await;
    }
}

/// It has reached the target, or cannot. Cancel-safe.
pub(super) async fn reached(cancelling: &mut Option<Cancelling>) {
    match cancelling {
        // Its task is gone: it is over as well.
        Some(cancelling) => drop(cancelling.await),
        None => std::future::pending().await,
    }
}

impl Relay {
    /// After something has moved: what the target works at now may have another time.
    pub(super) fn watch_clock(&mut self) {
        if self.session.wants_cancel() {
            let operation = self.session.current_operation();
            self.clock = Clock { operation, at: Instant::now() + GRACE, asked: true };
            self.end_at_target();
        }
        if self.clock.asked && self.session.current_operation() == self.clock.operation {
            return;
        }
        match self.session.clocked() {
            Some((operation, _)) if self.clock.operation == Some(operation) => {}
            Some((operation, time)) => {
                let at = Instant::now() + time.duration();
                self.clock = Clock { operation: Some(operation), at, asked: false };
            }
            None if self.clock.operation.is_some() => self.clock = Clock::default(),
            None => {}
        }
    }

    /// The time is over. Some when the target was asked before, and did not stop.
    pub(super) fn over_time(&mut self) -> Option<End> {
        let operation = self.clock.operation?;
        if self.clock.asked {
            let message = "policy has ended the statement, and the target does not stop it";
            return Some(End::fatal(Code::Cancelled, message));
        }
        if self.session.expire(operation) {
            tracing::info!(operation_id = %operation, "ended: it has run for as long as policy lets it");
            self.clock = Clock { operation: Some(operation), at: Instant::now() + GRACE, asked: true };
            self.end_at_target();
        } else {
            self.clock = Clock::default();
        }
        None
    }

    /// Asks the target to stop. Nothing more is forwarded until it has been told, or else what comes next would be hit.
    fn end_at_target(&mut self) {
        let (dialer, to, (pid, secret)) = (self.shared.dialer.clone(), self.to.clone(), self.server_key.clone());
        let (told, cancelling) = oneshot::channel();
        self.cancelling = Some(cancelling);
        self.shared.supervisor.spawn("cancel", OnEnd::EndSession, async move {
            if let Err(error) = dialer.cancel(&to, pid, &secret).await {
                tracing::warn!(session_id = %to.session, %error, "the target could not be asked to cancel");
            }
            // The session may have ended meanwhile.
            let _ = told.send(());
        });
    }
}
