//! Getting to a gateway: over QUIC, and where that does not get through over TCP.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use postern_core::node::GATEWAYS_NAME;
use postern_protocols::tunnel::{ALPN, ALPN_ENROL, ALPN_ENROL_TCP, ALPN_TCP};
use postern_runtime::pki::{Revocations, RotatingCredential};
use postern_runtime::supervisor::{OnEnd, Supervisor};
use postern_runtime::tls::{self, TlsError};
use postern_runtime::tunnel::mux::{Mux, MuxLimits, Side};
use postern_runtime::tunnel::{Link, cause, dialing_endpoint, transport};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Endpoint, VarInt};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// One address, by either way, TLS included.
const CONNECT: Duration = Duration::from_secs(5);
/// TCP is tried as well when QUIC has not come through by then.
const TCP_AFTER: Duration = Duration::from_secs(1);
/// The same where UDP has shown that it passes: the gateway has much to do, and a second handshake would be one more.
const TCP_LATER: Duration = Duration::from_secs(4);
/// For so long an answer over UDP shows that.
const UDP_SHOWN: Duration = Duration::from_secs(60);
/// Addresses of one name that are tried.
const ADDRESSES: usize = 8;
/// Streams that we may have open to a gateway over TCP; over QUIC the gateway says how many.
const STREAMS_OUT: usize = 4;

/// Where a gateway is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// `host:port`, UDP.
    pub(crate) quic: Vec<String>,
    /// `host:port`, TCP.
    pub(crate) tcp: Vec<String>,
}

impl Place {
    /// For the log.
    pub(crate) fn address(&self) -> &str {
        self.quic.first().or(self.tcp.first()).map_or("", String::as_str)
    }
}

/// No link.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("cannot resolve: {0}")]
    Resolve(std::io::Error),
    #[error("cannot dial: {0}")]
    Connect(#[from] quinn::ConnectError),
    #[error("{0}")]
    Connection(#[from] quinn::ConnectionError),
    #[error("over TCP: {0}")]
    Tcp(std::io::Error),
    #[error("no answer in time")]
    TimedOut,
    #[error("{quic}; {tcp}")]
    Both { quic: Box<DialError>, tcp: Box<DialError> },
    #[error("no socket: {0}")]
    Socket(std::io::Error),
    #[error("it has no address")]
    NoAddress,
}

impl DialError {
    /// Whether the gateway has said, over QUIC, that it takes nobody more now.
    fn is_busy(&self) -> bool {
        use quinn::{ConnectionError, TransportErrorCode};
        matches!(self, Self::Connection(ConnectionError::ConnectionClosed(close)) if close.error_code == TransportErrorCode::CONNECTION_REFUSED)
    }
}

/// Whether a connection's end is something that the peer has said.
const fn is_answer(why: &quinn::ConnectionError) -> bool {
    use quinn::ConnectionError::{ApplicationClosed, ConnectionClosed, Reset};
    matches!(why, ApplicationClosed(_) | ConnectionClosed(_) | Reset)
}

/// Closes its link when it is dropped.
#[derive(Debug)]
pub(crate) struct Own(pub(crate) Link);

impl Drop for Own {
    fn drop(&mut self) {
        self.0.close(cause::NONE, "the agent goes");
    }
}

/// Dials gateways. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Dialer {
    quic: ClientConfig,
    tls: TlsConnectorConfig,
    supervisor: Supervisor,
    streams: u32,
    udp: Arc<Mutex<Udp>>,
}

/// The socket of all tunnels over QUIC, and whether UDP passes, as far as was seen.
#[derive(Debug, Default)]
struct Udp {
    /// quinn holds megabytes for each of them.
    endpoint: Option<Endpoint>,
    /// Connections that are up.
    up: usize,
    /// When a gateway last answered.
    answered: Option<Instant>,
}

#[derive(Clone, Debug)]
struct TlsConnectorConfig(Arc<rustls::ClientConfig>);

impl Dialer {
    /// For tunnels: with the node's certificate, to gateways of the own cluster that are not revoked. They may have `streams` open at a time.
    pub(crate) fn new(
        credential: &RotatingCredential,
        revoked: &Revocations,
        supervisor: Supervisor,
        streams: u32,
    ) -> Result<Self, TlsError> {
        let over = |alpn: &[u8]| tls::client_mtls_rotating(credential, revoked.clone(), &[alpn]);
        Self::of(over(ALPN)?, over(ALPN_TCP)?, supervisor, streams)
    }

    /// For those who are not let in yet. Whoever answers is taken for a gateway: what passes is between the agent and the control plane.
    pub(crate) fn stranger(supervisor: Supervisor) -> Result<Self, TlsError> {
        Self::of(tls::client_unverified(&[ALPN_ENROL])?, tls::client_unverified(&[ALPN_ENROL_TCP])?, supervisor, 0)
    }

    fn of(
        quic: rustls::ClientConfig,
        tcp: rustls::ClientConfig,
        supervisor: Supervisor,
        streams: u32,
    ) -> Result<Self, TlsError> {
        let quic = QuicClientConfig::try_from(quic).map_err(|error| TlsError::Quic(error.to_string()))?;
        let mut quic = ClientConfig::new(Arc::new(quic));
        quic.transport_config(Arc::new(transport(streams)));
        Ok(Self { quic, tls: TlsConnectorConfig(Arc::new(tcp)), supervisor, streams, udp: Arc::default() })
    }

    fn udp(&self) -> std::sync::MutexGuard<'_, Udp> {
        self.udp.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One for all tunnels, until it is [`Self::renew`]ed.
    fn endpoint(&self) -> std::io::Result<Endpoint> {
        let mut udp = self.udp();
        if let Some(endpoint) = &udp.endpoint {
            return Ok(endpoint.clone());
        }
        Ok(udp.endpoint.insert(dialing_endpoint()?).clone())
    }

    /// Nothing came back to this socket: whatever stands in the way of it may not stand in the way of another. Its connections keep it.
    fn renew(&self, endpoint: &Endpoint) {
        let mut udp = self.udp();
        if udp.endpoint.as_ref().is_some_and(|known| known.local_addr().ok() == endpoint.local_addr().ok()) {
            udp.endpoint = None;
        }
    }

    fn udp_passes(&self) -> bool {
        let udp = self.udp();
        udp.up > 0 || udp.answered.is_some_and(|at| at.elapsed() < UDP_SHOWN)
    }

    /// Over QUIC first; when that has not come through after a moment, over TCP as well, and whichever is first.
    pub(crate) async fn dial(&self, place: &Place) -> Result<Own, DialError> {
        if place.quic.is_empty() && place.tcp.is_empty() {
            return Err(DialError::NoAddress);
        }
        if place.quic.is_empty() {
            return self.tcp(&place.tcp).await;
        }
        let (quic, tcp) = (self.quic(&place.quic), self.tcp(&place.tcp));
        tokio::pin!(quic, tcp);
        let patience = if self.udp_passes() { TCP_LATER } else { TCP_AFTER };
        let failed = match tokio::time::timeout(patience, &mut quic).await {
            Ok(Ok(link)) => return Ok(link),
            // It is there, and has too many at its door: it would say the same over TCP.
            Ok(Err(error)) if error.is_busy() => return Err(error),
            Ok(Err(error)) => Some(error),
            Err(_) => None,
        };
        if place.tcp.is_empty() {
            return match failed {
                Some(error) => Err(error),
                None => quic.await,
            };
        }
        let both = |quic, tcp| DialError::Both { quic: Box::new(quic), tcp: Box::new(tcp) };
        if let Some(error) = failed {
            return tcp.await.map_err(|tcp| both(error, tcp));
        }
        tokio::select! {
            dialled = &mut quic => match dialled {
                Ok(link) => Ok(link),
                Err(error) if error.is_busy() => Err(error),
                Err(error) => tcp.await.map_err(|tcp| both(error, tcp)),
            },
            dialled = &mut tcp => match dialled {
                Ok(link) => Ok(link),
                Err(tcp) => quic.await.map_err(|quic| both(quic, tcp)),
            },
        }
    }

    /// Over QUIC.
    pub(crate) async fn quic(&self, addresses: &[String]) -> Result<Own, DialError> {
        let endpoint = self.endpoint().map_err(DialError::Socket)?;
        let v6 = endpoint.local_addr().is_ok_and(|local| local.is_ipv6());
        let mut last = DialError::NoAddress;
        for address in addresses {
            let resolved = match resolve(address).await {
                Ok(resolved) => resolved,
                Err(error) => {
                    last = error;
                    continue;
                }
            };
            for address in resolved {
                // A socket of both families speaks to IPv4 peers in IPv6 form.
                let address = match address {
                    SocketAddr::V4(v4) if v6 => SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port())),
                    other => other,
                };
                let connecting = endpoint.connect_with(self.quic.clone(), address, GATEWAYS_NAME);
                // A socket that has failed does not come back.
                let connecting = connecting.inspect_err(|_| self.renew(&endpoint))?;
                match tokio::time::timeout(CONNECT, connecting).await {
                    Ok(Ok(connection)) => {
                        self.linger(endpoint, connection.clone());
                        return Ok(Own(Link::quic(connection)));
                    }
                    Ok(Err(error)) => {
                        if is_answer(&error) {
                            self.udp().answered = Some(Instant::now());
                        }
                        last = error.into();
                    }
                    Err(_) => {
                        self.renew(&endpoint);
                        last = DialError::TimedOut;
                    }
                }
            }
        }
        Err(last)
    }

    /// Keeps the socket until the peer has heard of the connection's end; a lost packet is caught by its own idle timeout.
    fn linger(&self, endpoint: Endpoint, connection: quinn::Connection) {
        let stop = self.supervisor.sessions_ended_token();
        self.udp().up += 1;
        let this = self.clone();
        self.supervisor.spawn("tunnel-socket", OnEnd::EndPart, async move {
            let answered = tokio::select! {
                why = connection.closed() => {
                    if matches!(why, quinn::ConnectionError::TimedOut) {
                        this.renew(&endpoint);
                    }
                    is_answer(&why)
                }
                () = stop.cancelled() => {
                    connection.close(VarInt::from_u32(cause::STOPPING), b"the agent stops");
                    false
                }
            };
            {
                let mut udp = this.udp();
                udp.up = udp.up.saturating_sub(1);
                if answered {
                    udp.answered = Some(Instant::now());
                }
            }
            let _ = tokio::time::timeout(Duration::from_secs(1), endpoint.wait_idle()).await;
        });
    }

    /// Over TLS over TCP.
    pub(crate) async fn tcp(&self, addresses: &[String]) -> Result<Own, DialError> {
        let mut last = DialError::NoAddress;
        for address in addresses {
            let resolved = match resolve(address).await {
                Ok(resolved) => resolved,
                Err(error) => {
                    last = error;
                    continue;
                }
            };
            for address in resolved {
                match tokio::time::timeout(CONNECT, self.tcp_at(address)).await {
                    Ok(Ok(link)) => return Ok(link),
                    Ok(Err(error)) => last = DialError::Tcp(error),
                    Err(_) => last = DialError::TimedOut,
                }
            }
        }
        Err(last)
    }

    async fn tcp_at(&self, address: SocketAddr) -> std::io::Result<Own> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(GATEWAYS_NAME).map_err(std::io::Error::other)?;
        let stream = TlsConnector::from(Arc::clone(&self.tls.0)).connect(name, stream).await?;
        let (_, session) = stream.get_ref();
        let chain = session.peer_certificates().map(<[_]>::to_vec).unwrap_or_default();
        let alpn = session.alpn_protocol().map(<[u8]>::to_vec).unwrap_or_default();
        let limits = MuxLimits { incoming: usize::try_from(self.streams).unwrap_or(usize::MAX), outgoing: STREAMS_OUT };
        let (mux, driver) = Mux::new(stream, Side::Dialer, address, limits);
        self.supervisor.spawn("tunnel-mux", OnEnd::EndPart, driver);
        Ok(Own(Link::tcp(mux, &chain, &alpn)))
    }
}

async fn resolve(address: &str) -> Result<Vec<SocketAddr>, DialError> {
    Ok(tokio::net::lookup_host(address).await.map_err(DialError::Resolve)?.take(ADDRESSES).collect())
}
