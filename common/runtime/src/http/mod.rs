//! A small HTTP client for discovery documents and keys: bounded in size and time, no redirects.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::header::{ACCEPT, CACHE_CONTROL, HeaderMap, USER_AGENT};
use hyper::{Request, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use crate::tls::{self, TlsError};

/// A document could not be fetched. The URL is the caller's to tell.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Not an absolute URL.
    #[error("not an absolute http or https URL")]
    Url,
    /// Clear text is for this machine only.
    #[error("plain http is accepted for loopback addresses only; use https")]
    Insecure,
    /// The TLS configuration cannot be made.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// No connection, or it broke.
    #[error("the request failed: {0}")]
    Transport(String),
    /// Any status but 200. Redirects are not followed: they would lead the trust elsewhere.
    #[error("the server answered {0}")]
    Status(StatusCode),
    /// More bytes than the caller admits.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    /// Not done in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// Not JSON.
    #[error("the answer is not JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// A document as it was fetched.
#[derive(Debug)]
pub struct Fetched {
    /// What it says.
    pub document: serde_json::Value,
    /// For how long the server says that it may be kept (RFC 9111, section 5.2.2): zero when it must not be, `None` when it says nothing.
    pub keep: Option<Duration>,
}

/// Fetches JSON over HTTPS, or over HTTP from this machine. Cheap to clone; connections are reused.
#[derive(Clone)]
pub struct HttpClient {
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
}

impl HttpClient {
    /// Trusts the public authorities; with `ca_pem`, that authority instead.
    ///
    /// # Errors
    /// The authority is not usable.
    pub fn new(ca_pem: Option<&str>) -> Result<Self, HttpError> {
        let builder = HttpsConnectorBuilder::new();
        let builder = match ca_pem {
            Some(ca_pem) => builder.with_tls_config(tls::client_with_ca(ca_pem, &[])?),
            None => builder.with_provider_and_webpki_roots(tls::provider()).map_err(TlsError::Rustls)?,
        };
        let connector = builder.https_or_http().enable_http1().build();
        Ok(Self { client: Client::builder(TokioExecutor::new()).pool_max_idle_per_host(1).build(connector) })
    }

    /// The JSON document at `url`, of at most `limit_bytes`; `timeout` is for the whole of it.
    ///
    /// # Errors
    /// Whatever keeps a whole document from being there in time.
    pub async fn get_json(&self, url: &str, limit_bytes: usize, timeout: Duration) -> Result<Fetched, HttpError> {
        let uri = checked(url)?;
        let (body, keep) = tokio::time::timeout(timeout, self.get(uri, limit_bytes))
            .await
            .map_err(|_| HttpError::Timeout(timeout))??;
        Ok(Fetched { document: serde_json::from_slice(&body)?, keep })
    }

    async fn get(&self, uri: Uri, limit_bytes: usize) -> Result<(Bytes, Option<Duration>), HttpError> {
        let request = Request::get(uri)
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, concat!("postern/", env!("CARGO_PKG_VERSION")))
            .body(Empty::new())
            .map_err(|_| HttpError::Url)?;
        let response = self.client.request(request).await.map_err(|error| HttpError::Transport(chain(&error)))?;
        if response.status() != StatusCode::OK {
            return Err(HttpError::Status(response.status()));
        }
        let keep = keep(response.headers());
        match Limited::new(response.into_body(), limit_bytes).collect().await {
            Ok(body) => Ok((body.to_bytes(), keep)),
            Err(error) if error.is::<LengthLimitError>() => Err(HttpError::TooLarge(limit_bytes)),
            Err(error) => Err(HttpError::Transport(chain(error.as_ref()))),
        }
    }
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HttpClient")
    }
}

/// Of a server that says several things, the shortest counts.
fn keep(headers: &HeaderMap) -> Option<Duration> {
    let said = headers.get_all(CACHE_CONTROL).into_iter().filter_map(|value| value.to_str().ok());
    let directives = said.flat_map(|value| value.split(',')).filter_map(|directive| {
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        match name.trim().to_ascii_lowercase().as_str() {
            "no-store" | "no-cache" => Some(0),
            "max-age" => Some(value.trim().trim_matches('"').parse::<u64>().unwrap_or(0)),
            _ => None,
        }
    });
    directives.min().map(Duration::from_secs)
}

pub(crate) fn checked(url: &str) -> Result<Uri, HttpError> {
    let uri: Uri = url.parse().map_err(|_| HttpError::Url)?;
    let host = uri.host().ok_or(HttpError::Url)?;
    match uri.scheme_str() {
        Some("https") => Ok(uri),
        Some("http") if is_loopback(host) => Ok(uri),
        Some("http") => Err(HttpError::Insecure),
        _ => Err(HttpError::Url),
    }
}

fn is_loopback(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    bare == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The error with its causes: hyper's own text says only which step failed.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests;
