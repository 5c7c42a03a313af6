//! Shutdown as clients see it: what was begun is finished, who comes is sent elsewhere.

use std::time::{Duration, Instant};

use postern_core::Code;
use postern_core::recording::Event;
use postern_gateway::GatewayConfig;
use postern_runtime::config::HumanDuration;
use postern_runtime::supervisor::Drained;

use crate::house::{House, db, principal};

const LONG: Duration = Duration::from_secs(60);

fn drain(limit: u64, grace: u64, notice: u64) -> impl FnOnce(&mut GatewayConfig) {
    let seconds = |value| HumanDuration(Duration::from_secs(value));
    move |config| {
        config.drain_limit = seconds(limit);
        config.drain_idle_grace = seconds(grace);
        config.drain_notice = seconds(notice);
    }
}

async fn closed(client: &tokio_postgres::Client) {
    let began = Instant::now();
    while !client.is_closed() {
        assert!(began.elapsed() < LONG, "the session does not end");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The codes with which the sessions ended, sorted; every recording verifies.
async fn ends(house: &House, count: usize) -> Vec<Option<Code>> {
    let mut codes = Vec::new();
    for known in 0..count {
        let (_, entries) = house.recording(known).await;
        match &entries[entries.len() - 2].event {
            Event::Ended { code, interrupted: false, .. } => codes.push(*code),
            other => panic!("{other:?}"),
        }
    }
    codes.sort_by_key(|code| code.map(Code::as_str));
    codes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_is_finished_and_idle_sessions_are_ended() {
    let house = House::with("", drain(600, 0, 600)).await;
    let (busy, idle) = (house.connect("writers").await, house.connect("readers").await);
    busy.sql.batch_execute("BEGIN; INSERT INTO items VALUES (100, 'begun before')").await.unwrap();
    idle.sql.simple_query("SELECT 1").await.unwrap();
    house.supervisor.request_shutdown("a test");
    closed(&idle.sql).await;
    let began = Instant::now();
    while house.gateway.readiness.is_ready() {
        assert!(began.elapsed() < LONG, "it still claims to be ready");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Who comes now is told to try again, in a way that libpq takes for a reason to try its next host.
    let token = house.token(&principal("ada", "readers"), 600);
    let (state, message) = db(&house.try_connect("db", &token).await.err().unwrap());
    assert_eq!(state, "57P03", "{message}");
    assert!(message.contains("connect again"), "{message}");
    // What was begun goes on, and its answer arrives.
    busy.sql.batch_execute("INSERT INTO items VALUES (101, 'and after'); COMMIT").await.unwrap();
    closed(&busy.sql).await;
    assert_eq!(house.supervisor.drain(LONG).await, Drained { all_ended: true, left: 0 });
    let rows = house.target.direct().await.unwrap().query("SELECT id FROM items WHERE id >= 100", &[]).await.unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(ends(&house, 2).await, [Some(Code::ShuttingDown); 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn within_the_grace_a_session_goes_on_from_one_transaction_to_the_next() {
    let house = House::with("", drain(600, 300, 0)).await;
    let client = house.connect("readers").await;
    house.supervisor.request_shutdown("a test");
    for _ in 0..5 {
        client.sql.simple_query("SELECT count(*) FROM items").await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(client);
    // Nobody is left, so nothing is waited for.
    let drained = tokio::time::timeout(LONG, house.supervisor.drain(LONG * 10)).await.unwrap();
    assert_eq!(drained, Drained { all_ended: true, left: 0 });
    assert_eq!(ends(&house, 1).await, [None]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limit_ends_what_is_left_and_so_does_a_second_signal() {
    for hurried in [false, true] {
        let house = House::with("", drain(if hurried { 600 } else { 1 }, 600, 600)).await;
        let client = house.connect("writers").await;
        client.sql.batch_execute("BEGIN; INSERT INTO items VALUES (100, 'never')").await.unwrap();
        let asked = async {
            if hurried {
                house.supervisor.hurry_token().cancel();
            }
            // The target is at work; what it would have said is never known.
            let error = client.sql.simple_query("SELECT pg_sleep(300)").await.unwrap_err();
            if let Some(told) = error.as_db_error() {
                assert_eq!(told.code().code(), "57P01");
            }
        };
        house.supervisor.request_shutdown("a test");
        let (drained, ()) = tokio::join!(house.supervisor.drain(LONG), asked);
        assert_eq!(drained, Drained { all_ended: true, left: 0 }, "hurried: {hurried}");
        assert_eq!(ends(&house, 1).await, [Some(Code::ShuttingDown)]);
        let rows = house.target.direct().await.unwrap().query("SELECT FROM items WHERE id >= 100", &[]).await.unwrap();
        assert_eq!(rows.len(), 0);
    }
}
