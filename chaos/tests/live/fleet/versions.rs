//! An upgrade under way: nodes of this release beside nodes of the next, in every role and pair. The next one is a build of its own, which
//! speaks a version more and says what this one does not know; as a member of the control plane it knows a feature level more.

use std::path::PathBuf;

use postern_chaos::live::cluster::ClusterOptions;
use postern_chaos::live::fleet::{Fleet, FleetOptions};
use postern_chaos::live::{Postgres, PostgresOptions, next_binary, wait_until};

use super::SOON;
use super::relay::until_reached;
use crate::assert_has;

fn next() -> Option<PathBuf> {
    Some(next_binary().unwrap())
}

/// A gateway is replaced by one of the other release.
fn replace(fleet: &mut Fleet, gateway: usize, program: Option<PathBuf>) {
    let node = fleet.gateway(gateway).unwrap();
    node.stop().unwrap();
    node.set_program(program);
    node.start().unwrap();
    fleet.wait_for_login_to(gateway, "shop-direct").unwrap();
}

/// What versions the agent's tunnels spoke, as the gateway logged it since it had so much in its log.
fn spoken(fleet: &mut Fleet, gateway: usize, agent: &str, since: usize) -> Vec<u64> {
    let log = fleet.gateway(gateway).unwrap().log();
    let lines = log.get(since..).unwrap_or_default().lines();
    let lines = lines.filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let up = lines.filter(|line| line["message"] == "tunnel up" && line["agent"] == agent);
    up.filter_map(|line| line["version"].as_u64()).collect()
}

#[test]
fn this_release_and_the_next_work_together_in_every_pair() {
    let postgres = Postgres::start(PostgresOptions::default()).unwrap();
    let cluster = ClusterOptions { members: 1, ..Default::default() };
    let options =
        FleetOptions { cluster, gateways: 2, agents: 0, agent: "tunnels = 1".to_owned(), ..Default::default() };
    let mut fleet = Fleet::start(&postgres, options).unwrap();
    // Both choose the first gateway, by the nodes' names: sessions through the second one are passed on.
    let tunnel = fleet.gateway(0).unwrap().tunnel();
    for number in 0..2 {
        fleet.new_agent(std::slice::from_ref(&tunnel)).unwrap();
        fleet.agent(number).unwrap().set_program(if number == 1 { next() } else { None });
    }
    // What the holder speaks with an agent of this release, and of the next.
    for (holder, other, versions) in [(next(), None, [2, 3]), (None, next(), [2, 2])] {
        replace(&mut fleet, 0, holder);
        replace(&mut fleet, 1, other);
        for (number, version) in versions.into_iter().enumerate() {
            let since = fleet.gateway(0).unwrap().log().len();
            fleet.agent(number).unwrap().start().unwrap();
            until_reached(&fleet, 0);
            until_reached(&fleet, 1);
            let agent = format!("agent-{}", number + 1);
            assert_eq!(spoken(&mut fleet, 0, &agent, since), [version], "{}", fleet.logs());
            fleet.agent(number).unwrap().stop().unwrap();
        }
    }
    // The control plane of this release knows what gateways of the next one tell of themselves.
    let listed = fleet.cluster.cli().json(["fleet", "gateways", "-o", "json"]).unwrap().to_string();
    assert!(listed.contains("gateway-1") && listed.contains("gateway-2"), "{listed}");
}

/// A member is replaced by one of the other release, on its own disk.
fn replace_member(fleet: &mut Fleet, member: usize, program: Option<PathBuf>) {
    let node = fleet.cluster.member(member).unwrap();
    node.stop().unwrap();
    node.set_program(program);
    node.start().unwrap();
    fleet.cluster.wait_healthy().unwrap();
}

/// The cluster's feature level, and those that its members know.
fn levels(fleet: &Fleet) -> (u32, Vec<u32>) {
    let status = fleet.cluster.status().unwrap();
    let known = status.members.iter().filter_map(|member| member.node.as_ref()).map(|node| node.feature_level);
    (status.feature_level, known.collect())
}

/// A policy that is written through each member lets its group in at each gateway.
fn written_and_obeyed(fleet: &Fleet, step: usize) {
    for member in 0..fleet.cluster.len() {
        let group = format!("step-{step}-{member}");
        let policy = format!(
            "apiVersion: postern/v1\nkind: Policy\nmetadata: {{name: {group}}}\nspec:\n  effect: permit\n  \
             principals: {{groups: [{group}]}}\n  targets: {{names: [shop]}}\n  actions: [\"*\"]\n"
        );
        fleet.cluster.cli_of(member).unwrap().apply(&policy).unwrap();
        for gateway in 0..2 {
            let connection = fleet.connection(gateway, "shop", "kim", &[&group]).unwrap();
            let mut last = String::new();
            wait_until(SOON, "the policy to be obeyed", || {
                let run = connection.run("SELECT 1")?;
                last = run.stderr;
                Ok(run.status.success())
            })
            .unwrap_or_else(|error| panic!("{error:#}: {last}\n{}", fleet.logs()));
        }
    }
    fleet.cluster.wait_same_state().unwrap();
}

/// The control plane, one member after the other, under gateways and agents of both releases: the member of the next one leads those of this
/// one, and there is a way back until the last is replaced. From then on there is none, and who comes back all the same is told.
#[test]
fn a_control_plane_is_upgraded_member_by_member_and_back_until_the_last() {
    let postgres = Postgres::start(PostgresOptions::default()).unwrap();
    let options = FleetOptions {
        cluster: ClusterOptions { members: 3, ..Default::default() },
        gateways: 2,
        agents: 0,
        ..Default::default()
    };
    let mut fleet = Fleet::start(&postgres, options).unwrap();
    let (level, known) = levels(&fleet);
    assert_eq!(known, [level; 3]);

    replace_member(&mut fleet, 0, next());
    let know = |fleet: &Fleet, all: &[u32]| {
        let same = || {
            let mut known = levels(fleet).1;
            known.sort_unstable();
            Ok(known == all)
        };
        wait_until(SOON, "the member to say what it knows", same).unwrap_or_else(|error| panic!("{error:#}"));
    };
    know(&fleet, &[level, level, level + 1]);
    let name = fleet.cluster.member(0).unwrap().name().to_owned();
    fleet.cluster.cli().cli(["cluster", "transfer-leader", &name]).unwrap().ok().unwrap();
    wait_until(SOON, "the next release to lead", || Ok(fleet.cluster.leader()? == 0)).unwrap();
    // Gateways and agents of either release are let in by it, report to it and get their policy of it.
    replace(&mut fleet, 1, next());
    for number in 0..2 {
        fleet.add_agent().unwrap();
        if number == 1 {
            let agent = fleet.agent(number).unwrap();
            agent.stop().unwrap();
            agent.set_program(next());
            agent.start().unwrap();
        }
    }
    written_and_obeyed(&fleet, 1);
    let listed = fleet.cluster.cli().json(["fleet", "gateways", "-o", "json"]).unwrap().to_string();
    assert!(listed.contains("gateway-1") && listed.contains("gateway-2"), "{listed}");
    // Not before all of them know it; and back.
    assert_eq!(levels(&fleet).0, level);
    replace_member(&mut fleet, 0, None);
    know(&fleet, &[level; 3]);

    for member in 0..3 {
        replace_member(&mut fleet, member, next());
    }
    wait_until(SOON, "the feature level to be raised", || Ok(levels(&fleet).0 == level + 1)).unwrap();
    written_and_obeyed(&fleet, 2);
    let late = fleet.cluster.join_token(&["--role", "control"]).unwrap();
    let stranger = fleet.cluster.new_member(3, "").unwrap();
    let refused = stranger.join(&late, &fleet.cluster.peers().unwrap()).unwrap().fails().unwrap();
    assert_has(&refused, &["feature level"]);
    let follower = fleet.cluster.follower().unwrap();
    let back = fleet.cluster.member(follower).unwrap();
    back.stop().unwrap();
    back.set_program(None);
    back.spawn().unwrap();
    assert!(!back.wait_end(SOON).unwrap().success());
    assert_has(&back.log(), &["feature level"]);
    back.set_program(next());
    back.start().unwrap();
    fleet.cluster.wait_healthy().unwrap();
}
