//! The agent among several gateways that are played here: which it goes to, by which way, and what it does when one of them misbehaves.

use postern_protocols::tunnel::{Drain, GatewayAddress, Gateways, MAX_MESSAGE, ToGateway, to_agent, to_gateway};
use postern_runtime::supervisor::OnEnd;
use postern_runtime::tunnel::{Carrier, StreamFault, cause, wire};

use super::played::{Played, agent, chosen, list};
use super::*;

/// One seed suffices: it tells of the others, the agent goes to those that hashing gives it, and moves when one of them is about to stop.
#[tokio::test]
async fn goes_to_its_share_of_the_gateways_and_moves_when_told() {
    let authority = Arc::new(Authority::create("test").unwrap());
    let mut played = Vec::new();
    for name in ["g1", "g2", "g3", "g4", "g5"] {
        played.push(Played::new(&authority, name).await);
    }
    let all: Vec<&Played> = played.iter().collect();
    let share = chosen(&all, 2);
    // A seed that is not in its share, to see it left.
    let seed = all.iter().find(|played| !share.contains(&played.name)).unwrap();
    let seeds = seed.address().quic;
    let _agent = agent(&authority, serde_json::json!({"gateways": seeds, "tunnels": 2})).await;
    let mut first = seed.take().await;
    // What a later version might say is skipped.
    first.send_unknown().await;
    first.tell(list(1, &all)).await;
    let by_name = |name: &String| all.iter().find(|played| played.name == *name).unwrap();
    let mut taken = Vec::new();
    for name in &share {
        taken.push(by_name(name).take().await);
    }
    // The seed is left once the others are up.
    tokio::time::timeout(LIMIT, first.link.closed()).await.unwrap();
    // An older list changes nothing; one of the two is about to stop, and a third takes its place.
    taken[0].tell(list(0, &[])).await;
    taken[0].tell(to_agent::Message::Drain(Drain {})).await;
    let leaving = share.iter().next().unwrap();
    let mut others: Vec<&Played> = all.clone();
    others.retain(|played| played.name != *leaving);
    let after = chosen(&others, 2);
    let new = after.difference(&share).next().unwrap();
    let _third = by_name(new).take().await;
    tokio::time::timeout(LIMIT, taken[0].link.closed()).await.unwrap();
}

/// No UDP: the tunnel goes over TCP and carries the same; when UDP works it moves, and what was open goes on to its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn falls_back_to_tcp_and_moves_back() {
    let authority = Arc::new(Authority::create("test").unwrap());
    let mut played = Played::without_udp(&authority, "g1").await;
    // A UDP socket that swallows everything.
    let hole = tokio::net::UdpSocket::bind(local()).await.unwrap();
    let (udp, tcp) = (hole.local_addr().unwrap(), played.address().tcp);
    let _agent = agent(&authority, serde_json::json!({"gateways": [udp.to_string()], "tcp_gateways": tcp})).await;
    let over_tcp = played.take().await;
    assert_eq!(over_tcp.link.carrier(), Carrier::Tcp);

    let target = TcpListener::bind(local()).await.unwrap();
    let address = target.local_addr().unwrap().to_string();
    let (mut send, mut recv, opened) = over_tcp.open(&address).await;
    assert_eq!(opened.status(), OpenStatus::Connected, "{}", opened.detail);
    let (mut conversation, _) = target.accept().await.unwrap();
    send.write_all(b"over tcp").await.unwrap();
    conversation.read_exact(&mut [0; 8]).await.unwrap();

    drop(hole);
    played.listen_udp(udp);
    let moved =
        tokio::time::timeout(LIMIT * 2, async { played.greet(played.link_quic().await, 2).await }).await.unwrap();
    assert_eq!(moved.link.carrier(), Carrier::Quic);
    let (_send, _recv, opened) = moved.open(&address).await;
    assert_eq!(opened.status(), OpenStatus::Connected);
    // The old one lives while something is open in it, and no longer.
    conversation.write_all(b"still").await.unwrap();
    recv.read_exact(&mut [0; 5]).await.unwrap();
    send.finish().unwrap();
    drop(conversation);
    tokio::time::timeout(LIMIT, over_tcp.link.closed()).await.unwrap();
}

/// Ends, resets and their causes are the same over TCP as over QUIC.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ends_and_breaks_are_passed_on_by_either_way() {
    let authority = Arc::new(Authority::create("test").unwrap());
    for carrier in [Carrier::Quic, Carrier::Tcp] {
        let played = match carrier {
            Carrier::Quic => Played::new(&authority, "g1").await,
            Carrier::Tcp => Played::without_udp(&authority, "g1").await,
        };
        let GatewayAddress { quic, tcp, .. } = played.address();
        let config = match carrier {
            Carrier::Quic => serde_json::json!({"gateways": quic, "tcp_gateways": tcp}),
            // Nobody listens there.
            Carrier::Tcp => serde_json::json!({"gateways": ["127.0.0.1:9"], "tcp_gateways": tcp, "udp_probe": "1h"}),
        };
        let _agent = agent(&authority, config).await;
        let taken = played.take().await;
        assert_eq!(taken.link.carrier(), carrier);
        let target = TcpListener::bind(local()).await.unwrap();
        let address = target.local_addr().unwrap().to_string();

        // A half-close reaches the target, and its answer comes back.
        let served = async {
            let (mut stream, _) = target.accept().await.unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.unwrap();
            stream.write_all(&all).await.unwrap();
        };
        let asked = async {
            let (mut send, mut recv, _) = taken.open(&address).await;
            let sent: Vec<u8> = (0..2_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
            send.write_all(&sent).await.unwrap();
            send.finish().unwrap();
            let mut back = Vec::new();
            recv.read_to_end(&mut back).await.unwrap();
            assert!(back == sent);
        };
        tokio::time::timeout(LIMIT * 2, async { tokio::join!(served, asked) }).await.unwrap();

        // The target resets: the gateway is told so, with the cause.
        let (mut send, mut recv, _) = taken.open(&address).await;
        let (mut stream, _) = target.accept().await.unwrap();
        send.write_all(b"x").await.unwrap();
        stream.read_exact(&mut [0; 1]).await.unwrap();
        stream.set_zero_linger().unwrap();
        drop(stream);
        let fault = tokio::time::timeout(LIMIT, recv.read_exact(&mut [0; 1])).await.unwrap().unwrap_err();
        assert_eq!(StreamFault::of(&fault), Some(StreamFault::Reset(cause::BROKEN)), "{fault}");

        // The gateway resets: so does the target's side.
        let (mut send, _recv, _) = taken.open(&address).await;
        let (mut stream, _) = target.accept().await.unwrap();
        send.reset(cause::BROKEN);
        let seen = tokio::time::timeout(LIMIT, stream.read(&mut [0; 1])).await.unwrap();
        assert!(seen.is_err(), "{seen:?}");
    }
}

/// Two conversations in one tunnel, one of them not read by the gateway: it stalls its own target, with bounded memory, and the other runs
/// at full length.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_slows_its_own_target_only() {
    let authority = Arc::new(Authority::create("test").unwrap());
    for tcp_only in [false, true] {
        let played = match tcp_only {
            false => Played::new(&authority, "g1").await,
            true => Played::without_udp(&authority, "g1").await,
        };
        let GatewayAddress { quic, tcp, .. } = played.address();
        let quic = if tcp_only { vec!["127.0.0.1:9".to_owned()] } else { quic };
        let config = serde_json::json!({"gateways": quic, "tcp_gateways": tcp, "udp_probe": "1h"});
        let _agent = agent(&authority, config).await;
        let taken = played.take().await;
        let target = TcpListener::bind(local()).await.unwrap();
        let address = target.local_addr().unwrap().to_string();

        let (_slow_send, slow_recv, _) = taken.open(&address).await;
        let (mut slow, _) = target.accept().await.unwrap();
        let (_fast_send, mut fast_recv, _) = taken.open(&address).await;
        let (mut fast, _) = target.accept().await.unwrap();
        // Until nothing goes for a while: windows and the sockets' buffers are full.
        let mut stalled_at = 0_usize;
        while let Ok(written) = tokio::time::timeout(Duration::from_millis(500), slow.write(&[0; 64 << 10])).await {
            stalled_at += written.unwrap();
            assert!(stalled_at < 64 << 20, "the slow one is never held up");
        }
        const MUCH: usize = 40 << 20;
        let sending = async {
            for _ in 0..MUCH / (64 << 10) {
                fast.write_all(&[1; 64 << 10]).await.unwrap();
            }
            fast.shutdown().await.unwrap();
        };
        let reading = async {
            let (mut all, mut buffer) = (0, vec![0; 64 << 10]);
            loop {
                match fast_recv.read(&mut buffer).await.unwrap() {
                    0 => return all,
                    size => all += size,
                }
            }
        };
        let ((), all) = tokio::time::timeout(LIMIT * 3, async { tokio::join!(sending, reading) }).await.unwrap();
        assert_eq!(all, MUCH);
        drop(slow_recv);
    }
}

/// Of a version that the agent does not know: it is not served, and the agent says so and goes on trying.
#[tokio::test]
async fn a_gateway_of_another_version() {
    let authority = Arc::new(Authority::create("test").unwrap());
    let played = Played::new(&authority, "g1").await;
    let _agent = agent(&authority, serde_json::json!({"gateways": played.address().quic})).await;
    let taken = tokio::time::timeout(LIMIT, async { played.greet(played.link_quic().await, 3).await }).await.unwrap();
    tokio::time::timeout(LIMIT, taken.link.closed()).await.unwrap();
    // It comes again, and is served by the version that both know.
    let mut taken = played.take().await;
    let load: ToGateway =
        tokio::time::timeout(LIMIT, wire::read(&mut taken.recv, MAX_MESSAGE, tunnel::decode)).await.unwrap().unwrap();
    let Some(to_gateway::Message::Load(load)) = load.message else { panic!("{load:?}") };
    assert_eq!((load.open_streams, load.max_streams), (0, 1024));
}

/// A gateway that says when to come back is not asked before.
#[tokio::test]
async fn comes_back_when_it_is_told_to() {
    let authority = Arc::new(Authority::create("test").unwrap());
    let played = Played::new(&authority, "g1").await;
    let _agent = agent(&authority, serde_json::json!({"gateways": played.address().quic})).await;
    let link = tokio::time::timeout(LIMIT, played.link_quic()).await.unwrap();
    let (mut send, mut recv) = link.accept().await.unwrap();
    let _: Hello = wire::read(&mut recv, MAX_MESSAGE, tunnel::decode).await.unwrap();
    let welcome = Welcome { version: 2, refused: "full".into(), retry_after_ms: 3_000, ..Welcome::default() };
    wire::write(&mut send, tunnel::frame(&welcome)).await.unwrap();
    let refused = std::time::Instant::now();
    let _taken = played.take().await;
    assert!(refused.elapsed() >= Duration::from_millis(2_900), "{:?}", refused.elapsed());
}

/// A gateway of the agent's share has no room: another one takes its place at once, and the full one is not asked again and again.
#[tokio::test]
async fn a_gateway_without_room_is_left_for_another() {
    let authority = Arc::new(Authority::create("test").unwrap());
    let mut played = Vec::new();
    for name in ["g1", "g2", "g3"] {
        played.push(Played::new(&authority, name).await);
    }
    let all: Vec<&Played> = played.iter().collect();
    let share = chosen(&all, 1);
    let full = all.iter().find(|played| share.contains(&played.name)).unwrap();
    let two = chosen(&all, 2);
    let next = all.iter().find(|played| two.contains(&played.name) && played.name != full.name).unwrap();
    let seed = all.iter().find(|played| !two.contains(&played.name)).unwrap();
    let config = serde_json::json!({"gateways": seed.address().quic, "tcp_gateways": [], "tunnels": 1});
    let _agent = agent(&authority, config).await;
    let mut first = seed.take().await;
    first.tell(list(1, &all)).await;
    let link = tokio::time::timeout(LIMIT, full.link_quic()).await.unwrap();
    let (mut send, mut recv) = link.accept().await.unwrap();
    let _: Hello = wire::read(&mut recv, MAX_MESSAGE, tunnel::decode).await.unwrap();
    let (gateway, refused) = (full.name.clone(), "4096 tunnels already".to_owned());
    let welcome = Welcome { version: 2, gateway, refused, retry_after_ms: 500 };
    wire::write(&mut send, tunnel::frame(&welcome)).await.unwrap();
    let _taken = next.take().await;
    tokio::time::timeout(LIMIT, first.link.closed()).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_secs(3), full.link_quic()).await.is_err(), "asked again");
}

/// A gateway that asks for more streams than it may have, in garbage: each is refused, and the tunnel lives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_streams_is_refused() {
    let authority = Arc::new(Authority::create("test").unwrap());
    let played = Played::without_udp(&authority, "g1").await;
    let tcp = played.address().tcp;
    let config =
        serde_json::json!({"gateways": ["127.0.0.1:9"], "tcp_gateways": tcp, "udp_probe": "1h", "max_streams": 4});
    let _agent = agent(&authority, config).await;
    let taken = played.take().await;
    let mut held = Vec::new();
    for _ in 0..40 {
        let (mut send, recv) = taken.link.open().await.unwrap();
        send.write_all(&[0]).await.unwrap();
        held.push((send, recv));
    }
    let mut refused = 0;
    for (_, recv) in held.iter_mut().skip(4) {
        let fault = tokio::time::timeout(LIMIT, recv.read_exact(&mut [0; 1])).await.unwrap().unwrap_err();
        assert_eq!(StreamFault::of(&fault), Some(StreamFault::Reset(cause::LIMIT)));
        refused += 1;
    }
    assert_eq!(refused, 36);
    drop(held);
    let target = TcpListener::bind(local()).await.unwrap();
    let address = target.local_addr().unwrap().to_string();
    tokio::time::timeout(LIMIT, async {
        // The first four are in the way until they are known to be gone.
        loop {
            let (mut send, mut recv) = taken.link.open().await.unwrap();
            let request = Open { address: address.clone(), connect_timeout_ms: 2_000, ..Open::default() };
            wire::write(&mut send, tunnel::frame(&request)).await.unwrap();
            if wire::read::<Opened, _>(&mut recv, MAX_MESSAGE, tunnel::decode).await.is_ok() {
                return;
            }
        }
    })
    .await
    .unwrap();
}

/// Passes packets between the agent and a gateway, and takes another address of its own towards the gateway when it is told to: a NAT that
/// has forgotten.
async fn nat(gateway: SocketAddr, mut forget: tokio::sync::mpsc::Receiver<()>, inside: tokio::net::UdpSocket) {
    let mut outside = tokio::net::UdpSocket::bind(local()).await.unwrap();
    let (mut agent, mut out, mut back) = (None, vec![0; 65_536], vec![0; 65_536]);
    loop {
        tokio::select! {
            Some(()) = forget.recv() => outside = tokio::net::UdpSocket::bind(local()).await.unwrap(),
            Ok((size, from)) = inside.recv_from(&mut out) => {
                agent = Some(from);
                let _ = outside.send_to(&out[..size], gateway).await;
            }
            Ok((size, _)) = outside.recv_from(&mut back) => {
                if let Some(agent) = agent {
                    let _ = inside.send_to(&back[..size], agent).await;
                }
            }
        }
    }
}

/// The agent's address changes while bytes are under way: the tunnel and its streams go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nat_that_forgets_breaks_nothing() {
    let authority = Arc::new(Authority::create("test").unwrap());
    let played = Played::new(&authority, "g1").await;
    let inside = tokio::net::UdpSocket::bind(local()).await.unwrap();
    let seen_by_agent = inside.local_addr().unwrap().to_string();
    let (forget, forgets) = tokio::sync::mpsc::channel(1);
    let gateway = played.address().quic[0].parse().unwrap();
    Supervisor::new().spawn("nat", OnEnd::EndPart, nat(gateway, forgets, inside));
    let _agent = agent(&authority, serde_json::json!({"gateways": [seen_by_agent], "tcp_gateways": []})).await;
    let taken = played.take().await;
    let before = taken.link.remote();
    let target = TcpListener::bind(local()).await.unwrap();
    let (mut send, mut recv, _) = taken.open(&target.local_addr().unwrap().to_string()).await;
    let (mut stream, _) = target.accept().await.unwrap();
    let echo = async {
        let (mut from, mut to) = stream.split();
        tokio::io::copy(&mut from, &mut to).await.unwrap()
    };
    let talk = async {
        let mut block = vec![0; 256 << 10];
        for round in 0..12_u8 {
            if round == 4 || round == 8 {
                forget.send(()).await.unwrap();
            }
            let sent = vec![round; block.len()];
            let (written, read) = tokio::join!(send.write_all(&sent), recv.read_exact(&mut block));
            written.unwrap();
            read.unwrap();
            assert_eq!(block, sent);
        }
        send.finish().unwrap();
    };
    tokio::time::timeout(LIMIT * 3, async { tokio::join!(echo, talk) }).await.unwrap();
    assert_ne!(taken.link.remote(), before, "the address has changed");
}

/// A gateway tells a list that leads nowhere, with the greatest number there is: the agent finds its way back by its configuration, and
/// believes the next list.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_that_leads_nowhere_is_not_for_ever() {
    let authority = Arc::new(Authority::create("test").unwrap());
    let (liar, honest) = (Played::new(&authority, "g1").await, Played::new(&authority, "g2").await);
    let seeds: Vec<String> = [&liar, &honest].iter().flat_map(|played| played.address().quic).collect();
    let _agent = agent(&authority, serde_json::json!({"gateways": seeds, "tcp_gateways": []})).await;
    let (mut lying, other) = (liar.take().await, honest.take().await);
    let nowhere = GatewayAddress { name: "g9".into(), quic: vec!["127.0.0.1:9".into()], ..GatewayAddress::default() };
    let last = Gateways { term: u64::MAX, started: u64::MAX, revision: u64::MAX, gateways: vec![nowhere] };
    lying.tell(to_agent::Message::Gateways(last)).await;
    // It believes that: it leaves one, and would keep the other until a better one is there.
    let left = async {
        tokio::select! {
            _ = lying.link.closed() => {}
            _ = other.link.closed() => {}
        }
    };
    tokio::time::timeout(LIMIT, left).await.unwrap();
    lying.link.close(0, "gone");
    other.link.close(0, "gone");
    let mut again =
        tokio::time::timeout(LIMIT * 3, async { honest.greet(honest.link_quic().await, 2).await }).await.unwrap();
    again.tell(list(1, &[&honest])).await;
    // And that: the tunnel is the listed gateway's, and stays.
    let target = TcpListener::bind(local()).await.unwrap();
    let (_send, _recv, opened) = again.open(&target.local_addr().unwrap().to_string()).await;
    assert_eq!(opened.status(), OpenStatus::Connected);
}

/// Told to stop: the gateway hears of it, what is open goes on to its end, nothing new is opened, and then it is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_stops_ends_what_it_has_begun() {
    let authority = Arc::new(Authority::create("test").unwrap());
    let played = Played::new(&authority, "g1").await;
    let agent = agent(&authority, serde_json::json!({"gateways": played.address().quic})).await;
    let mut taken = played.take().await;
    let target = TcpListener::bind(local()).await.unwrap();
    let address = target.local_addr().unwrap().to_string();
    let (mut send, mut recv, _) = taken.open(&address).await;
    let (mut stream, _) = target.accept().await.unwrap();
    let draining = async { agent.drain(LIMIT * 2).await };
    let ending = async {
        loop {
            let said: ToGateway = wire::read(&mut taken.recv, MAX_MESSAGE, tunnel::decode).await.unwrap();
            if let Some(to_gateway::Message::Drain(_)) = said.message {
                break;
            }
        }
        send.write_all(b"last words").await.unwrap();
        stream.read_exact(&mut [0; 10]).await.unwrap();
        stream.write_all(b"answer").await.unwrap();
        recv.read_exact(&mut [0; 6]).await.unwrap();
        let (mut other, mut answers) = taken.link.open().await.unwrap();
        let request = Open { address: address.clone(), ..Open::default() };
        wire::write(&mut other, tunnel::frame(&request)).await.unwrap();
        let refused: Opened = wire::read(&mut answers, MAX_MESSAGE, tunnel::decode).await.unwrap();
        assert_eq!(refused.status(), OpenStatus::Unavailable);
        send.finish().unwrap();
        drop(stream);
        taken.link.closed().await;
    };
    let (drained, ()) = tokio::time::timeout(LIMIT * 3, async { tokio::join!(draining, ending) }).await.unwrap();
    assert!(drained.all_ended);
}
