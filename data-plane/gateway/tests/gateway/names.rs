//! Names that are newer than the catalog, where masks hold (I3, I4).

use std::time::{Duration, Instant};

use crate::house::{Client, House};

/// Everything of the target's is permitted to writers, masks hold for them.
async fn open_house() -> House {
    let house = House::with(
        "CREATE FUNCTION public.hide() RETURNS void LANGUAGE sql AS 'CREATE TEMP TABLE hidden AS SELECT 1 AS id';",
        |_| {},
    )
    .await;
    house.apply(|snapshot| {
        let write = snapshot.policies.get_mut(&"write".parse().unwrap()).unwrap();
        write.resources.clear();
        write.actions = vec![postern_core::policy::ActionPattern::Any];
    });
    let began = Instant::now();
    while house.connect("writers").await.sql.batch_execute("SET work_mem = '8MB'").await.is_err() {
        assert!(began.elapsed() < Duration::from_secs(20), "the change does not arrive");
    }
    house
}

async fn count(client: &Client, table: &str) -> Option<String> {
    let rows = client.sql.simple_query(&format!("SELECT count(*) FROM {table}")).await.unwrap();
    rows.iter().find_map(|row| match row {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_session_has_just_made_is_counted_right() {
    let house = open_house().await;
    let (maker, reader) = (house.connect("writers").await, house.connect("writers").await);
    assert_eq!(count(&reader, "items").await.as_deref(), Some("20"));
    for (place, name) in ["fresh_a", "public.fresh_b", "fresh_c"].into_iter().enumerate() {
        // Looked for before it is there: that is no reason to take its rows for masked later.
        if place == 2 {
            assert!(reader.sql.simple_query("SELECT count(*) FROM fresh_c").await.is_err());
        }
        maker.sql.batch_execute(&format!("CREATE TABLE {name} AS SELECT FROM generate_series(1, 3)")).await.unwrap();
        assert_eq!(count(&reader, name).await.as_deref(), Some("3"), "{name}");
        let prepared = reader.sql.query_one(&format!("SELECT count(*) FROM {name}"), &[]).await.unwrap();
        assert_eq!(prepared.get::<_, Option<i64>>(0), Some(3), "{name}");
    }
}

/// What no catalog will ever have must not cost a second each time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_no_catalog_waits_once() {
    let house = open_house().await;
    let client = house.connect("writers").await;
    client.sql.batch_execute("CREATE TEMP TABLE own AS SELECT FROM generate_series(1, 3)").await.unwrap();
    let began = Instant::now();
    for _ in 0..10 {
        assert_eq!(count(&client, "own").await.as_deref(), Some("3"));
    }
    client.sql.batch_execute("BEGIN; CREATE TABLE uncommitted AS SELECT FROM generate_series(1, 3)").await.unwrap();
    for _ in 0..10 {
        count(&client, "uncommitted").await;
    }
    client.sql.batch_execute("ROLLBACK").await.unwrap();
    client.sql.simple_query("SELECT hide()").await.unwrap();
    for _ in 0..10 {
        // In doubt its rows are masked.
        count(&client, "hidden").await;
    }
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

/// While the catalog that a session's own change made old cannot be read, the session is as alive as ever: what it asked can be cancelled, and a
/// change of policy ends it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_whose_catalog_is_slow_is_not_held_up_by_it() {
    const SOON: Duration = Duration::from_secs(10);
    let house = open_house().await;
    let client = house.connect("writers").await;
    client.sql.batch_execute("CREATE TABLE public.changed (id int)").await.unwrap();
    // What reads the catalog waits for this; what reads tables does not.
    let (lock, watch) = (house.target.direct().await.unwrap(), house.target.direct().await.unwrap());
    lock.batch_execute("BEGIN; LOCK TABLE pg_catalog.pg_inherits IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let began = Instant::now();
    let asked = client.sql.simple_query("SELECT count(*) FROM items");
    let cancelled = async {
        // Until the catalog's connection waits for the lock.
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'postern catalog' AND wait_event_type = 'Lock'";
        while watch.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) == 0 {
            assert!(began.elapsed() < SOON, "nobody reads the catalog");
        }
        client.sql.cancel_token().cancel_query(tokio_postgres::NoTls).await.unwrap();
    };
    let (answer, ()) = tokio::join!(asked, cancelled);
    assert_eq!(answer.unwrap_err().code().unwrap().code(), "57014");
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());

    // The next one waits again, and what ends the session does not wait for it.
    let asked = client.sql.simple_query("SELECT count(*) FROM items");
    let disabled = async {
        house.apply(|snapshot| snapshot.targets.get_mut(&"db".parse().unwrap()).unwrap().value.disabled = true);
    };
    let (answer, ()) = tokio::join!(asked, disabled);
    answer.unwrap_err();
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    lock.batch_execute("ROLLBACK").await.unwrap();
}
