//! Limits, effects and facts.

use std::sync::Arc;

use super::*;
use crate::postgres::catalog::{Catalog, CatalogBuilder, CatalogPart};

/// `shop`: schemas `public` and `app`; the role is `gate`, the path `"$user", public`.
pub(crate) fn catalog() -> Catalog {
    let mut builder = CatalogBuilder::new();
    let mut row = |part, values: &[&str]| {
        let values: Vec<Option<&str>> = values.iter().map(|value| (*value != "-").then_some(*value)).collect();
        builder.row(part, &values).unwrap();
    };
    row(CatalogPart::Session, &["gate", "0", "-"]);
    row(CatalogPart::Session, &["gate", "1", "public"]);
    for schema in ["public", "app", "pg_catalog", "information_schema"] {
        row(CatalogPart::Schemas, &[schema]);
    }
    let relations = [
        ("20001", "public", "customers", "r", "id:23,name:25,email:25,phone:1043,age:23"),
        ("20002", "public", "orders", "r", "id:23,customer_id:23,note:25,total:1700"),
        ("20003", "public", "customer_names", "v", "id:23,name:25"),
        ("20004", "public", "customer_cards", "v", "id:23,contact:25"),
        ("20005", "app", "jobs", "r", "id:23,state:25"),
        ("20006", "public", "events", "p", "id:23,email:25"),
        ("20007", "public", "events_2026", "r", "email:25,id:23"),
        ("20008", "app", "customers", "r", "id:23,email:25"),
        ("20009", "public", "order_ids", "S", ""),
        ("20010", "public", "whole", "v", "row:2249"),
        ("20011", "public", "contacts", "r", "id:23,email:25,domain:25"),
        ("20012", "public", "my_settings", "v", "name:25,setting:25"),
        ("20013", "public", "my_settings_again", "v", "name:25,setting:25"),
    ];
    for (oid, schema, name, kind, columns) in relations {
        row(CatalogPart::Relations, &[oid, schema, name, kind]);
        for (number, column) in (1..).zip(columns.split(',').filter(|column| !column.is_empty())) {
            let (name, kind) = column.split_once(':').unwrap();
            row(CatalogPart::Columns, &[oid, &i32::to_string(&number), name, kind, "0"]);
        }
    }
    row(CatalogPart::Generated, &["20011", "3", "2"]);
    row(CatalogPart::Views, &["20003", "20001", "1", "0"]);
    row(CatalogPart::Views, &["20003", "20001", "2", "0"]);
    row(CatalogPart::Views, &["20004", "20001", "1", "0"]);
    row(CatalogPart::Views, &["20004", "20001", "3", "0"]);
    row(CatalogPart::Views, &["20010", "20001", "1", "1"]);
    row(CatalogPart::Views, &["20012", "12146", "1", "0"]);
    row(CatalogPart::Views, &["20013", "20012", "1", "0"]);
    row(CatalogPart::Inheritance, &["20007", "20006"]);
    for (name, schema, takes_row) in [
        ("lower", "pg_catalog", "0"),
        ("count", "pg_catalog", "1"),
        ("row_to_json", "pg_catalog", "1"),
        ("pg_read_file", "pg_catalog", "0"),
        ("pg_stat_get_activity", "pg_catalog", "0"),
        ("leak", "public", "1"),
        ("price", "app", "0"),
        ("md5", "app", "0"),
        ("runs", "app", "0"),
        ("moods", "app", "0"),
        ("json_value", "app", "0"),
        ("json_arrayagg", "app", "0"),
        ("json_table", "app", "0"),
        ("json_object", "app", "0"),
    ] {
        let flag = |yes: bool| if yes { "1" } else { "0" };
        let (definer, opaque) = (flag(name == "leak"), flag(name == "runs"));
        row(
            CatalogPart::Functions,
            &[name, schema, takes_row, definer, flag(name != "price"), opaque, flag(name == "moods")],
        );
    }
    // A view that calls a volatile function, a default or trigger that calls one of its owner, and whose rows go with a customer.
    row(CatalogPart::Calls, &["20004", "r", "1", "0", "-"]);
    row(CatalogPart::Calls, &["20002", "w", "0", "1", "-"]);
    row(CatalogPart::Calls, &["20001", "c", "0", "0", "20002"]);
    row(CatalogPart::Labels, &["20001", "3", "-", "Where to write. @postern:pii"]);
    row(CatalogPart::Labels, &["20006", "0", "guard", "secret"]);
    row(CatalogPart::Keys, &["20001", "customers_pkey", "1"]);
    row(CatalogPart::Keys, &["20001", "customers_email_key", "3"]);
    row(CatalogPart::Keys, &["20011", "contacts_pkey", "1"]);
    row(CatalogPart::Casts, &["checked", "app", "price", "0"]);
    // Between mood and text, by assignment.
    row(CatalogPart::Casts, &["mood", "app", "mood_text", "1"]);
    for (oid, name, part) in [
        ("23", "int4", "-"),
        ("25", "text", "-"),
        ("1043", "varchar", "-"),
        ("1700", "numeric", "-"),
        ("1231", "_numeric", "1700"),
        ("2249", "record", "-"),
        ("30000", "mood", "-"),
    ] {
        row(CatalogPart::Types, &[oid, name, part]);
    }
    builder.build()
}

pub(crate) fn context() -> AnalyzeContext {
    AnalyzeContext::new("shop", Arc::new(catalog()), 1 << 20)
}

pub(crate) fn read(sql: &str) -> Result<Statement, Unclassifiable> {
    analyze(sql.as_bytes(), &context(), &SessionNames::default())
}

fn actions(sql: &str, names: &SessionNames) -> Vec<String> {
    analyze(sql.as_bytes(), &context(), names).unwrap().actions.iter().map(ToString::to_string).collect()
}

#[test]
fn deep_nesting_is_refused_without_a_crash() {
    let bad = [
        format!("SELECT {}1{}", "(".repeat(50_000), ")".repeat(50_000)),
        format!("SELECT {}1{}", "(SELECT ".repeat(5_000), ")".repeat(5_000)),
        format!("SELECT 1{}", "+1".repeat(100_000)),
        format!("SELECT {} 1", " - ".repeat(100_000)),
        format!("SELECT {}1", "NOT ".repeat(100_000)),
        format!("SELECT 1{}", " UNION SELECT 1".repeat(20_000)),
        format!("SELECT a{}", "[1]".repeat(100_000)),
        format!("SELECT {}1{}", "ARRAY[".repeat(50_000), "]".repeat(50_000)),
        format!("SELECT {}1{}", "f(".repeat(50_000), ")".repeat(50_000)),
        format!("SELECT * FROM {}a{}", "(".repeat(50_000), ")".repeat(50_000)),
        format!("SELECT * FROM a{}", " JOIN a ON true".repeat(20_000)),
        format!("SELECT 1{}", "::int".repeat(100_000)),
        format!("{}SELECT 1", "EXPLAIN ".repeat(50_000)),
        "(".repeat(1 << 20),
        "CASE WHEN ".repeat(100_000),
    ];
    // As small as a worker's stack may be.
    let run = move || {
        for sql in &bad {
            let _ = read(sql);
        }
        assert!(read(&bad[1]).is_err());
        assert!(read(&bad[2]).is_err());
    };
    std::thread::Builder::new().stack_size(2 << 20).spawn(run).unwrap().join().unwrap();
}

#[test]
fn what_is_too_large_is_refused_soon() {
    let list = |count: usize, item: &dyn Fn(usize) -> String| (0..count).map(item).collect::<Vec<_>>().join(", ");
    let large = [
        format!("SELECT * FROM {}", list(12_000, &|i| format!("public.r{i}"))),
        format!("SELECT {} FROM orders", list(12_000, &|i| format!("c{i}"))),
        format!("DROP TABLE {}", list(12_000, &|i| format!("public.r{i}"))),
        format!(
            "WITH {} SELECT * FROM {}",
            list(4_000, &|i| format!("w{i} AS (SELECT 1)")),
            list(4_000, &|i| format!("w{i}"))
        ),
        format!("SELECT * FROM {} {}", list(4_000, &|i| format!("public.r{i}")), "FOR UPDATE ".repeat(4_000)),
        format!("SET search_path TO {}", list(12_000, &|i| format!("s{i}"))),
        "SELECT 1;".repeat(12_000),
        format!("SELECT {}", list(12_000, &|i| format!("app.f{i}(1)"))),
        format!("TRUNCATE {}", list(12_000, &|i| format!("public.r{i}"))),
        format!("GRANT SELECT ON {} TO ann", list(12_000, &|i| format!("public.r{i}"))),
    ];
    for sql in large {
        let fault = read(&sql).map(|statement| statement.actions.len()).unwrap_err();
        assert_eq!(fault.code, postern_core::Code::TooLarge, "{}", &sql[..20]);
    }
    // Many rows are no reason.
    read(&format!("INSERT INTO orders (id) VALUES {}", list(12_000, &|i| format!("({i})")))).unwrap();
    read(&format!("SELECT * FROM orders WHERE id IN ({})", list(12_000, &|i| i.to_string()))).unwrap();
}

#[test]
fn texts_that_are_no_text_are_refused() {
    for bad in [&b"SELECT '\xff'"[..], b"SELECT 1\0; DROP TABLE orders", b"\xc0\x80"] {
        assert!(analyze(bad, &context(), &SessionNames::default()).is_err());
    }
    let mut small = context();
    small.max_statement = 10;
    let fault = analyze(b"SELECT 1, 2, 3", &small, &SessionNames::default()).unwrap_err();
    assert_eq!(fault.code, postern_core::Code::TooLarge);
}

#[test]
fn no_literal_is_told() {
    for bad in ["SELEC 'hunter2'", "SELECT 'hunter2", "EXECUTE hunter('hunter2')", "SELECT hunter2 FROM other.public.x"]
    {
        assert!(!read(bad).unwrap_err().reason.contains("hunter2"), "{bad}");
    }
}

#[test]
fn a_search_path_that_may_not_hold_asks_for_both() {
    let mut names = SessionNames::default();
    let set = analyze(b"SET search_path TO app", &context(), &names).unwrap();
    names.begin(&set.effects).unwrap();
    let both = actions("SELECT 1 FROM customers", &names);
    assert_eq!(both, ["sql:select on shop.public.customers", "sql:select on shop.app.customers"]);
    names.complete(&set.effects, true);
    assert_eq!(actions("SELECT 1 FROM customers", &names).len(), 2);
    names.complete(&set.effects, false);
    assert_eq!(actions("SELECT 1 FROM customers", &names), ["sql:select on shop.app.customers"]);
    let one_text = actions("SET search_path = app; SELECT 1 FROM jobs", &SessionNames::default());
    assert_eq!(one_text, ["sql:set on setting:search_path", "sql:select on shop.app.jobs"]);
}

#[test]
fn a_temporary_relation_does_not_hide_what_it_shadows() {
    let mut names = SessionNames::default();
    let made = analyze(b"CREATE TEMP TABLE customers (id int)", &context(), &names).unwrap();
    names.begin(&made.effects).unwrap();
    let found = actions("SELECT 1 FROM customers", &names);
    assert_eq!(found, ["sql:select on shop.pg_temp.customers", "sql:select on shop.public.customers"]);
}

#[test]
fn prepared_statements_and_cursors_keep_what_they_are() {
    let mut names = SessionNames::default();
    let prepare = analyze(b"PREPARE p AS DELETE FROM orders", &context(), &names).unwrap();
    names.begin(&prepare.effects).unwrap();
    assert_eq!(actions("EXECUTE p", &names), ["sql:delete on shop.public.orders (all rows)"]);
    assert!(read("EXECUTE p").is_err());
    // While it is open which of two has the name, both must be permitted.
    let again = analyze(b"PREPARE p AS SELECT 1 FROM customers", &context(), &names).unwrap();
    names.begin(&again.effects).unwrap();
    assert_eq!(actions("EXECUTE p", &names).len(), 2);
    let gone = analyze(b"DEALLOCATE p", &context(), &names).unwrap();
    names.complete(&gone.effects, false);
    assert!(analyze(b"EXECUTE p", &context(), &names).is_err());

    let declare = analyze(b"DECLARE c CURSOR FOR SELECT upper(email) FROM customers", &context(), &names).unwrap();
    names.begin(&declare.effects).unwrap();
    let fetch = analyze(b"FETCH ALL FROM c", &context(), &names).unwrap();
    assert!(fetch.facts.shown.contains("email"));
    names.transaction_ended();
    assert!(analyze(b"FETCH ALL FROM c", &context(), &names).is_err());
}

#[test]
fn names_of_a_session_are_bounded() {
    let mut names = SessionNames::default();
    let statement = Arc::new(Statement::default());
    let full = (0..10_000).find(|i| names.prepare(&format!("p{i}"), &statement, &Arc::from("SELECT 1")).is_err());
    assert!(full.is_some());
    let long: Arc<str> = Arc::from("x".repeat(1 << 20));
    let mut names = SessionNames::default();
    assert!((0..100).any(|i| names.prepare(&format!("p{i}"), &statement, &long).is_err()));
}

/// The server looks up the names of a prepared statement again when the search path is another.
#[test]
fn execute_does_what_the_names_mean_now() {
    let mut names = SessionNames::default();
    let take = |names: &mut SessionNames, sql: &str| {
        let statement = analyze(sql.as_bytes(), &context(), names).unwrap();
        names.begin(&statement.effects).unwrap();
        names.complete(&statement.effects, false);
    };
    take(&mut names, "SELECT 1; PREPARE p AS SELECT 1 FROM customers; SELECT 2");
    let by_protocol = Arc::new(read("DELETE FROM customers").unwrap());
    names.prepare("q", &by_protocol, &Arc::from("DELETE FROM customers")).unwrap();
    assert_eq!(actions("EXECUTE p", &names), ["sql:select on shop.public.customers"]);
    take(&mut names, "SET search_path = app");
    assert_eq!(actions("EXECUTE p", &names), ["sql:select on shop.app.customers"]);
    assert_eq!(actions("EXPLAIN ANALYZE EXECUTE q", &names), ["sql:delete on shop.app.customers (all rows)"]);
    let one_text = "PREPARE r AS TABLE customers; SET search_path = public; EXECUTE r";
    assert!(actions(one_text, &names).contains(&"sql:select on shop.public.customers".to_owned()));
    names.prepare("x", &by_protocol, &Arc::from("EXECUTE q")).unwrap();
    assert!(analyze(b"EXECUTE x", &context(), &names).is_err());
}

/// `"$user"` is the schema of whoever one has become, who may also not look into the same schemas.
#[test]
fn another_role_leaves_names_open() {
    let mut context = context();
    context = context.beginning_with("\"$user\", public, other").unwrap();
    let mut names = SessionNames::default();
    let found = |names: &SessionNames| -> Vec<String> {
        let found = analyze(b"SELECT 1 FROM customers", &context, names).unwrap();
        found.actions.iter().map(ToString::to_string).collect()
    };
    assert_eq!(found(&names), ["sql:select on shop.public.customers"]);
    let set = analyze(b"SET ROLE app", &context, &names).unwrap();
    names.begin(&set.effects).unwrap();
    names.complete(&set.effects, false);
    assert_eq!(found(&names), ["sql:select on shop.app.customers", "sql:select on shop.public.customers"]);
    assert!(analyze(b"SELECT set_config('role', current_user, false)", &context, &names).is_err());
}

/// A schema that comes into being in front, goes, or is renamed, before the catalog can tell.
#[test]
fn schemas_of_the_session_itself_leave_names_open() {
    let mut context = context();
    context = context.beginning_with("late, app, public").unwrap();
    let found = |sql: &str| -> Vec<String> {
        let found = analyze(sql.as_bytes(), &context, &SessionNames::default()).unwrap();
        found.actions.iter().map(ToString::to_string).collect()
    };
    let made = found("CREATE SCHEMA late; CREATE VIEW orders AS SELECT 1; SELECT 1 FROM orders");
    assert!(made.contains(&"sql:select on shop.late.orders".to_owned()), "{made:?}");
    assert!(made.contains(&"sql:create on shop.late.orders".to_owned()), "{made:?}");
    let gone = found("DROP SCHEMA app CASCADE; SELECT 1 FROM customers");
    assert!(gone.contains(&"sql:select on shop.public.customers".to_owned()), "{gone:?}");
    let moved = found("ALTER SCHEMA app RENAME TO late; SELECT 1 FROM jobs");
    assert!(moved.contains(&"sql:select on shop.late.jobs".to_owned()), "{moved:?}");
    let temporary = found("SET search_path = pg_temp, public; CREATE VIEW orders AS SELECT 1; SELECT 1 FROM orders");
    assert!(temporary.contains(&"sql:select on shop.pg_temp.orders".to_owned()), "{temporary:?}");
    let over = found("CREATE TEMP TABLE a (id int); CREATE VIEW orders AS SELECT id FROM a; DELETE FROM orders");
    assert!(over.contains(&"sql:delete on shop.pg_temp.orders (all rows)".to_owned()), "{over:?}");
    let renamed = found("CREATE TEMP TABLE a (id int); ALTER TABLE a RENAME TO orders; DELETE FROM orders");
    assert!(renamed.contains(&"sql:delete on shop.pg_temp.orders (all rows)".to_owned()), "{renamed:?}");
}

#[test]
fn a_cursor_may_be_declared_anew_in_one_text() {
    let mut names = SessionNames::default();
    let text = b"DECLARE c CURSOR FOR SELECT upper(name) FROM customers; CLOSE c; DECLARE c CURSOR FOR SELECT upper(email) FROM customers";
    let statement = analyze(text, &context(), &names).unwrap();
    names.begin(&statement.effects).unwrap();
    names.complete(&statement.effects, true);
    let fetch = analyze(b"FETCH ALL FROM c", &context(), &names).unwrap();
    assert!(fetch.facts.shown.contains("email"));
}

/// The server asks for SELECT on what ON CONFLICT looks at: it tells whether a key is there.
#[test]
fn a_conflict_that_is_inferred_is_read() {
    let acted = |sql: &str| actions(sql, &SessionNames::default());
    let both = ["sql:insert on shop.public.orders", "sql:select on shop.public.orders"];
    assert_eq!(acted("INSERT INTO orders (id) VALUES (1) ON CONFLICT (id) DO NOTHING"), both);
    assert_eq!(acted("INSERT INTO orders (id) VALUES (1) ON CONFLICT ON CONSTRAINT k DO NOTHING"), both);
    assert_eq!(acted("INSERT INTO orders (id) VALUES (1) ON CONFLICT DO NOTHING"), both[..1]);
}

/// By the form of the condition: whether it tells some rows from others.
#[test]
fn conditions_that_every_row_meets_bound_nothing() {
    let bounded = |condition: &str| {
        let sql = format!("DELETE FROM orders o WHERE {condition}");
        read(&sql).unwrap().actions.first().and_then(|action| action.bounded)
    };
    for open in [
        "true",
        "1 = 1",
        "NOT false",
        "id = id",
        "o.id = id",
        "o.id >= o.id",
        "id IS NOT DISTINCT FROM id",
        "NOT (id <> id)",
        "id + 1 = id + 1",
        "lower(note) = lower(note)",
        "(id, note) = (id, note)",
        "id::text = id",
        "id IS NOT NULL",
        "NOT (id IS NULL)",
        "id IS NULL OR id IS NOT NULL",
        "(id = 1) IS NOT NULL",
        "(id = 1) IS NOT UNKNOWN",
        "id = 1 OR true",
        "id > 5 OR id <= 5",
        "5 < id OR id < 6",
        "id = 5 OR id <> 5",
        "note LIKE '%'",
        "note ILIKE '%%'",
        "note ~ ''",
        "note ~* '^.*$'",
        "CASE WHEN id = 1 THEN true ELSE true END",
        "coalesce(id = 1, true)",
        "id IN (id, 1)",
        "id = ANY (ARRAY[1, id])",
        "id IN (SELECT id FROM orders)",
        "EXISTS (SELECT 1 FROM orders x WHERE x.id = o.id)",
        "EXISTS (SELECT 1 FROM customers)",
        "tableoid = 'orders'::regclass",
        "(id = id)::bool",
        "(id = id) IS TRUE",
        "NOT (id = 1 AND false) OR id = id",
        "$1",
    ] {
        assert_eq!(bounded(open), Some(false), "{open}");
    }
    for shut in [
        "id = 1",
        "1 = id",
        "id IN (1, 2)",
        "id = $1",
        "id > 5 AND id <= 9",
        "id = 1 OR id = 2",
        "note IS NULL",
        "note = ''",
        "note LIKE 'a%'",
        "id = 1 AND true",
        "NOT (id = 1)",
        "id BETWEEN 1 AND 2",
        "id = customer_id",
        "id IN (SELECT id FROM customers)",
        "EXISTS (SELECT 1 FROM customers c WHERE c.id = o.customer_id)",
        "id IN (SELECT id FROM orders ORDER BY id LIMIT 5)",
        "id IN (SELECT id FROM orders WHERE note = 'x')",
        "(id = 1) IS TRUE",
        "(id = 1) IS NOT TRUE",
        "CASE WHEN id = 1 THEN true ELSE false END",
        "coalesce(id = 1, false)",
        "id < 5 OR customer_id > 5",
        "note ~ 'x'",
        "id = any ($1)",
    ] {
        assert_eq!(bounded(shut), Some(true), "{shut}");
    }
    let of = |sql: &str| read(sql).unwrap().actions.first().and_then(|action| action.bounded);
    assert_eq!(of("DELETE FROM orders USING orders x WHERE orders.id = x.id"), Some(false));
    assert_eq!(of("DELETE FROM orders USING customers c WHERE orders.customer_id = c.id"), Some(true));
    assert_eq!(
        of("UPDATE orders o SET note = 'x' FROM customers c JOIN orders p ON p.id = c.id WHERE o.id = p.id"),
        Some(false)
    );
}

#[test]
fn one_copy_at_most() {
    assert!(read("COPY orders TO STDOUT; COPY orders TO STDOUT").is_err());
    let copy = read("COPY orders (id, note) TO STDOUT WITH (FORMAT csv, HEADER, DELIMITER ';', NULL 'nil')")
        .unwrap()
        .copy
        .unwrap();
    assert_eq!(copy.direction, CopyDirection::Out);
    let CopyFormat::Csv { text, quote, escape } = copy.format else { panic!("not csv") };
    assert_eq!((text.delimiter, text.null, text.header, quote, escape), (b';', b"nil".to_vec(), true, b'"', b'"'));
}

#[test]
fn a_word_that_older_servers_read_as_a_column_is_one() {
    let facts = read("SELECT system_user FROM orders").unwrap().facts;
    assert!(facts.plain.contains("system_user") || facts.shown.contains("system_user"), "{facts:?}");
    assert!(read("SELECT 1 FROM orders WHERE system_user = 'x'").unwrap().facts.used.contains("system_user"));
}

#[test]
fn a_long_name_in_a_search_path_is_cut_as_the_server_cuts_it() {
    let path = |text: &str| read(text).unwrap().effects;
    let long = "s".repeat(70);
    let cut = |name: &str| SessionEffect::SearchPath { path: Some(vec![name.into()]), certain: true };
    assert_eq!(path(&format!("SET search_path TO '{long}'")), [cut(&long[..63])]);
    // Whole characters: the 63rd byte is the first of two.
    let wide = format!("{}\u{e9}{}", "s".repeat(62), "s");
    assert_eq!(path(&format!("SET search_path TO '{wide}'")), [cut(&"s".repeat(62))]);
    assert_eq!(split_path(&format!("\"{long}\", {long}")).unwrap(), [&long[..63], &long[..63]]);
}
