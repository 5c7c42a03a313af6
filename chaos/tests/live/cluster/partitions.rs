//! Members that do not hear each other, in network namespaces; clients reach all of them. Needs root.

use std::time::Duration;

use postern_chaos::live::cluster::{ClientOptions, ClusterOptions, Cut, LiveCluster};

use super::{SOON, agree, load, writes};

/// The leader alone on its side: it acknowledges nothing, it reads nothing stale, and it steps down. Then in each direction alone.
#[test]
fn the_leader_is_cut_off() {
    let cluster = LiveCluster::start(ClusterOptions { namespaces: true, ..Default::default() }).unwrap();
    let load = load(&cluster);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _guard = runtime.enter();
    let client = cluster.client().unwrap();
    for how in [Cut::Both, Cut::Outgoing, Cut::Incoming] {
        let leader = cluster.leader().unwrap();
        let patient = ClientOptions { attempt: Duration::from_secs(3), limit: Duration::from_secs(3), connections: 1 };
        let (old, others) = (client.only(leader).with(patient), client.beginning_with((leader + 1) % 3));
        runtime.block_on(others.put("cut", &format!("before {how:?}"), None)).unwrap();
        cluster.network().unwrap().cut(leader, how).unwrap();
        writes(&cluster, &load);
        let value = format!("while {how:?}");
        let since = runtime.block_on(others.put("cut", &value, None)).unwrap();
        let read = runtime.block_on(old.get("cut"));
        match &read {
            Ok(found) => assert_eq!(*found, Some((value, since)), "stale, {how:?}"),
            Err(failure) => assert!(!failure.to_string().is_empty()),
        }
        if how == Cut::Both {
            let alone = runtime.block_on(old.put("cut-alone", "of the minority", None));
            assert!(alone.is_err(), "acknowledged by a minority: {alone:?}");
        }
        cluster.network().unwrap().heal(leader).unwrap();
        load.wait_for(30, SOON).unwrap();
        cluster.wait_healthy().unwrap();
    }
    agree(&cluster, load);
}

/// A follower that is cut off does not disturb the rest when it comes back (pre-vote), and catches up.
#[test]
fn a_follower_is_cut_off() {
    let cluster = LiveCluster::start(ClusterOptions { namespaces: true, ..Default::default() }).unwrap();
    let load = load(&cluster);
    let leader = cluster.leader().unwrap();
    let follower = (leader + 1) % 3;
    cluster.network().unwrap().cut(follower, Cut::Both).unwrap();
    // Longer than several election timeouts.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async { tokio::time::sleep(Duration::from_secs(4)).await });
    writes(&cluster, &load);
    let term = cluster.status().unwrap().term;
    cluster.network().unwrap().heal(follower).unwrap();
    cluster.wait_healthy().unwrap();
    // Without a vote before the vote, the follower would come back with a term for each of its timeouts, four at the least. A busy machine may
    // hold an election or two of its own.
    let after = cluster.status().unwrap().term;
    assert!(after < term + 4, "term {term} before, {after} after");
    agree(&cluster, load);
}
