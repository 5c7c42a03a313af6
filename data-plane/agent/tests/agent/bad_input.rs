//! Gateways that cheat: each request is refused, counted, and told of in the log once; a flood of them does not fill the disk.

use postern_protocols::tunnel::{GatewayAddress, ToGateway};
use postern_runtime::telemetry;
use postern_runtime::tunnel::{StreamFault, cause, wire};

use super::logged::Log;
use super::played::{Played, agent, counted};
use super::*;

/// All on one thread: so the log is this test's alone.
#[tokio::test]
async fn what_a_gateway_may_not_ask_is_refused_counted_and_logged_once() {
    let log = Log::capture();
    let _ = telemetry::install_metrics();
    let authority = Arc::new(Authority::create("test").unwrap());
    let played = Played::new(&authority, "g1").await;
    let target = TcpListener::bind(local()).await.unwrap();
    let port = target.local_addr().unwrap().port();
    // Names whose address is not listed: what they resolve to is this host itself.
    let allow =
        serde_json::json!([{"hosts": ["127.1", "0x7f000001", "localhost", "db.invalid"], "ports": ["1-65535"]}]);
    let config = serde_json::json!({"gateways": played.address().quic, "tcp_gateways": [], "allow": allow});
    let _agent = agent(&authority, config).await;
    let taken = played.take().await;
    let mut forbidden = 0.0;
    for (address, why) in [
        (format!("127.0.0.1:{port}"), "not on the allow-list"),
        ("169.254.169.254:80".to_owned(), "not on the allow-list"),
        (format!("[::ffff:127.0.0.1]:{port}"), "not on the allow-list"),
        ("other.invalid:80".to_owned(), "not on the allow-list"),
        (format!("127.1:{port}"), "resolves to an address that is not on the allow-list"),
        (format!("0x7f000001:{port}"), "resolves to an address that is not on the allow-list"),
    ] {
        let (_, _, opened) = taken.open(&address).await;
        assert_eq!((opened.status(), opened.detail.as_str()), (OpenStatus::Forbidden, why), "{address}");
        forbidden += 1.0;
        counted("postern_agent_streams_total{outcome=\"forbidden\"}", forbidden).await;
        assert_eq!(log.lines(&["not opened", &format!("\"{address}\"")]), 1, "{address}: {}", log.all());
    }
    // Again and again: all are counted, few are told.
    for _ in 0..60 {
        assert_eq!(taken.open("10.9.8.7:80").await.2.status(), OpenStatus::Forbidden);
    }
    counted("postern_agent_streams_total{outcome=\"forbidden\"}", forbidden + 60.0).await;
    let lines = log.lines(&["not opened"]);
    assert!((7..=25).contains(&lines), "{lines} lines");
    // Nobody came through.
    assert!(tokio::time::timeout(Duration::from_millis(100), target.accept()).await.is_err());
}

/// A gateway that greets with a version of tomorrow, and one that opens more streams than it may, in garbage.
#[tokio::test]
async fn a_version_of_tomorrow_and_a_flood_of_streams() {
    let log = Log::capture();
    let _ = telemetry::install_metrics();
    let authority = Arc::new(Authority::create("test").unwrap());
    let played = Played::without_udp(&authority, "g1").await;
    let GatewayAddress { tcp, .. } = played.address();
    let config =
        serde_json::json!({"gateways": ["127.0.0.1:9"], "tcp_gateways": tcp, "udp_probe": "1h", "max_streams": 4});
    let _agent = agent(&authority, config).await;
    let link = tokio::time::timeout(LIMIT, played.link_tcp()).await.unwrap();
    let tomorrow = played.greet(link, 99).await;
    tokio::time::timeout(LIMIT, tomorrow.link.closed()).await.unwrap();
    counted("postern_agent_tunnel_failures_total", 1.0).await;
    let mut taken = played.take().await;
    assert_eq!(log.lines(&["no tunnel to the gateway", "version 99"]), 1, "{}", log.all());
    // What it does not know is skipped, and the tunnel lives.
    for _ in 0..3 {
        taken.send_unknown().await;
    }
    counted("postern_agent_messages_skipped_total", 3.0).await;

    let mut held = Vec::new();
    for _ in 0..40 {
        let (mut send, recv) = taken.link.open().await.unwrap();
        send.write_all(&[0]).await.unwrap();
        held.push((send, recv));
    }
    for (_, recv) in held.iter_mut().skip(4) {
        let fault = tokio::time::timeout(LIMIT, recv.read_u8()).await.unwrap().unwrap_err();
        assert_eq!(StreamFault::of(&fault), Some(StreamFault::Reset(cause::LIMIT)));
    }
    counted("postern_tunnel_streams_refused_total", 36.0).await;
    assert_eq!(log.lines(&["more streams than it may have"]), 1, "{}", log.all());
    let said = wire::read::<ToGateway, _>(&mut taken.recv, tunnel::MAX_MESSAGE, tunnel::decode);
    tokio::time::timeout(LIMIT, said).await.unwrap().unwrap();
}
