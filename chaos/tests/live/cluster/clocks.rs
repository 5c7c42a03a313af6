//! Clocks of members that run, and go wrong.

use postern_chaos::live::cluster::{ClusterOptions, LiveCluster};
use postern_chaos::live::wait_until;

use super::{SOON, agree, load, writes};
use crate::assert_has;

/// A cluster whose members know each other's clocks: before that nobody can tell which is wrong.
fn clocked() -> LiveCluster {
    let mut cluster = LiveCluster::start(ClusterOptions { clocks: true, ..Default::default() }).unwrap();
    for number in 0..3 {
        let member = cluster.member(number).unwrap();
        wait_until(SOON, "the others' clocks", || Ok(member.log().contains("clocks are known"))).unwrap();
    }
    cluster
}

/// What `cluster status` finds wrong, by a member that is not `number`.
fn problems(cluster: &LiveCluster, number: usize) -> String {
    let other = (0..3).find(|other| *other != number).unwrap();
    let run = cluster.cli_of(other).unwrap().cli(["cluster", "status"]).unwrap();
    format!("{}{}", run.stdout, run.stderr)
}

/// A leader whose clock jumps by two hours hands over and says why; what it wrote meanwhile bears the time that the others share, so that
/// nothing ends too soon.
#[test]
fn of_a_leader() {
    // Further back, the certificates of a cluster as young as this one are not valid yet.
    for offset in ["+2h", "-3m"] {
        let mut cluster = clocked();
        let load = load(&cluster);
        let token = cluster.join_token(&["--role", "control"]).unwrap();
        let leader = cluster.leader().unwrap();
        cluster.member(leader).unwrap().set_clock(offset).unwrap();
        wait_until(SOON, "another leader", || Ok(cluster.leader()? != leader))
            .unwrap_or_else(|error| panic!("{error:#}\n{}", cluster.logs()));
        assert_has(
            &cluster.member(leader).unwrap().log(),
            &["has jumped", "leads by a clock that the others do not share"],
        );
        writes(&cluster, &load);
        let name = cluster.member(leader).unwrap().name().to_owned();
        assert_has(&problems(&cluster, leader), &["the clock of", &name, "is off by"]);
        // A token from before is good, and so is one that is made now, wherever it is asked for.
        for number in 0..3 {
            cluster
                .cli_of(number)
                .unwrap()
                .cli(["cluster", "token", "create", "--role", "control"])
                .unwrap()
                .ok()
                .unwrap();
        }
        // Let in by the member whose clock is wrong, with a certificate that is good to the others.
        let peers = [cluster.addresses()[leader].clone()];
        let mut stranger = cluster.new_member(3, "").unwrap();
        stranger.set_environment(Vec::new());
        stranger.join(&token, &peers).unwrap().ok().unwrap();
        stranger.start().unwrap();
        wait_until(SOON, "the new member to vote", || {
            let run = cluster.cli_of((leader + 1) % 3)?.cli(["cluster", "members", "-o", "json"])?;
            Ok(run.stdout.matches("control-4").count() > 0 && run.stdout.to_lowercase().matches("voter").count() >= 4)
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}\n{}", stranger.log(), cluster.logs()));
        cluster.cli().cli(["cluster", "remove", "control-4"]).unwrap().ok().unwrap();
        cluster.member(leader).unwrap().set_clock("+0").unwrap();
        agree(&cluster, load);
    }
}

/// A follower that is off says so, and is told of by the others; nothing else changes. Should it come to lead, it hands over again.
#[test]
fn of_a_follower() {
    let mut cluster = clocked();
    let load = load(&cluster);
    let (leader, follower) = (cluster.leader().unwrap(), cluster.follower().unwrap());
    cluster.member(follower).unwrap().set_clock("+2h").unwrap();
    let name = cluster.member(follower).unwrap().name().to_owned();
    wait_until(SOON, "the clock to be told of", || Ok(problems(&cluster, follower).contains("is off by"))).unwrap();
    assert_has(&problems(&cluster, follower), &[&format!("the clock of {name} is off by")]);
    let member = cluster.member(follower).unwrap();
    wait_until(SOON, "it to be logged", || Ok(member.log().contains("clock is not the other members"))).unwrap();
    writes(&cluster, &load);
    assert_eq!(cluster.leader().unwrap(), leader);
    // Its clock is wrong when it begins to lead.
    let moved = cluster.cli().cli(["cluster", "transfer-leader", &name]).unwrap();
    assert!(moved.status.success(), "{moved:?}");
    wait_until(SOON, "it to hand over", || Ok(cluster.leader()? != follower))
        .unwrap_or_else(|error| panic!("{error:#}\n{}", cluster.logs()));
    writes(&cluster, &load);
    let token = cluster.join_token(&["--role", "control"]).unwrap();
    assert!(!token.is_empty());
    cluster.member(follower).unwrap().set_clock("+0").unwrap();
    agree(&cluster, load);
}
