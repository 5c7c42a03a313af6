//! I4: rules of every kind, against a real server, in both formats and in COPY; and every way out that a value could take.

use postern_chaos::live::{Connection, Postern, Postgres};
use tokio_postgres::types::{FromSql, Type};

use crate::{assert_denied, assert_has, assert_lacks, shop};

const RULES: &str = r##"
apiVersion: postern/v1
kind: MaskingRule
metadata: {name: staff-born}
spec: {targets: {names: ["*"]}, columns: [public.staff.born, public.staff.seen, public.staff.at], mask: {truncate: {to: month}}, exemptGroups: [privacy]}
---
apiVersion: postern/v1
kind: MaskingRule
metadata: {name: staff-card}
spec: {targets: {names: ["*"]}, columns: [public.staff.card], mask: {digits: {luhn: true}}, exemptGroups: [privacy]}
---
apiVersion: postern/v1
kind: MaskingRule
metadata: {name: staff-key}
spec: {targets: {names: ["*"]}, columns: [public.staff.key, public.staff.number], mask: hash, exemptGroups: [privacy]}
---
apiVersion: postern/v1
kind: MaskingRule
metadata: {name: staff-mail}
spec: {targets: {names: ["*"]}, columnsMatching: ['(?i)^public\.staff\..*mail$'], mask: {redact: {text: "#"}}, opaque: true, exemptGroups: [privacy]}
---
apiVersion: postern/v1
kind: MaskingRule
metadata: {name: staff-pay}
spec: {targets: {names: ["*"]}, columns: ["public.staff.pay*"], mask: {bucket: {width: 1000}}, exemptGroups: [privacy]}
---
apiVersion: postern/v1
kind: MaskingRule
metadata: {name: types}
spec: {targets: {names: ["*"]}, types: [inet], mask: "null", exemptGroups: [privacy]}
"##;

const STAFF: &str = r"
CREATE DOMAIN address AS inet;
CREATE TABLE staff (
    id int PRIMARY KEY, born date, seen timestamptz, at timestamp, card text, key uuid, number int8, work_mail text UNIQUE,
    pay2 int2, pay4 int4, pay8 int8, pay_n numeric(12, 2), pay_f float4, pay_d float8, ip inet, ips inet[], ad address
);
INSERT INTO staff VALUES
    (1, '1815-12-10', '2024-07-01 01:30:00+02', '2024-07-31 23:59:59.5', '4111-1111-1111-1111', '00112233-4455-6677-8899-aabbccddeeff', 4242424242,
     'ada@secret.example', 1789, 71789, 61789, 51789.55, 4178.5, 31789.5, '198.51.100.77', '{198.51.100.77}', '198.51.100.77'),
    (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
    (3, '0044-03-15 BC', 'infinity', '-infinity', 'none', NULL, -1, 'cyd@secret.example', -1, -1, -1, -0.01, -1, 'NaN', '::1', '{}', '::1');
GRANT ALL ON staff TO app, app_md5, app_clear;
";

/// Of the first row: every column in the table's order.
const FIRST: [&str; 14] = [
    "1",
    "1815-12-01",
    "2024-06-01 00:00:00+00",
    "2024-07-01 00:00:00",
    "CARD",
    "KEY",
    "NUMBER",
    "#",
    "1000",
    "71000",
    "61000",
    "51000.00",
    "4000",
    "31000",
];

const VALUES: [&str; 14] = [
    "12-10",
    "01:30",
    "23:30",
    "59:59",
    "1111-1111",
    "00112233",
    "4242424242",
    "secret.example",
    "1789",
    "51789",
    "4178",
    "198.51",
    "c0a8",
    "::1",
];

fn staff() -> (Postgres, Postern, Connection) {
    let (postgres, postern) = shop();
    postgres.sql("shop", STAFF).unwrap();
    postern.apply(RULES).unwrap();
    let connection = postern.as_member("dora", &["dba"]).unwrap();
    (postgres, postern, connection)
}

fn passes_luhn(card: &str) -> bool {
    let digits = card.bytes().filter(u8::is_ascii_digit).rev().map(|digit| u32::from(digit - b'0'));
    let sum: u32 = digits.enumerate().map(|(n, d)| if n % 2 == 0 { d } else { d * 2 / 10 + d * 2 % 10 }).sum();
    sum.is_multiple_of(10)
}

#[test]
pub(crate) fn masks_keep_types_in_text_and_copy() {
    let (_postgres, postern, connection) = staff();
    let out = connection.run("SET TimeZone = 'Europe/Berlin'; SELECT * FROM staff WHERE id = 1").unwrap().ok().unwrap();
    let row: Vec<&str> = out.trim_end().rsplit('\n').next().unwrap().split('|').collect();
    for (place, (got, expected)) in row.iter().zip(FIRST).enumerate() {
        match expected {
            "CARD" => assert!(got.len() == 19 && passes_luhn(got) && got.as_bytes()[4] == b'-', "{got}"),
            "KEY" => assert!(got.len() == 36 && got.as_bytes()[14] == b'8', "{got}"),
            "NUMBER" => assert!(got.parse::<i64>().is_ok(), "{got}"),
            expected => assert_eq!(*got, expected, "column {place}"),
        }
    }
    assert_eq!(row[14..], ["", "", ""], "all of the type, and what is made of it");
    assert_lacks(&out, &VALUES);
    let again = connection.run("SELECT card, key, number FROM staff WHERE id = 1").unwrap().ok().unwrap();
    assert_eq!(again.trim_end(), format!("{}|{}|{}", row[4], row[5], row[6]), "stable");

    let copied = connection.run("COPY (SELECT * FROM staff WHERE id = 1) TO STDOUT").unwrap().ok().unwrap();
    assert_lacks(&copied, &VALUES);
    let copied = connection.run("COPY staff TO STDOUT").unwrap().ok().unwrap();
    let first = copied.lines().next().unwrap();
    assert_eq!(first.split('\t').take(14).collect::<Vec<_>>(), row[..14], "{copied}");
    assert_lacks(&copied, &VALUES);
    let csv = connection.run("COPY staff TO STDOUT (FORMAT csv, FORCE_QUOTE *)").unwrap();
    assert_lacks(&(csv.stdout + &csv.stderr), &VALUES);
    let odd =
        connection.run("SELECT born, seen, at, pay2, pay_n, pay_d FROM staff WHERE id = 3").unwrap().ok().unwrap();
    assert_eq!(odd.trim_end(), "0044-03-01 BC|||-1000|-1000.00|");
    // Other styles of dates are not guessed at.
    let german =
        connection.run("SET DateStyle = 'German'; SELECT born, seen FROM staff WHERE id = 1").unwrap().ok().unwrap();
    assert_eq!(german.trim_end().rsplit('\n').next().unwrap(), "|");
    let clear =
        postern.as_member("pat", &["dba", "privacy"]).unwrap().run("SELECT * FROM staff").unwrap().ok().unwrap();
    assert_has(&clear, &["1815-12-10", "4111-1111-1111-1111", "198.51.100.77"]);
}

/// The bytes of a value, whatever its type.
struct Raw(Vec<u8>);

impl<'a> FromSql<'a> for Raw {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(raw.to_vec()))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn masks_keep_types_in_the_binary_format() {
    let (_postgres, _postern, connection) = staff();
    let text = connection.run("SELECT card, key, number FROM staff WHERE id = 1").unwrap().ok().unwrap();
    let text: Vec<&str> = text.trim_end().split('|').collect();
    let mut config: tokio_postgres::Config =
        connection.string().replace("sslmode=prefer", "sslmode=disable").parse().unwrap();
    config.password(&connection.password);
    let (client, link) = config.connect(tokio_postgres::NoTls).await.unwrap();
    tokio::runtime::Handle::current().spawn(link);
    let rows = client.query("SELECT * FROM staff ORDER BY id", &[]).await.unwrap();
    let bytes = |row: usize, column: &str| rows[row].get::<_, Option<Raw>>(column).map(|raw| raw.0);
    // Days since 2000-01-01, and microseconds.
    assert_eq!(bytes(0, "born"), Some((-67_236_i32).to_be_bytes().to_vec()));
    assert_eq!(bytes(0, "seen"), Some((8_918_i64 * 86_400_000_000).to_be_bytes().to_vec()));
    assert_eq!(bytes(0, "at"), Some((8_948_i64 * 86_400_000_000).to_be_bytes().to_vec()));
    assert_eq!(rows[0].get::<_, String>("card"), text[0]);
    let key: String = bytes(0, "key").unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(key, text[1].replace('-', ""));
    assert_eq!(rows[0].get::<_, i64>("number").to_string(), text[2]);
    assert_eq!(rows[0].get::<_, &str>("work_mail"), "#");
    assert_eq!(
        (rows[0].get::<_, i16>("pay2"), rows[0].get::<_, i32>("pay4"), rows[0].get::<_, i64>("pay8")),
        (1_000, 71_000, 61_000)
    );
    assert_eq!((rows[0].get::<_, f32>("pay_f"), rows[0].get::<_, f64>("pay_d")), (4_000.0, 31_000.0));
    // Two groups of four digits, positive, with two digits after the point.
    assert_eq!(bytes(0, "pay_n"), Some(vec![0, 2, 0, 1, 0, 0, 0, 2, 0, 5, 3, 232]));
    for column in ["ip", "ips", "ad"] {
        assert_eq!(bytes(0, column), None);
    }
    assert_eq!((bytes(2, "seen"), bytes(2, "at"), bytes(2, "pay_d")), (None, None, None));
    let nulls = (1..rows[1].len()).all(|column| rows[1].get::<_, Option<Raw>>(column).is_none());
    assert!(nulls, "NULL stays NULL");
}

#[test]
fn opaque_columns_are_used_for_nothing() {
    let (_postgres, _postern, connection) = staff();
    for sql in [
        "SELECT count(*) FROM staff WHERE work_mail LIKE 'a%'",
        "SELECT id FROM staff ORDER BY work_mail",
        "SELECT DISTINCT work_mail FROM staff",
        "EXPLAIN SELECT id FROM staff WHERE work_mail = 'ada@secret.example'",
        "UPDATE staff SET pay2 = 0 WHERE work_mail = 'ada@secret.example'",
    ] {
        let run = connection.run(sql).unwrap();
        assert_denied(&run.stderr);
        assert_has(&run.stderr, &["public.staff.work_mail"]);
    }
    let out =
        connection.run("SELECT work_mail FROM staff WHERE id = 1; SELECT count(*) FROM staff").unwrap().ok().unwrap();
    assert_eq!(out, "#\n3\n");
}

const DETECT: &str = r#"
apiVersion: postern/v1
kind: MaskingRule
metadata: {name: detect}
spec:
  targets: {names: ["*"]}
  detect: [credit-card, iban, email, phone, national-id, jwt, private-key, cloud-key]
  mask: {redact: {text: "[hidden]"}}
  exemptGroups: [privacy]
"#;

const PLANTED: [&str; 7] = [
    "planted@secret.example",
    "4111111111111111",
    "DE89370400440532013000",
    "eyJhbGciOiJIUzI1NiJ9",
    "415-555-2671",
    "078-05-1120",
    "706c616e746564",
];

#[test]
fn values_are_found_wherever_they_stand() {
    let (postgres, postern) = shop();
    let planted = "planted@secret.example 4111111111111111 DE89370400440532013000 eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln 415-555-2671 078-05-1120";
    let sql = format!(
        "CREATE TABLE letters (id int, body text, doc jsonb, old json, tags text[], raw bytea, note varchar(200), code char(200), x xml, n numeric);
         INSERT INTO letters VALUES (1, '{planted}', jsonb_build_object('a', '{planted}', 'n', 4111111111111111), json_build_object('a', '{planted}'),
             string_to_array('{planted}', ' '), '{planted}', '{planted}', '{planted}', '<a>{planted}</a>', 1);
         CREATE VIEW seen AS SELECT body AS b FROM letters;
         GRANT ALL ON letters, seen TO app, app_md5, app_clear;"
    );
    postgres.sql("shop", &sql).unwrap();
    postern.apply(DETECT).unwrap();
    let connection = postern.as_member("dora", &["dba"]).unwrap();
    for sql in [
        "SELECT * FROM letters",
        "SELECT body || '!', left(note, 90), doc->>'a', doc->'n', tags[1], to_jsonb(note)::text FROM letters",
        "SELECT ROW(id, body, doc, tags) FROM letters",
        "SELECT b FROM seen UNION SELECT note FROM letters",
        "SELECT array_agg(body), json_agg(doc), string_agg(note, ',') FROM letters",
        "COPY letters TO STDOUT",
        "COPY letters TO STDOUT (FORMAT csv)",
        "COPY letters TO STDOUT (FORMAT binary)",
        "COPY (SELECT * FROM letters) TO STDOUT",
        "COPY (SELECT body, raw, doc FROM letters) TO STDOUT (FORMAT csv, HEADER)",
        "COPY (SELECT body, raw, doc FROM letters) TO STDOUT (FORMAT binary)",
        "UPDATE letters SET id = id RETURNING *",
        "BEGIN; DECLARE c CURSOR FOR SELECT * FROM letters; FETCH ALL FROM c; COMMIT",
        "PREPARE p AS SELECT body, doc FROM letters; EXECUTE p",
        "SELECT body::integer FROM letters",
        "SELECT raw::text, encode(raw, 'escape') FROM letters",
        "DO $$ DECLARE e text; BEGIN SELECT body INTO e FROM letters; RAISE NOTICE '%', e; END $$",
        "SELECT complain(body) FROM letters",
        "CREATE TEMP TABLE mine AS SELECT * FROM letters; SELECT * FROM mine; COPY mine TO STDOUT",
        "ANALYZE letters; SELECT most_common_vals, histogram_bounds FROM pg_stats WHERE tablename = 'letters'",
        "LISTEN c; SELECT pg_notify('c', body) FROM letters",
    ] {
        let run = connection.run(sql).unwrap();
        assert_lacks(
            &(run.stdout + &run.stderr).to_lowercase(),
            &PLANTED.map(str::to_lowercase).each_ref().map(String::as_str),
        );
    }
    let out = connection
        .run("SELECT body FROM letters; SELECT doc FROM letters; SELECT n, id FROM letters")
        .unwrap()
        .ok()
        .unwrap();
    let all = "[hidden] [hidden] [hidden] [hidden] [hidden] [hidden]";
    assert_eq!(out, format!("{all}\n{{\"a\": \"{all}\", \"n\": \"[hidden]\"}}\n1|1\n"));
    // Longer than what passes in pieces.
    let long = connection.run("SELECT repeat('x', 3000000) || ' ' || body FROM letters").unwrap().ok().unwrap();
    assert!(long.len() > 3_000_000, "{}", long.len());
    assert_lacks(&long, &PLANTED);
    let clear =
        postern.as_member("pat", &["dba", "privacy"]).unwrap().run("SELECT body FROM letters").unwrap().ok().unwrap();
    assert_has(&clear, &PLANTED[..6]);
}

/// Of a masked column, every way out that we know of beside rows: what came to the client, the recording and the gateway's log hold none of it.
#[test]
fn nothing_beside_rows_tells_a_value() {
    const SECRETS: [&str; 4] = ["grace@secret.example", "zz-planted-zz", "Z2Vhbm", "7a7a2d706c616e746564"];
    let (postgres, postern) = shop();
    let sql = r"
        CREATE TABLE vault (id int PRIMARY KEY, pin text UNIQUE, mail text, CONSTRAINT long CHECK (length(pin) < 90), EXCLUDE USING hash (mail WITH =));
        CREATE TABLE parts (pin text) PARTITION BY LIST (pin);
        INSERT INTO vault SELECT n, 'zz-planted-zz' || n, 'grace@secret.example' || n FROM generate_series(1, 200) n;
        CREATE INDEX ON vault (mail);
        CREATE STATISTICS both_of (mcv, dependencies) ON pin, mail FROM vault;
        ANALYZE vault;
        CREATE TABLE log_of (what text);
        CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'old %', OLD.pin; RAISE EXCEPTION 'new %', NEW.pin; END $$;
        CREATE TABLE loud (id int, pin text);
        INSERT INTO loud VALUES (1, 'zz-planted-zz');
        CREATE TRIGGER shout BEFORE UPDATE ON loud FOR EACH ROW EXECUTE FUNCTION shout();
        CREATE FUNCTION whisper() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            RAISE unique_violation USING MESSAGE = 'there is ' || (SELECT pin FROM loud LIMIT 1); END $$;
        CREATE TRIGGER whisper BEFORE INSERT ON loud FOR EACH ROW EXECUTE FUNCTION whisper();
        GRANT ALL ON ALL TABLES IN SCHEMA public TO app, app_md5, app_clear;";
    postgres.sql("shop", sql).unwrap();
    postern
        .apply(
            "apiVersion: postern/v1\nkind: MaskingRule\nmetadata: {name: vault}\nspec:\n  targets: {names: ['*']}\n  \
             columns: [public.vault.pin, public.vault.mail, public.loud.pin, public.parts.pin]\n  mask: {redact: {text: '#'}}\n",
        )
        .unwrap();
    let connection = postern.as_member("dora", &["dba"]).unwrap();
    for sql in [
        "EXPLAIN SELECT * FROM vault WHERE pin > 'a' ORDER BY mail",
        "EXPLAIN (ANALYZE, VERBOSE, BUFFERS) SELECT pin, mail FROM vault WHERE mail LIKE '%1'",
        "EXPLAIN (ANALYZE, FORMAT json) SELECT v.pin FROM vault v JOIN vault w ON v.pin = w.pin",
        "SELECT histogram_bounds::text, most_common_vals::text FROM pg_stats WHERE tablename = 'vault'",
        "SELECT * FROM pg_statistic",
        "SELECT * FROM pg_catalog.pg_stats_ext",
        "SELECT m.* FROM pg_statistic_ext_data d, pg_mcv_list_items(d.stxdmcv) m",
        "SELECT * FROM pg_stats_ext_exprs",
        "INSERT INTO vault SELECT 1000, pin FROM vault WHERE id = 1",
        "UPDATE vault SET id = 2 WHERE id = 1",
        "UPDATE vault SET pin = (SELECT pin FROM vault WHERE id = 2) WHERE id = 1",
        "UPDATE vault SET id = NULL WHERE id = 1",
        "UPDATE vault SET pin = repeat(pin, 9) WHERE id = 1",
        "INSERT INTO parts SELECT pin FROM vault",
        "UPDATE loud SET id = 2",
        "INSERT INTO loud VALUES (2, 'x')",
        "SELECT pin::integer FROM vault",
        "SELECT pin::date, mail::uuid, mail::json, mail::inet FROM vault",
        "SELECT (pin || '')::numeric FROM vault",
        "SELECT 1 FROM vault WHERE pin::integer = 1",
        "SELECT to_number(pin, '9'), to_date(mail, 'YYYY') FROM vault",
        "SELECT ('{' || pin)::int[] FROM vault",
        "SELECT jsonb_path_query(to_jsonb(v), '$.mail') FROM vault v",
        "SELECT convert_from(decode(pin, 'hex'), 'UTF8') FROM vault",
        "SELECT xmlparse(DOCUMENT pin) FROM vault",
        "SELECT mail ~ '(' FROM vault",
        "DO $$ BEGIN RAISE NOTICE '%', (SELECT pin FROM vault LIMIT 1); END $$",
        "DO $$ BEGIN RAISE EXCEPTION '%', (SELECT mail FROM vault LIMIT 1) USING DETAIL = 'd', HINT = (SELECT pin FROM vault LIMIT 1); END $$",
        "SELECT complain(pin) FROM vault",
        "LISTEN c; SELECT pg_notify('c', pin) FROM vault; NOTIFY c, 'x'",
        "UPDATE vault SET mail = mail RETURNING pin, mail, vault",
        "DELETE FROM vault WHERE id = 7 RETURNING *",
        "INSERT INTO vault VALUES (8, 'a') ON CONFLICT (id) DO UPDATE SET id = 8 RETURNING *",
        "COPY vault TO STDOUT",
        "COPY vault (pin) TO STDOUT (FORMAT binary)",
        "BEGIN; DECLARE k SCROLL CURSOR FOR SELECT * FROM vault; FETCH 3 FROM k; MOVE 1 FROM k; FETCH BACKWARD 2 FROM k; COMMIT",
        "PREPARE p(int) AS SELECT * FROM vault WHERE id = $1; EXECUTE p(3)",
        "SELECT set_config('x.y', pin, false) FROM vault; SHOW x.y",
        "INSERT INTO log_of SELECT pin FROM vault; SELECT * FROM log_of",
        "SELECT lo_from_bytea(0, pin::bytea) FROM vault LIMIT 1",
        "SELECT pg_advisory_lock(hashtext(pin)), query FROM vault, pg_stat_activity",
        "SELECT nextval(pin) FROM vault",
        "SELECT pin::regclass FROM vault",
        "SELECT has_table_privilege(pin, 'select') FROM vault",
        "SELECT 1 / (length(pin) - length(pin)) FROM vault",
        "COMMENT ON TABLE vault IS 'x'; SELECT pin FROM vault TABLESAMPLE SYSTEM (100) REPEATABLE (1)",
    ] {
        let run = connection.run(sql).unwrap();
        let said = run.stdout + &run.stderr;
        assert!(SECRETS.iter().all(|secret| !said.contains(secret)), "{sql}\n{said}");
    }
    // Each of these was a session of its own: all recordings, and the log.
    postern.last_ended_session().unwrap();
    let sessions = postern.sessions().unwrap();
    assert!(sessions.len() > 40, "{}", sessions.len());
    for session in &sessions {
        let replay = postern.cli(["sessions", "replay", session["id"].as_str().unwrap()]).unwrap();
        assert_lacks(&(replay.stdout + &replay.stderr), &SECRETS);
    }
    assert_lacks(&postern.log(), &SECRETS);
}

const LABELS: &str = r##"
apiVersion: postern/v1
kind: MaskingRule
metadata: {name: labelled}
spec: {targets: {names: ["*"]}, labels: ["^pii$"], mask: {redact: {text: "#"}}, exemptGroups: [privacy]}
"##;

const GUESTS: &str = "
CREATE TABLE guests (id int, mail text, room text);
INSERT INTO guests VALUES (1, 'ada@secret.example', '12');
COMMENT ON COLUMN guests.mail IS 'Where to write. @postern:pii';
CREATE TABLE stays (id int, who text) PARTITION BY LIST (id);
CREATE TABLE stays_1 PARTITION OF stays DEFAULT;
COMMENT ON TABLE stays IS '@postern:pii';
INSERT INTO stays VALUES (1, 'ada@secret.example');
CREATE VIEW letters AS SELECT mail AS m FROM guests;
ALTER TABLE guests OWNER TO app;
GRANT ALL ON guests, stays, stays_1, letters TO app, app_md5, app_clear";

#[test]
pub(crate) fn columns_are_masked_by_their_labels() {
    let (postgres, postern) = shop();
    postgres.sql("shop", GUESTS).unwrap();
    postern.apply(LABELS).unwrap();
    assert_has(&postern.cli(["get", "maskingrule", "labelled", "-o", "yaml"]).unwrap().ok().unwrap(), &["^pii$"]);
    let connection = postern.as_member("dora", &["dba"]).unwrap();
    let ask = |sql: &str| connection.run(sql).unwrap().ok().unwrap();
    assert_eq!(ask("SELECT * FROM guests"), "1|#|12\n");
    for sql in [
        "SELECT upper(mail) FROM guests",
        "SELECT m FROM letters",
        "SELECT who FROM stays",
        "SELECT who FROM stays_1",
        "COPY guests TO STDOUT",
    ] {
        let out = ask(sql);
        assert!(!out.contains("secret") && out.contains('#'), "{sql}: {out}");
    }
    // Whom it masks does not lift it, though the role at the target could.
    for sql in [
        "COMMENT ON COLUMN guests.mail IS NULL",
        "COMMENT ON COLUMN guests.room IS 'x'",
        "COMMENT ON TABLE guests IS ''",
    ] {
        assert_denied(&connection.run(sql).unwrap().stderr);
    }
    // Others do, and it is known at once.
    let exempt = postern.as_member("pat", &["dba", "privacy"]).unwrap();
    assert_has(&exempt.run("SELECT mail FROM guests").unwrap().ok().unwrap(), &["ada@secret.example"]);
    exempt.run("COMMENT ON COLUMN guests.room IS '@postern:pii'").unwrap().ok().unwrap();
    postern_chaos::live::wait_until(std::time::Duration::from_secs(60), "the label", || {
        Ok(connection.run("SELECT room FROM guests")?.ok()? == "#\n")
    })
    .unwrap();
}
