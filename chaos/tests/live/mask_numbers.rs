//! I4: hashes, digits and buckets of `numeric` and `money`, in both formats. The server itself reads what the masks have made of its values.

use futures::{SinkExt as _, TryStreamExt as _};
use postern_chaos::live::{Connection, Postgres, Role};
use tokio_postgres::Client;

use crate::shop;

const RULES: &str = r#"
apiVersion: postern/v1
kind: MaskingRule
metadata: {name: sums-digits}
spec: {targets: {names: ["*"]}, columns: ["public.sums.n*", public.sums.cash], mask: digits, exemptGroups: [privacy]}
---
apiVersion: postern/v1
kind: MaskingRule
metadata: {name: sums-purse}
spec: {targets: {names: ["*"]}, columns: [public.sums.purse, public.sums.p_n], mask: {bucket: {width: 1000}}, exemptGroups: [privacy]}
"#;

const SUMS: &str = "
CREATE TABLE sums (id int PRIMARY KEY, n numeric, n_wide numeric(30, 10), n_small numeric(4, 6), n_round numeric(12, 2), cash money, purse money, p_n numeric(12, 2));
INSERT INTO sums VALUES
    (1, 1234567.89, 12345678901234567890.0123456789, 0.001234, 9999999999.99, '1234567.89', '71789.50', 71789.50),
    (2, -1234567.89, -0.0000123456, -0.009999, -1000000000.00, '-7654321.01', '-1.00', -1.00),
    (3, 'NaN', 7, 0.000001, 1000, '0.07', '999.99', 999.99),
    (4, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
    (5, '-Infinity', 99999999999999999999.9999999999, 0.009999, 12345678.90, '92233720368547758.07', '0', 0),
    (6, 1e40, 100000, 0, 0, '-92233720368547758.08', '-92233720368547758.08', -0.01),
    (7, 1234567.89, 0.0000000001, 0.000010, 100000.01, '1234567.89', '92233720368547758.07', 1e9);
CREATE TABLE back (LIKE sums);
CREATE TABLE back_text (LIKE sums);
GRANT ALL ON sums, back, back_text TO app, app_md5, app_clear;
";

/// As the masks make of SUMS, where a `0` is whatever digit.
const EXPECTED: [&str; 7] = [
    "1|0000000.00|00000000000000000000.0000000000|0.000000|0000000000.00|$0,000,000.00|$71,000.00|71000.00",
    "2|-0000000.00|-0.0000000000|0.000000|-0000000000.00|-$0,000,000.00|-$1000.00|-1000.00",
    "3||0.0000000000|0.000000|0000.00|$0.00|$0.00|0.00",
    "4|||||||",
    "5||00000000000000000000.0000000000|0.000000|00000000.00|$00,000,000,000,000,000.00|$0.00|0.00",
    "6|00000000000000000000000000000000000000000|000000.0000000000|0.000000|0.00|-$00,000,000,000,000,000.00||-1000.00",
    "7|0000000.00|0.0000000000|0.000000|000000.00|$0,000,000.00|$92,233,720,368,547,000.00|1000000000.00",
];

async fn client(connection: &Connection) -> Client {
    let mut config: tokio_postgres::Config =
        connection.string().replace("sslmode=prefer", "sslmode=disable").parse().unwrap();
    config.password(&connection.password);
    let (client, link) = config.connect(tokio_postgres::NoTls).await.unwrap();
    tokio::runtime::Handle::current().spawn(link);
    client
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn numbers_become_others_of_their_type() {
    let (postgres, postern) = shop();
    postgres.sql("shop", SUMS).unwrap();
    postern.apply(RULES).unwrap();
    let connection = postern.as_member("dora", &["dba"]).unwrap();
    let masked = connection.run("SELECT * FROM sums ORDER BY id").unwrap().ok().unwrap();
    // Only what is masked by digits: the rest is known to the digit.
    let shape = |line: &str| {
        let fields = line.split('|').enumerate().map(|(place, field)| match place {
            1..=5 => field.replace(|c: char| c.is_ascii_digit(), "0"),
            _ => field.to_owned(),
        });
        fields.collect::<Vec<_>>().join("|")
    };
    assert_eq!(masked.lines().map(shape).collect::<Vec<_>>(), EXPECTED, "{masked}");
    let rows: Vec<Vec<&str>> = masked.lines().map(|line| line.split('|').collect()).collect();
    for secret in ["1234567", "1,234,567", "7,654,321", "12345678", "001234", "009999"] {
        assert!(!masked.contains(secret), "{secret} in {masked}");
    }
    assert_eq!((rows[0][1], rows[0][5]), (rows[6][1], rows[6][5]), "equal stays equal");
    assert_eq!(rows[1][1].strip_prefix('-'), Some(rows[0][1]));
    // What has become longer has no separator to go by.
    let told = masked.trim().replace("-$1000.00", "-$1,000.00");
    the_server_reads_the_same(&connection, &postgres, "sums", &told).await;
}

const HASHED: &str = r#"
apiVersion: postern/v1
kind: MaskingRule
metadata: {name: owed-hash}
spec: {targets: {names: ["*"]}, columns: ["public.owed.m*"], mask: hash, exemptGroups: [privacy]}
"#;

const OWED: &str = "
CREATE TABLE owed (id int PRIMARY KEY, m_n numeric, m_few numeric(6, 2), m_cash money);
INSERT INTO owed VALUES (1, 1.5, 1.50, '$1,234.56'), (2, 1.500, -1.5, '-$1,234.56'), (3, 'NaN', 1000, '$9,876.54'), (4, NULL, NULL, NULL),
    (5, -1.5, 1.5, '92233720368547758.07'), (6, 1e40, 0, '$1,234.56'), (7, 'Infinity', 0.00, '-92233720368547758.08');
CREATE TABLE back (id int, m_n numeric, m_few numeric, m_cash money);
CREATE TABLE back_text (LIKE back);
GRANT ALL ON owed, back, back_text TO app, app_md5, app_clear;
";

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn equal_numbers_have_equal_hashes_of_their_type() {
    let (postgres, postern) = shop();
    postgres.sql("shop", OWED).unwrap();
    postern.apply(HASHED).unwrap();
    let connection = postern.as_member("dora", &["dba"]).unwrap();
    let masked = connection.run("SELECT * FROM owed ORDER BY id").unwrap().ok().unwrap();
    let rows: Vec<Vec<&str>> = masked.lines().map(|line| line.split('|').collect()).collect();
    let of = |row: usize, column: usize| rows[row - 1][column];
    assert!(of(1, 1).len() > 9 && of(1, 1).bytes().all(|byte| byte.is_ascii_digit()), "{masked}");
    for (one, other) in [((1, 1), (2, 1)), ((1, 1), (1, 2)), ((1, 2), (5, 2)), ((6, 2), (7, 2)), ((1, 3), (6, 3))] {
        assert_eq!(of(one.0, one.1), of(other.0, other.1), "equal stays equal: {masked}");
    }
    for (one, other) in [((1, 1), (5, 1)), ((1, 1), (6, 1)), ((1, 3), (2, 3)), ((5, 3), (7, 3))] {
        assert_ne!(of(one.0, one.1), of(other.0, other.1), "what differs goes on to: {masked}");
    }
    assert_eq!((of(3, 1), of(7, 1), of(4, 1), of(4, 2), of(4, 3)), ("", "", "", "", ""));
    assert!(!masked.contains("1234.56") && !masked.contains("1,234.56"), "{masked}");
    the_server_reads_the_same(&connection, &postgres, "owed", masked.trim()).await;
}

/// What the server reads of the masks' binary form is what it reads of their text form, and is what was shown.
async fn the_server_reads_the_same(connection: &Connection, postgres: &Postgres, from: &str, told: &str) {
    let (theirs, ours) = (client(connection).await, client(&postgres.connection(Role::Scram)).await);
    for (table, options) in [("back", "(FORMAT binary)"), ("back_text", "")] {
        let out = theirs.copy_out(&format!("COPY {from} TO STDOUT {options}")).await.unwrap();
        let all: Vec<bytes::Bytes> = out.try_collect().await.unwrap();
        let sink = ours.copy_in(&format!("COPY {table} FROM STDIN {options}")).await.unwrap();
        let mut sink = std::pin::pin!(sink);
        for part in all {
            sink.send(part).await.unwrap();
        }
        sink.finish().await.unwrap();
        assert_eq!(
            postgres.sql("shop", &format!("SELECT * FROM {table} ORDER BY id")).unwrap().trim(),
            told,
            "{table}"
        );
    }
}
