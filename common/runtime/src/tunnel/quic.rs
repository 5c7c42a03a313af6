//! How QUIC is set up on both ends.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Endpoint, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, ServerConfig, TokioRuntime, TransportConfig};
use socket2::{Domain, Protocol, Socket, Type};

use super::{KEEP_ALIVE, SILENCE, STREAM_WINDOW};
use crate::tls::TlsError;

/// How long a path whose larger packets vanish is used with small ones, before larger ones are tried again.
const MTU_RETRY: Duration = Duration::from_secs(60);

/// The largest packet (UDP payload) that is tried on a path: much of what Ethernet's jumbo frames carry. Ten of them, which the kernel cuts out of one
/// send, stay below the 64 KiB that it takes.
const MTU_MOST: u16 = 6_400;
/// The kernel's usual buffers hold a hundred packets, which is less than comes while a busy worker looks elsewhere; it grants as much of this as the
/// system allows.
const SOCKET_BUFFER: usize = 4 << 20;

/// A socket for listening as `server` says, or for dialling. Port 0 is any.
///
/// # Errors
/// When the address cannot be bound.
pub fn endpoint(address: SocketAddr, server: Option<ServerConfig>) -> io::Result<Endpoint> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        // Both families, where the system has it so.
        let _ = socket.set_only_v6(false);
    }
    // Smaller ones are only slower.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    socket.bind(&address.into())?;
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(MTU_MOST).map_err(io::Error::other)?;
    Endpoint::new(config, server, socket.into(), Arc::new(TokioRuntime))
}

/// For dialling, from any address of either family.
///
/// # Errors
/// When the system gives no socket.
pub fn dialing_endpoint() -> io::Result<Endpoint> {
    endpoint((Ipv6Addr::UNSPECIFIED, 0).into(), None).or_else(|_| endpoint((Ipv4Addr::UNSPECIFIED, 0).into(), None))
}

/// For either end; the peer may have `streams` open at a time. Segmentation offload and the reading of many packets at once are quinn's
/// defaults; the largest packet that a path carries is searched for, and when larger ones stop coming through, small ones are sent.
#[must_use]
pub fn transport(streams: u32) -> TransportConfig {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.black_hole_cooldown(MTU_RETRY).upper_bound(MTU_MOST);
    let mut transport = TransportConfig::default();
    transport
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(IdleTimeout::try_from(SILENCE).ok())
        .max_concurrent_bidi_streams(streams.into())
        .max_concurrent_uni_streams(0_u32.into())
        .datagram_receive_buffer_size(None)
        .stream_receive_window(STREAM_WINDOW.into())
        .mtu_discovery_config(Some(mtu));
    transport
}

/// For the listening end. A peer whose address changes under way (a NAT that forgets) goes on.
///
/// # Errors
/// The TLS configuration is not fit for QUIC.
pub fn server_config(tls: rustls::ServerConfig, streams: u32, handshakes: usize) -> Result<ServerConfig, TlsError> {
    let quic = QuicServerConfig::try_from(tls).map_err(|error| TlsError::Quic(error.to_string()))?;
    let mut server = ServerConfig::with_crypto(Arc::new(quic));
    server.transport_config(Arc::new(transport(streams))).max_incoming(handshakes).migration(true);
    Ok(server)
}
