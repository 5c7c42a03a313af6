//! Accepts clients, as many as the limits say: beyond the connections of a second nobody gets so far as to be asked for a token.

use std::sync::Arc;
use std::time::Duration;

use postern_runtime::supervisor::OnEnd;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::limits::Handshakes;
use crate::metrics;
use crate::session::{self, Shared};

/// Clients past the limit that are told so at a time; more are only closed.
const TOLD: usize = 32;

/// Accepts until shutdown begins, and for a while then: who comes is told to go elsewhere, until whoever sends them has seen it.
pub(crate) async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let limits = &shared.limits;
    let handshakes = Handshakes::new(limits.max_handshakes, limits.max_handshakes_per_address);
    let porch = Arc::new(Semaphore::new(TOLD));
    let mut closes = std::pin::pin!(closes(&shared));
    loop {
        let accepted = tokio::select! {
            () = &mut closes => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, as a rule: ending sessions give some back.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let served = Arc::clone(&shared);
        match shared.limiter.connection() {
            Ok(()) => {
                let (handshake, pushed_out) = handshakes.begin(from.ip());
                if pushed_out {
                    metrics::handshake_pushed_out();
                }
                shared.supervisor.spawn("session", OnEnd::EndSession, async move {
                    Box::pin(session::serve(stream, from, served, handshake)).await;
                });
            }
            Err(exceeded) => {
                let Ok(place) = Arc::clone(&porch).try_acquire_owned() else { continue };
                shared.supervisor.spawn("refusal", OnEnd::EndSession, async move {
                    let _place = place;
                    Box::pin(session::refuse(stream, from, served, exceeded)).await;
                });
            }
        }
    }
}

/// Ends when the port is to be closed.
async fn closes(shared: &Shared) {
    shared.supervisor.shutdown_token().cancelled().await;
    let (ended, hurry) = (shared.supervisor.sessions_ended_token(), shared.supervisor.hurry_token());
    tokio::select! {
        () = tokio::time::sleep(shared.config.drain_notice.0) => {}
        () = ended.cancelled() => {}
        () = hurry.cancelled() => {}
    }
}
