//! Sessions that a gateway keeps logged in at a target for who comes next.

use std::time::Duration;

use postern_chaos::live::{Connection, Postern, PosternOptions, Postgres, PostgresOptions, Role, run, wait_until};

const LIMIT: Duration = Duration::from_secs(60);

fn objects(postgres: &Postgres, spare: u8, disabled: bool) -> String {
    format!(
        "apiVersion: postern/v1\nkind: Secret\nmetadata: {{name: pw}}\nspec: {{value: \"{}\"}}\n---\n\
         apiVersion: postern/v1\nkind: Target\nmetadata: {{name: db}}\nspec:\n  protocol: postgres\n  address: \"{}\"\n  \
         agentPool: dev\n  credential: {{username: {}, secret: pw}}\n  tls: {{mode: prefer}}\n  spareSessions: {spare}\n  \
         disabled: {disabled}\n---\n\
         apiVersion: postern/v1\nkind: Policy\nmetadata: {{name: all}}\nspec: {{effect: permit, principals: {{groups: [dba]}}, \
         targets: {{names: [db]}}, actions: [\"*\"]}}\n",
        Role::Scram.password(),
        postgres.address(),
        Role::Scram.name(),
    )
}

/// Process ids of the target's sessions that say what psql says of itself.
fn backends(postgres: &Postgres) -> Vec<String> {
    let all = "SELECT pid FROM pg_stat_activity WHERE application_name = 'psql' AND pid <> pg_backend_pid() AND usename = 'USER' ORDER BY pid";
    let pids = postgres.sql("postgres", &all.replace("USER", Role::Scram.name())).unwrap();
    pids.lines().map(str::to_owned).collect()
}

fn wait_for(postgres: &Postgres, count: usize) -> Vec<String> {
    let mut found = Vec::new();
    let there = wait_until(LIMIT, "the spare sessions", || {
        found = backends(postgres);
        Ok(found.len() == count)
    });
    assert!(there.is_ok(), "{found:?} rather than {count}");
    found
}

fn pid(connection: &Connection) -> String {
    connection.run("SELECT pg_backend_pid()").unwrap().ok().unwrap().trim().to_owned()
}

#[test]
fn the_next_session_is_ready_and_nobody_has_had_it() {
    let postgres = Postgres::start(PostgresOptions::default()).unwrap();
    let postern = Postern::dev(PosternOptions::default()).unwrap();
    postern.apply(&objects(&postgres, 2, false)).unwrap();
    let dora = postern.connection("db", &postern.token("dora", &["dba"]).unwrap()).unwrap();
    wait_until(LIMIT, "the target", || Ok(dora.run("SELECT 1")?.status.success())).unwrap();

    // Others have the one that is ready, as new as if it had been begun for them.
    let ready = wait_for(&postgres, 1);
    let erin = postern.connection("db", &postern.token("erin", &["dba"]).unwrap()).unwrap();
    let left_behind = "SELECT pg_backend_pid(); SET statement_timeout = '7s'; CREATE TEMP TABLE mine (a int); PREPARE p AS SELECT 1; \
                       SELECT count(*) FROM mine";
    assert_eq!(erin.run(left_behind).unwrap().ok().unwrap(), format!("{}\n0\n", ready[0]));
    let ready = wait_for(&postgres, 2);
    let new = "SELECT pg_backend_pid(); SHOW statement_timeout; SELECT count(*) FROM pg_prepared_statements; SELECT count(*) FROM pg_class \
               WHERE relname = 'mine'";
    let next = dora.run(new).unwrap().ok().unwrap();
    let (taken, state) = next.split_once('\n').unwrap();
    assert!(ready.iter().any(|pid| pid == taken), "{taken} is none of {ready:?}");
    assert_eq!(state, "0\n0\n0\n");

    // As many as were said, however many came, and none twice.
    let mut seen: Vec<String> = (0..8).map(|_| pid(&dora)).collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 8, "one was handed out twice");
    wait_for(&postgres, 2);
    assert!(postern.counter("postern_gateway_spare_sessions_wanted_total", "ready=\"yes\"").unwrap() >= 8.0);

    // Other settings are another session.
    let mut named = dora.client("psql");
    named.args(["-X", "-q", "-A", "-t", "-c", "SELECT pg_backend_pid()"]).env("PGAPPNAME", "another");
    let ready = backends(&postgres);
    let other = run(named, "", LIMIT).unwrap().ok().unwrap();
    assert!(!ready.iter().any(|pid| pid == other.trim()), "{other} is one of {ready:?}");

    // One that the target ended is not handed out.
    pid(&dora);
    for pid in wait_for(&postgres, 2) {
        postgres.sql("postgres", &format!("SELECT pg_terminate_backend({pid})")).unwrap();
    }
    wait_until(LIMIT, "their end", || Ok(backends(&postgres).is_empty())).unwrap();
    pid(&dora);

    // A target that is disabled has no connection left, and one that has no spare sessions any more has none.
    wait_for(&postgres, 2);
    postern.apply(&objects(&postgres, 2, true)).unwrap();
    wait_for(&postgres, 0);
    postern.apply(&objects(&postgres, 0, false)).unwrap();
    wait_until(LIMIT, "the target", || Ok(dora.run("SELECT 1")?.status.success())).unwrap();
    pid(&dora);
    wait_for(&postgres, 0);

    let refused = postern.try_apply(&objects(&postgres, 17, false)).unwrap();
    assert!(refused.stderr.contains("spec.spareSessions: must be at most 16"), "{}", refused.stderr);
}
