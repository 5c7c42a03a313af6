//! A small HTTP client for discovery documents, keys and token endpoints: bounded in size and time, no redirects.

mod post;

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, USER_AGENT};
use hyper::{Request, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use crate::tls::{self, TlsError};

pub use post::{Post, post};

const AGENT: &str = concat!("postern/", env!("CARGO_PKG_VERSION"));
/// Codes and tokens are far smaller.
const MAX_FORM: usize = 256 << 10;

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
    /// A form with more than a client sends.
    #[error("the form is larger than {MAX_FORM} bytes")]
    Form,
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

/// What was answered to a form, whatever its status: OAuth tells of errors in JSON too (RFC 6749, section 5.2).
pub struct Answered {
    /// `200`
    pub status: u16,
    /// What it says. It may hold tokens.
    pub document: serde_json::Value,
}

/// Fetches JSON over HTTPS, or over HTTP from this machine. Cheap to clone; connections are reused.
#[derive(Clone)]
pub struct HttpClient {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
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

    /// Posts `form`, and takes a JSON document of at most `limit_bytes`; `timeout` is for the whole of it.
    ///
    /// # Errors
    /// Whatever keeps a whole document from being there in time. A status is none.
    pub async fn post_form(
        &self,
        url: &str,
        form: &[(&str, &str)],
        limit_bytes: usize,
        timeout: Duration,
    ) -> Result<Answered, HttpError> {
        let uri = checked(url)?;
        let form = form_encoded(form);
        if form.len() > MAX_FORM {
            return Err(HttpError::Form);
        }
        let request = Request::post(uri)
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(USER_AGENT, AGENT)
            .body(Full::from(form))
            .map_err(|_| HttpError::Url)?;
        let answered = async {
            let response = self.client.request(request).await.map_err(|error| HttpError::Transport(chain(&error)))?;
            let status = response.status();
            let body = limited(response.into_body(), limit_bytes).await?;
            // Of a proxy on the way, say: what it means is in its status.
            let document = serde_json::from_slice(&body).map_err(|error| {
                if status.is_success() { HttpError::Json(error) } else { HttpError::Status(status) }
            })?;
            Ok(Answered { status: status.as_u16(), document })
        };
        tokio::time::timeout(timeout, answered).await.map_err(|_| HttpError::Timeout(timeout))?
    }

    /// Posts `text`, and takes a text of at most `limit_bytes`, whatever the status; `timeout` is for the whole of it.
    ///
    /// # Errors
    /// Whatever keeps a whole answer from being there in time.
    pub async fn post_text(
        &self,
        url: &str,
        text: String,
        limit_bytes: usize,
        timeout: Duration,
    ) -> Result<(u16, String), HttpError> {
        let request = Request::post(checked(url)?)
            .header(CONTENT_TYPE, "text/plain; charset=utf-8")
            .header(USER_AGENT, AGENT)
            .body(Full::from(text))
            .map_err(|_| HttpError::Url)?;
        let answered = async {
            let response = self.client.request(request).await.map_err(|error| HttpError::Transport(chain(&error)))?;
            let status = response.status().as_u16();
            let body = limited(response.into_body(), limit_bytes).await?;
            Ok((status, std::str::from_utf8(&body).map_or_else(|_| body.escape_ascii().to_string(), str::to_owned)))
        };
        tokio::time::timeout(timeout, answered).await.map_err(|_| HttpError::Timeout(timeout))?
    }

    async fn get(&self, uri: Uri, limit_bytes: usize) -> Result<(Bytes, Option<Duration>), HttpError> {
        let request = Request::get(uri)
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, AGENT)
            .body(Full::default())
            .map_err(|_| HttpError::Url)?;
        let response = self.client.request(request).await.map_err(|error| HttpError::Transport(chain(&error)))?;
        if response.status() != StatusCode::OK {
            return Err(HttpError::Status(response.status()));
        }
        let keep = keep(response.headers());
        Ok((limited(response.into_body(), limit_bytes).await?, keep))
    }
}

async fn limited(body: Incoming, limit_bytes: usize) -> Result<Bytes, HttpError> {
    match Limited::new(body, limit_bytes).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(HttpError::TooLarge(limit_bytes)),
        Err(error) => Err(HttpError::Transport(chain(error.as_ref()))),
    }
}

/// Pairs as a form or a query has them (WHATWG URL, section 5.2), with `%20` for a space, which both read.
#[must_use]
pub fn form_encoded(pairs: &[(&str, &str)]) -> String {
    let mut out = String::new();
    let encode = |text: &str, out: &mut String| {
        for byte in text.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
                _ => out.push_str(&format!("%{byte:02X}")),
            }
        }
    };
    for (place, (key, value)) in pairs.iter().enumerate() {
        if place > 0 {
            out.push('&');
        }
        encode(key, &mut out);
        out.push('=');
        encode(value, &mut out);
    }
    out
}

/// That `url` may be asked, or shown to a browser: `https`, or `http` on this machine.
///
/// # Errors
/// When it may not, or is no URL.
pub fn check_url(url: &str) -> Result<(), HttpError> {
    checked(url).map(drop)
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

/// The error with its causes, each once: many libraries' own text says only which step failed.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests;
