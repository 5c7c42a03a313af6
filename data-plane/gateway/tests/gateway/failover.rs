//! Recordings when the member of the control plane that takes them is lost in the middle of a session.

use std::time::{Duration, Instant};

use postern_core::recording::Event;
use postern_runtime::config::ByteSize;

use crate::control::Control;
use crate::house::House;

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(30), "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Who takes the recordings, and who does not.
async fn sides(house: &House) -> (Control, Control) {
    let (one, other) = (house.control.clone(), house.other.clone().unwrap());
    until("the session does not come to any member", || one.has().0 > 0 || other.has().0 > 0).await;
    if one.has().0 > 0 { (one, other) } else { (other, one) }
}

/// The sealed recording at `control`, checked, with so many operations.
fn whole(house: &House, control: &Control, operations: usize) {
    let sealed = control.sealed(&house.credential.ca_der());
    let (_, report, entries) = &sealed[0];
    assert!(report.is_good(), "{report}");
    assert!(matches!(entries[0].event, Event::Started(_)));
    let found = entries.iter().filter(|entry| matches!(entry.event, Event::Operation(_))).count();
    assert_eq!(found, operations);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_member_gets_all_of_an_open_session() {
    let house = House::with_two(|_| {}).await;
    let client = house.connect("readers").await;
    client.sql.simple_query("SELECT 1 FROM items").await.unwrap();
    let (first, second) = sides(&house).await;
    let before = first.has().0;
    client.sql.simple_query("SELECT 2 FROM items").await.unwrap();
    until("the second operation does not come", || first.has().0 >= before + 2).await;
    // Lost with all that it had acknowledged; then the other one too, while the first is back with what it had.
    first.away.send_replace(true);
    client.sql.simple_query("SELECT 3 FROM items").await.unwrap();
    until("the other member does not get it", || second.has().0 > first.has().0).await;
    first.away.send_replace(false);
    second.away.send_replace(true);
    client.sql.simple_query("SELECT 4 FROM items").await.unwrap();
    drop(client);
    until("the recording is not sealed", || !first.sealed(&house.credential.ca_der()).is_empty()).await;
    whole(&house, &first, 4);
}

/// The gateway keeps no long session whole: what it has no more, the new member gets from the old one, and the session waits for that.
/// Other sessions do not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_spool_has_no_more_is_waited_for() {
    let house = House::with_two(|config| config.spool_max = ByteSize(4 << 20)).await;
    let client = house.connect("readers").await;
    client.sql.simple_query("SELECT 1 FROM items").await.unwrap();
    let (first, second) = sides(&house).await;
    let mut operations = 1;
    // Some 200 KB of rows each.
    let began = Instant::now();
    while first.has().1 == 0 {
        assert!(began.elapsed() < Duration::from_secs(30), "the gateway keeps everything");
        client.sql.simple_query("SELECT repeat('x', 10000) FROM items").await.unwrap();
        operations += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let before = first.has().0;
    client.sql.simple_query("SELECT 2 FROM items").await.unwrap();
    operations += 1;
    until("the last operation does not come", || first.has().0 >= before + 2).await;
    first.away.send_replace(true);
    drop(client);
    until("the end is not tried at the other member", || second.has().1 > 0).await;
    assert_eq!(second.has().0, 0);
    // It is not in the way of others.
    drop(house.connect("readers").await);
    until("another session is not sealed", || second.sealed(&house.credential.ca_der()).len() == 1).await;
    second.fetch(&first);
    until("the recording is not sealed", || second.sealed(&house.credential.ca_der()).len() == 2).await;
    whole(&house, &second, operations);
}
