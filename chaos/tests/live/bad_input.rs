//! Hostile and broken clients: a clear error of PostgreSQL's own form, and nobody else notices.

use postern_chaos::live::Postern;
use postern_chaos::live::wire::{CANCEL_REQUEST, PROTOCOL_3, SSL_REQUEST, Wire, framed, parse, sync};

use crate::{assert_has, shop};

fn connect(postern: &Postern) -> Wire {
    Wire::connect(&postern.postgres_address().unwrap()).unwrap()
}

fn login(postern: &Postern) -> Wire {
    let mut wire = connect(postern);
    wire.login("shop", "shop", &postern.token("mallory", &["dba"]).unwrap()).unwrap();
    wire
}

#[test]
fn malformed_startups_are_refused() {
    let (_postgres, postern) = shop();
    let version = |version: u32| framed(&[&version.to_be_bytes()[..], b"user\0shop\0\0"].concat()).unwrap();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("length 0", vec![0, 0, 0, 0, 0, 0, 0, 0]),
        ("length 3", vec![0, 0, 0, 3, 0, 3, 0, 0]),
        ("length 7", vec![0, 0, 0, 7, 0, 3, 0]),
        ("a huge length", vec![0x7f, 0xff, 0xff, 0xff, 0, 3, 0, 0]),
        ("a negative length", vec![0xff, 0xff, 0xff, 0xff, 0, 3, 0, 0]),
        ("an HTTP request", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("protocol 2", version(0x0002_0000)),
        ("protocol 4", version(0x0004_0000)),
        ("no terminator", framed(&[&PROTOCOL_3.to_be_bytes()[..], b"user\0shop"].concat()).unwrap()),
        ("a key without a value", framed(&[&PROTOCOL_3.to_be_bytes()[..], b"user\0"].concat()).unwrap()),
        ("no user", framed(&[&PROTOCOL_3.to_be_bytes()[..], b"database\0shop\0\0"].concat()).unwrap()),
        ("an empty user", framed(&[&PROTOCOL_3.to_be_bytes()[..], b"user\0\0\0"].concat()).unwrap()),
        ("a user that is no UTF-8", framed(&[&PROTOCOL_3.to_be_bytes()[..], b"user\0\xff\xfe\0\0"].concat()).unwrap()),
    ];
    for (name, bytes) in cases {
        let mut wire = connect(&postern);
        wire.send(&bytes).unwrap();
        wire.stream().shutdown(std::net::Shutdown::Write).unwrap();
        let answer = wire.read();
        if let Ok(answer) = answer {
            assert!(matches!(answer.kind, 'E'), "{name}: {answer:?}");
            assert_eq!(answer.field('S').as_deref(), Some("FATAL"), "{name}");
            let state = answer.field('C').unwrap();
            assert!(
                ["08P01", "0A000", "28000", "22021", "3D000", "54000"].contains(&state.as_str()),
                "{name}: {state}"
            );
        }
        assert!(wire.closes().unwrap(), "{name}");
    }
    // Replication is for those alone to whom everything is granted: told once it is known who asks.
    let mut wire = connect(&postern);
    wire.send(&framed(&[&PROTOCOL_3.to_be_bytes()[..], b"user\0shop\0replication\0true\0\0"].concat()).unwrap())
        .unwrap();
    assert_eq!(wire.read().unwrap().kind, 'R');
    wire.message('p', format!("{}\0", postern.token("alice", &["analysts"]).unwrap()).as_bytes()).unwrap();
    assert_eq!(wire.read().unwrap().field('C').as_deref(), Some("0A000"));
    assert!(wire.closes().unwrap());
    // TLS from the first byte on, which then is none: an alert of TLS at most.
    let mut wire = connect(&postern);
    wire.send(&[0x16, 3, 1, 0, 8, 1, 0, 1, 0xfc, 3, 3, 0, 0]).unwrap();
    assert!(wire.closes().unwrap());
    // A cancel request for nobody is closed without a word, as a server does.
    let mut wire = connect(&postern);
    wire.send(&framed(&[CANCEL_REQUEST.to_be_bytes(), 7_u32.to_be_bytes(), 7_u32.to_be_bytes()].concat()).unwrap())
        .unwrap();
    assert!(wire.closes().unwrap());
    // Bytes after the request for TLS, before the handshake, are an injection (CVE-2021-23222).
    let mut wire = connect(&postern);
    let mut bytes = framed(&SSL_REQUEST.to_be_bytes()).unwrap();
    bytes.extend(framed(&[&PROTOCOL_3.to_be_bytes()[..], b"user\0shop\0\0"].concat()).unwrap());
    wire.send(&bytes).unwrap();
    assert!(wire.closes().unwrap(), "nothing sent before the handshake counts");
    login(&postern);
}

#[test]
fn oversized_and_broken_frames_end_the_session_with_words() {
    let (_postgres, postern) = shop();
    for (name, bytes, states) in [
        ("a frame of 2 GiB", b"Q\x7f\xff\xff\xff".to_vec(), &["54000", "08P01"][..]),
        ("a negative length", b"Q\xff\xff\xff\xff".to_vec(), &["08P01"]),
        ("a length that does not count itself", b"Q\0\0\0\x03".to_vec(), &["08P01"]),
        ("an unknown type", b"\x01\0\0\0\x04".to_vec(), &["08P01"]),
        ("a query without its end", b"Q\0\0\0\x08sele".to_vec(), &["08P01"]),
        ("a query with more after its end", b"Q\0\0\0\x0aa\0b\0cd".to_vec(), &["08P01"]),
        ("a password after the login", b"p\0\0\0\x06x\0".to_vec(), &["08P01"]),
        ("a bind that is cut short", b"B\0\0\0\x08\0\0\0\x01".to_vec(), &["08P01"]),
        ("a bind of -2 bytes", b"B\0\0\0\x10\0\0\0\0\0\x01\xff\xff\xff\xfe\0\0".to_vec(), &["08P01"]),
    ] {
        let mut wire = login(&postern);
        wire.send(&bytes).unwrap();
        let answer = wire.read().unwrap();
        assert_eq!(answer.kind, 'E', "{name}");
        let state = answer.field('C').unwrap();
        assert!(states.contains(&state.as_str()), "{name}: {state} {:?}", answer.fields());
        assert!(wire.closes().unwrap(), "{name}");
    }
    // A statement longer than a statement may be: refused, and the gateway has not taken it all in.
    let mut wire = login(&postern);
    let long = format!("SELECT '{}'\0", "x".repeat(40 << 20));
    let _ = wire.message('Q', long.as_bytes());
    let refused = wire.read().map(|answer| answer.field('C'));
    assert!(!matches!(refused, Ok(Some(ref state)) if state != "54000" && state != "08P01"), "{refused:?}");
    login(&postern);
}

#[test]
fn text_that_is_no_text_is_denied_and_deep_nesting_does_no_harm() {
    let (_postgres, postern) = shop();
    let mut wire = login(&postern);
    for sql in [&b"SELECT '\xff\xfe'\0"[..], b"SELECT \xc0\xaf\0"] {
        wire.message('Q', sql).unwrap();
        let answer = wire.until_ready().unwrap();
        assert_eq!(answer[0].kind, 'E');
        assert!(["42501", "22021"].contains(&answer[0].field('C').unwrap().as_str()), "{:?}", answer[0].fields());
    }
    for sql in [
        format!("SELECT {}1{}", "(".repeat(50_000), ")".repeat(50_000)),
        format!("SELECT {}1", "- ".repeat(100_000)),
        format!("{}SELECT 1{}", "SELECT * FROM (".repeat(5_000), ") x".repeat(5_000)),
        format!("SELECT 1{}", " + 1".repeat(50_000)),
        format!("SELECT 1{}", " UNION SELECT 1".repeat(5_000)),
        format!("SELECT ARRAY{}1{}", "[".repeat(20_000), "]".repeat(20_000)),
    ] {
        let answer = wire.query(&sql).unwrap();
        let shown: String = sql.chars().take(40).collect();
        assert_eq!(answer.last().unwrap().kind, 'Z', "{shown}");
    }
    let answer = wire.query("SELECT 'alive'").unwrap();
    assert_eq!(answer[1].values().unwrap(), [Some(b"alive".to_vec())]);
    wire.send(&[parse("", "not sql at all").unwrap(), sync().unwrap()].concat()).unwrap();
    let answer = wire.until_ready().unwrap();
    assert!(["42601", "42501"].contains(&answer[0].field('C').unwrap().as_str()), "{:?}", answer[0].fields());
}

#[test]
fn unknown_targets_and_databases() {
    let (_postgres, postern) = shop();
    let token = postern.token("dora", &["dba"]).unwrap();
    let no_target = postern.connection("nowhere", &token).unwrap().run("SELECT 1").unwrap().fails().unwrap();
    assert_has(&no_target, &["FATAL", "no such target"]);
    let connection = postern.connection("shop", &token).unwrap();
    let outside = connection.clone().database("postgres").run("SELECT 1").unwrap().fails().unwrap();
    assert_has(&outside, &["FATAL", "no such target"]);
    connection.run("SELECT 1").unwrap().ok().unwrap();
}

#[test]
fn idle_handshakes_do_not_hold_the_door() {
    let (_postgres, postern) = shop();
    let waiting: Vec<Wire> = (0..100).map(|_| connect(&postern)).collect();
    let mut half: Vec<Wire> = (0..50).map(|_| connect(&postern)).collect();
    for wire in &mut half {
        wire.send(&[0, 0, 0]).unwrap();
    }
    postern.as_member("alice", &["analysts"]).unwrap().run("SELECT count(*) FROM orders").unwrap().ok().unwrap();
    drop((waiting, half));
}

/// Each refusal is one count under its code and one line of the gateway's log.
#[test]
fn refusals_are_counted_and_logged_once() {
    let (mut postgres, postern) = shop();
    let token = postern.token("dora", &["dba"]).unwrap();
    let expired = postern.token_with("dora", &["dba"], &["--issued-ago", "2h", "--ttl", "1h"]).unwrap();
    let count = |code: &str| {
        let counted = postern.counter("postern_gateway_sessions_refused_total", &format!("\"{code}\"")).unwrap();
        let lines = postern.log();
        let logged =
            lines.lines().filter(|line| line.contains("session refused") && line.contains(&format!("\"{code}\"")));
        (counted, logged.count())
    };
    let refused = |code: &str, cause: &dyn Fn()| {
        let (counted, logged) = count(code);
        cause();
        let settled = || Ok(count(code).0 >= counted + 1.0 && count(code).1 > logged);
        postern_chaos::live::wait_until(std::time::Duration::from_secs(5), code, settled).unwrap();
        assert_eq!(count(code), (counted + 1.0, logged + 1), "{code}");
    };
    let login = |user: &str, token: &str| {
        assert!(connect(&postern).login(user, "shop", token).is_err());
    };
    refused("protocol-violation", &|| {
        let mut wire = connect(&postern);
        wire.send(&[0, 0, 0, 3, 0, 3, 0, 0]).unwrap();
        wire.closes().unwrap();
    });
    refused("token-invalid", &|| login("shop", "no token at all"));
    refused("token-expired", &|| login("shop", &expired));
    refused("unknown-target", &|| login("nowhere", &token));
    postgres.stop().unwrap();
    refused("target-unavailable", &|| login("shop", &token));
    refused("target-unavailable", &|| login("shop-direct", &token));
    let log = postern.log();
    for secret in [&token, &expired] {
        assert!(!log.contains(secret.as_str()));
    }
}
