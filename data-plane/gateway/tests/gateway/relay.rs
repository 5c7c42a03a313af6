//! Other gateways that are played: those that hold a tunnel, those that ask for one, and those that cheat.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use postern_core::node::{GATEWAYS_NAME, NodeIdentity, NodeRole};
use postern_core::target::Route;
use postern_proto::gateway::v1::{Holding, ReportResponse};
use postern_proto::resource::v1::{FleetEpoch, FleetGateway, TargetSelector};
use postern_proto::tunnel::v1::{
    Drain, Hello, Open, OpenStatus, Opened, RelayHello, RelayOpen, RelayOpened, RelayStatus, RelayWelcome, ToGateway,
    Welcome, to_gateway,
};
use postern_protocols::tunnel::{self, ALPN, MAX_MESSAGE};
use postern_runtime::clock;
use postern_runtime::pki::{Authority, KeyRequest, NodeCredential, Revocations, RotatingCredential, serial_of};
use postern_runtime::tls;
use postern_runtime::tunnel::{Link, RecvHalf, SendHalf, server_config, transport, wire};
use quinn::Endpoint;
use quinn::crypto::rustls::QuicClientConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::house::{House, db, principal, spawn};

const LIMIT: Duration = Duration::from_secs(20);

pub(crate) fn node(authority: &Authority, role: NodeRole, name: &str) -> NodeCredential {
    let pool = (role == NodeRole::Agent).then(|| "lab".parse().unwrap());
    let identity = NodeIdentity { role, name: name.parse().unwrap(), pool };
    let request = KeyRequest::generate().unwrap();
    let certificate_pem =
        authority.issue(&identity, &request.csr_der, &[], clock::now(), Duration::from_secs(3600)).unwrap();
    NodeCredential { certificate_pem, key_pem: request.key_pem, ca_pem: authority.ca_pem().to_owned() }
}

/// A gateway with tunnels whose target is in pool `lab`.
pub(crate) async fn house() -> House {
    let house = House::with("", |config| config.tunnel_listen = Some("127.0.0.1:0".parse().unwrap())).await;
    house.apply(|snapshot| {
        let target = snapshot.targets.get_mut(&"db".parse().unwrap()).unwrap();
        target.value.route = Route::AgentPool("lab".parse().unwrap());
    });
    let token = house.token(&principal("ada", "readers"), 600);
    until("the route", async || house.try_connect("db", &token).await.is_err().then_some(())).await;
    house
}

pub(crate) async fn until<T>(what: &str, mut there: impl AsyncFnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = there().await {
            return found;
        }
        assert!(began.elapsed() < LIMIT, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) fn gateway(name: &str, address: &str, serves: Option<&str>) -> FleetGateway {
    FleetGateway {
        name: name.to_owned(),
        tunnel_addresses: vec![address.to_owned()],
        serves: serves.map(|only| TargetSelector { names: vec![only.to_owned()], ..Default::default() }),
        ..Default::default()
    }
}

/// All of these gateways; each holds one agent of the pool.
pub(crate) fn directory(term: u64, gateways: Vec<FleetGateway>) -> ReportResponse {
    let holding = |gateway: &FleetGateway| Holding {
        gateway: gateway.name.clone(),
        pool: "lab".into(),
        agents: 1,
        ..Default::default()
    };
    ReportResponse {
        epoch: Some(FleetEpoch { incarnation: "life".into(), term, began_at: None }),
        version: 1,
        whole: true,
        holdings: gateways.iter().map(holding).collect(),
        gateways,
        ..Default::default()
    }
}

/// A link to the gateway under test, with this certificate.
pub(crate) async fn dial(house: &House, credential: &NodeCredential) -> (Endpoint, Link) {
    let tls = tls::client_mtls(credential, &[ALPN]).unwrap();
    let mut client = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    client.transport_config(Arc::new(transport(64)));
    let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let connecting = endpoint.connect_with(client, house.gateway.tunnel_addr.unwrap(), GATEWAYS_NAME).unwrap();
    (endpoint, Link::quic(connecting.await.unwrap()))
}

pub(crate) async fn greet(link: &Link, hello: RelayHello) -> (RelayWelcome, (SendHalf, RecvHalf)) {
    let (mut send, mut recv) = link.open().await.unwrap();
    wire::write(&mut send, tunnel::frame(&hello)).await.unwrap();
    let welcome = wire::read(&mut recv, MAX_MESSAGE, tunnel::decode).await.unwrap();
    (welcome, (send, recv))
}

pub(crate) fn hello(name: &str, version_min: u32, version: u32) -> RelayHello {
    RelayHello { version_min, version, gateway: name.into() }
}

/// Asks for a stream; the last answer and the stream.
pub(crate) async fn ask(link: &Link, request: &RelayOpen) -> (RelayOpened, SendHalf, RecvHalf) {
    let (mut send, mut recv) = link.open().await.unwrap();
    wire::write(&mut send, tunnel::frame(request)).await.unwrap();
    loop {
        let answer: RelayOpened = wire::read(&mut recv, MAX_MESSAGE, tunnel::decode).await.unwrap();
        if answer.status() != RelayStatus::Opening {
            return (answer, send, recv);
        }
    }
}

/// Plays an agent of pool `lab`, which opens what it is asked for; whom the streams were opened for.
async fn agent(house: &House) -> tokio::sync::mpsc::Receiver<String> {
    agent_that(house, OpenStatus::Connected).await.0
}

/// The same, which answers `last` to whatever it is asked for; and what it says on the control stream.
async fn agent_that(
    house: &House,
    last: OpenStatus,
) -> (tokio::sync::mpsc::Receiver<String>, tokio::sync::mpsc::Sender<ToGateway>) {
    let (endpoint, link) = dial(house, &node(&house.authority, NodeRole::Agent, "a1")).await;
    let (mut send, mut recv) = link.open().await.unwrap();
    let hello = Hello { version: 2, agent: "a1".into(), pool: "lab".into(), version_min: 1, ..Hello::default() };
    wire::write(&mut send, tunnel::frame(&hello)).await.unwrap();
    let welcome: Welcome = wire::read(&mut recv, MAX_MESSAGE, tunnel::decode).await.unwrap();
    assert_eq!(welcome.refused, "");
    let (to, seen) = tokio::sync::mpsc::channel(64);
    let (says, mut said) = tokio::sync::mpsc::channel::<ToGateway>(4);
    spawn(async move {
        while let Some(message) = said.recv().await {
            wire::write(&mut send, tunnel::frame(&message)).await.unwrap();
        }
        std::future::pending::<()>().await;
    });
    spawn(async move {
        let _kept = (endpoint, recv);
        while let Ok((mut send, mut recv)) = link.accept().await {
            let open: Open = wire::read(&mut recv, MAX_MESSAGE, tunnel::decode).await.unwrap();
            for status in [OpenStatus::Opening, last] {
                let opened = Opened { status: status.into(), detail: String::new() };
                wire::write(&mut send, tunnel::frame(&opened)).await.unwrap();
            }
            let _ = to.try_send(open.relayed_for);
            if last != OpenStatus::Connected {
                continue;
            }
            let mut tcp = tokio::net::TcpStream::connect(&open.address).await.unwrap();
            spawn(async move {
                let mut stream = tokio::io::join(recv, send);
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut tcp).await;
            });
        }
    });
    until("the tunnel", async || (house.gateway.tunnel_count() == 1).then_some(())).await;
    (seen, says)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_gateway_gets_what_policy_gives_it_and_no_more() {
    let house = house().await;
    let mut seen = agent(&house).await;
    house.control.fleet.send_replace(Some(directory(
        1,
        vec![gateway("good", "127.0.0.1:9", None), gateway("narrow", "127.0.0.1:9", Some("another-target"))],
    )));
    let address = format!("127.0.0.1:{}", house.target.port);
    let request = |pool: &str, target: &str, address: &str| RelayOpen {
        cancel: None,
        pool: pool.into(),
        open: Some(Open {
            address: address.into(),
            session: "s".into(),
            target: target.into(),
            connect_timeout_ms: u32::MAX,
            // What it says of itself is not heard.
            relayed_for: "somebody-else".into(),
        }),
    };
    let (_endpoint, link) = dial(&house, &node(&house.authority, NodeRole::Gateway, "good")).await;
    let (welcome, _control) = greet(&link, hello("good", 1, 9)).await;
    assert_eq!((welcome.version, welcome.refused.as_str()), (1, ""));
    let (answer, mut send, mut recv) = until("the directory", async || {
        let asked = ask(&link, &request("lab", "db", &address)).await;
        (asked.0.status() == RelayStatus::Connected).then_some(asked)
    })
    .await;
    assert_eq!(answer.status(), RelayStatus::Connected);
    assert_eq!(seen.recv().await.unwrap(), "good");
    // The target itself answers: a request for TLS (PostgreSQL's SSLRequest).
    send.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).await.unwrap();
    assert!(matches!(recv.read_u8().await.unwrap(), b'N' | b'S'));

    let other = format!("127.0.0.1:{}", house.target.port.wrapping_add(1));
    for (pool, target, at) in [
        ("lab", "db", other.as_str()),
        ("other", "db", &address),
        ("lab", "none", &address),
        ("lab", "No Name", &address),
    ] {
        let (answer, ..) = ask(&link, &request(pool, target, at)).await;
        assert_eq!(answer.status(), RelayStatus::NotPermitted, "{pool} {target} {at}");
    }
    let (answer, ..) = ask(&link, &RelayOpen::default()).await;
    assert_eq!(answer.status(), RelayStatus::NotPermitted);
    // What is no request breaks its own stream only.
    let (mut send, mut recv) = link.open().await.unwrap();
    send.write_all(&[0xff; 16]).await.unwrap();
    assert!(recv.read_u8().await.is_err());
    assert_eq!(ask(&link, &request("lab", "db", &address)).await.0.status(), RelayStatus::Connected);

    // One that serves other targets, and one that the control plane does not know to be there.
    for name in ["narrow", "unknown"] {
        let (_endpoint, link) = dial(&house, &node(&house.authority, NodeRole::Gateway, name)).await;
        let _control = greet(&link, hello(name, 1, 1)).await;
        let (answer, ..) = ask(&link, &request("lab", "db", &address)).await;
        assert_eq!(answer.status(), RelayStatus::NotPermitted, "{name}");
    }

    // Revoked: the link ends, with all that is on it.
    let serial = {
        let der = node(&house.authority, NodeRole::Gateway, "lost");
        let (_endpoint, lost) = dial(&house, &der).await;
        let _control = greet(&lost, hello("lost", 1, 1)).await;
        let serial = serial_of(&rustls_pki_types::CertificateDer::from(der.certificate_der().to_vec())).unwrap();
        house.apply(|snapshot| {
            let target = snapshot.targets.get_mut(&"db".parse().unwrap()).unwrap();
            target.value.route = Route::AgentPool("lab".parse().unwrap());
            snapshot.revoked = Arc::new([serial.clone()].into());
        });
        tokio::time::timeout(LIMIT, lost.closed()).await.unwrap();
        serial
    };
    assert!(!serial.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_must_be_who_it_says_and_speak_a_known_version() {
    let house = house().await;
    let (_endpoint, link) = dial(&house, &node(&house.authority, NodeRole::Gateway, "good")).await;
    let (welcome, _control) = greet(&link, hello("another", 1, 1)).await;
    assert!(welcome.refused.contains("certificate"), "{welcome:?}");
    tokio::time::timeout(LIMIT, link.closed()).await.unwrap();
    let (_endpoint, link) = dial(&house, &node(&house.authority, NodeRole::Gateway, "good")).await;
    let (welcome, _control) = greet(&link, hello("good", 2, 3)).await;
    assert!(welcome.refused.contains("version"), "{welcome:?}");
    // Further links of one gateway than it can need are closed; those that it has stay.
    let mut links = Vec::new();
    for _ in 0..4 {
        let (endpoint, link) = dial(&house, &node(&house.authority, NodeRole::Gateway, "many")).await;
        let (welcome, control) = greet(&link, hello("many", 1, 1)).await;
        assert!(welcome.refused.is_empty(), "{welcome:?}");
        links.push((endpoint, link, control));
    }
    for _ in 0..4 {
        let (_endpoint, link) = dial(&house, &node(&house.authority, NodeRole::Gateway, "many")).await;
        tokio::time::timeout(LIMIT, link.closed()).await.unwrap();
    }
    assert!(links.iter().all(|(_, link, _)| link.closed().now_or_never().is_none()));
}

/// How a played holder behaves.
#[derive(Clone, Copy, Debug)]
enum Holder {
    Good,
    /// Takes everything and says nothing.
    Silent,
    /// Says that it is at it, and then that it has no tunnel.
    Empty,
}

/// A gateway that listens for others, with this certificate.
fn listen(authority: &Authority, certificate: &str, how: Holder) -> SocketAddr {
    let credential = RotatingCredential::new(node(authority, NodeRole::Gateway, certificate)).unwrap();
    let tls = tls::server_tunnels(&credential, Revocations::none(), &[ALPN]).unwrap();
    let endpoint = Endpoint::server(server_config(tls, 1_024, 64).unwrap(), "127.0.0.1:0".parse().unwrap()).unwrap();
    let address = endpoint.local_addr().unwrap();
    let name = certificate.to_owned();
    spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            let Ok(connection) = incoming.await else { continue };
            let (link, name) = (Link::quic(connection), name.clone());
            spawn(async move {
                let Ok((mut send, mut recv)) = link.accept().await else { return };
                let _: RelayHello = wire::read(&mut recv, MAX_MESSAGE, tunnel::decode).await.unwrap();
                let welcome = RelayWelcome { version: 1, gateway: name, refused: String::new() };
                wire::write(&mut send, tunnel::frame(&welcome)).await.unwrap();
                let mut held = Vec::new();
                while let Ok((mut send, mut recv)) = link.accept().await {
                    let request: RelayOpen = wire::read(&mut recv, MAX_MESSAGE, tunnel::decode).await.unwrap();
                    let last = match how {
                        Holder::Silent => {
                            held.push((send, recv));
                            continue;
                        }
                        Holder::Empty => RelayStatus::NoTunnel,
                        Holder::Good => RelayStatus::Connected,
                    };
                    for status in [RelayStatus::Opening, last] {
                        let opened = RelayOpened { status: status.into(), ..Default::default() };
                        wire::write(&mut send, tunnel::frame(&opened)).await.unwrap();
                    }
                    if last == RelayStatus::Connected {
                        let address = request.open.unwrap().address;
                        spawn(async move {
                            let mut tcp = tokio::net::TcpStream::connect(address).await.unwrap();
                            let mut stream = tokio::io::join(recv, send);
                            let _ = tokio::io::copy_bidirectional(&mut stream, &mut tcp).await;
                        });
                    }
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_that_fails_before_it_is_open_is_left_for_the_next() {
    let house = house().await;
    let at = |certificate: &str, how: Holder| listen(&house.authority, certificate, how).to_string();
    let token = house.token(&principal("ada", "readers"), 600);
    let failing = [
        gateway("silent", &at("silent", Holder::Silent), None),
        gateway("empty", &at("empty", Holder::Empty), None),
        // Who answers there is another gateway than was meant.
        gateway("claimed", &at("thief", Holder::Good), None),
        // It is good, and does not serve the target: it gets no session of it.
        gateway("narrow", &at("narrow", Holder::Good), Some("another-target")),
    ];
    house.control.fleet.send_replace(Some(directory(1, failing.to_vec())));
    let list = async || house.control.reported.borrow().first().cloned();
    let report = until("a report", list).await;
    assert!(report.whole && report.gateway.is_some_and(|own| own.tunnel_addresses.len() == 1));
    // No way is a good one: the client is told so, in time.
    let began = Instant::now();
    let refused = house.try_connect("db", &token).await.err().unwrap();
    assert_eq!(db(&refused).0, "57P03", "{refused:?}");
    assert!(began.elapsed() < Duration::from_secs(15));

    // With a good one among them it is found, whatever the others do.
    let mut all = failing[..2].to_vec();
    all.push(gateway("good", &at("good", Holder::Good), None));
    house.control.fleet.send_replace(Some(directory(2, all)));
    let client = until("a way", async || house.try_connect("db", &token).await.ok()).await;
    let count: i64 = client.sql.query_one("SELECT count(*) FROM items", &[]).await.unwrap().get(0);
    assert_eq!(count, 20);
    // An own tunnel comes first: nothing is relayed once there is one.
    let mut seen = agent(&house).await;
    house.try_connect("db", &token).await.unwrap();
    assert_eq!(seen.recv().await.unwrap(), "");
}

/// An own tunnel comes first only while its agent stays: one that is about to stop makes way for another gateway's at once, and the control
/// plane is told; where there is no other it is asked all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_about_to_stop_makes_way_for_one_elsewhere() {
    let house = house().await;
    let token = house.token(&principal("ada", "readers"), 600);
    let (mut seen, says) = agent_that(&house, OpenStatus::Connected).await;
    house.try_connect("db", &token).await.unwrap();
    assert_eq!(seen.recv().await.unwrap(), "");
    house.control.fleet.send_replace(Some(directory(1, Vec::new())));
    let message = Some(to_gateway::Message::Drain(Drain {}));
    says.send(ToGateway { message }).await.unwrap();
    let told = async || {
        let reports = house.control.reported.borrow();
        reports.iter().any(|report| report.tunnels.iter().any(|tunnel| tunnel.draining)).then_some(())
    };
    until("the report", told).await;
    house.try_connect("db", &token).await.unwrap();
    let good = listen(&house.authority, "good", Holder::Good).to_string();
    house.control.fleet.send_replace(Some(directory(2, vec![gateway("good", &good, None)])));
    until("the other way", async || {
        while seen.try_recv().is_ok() {}
        house.try_connect("db", &token).await.unwrap();
        seen.try_recv().is_err().then_some(())
    })
    .await;
}

/// One that takes nothing, and has not said so before: no word on the target, another gateway's agent is asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_takes_nothing_is_no_word_on_the_target() {
    let house = house().await;
    let token = house.token(&principal("ada", "readers"), 600);
    let (mut seen, _says) = agent_that(&house, OpenStatus::Unavailable).await;
    let refused = house.try_connect("db", &token).await.err().unwrap();
    let (state, message) = db(&refused);
    assert!(state == "57P03" && message.contains("agent"), "{refused:?}");
    let good = listen(&house.authority, "good", Holder::Good).to_string();
    house.control.fleet.send_replace(Some(directory(1, vec![gateway("good", &good, None)])));
    until("the other way", async || house.try_connect("db", &token).await.ok()).await;
    assert!(seen.try_recv().is_ok(), "it was asked first");
    // Nor to a gateway that asks for its sessions: that one goes on to the next.
    let (_endpoint, link) = dial(&house, &node(&house.authority, NodeRole::Gateway, "good")).await;
    let _control = greet(&link, hello("good", 1, 1)).await;
    let address = format!("127.0.0.1:{}", house.target.port);
    let open = Open { address, target: "db".into(), connect_timeout_ms: 5_000, ..Open::default() };
    let (answer, ..) = ask(&link, &RelayOpen { pool: "lab".into(), open: Some(open), cancel: None }).await;
    assert_eq!(answer.status(), RelayStatus::NoTunnel, "{answer:?}");
}
