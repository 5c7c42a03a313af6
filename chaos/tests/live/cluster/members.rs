//! Who is let in, and who is shown the door.

use std::time::Duration;

use postern_chaos::live::cluster::{ClusterOptions, LiveCluster};

use super::{agree, cluster, load, writes};
use crate::assert_has;

const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

/// A token is good for its own cluster, once, and for whom it was made; each refusal says why.
#[test]
fn tokens_that_let_nobody_in() {
    let options = || ClusterOptions { members: 1, ..Default::default() };
    let (cluster, other) = (LiveCluster::start(options()).unwrap(), LiveCluster::start(options()).unwrap());
    let peers = cluster.peers().unwrap();
    let stranger = cluster.new_member(7, "").unwrap();
    let refused = |token: &str| stranger.join(token, &peers).unwrap().fails().unwrap();
    // Of another cluster: whom it is shown to is not whom it trusts.
    let foreign = other.join_token(&["--role", "control"]).unwrap();
    assert_has(&refused(&foreign), &["cluster"]);
    let agents = cluster.join_token(&["--role", "agent", "--pool", "dev"]).unwrap();
    assert_has(&refused(&agents), &["agent"]);
    let short = cluster.join_token(&["--role", "control", "--ttl", "1s"]).unwrap();
    std::thread::park_timeout(Duration::from_millis(1_500));
    assert_has(&refused(&short), &["expired"]);
    let mut damaged = cluster.join_token(&["--role", "control"]).unwrap();
    let last = if damaged.pop() == Some('A') { 'E' } else { 'A' };
    damaged.push(last);
    refused(&damaged);
    refused("no token at all");
    // None of them has left anything behind.
    let good = cluster.join_token(&["--role", "control"]).unwrap();
    stranger.join(&good, &peers).unwrap().ok().unwrap();
    let again = cluster.new_member(8, "").unwrap();
    assert_has(&again.join(&good, &peers).unwrap().fails().unwrap(), &["used"]);
}

/// A node whose clock is two hours off is not let in, and told by how much.
#[test]
fn a_clock_two_hours_off() {
    assert!(std::path::Path::new(FAKETIME).exists(), "libfaketime is not installed: run `scripts/bootstrap.sh test`");
    let cluster = LiveCluster::start(ClusterOptions { members: 1, ..Default::default() }).unwrap();
    for (offset, told) in [("+2h", "seconds ahead of the cluster's"), ("-2h", "seconds behind the cluster's")] {
        let mut member = cluster.new_member(1, "").unwrap();
        member.set_environment(vec![
            ("LD_PRELOAD".to_owned(), FAKETIME.to_owned()),
            ("FAKETIME".to_owned(), offset.to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC".to_owned(), "1".to_owned()),
        ]);
        let token = cluster.join_token(&["--role", "control"]).unwrap();
        let said = member.join(&token, &cluster.peers().unwrap()).unwrap().fails().unwrap();
        assert_has(&said, &["this machine's clock is", told]);
        let seconds = said.split_whitespace().filter_map(|word| word.parse::<u64>().ok()).max().unwrap();
        assert!((7_190..7_290).contains(&seconds), "{said}");
        // The token is not used up by it.
        member.set_environment(Vec::new());
        if offset == "-2h" {
            member.join(&token, &cluster.peers().unwrap()).unwrap().ok().unwrap();
        }
    }
}

/// A removed member stops and says why: one that runs, and one that was away.
#[test]
fn a_removed_member_stops() {
    let mut cluster = cluster();
    let fourth = cluster.add_member().unwrap();
    cluster.wait_healthy().unwrap();
    let load = load(&cluster);
    let name = cluster.member(fourth).unwrap().name().to_owned();
    cluster.cli().cli(["cluster", "remove", &name]).unwrap().ok().unwrap();
    let member = cluster.member(fourth).unwrap();
    assert!(!member.wait_end(Duration::from_secs(30)).unwrap().success());
    assert_has(&member.log(), &["removed"]);
    writes(&cluster, &load);
    // Away while it is removed; its place is taken by another.
    let follower = cluster.follower().unwrap();
    let name = cluster.member(follower).unwrap().name().to_owned();
    cluster.member(follower).unwrap().kill9().unwrap();
    cluster.cli().cli(["cluster", "remove", &name]).unwrap().ok().unwrap();
    let member = cluster.member(follower).unwrap();
    member.spawn().unwrap();
    assert!(!member.wait_end(Duration::from_secs(30)).unwrap().success());
    assert_has(&member.log(), &["removed"]);
    writes(&cluster, &load);
    agree(&cluster, load);
}

/// Who is asked for its own removal says truly that it is done: the leader, and one that follows.
#[test]
fn a_member_answers_for_its_own_removal() {
    let mut cluster = cluster();
    for number in [cluster.leader().unwrap(), cluster.follower().unwrap()] {
        let name = cluster.member(number).unwrap().name().to_owned();
        let said = cluster.cli_of(number).unwrap().cli(["cluster", "remove", &name]).unwrap().ok().unwrap();
        assert_has(&said, &["out for good"]);
        let member = cluster.member(number).unwrap();
        assert!(!member.wait_end(Duration::from_secs(30)).unwrap().success());
        assert_has(&member.log(), &["removed"]);
        cluster.wait_healthy().unwrap();
    }
    let told = cluster.cli().cli(["audit", "list", "--method", "RemoveMember", "-o", "json"]).unwrap().ok().unwrap();
    assert_eq!(told.matches("RemoveMember").count(), 2, "{told}");
}
