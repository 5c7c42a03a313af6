//! The roles as three processes, as they run in earnest.

use std::time::Duration;

use postern_chaos::live::wire::Wire;
use postern_chaos::live::{Postgres, PostgresOptions, RoleOptions, ThreeProcesses, wait_until};

use crate::{assert_denied, assert_has, assert_lacks};

fn start(options: RoleOptions) -> (Postgres, ThreeProcesses) {
    let postgres = Postgres::start(PostgresOptions::default()).unwrap();
    let three = ThreeProcesses::start(&postgres, options).unwrap();
    (postgres, three)
}

#[test]
fn three_processes_do_what_one_does() {
    let (_postgres, mut three) = start(RoleOptions::default());
    for target in ["shop", "shop-direct"] {
        let connection = three.connection(target, "alice", &["analysts"]).unwrap();
        let run = connection.run("SELECT email FROM customers WHERE id = 1; SELECT * FROM payroll;").unwrap();
        assert_eq!(run.stdout, "****\n", "{target}: {}", run.stderr);
        assert_denied(&run.stderr);
    }
    let session = three.last_ended_session().unwrap();
    three.cli(["sessions", "verify", &session]).unwrap().ok().unwrap();
    for role in 0..3 {
        assert_has(&three.metrics(role).unwrap(), &["postern_"]);
    }
    // Logs of processes are JSON lines, one object each.
    for role in ["control", "gateway", "agent"] {
        for line in three.log(role).lines() {
            serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|_| panic!("{role}: {line}"));
        }
    }
    three.stop().unwrap();
}

#[test]
fn a_gateway_killed_in_mid_session_uploads_it_after_its_restart() {
    let (_postgres, mut three) = start(RoleOptions::default());
    let mut wire = Wire::connect(&three.postgres_address()).unwrap();
    wire.login("shop", "shop", &three.issuer().token("dora", &["dba"]).unwrap()).unwrap();
    for n in 0..20 {
        wire.query(&format!("INSERT INTO notes (body) VALUES ('kept {n}')")).unwrap();
    }
    three.gateway().unwrap().kill9().unwrap();
    three.start_gateway().unwrap();
    let session = three.last_ended_session().unwrap();
    assert_has(&three.cli(["sessions", "show", &session]).unwrap().ok().unwrap(), &["interrupted"]);
    assert_has(&three.cli(["sessions", "verify", &session]).unwrap().ok().unwrap(), &["verified"]);
    let replay = three.cli(["sessions", "replay", &session]).unwrap().ok().unwrap();
    (0..20).for_each(|n| assert_has(&replay, &[&format!("'kept {n}'")]));
}

#[test]
fn recordings_wait_for_a_control_plane_that_is_away() {
    let (_postgres, mut three) = start(RoleOptions::default());
    let mut wire = Wire::connect(&three.postgres_address()).unwrap();
    wire.login("shop", "shop", &three.issuer().token("alice", &["analysts"]).unwrap()).unwrap();
    three.control().unwrap().kill9().unwrap();
    for _ in 0..5 {
        assert_eq!(wire.query("SELECT 'while it was away'").unwrap()[1].kind, 'D');
    }
    // A hold needs the control plane: it is refused, and the session lives on.
    let mut robot = Wire::connect(&three.postgres_address()).unwrap();
    robot.login("shop", "shop", &three.issuer().token("robot", &["robots"]).unwrap()).unwrap();
    let answer = robot.query("DELETE FROM orders WHERE id = 1").unwrap();
    let error = answer.iter().find(|message| message.kind == 'E').unwrap();
    assert_eq!(error.field('C').as_deref(), Some("57P03"), "{:?}", error.fields());
    drop((wire, robot));
    three.start_control().unwrap();
    wait_until(Duration::from_secs(30), "the uploads", || {
        let sessions = three.sessions()?;
        Ok(sessions.len() >= 3 && sessions.iter().all(|session| session["state"] != "open"))
    })
    .unwrap();
    for session in three.sessions().unwrap() {
        three.cli(["sessions", "verify", session["id"].as_str().unwrap()]).unwrap().ok().unwrap();
    }
}

#[test]
fn an_agent_that_is_away_is_said_to_be_and_comes_back() {
    let (_postgres, mut three) = start(RoleOptions::default());
    let connection = three.connection("shop", "alice", &["analysts"]).unwrap();
    three.agent().unwrap().kill9().unwrap();
    let mut stderr = String::new();
    wait_until(Duration::from_secs(40), "the tunnel's end to be noticed", || {
        let run = connection.run("SELECT 1")?;
        stderr = run.stderr;
        Ok(stderr.contains("no agent"))
    })
    .unwrap();
    assert_has(&stderr, &["FATAL", "no agent"]);
    assert!(three.gateway_counter("postern_gateway_sessions_refused_total", "agent-unavailable").unwrap() >= 1.0);
    // What does not need it is served.
    three.connection("shop-direct", "alice", &["analysts"]).unwrap().run("SELECT 1").unwrap().ok().unwrap();
    three.start_agent().unwrap();
    wait_until(Duration::from_secs(20), "the agent to be back", || Ok(connection.run("SELECT 1")?.status.success()))
        .unwrap();
}

#[test]
fn a_full_disk_under_the_spool_ends_sessions_and_refuses_new_ones() {
    // Room for a few operations; then every write fails.
    let (postgres, mut three) = start(RoleOptions { gateway_file_limit: Some(300 << 10), ..Default::default() });
    let mut wire = Wire::connect(&three.postgres_address()).unwrap();
    wire.login("shop", "shop", &three.issuer().token("dora", &["dba"]).unwrap()).unwrap();
    let filler = "x".repeat(8 << 10);
    let mut done = 0;
    let error = loop {
        wire.message('Q', format!("INSERT INTO notes (body) VALUES ('n{done} {filler}')\0").as_bytes()).unwrap();
        let answer = wire.read().unwrap();
        if answer.kind == 'E' {
            break answer;
        }
        wire.until_ready().unwrap();
        done += 1;
        assert!(done < 500, "the limit was never reached");
    };
    assert_eq!(error.field('C').as_deref(), Some("58030"), "{:?}", error.fields());
    assert!(wire.closes().unwrap());
    // What could not be recorded did not reach the target.
    let seen: usize = postgres.sql("shop", "SELECT count(*) FROM notes").unwrap().parse().unwrap();
    assert_eq!(seen, done);
    assert!(three.gateway_counter("postern_gateway_recorder_failures_total", "").unwrap() >= 1.0);
    assert!(three.gateway().unwrap().is_running());
    let log = three.log("gateway");
    assert_lacks(&log, &[&filler]);
}

#[test]
fn a_spool_at_its_bound_refuses_new_sessions() {
    let gateway = "spool_max = \"1MiB\"\nspool_full_wait = \"1s\"\n".to_owned();
    let (_postgres, mut three) = start(RoleOptions { gateway, ..Default::default() });
    // Nothing is taken off while the control plane is away.
    let mut wire = Wire::connect(&three.postgres_address()).unwrap();
    wire.login("shop", "shop", &three.issuer().token("dora", &["dba"]).unwrap()).unwrap();
    three.control().unwrap().kill9().unwrap();
    let filler = "x".repeat(16 << 10);
    for n in 0..200 {
        let answer = wire.query(&format!("INSERT INTO notes (body) VALUES ('n{n} {filler}')")).unwrap();
        if answer.iter().any(|message| message.kind == 'E') {
            break;
        }
    }
    let connection = three.connection("shop", "alice", &["analysts"]).unwrap();
    let refused = connection.run("SELECT 1").unwrap().fails().unwrap();
    assert_has(&refused, &["FATAL", "recorded"]);
}

#[test]
fn an_agent_opens_only_what_its_own_configuration_allows() {
    let (postgres, three) = start(RoleOptions::default());
    // A name that is loopback in disguise is not on the agent's list.
    let objects = postern_chaos::live::shop_objects(&postgres)
        .replace(&postgres.address(), &format!("127.0.0.2:{}", postgres.port()));
    three.apply(&objects).unwrap();
    let connection = three.connection("shop", "alice", &["analysts"]).unwrap();
    let mut stderr = String::new();
    wait_until(Duration::from_secs(10), "the change", || {
        let run = connection.run("SELECT 1")?;
        stderr = run.stderr;
        Ok(!run.status.success())
    })
    .unwrap();
    assert_has(&stderr, &["FATAL"]);
    assert_has(&three.log("agent"), &["127.0.0.2"]);
}

/// A collector that takes the connection and then says nothing: spans are lost, and nothing else.
#[test]
fn spans_go_to_a_collector_and_a_silent_one_does_no_harm() {
    let collector = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("otlp_endpoint = \"http://{}\"\n", collector.local_addr().unwrap());
    let (_postgres, mut three) = start(RoleOptions { telemetry: endpoint, ..Default::default() });
    let connection = three.connection("shop", "alice", &["analysts"]).unwrap();
    assert_eq!(connection.run("SELECT count(*) FROM orders").unwrap().ok().unwrap(), "20\n");
    let (mut stream, _) = collector.accept().unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    // The connection preface of HTTP/2 (RFC 9113, section 3.4): gRPC.
    let mut preface = [0; 24];
    std::io::Read::read_exact(&mut stream, &mut preface).unwrap();
    assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    three.stop().unwrap();
}

/// I9: policy that nobody has confirmed for longer than the limit opens no session.
#[test]
fn stale_policy_has_a_bound() {
    let options = RoleOptions { gateway: "staleness_limit = \"8s\"\n".to_owned(), ..Default::default() };
    let (_postgres, mut three) = start(options);
    let connection = three.connection("shop-direct", "alice", &["analysts"]).unwrap();
    connection.run("SELECT 1").unwrap().ok().unwrap();
    three.control().unwrap().kill9().unwrap();
    connection.run("SELECT 1").unwrap().ok().expect("its last policy is good for a while");
    let mut stderr = String::new();
    wait_until(Duration::from_secs(30), "the limit", || {
        let run = connection.run("SELECT 1")?;
        stderr = run.stderr;
        Ok(!run.status.success())
    })
    .unwrap();
    assert_has(&stderr, &["FATAL", "no current policy"]);
    three.start_control().unwrap();
    wait_until(Duration::from_secs(30), "policy to be confirmed", || Ok(connection.run("SELECT 1")?.status.success()))
        .unwrap();
}
