//! Access on request while the control plane loses its leader, and then all of itself (I7, I9).

use std::time::Duration;

use postern_chaos::live::cluster::ClusterOptions;
use postern_chaos::live::fleet::{Fleet, FleetOptions};
use postern_chaos::live::wire::Wire;
use postern_chaos::live::{Postgres, PostgresOptions, wait_until};

use crate::assert_has;

const SOON: Duration = Duration::from_secs(60);

const POLICY: &str = "
apiVersion: postern/v1
kind: Policy
metadata: {name: on-call}
spec:
  effect: permit
  principals: {groups: [on-call]}
  targets: {names: [shop-direct]}
  actions: ['sql:select']
  onRequest: {review: [{groups: [keepers], count: 2}]}
";

#[test]
fn a_grant_outlives_the_leader_and_ends_without_a_control_plane() {
    let postgres = Postgres::start(PostgresOptions::default()).unwrap();
    let cluster = ClusterOptions { members: 3, ..Default::default() };
    let mut fleet =
        Fleet::start(&postgres, FleetOptions { cluster, gateways: 1, agents: 0, ..Default::default() }).unwrap();
    fleet.cluster.cli().apply(POLICY).unwrap();
    let token = |fleet: &Fleet, subject: &str, group: &str| fleet.issuer().token(subject, &[group]).unwrap();
    let alice = token(&fleet, "alice", "on-call");
    let request = ["access", "request", "--target", "shop-direct", "--reason", "the pager", "--for", "15s"];
    let id = fleet.cluster.cli().cli_as(&alice, request).unwrap().ok().unwrap().trim().to_owned();
    let dora = token(&fleet, "dora", "keepers");
    fleet.cluster.cli().cli_as(&dora, ["access", "approve", &id]).unwrap().ok().unwrap();

    let leader = fleet.cluster.leader().unwrap();
    fleet.cluster.member(leader).unwrap().kill9().unwrap();
    let dan = token(&fleet, "dan", "keepers");
    let survivors: Vec<usize> = (0..3).filter(|member| *member != leader).collect();
    let cli = fleet.cluster.cli_of_all(&survivors).unwrap();
    wait_until(SOON, "a new leader to take the second word", || {
        let answer = cli.cli_as(&dan, ["access", "approve", &id])?;
        // A first try may have come through without its answer.
        Ok(answer.status.success() || answer.stderr.contains("the request is active"))
    })
    .unwrap();
    let login = |fleet: &mut Fleet| -> anyhow::Result<Wire> {
        let mut wire = Wire::connect(&fleet.gateway(0)?.postgres())?;
        wire.login("shop-direct", "shop", &alice)?;
        Ok(wire)
    };
    // At once: the gateway may have had to look for another member.
    let mut session = None;
    wait_until(SOON, "the grant", || {
        session = login(&mut fleet).ok();
        Ok(session.is_some())
    })
    .unwrap();
    let mut session = session.unwrap();
    assert!(session.query("SELECT count(*) FROM orders").unwrap().iter().any(|message| message.kind == 'D'));

    for member in survivors {
        fleet.cluster.member(member).unwrap().kill9().unwrap();
    }
    let end = session.read().unwrap();
    assert_has(&end.field('M').unwrap(), &["access that was granted on request is over"]);
    assert!(session.closes().unwrap());
    let refused = fleet.connection(0, "shop-direct", "alice", &["on-call"]).unwrap().run("SELECT 1").unwrap();
    assert_has(&refused.fails().unwrap(), &["access to shop-direct is by request"]);
}
