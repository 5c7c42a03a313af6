//! Accepting: QUIC and TCP, at the pace of [`super::admission`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use postern_protocols::tunnel::{ALPN, ALPN_ENROL, ALPN_ENROL_TCP, ALPN_TCP};
use postern_runtime::pki::{Revocations, RotatingCredential};
use postern_runtime::supervisor::OnEnd;
use postern_runtime::tls;
use postern_runtime::tunnel::mux::{Mux, MuxLimits, Side};
use postern_runtime::tunnel::{self, Link, cause, server_config};
use quinn::{Endpoint, Incoming, VarInt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::admission::Admission;
use super::{Shared, TunnelsConfig, TunnelsError, greet, metrics};

/// A handshake, from its turn to its end.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Streams that a peer may have open to us at a time: agents have their control stream and few to the control plane. Other gateways get
/// more once they are known.
pub(super) const STREAMS: u32 = 4;
/// Streams that we may have open to an agent over TCP; over QUIC the agent says how many.
const STREAMS_OUT: usize = 16_384;
/// Streams that another gateway may have open to us.
const PEER_STREAMS: u32 = 16_384;
/// TCP connections between `accept` and the end of their handshake.
const TCP_WAITING: usize = 1024;

/// The sockets that tunnels come in by.
pub(crate) struct Listening {
    quic: Option<Endpoint>,
    tcp: Option<(TcpListener, TlsAcceptor)>,
}

impl Listening {
    /// Where QUIC comes in.
    pub(crate) fn quic_addr(&self) -> Option<SocketAddr> {
        self.quic.as_ref()?.local_addr().ok()
    }

    /// Where TCP comes in.
    pub(crate) fn tcp_addr(&self) -> Option<SocketAddr> {
        self.tcp.as_ref()?.0.local_addr().ok()
    }
}

/// Binds the listeners that agents dial; [`accept`] serves them.
///
/// # Errors
/// When the credential or an address cannot be used.
pub(crate) async fn listen(
    quic: Option<SocketAddr>,
    tcp: Option<SocketAddr>,
    config: &TunnelsConfig,
    credential: &RotatingCredential,
    revoked: &Revocations,
) -> Result<Listening, TunnelsError> {
    let quic = match quic {
        None => None,
        Some(address) => {
            let tls = tls::server_tunnels(credential, revoked.clone(), &[ALPN, ALPN_ENROL])?;
            let server = server_config(tls, STREAMS, Admission::room(config.handshakes_per_second))?;
            let listening = tunnel::listen(server, address, &credential.current());
            Some(listening.map_err(|source| TunnelsError::Listen { address, source })?)
        }
    };
    let tcp = match tcp {
        None => None,
        Some(address) => {
            let tls = tls::server_tunnels(credential, revoked.clone(), &[ALPN_TCP, ALPN_ENROL_TCP])?;
            let listener = TcpListener::bind(address).await;
            let listener = listener.map_err(|source| TunnelsError::Listen { address, source })?;
            Some((listener, TlsAcceptor::from(Arc::new(tls))))
        }
    };
    Ok(Listening { quic, tcp })
}

/// Accepts until `stop`; each peer is a task of its own.
pub(crate) async fn accept(listening: Listening, shared: Arc<Shared>, stop: CancellationToken) {
    let Listening { quic, tcp } = listening;
    let waiting = Arc::new(tokio::sync::Semaphore::new(TCP_WAITING));
    let shutdown = shared.supervisor.shutdown_token();
    let mut draining = false;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = shutdown.cancelled(), if !draining => {
                draining = true;
                shared.tunnels.drain();
            }
            Some(incoming) = next_quic(quic.as_ref()) => quic_peer(incoming, &shared),
            Some((stream, remote, tls)) = next_tcp(tcp.as_ref()) => {
                let (Some(turn), Ok(place)) = (shared.admission.turn(), Arc::clone(&waiting).try_acquire_owned()) else {
                    metrics::refused("busy");
                    continue;
                };
                let served = Arc::clone(&shared);
                let supervisor = shared.supervisor.clone();
                supervisor.spawn("tunnel-tcp", OnEnd::EndPart, async move {
                    tokio::time::sleep_until(turn).await;
                    let link = tcp_link(stream, remote, tls, &served).await;
                    drop(place);
                    if let Some(link) = link {
                        greet::peer(link, served).await;
                    }
                });
            }
            else => break,
        }
    }
    drop(tcp);
    if let Some(endpoint) = quic {
        endpoint.close(VarInt::from_u32(cause::STOPPING), b"the gateway stops");
        let _ = tokio::time::timeout(Duration::from_secs(1), endpoint.wait_idle()).await;
    }
}

async fn next_quic(endpoint: Option<&Endpoint>) -> Option<Incoming> {
    endpoint?.accept().await
}

async fn next_tcp(listener: Option<&(TcpListener, TlsAcceptor)>) -> Option<(TcpStream, SocketAddr, TlsAcceptor)> {
    let (listener, tls) = listener?;
    loop {
        match listener.accept().await {
            Ok((stream, remote)) => return Some((stream, remote, tls.clone())),
            Err(error) => {
                // Out of files, mostly: it passes.
                tracing::warn!(%error, "a tunnel could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn quic_peer(incoming: Incoming, shared: &Arc<Shared>) {
    if shared.admission.is_busy() && !incoming.remote_address_validated() && incoming.may_retry() {
        // Costs us nothing and the peer a round trip: whoever lies about its address takes no place from others.
        if incoming.retry().is_err() {
            metrics::refused("busy");
        }
        return;
    }
    let Some(turn) = shared.admission.turn() else {
        metrics::refused("busy");
        incoming.refuse();
        return;
    };
    let (served, remote) = (Arc::clone(shared), incoming.remote_address());
    shared.supervisor.spawn("tunnel", OnEnd::EndPart, async move {
        tokio::time::sleep_until(turn).await;
        let handshake = async { incoming.accept()?.await };
        match tokio::time::timeout(HANDSHAKE, handshake).await {
            Ok(Ok(connection)) => greet::peer(Link::quic(connection), served).await,
            Ok(Err(error)) => refused(&served, remote, &error.to_string()),
            Err(_) => refused(&served, remote, "no handshake in time"),
        }
    });
}

fn refused(shared: &Shared, remote: SocketAddr, why: &str) {
    metrics::refused("handshake");
    if shared.admission.may_log() {
        tracing::warn!(%remote, error = why, "tunnel refused");
    }
}

async fn tcp_link(stream: TcpStream, remote: SocketAddr, tls: TlsAcceptor, shared: &Shared) -> Option<Link> {
    // Without it, small answers wait for the next acknowledgement.
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            refused(shared, remote, &error.to_string());
            return None;
        }
        Err(_) => {
            refused(shared, remote, "no handshake in time");
            return None;
        }
    };
    let (_, session) = stream.get_ref();
    let chain = session.peer_certificates().map(<[_]>::to_vec).unwrap_or_default();
    let alpn = session.alpn_protocol().map(<[u8]>::to_vec).unwrap_or_default();
    let limits = MuxLimits { incoming: usize::try_from(STREAMS).unwrap_or(1), outgoing: STREAMS_OUT };
    let (mux, driver) = Mux::new(stream, Side::Listener, remote, limits);
    shared.supervisor.spawn("tunnel-mux", OnEnd::EndPart, driver);
    Some(Link::tcp(mux, &chain, &alpn))
}

/// Another gateway may have as many streams open as sessions need.
pub(super) fn allow_peer(link: &Link) {
    link.allow_streams(PEER_STREAMS);
}
