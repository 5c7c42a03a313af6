//! What operators and orchestrators ask each role over HTTP: `/healthz`, `/readyz`, `/metrics`.

mod bounded;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::bounded::Bounded;
use crate::telemetry::MetricsHandle;

/// How long requests may go on after shutdown has begun.
const GRACE: Duration = Duration::from_secs(1);
/// How often histograms are folded in on a node that nobody scrapes (I11).
const UPKEEP: Duration = Duration::from_secs(30);

/// Which parts of a role are ready to serve. Cheap to clone; a role with no part set yet is not ready.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<&'static str, bool>>>);

impl Readiness {
    /// With these parts, none of them ready.
    #[must_use]
    pub fn new(components: &[&'static str]) -> Self {
        Self(Arc::new(Mutex::new(components.iter().map(|component| (*component, false)).collect())))
    }

    /// States whether a part is ready.
    pub fn set(&self, component: &'static str, ready: bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(component, ready);
    }

    /// Whether every part is.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        !parts.is_empty() && parts.values().all(|ready| *ready)
    }

    /// A line per part, for people.
    fn report(&self) -> String {
        let mut text = String::new();
        for (component, ready) in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{component}: {}", if *ready { "ready" } else { "not ready" });
        }
        text
    }
}

/// Serves until `shutdown`. `/healthz` answers while the process runs; `/readyz` answers 503 until every part is ready, and again
/// once shutdown has begun.
pub async fn serve(listener: TcpListener, metrics: MetricsHandle, readiness: Readiness, shutdown: CancellationToken) {
    let upkeep = upkeep(metrics.clone());
    let state = Arc::new(Ops { metrics, readiness, shutdown: shutdown.clone() });
    let app = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(render))
        .with_state(state);
    let served = axum::serve(Bounded::new(listener), app).with_graceful_shutdown(shutdown.clone().cancelled_owned());
    let overdue = async {
        shutdown.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        ended = served => if let Err(error) = ended {
            tracing::error!(%error, "the operations endpoint ended");
        },
        // A peer in the middle of a request does not hold the node's end up.
        () = overdue => {}
        never = upkeep => match never {},
    }
}

async fn upkeep(metrics: MetricsHandle) -> std::convert::Infallible {
    loop {
        tokio::time::sleep(UPKEEP).await;
        metrics.run_upkeep();
    }
}

struct Ops {
    metrics: MetricsHandle,
    readiness: Readiness,
    shutdown: CancellationToken,
}

async fn readyz(State(ops): State<Arc<Ops>>) -> impl IntoResponse {
    if ops.shutdown.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n".to_owned());
    }
    let status = if ops.readiness.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, ops.readiness.report())
}

async fn render(State(ops): State<Arc<Ops>>) -> impl IntoResponse {
    // Prometheus text exposition format 0.0.4.
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], ops.metrics.render())
}

#[cfg(test)]
mod tests;
