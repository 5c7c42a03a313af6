//! Rules by type and by expression, opaque columns, and rules that look for values.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::BytesMut;
use postern_core::Name;
use postern_core::masking::{Detector, MaskFunction, MaskSlice, MaskingRule};
use postern_core::policy::Pattern;
use postern_core::target::TargetSelector;

use super::tests::{CUSTOMERS, principal};
use super::{CopyMask, Field, Masking, RowPlan, Scrub};
use crate::postgres::analyze::tests::{catalog, read};

fn compiled(rule: MaskingRule) -> Masking {
    let rule = MaskingRule { targets: TargetSelector { names: vec!["*".into()], ..TargetSelector::default() }, ..rule };
    let (name, target): (Name, Name) = ("r".parse().unwrap(), "shop".parse().unwrap());
    let slice = MaskSlice::new([(&name, &rule)], &principal(), &target, &BTreeMap::new());
    Masking::compile(&slice, Arc::new(catalog()), "shop", &[7; 32])
}

fn opaque() -> Masking {
    let columns = ["public.customers.email", "events.email", "contacts.email"];
    let columns = columns.into_iter().map(|column| Pattern::parse(column).unwrap()).collect();
    compiled(MaskingRule { columns, opaque: true, ..MaskingRule::default() })
}

#[test]
fn opaque_columns_are_for_showing_only() {
    let masking = opaque();
    let denied = [
        "SELECT id FROM customers WHERE email = 'a'",
        "SELECT count(*) FROM customers WHERE email LIKE 'a%'",
        "SELECT count(*) FROM customers c WHERE (c).email = 'a'",
        "SELECT id FROM customers c WHERE c = ROW(1, 'a', 'b', 'c', 1)",
        "SELECT id FROM customers WHERE customers::text LIKE '%a%'",
        "SELECT id FROM customers c WHERE row_to_json(c)::text LIKE '%a%'",
        "SELECT id FROM customers WHERE phone IS NOT NULL AND NOT (id = 1 OR email > 'm')",
        "SELECT id FROM customers ORDER BY email",
        "SELECT id, email FROM customers ORDER BY 2",
        "SELECT * FROM customers ORDER BY 3",
        "SELECT id, email AS e FROM customers ORDER BY e DESC LIMIT 1",
        "SELECT email FROM customers GROUP BY email",
        "SELECT email AS e FROM customers GROUP BY e",
        "SELECT email FROM customers GROUP BY 1",
        "SELECT email AS e, id FROM customers GROUP BY GROUPING SETS ((e), (id))",
        "SELECT DISTINCT email FROM customers",
        "SELECT DISTINCT * FROM customers",
        "SELECT DISTINCT ON (email) id FROM customers",
        "SELECT email FROM customers UNION SELECT 'a'",
        "SELECT 'a' INTERSECT SELECT email FROM customers",
        "TABLE customers EXCEPT TABLE customers",
        "SELECT count(email) FROM customers",
        "SELECT count(DISTINCT email) FROM customers",
        "SELECT min(email) FROM customers",
        "SELECT count(*) FILTER (WHERE email = 'a') FROM customers",
        "SELECT array_agg(id ORDER BY email) FROM customers",
        "SELECT rank() OVER (ORDER BY email) FROM customers",
        "SELECT id FROM customers WINDOW w AS (PARTITION BY email)",
        "SELECT id, count(*) FROM customers GROUP BY id HAVING max(email) > 'a'",
        "SELECT email || '' FROM customers",
        "SELECT 1 / length(email) FROM customers",
        "SELECT CASE WHEN email = 'a' THEN 1 / 0 END FROM customers",
        "SELECT o.id FROM orders o JOIN customers c ON o.note = c.email",
        "SELECT * FROM customers a JOIN contacts b USING (email)",
        "SELECT * FROM customers a NATURAL JOIN contacts b",
        "SELECT id FROM orders WHERE note IN (SELECT email FROM customers)",
        "SELECT id FROM orders WHERE EXISTS (SELECT 1 FROM customers WHERE email = note)",
        "SELECT id FROM (SELECT id, email AS x FROM customers) s WHERE x = 'a'",
        "SELECT id FROM (SELECT * FROM customers) s WHERE email = 'a'",
        "SELECT a FROM customers AS c(a, b, x) WHERE x = 'a'",
        "SELECT a FROM (SELECT * FROM customers) AS c(a, b, x) WHERE x = 'a'",
        "WITH c(a, b, x) AS (SELECT * FROM customers) SELECT a FROM c WHERE x = 'a'",
        "WITH c AS (SELECT id, email FROM customers) SELECT id FROM c WHERE email = 'a'",
        "WITH c AS (SELECT id, email AS x FROM customers) SELECT id FROM c ORDER BY x",
        "SELECT id FROM customers a JOIN LATERAL (SELECT a.email AS x) s ON s.x = 'a'",
        "SELECT l.x FROM customers c, unnest(ARRAY[c.email]) AS l(x) WHERE l.x = 'a'",
        "SELECT contact FROM customer_cards WHERE contact = 'a'",
        "SELECT id FROM contacts WHERE domain = 'a'",
        "SELECT id FROM events_2026 WHERE email = 'a'",
        "UPDATE customers SET name = 'x' WHERE email = 'a'",
        "DELETE FROM customers WHERE email = 'a' RETURNING id",
        "EXPLAIN SELECT id FROM customers WHERE email = 'a'",
        "PREPARE p AS SELECT id FROM customers WHERE email = $1",
        "DECLARE c CURSOR FOR SELECT id FROM customers WHERE email = 'a'",
        "COPY (SELECT id FROM customers WHERE email = 'a') TO STDOUT",
        "MERGE INTO customers c USING orders o ON c.email = o.note WHEN MATCHED THEN DELETE",
        "SELECT id FROM orders WHERE EXISTS (TABLE customers INTERSECT VALUES (1, 'a', 'b', 'c', 2))",
        "SELECT id FROM orders WHERE (1, 'a', 'b', 'c', 2) IN (SELECT * FROM customers)",
        "SELECT (1, 'a', 'b', 'c', 2) IN (SELECT * FROM customers)",
        "SELECT id FROM customers c WHERE email(c) = 'a'",
        "SELECT id FROM customers c, LATERAL (SELECT c.email) s(x) WHERE s.x = 'a'",
        "SELECT id FROM customers, LATERAL (VALUES (email)) v(x) WHERE x = 'a'",
        "SELECT count(c) FROM customers c",
        "UPDATE orders SET note = 'x' FROM (SELECT email AS e FROM customers) s WHERE s.e = 'a'",
        "INSERT INTO customers (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET name = 'x' WHERE customers.email = 'a'",
        "SELECT id FROM fresh WHERE email = 'a'",
        "INSERT INTO customers (id, email) VALUES (1, 'a') ON CONFLICT (email) DO NOTHING",
        "INSERT INTO customers (id, email) VALUES (1, 'a') ON CONFLICT ((lower(email))) DO NOTHING",
        "INSERT INTO customers (id, email) VALUES (1, 'a') ON CONFLICT (id) WHERE email = 'a' DO NOTHING",
        "INSERT INTO customers (id, email) VALUES (1, 'a') ON CONFLICT ON CONSTRAINT customers_email_key DO UPDATE SET name = 'x'",
        "INSERT INTO customers (id, email) VALUES (1, 'a') ON CONFLICT ON CONSTRAINT not_known DO NOTHING",
        "INSERT INTO customers (id, email) VALUES (1, 'a') ON CONFLICT DO NOTHING",
        "INSERT INTO customer_cards (id, contact) VALUES (1, 'a') ON CONFLICT DO NOTHING",
        "INSERT INTO events (id, email) VALUES (1, 'a') ON CONFLICT DO NOTHING",
        "INSERT INTO customers (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET name = customers.email || ''",
        "SELECT id, row_number() OVER (PARTITION BY email) FROM customers",
        "SELECT email, lag(email) OVER (ORDER BY id) FROM customers",
        "SELECT sum(id) OVER (ORDER BY id RANGE BETWEEN length(email) PRECEDING AND CURRENT ROW) FROM customers",
        "SELECT email FROM customers UNION ALL SELECT note FROM orders ORDER BY 1",
        "SELECT id FROM customers WHERE (id, email) = (1, 'a')",
        "SELECT id FROM customers WHERE (id, email) > (1, 'a')",
        "SELECT id FROM customers WHERE email = ANY (ARRAY['a', 'b'])",
        "SELECT id FROM customers WHERE 'a' = ANY (SELECT email FROM customers)",
        "SELECT id FROM customers WHERE ARRAY[email] && ARRAY['a']",
        "SELECT id FROM customers WHERE email IN ('a', 'b')",
        "SELECT id FROM customers WHERE email BETWEEN 'a' AND 'b'",
        "SELECT id FROM customers WHERE email IS DISTINCT FROM 'a'",
        "SELECT id FROM customers WHERE email IS NULL",
        "SELECT id FROM customers WHERE email SIMILAR TO 'a%'",
        "SELECT id FROM customers WHERE (SELECT email) = 'a'",
        "SELECT id FROM customers HAVING max(email) > 'a'",
        "SELECT id FROM customers LIMIT (SELECT length(email) FROM customers LIMIT 1)",
        "SELECT id FROM customers OFFSET (SELECT length(email) FROM customers LIMIT 1)",
        "SELECT string_agg(name, ',' ORDER BY email) FROM customers",
        "SELECT mode() WITHIN GROUP (ORDER BY email) FROM customers",
        "SELECT count(*) FROM customers GROUP BY CUBE (email, id)",
        "SELECT coalesce(email, 'x') FROM customers",
        "SELECT nullif(email, 'x') FROM customers",
        "SELECT greatest(email, 'x') FROM customers",
        "SELECT email COLLATE \"C\" FROM customers ORDER BY email COLLATE \"C\"",
        "SELECT email::int FROM customers",
        "SELECT id FROM customers TABLESAMPLE bernoulli (50) WHERE email = 'a'",
        "INSERT INTO orders (note) SELECT 'x' FROM customers WHERE email = 'a'",
        "INSERT INTO orders (note) SELECT upper(email) FROM customers",
        "UPDATE customers SET email = upper(email)",
        "UPDATE orders SET note = 'x' FROM customers WHERE customers.email = note",
        "DELETE FROM orders USING customers WHERE customers.email = note",
        "MERGE INTO orders o USING customers c ON o.id = c.id WHEN MATCHED AND c.email = 'a' THEN DELETE",
        "MERGE INTO customers c USING orders o ON o.id = c.id WHEN MATCHED AND c.email = 'a' THEN UPDATE SET name = 'x'",
        "MERGE INTO orders o USING customers c ON o.id = c.id WHEN NOT MATCHED THEN INSERT (note) VALUES (upper(c.email))",
        "WITH RECURSIVE r(e) AS (SELECT email FROM customers UNION SELECT e FROM r) SELECT 1 FROM r",
        "CREATE UNIQUE INDEX ON customers (email)",
        "COPY customers FROM STDIN WHERE email = 'a'",
    ];
    let open: Vec<&str> = denied
        .into_iter()
        .filter(|sql| {
            let statement = read(sql).unwrap();
            let prepared = statement.effects.iter().any(|effect| match effect {
                crate::sql::SessionEffect::Prepared { statement, .. } => masking.admit(statement).is_err(),
                _ => false,
            });
            masking.admit(&statement).is_ok() && !prepared
        })
        .collect();
    assert!(open.is_empty(), "{open:#?}");
    let why = masking.admit(&read("SELECT id FROM customers ORDER BY email").unwrap()).unwrap_err();
    assert!(why.reason.starts_with("public.customers.email is used"), "{}", why.reason);
}

#[test]
fn all_else_of_a_table_with_an_opaque_column_works() {
    let masking = opaque();
    let admitted = [
        "SELECT * FROM customers",
        "SELECT email FROM customers WHERE id = 1",
        "SELECT id, email FROM customers WHERE name = 'a' ORDER BY name LIMIT 5",
        "SELECT email AS mail FROM customers ORDER BY id",
        "SELECT count(*) FROM customers",
        "SELECT name, count(*) FROM customers GROUP BY name",
        "SELECT DISTINCT name FROM customers",
        "SELECT DISTINCT ON (id) id, email FROM customers ORDER BY id",
        "SELECT id FROM orders WHERE EXISTS (SELECT * FROM customers c WHERE c.id = customer_id)",
        "SELECT o.id, c.email FROM orders o JOIN customers c ON c.id = o.customer_id WHERE o.total > 5",
        "SELECT id, email FROM (SELECT id, email FROM customers) s WHERE id = 1",
        "WITH c AS (SELECT id, email FROM customers) SELECT email FROM c WHERE id = 1",
        "SELECT id FROM orders WHERE EXISTS (SELECT 1 FROM customers c WHERE c.id = customer_id)",
        "INSERT INTO customers (id, email) VALUES (1, 'a') RETURNING email",
        "UPDATE customers SET email = 'b' WHERE id = 1",
        "INSERT INTO customers (id, email) VALUES (1, 'a') ON CONFLICT (id) DO UPDATE SET email = excluded.email",
        "INSERT INTO customers (id, email) VALUES (1, 'a') ON CONFLICT ON CONSTRAINT customers_pkey DO NOTHING",
        "INSERT INTO contacts (id, email) VALUES (1, 'a') ON CONFLICT DO NOTHING",
        "SELECT id, row_number() OVER (PARTITION BY name ORDER BY id) FROM customers",
        "SELECT email FROM app.customers WHERE email = 'a'",
        "SELECT note FROM orders WHERE note = 'a' GROUP BY note",
        "SELECT id FROM customer_names ORDER BY name",
        "SELECT relname FROM pg_catalog.pg_class WHERE relname = 'email'",
    ];
    for sql in admitted {
        assert_eq!(masking.admit(&read(sql).unwrap()), Ok(()), "{sql}");
    }
}

#[test]
fn values_are_looked_for_in_all_columns() {
    let detect = [Detector::Email].into_iter().collect();
    let masking = compiled(MaskingRule { detect, mask: MaskFunction::Redact("***".into()), ..MaskingRule::default() });
    // Nothing has to be followed, as no column is named.
    for sql in
        ["CREATE TABLE copy AS SELECT * FROM customers", "SELECT app.price(id) FROM customers", "SELECT * FROM fresh"]
    {
        assert_eq!(masking.admit(&read(sql).unwrap()), Ok(()));
    }
    let statement = read("SELECT note, 1, upper(note) FROM orders").unwrap();
    let field = |table, column, type_oid| Field { table, column, type_oid, binary: true };
    let plan = RowPlan::for_result(&[field(20_002, 3, 25), field(0, 0, 23), field(0, 0, 25)], &statement, &masking);
    assert_eq!(
        (plan.mask(0), plan.mask(1), plan.mask(2), plan.is_plain()),
        (Some("detect"), None, Some("detect"), false)
    );
    let mut row = BytesMut::new();
    let values: [&[u8]; 3] = [b"write to ada@x.example", &[0, 0, 0, 1], b"none"];
    let put = |row: &mut BytesMut, values: &[&[u8]]| {
        row.extend_from_slice(&3_i16.to_be_bytes());
        for value in values {
            row.extend_from_slice(&i32::try_from(value.len()).unwrap().to_be_bytes());
            row.extend_from_slice(value);
        }
    };
    put(&mut row, &values);
    let (mut out, mut expected) = (BytesMut::new(), BytesMut::new());
    plan.mask_row(&row, &mut out).unwrap();
    put(&mut expected, &[b"write to ***", &[0, 0, 0, 1], b"none"]);
    assert_eq!(out, expected);
    // Only numbers: rows pass as they are.
    assert!(RowPlan::for_result(&[field(20_002, 1, 23)], &statement, &masking).is_plain());

    assert_eq!(masking.scrub(&statement), Scrub::Values);
    assert_eq!(masking.scrub(&read("SELECT app.price(1)").unwrap()), Scrub::Everything);
    assert!(masking.hides_notifications());

    for sql in [
        "COPY orders TO STDOUT",
        "COPY (SELECT id, note FROM orders) TO STDOUT",
        "COPY (SELECT 1, app.price(2)) TO STDOUT",
    ] {
        let mut copy = CopyMask::for_copy(&read(sql).unwrap(), &masking).unwrap().unwrap();
        let mut out = BytesMut::new();
        let row: &[u8] =
            if sql.starts_with("COPY o") { b"1\t2\tto ada@x.example\t9\n" } else { b"1\tto ada@x.example\n" };
        copy.push(row, &mut out).unwrap();
        assert!(out.ends_with(b"\tto ***\n") || out.ends_with(b"\tto ***\t9\n"), "{out:?}");
    }
}

#[test]
fn columns_by_labels() {
    let rule = |label: &str| {
        let labels = vec![postern_core::masking::ColumnRegex::parse(label).unwrap()];
        compiled(MaskingRule { labels, ..MaskingRule::default() })
    };
    let masked = |masking: &Masking, sql: &str, table: u32, column: i16| {
        let statement = read(sql).unwrap();
        let field = Field { table, column, type_oid: 25, binary: true };
        RowPlan::for_result(&[field], &statement, masking).mask(0).is_some()
    };
    let pii = rule("^pii$");
    assert!(masked(&pii, "SELECT email FROM customers", CUSTOMERS, 3));
    assert!(!masked(&pii, "SELECT name FROM customers", CUSTOMERS, 2));
    assert!(masked(&pii, "SELECT upper(email) FROM customers", 0, 0));
    assert!(!masked(&pii, "SELECT email FROM events", 20_006, 2));
    // Whoever has the mask does not lift it.
    for sql in [
        "COMMENT ON COLUMN customers.email IS ''",
        "COMMENT ON COLUMN public.customers.name IS '@postern:x'",
        "COMMENT ON TABLE customers IS NULL",
        "SECURITY LABEL ON COLUMN customers.email IS NULL",
        "SECURITY LABEL FOR guard ON TABLE customers IS 'open'",
    ] {
        assert!(pii.admit(&read(sql).unwrap()).is_err(), "{sql}");
    }
    assert!(pii.admit(&read("COMMENT ON COLUMN app.jobs.state IS 'x'").unwrap()).is_ok());
    // Of the table: of all its columns, and of its partitions'.
    let secret = rule("^guard:secret$");
    assert!(masked(&secret, "SELECT email FROM events", 20_006, 2));
    assert!(masked(&secret, "SELECT email FROM events_2026", 20_007, 1));
    assert!(!masked(&secret, "SELECT email FROM customers", CUSTOMERS, 3));
}

/// Rules on every column of a type, and on those that an expression finds.
#[test]
fn columns_by_type_and_by_expression() {
    let rule = |spec: MaskingRule| {
        let targets = TargetSelector { names: vec!["*".into()], ..TargetSelector::default() };
        MaskingRule { targets, mask: MaskFunction::Null, ..spec }
    };
    let by_type = rule(MaskingRule { types: vec!["numeric".into()], ..MaskingRule::default() });
    let regex = postern_core::masking::ColumnRegex::parse("(?i)^public[.].*[.](E-?MAIL|phone)$").unwrap();
    let by_name = rule(MaskingRule { matching: vec![regex], ..MaskingRule::default() });
    let names: [Name; 2] = ["a".parse().unwrap(), "b".parse().unwrap()];
    let slice = MaskSlice::new(
        names.iter().zip([&by_type, &by_name]),
        &principal(),
        &"shop".parse().unwrap(),
        &BTreeMap::new(),
    );
    let masking = Masking::compile(&slice, Arc::new(catalog()), "shop", &[7; 32]);
    let shown = |sql: &str, fields: &[(u32, i16, u32)]| -> String {
        let statement = read(sql).unwrap();
        masking.admit(&statement).unwrap();
        let field = |(table, column, type_oid): &(u32, i16, u32)| Field {
            table: *table,
            column: *column,
            type_oid: *type_oid,
            binary: true,
        };
        let fields: Vec<Field> = fields.iter().map(field).collect();
        let plan = RowPlan::for_result(&fields, &statement, &masking);
        (0..fields.len()).map(|column| if plan.mask(column).is_some() { 'x' } else { '-' }).collect()
    };
    let customers = [(CUSTOMERS, 1, 23), (CUSTOMERS, 3, 25), (CUSTOMERS, 4, 1_043)];
    assert_eq!(shown("SELECT id, email, phone FROM customers", &customers), "-xx");
    assert_eq!(shown("SELECT email FROM app.customers", &[(20_008, 2, 25)]), "-");
    // The type's own columns, what is computed from them, and what is made such: of the type, and of one over it.
    assert_eq!(shown("SELECT id, total FROM orders", &[(20_002, 1, 23), (20_002, 4, 1_700)]), "-x");
    assert_eq!(shown("SELECT total::text, id + 1 FROM orders", &[(0, 0, 25), (0, 0, 23)]), "xx");
    assert_eq!(shown("SELECT id::numeric, note FROM orders", &[(0, 0, 1_700), (20_002, 3, 25)]), "x-");
    assert_eq!(shown("SELECT 1, NULL, NULL", &[(0, 0, 1_231), (0, 0, 30_001), (0, 0, 30_000)]), "xx-");
    assert!(masking.admit(&read("CREATE TABLE copy AS SELECT total FROM orders").unwrap()).is_err());
}
