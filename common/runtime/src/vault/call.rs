//! One call: JSON there and back, bounded in size and time, its bytes wiped afterwards.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{CONTENT_TYPE, HeaderValue, USER_AGENT};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use postern_core::secret::SecretBytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::error::{self, VaultError};
use crate::http::{HttpError, chain, checked};
use crate::tls::{self, TlsError};

/// The longest answer: a batch of data keys, or a secret of Vault's own limit.
const MAX_ANSWER: usize = 2 << 20;

/// What every answer has around it.
#[derive(Deserialize)]
pub(super) struct Envelope<T> {
    pub(super) data: Option<T>,
    #[serde(default)]
    pub(super) auth: Option<AuthAnswer>,
    #[serde(default)]
    pub(super) lease_id: String,
    #[serde(default)]
    pub(super) lease_duration: u64,
    #[serde(default)]
    pub(super) renewable: bool,
}

/// Of a login, or of a token's renewal.
#[derive(Deserialize)]
pub(super) struct AuthAnswer {
    #[serde(deserialize_with = "super::secret_text")]
    pub(super) client_token: SecretBytes,
    #[serde(default)]
    pub(super) lease_duration: u64,
    #[serde(default)]
    pub(super) renewable: bool,
}

/// The connection to one Vault.
pub(super) struct Caller {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    base: String,
    namespace: Option<HeaderValue>,
    pub(super) timeout: Duration,
}

impl Caller {
    pub(super) fn new(
        address: &str,
        namespace: Option<&str>,
        ca_pem: Option<&str>,
        timeout: Duration,
    ) -> Result<Arc<Self>, VaultError> {
        let config = |why: &dyn std::fmt::Display| VaultError::Config(why.to_string());
        let base = address.trim_end_matches('/').to_owned();
        let uri = checked(&base).map_err(|error| config(&format_args!("address {address}: {error}")))?;
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(config(&format_args!("address {address}: only scheme, host and port stand there")));
        }
        let namespace = match namespace {
            None => None,
            Some(name) => Some(HeaderValue::from_str(name).map_err(|_| config(&"namespace: not a header's text"))?),
        };
        let builder = HttpsConnectorBuilder::new();
        let builder = match ca_pem {
            Some(pem) => builder.with_tls_config(tls::client_with_ca(pem, &[]).map_err(|error| config(&error))?),
            None => builder
                .with_provider_and_webpki_roots(tls::provider())
                .map_err(|error| config(&TlsError::Rustls(error)))?,
        };
        let connector = builder.https_or_http().enable_http1().build();
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(2)
            .build(connector);
        Ok(Arc::new(Self { client, base, namespace, timeout }))
    }

    /// Calls `path` (without `/v1/`) and reads its answer; the answer to a success without a body is empty.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        token: Option<&HeaderValue>,
        body: Option<&impl Serialize>,
    ) -> Result<Envelope<T>, VaultError> {
        let (status, answer) = self.exchange(method, path, token, body).await?;
        if !status.is_success() {
            return Err(error::of(status, path, &answer));
        }
        parse(path, &answer)
    }

    /// As [`Self::call`]; an answer of 400 that has data is read too, as a batch gives it of which a part failed.
    pub(super) async fn call_batch<T: DeserializeOwned>(
        &self,
        path: &str,
        token: Option<&HeaderValue>,
        body: &impl Serialize,
    ) -> Result<Envelope<T>, VaultError> {
        let (status, answer) = self.exchange(Method::POST, path, token, Some(body)).await?;
        if status == StatusCode::BAD_REQUEST
            && let Ok(envelope) = parse::<T>(path, &answer)
            && envelope.data.is_some()
        {
            return Ok(envelope);
        }
        if !status.is_success() {
            return Err(error::of(status, path, &answer));
        }
        parse(path, &answer)
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        token: Option<&HeaderValue>,
        body: Option<&impl Serialize>,
    ) -> Result<(StatusCode, Zeroizing<Vec<u8>>), VaultError> {
        let form = |what| VaultError::Form { path: path.to_owned(), what };
        let uri: Uri = format!("{}/v1/{path}", self.base).parse().map_err(|_| form("the path is no URL's"))?;
        let bytes = match body {
            None => Bytes::new(),
            // Wiped when hyper has sent it.
            Some(body) => Bytes::from_owner(Zeroizing::new(
                serde_json::to_vec(body).map_err(|_| form("the request cannot be written"))?,
            )),
        };
        let mut request = Request::builder()
            .method(method)
            .uri(uri)
            .header(USER_AGENT, concat!("postern/", env!("CARGO_PKG_VERSION")))
            .header(CONTENT_TYPE, "application/json")
            // A Vault agent may be set to demand it, against forged requests.
            .header("X-Vault-Request", "true");
        if let Some(token) = token {
            request = request.header("X-Vault-Token", token);
        }
        if let Some(namespace) = &self.namespace {
            request = request.header("X-Vault-Namespace", namespace);
        }
        let request = request.body(Full::new(bytes)).map_err(|_| form("the request cannot be made"))?;
        let answered = async {
            let answer = self.client.request(request).await.map_err(|error| HttpError::Transport(chain(&error)))?;
            let status = answer.status();
            let mut body = Limited::new(answer.into_body(), MAX_ANSWER);
            let mut read = Zeroizing::new(Vec::new());
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| HttpError::Transport(error.to_string()))?;
                if let Some(data) = frame.data_ref() {
                    read.extend_from_slice(data);
                }
            }
            Ok::<_, HttpError>((status, read))
        };
        let answered = tokio::time::timeout(self.timeout, answered).await;
        Ok(answered.map_err(|_| VaultError::Timeout(self.timeout))??)
    }
}

fn parse<T: DeserializeOwned>(path: &str, answer: &[u8]) -> Result<Envelope<T>, VaultError> {
    if answer.is_empty() {
        return Ok(Envelope { data: None, auth: None, lease_id: String::new(), lease_duration: 0, renewable: false });
    }
    // serde's own error could quote a value.
    serde_json::from_slice(answer)
        .map_err(|_| VaultError::Form { path: path.to_owned(), what: "is not of the form that it must have" })
}

/// A path's text in a URL. `None` for a path that could lead elsewhere.
pub(super) fn escaped(path: &str) -> Option<String> {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(path.len());
    for (place, segment) in path.split('/').enumerate() {
        if matches!(segment, "" | "." | "..") {
            return None;
        }
        if place > 0 {
            out.push('/');
        }
        for byte in segment.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
                0..=0x1f | 0x7f => return None,
                // Writing to a String does not fail.
                _ => drop(write!(out, "%{byte:02X}")),
            }
        }
    }
    Some(out)
}
