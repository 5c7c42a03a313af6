//! Obligations: what is bound runs so, on every path.

use std::num::NonZeroU64;

use postern_core::policy::{By, Obliged};

use super::rig::*;
use crate::postgres::session::*;

fn rows(limit: u64) -> Obliged {
    let row_limit = NonZeroU64::new(limit).map(|limit| By { limit, policy: "few".parse().unwrap() });
    Obliged { row_limit, ..Obliged::default() }
}

fn reads() -> Obliged {
    Obliged { read_only: Some("reads".parse().unwrap()), ..Obliged::default() }
}

fn bound(obliged: Obliged) -> Rig {
    let mut rig = Rig::new(Limits::default());
    rig.session.set_obliging(!obliged.is_empty());
    rig.obliged = obliged;
    rig
}

const SET: &str = "SET transaction_read_only = on";

#[test]
fn no_more_rows_leave_than_may() {
    for recorded_rows in [0, 1_000] {
        let mut rig = Rig::new(Limits { recorded_rows, ..Limits::default() });
        rig.obliged = rows(3);
        rig.session.set_obliging(true);
        rig.send(&Client::default().query("select 3").0);
        assert_eq!(rig.got(), "TDDDCZI");
        rig.send(&Client::default().query("select 4").0);
        assert_eq!(rig.got(), "TDDDE(54000)ZI");
        assert_eq!(rig.outcomes(), ["SELECT 3", "54000"]);
        assert_eq!(rig.completed()[1].rows, 3);
        // Of all that is sent together.
        rig.send(&Client::default().query("select 2; select 2; select 1").0);
        assert_eq!(rig.got(), "TDDCTDE(54000)ZI");
        rig.send(&Client::default().query("select 1").0);
        assert_eq!(rig.got(), "TDCZI");
    }
}

#[test]
fn a_transaction_fails_with_it() {
    let mut rig = bound(rows(2));
    rig.send(&Client::default().query("begin").query("select 5").query("select 1").0);
    assert_eq!(rig.got(), "CZT TDDE(54000)ZE TDE(25P02)ZE");
    rig.send(&Client::default().query("rollback").0);
    assert_eq!(rig.got(), "CZI");
    let group = Client::default().run("begin").run("select 5").run("select 1").sync();
    rig.send(&group.0);
    assert_eq!(rig.got(), "12C12DDE(54000)ZE");
    rig.send(&Client::default().run("rollback").sync().run("select 2").sync().0);
    assert_eq!(rig.got(), "12CZI 12DDCZI");
}

#[test]
fn suspended_portals_are_counted_together() {
    let mut rig = bound(rows(5));
    let part = |rig: &mut Rig| {
        rig.send(&Client::default().execute("p", 2).flush().0);
        rig.got()
    };
    rig.send(&Client::default().parse("", "select 9").bind("p", "").flush().0);
    assert_eq!(rig.got(), "12");
    assert_eq!([part(&mut rig), part(&mut rig), part(&mut rig)], ["DDs", "DDs", "DE(54000)"]);
    // The group has failed, as after any error.
    assert_eq!(part(&mut rig), "");
    rig.send(&Client::default().sync().0);
    assert_eq!(rig.got(), "ZI");
    rig.send(&Client::default().execute("p", 2).sync().0);
    assert_eq!(rig.got(), "E(34000)ZI");
    // With Sync between, in a transaction.
    rig.send(&Client::default().run("begin").parse("", "select 9").bind("p", "").sync().0);
    assert_eq!(rig.got(), "12C12ZT");
    let part = |rig: &mut Rig| {
        rig.send(&Client::default().execute("p", 2).sync().0);
        rig.got()
    };
    assert_eq!([part(&mut rig), part(&mut rig), part(&mut rig)], ["DDsZT", "DDsZT", "DE(54000)ZE"]);
    assert_eq!(part(&mut rig), "E(34000)ZE");
}

#[test]
fn rows_of_a_copy_are_counted() {
    let mut rig = bound(rows(2));
    rig.send(&Client::default().query("copy t to stdout").0);
    assert_eq!(rig.got(), "HddcCZI");
    let mut rig = bound(rows(1));
    rig.send(&Client::default().query("copy t to stdout").0);
    assert_eq!(rig.got(), "HdE(54000)ZI");
    rig.send(&Client::default().run("copy t to stdout").sync().query("select 1").0);
    assert_eq!(rig.got(), "12HdE(54000)ZI TDCZI");
}

#[test]
fn what_is_recorded_is_what_left() {
    let mut rig = bound(rows(2));
    rig.send(&Client::default().query("select 4").0);
    let rows = rig.events.iter().filter(|event| matches!(event, ResultEvent::Row { .. })).count();
    assert_eq!(rows, 2);
}

#[test]
fn what_reads_only_runs_in_a_transaction_that_cannot_write() {
    let mut rig = bound(reads());
    rig.send(&Client::default().query("select 1").query("begin").query("select 2").query("commit").0);
    assert_eq!(rig.got(), "TDCZI CZT TDDCZT CZI");
    assert_eq!(rig.server.ran, [SET, "select 1", "begin", SET, "select 2", "commit"]);
    rig.server.ran.clear();
    // Said once for what is sent together, and anew after each Sync.
    rig.send(&Client::default().run("select 1").run("select 2").sync().run("select 3").sync().0);
    assert_eq!(rig.got(), "12DC12DDCZI 12DDDCZI");
    assert_eq!(rig.server.ran, [SET, "select 1", "select 2", SET, "select 3"]);
    rig.server.ran.clear();
    // What may change it lets it be said anew.
    let between = Client::default().run("begin").run("select 1").run("savepoint a").run("select 2").sync();
    rig.send(&between.0);
    assert_eq!(rig.got(), "12C12DC12C12DDCZT");
    assert_eq!(rig.server.ran, ["begin", SET, "select 1", "savepoint a", SET, "select 2"]);
}

#[test]
fn no_transaction_is_left_open() {
    let text = Client::default().query("select 1").query("select 2; select 1").query("select 1/0").query("select 3");
    let mut rig = bound(reads());
    rig.server.lingers = true;
    rig.send(&text.0);
    assert_eq!(rig.got(), "TDCZI TDDCTDCZI E(22012)ZI TDDDCZI");
    assert_eq!(rig.outcomes(), ["SELECT 1", "SELECT 2+SELECT 1", "22012", "SELECT 3"]);
    // What comes right behind a text waits for its end.
    rig.send(&Client::default().query("select 1").run("select 2").sync().query("select 1").sync().0);
    assert_eq!(rig.got(), "TDCZI 12DDCZI TDCZI ZI");
    // The client's own is its own.
    rig.send(&Client::default().query("begin").query("select 1").query("commit").query("copy t to stdout").0);
    assert_eq!(rig.got(), "CZT TDCZT CZI HddcCZI");
    let mut rig = bound(Obliged { read_only: reads().read_only, ..rows(2) });
    rig.server.lingers = true;
    rig.send(&Client::default().query("select 3").query("select 1").0);
    assert_eq!(rig.got(), "TDDE(54000)ZI TDCZI");
    assert!(!rig.server.broken);
}

#[test]
fn a_portal_is_read_only_each_time_it_runs() {
    let mut rig = bound(reads());
    rig.send(&Client::default().run("begin").parse("", "select 5").bind("p", "").execute("p", 2).sync().0);
    rig.send(&Client::default().run("rollback to a").execute("p", 2).sync().0);
    let set = rig.server.ran.iter().filter(|text| *text == SET).count();
    assert_eq!(set, 2, "{:?}", rig.server.ran);
    assert_eq!(rig.got(), "12C12DDsZT 12CDDsZT");
}

#[test]
fn a_failed_transaction_is_left_alone() {
    let mut rig = bound(reads());
    rig.send(&Client::default().query("begin").query("select 1/0").query("select 1").query("rollback").0);
    assert_eq!(rig.got(), "CZT E(22012)ZE TDE(25P02)ZE CZI");
    rig.send(&Client::default().run("begin").run("select 1/0").sync().run("select 1").sync().query("rollback").0);
    assert_eq!(rig.got(), "12C12E(22012)ZE E(25P02)ZE CZI");
}

#[test]
fn what_would_lift_it_in_the_same_text_is_refused() {
    for text in [
        "set transaction read write; select 1",
        "select 1; commit; select 2",
        "begin read write; select 1",
        "select 1; reset all",
        "call p()",
        "select 1; do $$ begin end $$",
    ] {
        let mut rig = bound(reads());
        rig.send(&Client::default().query(text).0);
        assert_eq!(rig.got(), "E(42501)ZI", "{text}");
        assert!(rig.server.ran.is_empty(), "{text}: {:?}", rig.server.ran);
    }
    let mut rig = bound(reads());
    rig.send(&Client::default().query("set transaction_read_only = off").query("begin read write").0);
    assert_eq!(rig.server.ran, ["set transaction_read_only = off", "begin read write"]);
}

#[test]
fn cursors_keep_what_they_were_declared_under() {
    let mut rig = bound(reads());
    rig.send(&Client::default().query("begin").query("declare c cursor for select 1").0);
    rig.obliged = Obliged::default();
    rig.server.ran.clear();
    rig.send(&Client::default().query("fetch all from c").query("select 1").query("commit").query("select 2").0);
    assert_eq!(rig.server.ran, [SET, "fetch all from c", "select 1", "commit", "select 2"]);
}
