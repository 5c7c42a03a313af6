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
