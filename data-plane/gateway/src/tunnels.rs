//! Tunnels: agents dial in over QUIC, and sessions open streams through them.
//!
//! One task accepts, one task keeps each tunnel. What an agent may serve is its certificate's say: name and pool stand there, and its
//! greeting must agree. Sessions pick, of the pool's tunnels, the one with the fewest streams.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use postern_core::node::{NodeIdentity, NodeRole};
use postern_core::target::Address;
use postern_core::{Code, Name, SessionId};
use postern_proto::tunnel::v1::{Hello, Open, OpenStatus, Opened, Welcome};
use postern_protocols::tunnel::{ALPN, VERSION};
use postern_runtime::pki::{Revocations, RotatingCredential, serial_of};
use postern_runtime::tls::{self, TlsError};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, Endpoint, IdleTimeout, Incoming, RecvStream, SendStream, TransportConfig, VarInt};
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, Join, ReadBuf};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::metrics;
use crate::tunnel_wire::{self, WireError};

const KEEP_ALIVE: Duration = Duration::from_secs(5);
const IDLE: Duration = Duration::from_secs(20);
const GREETING: Duration = Duration::from_secs(10);
/// The agent itself waits this long for the target; we wait a little longer for the agent.
const CONNECT: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(12);
/// Handshakes at a time; more are told to retry.
const HANDSHAKES: usize = 64;
/// Tunnels at a time (I12).
const TUNNELS: usize = 1024;
/// Bytes that an agent may have in flight on one stream (I11).
const STREAM_WINDOW: u32 = 512 << 10;
const REFUSED: VarInt = VarInt::from_u32(3);

/// The tunnel listener cannot start.
#[derive(Debug, thiserror::Error)]
pub enum TunnelsError {
    /// The credential cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The credential cannot be used for QUIC.
    #[error("the credential cannot be used for QUIC: {0}")]
    Quic(String),
    /// No socket.
    #[error("tunnel listener on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// No stream to the target.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// No agent of the pool has a tunnel.
    #[error("no agent of pool {0} has a tunnel")]
    NoAgent(Name),
    /// The tunnel broke, or hangs.
    #[error("the tunnel to agent {agent}: {why}")]
    Tunnel {
        /// Which.
        agent: Name,
        /// What.
        why: String,
    },
    /// The agent says no.
    #[error("agent {agent}: {status:?}: {detail}")]
    Refused {
        /// Which.
        agent: Name,
        /// Its word.
        status: OpenStatus,
        /// For the log.
        detail: String,
    },
}

impl OpenError {
    /// What the client is told.
    #[must_use]
    pub(crate) const fn code(&self) -> Code {
        match self {
            Self::NoAgent(_) | Self::Tunnel { .. } => Code::AgentUnavailable,
            Self::Refused { .. } => Code::TargetUnavailable,
        }
    }
}

#[derive(Clone, Debug)]
struct Tunnel {
    agent: Name,
    connection: Connection,
    streams: Arc<AtomicUsize>,
}

type Pools = BTreeMap<Name, Vec<Tunnel>>;

/// The tunnels that are up. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Tunnels(Arc<watch::Sender<Pools>>);

/// A stream to a target through a tunnel. Dropped, it ends in both directions.
#[derive(Debug)]
pub(crate) struct TunnelStream {
    io: Join<RecvStream, SendStream>,
    _counted: Counted,
}

#[derive(Debug)]
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(streams: &Arc<AtomicUsize>) -> Self {
        streams.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(streams))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Default for Tunnels {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Pools::new())))
    }
}

impl Tunnels {
    /// Opens a stream to `address` through any tunnel of `pool`.
    ///
    /// # Errors
    /// When there is no tunnel, or the agent cannot or will not open it.
    pub(crate) async fn open(
        &self,
        pool: &Name,
        address: &Address,
        session: SessionId,
        target: &Name,
    ) -> Result<TunnelStream, OpenError> {
        let least = |tunnel: &&Tunnel| tunnel.streams.load(Ordering::Relaxed);
        let tunnel = self.0.borrow().get(pool).and_then(|tunnels| tunnels.iter().min_by_key(least).cloned());
        let Tunnel { agent, connection, streams } = tunnel.ok_or_else(|| OpenError::NoAgent(pool.clone()))?;
        let counted = Counted::new(&streams);
        let broken = |why: String| OpenError::Tunnel { agent: agent.clone(), why };
        let request = Open {
            address: address.to_string(),
            session: session.to_string(),
            target: target.to_string(),
            connect_timeout_ms: u32::try_from(CONNECT.as_millis()).unwrap_or(u32::MAX),
        };
        let asked = async {
            let (mut send, mut recv) = connection.open_bi().await.map_err(|error| broken(error.to_string()))?;
            tunnel_wire::write(&mut send, &request).await.map_err(|error| broken(error.to_string()))?;
            let opened: Opened = tunnel_wire::read(&mut recv).await.map_err(|error| broken(error.to_string()))?;
            Ok((send, recv, opened))
        };
        let answered = tokio::time::timeout(ANSWER, asked).await;
        let (send, recv, opened) = answered.map_err(|_| broken("no answer in time".into()))??;
        match opened.status() {
            OpenStatus::Connected => Ok(TunnelStream { io: tokio::io::join(recv, send), _counted: counted }),
            status => Err(OpenError::Refused { agent, status, detail: opened.detail }),
        }
    }

    /// How many tunnels each pool has.
    #[must_use]
    pub(crate) fn counts(&self) -> BTreeMap<Name, usize> {
        self.0.borrow().iter().map(|(pool, tunnels)| (pool.clone(), tunnels.len())).collect()
    }

    fn add(&self, pool: &Name, tunnel: Tunnel) {
        self.0.send_modify(|pools| pools.entry(pool.clone()).or_default().push(tunnel));
    }

    fn remove(&self, pool: &Name, id: usize) {
        self.0.send_modify(|pools| {
            if let Some(tunnels) = pools.get_mut(pool) {
                tunnels.retain(|tunnel| tunnel.connection.stable_id() != id);
                if tunnels.is_empty() {
                    pools.remove(pool);
                }
            }
        });
    }
}

/// Binds the listener that agents dial; [`accept`] serves it.
///
/// # Errors
/// When the credential or the address cannot be used.
pub(crate) fn listen(
    address: SocketAddr,
    credential: &RotatingCredential,
    revoked: Revocations,
) -> Result<Endpoint, TunnelsError> {
    let tls = tls::server_mtls_rotating(credential, revoked, &[ALPN])?;
    let quic = QuicServerConfig::try_from(tls).map_err(|error| TunnelsError::Quic(error.to_string()))?;
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(quic));
    let mut transport = TransportConfig::default();
    transport
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(IdleTimeout::try_from(IDLE).ok())
        // The control stream.
        .max_concurrent_bidi_streams(1_u32.into())
        .max_concurrent_uni_streams(0_u32.into())
        .datagram_receive_buffer_size(None)
        .stream_receive_window(STREAM_WINDOW.into());
    server.transport_config(Arc::new(transport)).max_incoming(HANDSHAKES);
    Endpoint::server(server, address).map_err(|source| TunnelsError::Listen { address, source })
}

/// Accepts and keeps tunnels until `stop`. All in one task: a tunnel's own work is done by QUIC's.
pub(crate) async fn accept(
    endpoint: Endpoint,
    gateway: Name,
    tunnels: Tunnels,
    revoked: Revocations,
    stop: CancellationToken,
) {
    let mut kept = FuturesUnordered::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(()) = kept.next() => {}
            incoming = endpoint.accept() => match incoming {
                None => break,
                Some(incoming) if kept.len() >= TUNNELS => {
                    metrics::tunnel_refused();
                    incoming.refuse();
                }
                Some(incoming) => kept.push(Box::pin(keep(incoming, &gateway, &tunnels, revoked.clone(), &stop))),
            },
        }
    }
    while kept.next().await.is_some() {}
    endpoint.close(VarInt::from_u32(0), b"gateway stops");
    let _ = tokio::time::timeout(Duration::from_secs(1), endpoint.wait_idle()).await;
}

async fn keep(incoming: Incoming, gateway: &Name, tunnels: &Tunnels, revoked: Revocations, stop: &CancellationToken) {
    let remote = incoming.remote_address();
    let greeted = match tokio::time::timeout(GREETING, greet(incoming, gateway)).await {
        Ok(greeted) => greeted,
        Err(_) => Err(GreetError::TimedOut),
    };
    let (connection, agent, pool, control) = match greeted {
        Ok(greeted) => greeted,
        Err(error) => {
            metrics::tunnel_refused();
            tracing::warn!(%remote, %error, "tunnel refused");
            return;
        }
    };
    let _alive = metrics::tunnel();
    tracing::info!(%agent, %pool, %remote, "tunnel up");
    let tunnel =
        Tunnel { agent: agent.clone(), connection: connection.clone(), streams: Arc::new(AtomicUsize::new(0)) };
    tunnels.add(&pool, tunnel);
    let why = tokio::select! {
        error = connection.closed() => error.to_string(),
        () = until_revoked(&connection, revoked) => {
            connection.close(REFUSED, b"the certificate was revoked");
            "the agent's certificate was revoked".to_owned()
        }
        () = stop.cancelled() => "the gateway stops".to_owned(),
    };
    tunnels.remove(&pool, connection.stable_id());
    drop(control);
    tracing::info!(%agent, %pool, why, "tunnel down");
}

/// Returns once the certificate that the agent has shown is good no more.
async fn until_revoked(connection: &Connection, mut revoked: Revocations) {
    let shown = connection.peer_identity().and_then(|shown| shown.downcast::<Vec<CertificateDer<'static>>>().ok());
    let serial = shown.and_then(|chain| serial_of(chain.first()?));
    // Without one, TLS would not have let it in.
    let Some(serial) = serial else { return };
    while !revoked.contains(&serial) {
        revoked.changed().await;
    }
}

#[derive(Debug, thiserror::Error)]
enum GreetError {
    #[error("{0}")]
    Connection(#[from] quinn::ConnectionError),
    #[error("greeting: {0}")]
    Wire(#[from] WireError),
    #[error("the certificate is not an agent's")]
    NotAnAgent,
    #[error("the greeting does not agree with the certificate of {0}")]
    Disagrees(NodeIdentity),
    #[error("no greeting in time")]
    TimedOut,
}

type Greeted = (Connection, Name, Name, (SendStream, RecvStream));

async fn greet(incoming: Incoming, gateway: &Name) -> Result<Greeted, GreetError> {
    let connection = incoming.await?;
    let identity = connection
        .peer_identity()
        .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok())
        .and_then(|chain| tls::peer_identity(&chain));
    let Some(identity @ NodeIdentity { role: NodeRole::Agent, .. }) = identity else {
        connection.close(REFUSED, b"not an agent");
        return Err(GreetError::NotAnAgent);
    };
    let Some(pool) = identity.pool.clone() else { return Err(GreetError::NotAnAgent) };
    let (mut send, mut recv) = connection.accept_bi().await?;
    let hello: Hello = tunnel_wire::read(&mut recv).await?;
    let agrees = hello.agent == identity.name.as_str() && hello.pool == pool.as_str() && hello.version >= VERSION;
    let refused = if agrees { "" } else { "the greeting does not agree with the certificate" };
    let welcome = Welcome { version: VERSION, gateway: gateway.to_string(), refused: refused.to_owned() };
    tunnel_wire::write(&mut send, &welcome).await?;
    if !agrees {
        drop(send.finish());
        // Leave the agent the time to read why.
        let _ = tokio::time::timeout(Duration::from_secs(1), connection.closed()).await;
        return Err(GreetError::Disagrees(identity));
    }
    Ok((connection, identity.name, pool, (send, recv)))
}

impl AsyncRead for TunnelStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
