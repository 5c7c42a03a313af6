//! Limits that the control plane sets, as psql and pgbench meet them (I12).

use std::fmt::Write as _;
use std::time::Duration;

use postern_chaos::live::{
    Connection, Finished, Postgres, PostgresOptions, RoleOptions, ThreeProcesses, run, wait_until,
};

const LIMIT: Duration = Duration::from_secs(120);

/// Of alice alone, whatever else permits her what she does.
const HERS: &str = "\
apiVersion: postern/v1
kind: Policy
metadata: {name: hers}
spec:
  effect: permit
  principals: {subjects: [test/alice]}
  targets: {names: [shop-direct]}
  actions: ['sql:select']
  resources: [public.orders]
  limits: @LIMITS@
";

fn hers(limits: &str) -> String {
    HERS.replace("@LIMITS@", limits)
}

fn statements(count: usize) -> String {
    (0..count).fold(String::new(), |mut all, _| {
        let _ = writeln!(all, "SELECT count(*) FROM orders;");
        all
    })
}

fn pgbench(connection: &Connection, script: &str, arguments: &[&str]) -> Finished {
    let mut command = connection.client("pgbench");
    command.args(["-n", "-f", script]).args(arguments);
    run(command, "", LIMIT).unwrap()
}

#[test]
fn limits_are_set_centrally_and_others_do_not_feel_them() {
    let postgres = Postgres::start(PostgresOptions::default()).unwrap();
    let options = RoleOptions { gateway: "limits.operation_wait = \"0s\"\n".into(), ..Default::default() };
    let mut three = ThreeProcesses::start(&postgres, options).unwrap();
    let client = |subject: &str| three.connection("shop-direct", subject, &["analysts"]).unwrap();
    let (alice, bob) = (client("alice"), client("bob"));
    let script = three.folder().join("one.sql").display().to_string();
    std::fs::write(&script, statements(1)).unwrap();

    let refused = three.try_apply(&hers("{inFlightBytes: 1, operationsPerSecond: 5}")).unwrap();
    assert!(!refused.status.success() && refused.stderr.contains("spec.limits.inFlightBytes"), "{}", refused.stderr);
    assert!(alice.run(&statements(30)).unwrap().ok().is_ok(), "nothing is limited yet");

    // Of operations: an error that is worth a retry, and the session lives.
    three.apply(&hers("{operationsPerSecond: 5}")).unwrap();
    wait_until(LIMIT, "the limit", || Ok(alice.run(&statements(30))?.stderr.contains("53400"))).unwrap();
    // What is within the limit runs, in the same session.
    let partly = || {
        let flood = alice.run(&statements(60))?;
        let refused = flood.stderr.contains("too many operations of this identity on this target");
        Ok(refused && flood.stdout.contains("20"))
    };
    wait_until(LIMIT, "a part of them", partly).unwrap();
    let flooding = pgbench(&alice, &script, &["-t", "100"]);
    assert!(!flooding.status.success() && flooding.stderr.contains("too many operations"), "{}", flooding.stderr);
    let other = pgbench(&bob, &script, &["-t", "50", "-c", "2"]);
    assert!(other.stdout.contains("100/100"), "{} {}", other.stdout, other.stderr);

    // Of sessions.
    three.apply(&hers("{sessions: 1}")).unwrap();
    let two = || pgbench(&alice, &script, &["-t", "200", "-c", "2"]);
    wait_until(LIMIT, "the limit", || Ok(two().stderr.contains("too many sessions of this identity on this target")))
        .unwrap();
    alice.run(&statements(1)).unwrap().ok().unwrap();
    let other = pgbench(&bob, &script, &["-t", "50", "-c", "2"]);
    assert!(other.stdout.contains("100/100"), "{} {}", other.stdout, other.stderr);

    // What is shown can be applied again, and what is left out is not limited.
    let shown = three.cli(["get", "policy", "hers", "-o", "yaml"]).unwrap().ok().unwrap();
    assert!(shown.contains("limits:") && shown.contains("sessions: 1"), "{shown}");
    three.apply(&hers("{}")).unwrap();
    wait_until(LIMIT, "its end", || Ok(two().stdout.contains("400/400"))).unwrap();
    assert!(three.gateway_counter("postern_gateway_limited_total", "whose=\"principal-on-target\"").unwrap() > 10.0);
    three.stop().unwrap();
}
