//! How QUIC is set up on both ends.

use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicServerConfig;
use quinn::{IdleTimeout, MtuDiscoveryConfig, ServerConfig, TransportConfig};

use super::{KEEP_ALIVE, SILENCE, STREAM_WINDOW};
use crate::tls::TlsError;

/// How long a path whose larger packets vanish is used with small ones, before larger ones are tried again.
const MTU_RETRY: Duration = Duration::from_secs(60);

/// For either end; the peer may have `streams` open at a time. Segmentation offload and the reading of many packets at once are quinn's
/// defaults; the largest packet that a path carries is searched for, and when larger ones stop coming through, small ones are sent.
#[must_use]
pub fn transport(streams: u32) -> TransportConfig {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.black_hole_cooldown(MTU_RETRY);
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
