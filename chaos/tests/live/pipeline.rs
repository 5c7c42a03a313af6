//! I1 on the extended protocol: pipelines, in the order and with the state that a server would answer with.

use postern_chaos::live::Postern;
use postern_chaos::live::wire::{Message, Wire, bind, execute, message, parse, sync};

use crate::shop;

fn client(postern: &Postern, groups: &[&str]) -> Wire {
    let mut wire = Wire::connect(&postern.postgres_address().unwrap()).unwrap();
    wire.login("shop", "shop", &postern.token("wire", groups).unwrap()).unwrap();
    wire
}

fn kinds(messages: &[Message]) -> String {
    messages.iter().map(|message| message.kind).collect()
}

#[test]
fn a_denied_statement_in_a_pipeline_skips_to_sync() {
    let (postgres, postern) = shop();
    let mut wire = client(&postern, &["operators"]);
    let one = |sql: &str| [parse("", sql).unwrap(), bind("", &[], 0).unwrap(), execute().unwrap()].concat();
    wire.send(
        &[
            one("INSERT INTO notes (body) VALUES ('before')"),
            one("SELECT * FROM payroll"),
            one("INSERT INTO notes (body) VALUES ('after')"),
            sync().unwrap(),
            one("SELECT count(*) FROM orders"),
            sync().unwrap(),
        ]
        .concat(),
    )
    .unwrap();
    let first = wire.until_ready().unwrap();
    assert_eq!(kinds(&first), "12nCEZ", "{first:?}");
    let error = &first[4];
    assert_eq!(error.field('C').as_deref(), Some("42501"));
    assert!(error.field('M').unwrap().contains("decision dec_"));
    assert_eq!(first[5].body, b"I");
    let second = wire.until_ready().unwrap();
    assert_eq!(kinds(&second), "12TDCZ", "{second:?}");
    // The implicit transaction of the first pipeline was rolled back, as the server does.
    assert_eq!(postgres.sql("shop", "SELECT count(*) FROM notes").unwrap(), "0");
}

#[test]
fn a_prepared_statement_is_decided_at_each_bind() {
    let (_postgres, postern) = shop();
    let mut wire = client(&postern, &["analysts"]);
    wire.send(&[parse("s", "SELECT email FROM customers WHERE name = $1").unwrap(), sync().unwrap()].concat()).unwrap();
    assert_eq!(kinds(&wire.until_ready().unwrap()), "1Z");
    for format in [0, 1] {
        wire.send(&[bind("s", &["Ada"], format).unwrap(), execute().unwrap(), sync().unwrap()].concat()).unwrap();
        let answer = wire.until_ready().unwrap();
        assert_eq!(kinds(&answer), "2TDCZ", "{answer:?}");
        assert_eq!(answer[2].values().unwrap(), [Some(b"****".to_vec())]);
    }
    let deny = "apiVersion: postern/v1\nkind: Policy\nmetadata: {name: freeze}\nspec:\n  effect: deny\n  principals: {groups: [\"*\"]}\n  \
                targets: {names: [\"*\"]}\n  actions: [\"sql:select\"]\n  resources: [public.customers]\n";
    postern.apply(deny).unwrap();
    postern_chaos::live::wait_until(std::time::Duration::from_secs(5), "the denial", || {
        wire.send(&[bind("s", &["Ada"], 0)?, execute()?, sync()?].concat())?;
        let answer = wire.until_ready()?;
        Ok(answer.first().is_some_and(|first| first.field('C').as_deref() == Some("42501")))
    })
    .unwrap();
}

#[test]
fn the_statement_decided_is_the_statement_bound() {
    let (_postgres, postern) = shop();
    let mut wire = client(&postern, &["analysts"]);
    // The name is taken twice: the server refuses the second Parse, so the first statement stays and is what runs.
    wire.send(&[parse("s", "SELECT 1").unwrap(), sync().unwrap()].concat()).unwrap();
    wire.until_ready().unwrap();
    wire.send(&[parse("s", "SELECT 2").unwrap(), sync().unwrap()].concat()).unwrap();
    assert_eq!(wire.until_ready().unwrap()[0].field('C').as_deref(), Some("42P05"));
    wire.send(&[bind("s", &[], 0).unwrap(), execute().unwrap(), sync().unwrap()].concat()).unwrap();
    let answer = wire.until_ready().unwrap();
    assert_eq!(answer.iter().find(|m| m.kind == 'D').unwrap().values().unwrap(), [Some(b"1".to_vec())]);
    // Gone after Close; a Bind of what is not there is the server's own error.
    wire.send(&[message('C', b"Ss\0").unwrap(), sync().unwrap()].concat()).unwrap();
    wire.until_ready().unwrap();
    wire.send(&[bind("s", &[], 0).unwrap(), execute().unwrap(), sync().unwrap()].concat()).unwrap();
    assert_eq!(wire.until_ready().unwrap()[0].field('C').as_deref(), Some("26000"));
}

#[test]
fn what_the_protocol_has_beside_queries_is_refused_or_passed() {
    let (_postgres, postern) = shop();
    let mut wire = client(&postern, &["dba"]);
    // FunctionCall of pg_catalog.pi() (oid 1610): not supported, and the connection lives on.
    wire.message('F', &[&1610_u32.to_be_bytes()[..], &[0, 0, 0, 0, 0, 0]].concat()).unwrap();
    let answer = wire.until_ready().unwrap();
    assert_eq!(answer[0].field('C').as_deref(), Some("0A000"), "{answer:?}");
    // Execute of a portal in parts: rows limited, the portal suspended, then continued.
    wire.send(&[parse("", "SELECT id FROM orders ORDER BY id").unwrap(), bind("", &[], 0).unwrap()].concat()).unwrap();
    let some = |rows: u32| message('E', &[&b"\0"[..], &rows.to_be_bytes()].concat()).unwrap();
    wire.send(&[some(3), some(3), some(0), sync().unwrap()].concat()).unwrap();
    let answer = wire.until_ready().unwrap();
    assert_eq!(kinds(&answer), format!("12DDDsDDDs{}CZ", "D".repeat(14)));
    // Any split of the bytes is the same: one byte at a time.
    for byte in [
        parse("", "SELECT count(*) FROM orders").unwrap(),
        bind("", &[], 0).unwrap(),
        execute().unwrap(),
        sync().unwrap(),
    ]
    .concat()
    {
        wire.send(&[byte]).unwrap();
    }
    assert_eq!(kinds(&wire.until_ready().unwrap()), "12TDCZ");
}
