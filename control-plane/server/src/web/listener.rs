//! Accepts connections of browsers: few at once, none for long.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use postern_runtime::pki::Compatible;
use postern_runtime::supervisor::{OnEnd, Supervisor};
use postern_runtime::tls::{self, TlsError};
use rustls::ServerConfig;
use secrecy::SecretString;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::{ClientAddress, Parts, WebConfig, routes};
use crate::accept::Acceptor;

/// Connections at once; more wait in the listener's queue (I12).
const MAX_CONNECTIONS: usize = 512;
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// From the first byte of a request to the end of its head.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// The longest life of one; a browser just dials again.
const LIFE: Duration = Duration::from_secs(120);
/// Bytes of a head, or of what is read ahead of a body.
const BUFFER: usize = 64 << 10;
const MAX_HEADERS: usize = 64;

/// The listener cannot start.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// An address is taken, or not this machine's.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// A file of its certificate.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The certificate.
    #[error("the certificate for browsers: {0}")]
    Tls(#[from] TlsError),
}

/// A listener that is bound, and does not accept yet.
pub(crate) struct Listener {
    listener: TcpListener,
    address: SocketAddr,
    config: WebConfig,
}

impl Listener {
    pub(crate) async fn bind(config: &WebConfig) -> Result<Self, WebError> {
        let failed = |source| WebError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address, config: config.clone() })
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`. Without a certificate of its own, browsers are shown `own`.
    pub(crate) fn start(
        self,
        own: &Compatible,
        parts: Parts,
        supervisor: &Supervisor,
        stop: &CancellationToken,
    ) -> Result<(), WebError> {
        let tls = tls(&self.config, own)?;
        let serve =
            serve(self.listener, tls, routes(&parts, &self.config.public_url), supervisor.clone(), stop.clone());
        supervisor.spawn("web-listener", OnEnd::StopNode, serve);
        info!(address = %self.address, url = self.config.public_url, "browsers are served");
        Ok(())
    }
}

/// TLS as browsers speak it: no certificate is asked of them.
fn tls(config: &WebConfig, own: &Compatible) -> Result<ServerConfig, WebError> {
    let read = |path: &Path| {
        std::fs::read_to_string(path).map_err(|source| WebError::File { path: path.display().to_string(), source })
    };
    match (&config.certificate_file, &config.key_file) {
        (Some(certificate), Some(key)) => {
            Ok(tls::listener(&read(certificate)?, &SecretString::from(read(key)?), &[b"http/1.1"])?)
        }
        _ => Ok(tls::server_rotating_no_client(own, &[b"http/1.1"])?),
    }
}

/// Serves `routes` until `stop`.
async fn serve(
    listener: TcpListener,
    tls: ServerConfig,
    routes: Router,
    supervisor: Supervisor,
    stop: CancellationToken,
) {
    let tls = TlsAcceptor::from(Arc::new(tls));
    let acceptor = Acceptor::new(listener, MAX_CONNECTIONS);
    loop {
        let (stream, address, slot) = tokio::select! {
            () = stop.cancelled() => return,
            next = acceptor.next() => match next {
                Some(next) => next,
                None => return,
            },
        };
        let (tls, routes, stop) = (tls.clone(), routes.clone(), stop.clone());
        supervisor.spawn("web", OnEnd::EndSession, async move {
            let _slot = slot;
            let end = tokio::time::timeout(LIFE, connection(stream, tls, routes, ClientAddress(address)));
            let ended = tokio::select! {
                () = stop.cancelled() => return,
                ended = end => ended,
            };
            match ended {
                Ok(Ok(())) => {}
                Ok(Err(why)) => debug!(%address, why, "a browser's connection ended"),
                Err(_) => debug!(%address, "a browser's connection was open for too long"),
            }
        });
    }
}

async fn connection(stream: TcpStream, tls: TlsAcceptor, routes: Router, address: ClientAddress) -> Result<(), String> {
    let _ = stream.set_nodelay(true);
    let stream = tokio::time::timeout(HANDSHAKE_LIMIT, tls.accept(stream)).await;
    let stream = stream.map_err(|_| "the handshake took too long")?.map_err(|error| error.to_string())?;
    let routes = routes.layer(axum::Extension(address));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(BUFFER)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes))
        .await;
    served.map_err(|error| error.to_string())
}
