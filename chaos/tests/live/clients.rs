//! Stock clients that were never told of Postern.

use std::process::Command;
use std::time::Duration;

use postern_chaos::live::run;

use crate::{assert_has, shop};

const DRIVER: &str = include_str!("../../fixtures/driver.py");

#[test]
fn pgbench_sets_up_and_runs() {
    let (postgres, postern) = shop();
    let connection = postern.as_member("dora", &["dba"]).unwrap();
    let pgbench = |arguments: &[&str]| {
        let mut command = connection.client("pgbench");
        command.args(arguments);
        run(command, "", Duration::from_secs(120)).unwrap()
    };
    pgbench(&["-i", "-s", "1", "-q"]).ok().unwrap();
    assert_eq!(postgres.sql("shop", "SELECT count(*) FROM pgbench_accounts").unwrap(), "100000");
    for mode in ["simple", "extended", "prepared"] {
        let out = pgbench(&["-n", "-M", mode, "-c", "4", "-j", "2", "-t", "25"]).ok().unwrap();
        assert_has(&out, &["number of transactions actually processed: 100/100", "number of failed transactions: 0"]);
    }
    assert_eq!(postgres.sql("shop", "SELECT count(*) FROM pgbench_history").unwrap(), "300");
}

#[test]
fn psycopg_works() {
    let (_postgres, postern) = shop();
    let connection = postern.as_member("dora", &["dba"]).unwrap();
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-", &connection.string()]).env("PGPASSWORD", &connection.password);
    python.env("CLEAR_TOKEN", postern.token("dora", &["dba", "privacy"]).unwrap());
    let out = run(python, DRIVER, Duration::from_secs(60)).unwrap();
    let out = out.ok().expect("needs python3 with psycopg: run `scripts/bootstrap.sh test`");
    assert_has(&out, &["all well"]);
}
