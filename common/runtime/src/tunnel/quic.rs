//! How QUIC is set up on both ends.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Endpoint, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, ServerConfig, TokioRuntime, TransportConfig};
use quinn_proto::HashedConnectionIdGenerator;
use socket2::{Domain, Protocol, Socket, Type};

use super::{KEEP_ALIVE, PEER_KEEP_ALIVE, PEER_SILENCE, SILENCE, STREAM_WINDOW};
use crate::pki::NodeCredential;
use crate::tls::TlsError;

/// How long a path whose larger packets vanish is used with small ones, before larger ones are tried again.
const MTU_RETRY: Duration = Duration::from_secs(60);
/// Between two answers to packets of connections that this endpoint does not know: each is smaller than what it answers.
const RESET_EVERY: Duration = Duration::from_millis(2);

/// The largest packet (UDP payload) that is tried on a path: much of what Ethernet's jumbo frames carry. Ten of them, which the kernel cuts out of one
/// send, stay below the 64 KiB that it takes.
const MTU_MOST: u16 = 6_400;
/// The kernel's usual buffers hold a hundred packets, which is less than comes while a busy worker looks elsewhere; it grants as much of this as the
/// system allows.
const SOCKET_BUFFER: usize = 4 << 20;

/// For dialling, from any address of either family.
///
/// # Errors
/// When the system gives no socket.
pub fn dialing_endpoint() -> io::Result<Endpoint> {
    let socket = socket((Ipv6Addr::UNSPECIFIED, 0).into()).or_else(|_| socket((Ipv4Addr::UNSPECIFIED, 0).into()))?;
    Endpoint::new(config()?, None, socket.into(), Arc::new(TokioRuntime))
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        // Both families, where the system has it so.
        let _ = socket.set_only_v6(false);
    }
    // Smaller ones are only slower.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    socket.bind(&address.into())?;
    Ok(socket)
}

fn config() -> io::Result<EndpointConfig> {
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(MTU_MOST).map_err(io::Error::other)?;
    Ok(config)
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

/// For the dialling end of a link between two gateways: sessions hang on one that fell silent, and the network between gateways is a better
/// one than that of agents. Half a dozen signs of life, each of them repeated until it is answered, are not lost by chance, not even when
/// every fifth packet is. The lower of both ends' patience counts, so the listening end need not know.
#[must_use]
pub fn peer_transport(streams: u32) -> TransportConfig {
    let mut transport = transport(streams);
    transport.keep_alive_interval(Some(PEER_KEEP_ALIVE)).max_idle_timeout(IdleTimeout::try_from(PEER_SILENCE).ok());
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

/// The listening end at `address`. Peers whose connections are of a former life of the same node (the same private key) are told at once that
/// they are gone (RFC 9000, section 10.3): a node that was killed and is there again is not taken for a silent one.
///
/// # Errors
/// When there is no socket, or the credential's key cannot be read.
pub fn listen(server: ServerConfig, address: SocketAddr, credential: &NodeCredential) -> io::Result<Endpoint> {
    let derived = |purpose: &[u8]| credential.derive_key(purpose).map_err(io::Error::other);
    let resets = derived(b"postern tunnel stateless reset v1")?;
    let names = derived(b"postern tunnel connection ids v1")?;
    let names = names.first_chunk().copied().map(u64::from_be_bytes).unwrap_or_default();
    let mut config = config()?;
    config
        .reset_key(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &*resets)))
        .min_reset_interval(RESET_EVERY)
        // What does not bear the mark of this key is dropped unread: a former life's connections must bear it.
        .cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(names)));
    Endpoint::new(config, Some(server), socket(address)?.into(), Arc::new(TokioRuntime))
}

#[cfg(test)]
mod tests {
    use postern_core::node::{NodeIdentity, NodeRole};
    use quinn::ConnectionError;
    use quinn::crypto::rustls::QuicClientConfig;

    use super::*;
    use crate::clock;
    use crate::pki::{Authority, KeyRequest};
    use crate::tls;

    const LIMIT: Duration = Duration::from_secs(30);

    fn credential(authority: &Authority) -> NodeCredential {
        let identity = NodeIdentity { role: NodeRole::Gateway, name: "one".parse().unwrap(), pool: None };
        let request = KeyRequest::generate().unwrap();
        let hour = Duration::from_secs(3600);
        let certificate_pem = authority.issue(&identity, &request.csr_der, &[], clock::now(), hour).unwrap();
        NodeCredential { certificate_pem, key_pem: request.key_pem, ca_pem: authority.ca_pem().to_owned() }
    }

    fn server(credential: &NodeCredential) -> ServerConfig {
        server_config(tls::server_mtls(credential, &[b"x"]).unwrap(), 4, 4).unwrap()
    }

    /// Killed, nobody is told; there again, it tells whoever speaks to it as to the former one, long before silence would.
    #[test]
    fn a_node_that_was_killed_and_is_back_says_that_connections_are_gone() {
        let credential = credential(&Authority::create("test").unwrap());
        let first_life = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let endpoint = {
            let _inside = first_life.enter();
            listen(server(&credential), "127.0.0.1:0".parse().unwrap(), &credential).unwrap()
        };
        let address = endpoint.local_addr().unwrap();
        first_life.spawn(async move {
            let connection = endpoint.accept().await.unwrap().await.unwrap();
            let (mut send, mut recv) = connection.accept_bi().await.unwrap();
            send.write_all(&recv.read_to_end(1).await.unwrap()).await.unwrap();
            send.finish().unwrap();
            connection.closed().await;
        });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let own = tls::client_mtls(&credential, &[b"x"]).unwrap();
        let mut client = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(own).unwrap()));
        let mut often = transport(4);
        often.keep_alive_interval(Some(Duration::from_millis(100)));
        client.transport_config(Arc::new(often));
        let connection = runtime.block_on(async {
            let dialler = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
            dialler.connect_with(client, address, postern_core::node::GATEWAYS_NAME).unwrap().await
        });
        let connection = connection.unwrap();
        // Once both know that the handshake is over.
        runtime.block_on(async {
            let (mut send, mut recv) = connection.open_bi().await.unwrap();
            send.write_all(b".").await.unwrap();
            send.finish().unwrap();
            assert_eq!(recv.read_to_end(1).await.unwrap(), b".");
        });
        first_life.shutdown_timeout(LIMIT);
        runtime.block_on(async {
            let began = std::time::Instant::now();
            let second_life = loop {
                match listen(server(&credential), address, &credential) {
                    Ok(endpoint) => break endpoint,
                    Err(error) => assert!(began.elapsed() < LIMIT, "{error}"),
                }
            };
            let why = tokio::time::timeout(LIMIT, connection.closed()).await.unwrap();
            assert!(matches!(why, ConnectionError::Reset), "{why}");
            assert!(began.elapsed() < SILENCE / 2, "{:?}", began.elapsed());
            drop(second_life);
        });
    }
}
