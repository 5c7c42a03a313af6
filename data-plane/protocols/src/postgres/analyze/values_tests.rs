use super::*;
use crate::postgres::analyze::{SessionNames, analyze};

/// What each value in `sql` may be set against, as `value: columns`.
fn of(sql: &str) -> Vec<String> {
    let context = crate::postgres::analyze::tests::context();
    let statement = analyze(sql.as_bytes(), &context, &SessionNames::default()).unwrap();
    let catalog = context.catalog.clone().unwrap();
    let found = values(sql, &statement, &catalog, "shop", 0);
    let shown = found.values.iter().map(|value| {
        let place = match value.place {
            ValuePlace::Parameter(number) => format!("${number}"),
            ValuePlace::Text(from, to) => sql[from as usize..to as usize].to_owned(),
        };
        format!("{place}: {}", value.columns.join(","))
    });
    shown.collect()
}

#[test]
fn values_go_with_the_columns_beside_them() {
    for (sql, expected) in [
        ("UPDATE customers SET email = 'a' WHERE id = 7", &["'a': email", "7: id"][..]),
        ("UPDATE customers SET email = $1, name = $2 WHERE id = $3", &["$1: email", "$2: name", "$3: id"]),
        (
            "DELETE FROM customers WHERE id = 1 AND (email = 'x' OR name = 'y')",
            &["1: id", "'x': email,name", "'y': email,name"],
        ),
        ("DELETE FROM customers WHERE email BETWEEN 'a' AND 'b' AND id = 3", &["'a': email", "'b': email", "3: id"]),
        ("SELECT id FROM customers WHERE id IN (1, 2) LIMIT 5", &["1: id", "2: id"]),
        (
            "INSERT INTO customers (id, email) VALUES (1, 'a'), ($1, lower($2))",
            &["$1: id", "$2: email", "1: id", "'a': email"],
        ),
        (
            "SELECT id FROM customers WHERE name = CASE WHEN id = 1 AND id = 2 THEN 'n' END",
            &["1: id,name", "2: id,name", "'n': id,name"],
        ),
        ("DELETE FROM customers u WHERE u.email = 'x'::text", &["'x': email"]),
    ] {
        let mut expected: Vec<String> = expected.iter().map(ToString::to_string).collect();
        let mut found = of(sql);
        expected.sort();
        found.sort();
        assert_eq!(found, expected, "{sql}");
    }
}

#[test]
fn what_is_not_followed_may_be_anything() {
    for sql in [
        "INSERT INTO customers VALUES ('x')",
        "SELECT 'x' FROM customers",
        "SELECT id FROM customers u WHERE u = ROW('x')",
        "SELECT id FROM customers u WHERE row_to_json(u) ->> 'email' IS NOT NULL",
        "SELECT id FROM (VALUES ('x')) v(x), customers WHERE customers.email = v.x",
        "WITH v AS (SELECT 'x' AS x) SELECT id FROM customers, v WHERE email = x",
        "SELECT id FROM customers -- x",
        "SELECT id FROM customers WHERE 'x' = 'x'",
    ] {
        let found = of(sql);
        assert!(!found.is_empty() && found.iter().all(|value| value.ends_with(": *")), "{sql}: {found:?}");
    }
}

#[test]
fn values_are_blanked() {
    assert_eq!(blanked("SELECT 1, 'a''b', $1").unwrap(), "SELECT ..., ..., $1");
    assert_eq!(blanked("SELECT 'unfinished"), None);
}
