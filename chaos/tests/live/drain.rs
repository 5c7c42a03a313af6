//! A gateway that is told to stop, as a process: what its clients see, and what is recorded of it.

use std::time::Duration;

use postern_chaos::live::wire::{Message, Wire};
use postern_chaos::live::{Postgres, PostgresOptions, RoleOptions, ThreeProcesses, wait_until};
use rustix::process::Signal;

use crate::assert_has;

const LONG: Duration = Duration::from_secs(60);

fn start(gateway: &str) -> (Postgres, ThreeProcesses) {
    let postgres = Postgres::start(PostgresOptions::default()).unwrap();
    let options = RoleOptions { gateway: gateway.to_owned(), ..Default::default() };
    let three = ThreeProcesses::start(&postgres, options).unwrap();
    (postgres, three)
}

fn login(three: &ThreeProcesses, target: &str) -> Wire {
    let mut wire = Wire::connect(&three.postgres_address()).unwrap();
    wire.login(target, "shop", &three.issuer().token("dora", &["dba"]).unwrap()).unwrap();
    wire
}

fn tell_to_stop(three: &mut ThreeProcesses) {
    three.gateway().unwrap().signal(Signal::TERM).unwrap();
    wait_until(LONG, "readiness to go off", || Ok(!three.is_ready(1))).unwrap();
}

fn sqlstate(message: &Message) -> Option<String> {
    (message.kind == 'E').then(|| message.field('C')).flatten()
}

/// Every session of the shop's verifies, and none of them is told to have been interrupted.
fn recordings_are_whole(three: &mut ThreeProcesses, count: usize) {
    let sessions = three.sessions().unwrap();
    assert!(sessions.len() >= count, "{sessions:?}");
    for session in sessions {
        assert_eq!(session["state"], "ended", "{session}");
        let verified = three.cli(["sessions", "verify", session["id"].as_str().unwrap()]).unwrap().ok().unwrap();
        assert_has(&verified, &["verified"]);
        assert!(!verified.contains("interrupted"), "{verified}");
    }
}

#[test]
fn sigterm_lets_transactions_finish_and_sends_who_comes_elsewhere() {
    let (_postgres, mut three) = start("drain_limit = \"10m\"\ndrain_idle_grace = \"0s\"\ndrain_notice = \"10m\"\n");
    let (mut busy, mut tunnelled, mut idle) =
        (login(&three, "shop-direct"), login(&three, "shop"), login(&three, "shop"));
    for wire in [&mut busy, &mut tunnelled] {
        wire.query("BEGIN").unwrap();
        wire.query("INSERT INTO notes (body) VALUES ('begun before')").unwrap();
    }
    idle.query("SELECT 1").unwrap();
    tell_to_stop(&mut three);
    assert_eq!(sqlstate(&idle.read().unwrap()).as_deref(), Some("57P01"));
    let refused = three.connection("shop", "alice", &["analysts"]).unwrap().run("SELECT 1").unwrap();
    assert_has(&refused.stderr, &["connect again"]);
    for wire in [&mut busy, &mut tunnelled] {
        wire.query("INSERT INTO notes (body) VALUES ('and after')").unwrap();
        let answer = wire.query("COMMIT").unwrap();
        assert_eq!(answer[0].kind, 'C', "{answer:?}");
        assert_eq!(sqlstate(&wire.read().unwrap()).as_deref(), Some("57P01"), "its grace is over");
    }
    let status = three.gateway().unwrap().wait(LONG).unwrap();
    assert!(status.success(), "{status}: {}", three.log("gateway"));
    recordings_are_whole(&mut three, 3);
    three.start_gateway().unwrap();
    let kept =
        three.connection("shop-direct", "dora", &["dba"]).unwrap().run("SELECT count(*) FROM notes").unwrap().ok();
    assert_eq!(kept.unwrap(), "4\n");
}

#[test]
fn a_second_sigterm_ends_sessions_at_once_and_in_good_order() {
    let (_postgres, mut three) = start("drain_limit = \"1h\"\ndrain_idle_grace = \"1h\"\n");
    let mut busy = login(&three, "shop");
    busy.query("BEGIN").unwrap();
    busy.query("INSERT INTO notes (body) VALUES ('never')").unwrap();
    tell_to_stop(&mut three);
    busy.query("SELECT 1").unwrap();
    three.gateway().unwrap().signal(Signal::TERM).unwrap();
    assert_eq!(sqlstate(&busy.read().unwrap()).as_deref(), Some("57P01"));
    let status = three.gateway().unwrap().wait(LONG).unwrap();
    assert!(status.success(), "{status}: {}", three.log("gateway"));
    recordings_are_whole(&mut three, 1);
    three.start_gateway().unwrap();
    let kept =
        three.connection("shop-direct", "dora", &["dba"]).unwrap().run("SELECT count(*) FROM notes").unwrap().ok();
    assert_eq!(kept.unwrap(), "0\n");
}
