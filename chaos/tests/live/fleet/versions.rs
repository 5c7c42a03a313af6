//! An upgrade under way: nodes of this release beside nodes of the next, in every role and pair of the data plane. The next one is a build of
//! its own, which speaks a version more and says what this one does not know.

use std::path::PathBuf;

use postern_chaos::live::cluster::ClusterOptions;
use postern_chaos::live::fleet::{Fleet, FleetOptions};
use postern_chaos::live::{Postgres, PostgresOptions, next_binary};

use super::relay::until_reached;

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
