//! Agents that cheat: each is refused, counted, and told of in the log once, whatever it tries.

use std::time::{Duration, Instant};

use postern_core::node::NodeRole;
use postern_protocols::tunnel::{self, ALPN, ALPN_TCP, Hello};
use postern_runtime::pki::Authority;
use postern_runtime::tls;
use postern_runtime::tunnel::{StreamFault, cause, wire};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::house::{CLUSTER, House, credential};
use crate::logged::Log;
use crate::tunnels::{agent, counted, dial, greet, house, quic, tcp};

const LIMIT: Duration = Duration::from_secs(20);

/// Refused for `reason` so often by now, and each time the log has one line that says `why`.
async fn told(log: &Log, reason: &str, why: &str, times: usize) {
    let began = Instant::now();
    let count = || counted(&["postern_gateway_tunnels_refused_total", &format!("\"{reason}\"")]);
    let refused = f64::from(u32::try_from(times).unwrap());
    while count() < refused || log.lines(&["tunnel refused", why]) < times {
        assert!(began.elapsed() < LIMIT, "{reason}: {} times, {}", count(), log.all());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!((count() - refused).abs() < 0.1, "{reason}: {}", count());
    assert_eq!(log.lines(&["tunnel refused", why]), times, "{}", log.all());
}

async fn greets(house: &House, tls: rustls::ClientConfig, hello: Hello) -> bool {
    let Ok((_endpoint, link)) = quic(house, tls).await else { return false };
    let Ok((mut send, mut recv)) = link.open().await else { return false };
    if wire::write(&mut send, tunnel::frame(&hello)).await.is_err() {
        return false;
    }
    let welcome = wire::read::<tunnel::Welcome, _>(&mut recv, tunnel::MAX_MESSAGE, tunnel::decode).await;
    welcome.is_ok_and(|welcome| welcome.refused.is_empty())
}

fn hello(name: &str, pool: &str, version: u32) -> Hello {
    Hello { version, agent: name.into(), pool: pool.into(), version_min: version, ..Hello::default() }
}

/// All on one thread: so the log is this test's alone.
#[tokio::test]
async fn agents_that_cheat_are_refused_counted_and_logged_once() {
    let log = Log::capture();
    let house = house(|_| {}).await;
    let own = agent(&house.authority, "one");
    let good = || tls::client_mtls(&own, &[ALPN]).unwrap();

    let mut forged = agent(&Authority::create(CLUSTER).unwrap(), "one");
    forged.ca_pem = house.authority.ca_pem().to_owned();
    assert!(!greets(&house, tls::client_mtls(&forged, &[ALPN]).unwrap(), hello("one", "lab", 2)).await);
    told(&log, "handshake", "invalid peer certificate", 1).await;

    // No certificate, and one of another role.
    assert!(!greets(&house, tls::client_unverified(&[ALPN]).unwrap(), hello("one", "lab", 2)).await);
    told(&log, "certificate", "no certificate of an agent", 1).await;
    let control = credential(&house.authority, NodeRole::Control, None);
    assert!(!greets(&house, tls::client_mtls(&control, &[ALPN]).unwrap(), hello("one", "lab", 2)).await);
    told(&log, "certificate", "no certificate of an agent", 2).await;

    // Another's pool, and so another's targets; and another's name.
    assert!(!greets(&house, good(), hello("one", "vault", 2)).await);
    told(&log, "claim", "does not agree", 1).await;
    assert!(!greets(&house, good(), hello("two", "lab", 2)).await);
    told(&log, "claim", "does not agree", 2).await;

    // A version that is not there yet, and what is no greeting at all.
    assert!(!greets(&house, good(), hello("one", "lab", 77)).await);
    told(&log, "version", "version 77", 1).await;
    let (_endpoint, link) = quic(&house, good()).await.unwrap();
    let (mut send, _recv) = link.open().await.unwrap();
    send.write_all(&[0xff; 64]).await.unwrap();
    tokio::time::timeout(LIMIT, link.closed()).await.unwrap();
    told(&log, "broken", "is too long", 1).await;
    assert_eq!(house.gateway.tunnel_count(), 0);

    // More streams than it may have, in garbage: all are refused, and the tunnel lives.
    let link = tcp(&house, tls::client_mtls(&own, &[ALPN_TCP]).unwrap()).await.unwrap();
    let (welcome, _control) = greet(&link, "one", (1, 2)).await.unwrap();
    assert_eq!(welcome.refused, "");
    let mut held = Vec::new();
    for _ in 0..40 {
        let (mut send, recv) = link.open().await.unwrap();
        send.write_all(&[0xff]).await.unwrap();
        held.push((send, recv));
    }
    // The control stream is one of four.
    for (_, recv) in held.iter_mut().skip(3) {
        let fault = tokio::time::timeout(LIMIT, recv.read_u8()).await.unwrap().unwrap_err();
        assert_eq!(StreamFault::of(&fault), Some(StreamFault::Reset(cause::LIMIT)), "{fault}");
    }
    assert!(counted(&["postern_tunnel_streams_refused_total"]) >= 37.0);
    assert_eq!(log.lines(&["more streams than it may have"]), 1, "{}", log.all());
    assert_eq!(house.gateway.tunnel_count(), 1);

    // Revoked: what is open ends, and it does not come back.
    let revoked = dial(&house, "bad", (1, 2)).await;
    let serial = revoked.credential.serial().unwrap();
    house.apply(|snapshot| snapshot.revoked = std::sync::Arc::new([serial].into()));
    let why = tokio::time::timeout(LIMIT, revoked.link.closed()).await.unwrap();
    assert!(why.to_string().contains("revoked"), "{why}");
    let began = Instant::now();
    while log.lines(&["tunnel down", "certificate was revoked"]) == 0 {
        assert!(began.elapsed() < LIMIT, "{}", log.all());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(log.lines(&["tunnel down", "certificate was revoked"]), 1);
    assert!((counted(&["postern_gateway_tunnels_refused_total", "\"revoked\""]) - 1.0).abs() < 0.1);
    let again = tls::client_mtls(&revoked.credential, &[ALPN]).unwrap();
    assert!(!greets(&house, again, hello("bad", "lab", 2)).await);
    told(&log, "handshake", "invalid peer certificate", 2).await;
}
