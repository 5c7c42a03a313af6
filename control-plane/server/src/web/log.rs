//! The head of the log of recordings, for whoever keeps it.

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::routing::get;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};

use super::{Parts, pages};
use crate::recordings::log::{Heads, LogBook};

pub(super) fn routes(parts: &Parts) -> Router {
    Router::new()
        .route("/log/checkpoint", get(checkpoint))
        .route("/log/witnessed", get(witnessed))
        .route("/log/key", get(key))
        .with_state(parts.book.clone())
}

/// C2SP's tlog-checkpoint.
async fn checkpoint(State(book): State<LogBook>) -> Response<Body> {
    told(book.head(Heads::All).map(|(checkpoint, ..)| checkpoint.to_string()).ok())
}

/// The same, of those that witnesses have signed.
async fn witnessed(State(book): State<LogBook>) -> Response<Body> {
    told(book.head(Heads::Witnessed).map(|(checkpoint, ..)| checkpoint.to_string()).ok())
}

async fn key(State(book): State<LogBook>) -> Response<Body> {
    told(book.head(Heads::All).map(|(_, key, _)| format!("{key}\n")).ok())
}

fn told(text: Option<String>) -> Response<Body> {
    let Some(text) = text else {
        return pages::message(StatusCode::SERVICE_UNAVAILABLE, "No head of the log of recordings is signed yet.");
    };
    let mut answer = Response::new(Body::from(text));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}
