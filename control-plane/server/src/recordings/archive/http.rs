//! How an object store is reached: by our own TLS (docs/adr/0002), with a limit on every wait.

use std::fmt;
use std::future::Future as _;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector as TcpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use md5::{Digest as _, Md5};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse, HttpResponseBody,
    HttpService,
};
use postern_runtime::tls::{self, TlsError};
use tonic::async_trait;

const CONTENT_MD5: HeaderName = HeaderName::from_static("content-md5");
/// How long a connection may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long an answer may take to begin, and each part of it to come.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// Connections that are kept for the next requests.
const IDLE: usize = 4;

/// Makes clients.
#[derive(Clone)]
pub(super) struct Connector(Client<HttpsConnector<TcpConnector>, HttpRequestBody>);

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connector")
    }
}

impl Connector {
    /// Trusts the authority `ca_pem`; the public ones without it.
    pub(super) fn new(ca_pem: Option<&str>) -> Result<Self, TlsError> {
        let config = match ca_pem {
            Some(pem) => tls::client_with_ca(pem, &[])?,
            None => tls::client_with_public_authorities(&[])?,
        };
        let mut tcp = TcpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT_LIMIT));
        tcp.set_nodelay(true);
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(config).https_or_http().enable_http1().wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(ANSWER_LIMIT)
            .pool_max_idle_per_host(IDLE)
            .build(connector);
        Ok(Self(client))
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Connector {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        if request.method() == Method::PUT && !request.headers().contains_key(CONTENT_MD5) {
            let sum = md5(request.body().clone()).await?;
            request.headers_mut().insert(CONTENT_MD5, sum);
        }
        let answer = tokio::time::timeout(ANSWER_LIMIT, self.0.request(request)).await.map_err(|_| slow())?;
        let answer = answer.map_err(|error| {
            let kind = if error.is_connect() { HttpErrorKind::Connect } else { HttpErrorKind::Request };
            HttpError::new(kind, error)
        })?;
        let (parts, body) = answer.into_parts();
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(Bounded::new(body))))
    }
}

/// What a bucket that locks objects asks for with each (RFC 1864); some take no other checksum for it.
async fn md5(body: HttpRequestBody) -> Result<HeaderValue, HttpError> {
    let body = body.collect().await?.to_bytes();
    let sum = tokio::task::spawn_blocking(move || STANDARD.encode(Md5::digest(&body)));
    let sum = sum.await.map_err(|error| HttpError::new(HttpErrorKind::Request, error))?;
    HeaderValue::from_str(&sum).map_err(|error| HttpError::new(HttpErrorKind::Request, error))
}

fn slow() -> HttpError {
    let text = format!("the object store did not answer within {ANSWER_LIMIT:?}");
    HttpError::new(HttpErrorKind::Timeout, std::io::Error::new(std::io::ErrorKind::TimedOut, text))
}

/// A body whose parts come in time.
struct Bounded {
    body: Incoming,
    limit: std::pin::Pin<Box<tokio::time::Sleep>>,
}

impl Bounded {
    fn new(body: Incoming) -> Self {
        Self { body, limit: Box::pin(tokio::time::sleep(ANSWER_LIMIT)) }
    }
}

impl Body for Bounded {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        use std::task::Poll;
        let this = &mut *self;
        let frame = std::pin::pin!(this.body.frame()).as_mut().poll(cx);
        match frame {
            Poll::Ready(frame) => {
                this.limit.as_mut().reset(tokio::time::Instant::now() + ANSWER_LIMIT);
                Poll::Ready(frame.map(|frame| frame.map_err(|error| HttpError::new(HttpErrorKind::Interrupted, error))))
            }
            Poll::Pending => this.limit.as_mut().poll(cx).map(|()| Some(Err(slow()))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}
