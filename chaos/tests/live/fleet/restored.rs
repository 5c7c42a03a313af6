//! A gateway and a control plane that was restored from a backup: it goes by the new life, though that knows less, and never again by the
//! former one.

use std::time::Duration;

use postern_chaos::live::cluster::ClusterOptions;
use postern_chaos::live::fleet::{Fleet, FleetOptions};
use postern_chaos::live::{Postgres, PostgresOptions, wait_until};

const SOON: Duration = Duration::from_secs(60);

fn policy(name: &str) -> String {
    format!(
        "apiVersion: postern/v1\nkind: Policy\nmetadata: {{name: {name}}}\nspec:\n  effect: permit\n  principals: {{groups: [{name}]}}\n  \
         targets: {{names: [shop-direct]}}\n  actions: [\"*\"]\n"
    )
}

fn may(fleet: &Fleet, group: &str) -> bool {
    fleet.connection(0, "shop-direct", "kim", &[group]).unwrap().run("SELECT 1").unwrap().status.success()
}

#[track_caller]
fn until_only(fleet: &Fleet, group: &str, other: &str) {
    wait_until(SOON, "the policy", || Ok(may(fleet, group) && !may(fleet, other)))
        .unwrap_or_else(|error| panic!("{group}, not {other}: {error:#}\n{}", fleet.logs()));
}

/// The gateway starts again, and knows these members alone. What it decides by is on its disk before.
fn restart(fleet: &mut Fleet, members: &[String]) {
    let gateway = fleet.gateway(0).unwrap();
    let kept = || {
        let revision = |name| gateway.metric(name, "");
        Ok(revision("postern_gateway_policy_kept_revision")? >= revision("postern_gateway_policy_revision")?)
    };
    wait_until(SOON, "the policy to be kept", kept).unwrap();
    gateway.kill9().unwrap();
    let line = |line: &str| match line.starts_with("control_plane = ") {
        true => format!("control_plane = {members:?}"),
        false => line.to_owned(),
    };
    gateway.reconfigure(|config| config.lines().map(line).collect::<Vec<_>>().join("\n")).unwrap();
    gateway.start().unwrap();
}

#[test]
fn a_gateway_goes_by_a_restored_cluster_and_not_by_its_past() {
    let postgres = Postgres::start(PostgresOptions::default()).unwrap();
    let cluster = ClusterOptions { members: 1, ..Default::default() };
    let gateway = "kept_policy.credentials = true\n".to_owned();
    let options = FleetOptions { cluster, gateways: 1, agents: 0, gateway, ..Default::default() };
    let mut fleet = Fleet::start(&postgres, options).unwrap();
    fleet.cluster.cli().apply(&policy("early")).unwrap();
    until_only(&fleet, "early", "late");
    let backup = fleet.cluster.folder().join("backup");
    fleet.cluster.cli().cli(["control", "backup", "--out", &backup.display().to_string()]).unwrap().ok().unwrap();
    // Many changes, so that the restored cluster is behind by its numbers as well.
    for _ in 0..5 {
        fleet.cluster.cli().apply(&policy("late")).unwrap();
        fleet.cluster.cli().cli(["delete", "policy", "late"]).unwrap().ok().unwrap();
    }
    fleet.cluster.cli().apply(&policy("late")).unwrap();
    fleet.cluster.cli().cli(["delete", "policy", "early"]).unwrap().ok().unwrap();
    until_only(&fleet, "late", "early");
    let newest = fleet.gateway(0).unwrap().metric("postern_gateway_policy_revision", "").unwrap();

    // It has the newer policy on its disk, and goes by the older one all the same: it is another life's.
    fleet.cluster.restore(&backup, "-again").unwrap();
    let restored = fleet.cluster.peers().unwrap();
    restart(&mut fleet, &restored);
    until_only(&fleet, "early", "late");
    assert!(fleet.gateway(0).unwrap().metric("postern_gateway_policy_revision", "").unwrap() < newest);
    // What is changed from here on counts.
    fleet.cluster.cli().apply(&policy("new")).unwrap();
    until_only(&fleet, "new", "late");

    // The former member comes back, and nobody else is there. Its certificate is good no more in the new life.
    let mut past = fleet.cluster.new_member(0, "").unwrap();
    past.start().unwrap();
    fleet.cluster.member(0).unwrap().kill9().unwrap();
    let since = fleet.gateway(0).unwrap().log().len();
    restart(&mut fleet, &[past.api()]);
    let refused = || {
        let log = fleet.gateway(0)?.log();
        let log = log.get(since..).unwrap_or_default();
        Ok(log.contains("no policy from this node") || log.contains("a policy was refused"))
    };
    wait_until(SOON, "the past to be refused", refused).unwrap_or_else(|error| panic!("{error:#}"));
    assert!(may(&fleet, "new") && may(&fleet, "early") && !may(&fleet, "late"), "{}", fleet.logs());
    past.stop().unwrap();
}
