//! Members that are killed.

use super::{agree, cluster, load, writes};

/// The leader twice, then a follower, which comes back and has missed something; then the leader again.
#[test]
fn one_at_a_time() {
    let mut cluster = cluster();
    let load = load(&cluster);
    for _ in 0..2 {
        let leader = cluster.leader().unwrap();
        cluster.member(leader).unwrap().kill9().unwrap();
        writes(&cluster, &load);
        assert_ne!(cluster.leader().unwrap(), leader);
        cluster.member(leader).unwrap().start().unwrap();
        cluster.wait_healthy().unwrap();
    }
    let follower = cluster.follower().unwrap();
    cluster.member(follower).unwrap().kill9().unwrap();
    writes(&cluster, &load);
    cluster.member(follower).unwrap().start().unwrap();
    cluster.wait_healthy().unwrap();
    let leader = cluster.leader().unwrap();
    cluster.member(leader).unwrap().kill9().unwrap();
    writes(&cluster, &load);
    cluster.member(leader).unwrap().start().unwrap();
    agree(&cluster, load);
}

/// A power cut: all at once, under load, twice.
#[test]
fn all_at_once() {
    let mut cluster = cluster();
    let load = load(&cluster);
    for _ in 0..2 {
        for number in 0..3 {
            cluster.member(number).unwrap().kill9().unwrap();
        }
        for number in 0..3 {
            cluster.member(number).unwrap().start().unwrap();
        }
        writes(&cluster, &load);
    }
    agree(&cluster, load);
}

/// Without a majority nothing is acknowledged, and what was acknowledged before is there when it is back.
#[test]
fn without_a_majority_nothing_is_written() {
    let mut cluster = cluster();
    let load = load(&cluster);
    let leader = cluster.leader().unwrap();
    let others: Vec<usize> = (0..3).filter(|number| *number != leader).collect();
    for number in &others {
        cluster.member(*number).unwrap().kill9().unwrap();
    }
    // What was on its way may still be acknowledged by none: the load's own writes stand still from here on.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let alone = runtime.block_on(async {
        let options = postern_chaos::live::cluster::ClientOptions {
            attempt: std::time::Duration::from_secs(2),
            limit: std::time::Duration::from_secs(2),
            connections: 1,
        };
        let client = cluster.client().unwrap().only(leader).with(options);
        (client.put("alone", "never acknowledged", None).await, client.get("register-0").await)
    });
    assert!(alone.0.is_err(), "{alone:?}");
    assert!(alone.1.is_err(), "a read without a majority is not linearizable: {alone:?}");
    for number in &others {
        cluster.member(*number).unwrap().start().unwrap();
    }
    writes(&cluster, &load);
    agree(&cluster, load);
}

/// An upgrade: one member after the other is stopped as an operator does, and started again.
#[test]
fn one_after_the_other_is_restarted() {
    let mut cluster = cluster();
    let load = load(&cluster);
    for number in 0..3 {
        cluster.member(number).unwrap().stop().unwrap();
        writes(&cluster, &load);
        cluster.member(number).unwrap().start().unwrap();
        cluster.wait_healthy().unwrap();
    }
    let summary = agree(&cluster, load);
    assert_eq!(summary.unknown, 0, "{summary:?}");
}
