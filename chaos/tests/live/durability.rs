//! Class `quorum`: what reached the target is at the control plane, whatever becomes of the gateway and its disk (I2).

use std::time::{Duration, Instant};

use postern_chaos::live::wire::Wire;
use postern_chaos::live::{Postgres, PostgresOptions, RoleOptions, ThreeProcesses, wait_until};

use crate::assert_has;
use crate::interrupted::{assert_tells_all, wait_for_statements, writer};

fn three(gateway: &str) -> (Postgres, ThreeProcesses) {
    let postgres = Postgres::start(PostgresOptions::default()).unwrap();
    let options = RoleOptions { gateway: gateway.to_owned(), ..RoleOptions::default() };
    let three = ThreeProcesses::start(&postgres, options).unwrap();
    (postgres, three)
}

/// Killed in mid-load, with its spool gone, the gateway tells the control plane nothing more. It has all that the target saw.
#[test]
fn what_the_target_saw_is_at_the_control_plane_when_the_gateway_is_lost_with_its_disk() {
    let (postgres, mut three) = three("durability = \"quorum\"\n");
    let token = three.issuer().token("dora", &["dba"]).unwrap();
    let writer = writer((three.postgres_address(), "shop-direct"), token, 0);
    wait_for_statements(&postgres, 0, 50);
    three.gateway().unwrap().kill9().unwrap();
    let answered = writer.join().unwrap().unwrap();
    let spool = three.folder().join("spool");
    std::fs::remove_dir_all(&spool).unwrap();
    let sessions = three.sessions().unwrap();
    let session = sessions.first().and_then(|session| session["id"].as_str()).unwrap();
    let replay = three.cli(["sessions", "replay", session]).unwrap().ok().unwrap();
    assert!(answered >= 40, "{answered}");
    assert_tells_all(&replay, &postgres, 0, 40);
}

/// Without the control plane nothing of that class runs. The session goes on, and so does the next operation once it is back.
#[test]
fn without_the_control_plane_an_operation_of_that_class_is_refused_and_the_session_goes_on() {
    let (postgres, mut three) = three("durability = \"quorum\"\nquorum_limit = \"2s\"\n");
    let mut wire = Wire::connect(&three.postgres_address()).unwrap();
    wire.login("shop-direct", "shop", &three.issuer().token("dora", &["dba"]).unwrap()).unwrap();
    let began = Instant::now();
    wire.query("INSERT INTO notes (body) VALUES ('before')").unwrap();
    assert!(began.elapsed() < Duration::from_secs(2));
    three.control().unwrap().kill9().unwrap();
    let began = Instant::now();
    let answer = wire.query("INSERT INTO notes (body) VALUES ('away')").unwrap();
    let error = answer.iter().find(|message| message.kind == 'E').unwrap();
    assert_eq!(error.field('C').as_deref(), Some("58030"), "{:?}", error.fields());
    assert_eq!(error.field('S').as_deref(), Some("ERROR"));
    assert_has(&error.field('M').unwrap(), &["has not acknowledged"]);
    assert!((2..10).contains(&began.elapsed().as_secs()));
    assert!(three.gateway_counter("postern_gateway_quorum_refused_total", "").unwrap() > 0.0);
    three.start_control().unwrap();
    wait_until(Duration::from_secs(30), "an operation", || {
        Ok(wire.query("INSERT INTO notes (body) VALUES ('after')")?.iter().all(|message| message.kind != 'E'))
    })
    .unwrap();
    assert_eq!(postgres.sql("shop", "SELECT count(*) FROM notes WHERE body = 'away'").unwrap().trim(), "0");
    drop(wire);
    let session = three.last_ended_session().unwrap();
    let shown = three.cli(["sessions", "replay", &session]).unwrap().ok().unwrap();
    assert_has(&shown, &["'before'", "'away'", "recording-unavailable", "'after'"]);
    three.cli(["sessions", "verify", &session]).unwrap().ok().unwrap();
}

const BY_POLICY: &str = r#"
@id("orders-quorum")
@durability("quorum")
permit (principal in Group::"dba", action in Action::"sql:write", resource == Table::"shop-direct/shop.public.orders");
"#;

/// Policy says it of what it permits, and of that alone.
#[test]
fn by_policy_some_operations_wait_for_the_control_plane_and_others_do_not() {
    let (_postgres, mut three) = three("quorum_limit = \"1s\"\n");
    let file = three.folder().join("quorum.cedar");
    std::fs::write(&file, BY_POLICY).unwrap();
    three.cli(["apply", "-f", &file.display().to_string()]).unwrap().ok().unwrap();
    let mut wire = Wire::connect(&three.postgres_address()).unwrap();
    wire.login("shop-direct", "shop", &three.issuer().token("dora", &["dba"]).unwrap()).unwrap();
    let write = "UPDATE orders SET id = id WHERE id = 1";
    wait_until(Duration::from_secs(20), "the policy", || {
        wire.query(write)?;
        Ok(three.metrics(1)?.contains("postern_gateway_quorum_seconds"))
    })
    .unwrap();
    three.control().unwrap().kill9().unwrap();
    let failed = |answer: Vec<postern_chaos::live::wire::Message>| {
        answer.iter().find(|message| message.kind == 'E').and_then(|error| error.field('C'))
    };
    assert_eq!(failed(wire.query("INSERT INTO notes (body) VALUES ('spooled')").unwrap()), None);
    assert_eq!(failed(wire.query(write).unwrap()).as_deref(), Some("58030"));
    drop(wire);
    three.start_control().unwrap();
    let session = three.last_ended_session().unwrap();
    let events = three.cli(["sessions", "replay", &session, "-o", "json"]).unwrap().ok().unwrap();
    assert_has(&events, &[r#""durability":{"limit":"quorum","policy":"orders-quorum"}"#]);
}

/// Fills the spool while the control plane is away. First new sessions are refused, then the open one is ended, and all that ran is told in the end.
#[test]
fn a_spool_that_nobody_empties_refuses_new_sessions_then_ends_open_ones_and_loses_nothing() {
    let (postgres, mut three) = three("spool_max = \"1MiB\"\nspool_full_wait = \"0s\"\n");
    let address = three.postgres_address();
    let token = three.issuer().token("dora", &["dba"]).unwrap();
    let mut wire = Wire::connect(&address).unwrap();
    wire.login("shop-direct", "shop", &token).unwrap();
    three.control().unwrap().kill9().unwrap();
    let filler = "x".repeat(8 << 10);
    let (mut done, mut refused_from) = (0, None);
    let error = loop {
        wire.message('Q', format!("INSERT INTO notes (body) VALUES ('n{done} {filler}')\0").as_bytes()).unwrap();
        let answer = wire.read().unwrap();
        if answer.kind == 'E' {
            break answer;
        }
        wire.until_ready().unwrap();
        done += 1;
        assert!(done < 500, "the bound was never reached");
        if refused_from.is_none() && done % 4 == 0 {
            let mut other = Wire::connect(&address).unwrap();
            if other.login("shop-direct", "shop", &token).is_err() {
                refused_from = Some(done);
            }
        }
    };
    assert_eq!(error.field('C').as_deref(), Some("58030"), "{:?}", error.fields());
    assert_eq!(error.field('S').as_deref(), Some("FATAL"));
    assert!(wire.closes().unwrap());
    // It was held back before, and went on after that.
    assert!(three.gateway_counter("postern_gateway_recorder_held_back_seconds_count", "").unwrap() > 0.0);
    assert!(refused_from.is_some_and(|from| from > 10 && from < done), "{refused_from:?} of {done}");
    let seen: usize =
        postgres.sql("shop", "SELECT count(*) FROM notes WHERE body LIKE 'n%x'").unwrap().parse().unwrap();
    assert_eq!(seen, done);
    three.start_control().unwrap();
    let sessions = wait_for_the_end(&three);
    let mut told = String::new();
    for session in sessions {
        three.cli(["sessions", "verify", &session]).unwrap().ok().unwrap();
        told.push_str(&three.cli(["sessions", "replay", &session]).unwrap().ok().unwrap());
    }
    for n in 0..done {
        assert_has(&told, &[&format!("'n{n} x")]);
    }
    // There is room again.
    wait_until(Duration::from_secs(30), "a session", || {
        Ok(Wire::connect(&address)?.login("shop-direct", "shop", &token).is_ok())
    })
    .unwrap();
}

/// The same where operations may wait: at the limit one waits, is refused, and the session goes on once there is room. What ran is told, and what did not, too.
#[test]
fn a_spool_that_nobody_empties_has_operations_wait_and_the_session_goes_on() {
    let (postgres, mut three) = three("spool_max = \"1MiB\"\nspool_full_wait = \"2s\"\n");
    let mut wire = Wire::connect(&three.postgres_address()).unwrap();
    wire.login("shop-direct", "shop", &three.issuer().token("dora", &["dba"]).unwrap()).unwrap();
    three.control().unwrap().kill9().unwrap();
    let filler = "x".repeat(8 << 10);
    let mut done = 0;
    let insert = |n: usize| format!("INSERT INTO notes (body) VALUES ('n{n} {filler}')");
    let (error, noticed, waited) = loop {
        let began = Instant::now();
        let answer = wire.query(&insert(done)).unwrap();
        let noticed = answer.iter().any(|message| message.kind == 'N' && message.field('M').unwrap().contains("full"));
        if let Some(error) = answer.into_iter().find(|message| message.kind == 'E') {
            break (error, noticed, began.elapsed());
        }
        done += 1;
        assert!(done < 500, "the bound was never reached");
    };
    assert_eq!(error.field('C').as_deref(), Some("58030"), "{:?}", error.fields());
    assert_eq!(error.field('S').as_deref(), Some("ERROR"));
    assert!(noticed && (2..6).contains(&waited.as_secs()), "{noticed} {waited:?}");
    assert!(three.gateway_counter("postern_gateway_recorder_refused_total", "").unwrap() > 0.0);
    // One that waits goes on as soon as there is room.
    three.start_control().unwrap();
    wait_until(Duration::from_secs(30), "an operation", || {
        Ok(wire.query("INSERT INTO notes (body) VALUES ('after')")?.iter().all(|message| message.kind != 'E'))
    })
    .unwrap();
    drop(wire);
    let seen = postgres.sql("shop", "SELECT count(*) FROM notes WHERE body LIKE 'n%x'").unwrap();
    assert_eq!(seen.trim(), done.to_string());
    let session = three.last_ended_session().unwrap();
    three.cli(["sessions", "verify", &session]).unwrap().ok().unwrap();
    let told = three.cli(["sessions", "replay", &session]).unwrap().ok().unwrap();
    for n in 0..done {
        assert_has(&told, &[&format!("'n{n} x")]);
    }
    assert_has(&told, &["recording-unavailable", "'after'"]);
}

/// All sessions, once each has ended and lies whole in the control plane.
fn wait_for_the_end(three: &ThreeProcesses) -> Vec<String> {
    let mut ids = Vec::new();
    wait_until(Duration::from_secs(60), "the uploads", || {
        let sessions = three.sessions()?;
        ids = sessions.iter().filter_map(|session| session["id"].as_str().map(str::to_owned)).collect();
        Ok(!sessions.is_empty() && sessions.iter().all(|session| session["state"] != "open"))
    })
    .unwrap();
    ids
}
