//! The walk in the README, with its own objects and statements.

use std::time::Duration;

use postern_chaos::live::{Postern, PosternOptions, Postgres, PostgresOptions, Role, wait_until};

use crate::{assert_denied, assert_has};

const README: &str = include_str!("../../../README.md");

#[test]
fn the_walk_in_the_readme_is_true() {
    let postgres = Postgres::start(PostgresOptions::default()).unwrap();
    let postern = Postern::dev(PosternOptions::default()).unwrap();
    let objects = README.split("<<'YAML'\n").nth(1).and_then(|rest| rest.split("\nYAML\n").next()).unwrap();
    let here = objects.replace("127.0.0.1:5432", &postgres.address());
    let here = here.replace("valueFrom: {env: SHOP_PASSWORD}", &format!("value: \"{}\"", Role::Scram.password()));
    assert!(here.contains(&postgres.address()) && here.contains(Role::Scram.password()));
    postern.apply(&here).unwrap();

    let alice = postern.as_member("alice", &["analysts"]).unwrap();
    for statement in ["SELECT name, email FROM customers;", "DROP TABLE orders;", "DELETE FROM orders WHERE id = 7;"] {
        assert_has(README, &[&format!("shop=> {statement}")]);
    }
    let read = alice.run("SELECT name, email FROM customers ORDER BY id;").unwrap().ok().unwrap();
    assert_eq!(read, "Ada|****\nBrook|****\nCyd|\n");
    let drop = alice.run("DROP TABLE orders;").unwrap().stderr;
    assert_denied(&drop);
    assert_has(&drop, &["denied by Postern: no policy permits sql:drop on"]);

    let folder = tempfile::tempdir().unwrap();
    let mut held = alice.psql().start("held", "DELETE FROM orders WHERE id = 7;", folder.path()).unwrap();
    let approval = postern.pending_approval().unwrap();
    wait_until(Duration::from_secs(10), "the notice", || {
        Ok(held.stderr().contains("held by Postern: waits for approval"))
    })
    .unwrap();
    let rita = postern.token("rita", &["reviewers"]).unwrap();
    assert_has(&postern.cli_as(&rita, ["approvals", "list"]).unwrap().ok().unwrap(), &[&approval]);
    let review = ["approvals", "approve", &approval, "--comment", "checked with finance"];
    postern.cli_as(&rita, review).unwrap().ok().unwrap();
    assert!(held.wait(Duration::from_secs(10)).unwrap().success());

    let session = postern.last_ended_session().unwrap();
    assert_has(&postern.cli(["sessions", "list"]).unwrap().ok().unwrap(), &[&session]);
    assert_has(&postern.cli(["sessions", "replay", &session]).unwrap().ok().unwrap(), &["checked with finance"]);
    postern.cli(["sessions", "verify", &session]).unwrap().ok().unwrap();
}
