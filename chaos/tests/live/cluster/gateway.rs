//! A gateway before a cluster whose leader dies: sessions stay up, and policy goes on changing.

use std::time::Duration;

use postern_chaos::live::cluster::Gateway;
use postern_chaos::live::wire::Wire;
use postern_chaos::live::{Postgres, PostgresOptions, wait_until};

use super::cluster;

const FREEZE: &str = "apiVersion: postern/v1\nkind: Policy\nmetadata: {name: freeze}\nspec:\n  effect: deny\n  \
                      principals: {groups: [\"*\"]}\n  targets: {names: [shop-direct]}\n  actions: [\"sql:*\"]\n  reason: frozen\n";

#[test]
fn a_session_outlives_the_leader_and_obeys_the_next() {
    let postgres = Postgres::start(PostgresOptions::default()).unwrap();
    let mut cluster = cluster();
    let mut gateway = Gateway::start(&cluster, &postgres).unwrap();
    let mut session = Wire::connect(&gateway.address()).unwrap();
    session.login("shop-direct", "shop", &gateway.token("dora", &["dba"]).unwrap()).unwrap();
    let mut permitted = move || {
        let answer = session.query("SELECT count(*) FROM orders").unwrap();
        // Never silence, never an end: rows, or a denial in words.
        match answer.first().map(|message| message.kind) {
            Some('T') => true,
            Some('E') => {
                assert_eq!(answer[0].field('C').as_deref(), Some("42501"), "{:?}", answer[0].fields());
                false
            }
            other => panic!("{other:?}"),
        }
    };
    assert!(permitted());
    for _ in 0..2 {
        let leader = cluster.leader().unwrap();
        cluster.member(leader).unwrap().kill9().unwrap();
        assert!(permitted(), "policy is still good");
        // By a member that is left, once another leads.
        wait_until(Duration::from_secs(20), "a write", || Ok(cluster.cli().try_apply(FREEZE)?.status.success()))
            .unwrap();
        wait_until(Duration::from_secs(20), "the deny to arrive", || Ok(!permitted()))
            .unwrap_or_else(|error| panic!("{error:#}\n{}", gateway.log()));
        cluster.cli().cli(["delete", "policy", "freeze"]).unwrap().ok().unwrap();
        wait_until(Duration::from_secs(20), "the deny to go", || Ok(permitted())).unwrap();
        cluster.member(leader).unwrap().start().unwrap();
        cluster.wait_healthy().unwrap();
    }
    assert!(gateway.is_running());
}
