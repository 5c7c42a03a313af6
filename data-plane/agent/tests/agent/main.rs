//! The agent against a gateway that is played here: what it opens, what it refuses, how streams end.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod bad_input;
mod black_hole;
mod fleet;
mod logged;
mod played;
mod revoked;
mod sparing;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use postern_agent::AgentConfig;
use postern_core::node::{NodeIdentity, NodeRole};
use postern_protocols::tunnel::{self, ALPN, Hello, Open, OpenStatus, Opened, Welcome};
use postern_runtime::clock;
use postern_runtime::pki::{Authority, KeyRequest, NodeCredential};
use postern_runtime::supervisor::Supervisor;
use postern_runtime::tls;
use prost::Message;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, Endpoint, RecvStream, SendStream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const LIMIT: Duration = Duration::from_secs(10);

fn credential(authority: &Authority, role: NodeRole, pool: Option<&str>) -> NodeCredential {
    let identity = NodeIdentity { role, name: "one".parse().unwrap(), pool: pool.map(|pool| pool.parse().unwrap()) };
    let request = KeyRequest::generate().unwrap();
    let certificate_pem =
        authority.issue(&identity, &request.csr_der, &[], clock::now(), Duration::from_secs(3600)).unwrap();
    NodeCredential { certificate_pem, key_pem: request.key_pem, ca_pem: authority.ca_pem().to_owned() }
}

fn listen(authority: &Authority, role: NodeRole, address: SocketAddr) -> Endpoint {
    let pool = (role == NodeRole::Agent).then_some("lab");
    let tls = tls::server_mtls(&credential(authority, role, pool), &[ALPN]).unwrap();
    let quic = QuicServerConfig::try_from(tls).unwrap();
    Endpoint::server(quinn::ServerConfig::with_crypto(Arc::new(quic)), address).unwrap()
}

async fn start(authority: &Authority, gateway: SocketAddr, allow: serde_json::Value) -> Supervisor {
    let config: AgentConfig =
        serde_json::from_value(serde_json::json!({"gateways": [gateway.to_string()], "allow": allow})).unwrap();
    let supervisor = Supervisor::new();
    let credential = credential(authority, NodeRole::Agent, Some("lab"));
    postern_agent::run(config, credential, supervisor.clone()).await.unwrap();
    supervisor
}

async fn read<M: Message + Default>(from: &mut RecvStream) -> M {
    let mut frame = BytesMut::zeroed(4);
    from.read_exact(&mut frame).await.unwrap();
    let size = usize::try_from(u32::from_be_bytes(frame[..4].try_into().unwrap())).unwrap();
    frame.resize(4 + size, 0);
    from.read_exact(&mut frame[4..]).await.unwrap();
    tunnel::decode(&mut frame).unwrap().unwrap()
}

/// Takes the agent's next tunnel in.
async fn welcome(endpoint: &Endpoint) -> (Connection, SendStream) {
    let accepted = tokio::time::timeout(LIMIT, async {
        let connection = endpoint.accept().await.unwrap().await.unwrap();
        let (mut send, mut recv) = connection.accept_bi().await.unwrap();
        let hello: Hello = read(&mut recv).await;
        assert_eq!((hello.agent.as_str(), hello.pool.as_str()), ("one", "lab"));
        assert_eq!((hello.version_min, hello.version), (1, 2));
        // As gateways of before: the tunnel speaks version 1.
        let welcome = Welcome { version: 1, gateway: "one".into(), ..Welcome::default() };
        send.write_all(&tunnel::frame(&welcome).unwrap()).await.unwrap();
        (connection, send)
    });
    accepted.await.unwrap()
}

async fn open(connection: &Connection, address: &str) -> (SendStream, RecvStream, Opened) {
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    let request = Open {
        address: address.into(),
        session: "ses".into(),
        target: "db".into(),
        connect_timeout_ms: 2_000,
        ..Open::default()
    };
    send.write_all(&tunnel::frame(&request).unwrap()).await.unwrap();
    let opened = tokio::time::timeout(LIMIT, read(&mut recv)).await.unwrap();
    (send, recv, opened)
}

fn local() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

#[tokio::test]
async fn bytes_pass_both_ways_and_ends_are_passed_on() {
    let authority = Authority::create("test").unwrap();
    let endpoint = listen(&authority, NodeRole::Gateway, local());
    let target = TcpListener::bind(local()).await.unwrap();
    let address = target.local_addr().unwrap();
    let allow = serde_json::json!([{"hosts": ["127.0.0.1"], "ports": [address.port().to_string()]}]);
    let _agent = start(&authority, endpoint.local_addr().unwrap(), allow).await;
    let (connection, _control) = welcome(&endpoint).await;

    // The target reads to the end of its input, and only then answers: a half-close must reach it.
    let served = async {
        let (mut stream, _) = target.accept().await.unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        stream.write_all(&all).await.unwrap();
        all.len()
    };
    let asked = async {
        let (mut send, mut recv, opened) = open(&connection, &address.to_string()).await;
        assert_eq!(opened.status(), OpenStatus::Connected, "{}", opened.detail);
        let sent: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        send.write_all(&sent).await.unwrap();
        send.finish().unwrap();
        let back = recv.read_to_end(4_000_000).await.unwrap();
        assert!(back == sent);
    };
    let (size, ()) = tokio::time::timeout(LIMIT, async { tokio::join!(served, asked) }).await.unwrap();
    assert_eq!(size, 3_000_000);
}

#[tokio::test]
async fn breaks_are_passed_on_as_breaks() {
    let authority = Authority::create("test").unwrap();
    let endpoint = listen(&authority, NodeRole::Gateway, local());
    let target = TcpListener::bind(local()).await.unwrap();
    let address = target.local_addr().unwrap();
    let allow = serde_json::json!([{"hosts": ["127.0.0.1"], "ports": ["1-65535"]}]);
    let _agent = start(&authority, endpoint.local_addr().unwrap(), allow).await;
    let (connection, _control) = welcome(&endpoint).await;

    // The target resets: the gateway sees no orderly end.
    let reset = async {
        let (mut stream, _) = target.accept().await.unwrap();
        stream.read_exact(&mut [0; 1]).await.unwrap();
        stream.set_zero_linger().unwrap();
        drop(stream);
    };
    let asked = async {
        let (mut send, mut recv, _) = open(&connection, &address.to_string()).await;
        send.write_all(b"x").await.unwrap();
        assert!(recv.read_to_end(10).await.is_err(), "a reset became an orderly end");
    };
    tokio::time::timeout(LIMIT, async { tokio::join!(reset, asked) }).await.unwrap();

    // The gateway resets: so does the target's side.
    let seen = async {
        let (mut stream, _) = target.accept().await.unwrap();
        let mut byte = [0; 1];
        stream.read(&mut byte).await
    };
    let asked = async {
        let (mut send, _recv, _) = open(&connection, &address.to_string()).await;
        send.reset(7_u32.into()).unwrap();
    };
    let (seen, ()) = tokio::time::timeout(LIMIT, async { tokio::join!(seen, asked) }).await.unwrap();
    assert!(seen.is_err(), "{seen:?}");

    // The gateway lets go of both: the target's connection ends even if the target says nothing.
    let seen = async {
        let (mut stream, _): (TcpStream, _) = target.accept().await.unwrap();
        let mut byte = [0; 1];
        let _ = stream.read(&mut byte).await;
        loop {
            if stream.write_all(&[0; 1024]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let asked = async { drop(open(&connection, &address.to_string()).await) };
    tokio::time::timeout(LIMIT, async { tokio::join!(seen, asked) }).await.unwrap();
}

#[tokio::test]
async fn what_is_not_allowed_or_not_there_is_refused() {
    let authority = Authority::create("test").unwrap();
    let endpoint = listen(&authority, NodeRole::Gateway, local());
    let closed = TcpListener::bind(local()).await.unwrap().local_addr().unwrap();
    // No address is listed: what a listed name resolves to must not be this host.
    let allow = serde_json::json!([
        {"hosts": ["127.0.0.1"], "ports": [closed.port()]},
        {"hosts": ["no-such-host.invalid"], "ports": ["80"]},
    ]);
    let _agent = start(&authority, endpoint.local_addr().unwrap(), allow).await;
    let (connection, _control) = welcome(&endpoint).await;
    for (address, status) in [
        (closed.to_string(), OpenStatus::Refused),
        ("127.0.0.1:1".to_owned(), OpenStatus::Forbidden),
        ("localhost:80".to_owned(), OpenStatus::Forbidden),
        ("169.254.169.254:80".to_owned(), OpenStatus::Forbidden),
        ("no-such-host.invalid:80".to_owned(), OpenStatus::Unresolved),
        ("nonsense".to_owned(), OpenStatus::Failed),
    ] {
        let (_, _, opened) = open(&connection, &address).await;
        assert_eq!(opened.status(), status, "{address}: {}", opened.detail);
    }
    // A stream that begins with no request is cut off, and the tunnel lives on.
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(&[0xff; 64]).await.unwrap();
    assert!(tokio::time::timeout(LIMIT, recv.read_to_end(10)).await.unwrap().is_err());
    let (_, _, opened) = open(&connection, &closed.to_string()).await;
    assert_eq!(opened.status(), OpenStatus::Refused);
}

#[tokio::test]
async fn a_lost_tunnel_is_dialled_again() {
    let authority = Authority::create("test").unwrap();
    let endpoint = listen(&authority, NodeRole::Gateway, local());
    let agent = start(&authority, endpoint.local_addr().unwrap(), serde_json::json!([])).await;
    for _ in 0..2 {
        let (connection, _control) = welcome(&endpoint).await;
        connection.close(1_u32.into(), b"lost");
    }
    let (_connection, _control) = welcome(&endpoint).await;
    assert!(agent.drain(LIMIT).await.all_ended);
}

#[tokio::test]
async fn only_a_gateway_of_the_cluster_is_served() {
    let (ours, theirs) = (Authority::create("ours").unwrap(), Authority::create("theirs").unwrap());
    for (authority, role) in [(&theirs, NodeRole::Gateway), (&ours, NodeRole::Agent)] {
        let endpoint = listen(authority, role, local());
        let _agent = start(&ours, endpoint.local_addr().unwrap(), serde_json::json!([])).await;
        let accepted = tokio::time::timeout(LIMIT, endpoint.accept()).await.unwrap().unwrap();
        let greeted = async {
            let connection = accepted.await.map_err(drop)?;
            let (_, mut recv) = connection.accept_bi().await.map_err(drop)?;
            let mut byte = [0; 1];
            recv.read_exact(&mut byte).await.map_err(drop)
        };
        let greeted = tokio::time::timeout(Duration::from_secs(3), greeted).await;
        assert!(!matches!(greeted, Ok(Ok(()))), "a stranger was greeted");
    }
}
