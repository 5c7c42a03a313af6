use bytes::{BufMut, BytesMut};
use proptest::prelude::*;

use super::*;

fn login(encrypted: bool) -> (Login, Bytes) {
    Login::new(&Credentials {
        user: "app",
        password: Some(&SecretBytes::new(b"pencil".to_vec())),
        database: "shop",
        settings: &with_demanded(&[("timezone".into(), "UTC".into())]),
        encrypted,
        nonce: [7; 18],
        end_point: None,
        scram: None,
    })
}

fn authentication(method: u32, rest: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    write::frame(&mut out, backend::AUTHENTICATION, |out| {
        out.put_u32(method);
        out.put_slice(rest);
    });
    out
}

fn welcome() -> BytesMut {
    let mut out = BytesMut::new();
    write::authentication_ok(&mut out);
    write::parameter_status(&mut out, "client_encoding", "UTF8");
    write::parameter_status(&mut out, "standard_conforming_strings", "on");
    write::backend_key(&mut out, 9, &[1, 2, 3, 4]);
    write::ready_for_query(&mut out, TransactionStatus::Idle);
    out
}

fn sent(login: &mut Login, buffer: &mut BytesMut) -> Bytes {
    match login.next(buffer) {
        Ok(LoginStep::Send(bytes)) => bytes,
        other => panic!("expected an answer, got {other:?}"),
    }
}

#[test]
fn the_startup_message_demands_what_classification_needs() {
    let (_, bytes) = login(false);
    let text = bytes.escape_ascii().to_string();
    assert_eq!(u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize, bytes.len());
    assert!(text.contains(r"\x00\x03\x00\x00user\x00app\x00database\x00shop\x00timezone\x00UTC\x00"), "{text}");
    assert!(text.ends_with(r"client_encoding\x00UTF8\x00standard_conforming_strings\x00on\x00\x00"), "{text}");
}

#[test]
fn trusts_md5_and_cleartext() {
    let (mut trusted, _) = login(false);
    let Ok(LoginStep::Ready(ready)) = trusted.next(&mut welcome()) else { panic!("ready") };
    assert_eq!((ready.pid, &ready.secret[..]), (9, &[1, 2, 3, 4][..]));
    assert_eq!(ready.parameters.len(), 2);

    // md5(md5("pencil" "app") salt), by md5sum.
    let (mut md5, _) = login(false);
    let answer = sent(&mut md5, &mut authentication(5, &[1, 2, 3, 4]));
    assert_eq!(&answer[..], b"p\0\0\0\x28md54bfca4ca571b8df74c2fc2247888d96f\0");
    assert!(matches!(md5.next(&mut welcome()), Ok(LoginStep::Ready(_))));

    let (mut clear, _) = login(true);
    assert_eq!(&sent(&mut clear, &mut authentication(3, b""))[..], b"p\0\0\0\x0bpencil\0");
    let (mut clear, _) = login(false);
    assert!(matches!(clear.next(&mut authentication(3, b"")), Err(LoginError::Cleartext)));
}

#[test]
fn scram_is_bound_to_tls_where_it_can_be() {
    let chosen = |end_point: Option<Vec<u8>>, offered: &[u8]| {
        let (mut login, _) = login(true);
        login.end_point = end_point;
        let message = sent(&mut login, &mut authentication(10, offered));
        String::from_utf8(message[5..].to_vec()).unwrap().replace('\0', " ")
    };
    let both = b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0";
    assert!(chosen(Some(vec![1]), both).starts_with("SCRAM-SHA-256-PLUS  "));
    assert!(chosen(Some(vec![1]), both).contains("p=tls-server-end-point,,n=,r="));
    // Nothing to bind to.
    assert!(chosen(None, both).contains("SCRAM-SHA-256    ") || chosen(None, both).contains("n,,n=,r="));
    // Not offered: a server that could knows then that its offer was taken away.
    assert!(chosen(Some(vec![1]), b"SCRAM-SHA-256\0\0").contains("y,,n=,r="));
    let (mut plain, _) = login(false);
    assert!(matches!(plain.next(&mut authentication(10, b"SCRAM-SHA-256-PLUS\0\0")), Err(LoginError::Mechanism)));
}

#[test]
fn scram_must_be_finished() {
    let begin = || {
        let (mut login, _) = login(false);
        let first = sent(&mut login, &mut authentication(10, b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"));
        assert!(first.starts_with(b"p\0\0\0\x36SCRAM-SHA-256\0\0\0\0\x20n,,n=,r=BwcH"), "{first:?}");
        login
    };
    let nonce = "BwcHBwcHBwcHBwcHBwcHBwcHBwcH";
    let challenge = format!("r={nonce}server,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096");
    // A server that skips the proof, at either place, does not know the password.
    assert!(matches!(begin().next(&mut authentication(0, b"")), Err(LoginError::Unproven)));
    let mut login = begin();
    let answer = sent(&mut login, &mut authentication(11, challenge.as_bytes()));
    assert!(answer.starts_with(format!("p\0\0\0\x5ec=biws,r={nonce}server,p=").as_bytes()), "{answer:?}");
    assert!(matches!(login.next(&mut authentication(0, b"")), Err(LoginError::Unproven)));
    let mut login = begin();
    sent(&mut login, &mut authentication(11, challenge.as_bytes()));
    let wrong = authentication(12, b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    assert_eq!(login.next(&mut wrong.clone()).unwrap_err(), LoginError::Scram(ScramError::Signature));
    // Only the method that binds to the channel is offered.
    let (mut login, _) = super::tests::login(false);
    assert_eq!(login.next(&mut authentication(10, b"SCRAM-SHA-256-PLUS\0\0")).unwrap_err(), LoginError::Mechanism);
    assert_eq!(login.next(&mut authentication(12, b"")).unwrap_err().code(), Code::TargetRefused);
}

#[test]
fn refusals_are_told_apart() {
    let refuse = |sqlstate: &str| {
        let mut out = BytesMut::new();
        let fields = vec![(b'S', b"FATAL".to_vec()), (b'C', sqlstate.as_bytes().to_vec()), (b'M', b"no".to_vec())];
        write::message(&mut out, backend::ERROR, &fields);
        login(false).0.next(&mut out).unwrap_err().code()
    };
    assert_eq!(refuse("28P01"), Code::TargetRefused);
    assert_eq!(refuse("53300"), Code::TargetUnavailable);
    assert_eq!(refuse("57P03"), Code::TargetUnavailable);
    assert_eq!(refuse("3D000"), Code::UnknownTarget);
}

#[test]
fn notices_of_a_login_are_kept_within_bounds() {
    let mut remark = BytesMut::new();
    write::message(&mut remark, backend::NOTICE, &vec![(b'M', b"of a login".to_vec())]);
    let mut bytes = remark.clone(); // of nobody who is logged in: dropped
    write::authentication_ok(&mut bytes);
    (0..950).for_each(|_| bytes.extend_from_slice(&remark));
    write::parameter_status(&mut bytes, "client_encoding", "UTF8");
    write::parameter_status(&mut bytes, "standard_conforming_strings", "on");
    write::ready_for_query(&mut bytes, TransactionStatus::Idle);
    let LoginStep::Ready(ready) = login(false).0.next(&mut bytes).unwrap() else { panic!("ready") };
    assert_eq!(ready.notices.len(), MAX_NOTICES / remark.len() * remark.len());
    assert!(ready.notices.starts_with(&remark));
}

#[test]
fn hostile_servers_are_given_up() {
    let next = |bytes: &BytesMut| login(false).0.next(&mut bytes.clone()).unwrap_err();
    let mut row = BytesMut::new();
    write::frame(&mut row, backend::DATA_ROW, |_| {});
    assert_eq!(next(&row), LoginError::Unexpected(b'D'));
    let mut early = BytesMut::new();
    write::ready_for_query(&mut early, TransactionStatus::Idle);
    assert_eq!(next(&early), LoginError::Unexpected(b'Z'));
    assert_eq!(next(&authentication(7, b"")), LoginError::Method(7));
    assert!(matches!(next(&BytesMut::from(&b"N\x7f\xff\xff\xff"[..])), LoginError::Codec(_)));
    let mut flood = BytesMut::new();
    (0..2_000).for_each(|_| write::message(&mut flood, backend::NOTICE, &vec![]));
    assert_eq!(next(&flood), LoginError::TooMuch);
    let mut unset = BytesMut::new();
    write::authentication_ok(&mut unset);
    write::parameter_status(&mut unset, "client_encoding", "SQL_ASCII");
    write::ready_for_query(&mut unset, TransactionStatus::Idle);
    assert_eq!(next(&unset), LoginError::Setting("client_encoding"));
}

#[test]
fn tls_is_asked_for_and_nothing_in_clear_is_taken_after_it() {
    assert_eq!(&ssl_request()[..], b"\0\0\0\x08\x04\xd2\x16\x2f");
    let answer = |bytes: &[u8]| ssl_answer(&mut BytesMut::from(bytes));
    assert_eq!(answer(b""), Ok(None));
    assert_eq!(answer(b"S"), Ok(Some(SslAnswer::Accepted)));
    assert_eq!(answer(b"N"), Ok(Some(SslAnswer::Refused)));
    // CVE-2021-23222.
    assert_eq!(answer(b"SE"), Err(LoginError::SslAnswer));
    assert_eq!(answer(b"E"), Err(LoginError::SslAnswer));
}

#[test]
fn nothing_secret_is_shown() {
    let (login, _) = login(false);
    let ready = Ready { secret: Bytes::from_static(b"hunter2"), ..Ready::default() };
    let shown = format!(
        "{login:?} {ready:?} {:?}",
        Credentials {
            user: "u",
            password: Some(&SecretBytes::new(b"hunter2".to_vec())),
            database: "d",
            settings: &with_demanded(&[]),
            encrypted: false,
            nonce: [0; 18],
            end_point: None,
            scram: None
        }
    );
    assert!(!shown.contains("pencil") && !shown.contains("hunter2"), "{shown}");
}

proptest! {
    #[test]
    fn any_split_logs_in(cuts in prop::collection::vec(1_usize..9, 1..30)) {
        let (mut login, _) = login(false);
        let (mut wire, mut buffer, mut cuts) = (welcome(), BytesMut::new(), cuts.into_iter().cycle());
        let mut ready = false;
        while !wire.is_empty() {
            let size = cuts.next().unwrap().min(wire.len());
            buffer.extend_from_slice(&wire.split_to(size));
            ready |= matches!(login.next(&mut buffer).unwrap(), LoginStep::Ready(_));
        }
        prop_assert!(ready);
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), method in 0_u32..13) {
        let _ = login(false).0.next(&mut BytesMut::from(&bytes[..]));
        let _ = login(false).0.next(&mut authentication(method, &bytes));
        let (mut scram, _) = login(false);
        let _ = scram.next(&mut authentication(10, b"SCRAM-SHA-256\0\0"));
        let _ = scram.next(&mut authentication(11, &bytes));
    }
}
