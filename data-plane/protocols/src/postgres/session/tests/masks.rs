//! Flows of sessions in which masks hold.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use postern_core::masking::{MaskFunction, MaskSlice, MaskingRule};
use postern_core::policy::{Obliged, Pattern};
use postern_core::principal::{Principal, PrincipalId};
use postern_core::recording::{ColumnInfo, OperationOutcome, Value};
use postern_core::target::TargetSelector;
use postern_core::{Name, OperationId, Timestamp};

use super::flows::client;
use super::rig::{Client, Rig, context, tags};
use crate::postgres::analyze::tests::{catalog, context as shop};
use crate::postgres::codec::{backend, write};
use crate::postgres::mask::Masking;
use crate::postgres::session::*;

const CUSTOMERS: u32 = 20_001;

fn masked() -> Rig {
    let target: Name = "shop".parse().unwrap();
    let rule = MaskingRule {
        targets: TargetSelector { names: vec!["*".into()], ..TargetSelector::default() },
        columns: vec![Pattern::parse("public.customers.email").unwrap()],
        mask: MaskFunction::Redact("***".into()),
        exempt_groups: Vec::new(),
        ..Default::default()
    };
    let name: Name = "emails".parse().unwrap();
    let principal = Principal {
        id: PrincipalId { issuer: "dev".parse().unwrap(), subject: "ann".into() },
        groups: Default::default(),
        token_id: None,
        expires_at: None,
        chain: Vec::new(),
        claims: postern_core::KeptClaims::default(),
    };
    let slice = MaskSlice::new([(&name, &rule)], &principal, &target, &BTreeMap::new());
    let masking = Masking::compile(&slice, Arc::new(catalog()), "shop", &[7; 32]);
    Rig::with(Limits::default(), Arc::new(shop()), Arc::new(masking))
}

/// RowDescription of `id` and `email` of customers.
fn described(out: &mut BytesMut) {
    write::frame(out, backend::ROW_DESCRIPTION, |out| {
        out.put_u16(2);
        for (name, column, kind) in [("id", 1, 23), ("email", 3, 25)] {
            write::text(out, name.as_bytes());
            out.put_u32(CUSTOMERS);
            out.put_i16(column);
            out.put_u32(kind);
            out.put_slice(&[0, 4, 0xff, 0xff, 0xff, 0xff, 0, 0]);
        }
    });
}

fn row(out: &mut BytesMut) {
    write::frame(out, backend::DATA_ROW, |out| {
        out.put_u16(2);
        for value in ["7", "ann@example.org"] {
            out.put_u32(u32::try_from(value.len()).unwrap());
            out.put_slice(value.as_bytes());
        }
    });
}

pub(super) fn tagged(out: &mut BytesMut, tag: u8, body: &[u8]) {
    write::frame(out, tag, |out| out.put_slice(body));
}

/// What the client gets for `sent`, when the server answers with `answer`; the model is not asked.
fn exchange(rig: &mut Rig, sent: &Client, answer: &BytesMut) -> BytesMut {
    rig.from_client.extend_from_slice(&sent.0);
    let mut made = 0;
    loop {
        match rig.session.next_client(&mut rig.from_client).unwrap() {
            ClientStep::NeedMore | ClientStep::Wait => break,
            ClientStep::Forward(_) | ClientStep::Terminate(_) => {}
            ClientStep::Decide(pending) | ClientStep::Prepare(pending) => {
                assert_eq!(pending.actions().map(|_| ()), Ok(()), "{}", pending.text().escape_ascii());
                made += 1;
                let _ =
                    rig.session.permit(pending, OperationId::new(Timestamp::from_millis(1), made), Obliged::default());
            }
        }
    }
    let mut to_client = BytesMut::new();
    // In pieces, as they may come.
    for piece in answer.chunks(3) {
        rig.from_server.extend_from_slice(piece);
        rig.session.next_server(&mut rig.from_server, &mut to_client, &mut rig.events).unwrap();
    }
    assert!(rig.from_server.is_empty());
    to_client
}

pub(super) fn holds(bytes: &[u8], what: &str) -> bool {
    bytes.windows(what.len()).any(|window| window == what.as_bytes())
}

#[test]
fn masks_are_laid_over_rows_and_the_recording() {
    let mut rig = masked();
    let mut answer = BytesMut::new();
    described(&mut answer);
    row(&mut answer);
    tagged(&mut answer, backend::COMMAND_COMPLETE, b"SELECT 1\0");
    write::ready_for_query(&mut answer, backend::TransactionStatus::Idle);
    let got = exchange(&mut rig, &client().query("select id, email from customers"), &answer);
    assert_eq!(tags(&got), "TDCZI");
    assert!(!holds(&got, "ann@") && holds(&got, "***"));
    let columns = vec![
        ColumnInfo { name: "id".into(), mask: None },
        ColumnInfo { name: "email".into(), mask: Some("redact".into()) },
    ];
    let values = vec![Value::Text("7".into()), Value::Text("***".into())];
    let operation = rig.completed()[0].operation;
    assert_eq!(rig.events[..2], [ResultEvent::Columns { operation, columns }, ResultEvent::Row { operation, values }]);
}

#[test]
fn a_client_that_never_asks_for_the_columns_is_masked_all_the_same() {
    let mut rig = masked();
    let mut answer = BytesMut::new();
    tagged(&mut answer, backend::PARSE_COMPLETE, b"");
    tagged(&mut answer, backend::BIND_COMPLETE, b"");
    // To the session's own Describe.
    described(&mut answer);
    row(&mut answer);
    tagged(&mut answer, backend::COMMAND_COMPLETE, b"SELECT 1\0");
    write::ready_for_query(&mut answer, backend::TransactionStatus::Idle);
    let got = exchange(
        &mut rig,
        &client().parse("s", "select id, email from customers").bind("", "s").execute("", 0).sync(),
        &answer,
    );
    assert_eq!(tags(&got), "12DCZI");
    assert!(!holds(&got, "ann@") && holds(&got, "***"));
    // Known from now on: the server is not asked again.
    let mut again = BytesMut::new();
    tagged(&mut again, backend::BIND_COMPLETE, b"");
    row(&mut again);
    tagged(&mut again, backend::COMMAND_COMPLETE, b"SELECT 1\0");
    write::ready_for_query(&mut again, backend::TransactionStatus::Idle);
    let got = exchange(&mut rig, &client().bind("", "s").execute("", 0).sync(), &again);
    assert_eq!(tags(&got), "2DCZI");
    assert!(!holds(&got, "ann@") && holds(&got, "***"));
}

#[test]
fn masks_are_laid_over_copies() {
    let mut rig = masked();
    let mut answer = BytesMut::new();
    tagged(&mut answer, backend::COPY_OUT_RESPONSE, b"\0\0\x02\0\0\0\0");
    tagged(&mut answer, backend::COPY_DATA, b"7\tann@exam");
    tagged(&mut answer, backend::COPY_DATA, b"ple.org\n8\tbob@example.org\n");
    tagged(&mut answer, backend::COPY_DONE, b"");
    tagged(&mut answer, backend::COMMAND_COMPLETE, b"COPY 2\0");
    write::ready_for_query(&mut answer, backend::TransactionStatus::Idle);
    let got = exchange(&mut rig, &client().query("copy customers (id, email) to stdout"), &answer);
    assert!(!holds(&got, "example.org") && holds(&got, "7\t***\n") && holds(&got, "8\t***\n"), "{got:?}");
    assert!(!format!("{:?}", rig.events).contains("example.org"));
    assert_eq!(rig.outcomes(), ["COPY 2"]);
}

#[test]
fn masks_are_laid_over_errors_notices_and_notifications() {
    let mut rig = masked();
    let mut answer = BytesMut::new();
    let fields = |severity: &str| {
        let text = |text: &str| text.as_bytes().to_vec();
        vec![
            (b'S', text(severity)),
            (b'V', text(severity)),
            (b'C', text("22P02")),
            (b'M', text("invalid input syntax for type integer: \"ann@example.org\"")),
            (b'D', text("ann@example.org")),
        ]
    };
    write::message(&mut answer, backend::NOTICE, &fields("NOTICE"));
    write::message(&mut answer, backend::ERROR, &fields("ERROR"));
    write::ready_for_query(&mut answer, backend::TransactionStatus::Idle);
    tagged(&mut answer, backend::NOTIFICATION, b"\0\0\0\x01ch\0ann@example.org\0");
    let got = exchange(&mut rig, &client().query("select email::int from customers"), &answer);
    assert_eq!(tags(&got), "NE(22P02)ZI A");
    assert!(!holds(&got, "ann@"));
    assert!(!format!("{:?}", rig.events).contains("ann@"));
    let OperationOutcome::Failed { sqlstate, .. } = &rig.completed()[0].outcome else { panic!("it failed") };
    assert_eq!(sqlstate, "22P02");
}

#[test]
fn without_masks_everything_passes_unchanged() {
    let mut rig = Rig::with(Limits::default(), context(), Arc::new(Masking::default()));
    let mut answer = BytesMut::new();
    described(&mut answer);
    row(&mut answer);
    let fields = vec![(b'S', b"NOTICE".to_vec()), (b'M', b"x".to_vec()), (b'?', b"new field".to_vec())];
    write::message(&mut answer, backend::NOTICE, &fields);
    tagged(&mut answer, backend::NOTIFICATION, b"\0\0\0\x01ch\0payload\0");
    tagged(&mut answer, backend::PARAMETER_STATUS, b"TimeZone\0UTC\0");
    tagged(&mut answer, backend::COMMAND_COMPLETE, b"SELECT 1\0");
    write::ready_for_query(&mut answer, backend::TransactionStatus::Open);
    let got = exchange(&mut rig, &client().query("select id, email from customers"), &answer);
    assert_eq!(got, answer);
}

#[test]
fn a_row_of_another_shape_is_not_shown() {
    let mut rig = masked();
    let mut answer = BytesMut::new();
    described(&mut answer);
    exchange(&mut rig, &client().query("select id, email from customers"), &answer);
    tagged(&mut rig.from_server, backend::DATA_ROW, b"\0\x01\0\0\0\x04ann@");
    let mut to_client = BytesMut::new();
    let error = rig.session.next_server(&mut rig.from_server, &mut to_client, &mut rig.events).unwrap_err();
    assert!(matches!(error, ProtocolError::Mask(_)));
    assert!(!holds(&error.fields().to_bytes(), "ann@"));
}

#[test]
fn what_would_carry_a_masked_value_away_is_refused() {
    let mut rig = masked();
    rig.send(&client().query("insert into orders (note) select email from customers").0);
    rig.send(&client().run("insert into orders (note) select email from customers").sync().0);
    assert_eq!(rig.got(), "E(42501)ZI E(42501)ZI");
    assert!(rig.server.ran.is_empty());
    // Rules that come later hold for what is prepared already.
    let (context, masking) = (Arc::clone(&rig.session.context), Arc::clone(&rig.session.masking));
    rig.session.set_context(Arc::clone(&context), Arc::new(Masking::default()));
    rig.send(&client().parse("s", "insert into orders (note) select email from customers").sync().0);
    rig.session.set_context(context, masking);
    rig.send(&client().bind("", "s").execute("", 0).sync().0);
    assert_eq!(rig.got(), "1ZI E(42501)ZI");
}
