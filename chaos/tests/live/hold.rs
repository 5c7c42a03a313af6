//! I7: a held operation runs once, and only if another than its requester says so.

use std::time::Duration;

use postern_chaos::live::{Connection, Postern, Process, wait_until};

use crate::{assert_has, assert_lacks, shop};

const DELETE: &str = "DELETE FROM orders WHERE id = 7";
const LIMIT: Duration = Duration::from_secs(20);

pub(crate) struct Held {
    pub(crate) psql: Process,
    pub(crate) approval: String,
    _folder: tempfile::TempDir,
}

/// A robot's psql that waits with a held statement.
pub(crate) fn hold(postern: &Postern, connection: &Connection, sql: &str) -> Held {
    let folder = tempfile::tempdir().unwrap();
    let psql = connection.psql().start("held", sql, folder.path()).unwrap();
    let approval = postern.pending_approval().unwrap();
    wait_until(LIMIT, "the client's notice", || Ok(psql.stderr().contains(&approval))).unwrap();
    Held { psql, approval, _folder: folder }
}

fn state(postern: &Postern, approval: &str) -> String {
    let shown = postern.json(["approvals", "show", approval, "-o", "json"]).unwrap();
    shown["state"].as_str().unwrap_or_default().to_ascii_lowercase()
}

#[test]
pub(crate) fn an_approved_operation_runs_once() {
    let (postgres, postern) = shop();
    let robot = postern.token("robot-1", &["robots", "reviewers"]).unwrap();
    let reviewer = postern.token("rita", &["reviewers"]).unwrap();
    let stranger = postern.token("sam", &["analysts"]).unwrap();
    let connection = postern.connection("shop", &robot).unwrap();
    let mut held = hold(&postern, &connection, &format!("{DELETE};;SELECT 'then', count(*) FROM orders"));
    assert_has(&held.psql.stderr(), &["NOTICE", &held.approval]);
    assert_lacks(&postgres.log(), &[DELETE]);

    let shown = postern.cli_as(&reviewer, ["approvals", "show", &held.approval]).unwrap().ok().unwrap();
    assert_has(&shown, &[DELETE, "robot-1", "shop", "robots-delete-reviewed", "only under review", "Estimate"]);
    let own = postern.cli_as(&robot, ["approvals", "approve", &held.approval]).unwrap().fails().unwrap();
    assert_has(&own, &["own"]);
    postern.cli_as(&stranger, ["approvals", "approve", &held.approval]).unwrap().fails().unwrap();
    assert!(held.psql.is_running(), "neither of them released it");

    postern
        .cli_as(&reviewer, ["approvals", "approve", &held.approval, "--comment", "looks right"])
        .unwrap()
        .ok()
        .unwrap();
    assert!(held.psql.wait(LIMIT).unwrap().success(), "{}", held.psql.stderr());
    assert_eq!(held.psql.stdout(), "then|19\n");
    assert_eq!(state(&postern, &held.approval), "consumed");
    let again = postern.cli_as(&reviewer, ["approvals", "approve", &held.approval]).unwrap();
    again.fails().unwrap();
    assert_eq!(postgres.log().matches(DELETE).count(), 1, "it ran once");

    let session = postern.last_ended_session().unwrap();
    let replay = postern.cli(["sessions", "replay", &session]).unwrap().ok().unwrap();
    assert_has(&replay, &[DELETE, &held.approval, "rita", "looks right"]);
    postern.cli(["sessions", "verify", &session]).unwrap().ok().unwrap();
}

#[test]
fn a_denied_operation_does_not_run_and_the_session_lives_on() {
    let (postgres, postern) = shop();
    let connection = postern.as_member("robot-1", &["robots"]).unwrap();
    let reviewer = postern.token("rita", &["reviewers"]).unwrap();
    let mut held = hold(&postern, &connection, &format!("{DELETE};;SELECT 'then', count(*) FROM orders"));
    postern.cli_as(&reviewer, ["approvals", "deny", &held.approval, "--comment", "not today"]).unwrap().ok().unwrap();
    held.psql.wait(LIMIT).unwrap();
    assert_has(&held.psql.stderr(), &["42501", "not today"]);
    assert_eq!(held.psql.stdout(), "then|20\n");
    assert_eq!(state(&postern, &held.approval), "denied");
    assert_lacks(&postgres.log(), &[DELETE]);
}

#[test]
fn an_unanswered_request_expires() {
    let (postgres, postern) = shop();
    let connection = postern.as_member("robot-1", &["robots"]).unwrap();
    let sql = "INSERT INTO orders VALUES (99, 1, 1)";
    let mut held = hold(&postern, &connection, &format!("{sql};;SELECT 'then', count(*) FROM orders"));
    held.psql.wait(LIMIT).unwrap();
    assert_has(&held.psql.stderr(), &["42501", "in time"]);
    assert_eq!(held.psql.stdout(), "then|20\n");
    wait_until(LIMIT, "the state to say so", || Ok(state(&postern, &held.approval) == "expired")).unwrap();
    let reviewer = postern.token("rita", &["reviewers"]).unwrap();
    postern.cli_as(&reviewer, ["approvals", "approve", &held.approval]).unwrap().fails().unwrap();
    assert_lacks(&postgres.log(), &[sql]);
}

#[test]
fn a_client_that_goes_away_withdraws_its_request() {
    let (postgres, postern) = shop();
    let connection = postern.as_member("robot-1", &["robots"]).unwrap();
    let mut held = hold(&postern, &connection, DELETE);
    held.psql.kill9().unwrap();
    wait_until(LIMIT, "the withdrawal", || Ok(state(&postern, &held.approval) == "withdrawn")).unwrap();
    let reviewer = postern.token("rita", &["reviewers"]).unwrap();
    postern.cli_as(&reviewer, ["approvals", "approve", &held.approval]).unwrap().fails().unwrap();
    assert_lacks(&postgres.log(), &[DELETE]);
}

#[test]
fn cancel_withdraws_what_is_held() {
    let (postgres, postern) = shop();
    let connection = postern.as_member("robot-1", &["robots"]).unwrap();
    let mut held = hold(&postern, &connection, &format!("{DELETE};;SELECT 'then', count(*) FROM orders"));
    held.psql.signal(rustix::process::Signal::INT).unwrap();
    held.psql.wait(LIMIT).unwrap();
    assert_has(&held.psql.stderr(), &["57014"]);
    wait_until(LIMIT, "the withdrawal", || Ok(state(&postern, &held.approval) == "withdrawn")).unwrap();
    assert_lacks(&postgres.log(), &[DELETE]);
}

/// The statement of a hold is bound with its parameters: what the reviewer sees is what runs.
#[test]
fn a_held_statement_shows_its_parameters() {
    let (postgres, postern) = shop();
    let reviewer = postern.token("rita", &["reviewers"]).unwrap();
    let connection = postern.as_member("robot-1", &["robots"]).unwrap();
    let script = format!(
        "import psycopg\nwith psycopg.connect({:?}) as c:\n    r = c.execute('UPDATE orders SET status = %s WHERE id = %s', ('gone', 5))\n    print(r.rowcount)\n",
        connection.string()
    );
    let folder = tempfile::tempdir().unwrap();
    let environment = [("PGPASSWORD".to_owned(), connection.password.clone())];
    let arguments = ["-c".to_owned(), script];
    let python = std::path::Path::new("/usr/bin/python3");
    let mut driver = Process::start("driver", python, &arguments, &environment, None, folder.path()).unwrap();
    let approval = postern.pending_approval().unwrap();
    let shown = postern.cli(["approvals", "show", &approval]).unwrap().ok().unwrap();
    assert_has(&shown, &["UPDATE orders SET status = $1 WHERE id = $2", "gone", "5"]);
    postern.cli_as(&reviewer, ["approvals", "approve", &approval]).unwrap().ok().unwrap();
    assert!(driver.wait(LIMIT).unwrap().success(), "{}", driver.stderr());
    assert_eq!(driver.stdout(), "1\n");
    assert_eq!(postgres.sql("shop", "SELECT status FROM orders WHERE id = 5").unwrap(), "gone");
}
