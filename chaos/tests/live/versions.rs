//! PostgreSQL 16, 17 and 18 as targets. All other tests have the 15 of Debian; here the stories that a server has a part in are told again with each of the
//! others, and what is new in each is tried: by whom everything is granted to, who must see no difference, and by whom columns are masked for, who must see none of them.

use std::time::Duration;

use postern_chaos::live::{Connection, INSTALLED, PsqlOutput, Role, asked_version, run, with_version};

use crate::everything::same;
use crate::{assert_denied, assert_has, assert_lacks, shop};

/// The stories of other modules, with a server of each version. What one version has in common with the next is told of one: it is minutes otherwise, and
/// `make suites SUITE=live VERSION=17` tells all of them.
macro_rules! told_again {
    ($($version:ident = $number:literal { $($test:ident: $story:path,)* })*) => {
        $(mod $version {
            $(#[test]
            fn $test() {
                postern_chaos::live::with_version($number, $story);
            })*
        })*

        /// None of those that are installed was forgotten.
        #[test]
        fn every_installed_version_is_told_of() {
            assert_eq!(INSTALLED, [$($number),*]);
        }
    };
}

told_again! {
    postgres_16 = 16 {
        logins: crate::target::every_authentication_and_tls_mode,
        everything: super::its_own_words_pass,
        masks: super::its_own_words_tell_nothing,
    }
    postgres_17 = 17 {
        tls_first: crate::target::tls_first,
        both_proofs: crate::target::a_certificate_beside_a_password,
        cancelling: crate::passthrough::cancel_reaches_the_target,
        holds: crate::hold::an_approved_operation_runs_once,
        hold_limits: super::the_end_of_a_transaction_is_told,
        estimates: crate::estimates::few_rows_pass_and_many_do_not,
        read_only: crate::obligations::who_may_only_read_writes_nothing,
        classification: crate::classify::the_server_says_the_same,
        everything: super::its_own_words_pass,
        masks: super::its_own_words_tell_nothing,
        labels: crate::mask_rules::columns_are_masked_by_their_labels,
        clients: super::its_own_clients_come_in,
        login_triggers: crate::login_triggers::names_are_the_sessions_own,
        login_doubts: crate::login_triggers::what_is_not_followed_is_denied,
    }
    postgres_18 = 18 {
        logins: crate::target::every_authentication_and_tls_mode,
        certificates: crate::target::a_certificate_in_the_place_of_a_password,
        cancelling: crate::passthrough::cancel_reaches_the_target,
        holds: crate::hold::an_approved_operation_runs_once,
        read_only: crate::obligations::who_may_only_read_writes_nothing,
        writers: crate::obligations::reading_and_writing_policies_go_together,
        evasions: crate::bypass::every_attempt_is_stopped_or_masked,
        classification: crate::classify::the_server_says_the_same,
        everything: super::its_own_words_pass,
        masks: super::its_own_words_tell_nothing,
        typed_masks: crate::mask_rules::masks_keep_types_in_text_and_copy,
        clients: super::its_own_clients_come_in,
        login_triggers: crate::login_triggers::names_are_the_sessions_own,
    }
}

/// With the version that each came with. On older ones it is an error, and the same error.
const WORDS: &[&str] = &[
    // 16
    "SELECT JSON_OBJECT('a' VALUE id, 'b': status) FROM orders ORDER BY id LIMIT 2; SELECT JSON_ARRAY(1, 'x', NULL NULL ON NULL);
     SELECT JSON_ARRAYAGG(id ORDER BY id DESC RETURNING jsonb) FROM orders; SELECT '{}' IS JSON OBJECT, any_value(1);",
    "SELECT 0x1F, 1_000, 0b11, 0o17; SELECT * FROM (SELECT 1 AS a); SELECT system_user IS NULL;",
    "CREATE ROLE r1; GRANT r1 TO CURRENT_USER WITH INHERIT FALSE; CREATE SUBSCRIPTION s CONNECTION '' PUBLICATION p WITH (password_required = false);",
    // 17
    "CREATE TEMP TABLE t (id int PRIMARY KEY, note text);
     MERGE INTO t USING (VALUES (1, 'x'), (2, 'y')) v(id, note) ON t.id = v.id WHEN NOT MATCHED THEN INSERT VALUES (v.id, v.note) RETURNING merge_action(), t.*;
     MERGE INTO t USING (VALUES (1)) v(id) ON t.id = v.id WHEN NOT MATCHED BY SOURCE THEN DELETE RETURNING merge_action(), t.id;
     WITH m AS (MERGE INTO t USING (VALUES (3)) v(id) ON t.id = v.id WHEN NOT MATCHED THEN INSERT VALUES (v.id, 'z') RETURNING t.id) SELECT * FROM m;
     COPY t FROM STDIN (ON_ERROR ignore, LOG_VERBOSITY verbose);\n7\tseven\neight\teight\n\\.\nTABLE t ORDER BY 1;",
    "SELECT * FROM JSON_TABLE('[{\"a\": 1, \"b\": [2, 3]}]', '$[*]' COLUMNS (n FOR ORDINALITY, a int PATH '$.a', NESTED PATH '$.b[*]' COLUMNS (b int PATH '$')));
     SELECT JSON_VALUE('{\"a\": 1}', '$.a' RETURNING int), JSON_QUERY('{\"a\": [1]}', '$.a' WITH WRAPPER), JSON_EXISTS(jsonb '[1]', '$[0]');
     SELECT JSON('{}'), JSON_SCALAR(1), JSON_SERIALIZE('{}' RETURNING text);",
    "SET transaction_timeout = '1s'; SHOW transaction_timeout; RESET transaction_timeout;",
    "CREATE TABLE kept (id int); GRANT MAINTAIN ON kept TO app_md5; SELECT has_table_privilege('app_md5', 'kept', 'MAINTAIN'); DROP TABLE kept;",
    "CREATE FUNCTION noticed() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'; CREATE EVENT TRIGGER t ON login EXECUTE FUNCTION noticed(); DROP FUNCTION noticed;",
    "SELECT '2024-01-01 00:00+00'::timestamptz AT LOCAL IS NOT NULL; SELECT random(1, 1), to_bin(5);",
    // 18
    "CREATE TABLE made (id int, twice int GENERATED ALWAYS AS (id * 2) VIRTUAL); INSERT INTO made VALUES (1) RETURNING old.id, new.id, twice;
     UPDATE made SET id = 2 RETURNING WITH (OLD AS o, NEW AS n) o.id, n.id, o.*; DELETE FROM made RETURNING old.id, new.id;
     ALTER TABLE made ADD CONSTRAINT nn NOT NULL id NOT VALID; ALTER TABLE made ADD CONSTRAINT few CHECK (id < 9) NOT ENFORCED; \\d made\nDROP TABLE made;",
    "CREATE EXTENSION btree_gist; CREATE TABLE stay (id int, at int4range, PRIMARY KEY (id, at WITHOUT OVERLAPS)); INSERT INTO stay VALUES (1, '[1,3)');
     INSERT INTO stay VALUES (1, '[2,4)'); CREATE TABLE visit (id int, at int4range, FOREIGN KEY (id, PERIOD at) REFERENCES stay (id, PERIOD at));
     DROP TABLE visit, stay; DROP EXTENSION btree_gist;",
    "CREATE MATERIALIZED VIEW paid AS SELECT id FROM orders WHERE status = 'paid'; COPY paid TO STDOUT; DROP MATERIALIZED VIEW paid;",
    "SELECT uuid_extract_version(uuidv7()), casefold('X'), array_sort(ARRAY[2, 1]); EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF, BUFFERS OFF) SELECT 1;",
];

fn its_own_words_pass() {
    let (postgres, postern) = shop();
    let through = postern.as_member("dora", &["dba", "privacy"]).unwrap().sslmode("disable");
    let direct = postgres.connection(Role::Scram);
    for script in WORDS {
        same(&direct, &through, None, script);
    }
    crate::everything::whoever_may_do_everything_sees_no_difference();
}

/// What a superuser has made of a masked column.
const MADE: &str = "
    ALTER TABLE customers ADD COLUMN shout text GENERATED ALWAYS AS (upper(email)) STORED;
    CREATE MATERIALIZED VIEW kept AS SELECT id, email AS e FROM customers;
    CREATE VIEW told AS SELECT j.e FROM customers, LATERAL jsonb_to_record(jsonb_build_object('e', email)) AS j(e text);
    GRANT ALL ON kept, told TO PUBLIC;";
const MADE_18: &str = "
    ALTER TABLE customers ADD COLUMN whisper text GENERATED ALWAYS AS (lower(email)) VIRTUAL;
    CREATE VIEW table_of AS SELECT t.e FROM customers, JSON_TABLE(jsonb_build_array(email), '$[*]' COLUMNS (e text PATH '$')) t;
    GRANT ALL ON table_of TO PUBLIC;";

/// Of all that is said, nothing tells an address. Many are denied, or an error of an older server.
const PRYING: &[&str] = &[
    "SELECT * FROM customers",
    "SELECT shout FROM customers",
    "SELECT e FROM kept",
    "SELECT e FROM told",
    "COPY kept TO STDOUT",
    "SELECT any_value(email) FROM customers",
    "SELECT JSON_OBJECT('e': email) FROM customers",
    "SELECT JSON_ARRAY(email) FROM customers",
    "SELECT JSON_ARRAY(SELECT email FROM customers)",
    "SELECT JSON_ARRAYAGG(email) FROM customers",
    "SELECT JSON_OBJECTAGG(id VALUE email) FROM customers",
    "MERGE INTO customers c USING (VALUES (1)) v(id) ON c.id = v.id WHEN MATCHED THEN UPDATE SET name = c.name RETURNING c.email",
    "MERGE INTO customers c USING (VALUES (1)) v(id) ON c.id = v.id WHEN MATCHED THEN UPDATE SET name = c.name RETURNING merge_action(), c.*",
    "MERGE INTO customers c USING (VALUES (1)) v(id) ON c.id = v.id WHEN MATCHED THEN UPDATE SET name = c.email RETURNING c.name",
    "WITH m AS (MERGE INTO customers c USING (VALUES (1)) v(id) ON c.id = v.id WHEN MATCHED THEN UPDATE SET name = c.name RETURNING c.email AS x) SELECT x || '' FROM m",
    "MERGE INTO notes n USING customers c ON n.id = c.id WHEN NOT MATCHED THEN INSERT (body) VALUES (c.email) RETURNING n.body",
    "SELECT t.e FROM customers, JSON_TABLE(jsonb_build_array(email), '$[*]' COLUMNS (e text PATH '$')) t",
    "SELECT t.* FROM customers c, JSON_TABLE(to_jsonb(c), '$' COLUMNS (e text PATH '$.email')) t",
    "SELECT t.e FROM customers, JSON_TABLE('[1]', '$[*]' PASSING email AS x COLUMNS (e text PATH '$x')) t",
    "SELECT JSON_VALUE(to_jsonb(customers), '$.email') FROM customers",
    "SELECT JSON_VALUE('1', '$x' PASSING email AS x) FROM customers",
    "SELECT JSON_QUERY(to_jsonb(customers), '$') FROM customers",
    "SELECT JSON_SCALAR(email), JSON_SERIALIZE(to_jsonb(email)) FROM customers",
    "SELECT JSON_VALUE('{}', '$.a' DEFAULT email ON EMPTY) FROM customers",
    "SELECT xmltext(email) FROM customers",
    "UPDATE customers SET name = name RETURNING old.email, new.email",
    "UPDATE customers SET name = name RETURNING old, new",
    "UPDATE customers SET name = name RETURNING old.*, upper(new.email)",
    "UPDATE customers SET name = name RETURNING row_to_json(old)",
    "UPDATE customers SET name = name RETURNING WITH (OLD AS o, NEW AS excluded) o.email, excluded.email",
    "INSERT INTO customers (id, name) VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET name = excluded.name RETURNING old.email, new.email",
    "INSERT INTO customers (id, name) VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET name = excluded.name RETURNING WITH (OLD AS excluded) excluded.email",
    "BEGIN; DELETE FROM customers WHERE id = 3 RETURNING old.email, old; ROLLBACK",
    "SELECT whisper, whisper || '' FROM customers",
    "SELECT e FROM table_of",
    "SELECT casefold(email), reverse(email::bytea) FROM customers",
    "ALTER TABLE customers ADD CONSTRAINT short CHECK (email IS NULL OR length(email) < 3) NOT VALID; ALTER TABLE customers VALIDATE CONSTRAINT short",
    "COPY customers TO STDOUT (FORMAT csv, FORCE_QUOTE *)",
    "COPY (SELECT email FROM customers) TO STDOUT",
];

fn its_own_words_tell_nothing() {
    let (postgres, postern) = shop();
    postgres.sql("shop", MADE).unwrap();
    if asked_version() >= Some(18) {
        postgres.sql("shop", MADE_18).unwrap();
    }
    let connection = postern.as_member("dora", &["dba"]).unwrap();
    let mut shown = 0;
    for sql in PRYING {
        let told = connection.run(sql).unwrap();
        for out in [&told.stdout, &told.stderr] {
            let out = out.to_lowercase();
            assert!(!out.contains("secret.example") && !out.contains("elpmaxe.terces"), "{sql}: {out}");
            assert!(
                !out.contains(&"secret.example".bytes().map(|b| format!("{b:02x}")).collect::<String>()),
                "{sql}: {out}"
            );
        }
        shown += usize::from(told.status.success());
    }
    // What is masked is shown as such, and not only denied.
    assert!(shown >= 5, "{shown}");
    assert_has(&connection.run("SELECT * FROM customers WHERE id = 1").unwrap().ok().unwrap(), &["****"]);
    if asked_version() >= Some(18) {
        let returned =
            connection.run("UPDATE customers SET name = name WHERE id = 1 RETURNING old.name, new.name, old.email");
        assert_lacks(&returned.unwrap().stdout, &["secret"]);
    }
    // And nothing of it was left where it is not masked.
    assert_eq!(postgres.sql("shop", "SELECT count(*) FROM notes WHERE body LIKE '%secret%'").unwrap(), "0");
    assert_eq!(postgres.sql("shop", "SELECT count(*) FROM customers WHERE name LIKE '%secret%'").unwrap(), "0");
}

/// `transaction_timeout` ends what waits in a transaction, and the reviewer knows when.
fn the_end_of_a_transaction_is_told() {
    let (postgres, postern) = shop();
    postgres.sql("shop", "ALTER DATABASE shop SET transaction_timeout = '5s'").unwrap();
    let connection = postern.as_member("robot-1", &["robots"]).unwrap();
    let reviewer = postern.token("rita", &["reviewers"]).unwrap();
    let mut held = crate::hold::hold(&postern, &connection, "BEGIN;;DELETE FROM orders WHERE id = 7");
    let shown = postern.cli_as(&reviewer, ["approvals", "show", &held.approval]).unwrap().ok().unwrap();
    assert_has(&shown, &["Ends", "(transaction_timeout)"]);
    held.psql.wait(Duration::from_secs(20)).unwrap();
    assert_has(&held.psql.stderr(), &["is withdrawn: the target ended the session by transaction_timeout", "25P04"]);
    assert_eq!(postgres.sql("shop", "SELECT count(*) FROM orders").unwrap(), "20");
}

/// psql with the libpq of this version, before a server of this version.
fn its_own_clients_come_in() {
    let version = asked_version().unwrap();
    let (postgres, postern) = shop();
    let connection = postern.as_member("dora", &["dba", "privacy"]).unwrap();
    let psql = |connection: &Connection, settings: &str, script: &str| -> PsqlOutput {
        let mut psql = connection.client_by(version, "psql").unwrap();
        let told = format!("{settings} user={} dbname=shop", connection.user);
        psql.args(["-X", "-q", "-A", "-t", "-v", "VERBOSITY=verbose", "-d", &told]);
        run(psql, script, Duration::from_secs(60)).unwrap()
    };
    let newest = if version >= 18 { " min_protocol_version=3.2 max_protocol_version=latest" } else { "" };
    for settings in [
        "sslmode=disable",
        "sslmode=require",
        "sslmode=require sslnegotiation=direct",
        "sslmode=require channel_binding=disable",
    ] {
        let out = psql(&connection, &format!("{settings}{newest}"), "SELECT count(*) FROM orders;\n\\conninfo\n")
            .ok()
            .unwrap();
        assert_has(&out, &["20\n"]);
        assert_eq!(out.contains("SSL"), settings != "sslmode=disable", "{settings}: {out}");
    }
    // Who asks for a proof of the password gets none: a token is shown, not known.
    let refused = psql(&connection, "sslmode=require channel_binding=require", "SELECT 1").fails().unwrap();
    assert_has(&refused, &["channel binding"]);
    let refused = psql(&connection, "sslmode=require require_auth=scram-sha-256", "SELECT 1").fails().unwrap();
    assert_has(&refused, &["scram-sha-256"]);

    // Cancelling, with the keys of the newest protocol: of psql itself, and of the server past all of Postern.
    let own = postgres.connection(Role::Scram);
    for (connection, settings) in [(&connection, "sslmode=require"), (&own, "sslmode=disable")] {
        let mut sleeper = connection.client_by(version, "timeout").unwrap();
        let told = format!("{settings}{newest} user={} dbname=shop", connection.user);
        sleeper.args([
            "--signal=INT",
            "--kill-after=20",
            "--preserve-status",
            "2",
            "psql",
            "-X",
            "-v",
            "VERBOSITY=verbose",
            "-d",
            &told,
        ]);
        sleeper.args(["-c", "SELECT pg_sleep(60)"]);
        let cancelled = run(sleeper, "", Duration::from_secs(40)).unwrap();
        assert_has(&cancelled.stderr, &["57014"]);
    }
    // The driver that Debian has, with this libpq.
    let mut python = connection.client_by(version, "/usr/bin/python3").unwrap();
    python.env("PSYCOPG_IMPL", "python").args(["-c", DRIVER, &version.to_string()]);
    run(python, "", Duration::from_secs(60)).unwrap().ok().unwrap();
    // Policy is as it is for every other client.
    let analyst = postern.as_member("alice", &["analysts"]).unwrap();
    assert_denied(&psql(&analyst, "sslmode=require", "SELECT * FROM payroll").stderr);
}

const DRIVER: &str = "
import psycopg, sys
assert psycopg.pq.version() // 10000 == int(sys.argv[1]), psycopg.pq.version()
with psycopg.connect('') as db, db.pipeline():
    one = db.execute('SELECT count(*) FROM orders WHERE id > %s', [0])
    two = db.execute('SELECT id, amount, status FROM orders ORDER BY id', binary=True)
    assert one.fetchone() == (20,)
    assert len(two.fetchall()) == 20
    with db.transaction():
        db.execute('INSERT INTO notes (body) VALUES (%s)', ['x'])
with psycopg.connect('') as db:
    assert db.execute('SELECT count(*) FROM notes').fetchone() == (1,)
    with db.cursor().copy('COPY orders TO STDOUT (FORMAT binary)') as rows:
        assert sum(len(part) for part in rows) > 400
";

/// A version that is not installed is an error that says how to get it.
#[test]
fn a_version_that_is_not_there_is_said_to_be_missing() {
    let missing = with_version(9, || postern_chaos::live::Postgres::start(Default::default())).unwrap_err();
    assert_has(&format!("{missing:#}"), &["PostgreSQL 9 is not at", "scripts/bootstrap.sh test"]);
}
