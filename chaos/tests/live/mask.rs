//! I4: masked values never leave, by any path.

use std::process::Command;
use std::time::Duration;

use postern_chaos::live::run;

use crate::{assert_has, assert_lacks, shop};

/// What no client, log or recording may ever show of the sample's customers.
const SECRETS: [&str; 8] = [
    "secret.example",
    "4000-1111",
    "4000-4444",
    "4000-7777",
    "1815-12-10",
    "1931-04-19",
    "c2VjcmV0LmV4YW1wbGU",
    "4000_1111",
];

#[test]
fn text_results_are_masked() {
    let (_postgres, postern) = shop();
    let sql = "SELECT id, name, email, card, birthday, loyalty FROM customers ORDER BY id";
    let masked = postern.as_member("alice", &["analysts"]).unwrap().run(sql).unwrap().ok().unwrap();
    assert_eq!(
        masked,
        "1|Ada|****|***************3333||\n2|Brook|****|***************6666||\n3|Cyd||***************9999||\n"
    );
    let clear = postern.as_member("pat", &["analysts", "privacy"]).unwrap().run(sql).unwrap().ok().unwrap();
    assert_has(&clear, &["ada@secret.example", "4000-1111-2222-3333", "1815-12-10"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn binary_results_are_masked() {
    let (_postgres, postern) = shop();
    let connection = postern.as_member("alice", &["analysts"]).unwrap();
    let mut config: tokio_postgres::Config =
        connection.string().replace("sslmode=prefer", "sslmode=disable").parse().unwrap();
    config.password(&connection.password);
    let (client, link) = config.connect(tokio_postgres::NoTls).await.unwrap();
    tokio::runtime::Handle::current().spawn(link);
    let rows = client
        .query("SELECT id, email, card, loyalty FROM customers WHERE id >= $1 ORDER BY id", &[&1_i32])
        .await
        .unwrap();
    assert_eq!(rows.len(), 3);
    assert_eq!(rows[0].get::<_, i32>(0), 1);
    assert_eq!(rows[0].get::<_, Option<String>>(1).as_deref(), Some("****"));
    assert_eq!(rows[0].get::<_, Option<String>>(2).as_deref(), Some("***************3333"));
    assert_eq!(rows[0].get::<_, Option<i32>>(3), None, "an integer cannot hold the replacement");
    assert_eq!(rows[2].get::<_, Option<String>>(1), None, "NULL stays NULL");
    let plain = client.query_one("SELECT count(*), sum(amount)::float8 FROM orders", &[]).await.unwrap();
    assert_eq!((plain.get::<_, i64>(0), plain.get::<_, f64>(1)), (20, 315.0));
}

#[test]
fn copy_to_is_masked() {
    let (_postgres, postern) = shop();
    let connection = postern.as_member("alice", &["analysts"]).unwrap();
    for sql in [
        "COPY customers TO STDOUT",
        "COPY customers (id, email) TO STDOUT",
        "COPY customers TO STDOUT (FORMAT csv, HEADER)",
        "COPY customers TO STDOUT (FORMAT binary)",
        "COPY (SELECT email, card FROM customers) TO STDOUT",
        "COPY (SELECT upper(email) FROM customers) TO STDOUT WITH CSV",
    ] {
        let run = connection.run(sql).unwrap();
        assert_lacks(&(run.stdout + &run.stderr), &SECRETS);
    }
    let out = connection.run("COPY (SELECT id, name FROM customers ORDER BY id) TO STDOUT").unwrap().ok().unwrap();
    assert_eq!(out, "1\tAda\n2\tBrook\n3\tCyd\n", "what is not masked passes");
    let out = connection.run("COPY orders TO STDOUT").unwrap().ok().unwrap();
    assert_eq!(out.lines().count(), 20);
}

/// Every other way that we know of to get at a column's value. The member may do anything that SQL can: only the mask stands between.
#[test]
pub(crate) fn no_expression_leaks() {
    let (_postgres, postern) = shop();
    let connection = postern.as_member("dora", &["dba"]).unwrap();
    let statements = [
        "SELECT * FROM customers",
        "TABLE customers",
        "SELECT c.* FROM customers c",
        "SELECT email AS harmless FROM customers",
        "SELECT upper(email) FROM customers",
        "SELECT email || '' FROM customers",
        "SELECT email::text, card::text, birthday::text FROM customers",
        "SELECT customers FROM customers",
        "SELECT c FROM customers c",
        "SELECT (c).email FROM customers c",
        "SELECT row_to_json(c) FROM customers c",
        "SELECT to_jsonb(c) FROM customers c",
        "SELECT json_agg(c) FROM customers c",
        "SELECT c::text FROM customers c",
        "SELECT string_agg(email, ',') FROM customers",
        "SELECT array_agg(email) FROM customers",
        "SELECT min(email), max(card) FROM customers",
        "SELECT first_value(email) OVER () FROM customers",
        "SELECT (SELECT email FROM customers LIMIT 1)",
        "SELECT x FROM (SELECT email AS x FROM customers) y",
        "WITH w AS (SELECT email FROM customers) SELECT * FROM w",
        "WITH w(a) AS MATERIALIZED (SELECT email FROM customers) SELECT a FROM w",
        "SELECT email FROM customers UNION SELECT 'x'",
        "SELECT name FROM customers UNION ALL SELECT email FROM customers",
        "SELECT l.e FROM customers c, LATERAL (SELECT c.email AS e) l",
        "VALUES ((SELECT email FROM customers LIMIT 1))",
        "SELECT * FROM customer_contacts",
        "SELECT address FROM customer_contacts",
        "SELECT CASE WHEN true THEN email END FROM customers",
        "SELECT coalesce(email, '') FROM customers",
        "SELECT ARRAY(SELECT email FROM customers)",
        "SELECT ROW(email, card) FROM customers",
        "SELECT substr(email, 1, 20) FROM customers",
        "SELECT encode(email::bytea, 'base64') FROM customers",
        "SELECT replace(card, '-', '_') FROM customers",
        "UPDATE customers SET name = name RETURNING email, card",
        "UPDATE customers SET name = name RETURNING *",
        "INSERT INTO customers VALUES (9, 'Z', 'z@secret.example') RETURNING email",
        "DELETE FROM customers WHERE id = 9 RETURNING email",
        "BEGIN; DECLARE k CURSOR FOR SELECT email, card FROM customers; FETCH ALL FROM k; COMMIT",
        "PREPARE p AS SELECT email FROM customers; EXECUTE p; DEALLOCATE p",
        "CREATE TEMP TABLE stolen AS SELECT * FROM customers; SELECT * FROM stolen; DROP TABLE stolen",
        "SELECT * INTO TEMP stolen2 FROM customers; SELECT * FROM stolen2",
        "CREATE VIEW v1 AS SELECT email AS e FROM customers; SELECT e FROM v1; DROP VIEW v1",
        "EXPLAIN ANALYZE SELECT * FROM customers WHERE email = 'ada@secret.example'",
        "SELECT * FROM query_to_xml('SELECT email FROM customers', true, true, '')",
        "SELECT table_to_xml('customers', true, true, '')",
        "SELECT most_common_vals FROM pg_stats WHERE tablename = 'customers'",
        "ANALYZE customers; SELECT histogram_bounds::text FROM pg_stats WHERE tablename = 'customers'",
        "SELECT stavalues1::text FROM pg_statistic",
        "DO $$ DECLARE e text; BEGIN SELECT email INTO e FROM customers LIMIT 1; RAISE NOTICE '%', e; END $$",
        "SELECT complain(email) FROM customers",
        "SELECT email::integer FROM customers",
        "SELECT card::date FROM customers",
        "INSERT INTO customers SELECT * FROM customers",
        "COPY (SELECT row_to_json(c) FROM customers c) TO STDOUT",
        "SELECT set_config('application_name', email, false) FROM customers LIMIT 1; SHOW application_name",
        "ALTER TABLE customers RENAME COLUMN email TO mail; SELECT mail FROM customers; ALTER TABLE customers RENAME COLUMN mail TO email",
        "SELECT pg_notify('c', email) FROM customers; LISTEN c",
    ];
    let mut leaks = Vec::new();
    for sql in statements {
        // What the statement itself spells out is echoed by errors and plans, and is no leak.
        let run = connection.psql().option("-c").option(sql).run("").unwrap();
        let said = (run.stdout + &run.stderr).replace(sql, "").replace("'ada@secret.example'", "");
        if SECRETS.iter().any(|secret| said.contains(secret)) {
            leaks.push(format!("{sql}\n  {said}"));
        }
    }
    assert!(leaks.is_empty(), "{} statements leak:\n{}", leaks.len(), leaks.join("\n"));
}

#[test]
fn what_is_not_masked_stays_useful() {
    let (_postgres, postern) = shop();
    let connection = postern.as_member("alice", &["analysts"]).unwrap();
    let out = connection
        .run(
            "SELECT count(*) FROM customers; SELECT upper(name) FROM customers WHERE id = 1; \
              SELECT c.name, o.amount FROM customers c JOIN orders o ON o.customer_id = c.id WHERE o.id = 3;",
        )
        .unwrap()
        .ok()
        .unwrap();
    assert_eq!(out, "3\nADA\nAda|4.50\n");
}

#[test]
fn the_recording_holds_the_masked_value() {
    let (_postgres, postern) = shop();
    let connection = postern.as_member("alice", &["analysts"]).unwrap();
    connection.run("SELECT email, card FROM customers ORDER BY id; COPY customers TO STDOUT; SELECT email::integer FROM customers;").unwrap();
    let session = postern.last_ended_session().unwrap();
    let replay = postern.cli(["sessions", "replay", &session]).unwrap().ok().unwrap();
    assert_has(&replay, &["SELECT email, card FROM customers", "****", "3333"]);
    assert_lacks(&replay, &SECRETS);
    let file = postern.data_dir().join("export.rec");
    postern.cli(["sessions", "export", &session, "-o", file.to_str().unwrap()]).unwrap().ok().unwrap();
    let strings = run(
        {
            let mut grep = Command::new("grep");
            grep.args(["-c", "-a", "secret.example"]).arg(&file);
            grep
        },
        "",
        Duration::from_secs(10),
    )
    .unwrap();
    assert_eq!(strings.stdout.trim(), "0");
    assert_lacks(&postern.log(), &SECRETS);
}
