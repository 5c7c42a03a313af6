//! Policies that ask how many rows the target expects, on a real PostgreSQL: it is asked before they are decided, and what it does not tell is not permitted.

use std::time::{Duration, Instant};

use postern_chaos::live::wire::{self, Message, Wire};
use postern_chaos::live::{Postern, Postgres, wait_until};

use crate::{assert_has, assert_lacks, shop};

const LIMIT: Duration = Duration::from_secs(20);

const POLICIES: &str = r#"
@id("movers")
permit (principal in Group::"movers", action in Action::"sql:*", resource in Target::"shop");

@id("few-at-a-time")
@reason("a hundred rows at a time")
forbid (principal in Group::"movers", action in [Action::"sql:update", Action::"sql:delete", Action::"sql:insert"], resource)
unless { context has estimatedRows && context.estimatedRows <= 100 };

@id("peekers")
permit (principal in Group::"peekers", action == Action::"sql:select", resource in Target::"shop")
when { context has estimatedRows && context.estimatedRows <= 50 };
"#;

const BULK: &str = "
CREATE TABLE bulk AS SELECT id, 0 AS n FROM generate_series(1, 10000) id;
ALTER TABLE bulk ADD PRIMARY KEY (id);
CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1';
ANALYZE bulk;
GRANT ALL ON bulk TO PUBLIC";

fn bulk() -> (Postgres, Postern) {
    let (postgres, postern) = shop();
    postgres.sql("shop", BULK).unwrap();
    let file = tempfile::Builder::new().suffix(".cedar").tempfile().unwrap();
    std::fs::write(file.path(), POLICIES).unwrap();
    postern.cli(["apply", "-f", file.path().to_str().unwrap()]).unwrap().ok().unwrap();
    (postgres, postern)
}

fn connect(postern: &Postern, group: &str) -> Wire {
    // No masks: what they deny is not what is asked here.
    let token = postern.token("mo", &[group, "privacy"]).unwrap();
    let connection = postern.connection("shop", &token).unwrap();
    wait_until(LIMIT, "the policies", || Ok(connection.run("SELECT 1")?.status.success())).unwrap();
    let mut wire = Wire::connect(&postern.postgres_address().unwrap()).unwrap();
    wire.login("shop", "shop", &token).unwrap();
    wire
}

fn error(messages: &[Message]) -> String {
    messages.iter().find(|message| message.kind == 'E').and_then(|message| message.field('M')).unwrap_or_default()
}

#[test]
pub(crate) fn few_rows_pass_and_many_do_not() {
    let (postgres, postern) = bulk();
    let mut wire = connect(&postern, "movers");
    let mut ask = |sql: &str| error(&wire.query(sql).unwrap());
    for few in [
        "UPDATE bulk SET n = 1 WHERE id = 1",
        "DELETE FROM bulk WHERE id IN (2, 3)",
        "INSERT INTO bulk VALUES (20001, 1)",
        "SELECT count(*) FROM bulk a, bulk b WHERE a.id = b.id",
        "BEGIN",
        "UPDATE bulk SET n = 2 WHERE id < 50",
        "COMMIT",
    ] {
        assert_eq!(ask(few), "", "{few}");
    }
    for many in [
        "UPDATE bulk SET n = 3 WHERE id < 5000",
        "DELETE FROM bulk WHERE n = 0",
        "INSERT INTO bulk SELECT id + 30000 FROM bulk",
        "WITH gone AS (DELETE FROM bulk WHERE id > 10 RETURNING id) SELECT count(*) FROM gone",
        // What cannot be planned is not known.
        "UPDATE bulk SET n = one() WHERE id = 1",
        "UPDATE bulk SET n = 1 WHERE id = 1; UPDATE bulk SET n = 1 WHERE id = 2",
        "DO $$ BEGIN DELETE FROM bulk; END $$; DELETE FROM bulk WHERE id = 1",
    ] {
        assert_has(&ask(many), &["denied by Postern", "few-at-a-time: a hundred rows at a time"]);
    }
    assert_eq!(ask("CREATE TEMP TABLE own (id int)"), "");
    assert_has(&ask("INSERT INTO own VALUES (1)"), &["few-at-a-time"]);
    assert_eq!(postgres.sql("shop", "SELECT count(*), sum(n) FROM bulk").unwrap(), "9999|95");
    drop(wire);
    let recording = postern.last_ended_session().unwrap();
    let replay = postern.cli(["sessions", "replay", &recording, "-o", "json"]).unwrap().ok().unwrap();
    assert_has(&replay, &[r#""estimated_rows":1"#]);
    let reads: Vec<&str> =
        replay.lines().filter(|line| line.contains("bulk a, bulk b") && line.contains("decision")).collect();
    assert!(!reads.is_empty());
    assert_lacks(&reads.concat(), &["estimated_rows"]);
}

#[test]
fn prepared_statements_are_asked_for_by_their_values() {
    let (_postgres, postern) = bulk();
    let mut wire = connect(&postern, "movers");
    wire.send(&[wire::parse("s", "UPDATE bulk SET n = 1 WHERE id < $1").unwrap(), wire::sync().unwrap()].concat())
        .unwrap();
    assert_eq!(error(&wire.until_ready().unwrap()), "");
    let mut run = |value: &str| {
        let execute = wire::message('E', b"\0\0\0\0\0").unwrap();
        wire.send(&[wire::bind("s", &[value], 0).unwrap(), execute, wire::sync().unwrap()].concat()).unwrap();
        error(&wire.until_ready().unwrap())
    };
    assert_eq!(run("20"), "");
    assert_has(&run("9000"), &["few-at-a-time"]);
    assert_eq!(run("30"), "");
    // Several that come together are each decided by their own.
    let execute = wire::message('E', b"\0\0\0\0\0").unwrap();
    let bind = |value: &str| wire::bind("s", &[value], 0).unwrap();
    let all = [bind("10"), execute.clone(), bind("8000"), execute.clone(), bind("10"), execute, wire::sync().unwrap()];
    wire.send(&all.concat()).unwrap();
    let messages = wire.until_ready().unwrap();
    assert_has(&error(&messages), &["few-at-a-time"]);
    assert_eq!(messages.iter().filter(|message| message.kind == 'C').count(), 1);
    let mut peek = connect(&postern, "peekers");
    assert_eq!(error(&peek.query("SELECT n FROM bulk WHERE id < 20").unwrap()), "");
    assert_has(&error(&peek.query("SELECT n FROM bulk").unwrap()), &["no policy permits sql:select"]);
}

#[test]
fn a_target_that_does_not_tell_is_not_waited_for() {
    let (_postgres, postern) = bulk();
    let (mut wire, mut other) = (connect(&postern, "movers"), connect(&postern, "dba"));
    assert_eq!(error(&other.query("BEGIN; LOCK TABLE bulk IN ACCESS EXCLUSIVE MODE").unwrap()), "");
    let began = Instant::now();
    assert_has(&error(&wire.query("UPDATE bulk SET n = 1 WHERE id = 1").unwrap()), &["few-at-a-time"]);
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(error(&other.query("ROLLBACK").unwrap()), "");
    assert_eq!(error(&wire.query("UPDATE bulk SET n = 1 WHERE id = 1").unwrap()), "");
}
