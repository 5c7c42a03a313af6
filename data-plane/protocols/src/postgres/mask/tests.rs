//! Masks by what a statement is, by type and by format.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use postern_core::Name;
use postern_core::masking::{MaskFunction, MaskSlice, MaskingRule};
use postern_core::policy::Pattern;
use postern_core::principal::Principal;
use postern_core::target::TargetSelector;
use proptest::prelude::*;

use super::*;
use crate::postgres::analyze::tests::{catalog, context, read};
use crate::postgres::analyze::{SessionNames, analyze};

pub(super) const CUSTOMERS: u32 = 20_001;

fn slice(rules: &[(&str, MaskFunction)]) -> MaskSlice {
    let target: Name = "shop".parse().unwrap();
    let rules: Vec<(Name, MaskingRule)> = rules
        .iter()
        .enumerate()
        .map(|(place, (column, mask))| {
            let rule = MaskingRule {
                targets: TargetSelector { names: vec!["*".into()], ..TargetSelector::default() },
                columns: vec![Pattern::parse(column).unwrap()],
                mask: mask.clone(),
                exempt_groups: Vec::new(),
                ..Default::default()
            };
            (format!("r{place}").parse().unwrap(), rule)
        })
        .collect();
    MaskSlice::new(rules.iter().map(|(name, rule)| (name, rule)), &principal(), &target, &BTreeMap::new())
}

fn masking() -> Masking {
    let rules = [
        ("public.customers.email", MaskFunction::Redact("***".into())),
        ("public.customers.age", MaskFunction::Redact("***".into())),
        ("public.customers.phone", MaskFunction::Partial { keep_last: 2 }),
        ("events_2026.email", MaskFunction::Hash),
        ("contacts.email", MaskFunction::Hash),
    ];
    Masking::compile(&slice(&rules), Arc::new(catalog()), "shop", &[7; 32])
}

/// What the columns of a result become: `-` shown, `x` masked.
fn shown(sql: &str, fields: &[(u32, i16)]) -> String {
    let masking = masking();
    let statement = read(sql).unwrap();
    masking.admit(&statement).unwrap();
    let fields: Vec<Field> = fields
        .iter()
        .map(|(table, column)| Field { table: *table, column: *column, type_oid: 25, binary: false })
        .collect();
    let plan = RowPlan::for_result(&fields, &statement, &masking);
    (0..fields.len()).map(|column| if plan.mask(column).is_some() { 'x' } else { '-' }).collect()
}

#[test]
fn columns_by_their_origin() {
    let all = [(CUSTOMERS, 1), (CUSTOMERS, 2), (CUSTOMERS, 3), (CUSTOMERS, 4), (CUSTOMERS, 5)];
    assert_eq!(shown("SELECT * FROM customers", &all), "--xxx");
    assert_eq!(shown("SELECT * FROM (SELECT * FROM customers) s", &all), "--xxx");
    assert_eq!(shown("DELETE FROM customers WHERE id = 1 RETURNING *", &all), "--xxx");
    assert_eq!(shown("SELECT * FROM orders", &[(20_002, 1), (20_002, 3)]), "--");
    // The parent of a masked partition, and another schema's table of the same name.
    assert_eq!(shown("SELECT * FROM events", &[(20_006, 1), (20_006, 2)]), "-x");
    assert_eq!(shown("SELECT * FROM events_2026", &[(20_007, 1), (20_007, 2)]), "x-");
    assert_eq!(shown("SELECT * FROM app.customers", &[(20_008, 2)]), "-");
    // A column that is computed from a masked one.
    assert_eq!(shown("SELECT * FROM contacts", &[(20_011, 1), (20_011, 2), (20_011, 3)]), "-xx");
    // A view that reads no masked column, one that does, one that takes a row whole.
    assert_eq!(shown("SELECT * FROM customer_names", &[(20_003, 1), (20_003, 2)]), "--");
    assert_eq!(shown("SELECT * FROM customer_cards", &[(20_004, 1), (20_004, 2)]), "xx");
    assert_eq!(shown("SELECT * FROM whole", &[(20_010, 1)]), "x");
    // Of another table, whose rows tell.
    let told = "SELECT o.id FROM orders o, customers c WHERE chr(o.id) = left(c.email, 1)";
    assert_eq!(shown(told, &[(20_002, 1)]), "x");
    let derived = "SELECT o.id FROM orders o JOIN (SELECT left(email, 1) AS l FROM customers) c ON chr(o.id) = l";
    assert_eq!(shown(derived, &[(20_002, 1)]), "x");
    // A column and a table that are not known, and the system's own.
    assert_eq!(shown("SELECT * FROM orders", &[(20_002, 9), (20_002, -1)]), "x-");
    assert_eq!(shown("SELECT * FROM fresh", &[(29_999, 1)]), "x");
    assert_eq!(shown("SELECT * FROM pg_class", &[(1_259, 2)]), "-");
}

#[test]
fn expressions_that_may_hold_a_masked_value() {
    let masked = [
        "SELECT upper(email) FROM customers",
        "SELECT email || '' FROM customers",
        "SELECT max(email) FROM customers",
        "SELECT (SELECT email FROM customers LIMIT 1)",
        "SELECT upper(x) FROM (SELECT email AS x FROM customers) s",
        "SELECT upper(x) FROM customers AS c(a, b, x)",
        "SELECT upper(x) FROM (SELECT * FROM customers) AS c(a, b, x)",
        "WITH c(a, b, x) AS (SELECT * FROM customers) SELECT upper(x) FROM c",
        "SELECT upper(x) FROM (SELECT 1 AS i, 'n' AS n, 'e' AS x UNION ALL SELECT * FROM customers) s",
        "SELECT 'a' UNION SELECT email FROM customers",
        "TABLE customers UNION TABLE customers",
        "SELECT customers FROM customers",
        "SELECT customers::text FROM customers",
        "SELECT c::text FROM customers c",
        "SELECT row_to_json(c) FROM customers c",
        "SELECT row_to_json(c.*) FROM customers c",
        "SELECT c.row_to_json FROM customers c",
        "SELECT (SELECT c).row_to_json FROM customers c",
        "SELECT public.customers FROM public.customers",
        "SELECT (c).email FROM customers c",
        "SELECT ROW(c.*) FROM customers c",
        "SELECT to_jsonb(s) FROM (SELECT * FROM customers) s",
        "SELECT json_agg(s) FROM (SELECT * FROM customers) s",
        "SELECT ARRAY(SELECT email FROM customers)",
        "SELECT ARRAY(SELECT s FROM (SELECT * FROM customers) s)",
        "SELECT string_agg(email, ',') FROM customers",
        "SELECT CASE WHEN true THEN email END FROM customers",
        "SELECT email::varchar(3) FROM customers",
        "SELECT coalesce(email, '') FROM customers",
        "SELECT * FROM customers a FULL JOIN customers b USING (email)",
        "SELECT * FROM customers a NATURAL FULL JOIN customers b",
        "SELECT x FROM unnest((SELECT array_agg(email) FROM customers)) x",
        "SELECT x FROM (VALUES ((SELECT email FROM customers LIMIT 1))) v(x)",
        "SELECT first_value(email) OVER () FROM customers",
        "SELECT xmlelement(name a, email) FROM customers",
        "SELECT mode() WITHIN GROUP (ORDER BY email) FROM customers",
        "SELECT json_build_object('a', email) FROM customers",
        "SELECT JSON_OBJECT('a' : email) FROM customers",
        "SELECT jt.a FROM customers, JSON_TABLE(to_jsonb(email), '$' COLUMNS (a text PATH '$')) jt",
        "SELECT upper(contact) FROM customer_cards",
        "SELECT upper(domain) FROM contacts",
        "SELECT app.price(1) FROM customers",
        "SELECT app.price(id) FROM customers",
        "SELECT upper(name) FROM fresh",
        "SELECT lower(e.email) FROM events e",
        "WITH RECURSIVE r AS (SELECT email AS e FROM customers UNION ALL SELECT e FROM r) SELECT e || '' FROM r",
        "WITH RECURSIVE r AS (SELECT id, email FROM customers) SEARCH DEPTH FIRST BY id SET s SELECT s FROM r",
        "UPDATE customers SET name = 'x' WHERE id = 1 RETURNING upper(email)",
        "INSERT INTO customers (id) VALUES (1) RETURNING new::text",
        "DELETE FROM customers WHERE id = 1 RETURNING upper(old.email)",
        "SELECT string_agg(chr(g), '' ORDER BY i) FROM customers, generate_series(1, 9) i, generate_series(32, 127) g WHERE chr(g) = substr(email, i, 1)",
        "SELECT g FROM generate_series(0, 255) g WHERE g = (SELECT ascii(email) FROM customers LIMIT 1)",
        "SELECT g FROM generate_series(0, 255) g OFFSET (SELECT ascii(email) FROM customers LIMIT 1) LIMIT 1",
        "SELECT g FROM generate_series(0, 255) g JOIN customers ON ascii(email) = g",
        "SELECT g FROM generate_series(0, 255) g, customers c ORDER BY c::text LIKE '%' || chr(g) || '%'",
        "SELECT g FROM generate_series(0, 255) g WHERE chr(g) IN (SELECT left(email, 1) FROM customers)",
        "SELECT a FROM customers c, LATERAL (SELECT c.email || '' AS a) l",
    ];
    for sql in masked {
        assert_eq!(shown(sql, &[(0, 0)]), "x", "{sql}");
    }
    let plain = [
        "SELECT count(*) FROM customers",
        "SELECT count(*) FROM customers WHERE email LIKE '%a'",
        "SELECT upper(name), email FROM customers",
        "SELECT name || 'x' FROM customers ORDER BY email",
        "SELECT exists(SELECT * FROM customers)",
        "SELECT now()",
        "SELECT count(*) FROM customers c JOIN orders o ON o.customer_id = c.id WHERE lower(c.email) = lower($1)",
        "SELECT count(*) FROM customers c JOIN orders o ON o.note = c.email AND o.total > c.id * 2",
        "SELECT o.id + 1 FROM orders o WHERE EXISTS (SELECT email FROM customers c WHERE c.id = o.customer_id)",
        "SELECT count(*) FROM customer_cards",
        "SELECT upper(note) FROM orders",
        "SELECT upper(email) FROM app.customers",
        "SELECT o.id + 1 FROM orders o WHERE customer_id IN (SELECT id FROM customers WHERE email = 'a')",
        "SELECT length(name) FROM customers GROUP BY name, email",
        "EXPLAIN SELECT * FROM customers",
        "SHOW search_path",
    ];
    for sql in plain {
        assert_eq!(shown(sql, &[(0, 0)]), "-", "{sql}");
    }
}

#[test]
fn masked_values_are_not_carried_off() {
    let masking = masking();
    let refused = [
        "INSERT INTO orders (note) SELECT email FROM customers",
        "INSERT INTO orders SELECT * FROM customers",
        "INSERT INTO orders TABLE customers",
        "INSERT INTO orders (note) VALUES ((SELECT email FROM customers LIMIT 1))",
        "UPDATE orders SET note = c.email FROM customers c WHERE c.id = customer_id",
        "UPDATE orders SET note = (SELECT email FROM customers LIMIT 1) WHERE id = 1",
        "UPDATE customers SET name = email WHERE id = 1",
        "UPDATE customers c SET name = c::text WHERE id = 1",
        "CREATE TABLE t AS SELECT * FROM customers",
        "CREATE TEMP TABLE t AS SELECT email FROM customers",
        "SELECT * INTO t FROM customers",
        "CREATE VIEW v AS SELECT email FROM customers",
        "CREATE MATERIALIZED VIEW v AS SELECT * FROM customers",
        "WITH d AS (DELETE FROM customers WHERE id = 1 RETURNING *) INSERT INTO orders (note) SELECT email FROM d",
        "WITH d AS (DELETE FROM customers WHERE id = 1 RETURNING *) INSERT INTO orders SELECT * FROM d",
        "MERGE INTO orders o USING customers c ON o.id = c.id WHEN MATCHED THEN UPDATE SET note = c.email",
        "SELECT set_config('application_name', email, false) FROM customers",
        "SELECT 1 FROM customers WHERE set_config('application_name', email, false) <> ''",
        "SELECT pg_notify('c', email) FROM customers",
        "SELECT app.price(email) FROM customers",
        "SELECT 1 FROM customers WHERE app.price(email) > 0",
        "SELECT leak(c) FROM customers c",
        "SELECT c.leak FROM customers c",
        "SELECT 1 FROM customers c WHERE c.leak = ''",
        "SELECT email <<<>>> '' FROM customers",
        "SELECT 1 FROM customers ORDER BY email USING <<<>>>",
        "INSERT INTO orders (id) SELECT g FROM generate_series(0, 255) g, customers WHERE chr(g) = left(email, 1)",
        "SELECT lo_from_bytea(0, email::bytea) FROM customers",
        "SELECT id::text INTO t FROM orders UNION SELECT email FROM customers",
        "CREATE TABLE t AS SELECT id::text FROM orders UNION SELECT email FROM customers",
        "CALL app.price((SELECT email FROM customers LIMIT 1))",
        "INSERT INTO orders (note) SELECT contact FROM customer_cards",
        "INSERT INTO orders (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET note = (SELECT excluded.email FROM customers excluded)",
        "ALTER TABLE customers RENAME COLUMN email TO e",
        "ALTER TABLE customers RENAME TO c",
        "ALTER TABLE customers SET SCHEMA app",
        "ALTER TABLE customers ALTER COLUMN name TYPE text USING email",
        "CREATE TABLE c () INHERITS (customers)",
        "COPY customers TO '/tmp/x'",
        "COPY (SELECT email FROM customers) TO PROGRAM 'cat'",
        "SELECT * FROM pg_stats",
        "SELECT * FROM pg_catalog.pg_statistic",
        "SELECT query FROM pg_stat_activity",
        "SELECT * FROM pg_toast.pg_toast_20001",
        "SELECT * FROM public.pg_stat_statements",
        "INSERT INTO orders (note) SELECT app.price(1)",
        "INSERT INTO orders (note) SELECT name FROM fresh",
        "ALTER SCHEMA public RENAME TO p",
        "DO $$ BEGIN INSERT INTO orders SELECT * FROM customers; END $$",
        "CREATE FUNCTION f() RETURNS text LANGUAGE sql AS 'SELECT email FROM customers'",
        "SELECT query_to_xml('SELECT email FROM customers', true, true, '')",
        "CREATE RULE r AS ON INSERT TO orders DO ALSO INSERT INTO orders SELECT * FROM customers",
    ];
    for sql in refused {
        assert!(masking.admit(&read(sql).unwrap()).is_err(), "{sql}");
    }
    let admitted = [
        "INSERT INTO customers (id, email) VALUES (1, 'a@b') ON CONFLICT (id) DO UPDATE SET email = excluded.email",
        "INSERT INTO customers (id, email) VALUES (1, 'a@b') RETURNING *",
        "UPDATE customers SET name = 'x', email = 'y' WHERE email = 'z' RETURNING email",
        "UPDATE orders SET total = total + 1 WHERE customer_id IN (SELECT id FROM customers WHERE email = 'a')",
        "DELETE FROM customers WHERE email = 'a'",
        "INSERT INTO orders (note) SELECT name FROM customers",
        "CREATE TABLE t AS SELECT * FROM orders",
        "INSERT INTO orders (id) VALUES (nextval('order_ids'))",
        "ALTER TABLE orders ADD COLUMN x int",
        "SELECT relname FROM pg_class",
        "SELECT app.price(id) FROM customers WHERE email = 'a'",
    ];
    for sql in admitted {
        masking.admit(&read(sql).unwrap()).unwrap_or_else(|fault| panic!("{sql}: {fault}"));
    }
    // Without rules, nothing of this concerns anyone.
    Masking::default().admit(&read("CREATE TABLE t AS SELECT * FROM customers").unwrap()).unwrap();
}

#[test]
fn temporary_relations_are_the_sessions_own() {
    let mut names = SessionNames::default();
    names.begin(&read("CREATE TEMP TABLE mine (x text)").unwrap().effects).unwrap();
    let statement = analyze(b"SELECT x, upper(x) FROM mine", &context(), &names).unwrap();
    let field = |table| Field { table, column: 1, type_oid: 25, binary: false };
    assert!(RowPlan::for_result(&[field(30_000), field(0)], &statement, &masking()).is_plain());
}

#[test]
fn values_by_type_and_format() {
    let statement = read("SELECT * FROM customers").unwrap();
    let masking = masking();
    let apply = |column, type_oid, binary, value: &[u8]| {
        let fields = [Field { table: CUSTOMERS, column, type_oid, binary }];
        let plan = RowPlan::for_result(&fields, &statement, &masking);
        let mut out = BytesMut::new();
        plan.mask_row(&data_row(&[Some(value)]), &mut out).unwrap();
        fields_of(&out).remove(0)
    };
    let text = |text: &str| Some(text.as_bytes().to_vec());
    for binary in [false, true] {
        assert_eq!(apply(3, 25, binary, b"ann@example.org"), text("***"));
        assert_eq!(apply(4, 1043, binary, "12\u{20ac}45".as_bytes()), text("***45"));
        assert_eq!(apply(4, 1043, binary, b"45"), text("**"));
        assert_eq!(apply(4, 1043, binary, b"\xff\xff\xff"), None);
        assert_eq!(apply(5, 23, binary, b"\0\0\0\x05"), None, "an integer holds no text");
        assert_eq!(apply(3, 114, binary, b"{}"), None, "nor does JSON");
    }
    assert_eq!(apply(3, 16_999, false, b"x"), text("***"));
    assert_eq!(apply(3, 16_999, true, b"x"), None);
    let events = read("SELECT email FROM events_2026").unwrap();
    let plan =
        RowPlan::for_result(&[Field { table: 20_007, column: 1, type_oid: 25, binary: false }], &events, &masking);
    let mut out = BytesMut::new();
    plan.mask_row(&data_row(&[Some(b"a")]), &mut out).unwrap();
    let hash = fields_of(&out).remove(0).unwrap();
    assert!(hash.len() == 32 && hash.iter().all(u8::is_ascii_hexdigit));
    out.clear();
    plan.mask_row(&data_row(&[None]), &mut out).unwrap();
    assert_eq!(fields_of(&out), [None]);
}

#[test]
fn rows_that_are_not_as_described_are_refused() {
    let statement = read("SELECT * FROM customers").unwrap();
    let plan = RowPlan::for_result(
        &[Field { table: CUSTOMERS, column: 3, type_oid: 25, binary: false }],
        &statement,
        &masking(),
    );
    for bad in [
        &b""[..],
        b"\0",
        b"\0\x01",
        b"\0\x02\0\0\0\0\0\0\0\0",
        b"\0\x01\0\0\0\x05a",
        b"\0\x01\xff\xff\xff\xfe",
        b"\0\x01\xff\xff\xff\xffx",
    ] {
        assert_eq!(plan.mask_row(bad, &mut BytesMut::new()), Err(MaskError::Malformed));
    }
}

#[test]
fn messages() {
    let masking = masking();
    let fields = |state: &str, place: &str| {
        let of = |code: u8, value: &str| (code, value.as_bytes().to_vec());
        vec![
            of(b'S', "ERROR"),
            of(b'C', state),
            of(b'M', "message"),
            of(b'D', "detail"),
            of(b'H', "hint"),
            of(b'W', place),
        ]
    };
    let codes_at = |sql: &str, state: &str, place: &str| {
        let scrubbed = scrub_fields(fields(state, place), masking.scrub(&read(sql).unwrap()));
        assert_eq!(scrubbed[1].1, state.as_bytes());
        let kept: String = scrubbed.iter().map(|(code, _)| char::from(*code)).collect();
        (kept, scrubbed[2].1 == b"message")
    };
    let codes = |sql: &str, state: &str| codes_at(sql, state, "COPY orders, line 1");
    assert_eq!(codes_at("INSERT INTO orders VALUES (1)", "23505", "PL/pgSQL"), ("SCM".into(), false));
    assert_eq!(codes("SELECT email::regclass FROM customers", "42P01"), ("SCM".into(), false));
    assert_eq!(codes("SELECT email::int FROM customers", "22P02"), ("SCM".into(), false));
    assert_eq!(codes("SELECT emial FROM customers", "42501"), ("SCMH".into(), true));
    assert_eq!(codes("SELECT app.price(1)", "42703"), ("SCM".into(), false));
    assert_eq!(codes("INSERT INTO customers (id) VALUES (1)", "23505"), ("SCMH".into(), true));
    assert_eq!(codes("INSERT INTO orders (id) VALUES (1)", "P0001"), ("SCM".into(), false));
    assert_eq!(codes("SELECT 1/0", "22012"), ("SCMH".into(), true));
    assert_eq!(Masking::default().scrub(&read("SELECT app.price(1)").unwrap()), Scrub::Nothing);
}

fn copied(sql: &str, input: &[u8], cuts: &[usize]) -> Result<Vec<u8>, MaskError> {
    let mut mask = CopyMask::for_copy(&read(sql).unwrap(), &masking()).unwrap().unwrap();
    let mut out = BytesMut::new();
    let mut start = 0;
    for cut in cuts.iter().copied().chain([input.len()]) {
        let cut = cut.clamp(start, input.len());
        mask.push(&input[start..cut], &mut out)?;
        start = cut;
    }
    mask.finish(&mut out)?;
    Ok(out.to_vec())
}

const TEXT: &str = "COPY customers TO STDOUT";
const TEXT_IN: &[u8] = b"1\tAnn\\tB\ta\\nb@c\t12345\t7\n2\t\\N\t\\N\t\\N\t\\N\n3\t\t\t\\\\\\n9\t1\n";
const TEXT_OUT: &[u8] = b"1\tAnn\\tB\t***\t***45\t\\N\n2\t\\N\t\\N\t\\N\t\\N\n3\t\t***\t*\\n9\t\\N\n";
const CSV: &str = "COPY customers (email, id, phone) TO STDOUT (FORMAT csv, HEADER, QUOTE '\"', DELIMITER ';')";
const CSV_IN: &[u8] = b"email;id;phone\n\"a;\n\"\"b\";1;\"x\n\"\"\"\n;2;\nplain;3;123\n";
const CSV_OUT: &[u8] = b"email;id;phone\n\"***\";1;\"*\n\"\"\"\n;2;\n\"***\";3;\"*23\"\n";

#[test]
fn copy_text_and_csv() {
    assert_eq!(copied(TEXT, TEXT_IN, &[]).unwrap(), TEXT_OUT);
    assert_eq!(copied(CSV, CSV_IN, &[]).unwrap(), CSV_OUT);
    let escaped =
        copied("COPY customers (email) TO STDOUT (FORMAT csv, ESCAPE '\\')", b"\"a\\\"\n\"\nb\n", &[]).unwrap();
    assert_eq!(escaped, b"\"***\"\n\"***\"\n");
    let query = copied("COPY (SELECT id, email FROM customers) TO STDOUT", b"1\ta\n", &[]).unwrap();
    assert_eq!(query, b"\\N\t\\N\n");
}

#[test]
fn copy_that_is_not_masked_or_not_followed() {
    let masking = masking();
    let of = |sql: &str| CopyMask::for_copy(&read(sql).unwrap(), &masking);
    for plain in [
        "COPY orders TO STDOUT",
        "COPY customers (id, name) TO STDOUT",
        "COPY customers FROM STDIN",
        "COPY (SELECT id, name FROM customers WHERE email = 'a') TO STDOUT",
        "SELECT 1",
    ] {
        assert!(of(plain).unwrap().is_none(), "{plain}");
    }
    for refused in
        ["COPY customers TO STDOUT (ENCODING 'latin1')", "COPY fresh TO STDOUT", "COPY customers (nope) TO STDOUT"]
    {
        assert!(of(refused).is_err(), "{refused}");
    }
    for masked in [
        "COPY (SELECT * FROM customers) TO STDOUT",
        "COPY (DELETE FROM customers WHERE id = 1 RETURNING email) TO STDOUT",
    ] {
        assert!(of(masked).unwrap().is_some(), "{masked}");
    }
    assert_eq!(copied(TEXT, b"1\t2\n", &[]), Err(MaskError::Malformed));
    assert_eq!(copied(TEXT, b"1\t2", &[]), Err(MaskError::Malformed));
}

fn binary_rows() -> (Vec<u8>, Vec<u8>) {
    let header = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
    let mut input = header.to_vec();
    let mut output = header.to_vec();
    input.extend(data_row(&[Some(b"\0\0\0\x01"), Some(b"Ann"), Some(b"a@b"), Some(b"12345"), Some(b"\0\0\0\x07")]));
    output.extend(data_row(&[Some(b"\0\0\0\x01"), Some(b"Ann"), Some(b"***"), Some(b"***45"), None]));
    for rows in [&mut input, &mut output] {
        rows.extend(b"\xff\xff");
    }
    (input, output)
}

#[test]
fn copy_binary() {
    let sql = "COPY customers TO STDOUT (FORMAT binary)";
    let (input, output) = binary_rows();
    assert_eq!(copied(sql, &input, &[]).unwrap(), output);
    assert_eq!(copied(sql, b"PGCOPX", &[]), Err(MaskError::Malformed));
    assert_eq!(copied(sql, &input[..input.len() - 3], &[]), Err(MaskError::Malformed));
    assert_eq!(copied(sql, &[&input[..], b"x"].concat(), &[]), Err(MaskError::Malformed));
}

proptest! {
    #[test]
    fn copy_in_any_split_gives_the_same(mut cuts in proptest::collection::vec(0_usize..90, 0..8)) {
        cuts.sort_unstable();
        prop_assert_eq!(copied(TEXT, TEXT_IN, &cuts).unwrap(), TEXT_OUT);
        prop_assert_eq!(copied(CSV, CSV_IN, &cuts).unwrap(), CSV_OUT);
        let (input, output) = binary_rows();
        prop_assert_eq!(copied("COPY customers TO STDOUT (FORMAT binary)", &input, &cuts).unwrap(), output);
    }

    #[test]
    fn any_bytes_of_a_copy_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0_usize..200) {
        for sql in [TEXT, CSV, "COPY customers TO STDOUT (FORMAT binary)", "COPY (SELECT email FROM customers) TO STDOUT"] {
            let _ = copied(sql, &bytes, &[cut]);
        }
    }

    #[test]
    fn any_row_does_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
        let statement = read("SELECT * FROM customers").unwrap();
        let fields = [Field { table: CUSTOMERS, column: 3, type_oid: 25, binary: true }; 2];
        let _ = RowPlan::for_result(&fields, &statement, &masking()).mask_row(&bytes, &mut BytesMut::new());
    }
}

fn data_row(values: &[Option<&[u8]>]) -> Vec<u8> {
    let mut row = Vec::new();
    row.put_i16(i16::try_from(values.len()).unwrap());
    for value in values {
        match value {
            None => row.put_i32(-1),
            Some(value) => {
                row.put_i32(i32::try_from(value.len()).unwrap());
                row.put_slice(value);
            }
        }
    }
    row
}

fn fields_of(row: &[u8]) -> Vec<Option<Vec<u8>>> {
    let mut rest = &row[2..];
    let mut fields = Vec::new();
    while !rest.is_empty() {
        let length = i32::from_be_bytes(rest[..4].try_into().unwrap());
        rest = &rest[4..];
        let Ok(length) = usize::try_from(length) else {
            fields.push(None);
            continue;
        };
        fields.push(Some(rest[..length].to_vec()));
        rest = &rest[length..];
    }
    fields
}

pub(super) fn principal() -> Principal {
    Principal {
        id: postern_core::principal::PrincipalId { issuer: "dev".parse().unwrap(), subject: "ann".into() },
        groups: Default::default(),
        token_id: None,
        expires_at: None,
        chain: Vec::new(),
        claims: postern_core::KeptClaims::default(),
    }
}
