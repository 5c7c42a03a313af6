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
fn the_server_says_the_same() {
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
