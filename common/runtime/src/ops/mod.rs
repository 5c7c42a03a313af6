//! What operators and orchestrators ask each role over HTTP: `/healthz`, `/readyz`, `/metrics`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::telemetry::MetricsHandle;

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
    let state = Arc::new(Ops { metrics, readiness, shutdown: shutdown.clone() });
    let app = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(render))
        .with_state(state);
    if let Err(error) = axum::serve(listener, app).with_graceful_shutdown(shutdown.cancelled_owned()).await {
        tracing::error!(%error, "the operations endpoint ended");
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
