//! A path between a gateway and its agent that swallows everything once the tunnel is up: sessions over it end with a clear error in time,
//! new ones go another way.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use postern_core::node::GATEWAYS_NAME;
use postern_protocols::tunnel::{ALPN, ALPN_TCP};
use postern_runtime::tls;
use postern_runtime::tunnel::mux::{Mux, MuxLimits, Side};
use postern_runtime::tunnel::{Link, transport};
use quinn::Endpoint;
use quinn::crypto::rustls::QuicClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio_rustls::TlsConnector;

use crate::house::{House, spawn};
use crate::tunnels::{agent, counted, dial, greet, house, serve, tunnels};

/// Silence is noticed after 20 seconds, over TCP after 25; the rest is for a busy machine.
const NOTICED: Duration = Duration::from_secs(40);

fn local() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// Passes packets on to `gateway` until `hole` is set; where.
async fn udp(gateway: SocketAddr, hole: Arc<AtomicBool>) -> SocketAddr {
    let inside = UdpSocket::bind(local()).await.unwrap();
    let address = inside.local_addr().unwrap();
    spawn(async move {
        let outside = UdpSocket::bind(local()).await.unwrap();
        let (mut agent, mut out, mut back) = (None, vec![0; 65_536], vec![0; 65_536]);
        loop {
            tokio::select! {
                Ok((size, from)) = inside.recv_from(&mut out) => {
                    agent = Some(from);
                    if !hole.load(Ordering::SeqCst) {
                        let _ = outside.send_to(&out[..size], gateway).await;
                    }
                }
                Ok((size, _)) = outside.recv_from(&mut back) => {
                    if let Some(agent) = agent.filter(|_| !hole.load(Ordering::SeqCst)) {
                        let _ = inside.send_to(&back[..size], agent).await;
                    }
                }
            }
        }
    });
    address
}

/// The same for one TCP connection.
async fn tcp(gateway: SocketAddr, hole: Arc<AtomicBool>) -> SocketAddr {
    let inside = TcpListener::bind(local()).await.unwrap();
    let address = inside.local_addr().unwrap();
    spawn(async move {
        let (mut agent, _) = inside.accept().await.unwrap();
        let mut gateway = TcpStream::connect(gateway).await.unwrap();
        let ((mut from_agent, mut to_agent), (mut from_gateway, mut to_gateway)) = (agent.split(), gateway.split());
        let (mut out, mut back) = (vec![0; 16 << 10], vec![0; 16 << 10]);
        loop {
            let open = !hole.load(Ordering::SeqCst);
            tokio::select! {
                Ok(size @ 1..) = from_agent.read(&mut out) => if open { to_gateway.write_all(&out[..size]).await.unwrap() },
                Ok(size @ 1..) = from_gateway.read(&mut back) => if open { to_agent.write_all(&back[..size]).await.unwrap() },
                // Ends are swallowed, too.
                else => std::future::pending::<()>().await,
            }
        }
    });
    address
}

async fn link(house: &House, over_tcp: bool, hole: &Arc<AtomicBool>) -> (Option<Endpoint>, Link) {
    let credential = agent(&house.authority, "one");
    if over_tcp {
        let address = tcp(house.gateway.tunnel_tcp_addr.unwrap(), Arc::clone(hole)).await;
        let tls = TlsConnector::from(Arc::new(tls::client_mtls(&credential, &[ALPN_TCP]).unwrap()));
        let stream = TcpStream::connect(address).await.unwrap();
        let stream = tls.connect(ServerName::try_from(GATEWAYS_NAME).unwrap(), stream).await.unwrap();
        let chain = stream.get_ref().1.peer_certificates().unwrap().to_vec();
        let (mux, driver) = Mux::new(stream, Side::Dialer, address, MuxLimits { incoming: 64, outgoing: 64 });
        spawn(driver);
        return (None, Link::tcp(mux, &chain, ALPN_TCP));
    }
    let address = udp(house.gateway.tunnel_addr.unwrap(), Arc::clone(hole)).await;
    let tls = tls::client_mtls(&credential, &[ALPN]).unwrap();
    let mut client = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    client.transport_config(Arc::new(transport(64)));
    let endpoint = Endpoint::client(local()).unwrap();
    let connection = endpoint.connect_with(client, address, GATEWAYS_NAME).unwrap().await.unwrap();
    (Some(endpoint), Link::quic(connection))
}

async fn swallowed(over_tcp: bool) {
    let house = house(|_| {}).await;
    let hole = Arc::default();
    let (_endpoint, far) = link(&house, over_tcp, &hole).await;
    let (_welcome, _control) = greet(&far, "one", (1, 2)).await.unwrap();
    spawn(serve(far.clone()));
    tunnels(&house, 1).await;
    let over_it = house.connect("readers").await;
    let near = dial(&house, "two", (1, 2)).await;
    spawn(serve(near.link.clone()));
    tunnels(&house, 2).await;

    hole.store(true, Ordering::SeqCst);
    let began = Instant::now();
    let asked = tokio::time::timeout(NOTICED, over_it.sql.query_one("SELECT count(*) FROM items", &[]));
    // Meanwhile new ones find the other way: the first after two seconds, the others at once.
    let others = async {
        for number in 0..3 {
            let began = Instant::now();
            house.connect("readers").await;
            let limit = if number == 0 { 10 } else { 3 };
            assert!(began.elapsed() < Duration::from_secs(limit), "{number}: {:?}", began.elapsed());
        }
    };
    let (asked, ()) = tokio::join!(asked, others);
    let error = asked.expect("the session hangs").unwrap_err();
    let told = error.as_db_error().unwrap_or_else(|| panic!("no word of why: {error}"));
    assert_eq!(told.code().code(), "57P03", "{told}");
    assert!(began.elapsed() > Duration::from_secs(10), "a short silence is no end: {:?}", began.elapsed());
    tunnels(&house, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_over_a_path_that_swallows_everything_end_in_time() {
    tokio::join!(swallowed(false), swallowed(true));
    assert!(counted(&["postern_gateway_tunnels_lost_total", "silent"]) >= 2.0);
}
