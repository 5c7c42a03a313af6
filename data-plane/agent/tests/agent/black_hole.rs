//! A path that swallows everything once the tunnel is up, in both directions or in one, by either carrier.

use std::sync::atomic::{AtomicBool, Ordering};

use postern_protocols::tunnel::GatewayAddress;
use postern_runtime::supervisor::OnEnd;
use postern_runtime::telemetry;
use postern_runtime::tunnel::Carrier;
use tokio::net::UdpSocket;

use super::played::{Played, agent, counted};
use super::*;

/// Silence is noticed after 20 seconds, over TCP after 25; the rest is for a busy machine.
const NOTICED: Duration = Duration::from_secs(40);

/// What of a path is swallowed.
#[derive(Debug, Default)]
struct Hole {
    to_gateway: AtomicBool,
    to_agent: AtomicBool,
}

impl Hole {
    fn set(&self, to_gateway: bool, to_agent: bool) {
        self.to_gateway.store(to_gateway, Ordering::SeqCst);
        self.to_agent.store(to_agent, Ordering::SeqCst);
    }
}

/// Passes packets between agent and gateway.
async fn udp(gateway: SocketAddr, inside: UdpSocket, hole: Arc<Hole>) {
    let outside = UdpSocket::bind(local()).await.unwrap();
    let (mut agent, mut out, mut back) = (None, vec![0; 65_536], vec![0; 65_536]);
    loop {
        tokio::select! {
            Ok((size, from)) = inside.recv_from(&mut out) => {
                agent = Some(from);
                if !hole.to_gateway.load(Ordering::SeqCst) {
                    let _ = outside.send_to(&out[..size], gateway).await;
                }
            }
            Ok((size, _)) = outside.recv_from(&mut back) => {
                if let Some(agent) = agent.filter(|_| !hole.to_agent.load(Ordering::SeqCst)) {
                    let _ = inside.send_to(&back[..size], agent).await;
                }
            }
        }
    }
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    swallowed: impl Fn() -> bool,
) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(size @ 1..) = from.read(&mut buffer).await {
        if !swallowed() && to.write_all(&buffer[..size]).await.is_err() {
            return;
        }
    }
    // Ends are swallowed, too.
    while swallowed() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn tcp(gateway: SocketAddr, inside: TcpListener, hole: Arc<Hole>, supervisor: Supervisor) {
    while let Ok((agent, _)) = inside.accept().await {
        let Ok(gateway) = TcpStream::connect(gateway).await else { continue };
        let ((from_agent, to_agent), (from_gateway, to_gateway)) = (agent.into_split(), gateway.into_split());
        let (one, other) = (Arc::clone(&hole), Arc::clone(&hole));
        supervisor.spawn("out", OnEnd::EndPart, async move {
            pass(from_agent, to_gateway, || one.to_gateway.load(Ordering::SeqCst)).await;
        });
        supervisor.spawn("back", OnEnd::EndPart, async move {
            pass(from_gateway, to_agent, || other.to_agent.load(Ordering::SeqCst)).await;
        });
    }
}

/// Two gateways; the path to the first one swallows after a while.
async fn swallowed(carrier: Carrier, (to_gateway, to_agent): (bool, bool)) {
    let authority = Arc::new(Authority::create("test").unwrap());
    let (far, near, hole) = match carrier {
        Carrier::Quic => (Played::new(&authority, "g1").await, Played::new(&authority, "g2").await, Arc::default()),
        Carrier::Tcp => {
            (Played::without_udp(&authority, "g1").await, Played::without_udp(&authority, "g2").await, Arc::default())
        }
    };
    let supervisor = Supervisor::new();
    let GatewayAddress { quic, tcp: over_tcp, .. } = far.address();
    let config = match carrier {
        Carrier::Quic => {
            let inside = UdpSocket::bind(local()).await.unwrap();
            let address = inside.local_addr().unwrap().to_string();
            supervisor.spawn("hole", OnEnd::EndPart, udp(quic[0].parse().unwrap(), inside, Arc::clone(&hole)));
            serde_json::json!({"gateways": [address, near.address().quic[0]], "tcp_gateways": []})
        }
        Carrier::Tcp => {
            let inside = TcpListener::bind(local()).await.unwrap();
            let address = inside.local_addr().unwrap().to_string();
            let gateway = over_tcp[0].parse().unwrap();
            supervisor.spawn("hole", OnEnd::EndPart, tcp(gateway, inside, Arc::clone(&hole), supervisor.clone()));
            let tcp = [address, near.address().tcp[0].clone()];
            serde_json::json!({"gateways": ["127.0.0.1:9", "127.0.0.1:10"], "tcp_gateways": tcp, "udp_probe": "1h"})
        }
    };
    let _agent = agent(&authority, config).await;
    let (lost, kept) = (far.take().await, near.take().await);
    let target = TcpListener::bind(local()).await.unwrap();
    let address = target.local_addr().unwrap().to_string();
    let (mut send, _recv, _) = lost.open(&address).await;
    let (mut session, _) = target.accept().await.unwrap();
    send.write_all(b"x").await.unwrap();
    session.read_exact(&mut [0; 1]).await.unwrap();

    hole.set(to_gateway, to_agent);
    let began = std::time::Instant::now();
    // The target is told, by a reset, and not that all went well.
    let ended = tokio::time::timeout(NOTICED, session.read(&mut [0; 1])).await;
    let ended = ended.unwrap_or_else(|_| panic!("{carrier:?}: the session hangs"));
    assert!(ended.is_err(), "{carrier:?}: {ended:?}");
    assert!(began.elapsed() > Duration::from_secs(10), "a short silence is no end: {:?}", began.elapsed());
    // The other tunnel did not notice anything.
    assert_eq!(kept.open(&address).await.2.status(), OpenStatus::Connected);
    // And when the path is a good one again, the agent is back.
    hole.set(false, false);
    let again = async {
        loop {
            let link = match carrier {
                Carrier::Quic => far.try_link_quic().await,
                Carrier::Tcp => far.try_link_tcp().await,
            };
            // One that was begun before may not come to its end.
            if let Ok(link) = link {
                return far.greet(link, 2).await;
            }
        }
    };
    let again = tokio::time::timeout(NOTICED, again).await.unwrap();
    assert_eq!(again.open(&address).await.2.status(), OpenStatus::Connected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_that_swallows_everything_is_left_in_time() {
    let _ = telemetry::install_metrics();
    tokio::join!(
        swallowed(Carrier::Quic, (true, true)),
        swallowed(Carrier::Quic, (false, true)),
        swallowed(Carrier::Tcp, (true, true)),
    );
    counted("postern_agent_tunnels_lost_total{reason=\"silent\"}", 3.0).await;
}
