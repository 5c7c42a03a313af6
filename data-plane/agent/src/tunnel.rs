//! One tunnel to one gateway: dialled, kept, dialled again.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use postern_core::Name;
use postern_core::node::{GATEWAYS_NAME, NodeRole};
use postern_proto::tunnel::v1::{Hello, Welcome};
use postern_protocols::tunnel::ALPN;
use postern_runtime::backoff::Backoff;
use postern_runtime::ops::Readiness;
use postern_runtime::pki::NodeCredential;
use postern_runtime::supervisor::{OnEnd, Supervisor};
use postern_runtime::tls;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint, IdleTimeout, TransportConfig, VarInt};
use rustls::pki_types::CertificateDer;
use tokio::sync::Semaphore;

use crate::AgentError;
use crate::allow::AllowList;
use crate::serve;
use crate::wire;

const VERSION: u32 = 1;
const KEEP_ALIVE: Duration = Duration::from_secs(5);
const IDLE: Duration = Duration::from_secs(20);
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Bytes that the gateway may have in flight on one stream: memory is at most this times the streams (I11).
const STREAM_WINDOW: u32 = 512 << 10;

pub(crate) struct Shared {
    pub(crate) agent: Name,
    pub(crate) pool: Name,
    pub(crate) client: ClientConfig,
    pub(crate) allow: AllowList,
    pub(crate) streams: Arc<Semaphore>,
    pub(crate) supervisor: Supervisor,
    pub(crate) readiness: Readiness,
    pub(crate) tunnels: AtomicUsize,
}

#[derive(Debug, thiserror::Error)]
enum TunnelError {
    #[error("cannot resolve: {0}")]
    Resolve(std::io::Error),
    #[error("cannot dial: {0}")]
    Connect(#[from] quinn::ConnectError),
    #[error("{0}")]
    Connection(#[from] quinn::ConnectionError),
    #[error("greeting: {0}")]
    Wire(#[from] wire::WireError),
    #[error("no greeting in time")]
    TimedOut,
    #[error("the peer's certificate is not a gateway's")]
    NotAGateway,
    #[error("refused by the gateway: {0}")]
    Refused(String),
}

pub(crate) fn client_config(credential: &NodeCredential, max_streams: u32) -> Result<ClientConfig, AgentError> {
    let tls = tls::client_mtls(credential, &[ALPN])?;
    let quic = QuicClientConfig::try_from(tls).map_err(|error| AgentError::Quic(error.to_string()))?;
    let mut client = ClientConfig::new(Arc::new(quic));
    let mut transport = TransportConfig::default();
    transport
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(IdleTimeout::try_from(IDLE).ok())
        .max_concurrent_bidi_streams(max_streams.into())
        .max_concurrent_uni_streams(0_u32.into())
        .datagram_receive_buffer_size(None)
        .stream_receive_window(STREAM_WINDOW.into());
    client.transport_config(Arc::new(transport));
    Ok(client)
}

/// A socket of either family, IPv6 with IPv4 where the system has it.
pub(crate) fn endpoint() -> std::io::Result<Endpoint> {
    Endpoint::client(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)))
        .or_else(|_| Endpoint::client(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))))
}

/// Keeps a tunnel to `gateway` until the node's sessions have ended.
pub(crate) async fn keep(endpoint: Endpoint, gateway: String, shared: Arc<Shared>) {
    let stop = shared.supervisor.sessions_ended_token();
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    let mut told = false;
    loop {
        let began = Instant::now();
        let error = tokio::select! {
            () = stop.cancelled() => break,
            ended = once(&endpoint, &gateway, &shared) => match ended {
                Ok(never) => match never {},
                Err(error) => error,
            },
        };
        if began.elapsed() > IDLE {
            backoff.reset();
            told = false;
        }
        metrics::counter!("postern_agent_tunnel_failures_total").increment(1);
        if !told {
            tracing::warn!(%gateway, %error, "no tunnel to the gateway: trying again");
            told = true;
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(backoff.next_delay()) => {}
        }
    }
    endpoint.close(VarInt::from_u32(0), b"agent stops");
    // The peer should hear of it; a lost packet is caught by its idle timeout.
    let _ = tokio::time::timeout(Duration::from_secs(1), endpoint.wait_idle()).await;
}

async fn once(
    endpoint: &Endpoint,
    gateway: &str,
    shared: &Arc<Shared>,
) -> Result<std::convert::Infallible, TunnelError> {
    let greeted = async {
        let connection = dial(endpoint, gateway, shared).await?;
        if !is_gateway(&connection) {
            return Err(TunnelError::NotAGateway);
        }
        let (mut send, mut recv) = connection.open_bi().await?;
        let hello =
            Hello { version: VERSION, agent: shared.agent.to_string(), pool: shared.pool.to_string(), version_min: 0 };
        wire::write(&mut send, &hello).await?;
        let welcome: Welcome = wire::read(&mut recv).await?;
        if !welcome.refused.is_empty() {
            return Err(TunnelError::Refused(welcome.refused));
        }
        Ok((connection, welcome, (send, recv)))
    };
    let (connection, welcome, _control) =
        tokio::time::timeout(HANDSHAKE, greeted).await.map_err(|_| TunnelError::TimedOut)??;
    tracing::info!(gateway = welcome.gateway, address = gateway, "tunnel up");
    let _up = Up::new(shared);
    loop {
        let (send, recv) = connection.accept_bi().await?;
        let shared = Arc::clone(shared);
        let supervisor = shared.supervisor.clone();
        // Streams are bounded by what QUIC lets the peer open.
        supervisor.spawn("stream", OnEnd::EndSession, serve::stream(send, recv, shared));
    }
}

async fn dial(endpoint: &Endpoint, gateway: &str, shared: &Shared) -> Result<Connection, TunnelError> {
    let addresses: Vec<SocketAddr> =
        tokio::net::lookup_host(gateway).await.map_err(TunnelError::Resolve)?.take(8).collect();
    let v6 = endpoint.local_addr().is_ok_and(|local| local.is_ipv6());
    let mut last = None;
    for address in addresses {
        // A socket of both families speaks to IPv4 peers in IPv6 form.
        let address = match address {
            SocketAddr::V4(v4) if v6 => SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port())),
            other => other,
        };
        match endpoint.connect_with(shared.client.clone(), address, GATEWAYS_NAME) {
            Ok(connecting) => match connecting.await {
                Ok(connection) => return Ok(connection),
                Err(error) => last = Some(TunnelError::Connection(error)),
            },
            Err(error) => last = Some(TunnelError::Connect(error)),
        }
    }
    Err(last.unwrap_or_else(|| TunnelError::Resolve(std::io::Error::other("no address"))))
}

fn is_gateway(connection: &Connection) -> bool {
    connection
        .peer_identity()
        .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok())
        .and_then(|chain| tls::peer_identity(&chain))
        .is_some_and(|node| node.role == NodeRole::Gateway)
}

struct Up<'a>(&'a Shared);

impl<'a> Up<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.tunnels.fetch_add(1, Ordering::SeqCst);
        shared.readiness.set("tunnel", true);
        metrics::gauge!("postern_agent_tunnels_open").increment(1.0);
        Self(shared)
    }
}

impl Drop for Up<'_> {
    fn drop(&mut self) {
        let left = self.0.tunnels.fetch_sub(1, Ordering::SeqCst).saturating_sub(1);
        self.0.readiness.set("tunnel", left > 0);
        metrics::gauge!("postern_agent_tunnels_open").decrement(1.0);
    }
}
