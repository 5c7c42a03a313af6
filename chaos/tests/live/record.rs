//! I2, I10: what is recorded, and that tampering shows.

use std::fs;
use std::time::Duration;

use postern_chaos::live::wait_until;
use postern_chaos::live::wire::Wire;

use crate::{assert_has, shop};

const SOON: Duration = Duration::from_secs(20);

#[test]
fn a_session_is_recorded_replayed_verified_and_exported() {
    let (_postgres, postern) = shop();
    let connection = postern.as_member("olga", &["operators"]).unwrap();
    connection
        .run("SELECT id, amount FROM orders WHERE id < 3 ORDER BY id; SELECT * FROM payroll; INSERT INTO notes (body) VALUES ('n'); SELECT 1/0;")
        .unwrap();
    let session = postern.last_ended_session().unwrap();
    let listed = postern.cli(["sessions", "list"]).unwrap().ok().unwrap();
    assert_has(&listed, &[&session, "dev/olga", "shop"]);
    let shown = postern.cli(["sessions", "show", &session]).unwrap().ok().unwrap();
    assert_has(&shown, &["dev/olga", "shop", "127.0.0.1"]);
    let replay = postern.cli(["sessions", "replay", &session]).unwrap().ok().unwrap();
    assert_has(
        &replay,
        &[
            "SELECT id, amount FROM orders",
            "3.00",
            "operators-write",
            "PERMIT",
            "SELECT * FROM payroll",
            "DENY",
            "INSERT 0 1",
            "22012",
        ],
    );
    let verified = postern.cli(["sessions", "verify", &session]).unwrap().ok().unwrap();
    assert_has(&verified, &["verified", &session]);

    let folder = tempfile::tempdir().unwrap();
    let (file, ca) = (folder.path().join("a.rec"), folder.path().join("ca.crt"));
    let (path, ca_path) = (file.to_str().unwrap().to_owned(), ca.to_str().unwrap().to_owned());
    postern.cli(["sessions", "export", &session, "-o", &path]).unwrap().ok().unwrap();
    fs::write(&ca, postern.cli(["certs", "ca"]).unwrap().ok().unwrap()).unwrap();
    postern.cli(["sessions", "verify", &path, "--ca", &ca_path]).unwrap().ok().unwrap();
    assert_has(&postern.cli(["sessions", "replay", &path]).unwrap().ok().unwrap(), &["SELECT * FROM payroll"]);

    // Any edit, reordering, truncation or deletion shows.
    let good = fs::read(&file).unwrap();
    let at = |needle: &[u8]| good.windows(needle.len()).position(|window| window == needle).unwrap();
    let edit = |position: usize, byte: u8| {
        let mut bad = good.clone();
        bad[position] = byte;
        bad
    };
    let mut without_end = good.clone();
    without_end.truncate(good.len() - 100);
    let frames: Vec<(usize, usize)> = frames(&good);
    let cut = |from: usize, to: usize| [&good[..from], &good[to..]].concat();
    let swapped =
        [&good[..frames[2].0], &good[frames[3].0..frames[3].1], &good[frames[2].0..frames[2].1], &good[frames[3].1..]]
            .concat();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("a statement edited", edit(at(b"payroll"), b'q')),
        ("a value edited", edit(at(b"3.00"), b'9')),
        ("the first byte", edit(0, b'X')),
        ("the last byte", edit(good.len() - 1, good.last().unwrap().wrapping_add(1))),
        ("the end cut off", without_end),
        ("the seal cut off", good[..frames.last().unwrap().0].to_vec()),
        ("an event deleted", cut(frames[2].0, frames[2].1)),
        ("the first event deleted", cut(frames[0].0, frames[0].1)),
        ("two events swapped", swapped),
        ("an event repeated", [&good[..frames[2].1], &good[frames[2].0..]].concat()),
        ("something appended", [&good[..], b"more"].concat()),
        ("nothing left", Vec::new()),
    ];
    for (name, bytes) in cases {
        fs::write(&file, bytes).unwrap();
        let run = postern.cli(["sessions", "verify", &path, "--ca", &ca_path]).unwrap();
        assert_eq!(run.status.code(), Some(1), "{name}: {run:?}");
    }
    // Another cluster's authority does not vouch for it.
    fs::write(&file, &good).unwrap();
    let other = postern_chaos::live::Postern::dev(postern_chaos::live::PosternOptions::default()).unwrap();
    fs::write(&ca, other.cli(["certs", "ca"]).unwrap().ok().unwrap()).unwrap();
    assert_eq!(postern.cli(["sessions", "verify", &path, "--ca", &ca_path]).unwrap().status.code(), Some(1));
}

/// Where each frame begins and ends in a recording's file (docs/recording-format.md).
fn frames(file: &[u8]) -> Vec<(usize, usize)> {
    let mut at = 8;
    let mut found = Vec::new();
    while let Some(length) = file.get(at..at + 4) {
        let end = at + 4 + u32::from_be_bytes(length.try_into().unwrap()) as usize + 32;
        found.push((at, end));
        at = end;
    }
    found
}

#[test]
fn a_session_is_seen_by_its_own_principal_and_by_auditors_only() {
    let (_postgres, postern) = shop();
    let alice = postern.token("alice", &["analysts"]).unwrap();
    postern.connection("shop", &alice).unwrap().run("SELECT 1").unwrap().ok().unwrap();
    let session = postern.last_ended_session().unwrap();
    postern.cli_as(&alice, ["sessions", "replay", &session]).unwrap().ok().unwrap();
    let bob = postern.token("bob", &["analysts"]).unwrap();
    postern.cli_as(&bob, ["sessions", "replay", &session]).unwrap().fails().unwrap();
    let listed = postern.cli_as(&bob, ["sessions", "list"]).unwrap().ok().unwrap();
    assert!(!listed.contains(&session));
}

/// Whoever follows a session does so by their own right, and for as long as they have it.
#[test]
fn a_session_is_followed_by_right() {
    let (_postgres, postern) = shop();
    let token = postern.token("ann", &["dba"]).unwrap();
    let mut wire = Wire::connect(&postern.postgres_address().unwrap()).unwrap();
    wire.login("shop", "shop", &token).unwrap();
    wire.query("SELECT 4711").unwrap();
    let mut id = String::new();
    wait_until(SOON, "the session in the index", || {
        let sessions = postern.sessions()?;
        let own = sessions.iter().find(|session| session["principal"] == "dev/ann");
        id = own.and_then(|session| session["id"].as_str()).unwrap_or_default().to_owned();
        Ok(!id.is_empty())
    })
    .unwrap();
    let follow = ["sessions", "replay", "--follow", id.as_str()];
    let eve = postern.token("eve", &["analysts"]).unwrap();
    assert_has(&postern.cli_as(&eve, follow).unwrap().fails().unwrap(), &["no such session"]);

    let made = postern.cli_as(&token, ["token"]).unwrap().ok().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut own = postern.with("POSTERN_TOKEN", made.trim()).spawn("own", &follow, folder.path()).unwrap();
    let mut auditor = postern.spawn("auditor", &[&follow[..], &["-o", "json"]].concat(), folder.path()).unwrap();
    for (follower, word) in [(&own, "SELECT 4711"), (&auditor, "\"SELECT 4711\"")] {
        let shown = wait_until(SOON, "the statement", || Ok(follower.stdout().contains(word)));
        shown.unwrap_or_else(|error| panic!("{error:#} {}\n{}", follower.stdout(), follower.stderr()));
    }
    let jti = postern_chaos::live::token::claims(made.trim()).unwrap()["jti"].as_str().unwrap().to_owned();
    postern.cli(["revoke", "token", &jti]).unwrap().ok().unwrap();
    assert!(!own.wait(SOON).unwrap().success());
    assert_has(&own.stderr(), &["revoked"]);
    wire.query("SELECT 4712").unwrap();
    wire.message('X', b"").unwrap();
    assert!(auditor.wait(SOON).unwrap().success(), "{}", auditor.stderr());
    assert_has(&auditor.stdout(), &["SELECT 4712", "sealed"]);
    assert!(!own.stdout().contains("4712"));
}

/// A million rows: the first thousand are recorded, and the rest has a digest that whoever has what the client got can make.
#[test]
fn rows_that_are_left_out_have_a_digest_of_what_the_client_got() {
    let (_postgres, postern) = shop();
    let mut wire = Wire::connect(&postern.postgres_address().unwrap()).unwrap();
    // A masked column, and COPY, in which nothing is known of rows.
    wire.login("shop", "shop", &postern.token("alice", &["analysts"]).unwrap()).unwrap();
    let mut expected = Vec::new();
    for (sql, kind, kept) in [
        ("SELECT n, repeat('x', n % 50) FROM generate_series(1, 1000000) n", 'D', 1_000),
        ("SELECT email, n FROM customers, generate_series(1, 20000) n", 'D', 1_000),
        ("COPY (SELECT email, n FROM customers, generate_series(1, 20000) n) TO STDOUT", 'd', 1_000),
    ] {
        let answer = wire.query(sql).unwrap();
        let rows: Vec<_> = answer.iter().filter(|message| message.kind == kind).collect();
        let mut hash = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        for message in &rows[kept..] {
            hash.update(&[u8::try_from(message.kind).unwrap()]);
            hash.update(&u32::try_from(message.body.len() + 4).unwrap().to_be_bytes());
            hash.update(&message.body);
        }
        let digest: String = hash.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        expected.push((rows.len(), rows.len() - kept, digest));
    }
    assert_eq!(expected[0].0, 1_000_000);
    wire.message('X', b"").unwrap();
    let session = postern.last_ended_session().unwrap();
    let replay = postern.cli(["sessions", "replay", &session, "-o", "json"]).unwrap().ok().unwrap();
    let events = replay.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let found: Vec<_> = events
        .filter(|entry| entry["event"]["type"] == "completed")
        .map(|entry| {
            let count = |name: &str| usize::try_from(entry["event"][name].as_u64().unwrap()).unwrap();
            let digest = entry["event"]["omitted_digest"].as_str().unwrap().to_owned();
            (count("rows"), count("rows_omitted"), digest)
        })
        .collect();
    assert_eq!(found, expected);
    let text = postern.cli(["sessions", "replay", &session]).unwrap().ok().unwrap();
    assert_has(&text, &[&format!("(999000 more rows, not recorded, SHA-256 {})", expected[0].2)]);
}
