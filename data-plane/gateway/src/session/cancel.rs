//! Cancelling: what waits here, and what the target works at.

use std::time::Duration;

use bytes::Bytes;
use postern_core::recording::Event;
use postern_runtime::supervisor::OnEnd;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::End;
use super::relay::Relay;
use crate::upstream::{Destination, Dialer};

/// A request to cancel that hit nothing is repeated after so long, then after twice as long, and so on.
const AGAIN: Duration = Duration::from_millis(250);
const SELDOM: Duration = Duration::from_secs(2);
/// How long one request may take before the next is made.
const ONE_REQUEST: Duration = Duration::from_secs(2);
/// How long the target is asked for.
const STOPPING: Duration = Duration::from_secs(15);

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
        self.cancel_at_target();
        Ok(())
    }

    /// Asks the target to stop what it works at: once, as the client did, whose next statement must not be hit.
    fn cancel_at_target(&self) {
        let (dialer, to, (pid, secret)) = (self.shared.dialer.clone(), self.to.clone(), self.server_key.clone());
        // On a connection of its own, so that the relay goes on.
        self.shared.supervisor.spawn("cancel", OnEnd::EndSession, async move {
            if let Err(error) = dialer.cancel(&to, pid, &secret).await {
                tracing::warn!(session_id = %to.session, %error, "the target could not be asked to cancel");
            }
        });
    }
}

/// What a session had under way that it has lost the right to, to be stopped at the target once nothing more of the session goes there.
pub(super) struct Stop {
    dialer: Dialer,
    to: Destination,
    key: (u32, Bytes),
}

impl Stop {
    pub(super) fn of(relay: &Relay) -> Self {
        Self { dialer: relay.shared.dialer.clone(), to: relay.to.clone(), key: relay.server_key.clone() }
    }

    /// Asks until the target has closed the session, whose writing side is shut: a server that had not begun the statement yet, or was working off a pipeline,
    /// passes over a request to cancel, and a request may be lost as any connection may. What comes meanwhile is read and forgotten.
    pub(super) async fn until_closed(self, target: &mut (impl AsyncRead + Unpin)) {
        let stopped = async {
            // Once in any case: what stands between may close its side as soon as the other is shut.
            self.ask().await;
            let repeated = async {
                let mut pause = AGAIN;
                loop {
                    tokio::time::sleep(pause).await;
                    self.ask().await;
                    pause = pause.saturating_mul(2).min(SELDOM);
                }
            };
            let closed = async {
                let mut rest = [0; 4 << 10];
                while target.read(&mut rest).await.is_ok_and(|size| size > 0) {}
            };
            tokio::select! {
                () = repeated => {}
                () = closed => {}
            }
        };
        if tokio::time::timeout(STOPPING, stopped).await.is_err() {
            tracing::warn!("the target was asked to cancel, again and again, and does not close the session");
        }
    }

    async fn ask(&self) {
        let (pid, secret) = &self.key;
        match tokio::time::timeout(ONE_REQUEST, self.dialer.cancel(&self.to, *pid, secret)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the target could not be asked to cancel"),
            Err(_) => tracing::warn!("the target takes no request to cancel"),
        }
    }
}
