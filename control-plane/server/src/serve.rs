//! Accepts connections, peels TLS, and hands them to gRPC.
//!
//! Acceptor task -> one short task per handshake -> bounded channel -> tonic. A client certificate is optional; an offered one is
//! verified by TLS, and its identity goes along with each request as [`PeerInfo`].

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::StreamExt as _;
use postern_core::node::NodeIdentity;
use postern_runtime::pki::{Revocations, extra_alt_names, serial_of};
use postern_runtime::supervisor::{OnEnd, Supervisor};
use postern_runtime::tls::peer_identity;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tracing::{debug, error, info};

use crate::accept::Acceptor;

/// Connections at once; more wait in the listener's queue (I12).
const MAX_CONNECTIONS: usize = 4_096;
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
const KEEPALIVE: Duration = Duration::from_secs(20);
/// Streams at once on one connection: a gateway watches each held operation by one.
const MAX_STREAMS: u32 = 4_096;
/// How long calls may take to end once the node stops.
const GRACE: Duration = Duration::from_secs(5);

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub(crate) struct PeerInfo {
    /// Of the client certificate, verified; none without one.
    pub(crate) identity: Option<NodeIdentity>,
    /// The certificate's serial number.
    pub(crate) serial: Option<String>,
    /// Its names and addresses that are not given by role.
    pub(crate) alt_names: Vec<String>,
    /// Its address; for the log.
    pub(crate) address: SocketAddr,
}

/// Serves `routes` until `stop`, and a moment longer for calls that run.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: ServerConfig,
    revocations: Revocations,
    routes: Routes,
    supervisor: &Supervisor,
    stop: CancellationToken,
) {
    let (accepted, incoming) = mpsc::channel(64);
    let open = Arc::new(OpenConnections { revocations, by_serial: Mutex::default() });
    supervisor.spawn("revocations", OnEnd::StopNode, Arc::clone(&open).close_revoked(stop.clone()));
    let acceptor = accept(listener, TlsAcceptor::from(Arc::new(tls)), accepted, open, supervisor.clone(), stop.clone());
    supervisor.spawn("accept", OnEnd::StopNode, acceptor);
    let incoming = ReceiverStream::new(incoming).map(Ok::<_, std::io::Error>);
    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .max_concurrent_streams(MAX_STREAMS)
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
    let late = async {
        stop.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        ended = server => if let Err(error) = ended {
            error!(%error, "the gRPC server ended");
        },
        () = late => debug!("calls that still ran were cut off"),
    }
}

async fn accept(
    listener: TcpListener,
    tls: TlsAcceptor,
    accepted: mpsc::Sender<Peer>,
    open: Arc<OpenConnections>,
    supervisor: Supervisor,
    stop: CancellationToken,
) {
    let acceptor = Acceptor::new(listener, MAX_CONNECTIONS);
    loop {
        let (stream, address, slot) = tokio::select! {
            () = stop.cancelled() => return,
            next = acceptor.next() => match next {
                Some(next) => next,
                None => return,
            },
        };
        let (tls, accepted, open) = (tls.clone(), accepted.clone(), Arc::clone(&open));
        supervisor.spawn("handshake", OnEnd::EndSession, async move {
            // Small answers must not wait for more.
            let _ = stream.set_nodelay(true);
            match tokio::time::timeout(HANDSHAKE_LIMIT, tls.accept(stream)).await {
                Ok(Ok(stream)) => {
                    let ends = open.admit(&stream).map(Ends::new);
                    drop(accepted.send(Peer { stream, address, ends, _slot: slot }).await);
                }
                Ok(Err(error)) => {
                    metrics::counter!("postern_control_handshake_failures_total").increment(1);
                    debug!(%address, %error, "TLS handshake failed");
                }
                Err(_) => {
                    metrics::counter!("postern_control_handshake_failures_total").increment(1);
                    debug!(%address, "TLS handshake took too long");
                }
            }
        });
    }
}

/// Which connections end when which certificate is revoked.
struct OpenConnections {
    revocations: Revocations,
    by_serial: Mutex<BTreeMap<String, Weak<CancellationToken>>>,
}

impl OpenConnections {
    /// What ends the connection: shared by all that show the same certificate. None without one.
    fn admit(&self, stream: &TlsStream<TcpStream>) -> Option<Arc<CancellationToken>> {
        let certificate = stream.get_ref().1.peer_certificates().and_then(|all| all.first());
        let serial = certificate.and_then(|first| serial_of(first))?;
        let mut all = self.by_serial.lock().unwrap_or_else(PoisonError::into_inner);
        let ends = all.get(&serial).and_then(Weak::upgrade).unwrap_or_else(|| {
            // Those of which nothing is open any more.
            all.retain(|_, token| token.strong_count() > 0);
            let token = Arc::new(CancellationToken::new());
            all.insert(serial.clone(), Arc::downgrade(&token));
            token
        });
        drop(all);
        // Revoked between its handshake and here.
        if self.revocations.contains(&serial) {
            ends.cancel();
        }
        Some(ends)
    }

    async fn close_revoked(self: Arc<Self>, stop: CancellationToken) {
        let mut revocations = self.revocations.clone();
        loop {
            let revoked = tokio::select! {
                () = stop.cancelled() => return,
                revoked = revocations.changed() => revoked,
            };
            let mut all = self.by_serial.lock().unwrap_or_else(PoisonError::into_inner);
            for serial in revoked.iter() {
                if let Some(ends) = all.remove(serial).and_then(|token| token.upgrade()) {
                    info!(serial, "closing the connections of a revoked certificate");
                    ends.cancel();
                }
            }
        }
    }
}

/// Its certificate was revoked. Holds the token, by which others with the same certificate find it.
struct Ends {
    revoked: Pin<Box<WaitForCancellationFutureOwned>>,
    _token: Arc<CancellationToken>,
}

impl Ends {
    fn new(token: Arc<CancellationToken>) -> Self {
        Self { revoked: Box::pin(CancellationToken::clone(&token).cancelled_owned()), _token: token }
    }
}

/// A connection past its handshake.
struct Peer {
    stream: TlsStream<TcpStream>,
    address: SocketAddr,
    ends: Option<Ends>,
    _slot: OwnedSemaphorePermit,
}

impl Connected for Peer {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> PeerInfo {
        let certificates = self.stream.get_ref().1.peer_certificates();
        let own = certificates.and_then(|all| all.first());
        PeerInfo {
            identity: certificates.and_then(peer_identity),
            serial: own.and_then(|certificate| serial_of(certificate)),
            alt_names: own.map(|certificate| extra_alt_names(certificate)).unwrap_or_default(),
            address: self.address,
        }
    }
}

impl AsyncRead for Peer {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        if let Some(ends) = &mut self.ends
            && ends.revoked.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(std::io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Peer {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
