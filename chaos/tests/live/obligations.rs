//! Obligations of policy, on real PostgreSQL: few rows, little time, and nothing written, whatever the client tries.

use std::time::{Duration, Instant};

use postern_chaos::live::wire::{self, Message, Wire};
use postern_chaos::live::{Postern, Postgres, wait_until};

use crate::{assert_denied, assert_has, shop};

const LIMIT: Duration = Duration::from_secs(20);

const POLICIES: &str = r#"
@id("couriers-few")
@rowLimit("100")
permit (principal in Group::"few", action in [Action::"sql:read", Action::"sql:write"], resource in Target::"shop");

@id("couriers-soon")
@statementTimeout("2s")
permit (principal in Group::"soon", action in Action::"sql:*", resource in Target::"shop");

@id("couriers-read")
@readOnly
permit (principal in Group::"readers", action in Action::"sql:*", resource in Target::"shop");

@id("mixed-read")
@readOnly
permit (principal in Group::"mixed", action in Action::"sql:read", resource == Table::"shop/shop.public.orders");

@id("mixed-write")
permit (principal in Group::"mixed", action in Action::"sql:*", resource in Target::"shop");
"#;

const OBJECTS: &str = "
CREATE TABLE written (at text);
CREATE SEQUENCE counted;
CREATE FUNCTION writes() RETURNS int LANGUAGE plpgsql AS $$ BEGIN INSERT INTO written VALUES ('x'); RETURN 1; END $$;
CREATE FUNCTION lies() RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM writes(); RETURN 1; END $$;
CREATE FUNCTION lifts() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
  PERFORM set_config('default_transaction_read_only', 'off', false);
  PERFORM set_config('transaction_read_only', 'off', false); INSERT INTO written VALUES ('y'); RETURN 1; END $$;
CREATE PROCEDURE steps() LANGUAGE plpgsql AS $$ BEGIN
  COMMIT; SET TRANSACTION READ WRITE; INSERT INTO written VALUES ('z'); COMMIT; END $$;
GRANT ALL ON written, counted TO PUBLIC";

/// Eight thousand rows, and three million.
const MANY: &str = "SELECT a.id FROM orders a, orders b, orders c";
const LOTS: &str = "SELECT a.id FROM orders a, orders b, orders c, orders d, orders e";

fn obliged() -> (Postgres, Postern) {
    let (postgres, postern) = shop();
    postgres.sql("shop", OBJECTS).unwrap();
    let file = tempfile::Builder::new().suffix(".cedar").tempfile().unwrap();
    std::fs::write(file.path(), POLICIES).unwrap();
    let applied = postern.cli(["apply", "-f", file.path().to_str().unwrap()]).unwrap().ok().unwrap();
    assert_has(&applied, &["policy/couriers-few created", "policy/couriers-read created"]);
    (postgres, postern)
}

fn connect(postern: &Postern, group: &str) -> Wire {
    let token = postern.token("carl", &[group]).unwrap();
    let connection = postern.connection("shop", &token).unwrap();
    wait_until(LIMIT, "the policies", || Ok(connection.run("SELECT 1")?.status.success())).unwrap();
    let mut wire = Wire::connect(&postern.postgres_address().unwrap()).unwrap();
    wire.login("shop", "shop", &token).unwrap();
    wire
}

/// `D*100 E(54000) Z(I)`: what came, notices and parameters aside.
fn told(messages: &[Message]) -> String {
    let mut parts: Vec<(String, usize)> = Vec::new();
    for message in messages {
        let part = match message.kind {
            'N' | 'S' => continue,
            'E' => format!("E({})", message.field('C').unwrap()),
            'Z' => format!("Z({})", char::from(message.body[0])),
            kind => kind.to_string(),
        };
        match parts.last_mut() {
            Some((last, count)) if *last == part => *count += 1,
            _ => parts.push((part, 1)),
        }
    }
    let shown = parts.iter().map(|(part, count)| if *count > 1 { format!("{part}*{count}") } else { part.clone() });
    shown.collect::<Vec<_>>().join(" ")
}

fn error(messages: &[Message]) -> String {
    messages.iter().find(|message| message.kind == 'E').and_then(|message| message.field('M')).unwrap_or_default()
}

#[test]
fn no_more_rows_leave_than_policy_lets() {
    let (postgres, postern) = obliged();
    let mut wire = connect(&postern, "few");
    let mut ask = |sql: &str| {
        let messages = wire.query(sql).unwrap();
        (told(&messages), error(&messages))
    };
    assert_eq!(ask("SELECT id FROM orders").0, "T D*20 C Z(I)");
    for many in [MANY, LOTS] {
        let began = Instant::now();
        let (told, message) = ask(many);
        assert_eq!(told, "T D*100 E(54000) Z(I)");
        assert_has(&message, &["couriers-few", "100 rows"]);
        assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
        // The session goes on, and what comes next is not hit by what was meant for the one before.
        for _ in 0..5 {
            assert_eq!(ask("SELECT id FROM orders WHERE id = 1").0, "T D C Z(I)");
        }
    }
    assert_eq!(ask(&format!("COPY ({MANY}) TO STDOUT")).0, "H d*100 E(54000) Z(I)");
    assert_eq!(ask(&format!("COPY ({MANY}) TO STDOUT (FORMAT csv, HEADER)")).0, "H d*101 E(54000) Z(I)");
    assert_eq!(ask("COPY (SELECT id FROM orders LIMIT 20) TO STDOUT (FORMAT binary)").0, "H d*21 c C Z(I)");
    // A transaction fails with it, and what it wrote goes with it.
    assert_eq!(ask("BEGIN").0, "C Z(T)");
    assert_eq!(ask("INSERT INTO notes (body) SELECT 'x' FROM orders").0, "C Z(T)");
    assert_eq!(ask(MANY).0, "T D*100 E(54000) Z(E)");
    assert_eq!(ask("SELECT 1").0, "E(25P02) Z(E)");
    assert_eq!(ask("COMMIT").0, "C Z(I)");
    // Cursors are counted together.
    assert_eq!(ask("BEGIN").0, "C Z(T)");
    assert_eq!(ask(&format!("DECLARE c CURSOR FOR {MANY}")).0, "C Z(T)");
    assert_eq!(ask("FETCH 60 FROM c").0, "T D*60 C Z(T)");
    assert_eq!(ask("FETCH 60 FROM c").0, "T D*40 E(54000) Z(E)");
    assert_eq!(ask("ROLLBACK").0, "C Z(I)");
    assert_eq!(ask(&format!("DECLARE h CURSOR WITH HOLD FOR {MANY}")).0, "C Z(I)");
    assert_eq!(ask("FETCH 60 FROM h").0, "T D*60 C Z(I)");
    assert_eq!(ask("FETCH 60 FROM h").0, "T D*40 E(54000) Z(I)");
    assert_eq!(ask("CLOSE h").0, "C Z(I)");
    assert_eq!(ask("EXPLAIN SELECT id FROM orders").0, "T D C Z(I)");
    // Parts of a portal are parts of one operation.
    let part = |wire: &mut Wire| {
        wire.message('E', b"\0\0\0\0\x3c").unwrap();
        wire.send(&wire::sync().unwrap()).unwrap();
        told(&wire.until_ready().unwrap())
    };
    wire.query("BEGIN").unwrap();
    wire.send(&[wire::parse("", MANY).unwrap(), wire::bind("", &[], 0).unwrap()].concat()).unwrap();
    assert_eq!(part(&mut wire), "1 2 D*60 s Z(T)");
    assert_eq!(part(&mut wire), "D*40 E(54000) Z(E)");
    wire.query("ROLLBACK").unwrap();
    // Bound before any of them has run, as well.
    wire.query("BEGIN").unwrap();
    wire.query(&format!("DECLARE c CURSOR FOR {MANY}")).unwrap();
    let named = |portal: &str| [portal.as_bytes(), b"\0"].concat();
    let bind = |portal: &str| wire::message('B', &[named(portal).as_slice(), b"f\0\0\0\0\0\0\0"].concat()).unwrap();
    let execute = |portal: &str| wire::message('E', &[named(portal).as_slice(), b"\0\0\0\0"].concat()).unwrap();
    let prepared = wire::parse("f", "FETCH 60 FROM c").unwrap();
    wire.send(&[prepared, bind("a"), bind("b"), execute("a"), execute("b"), wire::sync().unwrap()].concat()).unwrap();
    assert_eq!(told(&wire.until_ready().unwrap()), "1 2*2 D*60 C D*40 E(54000) Z(E)");
    wire.query("ROLLBACK").unwrap();
    // In a pipeline the rest of the group is skipped, and the next group runs.
    let run =
        |sql: &str| [wire::parse("", sql).unwrap(), wire::bind("", &[], 0).unwrap(), wire::execute().unwrap()].concat();
    let write = "INSERT INTO notes (body) VALUES ('pipelined')";
    let pipeline =
        [run(write), run(LOTS), run(write), wire::sync().unwrap(), run("SELECT id FROM orders"), wire::sync().unwrap()];
    wire.send(&pipeline.concat()).unwrap();
    assert_eq!(told(&wire.until_ready().unwrap()), "1 2 n C 1 2 T D*100 E(54000) Z(I)");
    assert_eq!(told(&wire.until_ready().unwrap()), "1 2 T D*20 C Z(I)");
    assert_eq!(postgres.sql("shop", "SELECT count(*) FROM notes WHERE body IN ('x', 'pipelined')").unwrap(), "0");
    // Written by itself: what a client may not see was not done, or it is told that it was.
    let returning =
        wire.query("UPDATE orders SET status = 'seen' FROM generate_series(1, 1) RETURNING orders.id").unwrap();
    assert_eq!(told(&returning), "T D*20 C Z(I)");
}

#[test]
pub(crate) fn a_statement_runs_no_longer_than_policy_lets() {
    let (_postgres, postern) = obliged();
    let mut wire = connect(&postern, "soon");
    wire.query("SET statement_timeout = 0").unwrap();
    for sql in ["SELECT pg_sleep(30)", "SELECT count(*), pg_sleep(30) FROM orders"] {
        let began = Instant::now();
        let messages = wire.query(sql).unwrap();
        assert_has(&told(&messages), &["E(57014) Z(I)"]);
        assert_has(&error(&messages), &["couriers-soon", "2 s"]);
        let took = began.elapsed();
        assert!(took > Duration::from_millis(1_900) && took < Duration::from_secs(8), "{took:?}");
        assert_eq!(told(&wire.query("SELECT 1").unwrap()), "T D C Z(I)");
    }
    // Each for itself: together they may take longer.
    for _ in 0..3 {
        assert_eq!(told(&wire.query("SELECT pg_sleep(1)").unwrap()), "T D C Z(I)");
    }
    wire.query("BEGIN").unwrap();
    let run =
        |sql: &str| [wire::parse("", sql).unwrap(), wire::bind("", &[], 0).unwrap(), wire::execute().unwrap()].concat();
    wire.send(&[run("SELECT pg_sleep(30)"), run("SELECT 1"), wire::sync().unwrap()].concat()).unwrap();
    assert_eq!(told(&wire.until_ready().unwrap()), "1 2 T E(57014) Z(E)");
}

#[test]
pub(crate) fn who_may_only_read_writes_nothing() {
    let (postgres, postern) = obliged();
    let mut wire = connect(&postern, "readers");
    let written = || postgres.sql("shop", "SELECT count(*) FROM written").unwrap();
    let mut ask = |sql: &str| {
        let messages = wire.query(sql).unwrap();
        (told(&messages), error(&messages))
    };
    assert_eq!(ask("SELECT id FROM orders WHERE id = 1").0, "T D C Z(I)");
    let refused = "T E(25006) Z(I)";
    assert_eq!(ask("SELECT writes()").0, refused);
    // The server says no, whatever was said to it before.
    for sql in [
        "SET default_transaction_read_only = off",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
        "SET transaction_read_only = off",
        "SELECT set_config('default_transaction_read_only', 'off', false)",
        "RESET default_transaction_read_only",
        "RESET ALL",
        "DISCARD ALL",
    ] {
        let (told, message) = ask(sql);
        assert!(told.ends_with("Z(I)"), "{sql}: {told} {message}");
        for call in ["SELECT writes()", "SELECT lies()", "SELECT * FROM writes()"] {
            assert_has(&ask(call).0, &["E(25", "Z(I)"]);
        }
        // What changes settings in its own body is opaque.
        assert_has(&ask("SELECT lifts()").0, &["E(42501", "Z(I)"]);
        assert_eq!(written(), "0", "{sql}");
    }
    for begin in ["BEGIN", "BEGIN READ WRITE", "START TRANSACTION READ WRITE", "BEGIN; SET TRANSACTION READ WRITE"] {
        for between in
            ["SET TRANSACTION READ WRITE", "SET LOCAL transaction_read_only = off", "SELECT 1", "SAVEPOINT s"]
        {
            ask(begin);
            ask("SELECT id FROM orders WHERE id = 1");
            ask("SAVEPOINT a");
            ask("SELECT id FROM orders WHERE id = 1");
            ask(between);
            ask("ROLLBACK TO a");
            assert_eq!(ask("SELECT writes()").0, "T E(25006) Z(E)", "{begin}, {between}");
            ask("ROLLBACK");
            assert_eq!(written(), "0", "{begin}, {between}");
        }
    }
    // Not in one text either, and nothing that could end its transaction.
    for sql in [
        "SET TRANSACTION READ WRITE; SELECT writes()",
        "SELECT 1; COMMIT; SELECT writes()",
        "COMMIT; BEGIN READ WRITE; SELECT writes(); COMMIT",
        "SET default_transaction_read_only = off; COMMIT; SELECT writes()",
        "CALL steps()",
        "DO $$ BEGIN COMMIT; SET TRANSACTION READ WRITE; PERFORM writes(); END $$",
        "INSERT INTO written VALUES ('a')",
        "CREATE TEMP TABLE t (a int)",
        "SELECT * INTO TEMP t FROM orders",
        "SELECT nextval('counted')",
        "SELECT pg_advisory_lock(1)",
        "SELECT lo_create(0)",
        "SELECT pg_notify('a', 'b')",
        "NOTIFY a",
        "LOCK TABLE orders",
        "SELECT id FROM orders FOR UPDATE",
        "COPY written FROM STDIN",
        "WITH w AS (INSERT INTO written VALUES ('w') RETURNING 1) SELECT * FROM w",
        "EXPLAIN ANALYZE INSERT INTO written VALUES ('e')",
        "VACUUM written",
    ] {
        let (told, message) = ask(sql);
        assert_has(&told, &["E(42501)"]);
        // Of what cannot be seen, masks are the first to refuse it.
        let why = if sql.starts_with("DO ") { "cannot be seen" } else { "permits reading only" };
        assert_has(&message, &[why]);
        assert_eq!(written(), "0", "{sql}");
    }
    // Prepared, in cursors, in pipelines.
    ask("PREPARE p AS SELECT writes()");
    assert_has(&ask("EXECUTE p").0, &["E(25006) Z(I)"]);
    ask("BEGIN READ WRITE");
    ask("DECLARE c CURSOR FOR SELECT writes()");
    assert_has(&ask("FETCH ALL FROM c").0, &["E(25006) Z(E)"]);
    ask("ROLLBACK");
    let run =
        |sql: &str| [wire::parse("", sql).unwrap(), wire::bind("", &[], 0).unwrap(), wire::execute().unwrap()].concat();
    let sync = wire::sync().unwrap();
    for before in ["BEGIN READ WRITE", "SET transaction_read_only = off", "SELECT 1"] {
        wire.send(
            &[run(before), run("SELECT id FROM orders WHERE id = 1"), run("SELECT writes()"), sync.clone()].concat(),
        )
        .unwrap();
        assert_has(&told(&wire.until_ready().unwrap()), &["T D C", "E(25006)"]);
        wire.query("ROLLBACK").unwrap();
    }
    // A portal that was made while nothing could be written, and runs when that has been rolled back.
    wire.query("BEGIN READ WRITE").unwrap();
    let bind = [wire::parse("", "SELECT writes() FROM orders").unwrap(), wire::bind("", &[], 0).unwrap(), sync.clone()];
    wire.send(&[run("SAVEPOINT a"), sync.clone()].concat()).unwrap();
    wire.until_ready().unwrap();
    wire.send(&bind.concat()).unwrap();
    assert_eq!(told(&wire.until_ready().unwrap()), "1 2 Z(T)");
    wire.message('E', b"\0\0\0\0\x01").unwrap();
    wire.send(&sync).unwrap();
    assert_eq!(told(&wire.until_ready().unwrap()), "E(25006) Z(E)");
    wire.query("ROLLBACK").unwrap();
    assert_eq!(written(), "0");
    // Nothing is left behind: the server holds no more of it.
    let held = wire.query("SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'postern%'").unwrap();
    assert_eq!(held.iter().find(|message| message.kind == 'D').unwrap().values().unwrap(), [Some(b"0".to_vec())]);
}

#[test]
pub(crate) fn reading_and_writing_policies_go_together() {
    let (postgres, postern) = obliged();
    let token = postern.token("mia", &["mixed"]).unwrap();
    let connection = postern.connection("shop", &token).unwrap();
    wait_until(LIMIT, "the policies", || Ok(connection.run("SELECT 1")?.status.success())).unwrap();
    let both = "BEGIN;\nINSERT INTO written VALUES ('m');\nSELECT count(*) FROM orders;\nCOMMIT;\n";
    assert_eq!(connection.run(both).unwrap().ok().unwrap(), "20\n");
    assert_eq!(connection.run("INSERT INTO written VALUES ('n')").unwrap().ok().unwrap(), "");
    // Whoever has read by it writes nothing more in the same transaction.
    let after = "BEGIN;\nSELECT count(*) FROM orders;\nINSERT INTO written VALUES ('o');\nCOMMIT;\n";
    assert_has(&connection.run(after).unwrap().stderr, &["25006"]);
    // It holds for its own transaction alone.
    let next = "SELECT count(*) FROM orders;\nINSERT INTO written VALUES ('p');\n";
    assert_eq!(connection.run(next).unwrap().ok().unwrap(), "20\n");
    assert_eq!(postgres.sql("shop", "SELECT string_agg(at, '' ORDER BY at) FROM written").unwrap(), "mnp");
    // What one policy asks, another does not take back.
    let denied = connection.run("UPDATE orders SET status = 'x' WHERE id = 1").unwrap();
    assert_denied(&denied.stderr);
    assert_has(&denied.stderr, &["policy mixed-read permits reading only"]);
    let explain = ["policy", "explain", "--principal", "local/mia", "--group", "mixed", "--target", "shop"];
    let told = postern.cli(explain.into_iter().chain(["SELECT * FROM orders"])).unwrap().ok().unwrap();
    assert_has(&told, &["runs so only: read only (mixed-read)"]);
}
