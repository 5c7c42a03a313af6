use crate::postgres::analyze::tests::{context, read};
use crate::postgres::analyze::{SessionNames, analyze};
use crate::sql::Statement;

/// What all of its actions say that it calls: `v`, `d`.
fn told(statement: &Statement) -> String {
    let mut all = statement.actions.iter().map(|action| {
        let calls = action.calls.unwrap();
        [(calls.volatile, 'v'), (calls.definer, 'd')].into_iter().filter_map(|(is, sign)| is.then_some(sign)).collect()
    });
    let first: String = all.next().unwrap();
    assert!(all.all(|calls| calls == first), "{:?}", statement.actions);
    first
}

#[test]
fn calls_are_told_wherever_they_stand() {
    for (sql, expected) in [
        ("SELECT lower(name), now(), random() FROM customers", ""),
        ("SELECT app.price(1) FROM customers", ""),
        ("SELECT id FROM customers WHERE app.md5(name) = ''", "v"),
        ("SELECT 1 FROM customers ORDER BY nextval('order_ids')", "v"),
        ("SELECT public.leak(name) FROM customers", "vd"),
        ("SELECT c.leak FROM customers c", "vd"),
        ("SELECT nobody_knows(1) FROM customers", "vd"),
        ("SELECT set_config('work_mem', '1MB', true) FROM customers", "v"),
        ("SELECT pg_notify('a', 'b') FROM customers", "v"),
        ("SELECT pg_read_file('x') FROM customers", "v"),
        ("SELECT query_to_xml('SELECT 1', true, true, '') FROM customers", "vd"),
        ("DO $$ BEGIN END $$", "vd"),
        ("SELECT id FROM customers; SELECT public.leak('x')", "vd"),
        ("EXPLAIN ANALYZE SELECT app.md5(name) FROM customers", "v"),
        ("BEGIN; DECLARE k CURSOR FOR SELECT * FROM customer_cards; FETCH ALL FROM k; COMMIT", "v"),
        // What stands behind relations.
        ("SELECT * FROM orders", ""),
        ("SELECT note FROM pg_catalog.pg_class, orders", ""),
        ("SELECT * FROM customer_cards", "v"),
        ("SELECT (SELECT count(*) FROM customer_cards) FROM orders", "v"),
        ("SELECT * FROM no_such_table", "vd"),
        ("INSERT INTO orders (id) VALUES (1)", "d"),
        ("COPY orders FROM STDIN", "d"),
        ("UPDATE orders SET note = '' WHERE id = 1", "d"),
        ("SELECT id FROM orders FOR UPDATE", "d"),
        ("WITH w AS (DELETE FROM orders RETURNING id) SELECT * FROM w", "d"),
        // Its foreign keys cascade.
        ("DELETE FROM customers", "d"),
        ("SELECT * FROM customers", ""),
        ("INSERT INTO app.jobs (id) VALUES (1)", ""),
    ] {
        let statement = read(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert_eq!(told(&statement), expected, "{sql}");
    }
}

#[test]
fn what_was_made_anew_may_call_anything() {
    let mut names = SessionNames::default();
    let again = |sql: &str, names: &SessionNames| analyze(sql.as_bytes(), &context(), names).unwrap();
    let prepared = again("PREPARE p AS SELECT app.md5(name) FROM customers", &names);
    names.begin(&prepared.effects).unwrap();
    assert_eq!(told(&again("EXECUTE p", &names)), "v");
    assert_eq!(told(&again("SELECT app.price(1) FROM orders", &names)), "");
    let made = again("CREATE OR REPLACE FUNCTION app.price(int) RETURNS int LANGUAGE sql AS 'SELECT 1'", &names);
    names.begin(&made.effects).unwrap();
    assert_eq!(told(&again("SELECT app.price(1) FROM orders", &names)), "vd");
    assert_eq!(told(&again("SELECT * FROM orders", &names)), "");
    for sql in [
        "CREATE TRIGGER t AFTER INSERT ON orders EXECUTE FUNCTION app.price()",
        "ALTER TABLE orders ALTER note SET DEFAULT app.price(1)",
        "CREATE RULE r AS ON INSERT TO orders DO ALSO SELECT app.price(1)",
        "CREATE INDEX ON orders (app.price(id))",
        "CREATE OR REPLACE VIEW orders AS SELECT app.md5(name) FROM customers",
    ] {
        let mut names = SessionNames::default();
        let made = again(sql, &names);
        names.begin(&made.effects).unwrap();
        assert_eq!(told(&again("INSERT INTO orders (id) VALUES (1)", &names)), "vd", "{sql}");
    }
}
