//! Sessions to which everything is granted: what cannot be classified passes, and is remembered.

use bytes::BufMut;

use super::flows::{client, rig};
use super::rig::{Client, Rig};
use crate::postgres::codec::{frontend, write};

fn open() -> Rig {
    let mut rig = rig();
    rig.session.set_open(true);
    rig
}

fn call(function: u32) -> Client {
    let mut call = client();
    write::frame(&mut call.0, frontend::FUNCTION_CALL, |out| {
        out.put_u32(function);
        out.put_slice(&[0, 1, 0, 1, 0, 1, 0, 0, 0, 4, 0, 0, 0, 9, 0, 1]);
    });
    call
}

#[test]
fn what_is_no_statement_is_the_servers_to_refuse() {
    let mut rig = open();
    rig.send(&client().query("selec 1").0);
    assert_eq!(rig.got(), "E(42601)ZI");
    assert_eq!((rig.server.ran.len(), rig.outcomes()), (1, vec!["42601".to_owned()]));
    // Nothing was done by it: what follows is classified as ever.
    rig.send(&client().query("select 1 from orders").0);
    assert!(!rig.actions[1].contains("sql:opaque"), "{:?}", rig.actions);
    assert!(rig.actions[0].contains("sql:opaque on database:shop"), "{:?}", rig.actions);
    rig.session.set_open(false);
    rig.got();
    rig.send(&client().query("selec 1").0);
    assert_eq!((rig.got().as_str(), rig.server.ran.len()), ("E(42501)ZI", 2));
    rig.send(&client().query("select 2").0);
    assert_eq!(rig.got(), "TDDCZI");
}

#[test]
fn what_ran_unfollowed_leaves_all_in_doubt_when_less_is_granted() {
    let mut rig = open();
    // The model takes it, as a server of another grammar would.
    rig.send(&client().query("frobnicate the search path").run("another verb").sync().0);
    assert_eq!(rig.got(), "CZI 12CZI");
    // Still told what it does, as far as can be told.
    rig.send(&client().query("select 1 from orders").0);
    let told = rig.actions.last().unwrap();
    assert!(told.contains("sql:select") && told.contains("sql:opaque"), "{told}");
    rig.send(&client().parse("s", "select 1").sync().0);
    rig.got();
    rig.session.set_open(false);
    let ran = rig.server.ran.len();
    rig.send(&client().query("select 2").run("select 2").sync().0);
    assert_eq!(rig.got(), "E(42501)ZI E(42501)ZI");
    // Nor by a name from before.
    rig.send(&client().bind("", "s").execute("", 0).sync().0);
    assert_eq!(rig.got(), "E(26000)ZI");
    assert_eq!(rig.server.ran.len(), ran);
}

#[test]
fn names_that_only_the_server_knows_are_its_own_to_judge() {
    let mut rig = open();
    rig.send(&client().bind("", "nonesuch").execute("", 0).sync().execute("nowhere", 0).sync().0);
    assert_eq!(rig.got(), "E(26000)ZI E(34000)ZI");
    // A portal that was made behind the session's back.
    rig.send(&client().query("begin").parse("s", "select 3").flush().0);
    let mut behind = client().bind("c", "s").flush();
    rig.server.feed(&behind.0.split());
    rig.server.output.clear();
    rig.got();
    rig.send(&client().execute("c", 2).execute("c", 0).sync().0);
    assert_eq!(rig.got(), "DDsDCZT");
    assert!(rig.decided.iter().any(|text| text == "portal \"c\""), "{:?}", rig.decided);
}

#[test]
fn a_function_call_is_decided_as_its_statement() {
    // lo_close(integer), as libpq calls it; the second function is none of large objects'.
    for (mut rig, other) in [(rig(), "E(42501)ZI"), (open(), "VZI")] {
        rig.send(&call(953).0);
        assert_eq!(rig.got(), "VZI");
        assert_eq!(rig.decided, ["SELECT pg_catalog.lo_close($1)"]);
        rig.send(&call(1610).0);
        assert_eq!(rig.got(), other);
        // The unnamed statement lives on.
        rig.send(&client().parse("", "select 1").sync().0);
        rig.send(&call(953).0);
        rig.got();
        rig.send(&client().bind("", "").execute("", 0).sync().0);
        assert_eq!(rig.got(), "2DCZI");
    }
}

#[test]
fn a_copy_that_was_not_followed_flows() {
    let mut rig = open();
    rig.session.begin_with([("client_encoding", "SJIS")], true);
    rig.send(&client().query("copy t from stdin").data(b"1\n2\n").done().0);
    assert_eq!(rig.got(), "GCZI");
    rig.send(&client().query("copy t to stdout").0);
    assert_eq!(rig.got(), "HddcCZI");
    assert_eq!(rig.outcomes(), ["COPY 2", "COPY"]);
    assert!(rig.actions.iter().all(|told| told == "sql:opaque on database:shop"), "{:?}", rig.actions);
    rig.session.set_open(false);
    rig.send(&client().query("select 1").0);
    assert_eq!(rig.got(), "E(42501)ZI");
}
