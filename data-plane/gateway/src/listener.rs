//! Accepts clients: everybody, and whoever dawdles before the token makes room for those who come after.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use postern_runtime::supervisor::OnEnd;
use tokio::net::{TcpListener, TcpStream};

use crate::limits::Handshakes;
use crate::metrics;
use crate::session::{self, Shared};

/// Accepts until shutdown begins, and for a while then: who comes is told to go elsewhere, until whoever sends them has seen it.
pub(crate) async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let limits = &shared.limits;
    let handshakes = Handshakes::new(limits.max_handshakes, limits.max_handshakes_per_address);
    let mut closes = std::pin::pin!(closes(&shared));
    loop {
        let accepted = tokio::select! {
            () = &mut closes => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, from)) => {
                // Its session's thread has an event loop of its own.
                if let Ok(stream) = stream.into_std() {
                    serve(stream, from, &shared, &handshakes);
                }
            }
            Err(error) => {
                // Out of descriptors, as a rule: ending sessions give some back.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    // Whom the system has let in already would else see a connection that breaks without a word, and libpq then does not try its next host.
    let Ok(listener) = listener.into_std() else { return };
    while let Ok((stream, from)) = listener.accept() {
        if stream.set_nonblocking(true).is_ok() {
            serve(stream, from, &shared, &handshakes);
        }
    }
}

fn serve(stream: std::net::TcpStream, from: SocketAddr, shared: &Arc<Shared>, handshakes: &Handshakes) {
    let (handshake, pushed_out) = handshakes.begin(from.ip());
    if pushed_out {
        metrics::handshake_pushed_out();
    }
    let served = Arc::clone(shared);
    shared.workers.spawn(&shared.supervisor, "session", OnEnd::EndSession, async move {
        match TcpStream::from_std(stream) {
            Ok(stream) => Box::pin(session::serve(stream, from, served, handshake)).await,
            Err(error) => tracing::warn!(%error, "cannot watch a connection"),
        }
    });
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
