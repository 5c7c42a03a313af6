//! Cancelling: what waits here, and what the target works at.

use std::time::Duration;

use postern_core::recording::Event;
use postern_runtime::supervisor::OnEnd;

use super::End;
use super::relay::Relay;

impl Relay {
    /// A client wants cancelled what its session does.
    pub(super) async fn cancel(&mut self, from: std::net::SocketAddr) -> Result<(), End> {
        let at_gate = self.awaits_names() && !self.from_client.is_empty();
        if self.waiting.is_none() && self.delayed.is_none() && self.session.current_operation().is_none() && !at_gate {
            return Ok(());
        }
        tracing::info!(%from, "cancel requested");
        self.recorder.append(&Event::CancelRequested { client_address: from.to_string() }).await?;
        if at_gate {
            self.cancel_at_gate();
            return Ok(());
        }
        if self.cancel_held().await? {
            return Ok(());
        }
        if self.session.current_operation().is_none() && self.cancel_delayed().await? {
            return Ok(());
        }
        self.cancel_at_target(Duration::ZERO);
        Ok(())
    }

    /// Asks the target to stop what it works at, after so long.
    pub(super) fn cancel_at_target(&self, after: Duration) {
        let (dialer, to, (pid, secret)) = (self.shared.dialer.clone(), self.to.clone(), self.server_key.clone());
        // On a connection of its own, so that the relay goes on.
        self.shared.supervisor.spawn("cancel", OnEnd::EndSession, async move {
            tokio::time::sleep(after).await;
            if let Err(error) = dialer.cancel(&to, pid, &secret).await {
                tracing::warn!(session_id = %to.session, %error, "the target could not be asked to cancel");
            }
        });
    }
}
