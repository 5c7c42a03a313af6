//! What a gateway that shuts down tells those who send clients to it.
//!
//! SIGTERM begins it ([`Supervisor::shutdown_token`]): readiness goes off at once, new connections are told to go elsewhere, agents to move
//! their tunnels, and sessions come to their ends ([`crate::session`]). Once the last has ended, or the limit is over, recordings are
//! brought to the control plane, and the node stops.

use std::time::Duration;

use postern_runtime::ops::Readiness;
use postern_runtime::supervisor::{OnEnd, Supervisor};

use crate::metrics;

/// How often a drain says how far it is.
const TELL: Duration = Duration::from_secs(60);

/// Is ready from here on, until shutdown begins; tells of the drain then.
pub(crate) async fn watch(readiness: Readiness, supervisor: Supervisor) {
    readiness.set("accepting", true);
    metrics::draining(false);
    let (begins, ended) = (supervisor.shutdown_token(), supervisor.sessions_ended_token());
    begins.cancelled().await;
    readiness.set("accepting", false);
    metrics::draining(true);
    while !ended.is_cancelled() {
        tracing::info!(sessions = supervisor.running(OnEnd::EndSession), "draining");
        tokio::select! {
            () = ended.cancelled() => {}
            () = tokio::time::sleep(TELL) => {}
        }
    }
}
