//! Connections to other members: TCP, mutual TLS with the certificate that the node has right now, HTTP/2.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use postern_core::Name;
use postern_core::node::{CONTROL_PLANE_NAME, NodeIdentity, NodeRole};
use postern_runtime::tls::{TlsError, peer_identity};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};

use super::book::PeerEntry;

/// Gives the TLS configuration to dial with: asked at each connection, so that a renewed certificate is used without a restart.
pub type TlsSource = Arc<dyn Fn() -> Result<Arc<ClientConfig>, TlsError> + Send + Sync>;

/// How long a peer may take to accept and to prove itself: a quarter of what a failover may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// A peer that does not answer for this long is gone (a partition sends no reset).
const KEEPALIVE: Duration = Duration::from_secs(2);
/// Bytes under way before the receiver grants more: some large entries.
pub(super) const STREAM_WINDOW: u32 = 4 << 20;

/// No connection to a member.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the texts say it
pub enum DialError {
    #[error("its address is not known")]
    NoAddress,
    #[error("{address} cannot be reached: {source}")]
    Unreachable { address: String, source: io::Error },
    #[error("{address} does not answer within {CONNECT_LIMIT:?}")]
    Slow { address: String },
    #[error("{address} and this node do not trust each other: {source}")]
    Tls { address: String, source: io::Error },
    #[error("at {address} is {found}, not the member {expected:?}")]
    WrongNode { address: String, expected: String, found: String },
    #[error("this node's certificate cannot be used: {0}")]
    Credential(#[from] TlsError),
    #[error("{address} does not speak HTTP/2: {source}")]
    Http { address: String, source: tonic::transport::Error },
}

/// Opens connections. Cheap to clone.
#[derive(Clone)]
pub(super) struct Dialer {
    tls: TlsSource,
}

impl Dialer {
    pub(super) fn new(tls: TlsSource) -> Self {
        Self { tls }
    }

    /// A connection to `peer`, who has proved to be it. It does not reconnect by itself: whoever holds it dials anew.
    pub(super) async fn connect(&self, peer: &PeerEntry) -> Result<Channel, DialError> {
        let address = || peer.address.clone();
        let stream = tokio::time::timeout(CONNECT_LIMIT, self.secure(peer))
            .await
            .map_err(|_| DialError::Slow { address: address() })??;
        // TLS is ours: to tonic it is a plain stream.
        let endpoint = Endpoint::from_static("http://control-plane.postern.internal")
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(STREAM_WINDOW.saturating_mul(2));
        tokio::time::timeout(CONNECT_LIMIT, endpoint.connect_with_connector(Once(Mutex::new(Some(stream)))))
            .await
            .map_err(|_| DialError::Slow { address: address() })?
            .map_err(|source| DialError::Http { address: address(), source })
    }

    /// Which member is at `address`.
    pub(super) async fn identify(&self, address: &str) -> Result<Name, DialError> {
        let (_, found) = tokio::time::timeout(CONNECT_LIMIT, self.handshake(address))
            .await
            .map_err(|_| DialError::Slow { address: address.to_owned() })??;
        match found {
            Some(found) if found.role == NodeRole::Control => Ok(found.name),
            other => Err(wrong(address, "any", other)),
        }
    }

    async fn secure(&self, peer: &PeerEntry) -> Result<TlsStream<TcpStream>, DialError> {
        match self.handshake(&peer.address).await? {
            (stream, Some(found)) if found.role == NodeRole::Control && found.name == peer.name => Ok(stream),
            (_, other) => Err(wrong(&peer.address, peer.name.as_str(), other)),
        }
    }

    /// A stream to whoever of the cluster's authority is at `address`, and who that is.
    async fn handshake(&self, at: &str) -> Result<(TlsStream<TcpStream>, Option<NodeIdentity>), DialError> {
        let address = || at.to_owned();
        let config = (self.tls)()?;
        let tcp =
            TcpStream::connect(at).await.map_err(|source| DialError::Unreachable { address: address(), source })?;
        // A heartbeat must not wait for more.
        let _ = tcp.set_nodelay(true);
        let name = ServerName::try_from(CONTROL_PLANE_NAME)
            .map_err(|error| DialError::Tls { address: address(), source: io::Error::other(error) })?;
        let stream = TlsConnector::from(config)
            .connect(name, tcp)
            .await
            .map_err(|source| DialError::Tls { address: address(), source })?;
        let found = stream.get_ref().1.peer_certificates().and_then(peer_identity);
        Ok((stream, found))
    }
}

fn wrong(address: &str, expected: &str, found: Option<NodeIdentity>) -> DialError {
    DialError::WrongNode {
        address: address.to_owned(),
        expected: expected.to_owned(),
        found: found.map_or_else(|| "no member".to_owned(), |found| found.to_string()),
    }
}

/// Gives away one stream, once.
struct Once(Mutex<Option<TlsStream<TcpStream>>>);

impl Service<Uri> for Once {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = std::future::Ready<io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let stream = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        std::future::ready(stream.map(TokioIo::new).ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)))
    }
}
