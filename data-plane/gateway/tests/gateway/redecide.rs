//! I6: what policy says reaches sessions that are open: idle ones, and in the middle of what they do.

use std::time::{Duration, Instant};

use postern_core::Code;
use postern_core::masking::{MaskFunction, MaskingRule};
use postern_core::policy::{Effect, OnStale, Pattern};
use postern_core::recording::{Entry, Event};
use postern_core::snapshot::Snapshot;
use postern_core::target::TargetSelector;
use postern_runtime::telemetry;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::house::{House, db};
use crate::waiting::raw_session;

const LIMIT: Duration = Duration::from_secs(20);

/// All that comes until the connection ends.
async fn rest(mut stream: TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    let read = tokio::time::timeout(LIMIT, stream.read_to_end(&mut rest)).await.expect("the session does not end");
    read.unwrap();
    rest
}

fn has(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

async fn query(stream: &mut TcpStream, sql: &str) {
    let length = u32::try_from(sql.len() + 5).unwrap().to_be_bytes();
    stream.write_all(&[b"Q", length.as_slice(), sql.as_bytes(), b"\0"].concat()).await.unwrap();
}

fn deny(snapshot: &mut Snapshot, resource: &str) {
    let mut deny = snapshot.policies.get(&"read".parse().unwrap()).unwrap().clone();
    deny.effect = Effect::Deny;
    deny.resources = vec![Pattern::parse(resource).unwrap()];
    snapshot.policies.insert("freeze".parse().unwrap(), deny);
}

fn mask_items(snapshot: &mut Snapshot) {
    let rule = MaskingRule {
        targets: TargetSelector { names: vec!["*".into()], ..Default::default() },
        columns: vec![Pattern::parse("public.items.name").unwrap()],
        mask: MaskFunction::Redact("@@@".into()),
        exempt_groups: vec![],
        ..Default::default()
    };
    snapshot.masking.insert("items".parse().unwrap(), rule);
}

/// Until the gateway decides by what was applied last.
async fn taken(house: &House) {
    let newest = house.control.policy.borrow().as_ref().map_or(0, |snapshot| snapshot.revision);
    let gauge = format!("postern_gateway_policy_revision {newest}\n");
    let began = Instant::now();
    while !telemetry::install_metrics().render().contains(&gauge) {
        assert!(began.elapsed() < LIMIT, "revision {newest} is not taken");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Until a session of its own shows that the change has arrived.
async fn masked(house: &House) {
    let began = Instant::now();
    loop {
        let client = house.connect("readers").await;
        let rows = client.sql.query("SELECT name FROM items LIMIT 1", &[]).await.unwrap();
        if rows[0].get::<_, String>(0) == "@@@" {
            return;
        }
        assert!(began.elapsed() < LIMIT, "the change does not arrive");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_sessions_end_with_what_they_stood_on() {
    // From the first policy on.
    let _ = telemetry::install_metrics();
    let house = House::start().await;
    let changes: [fn(&mut Snapshot); 6] = [
        |snapshot| snapshot.targets.get_mut(&"db".parse().unwrap()).unwrap().value.disabled = true,
        |snapshot| snapshot.targets.remove(&"db".parse().unwrap()),
        |snapshot| snapshot.targets.get_mut(&"db".parse().unwrap()).unwrap().value.databases = vec!["other".into()],
        |snapshot| snapshot.issuers.remove(&"ci".parse().unwrap()),
        |snapshot| snapshot.issuers.get_mut(&"ci".parse().unwrap()).unwrap().0.url = "https://other.example".into(),
        // An identity that was locked out: it is denied everything.
        |snapshot| {
            deny(snapshot, "public.items");
            let freeze = snapshot.policies.get_mut(&"freeze".parse().unwrap()).unwrap();
            freeze.resources.clear();
            freeze.actions = vec![postern_core::policy::ActionPattern::Any];
            freeze.principals.groups.clear();
            freeze.principals.subjects = vec![crate::house::principal("ada", "readers").id];
        },
    ];
    for (place, change) in changes.into_iter().enumerate() {
        let session = raw_session(&house, "readers").await;
        house.apply(change);
        let told = rest(session).await;
        assert!(has(&told, b"C42501\0") && has(&told, b"ended by policy"), "{place}: {}", told.escape_ascii());
        let denied = |entries: &[Entry]| {
            entries.iter().any(|entry| matches!(entry.event, Event::Ended { code: Some(Code::Denied), .. }))
        };
        let began = Instant::now();
        loop {
            let sealed = house.control.sealed(&house.credential.ca_der());
            if sealed.iter().filter(|(.., entries)| denied(entries)).count() > place {
                break;
            }
            assert!(began.elapsed() < LIMIT, "{place}: its recording does not say why");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        house.apply(|_| {});
        taken(&house).await;
        // There is a way back.
        house.connect("readers").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_runs_is_stopped_at_the_target() {
    let house = House::start().await;
    let mut session = raw_session(&house, "writers").await;
    query(&mut session, "SELECT pg_sleep(600)").await;
    let direct = house.target.direct().await.unwrap();
    let running = async || -> i64 {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT pg_sleep%'";
        direct.query_one(sql, &[]).await.unwrap().get(0)
    };
    let began = Instant::now();
    while running().await == 0 {
        assert!(began.elapsed() < LIMIT, "it does not run");
    }
    house.apply(|snapshot| {
        snapshot.policies.remove(&"write".parse().unwrap());
        snapshot.policies.remove(&"held".parse().unwrap());
    });
    assert!(has(&rest(session).await, b"C42501\0"));
    let began = Instant::now();
    while running().await > 0 {
        assert!(began.elapsed() < LIMIT, "it goes on without anybody");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_denied_now_ends_in_the_middle_and_nothing_else_does() {
    let house = House::start().await;
    let mut people = raw_session(&house, "readers").await;
    let mut items = raw_session(&house, "readers").await;
    let many = "FROM people p, generate_series(1, 5000000)";
    query(&mut people, &format!("SELECT p.id {many}")).await;
    query(&mut items, "SELECT i.id FROM items i, generate_series(1, 20000)").await;
    let mut first = [0; 100];
    people.read_exact(&mut first).await.unwrap();
    house.apply(|snapshot| deny(snapshot, "public.people"));
    assert!(has(&rest(people).await, b"C42501\0"));
    let mut seen = Vec::new();
    while !seen.ends_with(b"Z\0\0\0\x05I") {
        assert!(items.read_buf(&mut seen).await.unwrap() > 0);
    }
    assert!(has(&seen, b"SELECT 400000\0"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_portal_that_is_open_is_not_read_on() {
    let house = House::start().await;
    let mut client = house.connect("readers").await;
    let transaction = client.sql.transaction().await.unwrap();
    let portal = transaction.bind("SELECT id FROM people ORDER BY id", &[]).await.unwrap();
    assert_eq!(transaction.query_portal(&portal, 1).await.unwrap().len(), 1);
    house.apply(|snapshot| deny(snapshot, "public.people"));
    let (_, entries) = house.recording(0).await;
    assert!(matches!(&entries[entries.len() - 2].event, Event::Ended { code: Some(Code::Denied), .. }));
    assert!(transaction.query_portal(&portal, 1).await.is_err());
}

/// I4: rows that are still to come are masked by the rules of now.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_to_come_have_the_masks_of_now() {
    let house = House::start().await;
    let mut session = raw_session(&house, "readers").await;
    query(&mut session, "SELECT i.name FROM items i, generate_series(1, 100000)").await;
    let mut first = [0; 100];
    session.read_exact(&mut first).await.unwrap();
    house.apply(mask_items);
    masked(&house).await;
    let mut seen = Vec::new();
    while !seen.ends_with(b"Z\0\0\0\x05I") {
        assert!(session.read_buf(&mut seen).await.unwrap() > 0);
    }
    assert!(has(&seen, b"SELECT 2000000\0"));
    let last_clear = seen.windows(5).rposition(|window| window == b"item ").unwrap();
    let first_masked = seen.windows(3).position(|window| window == b"@@@").expect("nothing was masked");
    assert!(last_clear < first_masked, "once masked, for good");
    // In the next statement all are.
    query(&mut session, "SELECT name FROM items").await;
    let mut seen = Vec::new();
    while !seen.ends_with(b"Z\0\0\0\x05I") {
        assert!(session.read_buf(&mut seen).await.unwrap() > 0);
    }
    assert!(has(&seen, b"@@@") && !has(&seen, b"item "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_whose_rows_would_be_masked_otherwise_ends() {
    let house = House::start().await;
    let mut session = raw_session(&house, "readers").await;
    query(&mut session, "COPY (SELECT i.name FROM items i, generate_series(1, 200000)) TO STDOUT").await;
    let mut first = [0; 100];
    session.read_exact(&mut first).await.unwrap();
    house.apply(mask_items);
    masked(&house).await;
    assert!(has(&rest(session).await, b"C42501\0"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_concern_a_session_changes_nothing_for_it() {
    let house = House::start().await;
    let mut client = house.connect("readers").await;
    let transaction = client.sql.transaction().await.unwrap();
    let portal = transaction.bind("SELECT id FROM people ORDER BY id", &[]).await.unwrap();
    assert_eq!(transaction.query_portal(&portal, 1).await.unwrap().len(), 1);
    for round in 0..5 {
        house.apply(|snapshot| {
            deny(snapshot, "public.people");
            let freeze = snapshot.policies.get_mut(&"freeze".parse().unwrap()).unwrap();
            freeze.principals.groups = vec![format!("others-{round}")];
            freeze.staleness.then = OnStale::End;
        });
    }
    assert_eq!(transaction.query_portal(&portal, 1).await.unwrap().len(), 1);
    transaction.commit().await.unwrap();
    assert_eq!(db(&client.sql.simple_query("SELECT * FROM secrets").await.unwrap_err()).0, "42501");
}
