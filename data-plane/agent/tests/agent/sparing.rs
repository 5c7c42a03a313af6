//! An agent among thousands: what it does not ask of gateways that have much to do.

use std::pin::pin;

use postern_protocols::tunnel::GatewayAddress;
use postern_runtime::tunnel::Carrier;

use super::played::{Played, agent, chosen, list};
use super::*;

/// How long nothing may come: longer than an agent waits for UDP, and for a first gateway's list.
const NOTHING: Duration = Duration::from_secs(3);

/// A gateway that says over QUIC that it takes nobody now is there: it is not asked over TCP as well, but again later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_gateway_is_not_asked_over_tcp_as_well() {
    let authority = Arc::new(Authority::create("test").unwrap());
    let played = Played::new(&authority, "g1").await;
    let GatewayAddress { quic, tcp, .. } = played.address();
    let _agent = agent(&authority, serde_json::json!({"gateways": quic, "tcp_gateways": tcp})).await;
    let over_quic = async {
        for _ in 0..3 {
            played.refuse().await;
        }
        played.link_quic().await
    };
    let taken = tokio::select! {
        link = over_quic => link,
        _ = played.link_tcp() => panic!("it came over TCP"),
        () = tokio::time::sleep(LIMIT * 2) => panic!("it did not come again"),
    };
    assert_eq!(taken.carrier(), Carrier::Quic);
}

/// Of several configured gateways one is asked, and the list that it tells is enough: the agent has as many tunnels as it should, all from
/// one socket, and was nowhere else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn begins_with_one_gateway_and_goes_nowhere_in_vain() {
    let authority = Arc::new(Authority::create("test").unwrap());
    let mut all = Vec::new();
    for name in ["g1", "g2", "g3", "g4", "g5", "g6"] {
        all.push(Played::new(&authority, name).await);
    }
    let all: Vec<&Played> = all.iter().collect();
    let seeds: Vec<String> = all.iter().flat_map(|played| played.address().quic).collect();
    let _agent = agent(&authority, serde_json::json!({"gateways": seeds, "tcp_gateways": [], "tunnels": 2})).await;
    let first = futures::future::select_all(all.iter().map(|played| Box::pin(played.link_quic())));
    let (link, seed, others) = tokio::time::timeout(LIMIT, first).await.unwrap();
    drop(others);
    let mut first = all[seed].greet(link, 2).await;
    first.tell(list(1, &all)).await;
    let share = chosen(&all, 2);
    let mut sockets = vec![first.link.remote().port()];
    let mut held = Vec::new();
    for played in all.iter().filter(|played| share.contains(&played.name) && played.name != all[seed].name) {
        let taken = played.take().await;
        sockets.push(taken.link.remote().port());
        held.push(taken);
    }
    sockets.dedup();
    assert_eq!(sockets.len(), 1, "more than one socket");
    let elsewhere = all.iter().filter(|played| !share.contains(&played.name) && played.name != all[seed].name);
    let mut elsewhere = pin!(futures::future::select_all(elsewhere.map(|played| Box::pin(played.link_quic()))));
    assert!(tokio::time::timeout(NOTHING, &mut elsewhere).await.is_err(), "it went elsewhere");
}
