//! To whom everything is granted, and nothing masked, Postern makes no difference; and it makes one as soon as that is no longer so.

use std::time::Duration;

use postern_chaos::live::wire::{PROTOCOL_3, Wire, framed, message};
use postern_chaos::live::{Connection, Role, wait_until};

use crate::{assert_has, assert_lacks, shop};

/// What cannot be classified, or leaves the settings by which texts are read: direct and through, every byte is the same.
const SCRIPTS: &[&str] = &[
    "SELEC 1;\nSELECT 1 +;\nSELECT 'kept';",
    "SELECT * FROM json_table('[1]', '$[*]' COLUMNS (a int PATH '$'));",
    "SET client_encoding = 'SJIS'; SELECT 'x' AS y, length('\\\\'); SHOW client_encoding; RESET client_encoding; SELECT 1;",
    "SET client_encoding = LATIN1; SELECT chr(233); SELECT count(*) FROM orders;",
    "SET standard_conforming_strings = off; SELECT 'a\\'b; --', E'\\x41'; RESET standard_conforming_strings; SELECT 'a\\';",
    "CREATE SCHEMA s CREATE TABLE t (a int) CREATE VIEW v AS SELECT a FROM t; INSERT INTO s.t VALUES (1); SELECT * FROM s.v; DROP SCHEMA s CASCADE;",
    "SELECT set_config('search_path', 'pg_' || 'catalog', false); SELECT count(*) > 0 FROM pg_class; RESET search_path;",
    "DO $$ BEGIN EXECUTE 'CREATE TABLE made (a int)'; END $$; INSERT INTO made VALUES (1), (2); TABLE made; DROP TABLE made;",
    "PREPARE p AS SELECT $1::int + 1; EXECUTE p(1); DEALLOCATE ALL; EXECUTE p(1);",
    "BEGIN; DECLARE c SCROLL CURSOR FOR SELECT id FROM orders ORDER BY id; FETCH 2 FROM c; MOVE BACKWARD 1 FROM c; FETCH c; CLOSE c; FETCH c; COMMIT;",
    "COPY (SELECT 1) TO STDOUT\\; COPY (SELECT 2) TO STDOUT\\; SELECT 3;",
    "CREATE TEMP TABLE t (a int, b text); COPY t FROM STDIN (FORMAT csv, HEADER);\na,b\n1,x\n2,\"y, z\"\n\\.\nCOPY t FROM STDIN;\nno number\n\\.\nTABLE t;",
    "BEGIN; SELECT lo_creat(-1) > 0; SAVEPOINT a; SELECT lo_open(0, 1); ROLLBACK TO a; COMMIT;",
    "\\lo_import /etc/hostname\n\\lo_unlink :LASTOID\n\\lo_unlink :LASTOID",
    "LISTEN a; NOTIFY a, 'x'; UNLISTEN *;",
    "SELECT $1::text \\bind x \\g\nSELECT 1 \\gset\n\\echo :?column?",
];

pub(crate) fn same(direct: &Connection, through: &Connection, options: Option<&str>, script: &str) {
    let run = |connection: &Connection| {
        let mut psql = connection.client("psql");
        psql.args(["-X", "-a", "-v", "VERBOSITY=verbose"]).envs(options.map(|options| ("PGOPTIONS", options)));
        postern_chaos::live::run(psql, script, Duration::from_secs(60)).unwrap()
    };
    // OIDs and process ids are no part of the comparison. A process id may be short, after the system has begun with small ones again.
    let plain = |text: String| {
        text.split(char::is_whitespace)
            .map(|word| {
                if word.len() > 2 && word.trim_end_matches('.').bytes().all(|byte| byte.is_ascii_digit()) {
                    "N"
                } else {
                    word
                }
            })
            .collect::<Vec<_>>()
            .join(" ")
    };
    let (one, other) = (run(direct), run(through));
    assert_eq!(plain(one.stdout), plain(other.stdout), "{script}: {}", other.stderr);
    assert_eq!(plain(one.stderr), plain(other.stderr), "{script}");
    assert_eq!(one.status, other.status, "{script}");
}

#[test]
pub(crate) fn whoever_may_do_everything_sees_no_difference() {
    let (postgres, postern) = shop();
    // Without TLS, as the server itself: a client that prefers it tries twice.
    let through = postern.as_member("dora", &["dba", "privacy"]).unwrap().sslmode("disable");
    let direct = postgres.connection(Role::Scram);
    for script in SCRIPTS {
        same(&direct, &through, None, script);
    }
    for options in [
        "-c search_path=pg_catalog",
        "-c client_encoding=LATIN1",
        "-c role=app -c work_mem=3MB",
        "-e",
        "-B 3",
        "-c work_mem=nonsense",
    ] {
        let script = "SHOW search_path; SHOW client_encoding; SHOW work_mem; SHOW datestyle; SELECT current_user; SELECT count(*) FROM public.orders;";
        same(&direct, &through, Some(options), script);
    }
    // To anybody else it is as ever.
    let other = postern.as_member("alice", &["analysts"]).unwrap();
    let refused = other.run("SELEC 1;\nSELECT count(*) FROM orders;").unwrap();
    assert_has(&refused.stderr, &["syntax error: the statement cannot be parsed"]);
    assert_eq!(refused.stdout, "20\n");
    let mut psql = other.client("psql");
    psql.args(["-c", "SELECT 1"]).env("PGOPTIONS", "-c search_path=evil");
    let refused = postern_chaos::live::run(psql, "", Duration::from_secs(60)).unwrap();
    assert_has(&refused.stderr, &["search_path"]);
    assert_lacks(&refused.stdout, &["1"]);
}

/// Replication's commands are of a grammar of their own, and its rows go both ways.
#[test]
fn replication_is_for_whoever_may_do_everything() {
    let (postgres, postern) = shop();
    postgres.sql("shop", "ALTER ROLE app REPLICATION").unwrap();
    let run = |connection: &Connection, database: &str| {
        let mut psql = connection.client("psql");
        psql.args([
            "-X",
            "-A",
            "-t",
            "-v",
            "VERBOSITY=verbose",
            "-d",
            &format!("dbname={database} replication=database"),
        ]);
        let script = "SHOW wal_level;\nTIMELINE_HISTORY 77;\nSELECT count(*) FROM orders;\nBASE_BACKUP (LABEL 'x', MANIFEST 'nonsense');\nSHOW server_version;\n";
        postern_chaos::live::run(psql, script, Duration::from_secs(60)).unwrap()
    };
    let through = postern.as_member("dora", &["dba", "privacy"]).unwrap().sslmode("disable");
    let (one, other) = (run(&postgres.connection(Role::Scram), "shop"), run(&through, "shop"));
    assert_eq!((&one.stdout, &one.stderr), (&other.stdout, &other.stderr));
    assert_has(&one.stdout, &["replica\n", "20\n"]);
    let refused = run(&postern.as_member("olga", &["operators"]).unwrap().sslmode("disable"), "shop");
    assert_has(&refused.stderr, &["replication"]);
    assert_eq!(refused.stdout, "");
}

/// A driver's whole range, told line by line: types in text and binary, transactions, prepared statements, pipelines, COPY, cursors, notices, cancelling.
#[test]
fn a_driver_sees_no_difference() {
    let (postgres, postern) = shop();
    let story = include_str!("../../../scripts/suites/driver_psycopg.py");
    let run = |connection: &Connection| {
        let mut python = connection.client("/usr/bin/python3");
        python.arg("-");
        postern_chaos::live::run(python, story, Duration::from_secs(120)).unwrap().ok().unwrap()
    };
    // Without TLS, as the server itself: a client that prefers it tries twice.
    let through = postern.as_member("dora", &["dba", "privacy"]).unwrap().sslmode("disable");
    let (one, other) = (run(&postgres.connection(Role::Scram)), run(&through));
    for (one, other) in one.lines().zip(other.lines()) {
        assert_eq!(one, other);
    }
    assert_eq!(one.lines().count(), other.lines().count());
    assert!(one.lines().count() > 80, "{one}");
}

/// The process id is the server's own: clients compare it, and end sessions by it. A function call reaches large objects.
#[test]
fn clients_know_their_own_backend() {
    let (_postgres, postern) = shop();
    let mut wire = Wire::connect(&postern.postgres_address().unwrap()).unwrap();
    let token = postern.token("dora", &["dba", "privacy"]).unwrap();
    wire.startup("shop", "shop").unwrap();
    assert_eq!(wire.read().unwrap().kind, 'R');
    wire.message('p', format!("{token}\0").as_bytes()).unwrap();
    let hello = wire.until_ready().unwrap();
    let key = hello.iter().find(|message| message.kind == 'K').unwrap();
    let pid = u32::from_be_bytes(key.body[..4].try_into().unwrap());
    let told = wire.query("SELECT pg_backend_pid()").unwrap();
    assert_eq!(told[1].values().unwrap(), [Some(pid.to_string().into_bytes())]);
    let notified = wire.query("LISTEN me; NOTIFY me").unwrap();
    let sender = notified.iter().find(|message| message.kind == 'A').unwrap();
    assert_eq!(sender.body[..4], pid.to_be_bytes());
    // lo_creat(-1), as libpq calls it: one argument in binary, the result too.
    let call = |function: u32, argument: &[u8]| {
        let length = u32::try_from(argument.len()).unwrap();
        let parts = [&function.to_be_bytes()[..], &[0, 1, 0, 1, 0, 1], &length.to_be_bytes(), argument, &[0, 1]];
        message('F', &parts.concat()).unwrap()
    };
    wire.send(&call(957, &(-1_i32).to_be_bytes())).unwrap();
    let made = wire.until_ready().unwrap();
    assert_eq!(made[0].kind, 'V', "{made:?}");
    let oid = &made[0].body[4..];
    wire.send(&call(964, oid)).unwrap();
    assert_eq!(wire.until_ready().unwrap()[0].body, [0, 0, 0, 4, 0, 0, 0, 1]);
    // What is granted is granted by name: large objects are written by a call that analysts may not make.
    let mut other = Wire::connect(&postern.postgres_address().unwrap()).unwrap();
    other.login("shop", "shop", &postern.token("alice", &["analysts"]).unwrap()).unwrap();
    other.send(&call(957, &(-1_i32).to_be_bytes())).unwrap();
    assert_eq!(other.until_ready().unwrap()[0].field('C').as_deref(), Some("42501"));
}

/// What the server remarks at a login is told to whom everything is granted, and to nobody else: a trigger might tell what is masked.
#[test]
fn remarks_at_the_login_are_passed_on() {
    let (_postgres, postern) = shop();
    let name = "x".repeat(65);
    let remarks = |token: &str| {
        let mut wire = Wire::connect(&postern.postgres_address().unwrap()).unwrap();
        let settings = format!("user\0shop\0database\0shop\0application_name\0{name}\0\0");
        wire.send(&framed(&[&PROTOCOL_3.to_be_bytes(), settings.as_bytes()].concat()).unwrap()).unwrap();
        let hello = wire.present(token).unwrap();
        hello.iter().filter(|message| message.kind == 'N').filter_map(|message| message.field('C')).collect::<Vec<_>>()
    };
    assert_eq!(remarks(&postern.token("dora", &["dba", "privacy"]).unwrap()), ["42622"]);
    assert_eq!(remarks(&postern.token("alice", &["analysts"]).unwrap()), [""; 0]);
}

/// A driver that ends what it has only begun sends Terminate where a startup packet belongs: no answer to it, as by PostgreSQL.
#[test]
fn what_is_no_startup_packet_is_not_answered() {
    let (_postgres, postern) = shop();
    for bytes in [&b"X\0\0\0\x04"[..], b"\0\0\0\x03", b"GET / HTTP/1.1\r\n\r\n"] {
        let mut wire = Wire::connect(&postern.postgres_address().unwrap()).unwrap();
        wire.send(bytes).unwrap();
        assert!(wire.read().is_err(), "{}", bytes.escape_ascii());
    }
}

/// What ran unfollowed is remembered: as soon as less is granted, the session is in doubt about all that it is asked.
#[test]
fn what_was_not_followed_is_not_forgotten() {
    let (_postgres, postern) = shop();
    let mut wire = Wire::connect(&postern.postgres_address().unwrap()).unwrap();
    wire.login("shop", "shop", &postern.token("dora", &["dba", "privacy"]).unwrap()).unwrap();
    let kinds = |answer: Vec<postern_chaos::live::wire::Message>| answer.iter().map(|it| it.kind).collect::<String>();
    assert_eq!(kinds(wire.query("SET standard_conforming_strings = off").unwrap()), "CSZ");
    assert_eq!(kinds(wire.query("SELECT 1").unwrap()), "TDCZ");
    let deny = "apiVersion: postern/v1\nkind: Policy\nmetadata: {name: payroll}\nspec:\n  effect: deny\n  principals: {groups: [\"*\"]}\n  \
                targets: {names: [\"*\"]}\n  actions: [\"sql:select\"]\n  resources: [public.payroll]\n";
    postern.apply(deny).unwrap();
    // By a session of its own: what is under way and denied now ends its session.
    let again = postern.as_member("dora", &["dba", "privacy"]).unwrap();
    let denied = || Ok(again.run("SELECT * FROM payroll")?.stderr.contains("denied by policy payroll"));
    wait_until(Duration::from_secs(20), "the denial", denied).unwrap();
    assert_eq!(kinds(wire.query("SELECT 1").unwrap()), "EZ");
    let answer = wire.query("SELECT * FROM orders").unwrap();
    assert_has(&answer[0].field('M').unwrap(), &["standard_conforming_strings must be on"]);
    // A new session is followed from its beginning.
    assert_eq!(again.run("SELECT count(*) FROM orders").unwrap().ok().unwrap(), "20\n");
    assert_has(&again.run("SELEC 1").unwrap().stderr, &["cannot be parsed"]);
}
