use bytes::{BufMut, BytesMut};
use proptest::prelude::*;

use super::*;

fn packet(version: u32, parameters: &[(&str, &str)]) -> BytesMut {
    let mut body = BytesMut::new();
    body.put_u32(version);
    for (name, value) in parameters {
        write::text(&mut body, name.as_bytes());
        write::text(&mut body, value.as_bytes());
    }
    body.put_u8(0);
    let mut out = BytesMut::new();
    out.put_u32(u32::try_from(body.len() + 4).unwrap());
    out.put_slice(&body);
    out
}

fn open(parameters: &[(&str, &str)]) -> Result<Startup, HandshakeError> {
    match AwaitStartup::new(Tls::Established).next(&mut packet(startup::VERSION_3, parameters))? {
        Opened::Startup(startup, _, reply) => {
            assert_eq!(&reply[..], b"R\0\0\0\x08\0\0\0\x03");
            startup.beyond.refused.clone().map_or(Ok(*startup), Err)
        }
        _ => panic!("a startup"),
    }
}

const SSL: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x2f";
const GSS: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x30";

#[test]
fn psql_comes_in() {
    let mut buffer = BytesMut::from(GSS);
    let Ok(Opened::Reply(waiting, reply)) = AwaitStartup::new(Tls::Required).next(&mut buffer) else { panic!("N") };
    assert_eq!(&reply[..], b"N");
    buffer.put_slice(SSL);
    let Ok(Opened::StartTls(waiting, reply)) = waiting.next(&mut buffer) else { panic!("S") };
    assert_eq!(&reply[..], b"S");
    buffer.unsplit(packet(startup::VERSION_3, &[("user", "shop"), ("database", "app"), ("client_encoding", "UTF8")]));
    let Ok(Opened::Startup(startup, password, _)) = waiting.next(&mut buffer) else { panic!("startup") };
    assert_eq!((startup.target.as_str(), startup.database.as_str()), ("shop", "app"));
    buffer.put_slice(b"p\0\0\0\x0atok");
    let Ok(PasswordStep::NeedMore(password)) = password.next(&mut buffer) else { panic!("more") };
    buffer.put_slice(b"en\0rest");
    let Ok(PasswordStep::Password(token)) = password.next(&mut buffer) else { panic!("password") };
    assert_eq!(token.expose(), b"token");
    assert_eq!(&buffer[..], b"rest");
    assert!(!format!("{token:?}").contains("token"));
}

#[test]
fn settings_are_let_through_by_name() {
    let startup = open(&[
        ("user", "shop"),
        ("application_name", "psql"),
        ("DateStyle", "ISO"),
        ("client_encoding", "'utf-8'"),
        ("options", "-c statement_timeout=5s --lock-timeout=1s -cTimeZone=Europe/\\ Berlin"),
        ("replication", "off"),
    ])
    .unwrap();
    assert_eq!((startup.database.as_str(), startup.application.as_str()), ("shop", "psql"));
    let settings: Vec<String> = startup.settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let expected = [
        "application_name=psql",
        "datestyle=ISO",
        "statement_timeout=5s",
        "lock_timeout=1s",
        "timezone=Europe/ Berlin",
    ];
    assert_eq!(settings, expected);
}

#[test]
fn what_set_would_be_decided_for_is_told() {
    let actions = |parameters: &[(&str, &str)]| {
        let given: Vec<_> = [("user", "shop")].iter().chain(parameters).copied().collect();
        let opened = AwaitStartup::new(Tls::Established).next(&mut packet(startup::VERSION_3, &given)).unwrap();
        let Opened::Startup(startup, ..) = opened else { panic!("a startup") };
        let actions = startup.beyond.actions().map_err(|error| error.fields().sqlstate)?;
        Ok::<_, &str>(actions.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    let set = |name: &str| Ok(vec![format!("sql:set on setting:{name}")]);
    assert_eq!(actions(&[("options", "-c search_path=app,public")]), set("search_path"));
    assert_eq!(
        actions(&[("Search_Path", "a"), ("search_path", "\"$user\", b"), ("work_mem", "1MB")]),
        set("search_path")
    );
    assert_eq!(actions(&[("options", "--row-security=off")]), set("row_security"));
    assert_eq!(actions(&[("work_mem", "1MB"), ("standard_conforming_strings", "on")]), Ok(vec![]));
    for refused in [
        ("search_path", "a,,b"),
        ("search_path", "\"a"),
        ("role", "postgres"),
        ("session_authorization", "postgres"),
        ("standard_conforming_strings", "off"),
        ("local_preload_libraries", "x"),
        ("ignore_system_indexes", "on"),
    ] {
        assert_eq!(actions(&[refused]), Err("42501"), "{refused:?}");
    }
    for refused in [("replication", "database"), ("options", "-d 5"), ("client_encoding", "SJIS")] {
        assert_eq!(actions(&[("search_path", "a"), refused]), Err("0A000"), "{refused:?}");
    }
}

#[test]
fn what_is_refused_at_startup() {
    let long = "x".repeat(64);
    let cases: [(&[(&str, &str)], &str); 14] = [
        (&[("database", "app")], "08P01"),
        (&[("user", "")], "08P01"),
        (&[("user", "shop"), ("replication", "database")], "0A000"),
        (&[("user", "shop"), ("search_path", "evil")], "42501"),
        (&[("user", "shop"), ("role", "postgres")], "42501"),
        (&[("user", "shop"), ("Session_Authorization", "postgres")], "42501"),
        (&[("user", "shop"), ("options", "-c search_path=evil")], "42501"),
        (&[("user", "shop"), ("options", "--session-authorization=postgres")], "42501"),
        (&[("user", "shop"), ("options", "-c standard_conforming_strings=off")], "42501"),
        (&[("user", "shop"), ("options", "-d 5")], "0A000"),
        (&[("user", "shop"), ("options", "-c")], "0A000"),
        (&[("user", "shop"), ("client_encoding", "SJIS")], "0A000"),
        // The server would cut it, and open another database than was decided on.
        (&[("user", "shop"), ("database", &long)], "54000"),
        (&[("user", &long)], "54000"),
    ];
    for (parameters, sqlstate) in cases {
        let error = open(parameters).unwrap_err();
        assert_eq!(error.fields().sqlstate, sqlstate, "{parameters:?}");
        assert_eq!(error.fields().severity, super::super::errors::Severity::Fatal);
    }
}

#[test]
fn what_cannot_be_a_startup_packet_is_not_answered() {
    let next = |bytes: &[u8]| AwaitStartup::new(Tls::Optional).next(&mut BytesMut::from(bytes)).err();
    for none in [&b"X\0\0\0\x04"[..], b"\0\0\0\x03", b"GET / HTTP/1.1\r\n"] {
        assert!(next(none).is_some_and(|error| error.is_of_no_client()), "{}", none.escape_ascii());
    }
    // What is one, but a wrong one, is told so.
    for wrong in [&b"\0\0\0\x09\0\x03\0\0x"[..], b"\0\0\0\x08\0\x02\0\0"] {
        assert!(next(wrong).is_some_and(|error| !error.is_of_no_client()), "{}", wrong.escape_ascii());
    }
}

#[test]
fn tls_is_not_left_out_nor_preceded() {
    let mut buffer = packet(startup::VERSION_3, &[("user", "shop")]);
    let error = AwaitStartup::new(Tls::Required).next(&mut buffer).err().unwrap();
    assert_eq!((error.code(), error.fields().sqlstate), (Code::TlsRequired, "28000"));
    // CVE-2021-23214.
    for request in [SSL, GSS] {
        let mut buffer = BytesMut::from(request);
        buffer.put_slice(b"Q");
        let error = AwaitStartup::new(Tls::Optional).next(&mut buffer).err().unwrap();
        assert_eq!(error, HandshakeError::BytesBeforeTls);
    }
    let error = AwaitStartup::new(Tls::Established).next(&mut BytesMut::from(SSL)).err().unwrap();
    assert_eq!(error, HandshakeError::AskedTwice);
}

#[test]
fn versions_are_negotiated() {
    // As PostgreSQL 18 answers: only what is newer than the newest, or not known.
    type Case = (u32, &'static [(&'static str, &'static str)], &'static [u8], u16);
    let cases: [Case; 5] = [
        (0, &[("user", "shop")], b"", 0),
        (2, &[("user", "shop")], b"", 2),
        (9999, &[("user", "shop")], b"v\0\0\0\x0c\0\x03\0\x02\0\0\0\0", 2),
        (2, &[("user", "shop"), ("_pq_.x", "1")], b"v\0\0\0\x13\0\x03\0\x02\0\0\0\x01_pq_.x\0", 2),
        (0, &[("user", "shop"), ("_pq_.x", "1")], b"v\0\0\0\x13\0\x03\0\0\0\0\0\x01_pq_.x\0", 0),
    ];
    for (minor, parameters, negotiated, spoken) in cases {
        let mut buffer = packet((3 << 16) | minor, parameters);
        let Ok(Opened::Startup(startup, _, reply)) = AwaitStartup::new(Tls::Established).next(&mut buffer) else {
            panic!("startup")
        };
        assert_eq!(reply[..], [negotiated, b"R\0\0\0\x08\0\0\0\x03"].concat());
        assert_eq!(startup.minor, spoken);
    }
    let error = AwaitStartup::new(Tls::Established).next(&mut packet(2 << 16, &[])).err().unwrap();
    assert_eq!(error.fields().sqlstate, "0A000");
}

#[test]
fn tls_may_come_first() {
    let hello = b"\x16\x03\x01\x02";
    let mut buffer = BytesMut::from(&hello[..]);
    let Ok(Opened::DirectTls(waiting)) = AwaitStartup::new(Tls::Required).next(&mut buffer) else { panic!("TLS") };
    // What is there belongs to it.
    assert_eq!(&buffer[..], hello);
    let error = waiting.next(&mut BytesMut::from(SSL)).err().unwrap();
    assert_eq!(error, HandshakeError::AskedTwice);
    // Inside TLS it is nothing.
    assert!(AwaitStartup::new(Tls::Established).next(&mut buffer).is_err());
}

#[test]
fn passwords_that_are_none() {
    let read = |bytes: &[u8]| AwaitPassword(()).next(&mut BytesMut::from(bytes)).err();
    assert_eq!(read(b"Q\0\0\0\x05\0"), Some(HandshakeError::Unexpected(b'Q')));
    assert!(read(b"p\0\0\0\x06ab").is_some());
    assert!(read(b"p\0\0\0\x07a\0\0").is_some());
    assert!(read(b"p\0\x02\0\0").is_some(), "longer than any token");
    assert!(read(b"p\0\0\0\x05").is_none());
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), length in 8_u32..80) {
        let _ = AwaitStartup::new(Tls::Established).next(&mut BytesMut::from(&bytes[..]));
        let mut packet = BytesMut::new();
        packet.put_u32(length);
        packet.put_u32(startup::VERSION_3);
        packet.put_slice(&bytes);
        let _ = AwaitStartup::new(Tls::Established).next(&mut packet);
        let _ = AwaitPassword(()).next(&mut BytesMut::from(&bytes[..]));
    }
}
