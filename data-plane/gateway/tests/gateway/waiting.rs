//! Held operations and cancel requests.

use std::time::Duration;

use postern_core::Code;
use postern_core::recording::{Event, OperationOutcome};
use postern_proto::resource::v1::ApprovalState;
use tokio_postgres::NoTls;

use crate::house::{House, db};

const LIMIT: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn held_and_approved() {
    let house = House::start().await;
    let mut client = house.connect("writers").await;
    let delete = client.sql.execute("DELETE FROM items WHERE id = $1", &[&1_i32]);
    let review = async {
        let approval = house.control.asked().await;
        assert_eq!((approval.text.as_str(), approval.digest.len()), ("DELETE FROM items WHERE id = $1", 32));
        let before: i64 = count(&house).await;
        assert_eq!(before, 20, "nothing ran yet");
        house.control.set(&approval.id, ApprovalState::Approved);
        approval.id
    };
    let (deleted, id) = tokio::join!(delete, review);
    assert_eq!(deleted.unwrap(), 1);
    assert_eq!(count(&house).await, 19);
    let notice = client.notices.recv().await.unwrap();
    assert!(notice.contains(&id) && notice.contains("leads"), "{notice}");
    house.control.until(&id, ApprovalState::Consumed).await;
    drop(client);
    let (_, entries) = house.recording(0).await;
    let states: Vec<_> = entries
        .iter()
        .filter_map(|entry| match &entry.event {
            Event::Approval { state, .. } => Some(state.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(states, ["pending", "consumed"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn held_and_denied_or_expired() {
    let house = House::start().await;
    let client = house.connect("writers").await;
    for (state, word) in [(ApprovalState::Denied, "reviewer"), (ApprovalState::Expired, "in time")] {
        let delete = client.sql.simple_query("DELETE FROM items WHERE id = 2");
        let review = async {
            let approval = house.control.asked().await;
            house.control.set(&approval.id, state);
        };
        let (deleted, ()) = tokio::join!(delete, review);
        let (code, message) = db(&deleted.unwrap_err());
        assert_eq!(code, "42501");
        assert!(message.contains(word), "{message}");
    }
    assert_eq!(count(&house).await, 20);
    client.sql.simple_query("SELECT 1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_withdraws() {
    let house = House::start().await;
    let mut client = house.connect("writers").await;
    let delete =
        tokio::time::timeout(Duration::from_millis(500), client.sql.simple_query("DELETE FROM items WHERE id = 2"));
    assert!(delete.await.is_err(), "still held");
    assert!(client.notices.recv().await.is_some());
    let id = house.control.asked().await.id;
    drop(client);
    // The driver waits for the answer before it leaves; a cut connection does not.
    house.control.set(&id, ApprovalState::Denied);
    house.recording(0).await;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut raw = raw_session(&house, "writers").await;
    raw.write_all(b"Q\0\0\0\x23DELETE FROM items WHERE id = 2\0").await.unwrap();
    let id = house.control.asked().await.id;
    raw.shutdown().await.unwrap();
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(LIMIT, raw.read_to_end(&mut rest)).await.unwrap();
    house.control.until(&id, ApprovalState::Withdrawn).await;
    let (_, entries) = house.recording(1).await;
    let not_run = entries.iter().any(|entry| {
        matches!(&entry.event, Event::Completed(completed) if completed.outcome == OperationOutcome::NotRun { code: Code::Cancelled })
    });
    assert!(not_run, "{entries:?}");
    assert_eq!(count(&house).await, 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancel_of_what_runs_and_of_what_is_held() {
    let house = House::start().await;
    let client = house.connect("writers").await;
    let token = client.sql.cancel_token();
    // What runs on the target is cancelled by the target.
    let slow = client.sql.simple_query("SELECT pg_sleep(30)");
    let cancel = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        token.cancel_query(NoTls).await.unwrap();
    };
    let (slow, ()) = tokio::time::timeout(LIMIT, async { tokio::join!(slow, cancel) }).await.unwrap();
    assert_eq!(db(&slow.unwrap_err()).0, "57014");
    // What is held never gets there.
    let held = client.sql.simple_query("DELETE FROM items WHERE id = 3");
    let cancel = async {
        let approval = house.control.asked().await;
        token.cancel_query(NoTls).await.unwrap();
        house.control.until(&approval.id, ApprovalState::Withdrawn).await;
    };
    let (held, ()) = tokio::time::timeout(LIMIT, async { tokio::join!(held, cancel) }).await.unwrap();
    assert_eq!(db(&held.unwrap_err()).0, "57014");
    assert_eq!(count(&house).await, 20);
    client.sql.simple_query("SELECT 1").await.unwrap();
    drop(client);
    let (_, entries) = house.recording(0).await;
    let requests = entries.iter().filter(|entry| matches!(entry.event, Event::CancelRequested { .. })).count();
    assert_eq!(requests, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_denies_meanwhile_withdraws() {
    let house = House::start().await;
    let client = house.connect("writers").await;
    let held = client.sql.simple_query("DELETE FROM items WHERE id = 3");
    let change = async {
        let approval = house.control.asked().await;
        house.apply(|snapshot| snapshot.policies.remove(&"held".parse().unwrap()));
        house.control.until(&approval.id, ApprovalState::Withdrawn).await;
    };
    let (held, ()) = tokio::time::timeout(LIMIT, async { tokio::join!(held, change) }).await.unwrap();
    assert_eq!(db(&held.unwrap_err()).0, "42501");
}

async fn count(house: &House) -> i64 {
    house.target.direct().await.unwrap().query_one("SELECT count(*) FROM items", &[]).await.unwrap().get(0)
}

/// A session without a driver, ready for a query.
pub(crate) async fn raw_session(house: &House, group: &str) -> tokio::net::TcpStream {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(house.gateway.postgres_addr).await.unwrap();
    let parameters = b"\0\x03\0\0user\0db\0database\0postgres\0\0";
    stream.write_all(&u32::try_from(parameters.len() + 4).unwrap().to_be_bytes()).await.unwrap();
    stream.write_all(parameters).await.unwrap();
    let token = house.token(&crate::house::principal("ada", group), 600);
    stream.write_all(b"p").await.unwrap();
    stream.write_all(&u32::try_from(token.len() + 5).unwrap().to_be_bytes()).await.unwrap();
    stream.write_all(token.as_bytes()).await.unwrap();
    stream.write_all(b"\0").await.unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"Z\0\0\0\x05I") {
        let size = stream.read_buf(&mut seen).await.unwrap();
        assert!(size > 0, "{}", seen.escape_ascii());
    }
    stream
}
