//! What Postern does not decide about passes unchanged: errors, notices, results, cancel.

use std::time::Duration;

use postern_chaos::live::wire::{CANCEL_REQUEST, Wire, framed};
use postern_chaos::live::{Role, wait_until};

use crate::{assert_has, shop};

/// The same script, directly and through Postern, says the same in every byte, SQLSTATEs, positions and source lines included.
#[test]
fn results_errors_and_notices_are_the_servers_own() {
    let (postgres, postern) = shop();
    // The owner's view of the catalogue, without masks.
    let through = postern.as_member("dora", &["dba", "privacy"]).unwrap();
    let direct = postgres.connection(Role::Scram);
    for sql in [
        "SELECT 1/0;",
        "SELECT * FROM nowhere;",
        "SELECT complain('x');",
        "INSERT INTO orders VALUES (1, 1, 1);",
        "INSERT INTO orders VALUES (100, 77, 1);",
        "SELECT 'no such type'::madeup;",
        "SELECT * FROM customers ORDER BY id;",
        "SELECT NULL, '', E'a\\tb', 1.5::float4, '{1,2}'::int[], now() > '2000-01-01';",
        "SELECT repeat('x', 100000);",
        "SELECT generate_series(1, 5000);",
        "SELECT;",
        ";",
        "BEGIN; SAVEPOINT a; SELECT 1/0; ROLLBACK TO a; SELECT 'kept'; COMMIT;",
        "SET client_min_messages = debug1; SELECT 1; RESET client_min_messages;",
        "SHOW server_version; SHOW TimeZone;",
        "\\d orders",
        "\\dt",
        "\\l",
        "\\du",
        "\\copy (SELECT id FROM orders ORDER BY id LIMIT 3) TO STDOUT",
        "\\echo :SERVER_VERSION_NUM :ENCODING",
        "SELECT 1 AS a \\gdesc",
        "SELECT $1 + 1 \\bind 41 \\g",
    ] {
        let (one, other) = (direct.run(sql).unwrap(), through.run(sql).unwrap());
        assert_eq!(one.stdout, other.stdout, "{sql}: {}", other.stderr);
        assert_eq!(one.stderr, other.stderr, "{sql}");
        assert_eq!(one.status, other.status, "{sql}");
    }
}

#[test]
fn copy_in_passes_and_is_decided() {
    let (postgres, postern) = shop();
    let connection = postern.as_member("olga", &["operators"]).unwrap();
    let run = connection
        .run("COPY notes (body) FROM STDIN;\none\ntwo\nthree\n\\.\nSELECT 'then', count(*) FROM notes;\n")
        .unwrap();
    assert_eq!(run.ok().unwrap(), "then|3\n");
    let denied =
        connection.psql().option("-c").option("\\copy payroll FROM /dev/null").option("-c").option("SELECT 'alive'");
    let run = denied.run("").unwrap();
    crate::assert_denied(&run.stderr);
    assert_eq!(run.stdout, "alive\n");
    // A COPY that the client itself breaks off is the server's error.
    let run = connection.run("COPY orders FROM STDIN;\nnot a number\n\\.\nSELECT 'alive';\n").unwrap();
    assert_has(&run.stderr, &["22P02"]);
    assert_eq!(run.stdout, "alive\n");
    // Much more than any buffer holds.
    let many: String = (0..200_000).map(|n| format!("line {n}\n")).collect();
    let run = connection.run(&format!("COPY notes (body) FROM STDIN;\n{many}\\.\nSELECT 'then';\n")).unwrap();
    assert_eq!(run.ok().unwrap(), "then\n");
    assert_eq!(postgres.sql("shop", "SELECT count(*) FROM notes").unwrap(), "200003");
}

#[test]
pub(crate) fn cancel_reaches_the_target() {
    let (postgres, postern) = shop();
    let connection = postern.as_member("dora", &["dba"]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut psql = connection.psql().start("sleeper", "SELECT pg_sleep(60)", folder.path()).unwrap();
    wait_until(Duration::from_secs(10), "the sleep to run", || Ok(postgres.log().contains("pg_sleep(60)"))).unwrap();
    psql.signal(rustix::process::Signal::INT).unwrap();
    psql.wait(Duration::from_secs(10)).unwrap();
    assert_has(&psql.stderr(), &["57014"]);
}

#[test]
fn tls_is_offered() {
    let (_postgres, postern) = shop();
    let connection = postern.as_member("alice", &["analysts"]).unwrap();
    for sslmode in ["disable", "prefer", "require"] {
        let run = connection.clone().sslmode(sslmode).run("\\conninfo\nSELECT count(*) FROM orders;").unwrap();
        let out = run.ok().unwrap();
        assert_has(&out, &["20\n"]);
        assert_eq!(out.contains("SSL connection"), sslmode != "disable", "{sslmode}: {out}");
    }
}

/// libpq 17's `sslnegotiation=direct`: TLS from the first byte on, for those who say that PostgreSQL is inside.
#[test]
fn tls_may_come_first() {
    let (_postgres, postern) = shop();
    let token = postern.token("alice", &["analysts"]).unwrap();
    let begin = |alpn: &[&[u8]]| {
        let mut wire = Wire::connect(&postern.postgres_address()?)?;
        wire.secure(alpn)?;
        wire.login("shop", "shop", &token)?;
        anyhow::Ok(wire)
    };
    let answer = begin(&[b"postgresql"]).unwrap().query("SELECT count(*) FROM orders").unwrap();
    assert_eq!(answer[1].values().unwrap(), [Some(b"20".to_vec())]);
    assert!(begin(&[b"h2", b"postgresql"]).is_ok());
    assert!(begin(&[]).is_err());
    assert!(begin(&[b"h2"]).is_err());
}

#[test]
fn protocol_3_2_has_longer_keys() {
    let (_postgres, postern) = shop();
    let token = postern.token("alice", &["analysts"]).unwrap();
    for (minor, negotiated, length) in [(0, None, 8), (2, None, 36), (9_999, Some(2_u8), 36)] {
        let mut wire = Wire::connect(&postern.postgres_address().unwrap()).unwrap();
        wire.startup_as((3 << 16) | minor, "shop", "shop").unwrap();
        let hello = wire.present(&token).unwrap();
        let told = hello.iter().find(|message| message.kind == 'v').map(|message| message.body[3]);
        assert_eq!(told, negotiated);
        let key = hello.into_iter().find(|message| message.kind == 'K').unwrap().body;
        assert_eq!(key.len(), length);
        wire.message('Q', b"SELECT pg_sleep(60)\0").unwrap();
        let began = std::time::Instant::now();
        wait_until(Duration::from_secs(20), "the cancellation", || {
            let mut cancel = Wire::connect(&postern.postgres_address()?)?;
            cancel.send(&framed(&[&CANCEL_REQUEST.to_be_bytes()[..], &key].concat())?)?;
            assert!(cancel.closes()?);
            wire.stream().set_read_timeout(Some(Duration::from_millis(500)))?;
            Ok(wire.read().is_ok_and(|answer| answer.kind == 'E' || answer.kind == 'T'))
        })
        .unwrap();
        assert!(began.elapsed() < Duration::from_secs(30));
    }
}

#[test]
fn large_results_pass_in_bounded_memory() {
    let (_postgres, mut postern) = shop();
    let connection = postern.as_member("dora", &["dba"]).unwrap();
    let id = postern.process().unwrap().id();
    // About 200 MB in rows, and 150 MB in one, through a gateway whose buffers are some hundred KiB.
    let script = "SELECT count(*) FROM orders;\n\\o /dev/null\nSELECT repeat('x', 1000) FROM generate_series(1, 200000);\nSELECT repeat('x', 150000000);\n\\o\nSELECT 'done';";
    let out = connection
        .psql()
        .option("-v")
        .option("FETCH_COUNT=0")
        .limit(Duration::from_secs(120))
        .run(script)
        .unwrap()
        .ok()
        .unwrap();
    assert_eq!(out, "20\ndone\n");
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().trim().trim_end_matches(" kB");
    let peak: u64 = peak.trim().parse().unwrap();
    assert!(peak < 300_000, "the process took {peak} kB");
}
