//! `postern sessions kill`: one session ends, wherever it is, and no other.

use std::time::{Duration, Instant};

use postern_chaos::live::wire::Wire;
use postern_chaos::live::{Postern, Postgres, PostgresOptions, RoleOptions, ThreeProcesses, wait_until};
use rustix::process::Signal;

use crate::hold::hold;
use crate::{assert_has, assert_lacks, shop};

/// What is promised is a second; this is for a busy machine.
const SOON: Duration = Duration::from_secs(10);

fn open(postern: &Postern, token: &str) -> Wire {
    let mut wire = Wire::connect(&postern.postgres_address().unwrap()).unwrap();
    wire.login("shop", "shop", token).unwrap();
    wire
}

/// The open sessions of a principal, the newest first.
fn ids(postern: &Postern, principal: &str, count: usize) -> Vec<String> {
    let mut found = Vec::new();
    wait_until(SOON, "the sessions in the index", || {
        let open = postern.sessions()?.into_iter().filter(|it| it["principal"] == principal && it["state"] == "open");
        found = open.filter_map(|session| session["id"].as_str().map(str::to_owned)).collect();
        Ok(found.len() == count)
    })
    .unwrap();
    found
}

#[track_caller]
fn is_ended(wire: &mut Wire, since: Instant) {
    let said = wire.read().unwrap();
    let what = said.field('M').unwrap_or_default();
    assert_eq!((said.kind, said.field('C').as_deref()), ('E', Some("57P01")), "{what}");
    assert_has(&what, &["was ended by an operator"]);
    assert!(since.elapsed() < SOON);
    assert!(wire.closes().unwrap());
}

#[track_caller]
fn goes_on(wire: &mut Wire) {
    let answer = wire.query("SELECT 1").unwrap();
    assert!(answer.iter().any(|message| message.kind == 'D'), "{answer:?}");
}

fn sleeps(postgres: &Postgres) -> usize {
    let count = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'";
    postgres.sql("shop", count).unwrap().trim().parse().unwrap()
}

#[test]
fn ends_one_session_and_what_it_has_under_way() {
    let (postgres, postern) = shop();
    let token = postern.token("ann", &["dba"]).unwrap();
    let mut first = open(&postern, &token);
    let one = ids(&postern, "dev/ann", 1).remove(0);
    let mut second = open(&postern, &token);
    let two = ids(&postern, "dev/ann", 2).into_iter().find(|id| *id != one).unwrap();
    let sleep = [b"SELECT pg_sleep(300)".as_slice(), b"\0"].concat();
    first.message('Q', &sleep).unwrap();
    wait_until(SOON, "the statement at the target", || Ok(sleeps(&postgres) == 1)).unwrap();

    // Not by others; nor by whoever was handed a token of hers, for another of her sessions.
    let eve = postern.token("eve", &["analysts"]).unwrap();
    assert_has(&postern.cli_as(&eve, ["sessions", "kill", &one]).unwrap().fails().unwrap(), &["no such session", &one]);
    let root = postern.cli_as(&token, ["token"]).unwrap().ok().unwrap();
    let child = postern.cli_as(root.trim(), ["token", "--as", "helper"]).unwrap().ok().unwrap();
    postern.cli_as(child.trim(), ["sessions", "kill", &one]).unwrap().fails().unwrap();
    goes_on(&mut second);

    let at = Instant::now();
    let said = postern.cli(["sessions", "kill", &one, "--reason", "runs wild"]).unwrap().ok().unwrap();
    assert_has(&said, &[&one, "ended"]);
    is_ended(&mut first, at);
    wait_until(SOON, "the statement to stop at the target", || Ok(sleeps(&postgres) == 0)).unwrap();
    goes_on(&mut second);
    postern.cli(["sessions", "verify", &one]).unwrap().ok().unwrap();
    assert_has(&postern.cli(["sessions", "replay", &one]).unwrap().ok().unwrap(), &["killed", "pg_sleep"]);
    let listed = postern.cli(["revocations", "list"]).unwrap().ok().unwrap();
    assert_has(&listed, &[&format!("session {one}"), "runs wild"]);
    assert_has(&postern.cli(["audit", "list"]).unwrap().ok().unwrap(), &["KillSessions", &one]);

    // One that is over; one that never was; none that is meant.
    assert_has(&postern.cli(["sessions", "kill", &one]).unwrap().fails().unwrap(), &["is over"]);
    let never = "ses_01m80w2f370papy5hkmywxczra";
    assert_has(&postern.cli(["sessions", "kill", never]).unwrap().fails().unwrap(), &["no such session"]);
    assert_has(&postern.cli(["sessions", "kill"]).unwrap().fails().unwrap(), &["required"]);
    assert_has(&postern.cli(["sessions", "kill", "--principal", "dev/nobody"]).unwrap().stderr, &["no such sessions"]);

    // Her own, by herself; and all of hers, which somebody has to say twice.
    let mut third = open(&postern, &token);
    ids(&postern, "dev/ann", 2);
    let asked = postern.cli(["sessions", "kill", "--principal", "dev/ann"]).unwrap().fails().unwrap();
    assert_has(&asked, &["2 sessions would be ended", "--yes"]);
    let at = Instant::now();
    postern.cli_as(&token, ["sessions", "kill", &two]).unwrap().ok().unwrap();
    is_ended(&mut second, at);
    goes_on(&mut third);
    let at = Instant::now();
    postern.cli(["sessions", "kill", "--principal", "dev/ann", "--target", "shop", "--yes"]).unwrap().ok().unwrap();
    is_ended(&mut third, at);
    goes_on(&mut open(&postern, &token));
}

#[test]
fn withdraws_what_is_held() {
    let (_postgres, postern) = shop();
    let robot = postern.as_member("robot", &["robots"]).unwrap();
    let mut held = hold(&postern, &robot, "DELETE FROM orders");
    let id = ids(&postern, "dev/robot", 1).remove(0);
    postern.cli(["sessions", "kill", &id]).unwrap().ok().unwrap();
    held.psql.wait(SOON).unwrap();
    assert_has(&held.psql.stderr(), &["was ended by an operator"]);
    let shown = postern.json(["approvals", "show", &held.approval, "-o", "json"]).unwrap();
    assert_eq!(shown["state"], "withdrawn", "{shown}");
}

/// A gateway that does not hear of it now does so when it is back; the command says that it has not yet.
#[test]
fn reaches_a_gateway_that_was_away() {
    let postgres = Postgres::start(PostgresOptions::default()).unwrap();
    let mut three = ThreeProcesses::start(&postgres, RoleOptions::default()).unwrap();
    let (connection, folder) = (three.connection("shop", "dora", &["dba"]).unwrap(), tempfile::tempdir().unwrap());
    let mut psql = connection.psql().start("sleeper", "SELECT pg_sleep(300)", folder.path()).unwrap();
    let mut id = String::new();
    wait_until(SOON, "the session in the index", || {
        let listed = three.json(["sessions", "list", "-o", "json"])?;
        let all = listed.as_array().cloned().unwrap_or_default();
        let own = all.iter().find(|session| session["principal"] == "test/dora");
        id = own.and_then(|session| session["id"].as_str()).unwrap_or_default().to_owned();
        Ok(!id.is_empty())
    })
    .unwrap();
    three.gateway().unwrap().signal(Signal::STOP).unwrap();
    let said = three.cli(["sessions", "kill", &id, "--wait", "1"]).unwrap().fails().unwrap();
    assert_has(&said, &["has not ended yet", "Gateway"]);
    three.gateway().unwrap().signal(Signal::CONT).unwrap();
    psql.wait(SOON).unwrap();
    assert_has(&psql.stderr(), &["was ended by an operator"]);
    wait_until(SOON, "the recording", || Ok(three.cli(["sessions", "verify", &id])?.status.success())).unwrap();
    assert_lacks(&three.log("gateway"), &["panicked"]);
}
