use postern_core::action::Verb;

use crate::postgres::analyze::tests::read;

/// Columns of the action on `table`, with spaces between; `?` where they are not known.
fn of(sql: &str, verb: Verb, table: &str) -> String {
    let statement = read(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    let mut found = statement.actions.iter().filter(|action| {
        let path: Vec<&str> = action.object.path.iter().map(|part| &**part).collect();
        action.verb == verb && path.join(".") == format!("shop.{table}")
    });
    let action = found.next().unwrap_or_else(|| panic!("{sql}: {:?}", statement.actions));
    assert!(found.next().is_none(), "{sql}");
    action.columns.as_ref().map_or("?".to_owned(), |columns| columns.join(" "))
}

const ALL: &str = "age email id name phone";

#[test]
fn columns_that_are_read_are_told_wherever_they_stand() {
    for (sql, expected) in [
        ("SELECT id, name FROM customers", "id name"),
        ("SELECT count(*) FROM customers", ""),
        ("SELECT 1 FROM customers", ""),
        ("SELECT id FROM customers WHERE email LIKE 'a%'", "email id"),
        ("SELECT id FROM customers ORDER BY age DESC", "age id"),
        ("SELECT id FROM customers GROUP BY id, phone HAVING max(age) > 3", "age id phone"),
        ("SELECT DISTINCT ON (email) id FROM customers", "email id"),
        ("SELECT lower(email) AS x FROM customers", "email"),
        ("SELECT x FROM (SELECT email AS x FROM customers) s", "email"),
        ("WITH w AS (SELECT phone FROM customers) SELECT * FROM w", ALL),
        ("WITH w AS (SELECT phone FROM customers) SELECT phone FROM w", "phone"),
        ("SELECT note FROM orders JOIN customers ON customer_id = customers.id AND age > 3", "age id"),
        ("SELECT o.note FROM orders o JOIN customers c USING (id)", "id"),
        ("SELECT o.note FROM orders o NATURAL JOIN customers c", ALL),
        ("SELECT (SELECT email FROM customers LIMIT 1)", "email"),
        ("SELECT 1 FROM orders WHERE EXISTS (SELECT FROM customers WHERE age = 3)", "age"),
        ("SELECT row_number() OVER (PARTITION BY phone ORDER BY name) FROM customers", "name phone"),
        ("SELECT id FROM customers FOR UPDATE", "id"),
        ("SELECT id FROM customers UNION SELECT age FROM customers", "age id"),
        ("SELECT id INTO TEMP t FROM customers", "id"),
        ("DELETE FROM customers WHERE phone = 'x' RETURNING name", "name phone"),
        ("UPDATE customers SET age = id WHERE name = 'x'", "id name"),
        ("INSERT INTO customers (id, email) VALUES (1, 'x') ON CONFLICT (email) DO NOTHING", "email"),
        ("INSERT INTO customers (id) VALUES (1) RETURNING phone", "phone"),
        ("INSERT INTO customers (id) VALUES (1) ON CONFLICT ON CONSTRAINT customers_email_key DO NOTHING", "email"),
        ("INSERT INTO customers (id) VALUES (1) ON CONFLICT ON CONSTRAINT unknown DO NOTHING", ALL),
        (
            "MERGE INTO customers USING orders ON customer_id = customers.id WHEN MATCHED THEN UPDATE SET age = total",
            "id",
        ),
        ("COPY customers (id, name) TO STDOUT", "id name"),
        ("COPY (SELECT phone FROM customers) TO STDOUT", "phone"),
        ("DECLARE c CURSOR FOR SELECT phone FROM customers", "phone"),
        // All of them.
        ("SELECT * FROM customers", ALL),
        ("TABLE customers", ALL),
        ("COPY customers TO STDOUT", ALL),
        ("SELECT c.* FROM customers c", ALL),
        ("SELECT c FROM customers c", ALL),
        ("SELECT customers FROM customers", ALL),
        ("SELECT row_to_json(c) FROM customers c", ALL),
        ("SELECT (c).email FROM customers c", ALL),
        ("SELECT id FROM customers c WHERE c IS NOT NULL", ALL),
        ("SELECT a FROM customers AS c(a, b)", ALL),
        ("SELECT a FROM (customers JOIN orders USING (id)) AS j(a)", ALL),
        ("SELECT c.leak FROM customers c", ALL),
        ("SELECT id FROM customers c WHERE c.leak IS NULL", ALL),
        ("SELECT leak(c) FROM customers c", ALL),
        ("SELECT app.price(id) FROM customers", ALL),
        ("INSERT INTO customers (id) VALUES (1) RETURNING *", ALL),
        ("SELECT 1; SELECT id FROM customers; SELECT * FROM orders", ALL),
        // Within another statement.
        ("EXPLAIN SELECT id FROM customers WHERE age = 3", "age id"),
        ("EXPLAIN ANALYZE UPDATE customers SET age = id WHERE name = 'x'", "id name"),
        ("EXPLAIN (VERBOSE) SELECT * FROM customers", ALL),
        ("EXPLAIN CREATE TABLE t AS SELECT phone FROM customers", "phone"),
        ("CREATE TABLE t AS SELECT id FROM customers", "id"),
        ("CREATE TABLE t AS TABLE customers", ALL),
        ("CREATE TABLE t (a, b) AS SELECT id, email FROM customers", "email id"),
        ("CREATE MATERIALIZED VIEW t AS SELECT id FROM customers WHERE age > 3 WITH NO DATA", "age id"),
        ("CREATE VIEW t AS SELECT email AS x FROM customers", "email"),
        ("CREATE OR REPLACE VIEW t AS SELECT lower(email) FROM customers", "email"),
        ("CREATE VIEW t AS SELECT * FROM customers", ALL),
        ("CREATE RECURSIVE VIEW t (a) AS SELECT age FROM customers", ALL),
        ("SELECT id INTO t FROM customers", "id"),
        // Nobody can tell.
        ("CREATE TABLE t (a int); SELECT id FROM customers", "?"),
        ("LOCK orders; SELECT id FROM customers", "?"),
    ] {
        assert_eq!(of(sql, Verb::SqlSelect, "public.customers"), expected, "{sql}");
    }
    assert_eq!(of("SELECT id FROM nowhere", Verb::SqlSelect, "?.nowhere"), "?");
    assert_eq!(of("SELECT relname FROM pg_class", Verb::SqlSelect, "pg_catalog.pg_class"), "?");
}

#[test]
fn columns_that_are_set_are_told() {
    for (sql, verb, expected) in [
        ("INSERT INTO customers (id, email) VALUES (1, 'x')", Verb::SqlInsert, "email id"),
        ("INSERT INTO customers (id) SELECT id FROM orders", Verb::SqlInsert, "id"),
        ("INSERT INTO customers VALUES (1, 'x')", Verb::SqlInsert, ALL),
        ("INSERT INTO customers DEFAULT VALUES", Verb::SqlInsert, ALL),
        ("COPY customers (name) FROM STDIN", Verb::SqlInsert, "name"),
        ("COPY customers FROM STDIN", Verb::SqlInsert, ALL),
        ("UPDATE customers SET age = 3 WHERE email = 'x'", Verb::SqlUpdate, "age"),
        ("UPDATE customers SET (age, name) = (SELECT 1, 'x') WHERE id = 1", Verb::SqlUpdate, "age name"),
        (
            "INSERT INTO customers (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET phone = 'x'",
            Verb::SqlUpdate,
            "id phone",
        ),
        ("SELECT id FROM customers FOR UPDATE", Verb::SqlUpdate, ""),
        (
            "MERGE INTO customers USING orders ON customer_id = customers.id WHEN MATCHED THEN UPDATE SET age = 1 \
             WHEN NOT MATCHED THEN INSERT (id) VALUES (customer_id)",
            Verb::SqlUpdate,
            "age id",
        ),
        ("MERGE INTO customers USING orders ON true WHEN NOT MATCHED THEN INSERT VALUES (1)", Verb::SqlInsert, ALL),
    ] {
        assert_eq!(of(sql, verb, "public.customers"), expected, "{sql}");
    }
}

#[test]
fn what_a_prepared_statement_reads_is_told_when_it_runs() {
    use crate::postgres::analyze::{SessionNames, analyze, tests::context};
    let mut names = SessionNames::default();
    let prepared = read("PREPARE p AS SELECT email FROM customers LIMIT 3").unwrap();
    names.begin(&prepared.effects).unwrap();
    names.complete(&prepared.effects, false);
    let statement = analyze(b"EXECUTE p", &context(), &names).unwrap();
    let action = &statement.actions[0];
    assert_eq!((action.columns.as_ref().unwrap().join(" "), action.limit), ("email".to_owned(), Some(3)));
}

#[test]
fn a_limit_is_told_where_it_is_a_number() {
    for (sql, expected) in [
        ("SELECT id FROM customers LIMIT 10", Some(10)),
        ("SELECT id FROM customers FETCH FIRST 5 ROWS ONLY", Some(5)),
        ("(SELECT id FROM customers LIMIT 3) UNION ALL SELECT id FROM orders LIMIT 7", Some(7)),
        ("COPY (SELECT id FROM customers LIMIT 4) TO STDOUT", Some(4)),
        ("DECLARE c CURSOR FOR SELECT id FROM customers LIMIT 6", Some(6)),
        ("SELECT id FROM customers", None),
        ("SELECT id FROM customers LIMIT ALL", None),
        ("SELECT id FROM customers LIMIT $1", None),
        ("SELECT id FROM customers LIMIT 5 + 5", None),
        ("SELECT id FROM customers LIMIT -1", None),
        ("SELECT id FROM customers LIMIT 99999999999", None),
        ("SELECT id FROM customers ORDER BY id FETCH FIRST 5 ROWS WITH TIES", None),
        ("SELECT id FROM (SELECT id FROM customers LIMIT 3) s", None),
        ("SELECT id FROM customers LIMIT 3; SELECT id FROM customers", None),
        ("EXPLAIN SELECT id FROM customers LIMIT 3", None),
    ] {
        let statement = read(sql).unwrap();
        assert!(!statement.actions.is_empty());
        assert!(statement.actions.iter().all(|action| action.limit == expected), "{sql}: {:?}", statement.actions);
    }
}
