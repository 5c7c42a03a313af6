//! Agents that are played: of other versions, over TCP, without a certificate, silent, and cheating.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use postern_core::node::{CONTROL_PLANE_NAME, GATEWAYS_NAME, NodeIdentity, NodeRole};
use postern_core::target::Route;
use postern_protocols::tunnel::{
    self, ALPN, ALPN_ENROL, ALPN_TCP, Hello, MAX_MESSAGE, Open, OpenStatus, Opened, ToControlPlane, Welcome,
};
use postern_runtime::clock;
use postern_runtime::pki::{Authority, KeyRequest, NodeCredential};
use postern_runtime::tunnel::mux::{Mux, MuxLimits, Side};
use postern_runtime::tunnel::{Link, RecvHalf, SendHalf, transport, wire};
use postern_runtime::{telemetry, tls};
use quinn::Endpoint;
use quinn::crypto::rustls::QuicClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;

use crate::house::{House, principal, spawn};

const LIMIT: Duration = Duration::from_secs(20);

/// An agent's tunnel, as the agent sees it.
pub(crate) struct Played {
    pub(crate) link: Link,
    welcome: Welcome,
    pub(crate) credential: NodeCredential,
    _control: (SendHalf, RecvHalf),
    _endpoint: Option<Endpoint>,
}

pub(crate) fn agent(authority: &Authority, name: &str) -> NodeCredential {
    let identity =
        NodeIdentity { role: NodeRole::Agent, name: name.parse().unwrap(), pool: Some("lab".parse().unwrap()) };
    let request = KeyRequest::generate().unwrap();
    let certificate_pem =
        authority.issue(&identity, &request.csr_der, &[], clock::now(), Duration::from_secs(3600)).unwrap();
    NodeCredential { certificate_pem, key_pem: request.key_pem, ca_pem: authority.ca_pem().to_owned() }
}

pub(crate) async fn quic(house: &House, tls: rustls::ClientConfig) -> Result<(Endpoint, Link), String> {
    let mut client = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    client.transport_config(Arc::new(transport(64)));
    let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let connecting = endpoint.connect_with(client, house.gateway.tunnel_addr.unwrap(), GATEWAYS_NAME).unwrap();
    let connection = connecting.await.map_err(|error| error.to_string())?;
    Ok((endpoint, Link::quic(connection)))
}

pub(crate) async fn tcp(house: &House, tls: rustls::ClientConfig) -> Result<Link, String> {
    let address: SocketAddr = house.gateway.tunnel_tcp_addr.unwrap();
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from(GATEWAYS_NAME).unwrap();
    let stream = TlsConnector::from(Arc::new(tls)).connect(name, stream).await.map_err(|error| error.to_string())?;
    let chain = stream.get_ref().1.peer_certificates().unwrap().to_vec();
    let (mux, driver) = Mux::new(stream, Side::Dialer, address, MuxLimits { incoming: 64, outgoing: 64 });
    spawn(driver);
    Ok(Link::tcp(mux, &chain, ALPN_TCP))
}

pub(crate) async fn greet(
    link: &Link,
    name: &str,
    (min, max): (u32, u32),
) -> Result<(Welcome, (SendHalf, RecvHalf)), String> {
    let (mut send, mut recv) = link.open().await.map_err(|error| error.to_string())?;
    let hello = Hello { version: max, agent: name.into(), pool: "lab".into(), version_min: min, ..Hello::default() };
    wire::write(&mut send, tunnel::frame(&hello)).await.map_err(|error| error.to_string())?;
    let welcome = wire::read(&mut recv, MAX_MESSAGE, tunnel::decode).await.map_err(|error| error.to_string())?;
    Ok((welcome, (send, recv)))
}

pub(crate) async fn dial(house: &House, name: &str, versions: (u32, u32)) -> Played {
    let credential = agent(&house.authority, name);
    let tls = tls::client_mtls(&credential, &[ALPN]).unwrap();
    let (endpoint, link) = quic(house, tls).await.unwrap();
    let (welcome, control) = greet(&link, name, versions).await.unwrap();
    Played { link, welcome, credential, _control: control, _endpoint: Some(endpoint) }
}

/// Opens what it is asked for, as version 2 does it.
pub(crate) async fn serve(link: Link) {
    while let Ok((mut send, mut recv)) = link.accept().await {
        let open: Open = wire::read(&mut recv, MAX_MESSAGE, tunnel::decode).await.unwrap();
        for status in [OpenStatus::Opening, OpenStatus::Connected] {
            let opened = Opened { status: status.into(), detail: String::new() };
            wire::write(&mut send, tunnel::frame(&opened)).await.unwrap();
        }
        let mut tcp = tokio::net::TcpStream::connect(&open.address).await.unwrap();
        spawn(async move {
            let mut stream = tokio::io::join(recv, send);
            let _ = tokio::io::copy_bidirectional(&mut stream, &mut tcp).await;
        });
    }
}

pub(crate) async fn house(adjust: impl FnOnce(&mut postern_gateway::GatewayConfig)) -> House {
    let house = House::with("", |config| {
        config.tunnel_listen = Some("127.0.0.1:0".parse().unwrap());
        config.tunnel_tcp_listen = Some("127.0.0.1:0".parse().unwrap());
        adjust(config);
    })
    .await;
    house.apply(|snapshot| {
        let target = snapshot.targets.get_mut(&"db".parse().unwrap()).unwrap();
        target.value.route = Route::AgentPool("lab".parse().unwrap());
    });
    let token = house.token(&principal("ada", "readers"), 600);
    let began = Instant::now();
    while house.try_connect("db", &token).await.is_ok() {
        assert!(began.elapsed() < LIMIT, "the route is not known");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    house
}

pub(crate) async fn tunnels(house: &House, count: usize) {
    let began = Instant::now();
    while house.gateway.tunnel_count() != count {
        assert!(began.elapsed() < LIMIT, "{} tunnels, not {count}", house.gateway.tunnel_count());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Gateways that are none any more: each agent is told, in the control plane's own words, at once when it comes and when there are more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_are_told_of_revoked_gateways() {
    use postern_core::recording::Authority as Anchor;
    use postern_core::signed::{self, Purpose};
    use postern_protocols::tunnel::{RevokedGateways, ToAgent, to_agent};
    use prost::Message as _;
    let house = house(|_| {}).await;
    let told = async |played: &mut Played| loop {
        let said: ToAgent =
            tokio::time::timeout(LIMIT, wire::read(&mut played._control.1, MAX_MESSAGE, tunnel::decode))
                .await
                .unwrap()
                .unwrap();
        if let Some(to_agent::Message::Revoked(list)) = said.message {
            let (anchor, now) = (house.credential.ca_der(), clock::now());
            let (payload, purpose) = (&list.payload, Purpose::RevokedGateways);
            signed::verify(purpose, payload, &list.signature, &list.certificate, Anchor(&anchor), now).unwrap();
            return RevokedGateways::decode(&**payload).unwrap().serials;
        }
    };
    let mut early = dial(&house, "one", (1, 2)).await;
    house.apply(|snapshot| snapshot.revoked = Arc::new(["0aff".to_owned()].into()));
    assert_eq!(told(&mut early).await, [[0x0a, 0xff]]);
    let mut late = dial(&house, "two", (1, 2)).await;
    assert_eq!(told(&mut late).await, [[0x0a, 0xff]]);
}

/// What the process has counted, of samples that contain all of `parts`.
pub(crate) fn counted(parts: &[&str]) -> f64 {
    let all = telemetry::install_metrics().render();
    let lines = all.lines().filter(|line| parts.iter().all(|part| line.contains(part)));
    lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

async fn until_refused(reason: &str) {
    let began = Instant::now();
    while counted(&["postern_gateway_tunnels_refused_total", reason]) < 1.0 {
        assert!(began.elapsed() < LIMIT, "nothing was refused for {reason}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn until_skipped() {
    let began = Instant::now();
    while counted(&["postern_gateway_tunnel_messages_skipped_total"]) < 1.0 {
        assert!(began.elapsed() < LIMIT, "not skipped");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_are_negotiated() {
    let house = house(|_| {}).await;
    // Of the next version, which still knows this one; and of the one before there were ranges.
    for (versions, spoken) in [((2, 3), 2), ((1, 9), 2), ((0, 1), 1), ((1, 2), 2)] {
        let played = dial(&house, "one", versions).await;
        assert_eq!((played.welcome.version, played.welcome.refused.as_str()), (spoken, ""), "{versions:?}");
    }
    let played = dial(&house, "one", (3, 3)).await;
    assert!(played.welcome.refused.contains("version"), "{:?}", played.welcome);
    assert_eq!(played.welcome.version, 2, "what it could speak");
    until_refused("version").await;
    // What a later version might say is skipped, and the tunnel lives.
    let mut played = dial(&house, "two", (2, 3)).await;
    played._control.0.write_all(&[0, 0, 0, 2, 0x7a, 0]).await.unwrap();
    until_skipped().await;
    // What is no message at all ends it.
    played._control.0.write_all(&[0xff; 8]).await.unwrap();
    tokio::time::timeout(LIMIT, played.link.closed()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tcp() {
    let house = house(|_| {}).await;
    let tls = tls::client_mtls(&agent(&house.authority, "one"), &[ALPN_TCP]).unwrap();
    let link = tcp(&house, tls).await.unwrap();
    let (welcome, _control) = greet(&link, "one", (1, 2)).await.unwrap();
    assert_eq!((welcome.version, welcome.refused.as_str()), (2, ""));
    spawn(serve(link.clone()));
    tunnels(&house, 1).await;
    let client = house.connect("readers").await;
    let count: i64 = client.sql.query_one("SELECT count(*) FROM items", &[]).await.unwrap().get(0);
    assert_eq!(count, 20);
    link.close(0, "lost");
    tunnels(&house, 0).await;
}

/// A tunnel that swallows everything: the first session is late by what it takes to notice, the next ones are not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_tunnel_is_left_for_another() {
    let house = house(|_| {}).await;
    let silent = dial(&house, "one", (1, 2)).await;
    tunnels(&house, 1).await;
    let link = silent.link.clone();
    spawn(async move {
        let mut held = Vec::new();
        while let Ok(stream) = link.accept().await {
            held.push(stream);
        }
    });
    let good = dial(&house, "two", (1, 2)).await;
    spawn(serve(good.link.clone()));
    tunnels(&house, 2).await;
    let began = Instant::now();
    let _first = house.connect("readers").await;
    let first = began.elapsed();
    assert!(first >= Duration::from_secs(2) && first < Duration::from_secs(8), "{first:?}");
    let began = Instant::now();
    for _ in 0..4 {
        house.connect("readers").await;
    }
    assert!(began.elapsed() < Duration::from_secs(2), "the silent one was asked again: {:?}", began.elapsed());
}

/// An agent that is there, and whose way to the target is not: it has the least to do, and is chosen by nobody who comes after. The first
/// session does not fail for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_does_not_reach_the_target_is_left_for_another() {
    let house = house(|_| {}).await;
    let cut_off = dial(&house, "one", (1, 2)).await;
    tunnels(&house, 1).await;
    let link = cut_off.link.clone();
    let (asked, mut was_asked) = tokio::sync::mpsc::channel(8);
    spawn(async move {
        while let Ok((mut send, mut recv)) = link.accept().await {
            let open: Open = wire::read(&mut recv, MAX_MESSAGE, tunnel::decode).await.unwrap();
            let _ = asked.send(open.connect_timeout_ms).await;
            let say = |status: OpenStatus| tunnel::frame(&Opened { status: status.into(), detail: String::new() });
            wire::write(&mut send, say(OpenStatus::Opening)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(open.connect_timeout_ms.into())).await;
            let _ = wire::write(&mut send, say(OpenStatus::TimedOut)).await;
        }
    });
    let good = dial(&house, "two", (1, 2)).await;
    spawn(serve(good.link.clone()));
    tunnels(&house, 2).await;
    // Sessions through the good one give it more to do.
    let began = Instant::now();
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(house.connect("readers").await);
    }
    assert!(began.elapsed() < Duration::from_secs(9), "asked again and again: {:?}", began.elapsed());
    assert_eq!(was_asked.recv().await, Some(4_000), "the whole time, while another could be asked");
    // The gateway itself asks for the catalogue at the time of the first session.
    let _ = was_asked.try_recv();
    assert!(was_asked.try_recv().is_err(), "chosen for having nothing to do");
}

/// The agent that says that it has more to do gets less.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_without_room_comes_last() {
    use postern_protocols::tunnel::{Load, ToGateway, to_gateway};
    let house = house(|_| {}).await;
    let mut full = dial(&house, "one", (1, 2)).await;
    let load = to_gateway::Message::Load(Load { open_streams: 7, max_streams: 7 });
    wire::write(&mut full._control.0, tunnel::frame(&ToGateway { message: Some(load) })).await.unwrap();
    // What is said in one stream is heard in its order.
    full._control.0.write_all(&[0, 0, 0, 2, 0x7a, 0]).await.unwrap();
    until_skipped().await;
    let free = dial(&house, "two", (1, 2)).await;
    spawn(serve(free.link.clone()));
    let link = full.link.clone();
    let (asked, mut was_asked) = tokio::sync::mpsc::channel(8);
    spawn(async move {
        while let Ok(_stream) = link.accept().await {
            let _ = asked.send(()).await;
        }
    });
    tunnels(&house, 2).await;
    for _ in 0..3 {
        house.connect("readers").await;
    }
    assert!(was_asked.try_recv().is_err(), "the one that is full was asked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_it_may_have() {
    let house = house(|config| config.tunnels.max_tunnels = 1).await;
    let _first = dial(&house, "one", (1, 2)).await;
    tunnels(&house, 1).await;
    let second = dial(&house, "two", (1, 2)).await;
    assert!(second.welcome.refused.contains("tunnels"), "{:?}", second.welcome);
    assert!(second.welcome.retry_after_ms >= 10_000, "{:?}", second.welcome);
    until_refused("full").await;
}

/// Certificates of another authority, none at all, and another's name or pool.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_missing_and_borrowed_identities() {
    let house = house(|_| {}).await;
    // Forged: an authority of the same name. The server says so after the client thinks that it is through.
    let mut forged = agent(&Authority::create(crate::house::CLUSTER).unwrap(), "one");
    forged.ca_pem = house.authority.ca_pem().to_owned();
    for carrier in ["quic", "tcp"] {
        let greeted = match carrier {
            "quic" => match quic(&house, tls::client_mtls(&forged, &[ALPN]).unwrap()).await {
                Ok((_endpoint, link)) => greet(&link, "one", (1, 2)).await,
                Err(error) => Err(error),
            },
            _ => match tcp(&house, tls::client_mtls(&forged, &[ALPN_TCP]).unwrap()).await {
                Ok(link) => greet(&link, "one", (1, 2)).await,
                Err(error) => Err(error),
            },
        };
        assert!(greeted.is_err(), "{carrier}: {:?}", greeted.unwrap().0);
    }
    until_refused("handshake").await;
    // None at all.
    let (_endpoint, link) = quic(&house, tls::client_unverified(&[ALPN]).unwrap()).await.unwrap();
    assert!(greet(&link, "one", (1, 2)).await.is_err());
    until_refused("certificate").await;
    // Another's name.
    let tls = tls::client_mtls(&agent(&house.authority, "one"), &[ALPN]).unwrap();
    let (_endpoint, link) = quic(&house, tls).await.unwrap();
    let (welcome, _control) = greet(&link, "two", (1, 2)).await.unwrap();
    assert!(welcome.refused.contains("certificate"), "{welcome:?}");
    until_refused("claim").await;
    assert_eq!(house.gateway.tunnel_count(), 0);
}

async fn ask(link: &Link) -> Result<(SendHalf, RecvHalf, Opened), String> {
    let (mut send, mut recv) = link.open().await.map_err(|error| error.to_string())?;
    wire::write(&mut send, tunnel::frame(&ToControlPlane {})).await.map_err(|error| error.to_string())?;
    let read = wire::read(&mut recv, MAX_MESSAGE, tunnel::decode);
    let opened = tokio::time::timeout(LIMIT, read).await.unwrap().map_err(|error| error.to_string())?;
    Ok((send, recv, opened))
}

/// Who has no certificate yet gets to the control plane and nowhere else: few at a time, and the TLS inside is with the control plane.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_without_a_certificate_reach_the_control_plane_only() {
    let house = house(|_| {}).await;
    let stranger = || quic(&house, tls::client_unverified(&[ALPN_ENROL]).unwrap());
    let (_endpoint, link) = stranger().await.unwrap();
    let (send, recv, opened) = ask(&link).await.unwrap();
    assert_eq!(opened.status(), OpenStatus::Connected, "{}", opened.detail);
    let inside = tls::client_mtls(&agent(&house.authority, "one"), &[b"h2"]).unwrap();
    let name = ServerName::try_from(CONTROL_PLANE_NAME).unwrap();
    let connected = TlsConnector::from(Arc::new(inside)).connect(name, tokio::io::join(recv, send));
    let mut through = tokio::time::timeout(LIMIT, connected).await.unwrap().unwrap();
    through.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    assert!(through.read_u8().await.is_ok(), "the control plane's HTTP/2 settings");
    // A greeting is no request to be passed on.
    let (mut send, mut recv) = link.open().await.unwrap();
    let hello = Hello { version: 2, agent: "one".into(), pool: "lab".into(), version_min: 1, ..Hello::default() };
    wire::write(&mut send, tunnel::frame(&hello)).await.unwrap();
    let answered = wire::read::<Welcome, _>(&mut recv, MAX_MESSAGE, tunnel::decode);
    let answered = tokio::time::timeout(LIMIT, answered).await.unwrap();
    assert!(answered.is_err() || answered.is_ok_and(|welcome| welcome.gateway.is_empty()), "greeted a stranger");
    assert_eq!(house.gateway.tunnel_count(), 0);
    // Few at a time.
    let mut held = Vec::new();
    for _ in 0..3 {
        let stranger = stranger().await.unwrap();
        ask(&stranger.1).await.unwrap();
        held.push(stranger);
    }
    let (_endpoint, fifth) = stranger().await.unwrap();
    assert!(ask(&fifth).await.is_err(), "a fifth of one address");
    until_refused("strangers").await;
    drop(held);
}

/// Streams of garbage, one after the other, from an agent that was let in: each is broken off, and the tunnel serves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_sends_garbage_harms_itself_only() {
    let house = house(|_| {}).await;
    let played = dial(&house, "one", (1, 2)).await;
    spawn(serve(played.link.clone()));
    for round in 0..40 {
        let opened = tokio::time::timeout(LIMIT, played.link.open()).await;
        let (mut send, mut recv) = opened.unwrap_or_else(|_| panic!("round {round}")).unwrap();
        send.write_all(&[0xff; 64]).await.unwrap();
        let end = tokio::time::timeout(LIMIT, recv.read(&mut [0; 1])).await.unwrap();
        assert!(end.is_err(), "round {round}: {end:?}");
    }
    assert!(counted(&["postern_gateway_control_streams_total", "malformed"]) >= 40.0);
    house.connect("readers").await;
}

/// Many more than the pace allows, all at once: some are let in, the rest is sent away, and who is in goes on undisturbed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_is_let_in_at_the_pace() {
    let house = house(|config| config.tunnels.handshakes_per_second = 10).await;
    let first = dial(&house, "first", (1, 2)).await;
    spawn(serve(first.link.clone()));
    tunnels(&house, 1).await;
    let client = house.connect("readers").await;
    let began = Instant::now();
    let crowd = async {
        let one = |number: usize| {
            let (house, name) = (&house, format!("agent-{number}"));
            async move {
                let tls = tls::client_mtls(&agent(&house.authority, &name), &[ALPN]).unwrap();
                let (_endpoint, link) = quic(house, tls).await?;
                greet(&link, &name, (1, 2)).await.map(drop)
            }
        };
        let all: Vec<_> = (0..150).map(one).collect();
        futures::future::join_all(all).await.into_iter().filter(Result::is_ok).count()
    };
    let working = async {
        let mut slowest = Duration::ZERO;
        for _ in 0..30 {
            let asked = Instant::now();
            client.sql.query_one("SELECT count(*) FROM items", &[]).await.unwrap();
            slowest = slowest.max(asked.elapsed());
        }
        slowest
    };
    let (let_in, slowest) = tokio::time::timeout(LIMIT * 3, async { tokio::join!(crowd, working) }).await.unwrap();
    // A second's worth at once, and what waits for its turn.
    assert!((10..=75).contains(&let_in), "{let_in} of 150 in {:?}", began.elapsed());
    assert!(counted(&["postern_gateway_tunnels_refused_total", "busy"]) >= 50.0);
    assert!(slowest < Duration::from_secs(3), "{slowest:?}");
}
