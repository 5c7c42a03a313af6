//! Single flows, told by the tags that the client gets: `C` for CommandComplete, `E(42501)` for an error, `ZI` for ReadyForQuery while idle.

use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use postern_core::policy::Obliged;
use postern_core::recording::Value;
use postern_core::{Code, OperationId, Timestamp};
use proptest::prelude::*;

use super::masks::{holds, tagged};
use super::rig::{Client, Rig, tags};
use crate::postgres::analyze::tests::context as shop;
use crate::postgres::codec::{CodecError, write};
use crate::postgres::errors::ErrorFields;
use crate::postgres::mask::Masking;
use crate::postgres::session::*;

pub(super) fn rig() -> Rig {
    Rig::new(Limits::default())
}

pub(super) fn client() -> Client {
    Client::default()
}

#[test]
fn a_denial_leaves_an_idle_session_alone() {
    let mut rig = rig();
    rig.send(&client().query("select 'deny'").0);
    assert_eq!(rig.got(), "E(42501)ZI");
    assert!(rig.server.ran.is_empty());
    rig.send(&client().query("select 2").0);
    assert_eq!(rig.got(), "TDDCZI");
    assert_eq!(rig.outcomes(), ["SELECT 2"]);
    assert!(rig.session.is_idle());
}

#[test]
fn a_server_that_says_why_it_ends_the_session_has_the_last_word() {
    let mut rig = rig();
    for (error, last) in [
        (ErrorFields::error(Code::TargetUnavailable, "of a statement's"), false),
        (ErrorFields::fatal(Code::ShuttingDown, "terminating connection due to administrator command"), true),
    ] {
        rig.send(&client().query("select 2").0);
        error.encode(&mut rig.from_server);
        let mut to_client = BytesMut::new();
        // Nothing is asked of it: an error that ends nothing is one too many.
        let _ = rig.session.next_server(&mut rig.from_server, &mut to_client, &mut rig.events);
        assert_eq!(rig.session.said_last(), last);
    }
}

#[test]
fn a_denial_fails_the_transaction_that_it_is_in() {
    let mut rig = rig();
    rig.send(&client().query("begin").query("select 'deny'").query("select 1").query("rollback").0);
    assert_eq!(rig.got(), "CZT E(42501)ZE TE(25P02)ZE CZI".replace("TE(", "TDE("));
    assert_eq!(rig.server.ran, ["begin", "select 1", "rollback"]);
}

#[test]
fn a_denial_in_a_pipeline_skips_to_sync_and_no_further() {
    let mut rig = rig();
    rig.send(
        &client().run("select 1").run("select 'deny'").run("insert into t values (1)").sync().run("select 2").sync().0,
    );
    assert_eq!(rig.got(), "12DCE(42501)ZI 12DDCZI");
    assert_eq!(rig.server.ran, ["select 1", "select 2"]);
    assert_eq!(rig.decided, ["select 1", "select 1", "select 'deny'", "select 2", "select 2"]);
    assert_eq!(rig.outcomes(), ["SELECT 1", "SELECT 2"]);
}

#[test]
fn what_is_held_at_bind_is_prepared_but_does_not_run() {
    let mut rig = rig();
    rig.send(&client().parse("s", "select 'hold'").describe(b'S', "s").sync().bind("", "s").execute("", 0).sync().0);
    assert_eq!(rig.got(), "1tnZI E(42501)ZI");
    assert!(rig.server.ran.is_empty());
}

#[test]
fn a_name_means_what_the_server_has_it_mean() {
    // The second Parse is skipped by the server, so "" still is the first: whoever decides by the second is fooled.
    let mut rig = rig();
    rig.send(&client().parse("", "select 'hold'").sync().0);
    rig.send(&client().bind("", "nonesuch").parse("", "select 1").sync().bind("", "").execute("", 0).sync().0);
    assert_eq!(rig.decided, ["select 'hold'", "select 'hold'"]);
    assert_eq!(rig.got(), "1ZI E(26000)ZI E(42501)ZI");
    assert!(rig.server.ran.is_empty());
}

#[test]
fn a_name_is_not_taken_from_a_parse_that_the_server_may_have_skipped() {
    let mut rig = rig();
    rig.send(&client().parse("s", "select 'hold'").sync().0);
    // Everything is sent before the server answers that the first of it failed.
    let group = client().run("select 1/0").close(b'S', "s").parse("s", "select 1").sync();
    rig.from_client.extend_from_slice(&group.bind("", "s").execute("", 0).sync().0);
    while rig.client_step() {}
    rig.run();
    assert_eq!(rig.got(), "1ZI 12E(22012)ZI E(42501)ZI");
    assert_eq!(rig.server.ran, ["select 1/0"]);
    assert_eq!(rig.decided.last().unwrap(), "select 'hold'");
}

#[test]
fn a_portal_is_not_taken_from_a_bind_that_the_server_may_have_skipped() {
    let mut rig = rig();
    rig.send(&client().query("begin").parse("one", "select 1").parse("two", "select 2").bind("p", "one").sync().0);
    let group = client().bind("p", "two").close(b'P', "p").bind("p", "two").sync();
    rig.from_client.extend_from_slice(&group.execute("p", 0).sync().0);
    while rig.client_step() {}
    rig.run();
    // The name is taken, so the group fails; the transaction with it, and its portals.
    assert_eq!(rig.got(), "CZT 112ZT E(42P03)ZE E(34000)ZE");
}

#[test]
fn names_that_only_the_server_knows_are_not_run() {
    let mut rig = rig();
    rig.send(&client().bind("", "unknown").execute("", 0).sync().execute("cursor", 0).sync().0);
    assert_eq!(rig.got(), "E(26000)ZI E(34000)ZI");
    assert!(rig.decided.is_empty() && rig.server.ran.is_empty());
}

#[test]
fn copies_go_both_ways() {
    let mut rig = rig();
    rig.send(&client().query("copy t from stdin").data(b"1\n").data(b"2\n").done().query("copy t to stdout").0);
    assert_eq!(rig.got(), "GCZI HddcCZI");
    // Sync while rows are taken is ignored by the server, and there is no answer to it.
    rig.send(&client().run("copy t from stdin").sync().data(b"1\n").sync().done().sync().query("select 1").0);
    assert_eq!(rig.got(), "12GCZI TDCZI");
    rig.send(&client().run("copy t from stdin").data(b"1\n").copy_fail().data(b"late\n").sync().0);
    assert_eq!(rig.got(), "12GE(57014)ZI");
    let completed = rig.completed();
    assert_eq!(completed[0].rows_in, 2);
    assert_eq!((completed[1].rows, completed[1].bytes), (2, 4));
    let copied = |event: &&ResultEvent| matches!(event, ResultEvent::Row { values, .. } if values[0] == Value::Text("a\n".into()));
    assert_eq!(rig.events.iter().filter(copied).count(), 1);
    assert_eq!(rig.outcomes(), ["COPY 2", "COPY", "COPY 2", "SELECT 1", "57014"]);
}

#[test]
fn other_messages_during_copy_end_the_session() {
    let mut rig = rig();
    rig.send(&client().query("copy t from stdin").0);
    rig.from_client.extend_from_slice(&client().query("select 1").0);
    let error = rig.session.next_client(&mut rig.from_client).unwrap_err();
    assert_eq!(error, ProtocolError::DuringCopy(b'Q'));
    assert_eq!(error.fields().sqlstate, "08P01");
}

#[test]
fn a_function_call_is_refused() {
    let mut rig = rig();
    let mut bytes = BytesMut::new();
    write::frame(&mut bytes, b'F', |out| out.put_slice(&[0, 0, 4, 210, 0, 0, 0, 0, 0, 0]));
    rig.send(&bytes);
    assert_eq!(rig.got(), "E(42501)ZI");
    assert_eq!(rig.decided, ["function call of OID 1234"]);
}

#[test]
fn a_portal_is_one_operation_however_often_it_is_executed() {
    let mut rig = rig();
    rig.send(&client().query("begin").0);
    rig.send(&client().parse("", "select 5").bind("p", "").execute("p", 2).sync().0);
    rig.send(&client().execute("p", 2).sync().0);
    rig.send(&client().execute("p", 2).sync().query("commit").0);
    assert_eq!(rig.got(), "CZT 12DDsZT DDsZT DCZT CZI");
    assert_eq!(rig.outcomes(), ["BEGIN", "SELECT 5", "COMMIT"]);
    let select = rig.completed()[1];
    assert_eq!((select.rows, select.rows_omitted), (5, 0));
    let columns = rig.events.iter().filter(|event| matches!(event, ResultEvent::Columns { .. })).count();
    assert_eq!(columns, 1);
    // A portal that is left unfinished ends with its transaction.
    rig.send(&client().query("begin").parse("", "select 5").bind("p", "").execute("p", 2).sync().query("rollback").0);
    assert_eq!(rig.outcomes().last().unwrap(), "");
    assert!(rig.session.running.is_empty());
}

#[test]
fn rows_past_the_limit_are_counted_and_not_recorded() {
    let mut rig = Rig::new(Limits { recorded_rows: 3, high_water: 200, ..Limits::default() });
    rig.send(&client().query("select 500").run("select 400").sync().0);
    assert_eq!(tags(&rig.to_client.split()).matches('D').count(), 900);
    let rows = rig.events.iter().filter(|event| matches!(event, ResultEvent::Row { .. })).count();
    assert_eq!(rows, 6);
    let [first, second] = rig.completed()[..] else { panic!("two operations") };
    assert_eq!((first.rows, first.rows_omitted), (500, 497));
    assert_eq!((second.rows, second.rows_omitted), (400, 397));
    // Count and length of one column, and the digits of 0 to 499.
    assert_eq!(first.bytes, 500 * 6 + 10 + 180 + 1_200);
}

/// The messages of rows in what went to a client, in their order.
fn row_messages(mut sent: &[u8]) -> Vec<&[u8]> {
    let mut rows = Vec::new();
    while let [tag, a, b, c, d, ..] = *sent {
        let (message, rest) = sent.split_at(1 + u32::from_be_bytes([a, b, c, d]) as usize);
        rows.extend(matches!(tag, b'D' | b'd').then_some(message));
        sent = rest;
    }
    rows
}

/// Whoever has the rows can prove that they are those that the client got.
#[test]
fn rows_past_the_limit_have_a_digest_of_what_the_client_got() {
    let sha256 = |messages: &[&[u8]]| {
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &messages.concat());
        postern_core::operation::Digest::from_slice(hash.as_ref())
    };
    for (recorded_rows, high_water) in [(3, 200), (0, 200), (3, 1 << 20), (150, 700)] {
        let mut rig = Rig::new(Limits { recorded_rows, high_water, ..Limits::default() });
        rig.send(&client().query("select 500").0);
        let sent = rig.to_client.split();
        let omitted = &row_messages(&sent)[usize::try_from(recorded_rows).unwrap()..];
        assert_eq!(rig.completed()[0].omitted_digest, sha256(omitted), "{recorded_rows} {high_water}");
    }
    let mut rig = Rig::new(Limits { recorded_rows: 3, digest_omitted: false, ..Limits::default() });
    rig.send(&client().query("select 500").0);
    let completed = rig.completed()[0];
    assert_eq!((completed.rows_omitted, completed.omitted_digest), (497, None));
    // There is none where nothing is left out.
    rig.send(&client().query("select 3").0);
    assert_eq!(rig.completed()[1].omitted_digest, None);
}

#[test]
fn what_is_under_way_when_the_server_goes_away_is_unknown() {
    let mut rig = rig();
    rig.from_client.extend_from_slice(&client().query("select 1").0);
    rig.client_step();
    rig.client_step();
    rig.session.abandon(&mut rig.events);
    assert_eq!(rig.outcomes(), ["unknown"]);
}

#[test]
fn a_reply_that_answers_nothing_ends_the_session() {
    let answer = |bytes: &[u8]| {
        let mut rig = rig();
        rig.from_server.extend_from_slice(bytes);
        let mut out = BytesMut::new();
        rig.session.next_server(&mut rig.from_server, &mut out, &mut rig.events)
    };
    assert_eq!(answer(b"D\0\0\0\x06\0\0"), Err(ProtocolError::Unexpected(b'D')));
    assert_eq!(answer(b"Z\0\0\0\x05I"), Err(ProtocolError::Unexpected(b'Z')));
    assert_eq!(answer(b"W\0\0\0\x07\0\0\0"), Err(ProtocolError::Unexpected(b'W')));
    assert_eq!(
        answer(b"S\0\0\0\x1aclient_encoding\0LATIN1\0"),
        Err(ProtocolError::Server(CodecError::Malformed { tag: b'S', what: "a string has no end" }))
    );
    assert_eq!(answer(b"S\0\0\0\x1bclient_encoding\0LATIN1\0"), Err(ProtocolError::Setting("client_encoding")));
    let strings = answer(b"S\0\0\0\x24standard_conforming_strings\0off\0");
    assert_eq!(strings, Err(ProtocolError::Setting("standard_conforming_strings")));
    assert_eq!(answer(b"S\0\0\0\x11TimeZone\0UTC\0"), Ok(ServerProgress::NeedMore));
}

#[test]
fn a_long_statement_is_refused_before_it_arrives() {
    let mut rig = rig();
    rig.from_client.put_slice(b"Q\x7f\xff\xff\xff");
    let error = rig.session.next_client(&mut rig.from_client).unwrap_err();
    assert_eq!(error.fields().sqlstate, "54000");
}

#[test]
fn nothing_else_is_read_while_an_operation_is_decided() {
    let mut rig = rig();
    rig.from_client.extend_from_slice(&client().query("select 1").query("select 2").0);
    let ClientStep::Decide(first) = rig.session.next_client(&mut rig.from_client).unwrap() else {
        panic!("a decision")
    };
    assert!(matches!(rig.session.next_client(&mut rig.from_client), Ok(ClientStep::Wait)));
    let bytes = rig.session.permit(first, OperationId::new(Timestamp::from_millis(1), 1), Obliged::default());
    assert_eq!(&bytes[..], &client().query("select 1").0[..]);
    assert!(matches!(rig.session.next_client(&mut rig.from_client), Ok(ClientStep::Decide(_))));
}

#[test]
fn what_could_not_be_classified_is_not_forwarded_even_if_permitted() {
    let mut rig = rig();
    rig.from_client.extend_from_slice(&client().query("select from where").0);
    let ClientStep::Decide(pending) = rig.session.next_client(&mut rig.from_client).unwrap() else {
        panic!("a decision")
    };
    assert!(pending.actions().is_err());
    let bytes = rig.session.permit(pending, OperationId::new(Timestamp::from_millis(1), 1), Obliged::default());
    assert!(!bytes.windows(4).any(|window| window == b"from"), "{bytes:?}");
}

#[test]
fn prepared_by_sql_and_bound_by_the_protocol() {
    let mut rig = rig();
    rig.send(&client().query("prepare s as select 1").bind("", "s").sync().0);
    // The model does not know PREPARE; what counts is what was decided.
    assert_eq!(rig.decided, ["prepare s as select 1", "prepare s as select 1"]);
    rig.send(&client().query("deallocate s").bind("", "s").sync().0);
    assert_eq!(rig.decided.len(), 3);
}

#[test]
fn an_operation_that_means_something_else_by_now_does_not_run() {
    let mut rig = Rig::with(Limits::default(), Arc::new(shop()), Arc::new(Masking::default()));
    rig.from_client.extend_from_slice(&client().query("select id from customers").0);
    let ClientStep::Decide(pending) = rig.session.next_client(&mut rig.from_client).unwrap() else {
        panic!("a decision")
    };
    // While it is held, the catalog is read anew: the name is another table's.
    let mut elsewhere = shop();
    elsewhere.search_path = vec!["app".into()];
    rig.session.set_context(Arc::new(elsewhere), Arc::new(Masking::default()));
    let bytes = rig.session.permit(pending, OperationId::new(Timestamp::from_millis(1), 1), Obliged::default());
    assert!(!holds(&bytes, "customers"));
    rig.server.feed(&bytes);
    rig.run();
    assert_eq!(rig.got(), "E(42501)ZI");
    assert_eq!(rig.outcomes(), ["25P02"]);
}

proptest! {
    #[test]
    fn random_bytes_never_panic(tag in "[A-Za-z0-9]", body in prop::collection::vec(any::<u8>(), 0..60), noise in prop::collection::vec(any::<u8>(), 0..40)) {
        let sent = client().parse("s", "select 1").describe(b'S', "s").bind("", "s").execute("", 0).query("copy t to stdout").0;
        for taken in 0..6 {
            let mut rig = rig();
            rig.from_client.extend_from_slice(&sent);
            (0..taken).for_each(|_| { rig.client_step(); });
            tagged(&mut rig.from_server, tag.as_bytes()[0], &body);
            rig.from_server.extend_from_slice(&noise);
            let mut to_client = BytesMut::new();
            let _ = rig.session.next_server(&mut rig.from_server, &mut to_client, &mut rig.events);
            let mut from_client = BytesMut::new();
            tagged(&mut from_client, tag.as_bytes()[0], &body);
            from_client.extend_from_slice(&noise);
            while let Ok(ClientStep::Forward(_)) = rig.session.next_client(&mut from_client) {}
        }
    }
}

#[test]
fn a_statement_is_read_by_the_settings_before_it() {
    let mut rig = Rig::with(Limits::default(), Arc::new(shop()), Arc::new(Masking::default()));
    let sent =
        client().query("select id from customers").query("set search_path to app").query("select id from customers");
    rig.from_client.extend_from_slice(&sent.run("select state from jobs").sync().0);
    while rig.client_step() {}
    // The third waits for the second, whose outcome decides what it means.
    assert_eq!(rig.decided.len(), 2);
    rig.run();
    assert_eq!(rig.actions[0], "sql:select on shop.public.customers");
    assert_eq!(
        rig.actions[2..],
        ["sql:select on shop.app.customers", "sql:select on shop.app.jobs", "sql:select on shop.app.jobs"]
    );
}

#[test]
fn a_prepared_statement_is_decided_by_what_it_means_when_it_is_bound() {
    let mut rig = Rig::with(Limits::default(), Arc::new(shop()), Arc::new(Masking::default()));
    rig.send(&client().parse("s", "select id from customers").sync().0);
    rig.send(&client().query("set search_path to app").bind("", "s").sync().0);
    assert_eq!(rig.actions[0], "sql:select on shop.public.customers");
    assert_eq!(rig.actions[2], "sql:select on shop.app.customers");
}

#[test]
fn a_parameter_of_a_type_that_is_cast_without_being_asked_is_in_doubt() {
    let mut rig = Rig::with(Limits::default(), Arc::new(shop()), Arc::new(Masking::default()));
    let insert = |kind: u32| {
        let mut sent = BytesMut::new();
        write::parse(&mut sent, b"s", b"insert into orders (note) values ($1)", &kind.to_be_bytes());
        sent.extend_from_slice(&client().sync().0);
        sent
    };
    // `mood` is cast to text, by assignment, by a function of the database's own; 25 is text.
    rig.send(&insert(30_000));
    rig.send(&insert(25));
    rig.send(&insert(0));
    assert_eq!(rig.actions, ["", "sql:insert on shop.public.orders", "sql:insert on shop.public.orders"]);
}
