//! How long tokens may live: by their issuer's word, and by policy's.

use std::time::{Duration, Instant};

use postern_core::Ttl;
use postern_core::issuer::Issuer;
use postern_core::policy::{Authentication, Policy};
use postern_core::snapshot::Snapshot;
use postern_runtime::clock;

use crate::house::{House, db, principal};
use crate::issuer_keys::{Key, URL};

/// Longer than a policy takes to arrive.
const SOON: Duration = Duration::from_secs(15);

fn with_limit(snapshot: &mut Snapshot, key: &Key) {
    let issuer = Issuer { max_token_ttl: Some(Ttl(60)), ..Issuer::new_oidc(URL, ["postern"]) };
    snapshot.issuers.insert("corp".parse().unwrap(), (issuer, Some(key.jwks())));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuers_own_token_opens_sessions_no_longer_than_it_says() {
    let house = House::start().await;
    let key = Key::new("k1");
    house.apply(|snapshot| with_limit(snapshot, &key));
    let day = clock::now().secs() + 86_400;
    let issued = |ago: u64| key.token_of("k1", Some(clock::now().secs() - ago), day);
    let began = Instant::now();
    let client = loop {
        match house.try_connect("db", &issued(56)).await {
            Ok(client) => break client,
            Err(error) => assert!(began.elapsed() < SOON, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    // It was issued for a day, and the session ends within the minute.
    let ended = loop {
        match client.sql.query("SELECT id FROM public.items", &[]).await {
            Ok(_) => assert!(began.elapsed() < SOON, "the session goes on"),
            Err(error) => break error,
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(ended.is_closed() || ended.as_db_error().is_some(), "{ended:?}");
    for token in [issued(61), key.token_of("k1", None, day)] {
        let refused = house.try_connect("db", &token).await.err().unwrap();
        assert_eq!(db(&refused).0, "28P01", "{refused:?}");
    }
    // A session token was made as long as it may be.
    drop(house.try_connect("db", &house.token(&principal("ada", "readers"), 600)).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn policy_asks_for_tokens_that_live_shortly() {
    let house = House::start().await;
    house.apply(|snapshot| {
        let read = "read".parse().unwrap();
        let known = snapshot.policies.get(&read).unwrap();
        let mut policy = Policy::clone(known);
        policy.when.authentication =
            Some(Authentication { max_token_ttl: Some(Ttl(300)), ..Authentication::default() });
        snapshot.policies.insert(read, policy);
    });
    let (long, short) =
        (house.token(&principal("ada", "readers"), 600), house.token(&principal("ada", "readers"), 200));
    let began = Instant::now();
    let refused = loop {
        match house.try_connect("db", &long).await {
            Err(error) => break error,
            Ok(_) => assert!(began.elapsed() < SOON, "it is let in"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(db(&refused).1.contains("postern token --ttl 300s"), "{refused:?}");
    let client = house.try_connect("db", &short).await.unwrap();
    assert_eq!(client.sql.query("SELECT id FROM public.items", &[]).await.unwrap().len(), 20);
}
