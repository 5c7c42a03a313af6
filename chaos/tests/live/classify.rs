//! I3: what is read out of a statement is what the server itself says of it. The part of the score that runs each time, over Postern's own statements;
//! `make suites SUITE=classification` takes PostgreSQL's.

use postern_chaos::live::{Postgres, PostgresOptions};
use postern_chaos::score::{Class, Score, Session, TRIGGERS};

use crate::bypass_corpus::{Step, attempts, fixture};

/// The statements of the classifier's own corpus, a line each.
const CORPUS: &str = include_str!("../../../data-plane/protocols/src/postgres/analyze/fixtures/corpus.txt");

/// The tables of that corpus, beside the shop's.
const TABLES: &str = "
    ALTER TABLE customers ADD COLUMN phone text, ADD COLUMN age integer;
    ALTER TABLE orders ADD COLUMN note text, ADD COLUMN total numeric;
    CREATE VIEW customer_names AS SELECT id, name FROM customers;
    CREATE SEQUENCE order_ids;
    CREATE TABLE contacts (id integer, email text, domain text);
    CREATE FUNCTION leak(customers) RETURNS text LANGUAGE sql AS 'SELECT $1.email';
    CREATE SCHEMA app; CREATE TABLE app.jobs (id integer PRIMARY KEY, state text); CREATE TABLE app.customers (id integer, email text);
    CREATE FUNCTION app.price(integer) RETURNS integer LANGUAGE sql AS 'SELECT $1';";

#[test]
pub(crate) fn the_server_says_the_same() {
    let postgres = Postgres::start(PostgresOptions { trust: true, ..Default::default() }).unwrap();
    postgres.sql("shop", &fixture("setup.sql")).unwrap();
    postgres.sql("shop", TABLES).unwrap();
    postgres.sql("shop", TRIGGERS).unwrap();
    let mut statements: Vec<(&str, String)> = CORPUS
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with([' ', '#']))
        .map(|line| ("corpus", line.to_owned()))
        .collect();
    for attempt in attempts() {
        for step in &attempt.steps {
            if let Step::Simple(text) | Step::Extended(text) | Step::Pipelined(text) | Step::Parse(_, text) = step
                && let Ok(text) = String::from_utf8(text.clone())
                && !text.contains('\0')
            {
                statements.push(("attempts", text));
            }
        }
    }
    assert!(statements.len() >= 500, "{}", statements.len());
    let open = || Session::open(&postgres.address(), "postgres", "shop").unwrap().undoing();
    let (mut session, mut score) = (open(), Score::default());
    for (from, statement) in &statements {
        match session.judge(statement) {
            Ok(judgement) => score.add(from, statement, &judgement),
            // It ended its own session.
            Err(_) => session = open(),
        }
    }
    let wrong: Vec<String> = score
        .wrong
        .iter()
        .map(|(from, statement, why)| format!("{from}: {statement}\n    {}", why.join("; ")))
        .collect();
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(score.count(Class::Exact) >= 150, "{}", score.document());
}

/// The comparison itself: of a classifier that reads something else than the server does, each kind of difference is found.
#[test]
fn what_is_read_wrongly_is_found() {
    let postgres = Postgres::start(PostgresOptions { trust: true, ..Default::default() }).unwrap();
    let setup = "
        CREATE SCHEMA app; CREATE TABLE t (id integer PRIMARY KEY, state text); CREATE TABLE app.t (id integer, state text);
        CREATE TABLE parent (id integer, state text, CONSTRAINT low CHECK (id < 9)); CREATE TABLE child () INHERITS (parent);
        CREATE TABLE alone (id integer, state text, CONSTRAINT low CHECK (id < 9));
        CREATE TYPE mood AS ENUM ('sad'); CREATE TYPE app.mood AS ENUM ('sad');
        CREATE FUNCTION f(integer) RETURNS integer LANGUAGE sql AS 'SELECT $1';
        CREATE FUNCTION app.f(integer) RETURNS integer LANGUAGE sql AS 'SELECT $1';
        CREATE FUNCTION drops() RETURNS integer LANGUAGE plpgsql AS 'BEGIN DROP TABLE alone; RETURN 1; END';
        CREATE VIEW drops AS SELECT drops() AS done; CREATE VIEW ids AS SELECT txid_current() AS id;
        CREATE OPERATOR FAMILY fam USING btree; CREATE OPERATOR FAMILY app.fam USING btree;
        CREATE MATERIALIZED VIEW m AS SELECT id FROM t; CREATE UNIQUE INDEX ON m (id); CREATE MATERIALIZED VIEW n AS SELECT id FROM t;
        CREATE UNIQUE INDEX ON n (id);";
    postgres.sql("shop", setup).unwrap();
    postgres.sql("shop", TRIGGERS).unwrap();
    let mut session = Session::open(&postgres.address(), "postgres", "shop").unwrap().undoing();
    // What is right, by the same rules: read as what runs.
    for right in [
        "ALTER TABLE t RENAME TO u",
        "ALTER TYPE mood RENAME TO humour",
        "ALTER FUNCTION f(integer) SET SCHEMA pg_catalog",
        "ALTER FUNCTION f(integer) RENAME TO g",
        "ALTER TABLE parent DROP CONSTRAINT low",
        "ALTER TABLE parent DROP COLUMN state",
        "ALTER OPERATOR FAMILY fam USING btree RENAME TO family",
        "REFRESH MATERIALIZED VIEW CONCURRENTLY m",
        "SELECT drops()",
        "SELECT txid_current()",
        "SELECT * FROM ids",
        "ALTER INDEX t_pkey SET (fillfactor = 50)",
    ] {
        let judged = session.judge(right).unwrap();
        assert!(matches!(judged.class, Class::Exact | Class::Cautious), "{right}: {:?} {:?}", judged.class, judged.why);
    }
    for (read, done) in [
        ("SELECT 1", "SELECT * FROM t"),
        ("SELECT * FROM t", "SELECT * FROM app.t"),
        ("SELECT * FROM t", "DELETE FROM t"),
        ("SELECT 1", "SELECT f(1)"),
        ("SELECT app.f(1)", "SELECT f(1)"),
        ("ALTER TABLE t RENAME TO u", "ALTER TABLE app.t RENAME TO u"),
        ("ALTER TABLE t RENAME TO u", "ALTER TABLE t RENAME TO v"),
        ("ALTER TYPE public.mood RENAME TO humour", "ALTER TYPE app.mood RENAME TO humour"),
        ("ALTER TYPE public.mood RENAME TO humour", "ALTER TYPE public.mood RENAME TO other"),
        ("ALTER FUNCTION f(integer) RENAME TO g", "ALTER FUNCTION app.f(integer) RENAME TO g"),
        ("ALTER FUNCTION f(integer) SET SCHEMA app", "ALTER FUNCTION f(integer) SET SCHEMA pg_catalog"),
        ("ALTER TABLE parent DROP CONSTRAINT low", "ALTER TABLE alone DROP CONSTRAINT low"),
        ("ALTER TABLE child DROP COLUMN state", "ALTER TABLE parent DROP COLUMN state"),
        ("ALTER TABLE t ADD CONSTRAINT state CHECK (id < 9)", "ALTER TABLE alone DROP COLUMN state"),
        (
            "ALTER OPERATOR FAMILY public.fam USING btree RENAME TO family",
            "ALTER OPERATOR FAMILY app.fam USING btree RENAME TO family",
        ),
        ("REFRESH MATERIALIZED VIEW CONCURRENTLY m", "REFRESH MATERIALIZED VIEW CONCURRENTLY n"),
        ("SELECT f(1)", "DROP TABLE alone"),
        ("SELECT * FROM ids", "SELECT * FROM drops"),
        ("SELECT 1", "SELECT txid_current(), f(1)"),
        ("CREATE EXTENSION pg_trgm", "DROP TABLE alone"),
        ("SELECT 1", "CREATE TABLE new (id integer)"),
        ("CREATE TABLE new (id integer)", "CREATE TABLE app.new (id integer)"),
    ] {
        let judged = session.judge_as(read, done).unwrap();
        assert_eq!(judged.class, Class::Wrong, "{read} for {done}: {:?}", judged.why);
    }
}
