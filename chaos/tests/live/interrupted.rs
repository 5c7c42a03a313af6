//! I2: SIGKILL in mid-session loses nothing that was forwarded.

use std::thread::JoinHandle;
use std::time::Duration;

use postern_chaos::live::wire::Wire;
use postern_chaos::live::{Postgres, PostgresOptions, RoleOptions, ThreeProcesses, wait_until};

use crate::{assert_has, shop};

#[test]
fn a_kill_in_mid_session_leaves_a_recording_that_verifies() {
    let (postgres, mut postern) = shop();
    let mut wire = Wire::connect(&postern.postgres_address().unwrap()).unwrap();
    wire.login("shop", "shop", &postern.token("dora", &["dba"]).unwrap()).unwrap();
    for n in 0..30 {
        wire.query(&format!("INSERT INTO notes (body) VALUES ('kept {n}')")).unwrap();
    }
    // One more is on its way when the power goes.
    wire.message('Q', b"INSERT INTO notes (body) VALUES ('last')\0").unwrap();
    wait_until(Duration::from_secs(5), "the last statement", || Ok(postgres.log().contains("'last'"))).unwrap();
    postern.kill9().unwrap();
    postern.start().unwrap();
    let session = postern.last_ended_session().unwrap();
    let shown = postern.cli(["sessions", "show", &session]).unwrap().ok().unwrap();
    assert_has(&shown, &["interrupted"]);
    let verified = postern.cli(["sessions", "verify", &session]).unwrap().ok().unwrap();
    assert_has(&verified, &["verified", "interrupted"]);
    let replay = postern.cli(["sessions", "replay", &session]).unwrap().ok().unwrap();
    for n in 0..30 {
        assert_has(&replay, &[&format!("'kept {n}'")]);
    }
    assert_has(&replay, &["'last'"]);
}

/// Writes notes of `round` until the connection breaks.
pub(crate) fn writer((address, target): (String, &'static str), token: String, round: u64) -> JoinHandle<Option<u32>> {
    std::thread::spawn(move || {
        let mut wire = Wire::connect(&address).unwrap();
        wire.login(target, "shop", &token).unwrap();
        (0..100_000).find(|n| wire.query(&format!("INSERT INTO notes (body) VALUES ('r{round} n{n}')")).is_err())
    })
}

/// Waits until the target has seen more than `least` of them, and some more in each round.
pub(crate) fn wait_for_statements(postgres: &Postgres, round: u64, least: usize) {
    wait_until(Duration::from_secs(20), "some statements", || {
        Ok(postgres.log().matches(&format!("r{round} n")).count() > least + usize::try_from(round * 17)?)
    })
    .unwrap();
}

/// More than `least` of them are at the target, and `replay` tells each.
pub(crate) fn assert_tells_all(replay: &str, postgres: &Postgres, round: u64, least: usize) {
    let seen = postgres.sql("shop", &format!("SELECT body FROM notes WHERE body LIKE 'r{round} %'")).unwrap();
    assert!(seen.lines().count() > least);
    for body in seen.lines() {
        assert_has(replay, &[&format!("'{body}'")]);
    }
}

/// Whatever reached the target is in the recording, at whatever moment the kill falls.
#[test]
fn what_the_target_saw_is_in_the_recording() {
    let (postgres, mut postern) = shop();
    for round in 0..3_u64 {
        let token = postern.token("dora", &["dba"]).unwrap();
        let writer = writer((postern.postgres_address().unwrap(), "shop"), token, round);
        wait_for_statements(&postgres, round, 20);
        postern.kill9().unwrap();
        writer.join().unwrap().unwrap();
        postern.start().unwrap();
        let session = postern.last_ended_session().unwrap();
        let replay = postern.cli(["sessions", "replay", &session]).unwrap().ok().unwrap();
        assert_tells_all(&replay, &postgres, round, 20);
        postern.cli(["sessions", "verify", &session]).unwrap().ok().unwrap();
    }
}

/// With operations that do not wait for the disk, a kill of the gateway loses no more.
#[test]
fn what_the_target_saw_is_in_the_recording_of_a_gateway_that_buffers() {
    let postgres = Postgres::start(PostgresOptions::default()).unwrap();
    let gateway = "durability = \"buffered\"\n".to_owned();
    let mut three = ThreeProcesses::start(&postgres, RoleOptions { gateway, ..RoleOptions::default() }).unwrap();
    for round in 0..3_u64 {
        let token = three.issuer().token("dora", &["dba"]).unwrap();
        let writer = writer((three.postgres_address(), "shop-direct"), token, round);
        wait_for_statements(&postgres, round, 200);
        assert!(three.gateway_counter("postern_gateway_recorder_buffered_writes_total", "").unwrap() > 100.0);
        three.gateway().unwrap().kill9().unwrap();
        writer.join().unwrap().unwrap();
        three.start_gateway().unwrap();
        let session = three.last_ended_session().unwrap();
        let replay = three.cli(["sessions", "replay", &session]).unwrap().ok().unwrap();
        assert_tells_all(&replay, &postgres, round, 200);
        assert_has(&three.cli(["sessions", "verify", &session]).unwrap().ok().unwrap(), &["interrupted"]);
    }
}
