//! What browsers and clients that know no gRPC reach: HTTPS by a listener of its own, bounded in every way.
//!
//! Acceptor task -> one task per connection: handshake, HTTP/1.1, its end. A part of it is a module that gives its routes; all of them share the
//! limits and the headers that are set here. There are no cookies.

mod config;
mod listener;
mod log;
mod oauth;
mod pages;
mod saml;

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{Next, from_fn};
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderName, REFERRER_POLICY, STRICT_TRANSPORT_SECURITY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{HeaderValue, Request, Response, StatusCode};

use crate::api::{AuditLog, TokenDesk};
use crate::identity::saml::SamlLogins;
use crate::recordings::log::LogBook;
use crate::run::PolicyWatch;

pub use config::WebConfig;
pub(crate) use listener::Listener;
pub use listener::WebError;
pub use oauth::FormProbe;

/// Bytes of one request's body: a response of an identity provider as a form, base64 and percent-encoded.
const MAX_BODY: usize = 512 << 10;
/// How long one request may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// Nothing is loaded, nothing frames it, nothing is sent anywhere; a page that needs more says so.
const POLICY: HeaderValue =
    HeaderValue::from_static("default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'");

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientAddress(pub(crate) SocketAddr);

/// What the parts serve from.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) saml: SamlLogins,
    pub(crate) audit: AuditLog,
    pub(crate) desk: TokenDesk,
    pub(crate) policy: PolicyWatch,
    pub(crate) book: LogBook,
}

/// Every route. A part that is added is merged here.
fn routes(parts: &Parts, url: &str) -> Router {
    Router::new()
        .merge(saml::routes(parts))
        .merge(oauth::routes(parts, url))
        .merge(log::routes(parts))
        .fallback(async || pages::message(StatusCode::NOT_FOUND, "There is nothing here."))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn(within_limits))
}

async fn within_limits(request: Request<Body>, next: Next) -> Response<Body> {
    let answer = tokio::time::timeout(ANSWER_LIMIT, next.run(request)).await;
    let late = || pages::message(StatusCode::SERVICE_UNAVAILABLE, "This takes too long. Try again.");
    let mut answer = answer.unwrap_or_else(|_| late());
    let headers = answer.headers_mut();
    headers.entry(CONTENT_SECURITY_POLICY).or_insert(POLICY);
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    for (name, value) in [
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (STRICT_TRANSPORT_SECURITY, "max-age=31536000"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    answer
}
