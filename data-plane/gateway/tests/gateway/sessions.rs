//! Sessions as a driver sees them.

use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use postern_core::Code;
use postern_core::policy::Outcome;
use postern_core::recording::{Entry, Event, OperationOutcome, Value};
use tokio_postgres::SimpleQueryMessage;

use crate::house::{House, db, principal};

fn operations(entries: &[Entry]) -> Vec<(String, Outcome)> {
    let operation = |entry: &Entry| match &entry.event {
        Event::Operation(operation) => match &operation.text {
            Value::Text(text) => Some((text.clone(), operation.decision.outcome)),
            _ => None,
        },
        _ => None,
    };
    entries.iter().filter_map(operation).collect()
}

fn outcomes(entries: &[Entry]) -> Vec<OperationOutcome> {
    let completed = |entry: &Entry| match &entry.event {
        Event::Completed(completed) => Some(completed.outcome.clone()),
        _ => None,
    };
    entries.iter().filter_map(completed).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn permitted_and_denied() {
    let house = House::start().await;
    let client = house.connect("readers").await;
    let rows = client.sql.query("SELECT id, name FROM items WHERE id <= $1 ORDER BY id", &[&3_i32]).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.get::<_, String>(1)).collect::<Vec<_>>(), ["item 1", "item 2", "item 3"]);

    for (statement, state) in [
        ("DROP DATABASE postgres", "42501"),
        ("DELETE FROM items", "42501"),
        ("SELECT * FROM secrets", "42501"),
        ("SELECT pg_read_file('/etc/passwd')", "42501"),
        ("SELEC 1", "42601"),
        ("DO $$ BEGIN END $$", "42501"),
    ] {
        let error = client.sql.simple_query(statement).await.unwrap_err();
        let (found, message) = db(&error);
        assert_eq!(found, state, "{statement}: {message}");
        assert!(message.contains("dec_"), "{statement}: {message}");
        // The connection lives on.
        assert_eq!(client.sql.simple_query("SELECT 1").await.unwrap().len(), 3);
    }
    // The server's own errors pass.
    let error = client.sql.query("SELECT 1/(id - id) FROM items", &[]).await.unwrap_err();
    assert_eq!(db(&error).0, "22012");
    drop(client);

    let (_, entries) = house.recording(0).await;
    let all = operations(&entries);
    assert!(all.iter().any(|(text, outcome)| text.starts_with("DROP") && *outcome == Outcome::Deny), "{all:?}");
    assert!(all.iter().any(|(text, outcome)| text.contains("$1") && *outcome == Outcome::Permit), "{all:?}");
    let outcomes = outcomes(&entries);
    assert!(outcomes.contains(&OperationOutcome::NotRun { code: Code::Denied }), "{outcomes:?}");
    assert!(
        outcomes
            .iter()
            .any(|outcome| matches!(outcome, OperationOutcome::Failed { sqlstate, .. } if sqlstate == "22012"))
    );
    assert!(matches!(entries[0].event, Event::Started(_)));
    assert!(matches!(&entries[entries.len() - 2].event, Event::Ended { code: None, interrupted: false, .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denial_in_a_transaction_and_in_a_pipeline() {
    let house = House::start().await;
    let mut client = house.connect("writers").await;
    let transaction = client.sql.transaction().await.unwrap();
    transaction.execute("INSERT INTO items VALUES (100, 'new')", &[]).await.unwrap();
    assert_eq!(db(&transaction.execute("TRUNCATE items", &[]).await.unwrap_err()).0, "42501");
    // As after any error: nothing works until the end.
    assert_eq!(db(&transaction.execute("SELECT 1", &[]).await.unwrap_err()).0, "25P02");
    transaction.rollback().await.unwrap();
    let count: i64 = client.sql.query_one("SELECT count(*) FROM items", &[]).await.unwrap().get(0);
    assert_eq!(count, 20);

    // Sent without waiting for each other.
    let good = client.sql.prepare("SELECT id FROM items WHERE id = $1").await.unwrap();
    let (one, two, three) = tokio::join!(
        client.sql.query(&good, &[&1_i32]),
        client.sql.query("TRUNCATE items", &[]),
        client.sql.query(&good, &[&2_i32]),
    );
    assert_eq!(one.unwrap()[0].get::<_, i32>(0), 1);
    assert_eq!(db(&two.unwrap_err()).0, "42501");
    assert_eq!(three.unwrap()[0].get::<_, i32>(0), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn masked_in_text_binary_copy_and_recording() {
    let house = House::start().await;
    let client = house.connect("readers").await;
    let binary = client.sql.query("SELECT id, email FROM people ORDER BY id", &[]).await.unwrap();
    assert_eq!(binary[0].get::<_, String>(1), "***");
    let text = client.sql.simple_query("SELECT email FROM people").await.unwrap();
    let shown: Vec<_> = text
        .iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        })
        .collect();
    assert_eq!(shown, ["***", "***"]);
    let copied: Vec<_> = client.sql.copy_out("COPY people TO STDOUT").await.unwrap().collect().await;
    let copied: Vec<u8> = copied.into_iter().flat_map(|part| part.unwrap()).collect();
    assert_eq!(copied, b"1\t***\n2\t***\n");
    drop(client);
    let (_, entries) = house.recording(0).await;
    let all = serde_json::to_string(&entries).unwrap();
    assert!(all.contains("***") && !all.contains("example.org"), "{all}");
    // Who is exempt sees them.
    house.apply(|snapshot| {
        let readers = snapshot.policies.get(&"read".parse().unwrap()).unwrap().clone();
        let mut owners = readers;
        owners.principals.groups = vec!["owners".into()];
        snapshot.policies.insert("owners".parse().unwrap(), owners);
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let client = house.connect("owners").await;
    let rows = client.sql.query("SELECT email FROM people ORDER BY id", &[]).await.unwrap();
    assert_eq!(rows[0].get::<_, String>(0), "ada@example.org");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copy_in_and_large_results() {
    let house = House::with("CREATE TABLE public.bulk (id int, body text);", |_| {}).await;
    let client = house.connect("writers").await;
    let sink = client.sql.copy_in::<_, bytes::Bytes>("COPY bulk FROM STDIN").await.unwrap();
    let mut sink = std::pin::pin!(sink);
    for id in 0..2_000 {
        sink.send(format!("{id}\t{}\n", "x".repeat(1_000)).into()).await.unwrap();
    }
    assert_eq!(sink.finish().await.unwrap(), 2_000);
    // Two megabytes back, past what the recording keeps and what the buffers hold.
    let rows = client.sql.query("SELECT id, body FROM bulk ORDER BY id", &[]).await.unwrap();
    assert_eq!(rows.len(), 2_000);
    assert!(rows.iter().all(|row| row.get::<_, String>(1).len() == 1_000));
    drop(client);
    let (_, entries) = house.recording(0).await;
    let completed: Vec<_> = entries
        .iter()
        .filter_map(|entry| match &entry.event {
            Event::Completed(completed) => Some(completed),
            _ => None,
        })
        .collect();
    assert_eq!(completed[0].rows_in, 2_000);
    let read = completed.iter().find(|completed| completed.rows == 2_000).unwrap();
    assert!(read.rows_omitted >= 1_000 && read.rows_omitted < 2_000, "{read:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_session_creates_it_may_use() {
    let house = House::start().await;
    let client = house.connect("writers").await;
    client.sql.batch_execute("CREATE TABLE made (id int)").await.unwrap();
    client.sql.batch_execute("INSERT INTO made VALUES (1)").await.unwrap();
    let count: i64 = client.sql.query_one("SELECT count(*) FROM made", &[]).await.unwrap().get(0);
    assert_eq!(count, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_tokens_and_targets() {
    let house = House::start().await;
    let reader = principal("ada", "readers");
    let good = house.token(&reader, 600);
    let mut tampered = good.clone();
    tampered.replace_range(good.len() - 4..good.len() - 2, "AA");
    for (token, state) in
        [(house.token(&reader, -10), "28P01"), (tampered, "28P01"), ("not-a-token".to_owned(), "28P01")]
    {
        let error = house.try_connect("db", &token).await.err().unwrap();
        let (found, message) = db(&error);
        assert_eq!(found, state, "{message}");
        assert!(!message.contains(&token));
    }
    // One answer for what is not there and for what is not one's own.
    let unknown = db(&house.try_connect("nothing", &good).await.err().unwrap());
    let stranger = house.token(&principal("eve", "nobody"), 600);
    let foreign = db(&house.try_connect("db", &stranger).await.err().unwrap());
    assert_eq!(unknown.0, "3D000");
    assert_eq!(unknown, foreign);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policy_changes_reach_live_sessions() {
    let house = House::start().await;
    let client = house.connect("readers").await;
    client.sql.simple_query("SELECT * FROM items").await.unwrap();
    house.apply(|snapshot| {
        let read = snapshot.policies.get_mut(&"read".parse().unwrap()).unwrap();
        read.resources = vec![postern_core::policy::Pattern::parse("public.people").unwrap()];
    });
    let began = std::time::Instant::now();
    // By sessions of their own: what runs when it arrives ends its session.
    while house.connect("readers").await.sql.simple_query("SELECT * FROM items").await.is_ok() {
        assert!(began.elapsed() < Duration::from_secs(5), "the change does not arrive");
    }
    assert_eq!(db(&client.sql.simple_query("SELECT * FROM items").await.unwrap_err()).0, "42501");
    client.sql.simple_query("SELECT id FROM people").await.unwrap();
    // With nothing left, the session ends.
    house.apply(|snapshot| snapshot.policies.remove(&"read".parse().unwrap()));
    while !client.sql.is_closed() {
        assert!(began.elapsed() < Duration::from_secs(10), "the session does not end");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let ended =
        |entries: &[Entry]| matches!(&entries[entries.len() - 2].event, Event::Ended { code: Some(Code::Denied), .. });
    while !house.control.sealed(&house.credential.ca_der()).iter().any(|(.., entries)| ended(entries)) {
        assert!(began.elapsed() < Duration::from_secs(15), "its recording does not say why");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_ends_its_session() {
    let house = House::start().await;
    let mut ada = principal("ada", "readers");
    ada.expires_at = Some(postern_runtime::clock::now().plus(Duration::from_secs(2)));
    let client = house.try_connect("db", &house.token(&ada, 2)).await.unwrap();
    client.sql.simple_query("SELECT 1").await.unwrap();
    let (_, entries) = house.recording(0).await;
    assert!(
        matches!(&entries[entries.len() - 2].event, Event::Ended { code: Some(Code::TokenExpired), .. }),
        "{entries:?}"
    );
    assert!(client.sql.simple_query("SELECT 1").await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_seals_and_uploads() {
    let house = House::start().await;
    let client = house.connect("readers").await;
    client.sql.simple_query("SELECT 1").await.unwrap();
    let drained = house.supervisor.drain(Duration::from_secs(10)).await;
    assert!(drained.all_ended, "{drained:?}");
    let (_, entries) = house.recording(0).await;
    assert!(matches!(&entries[entries.len() - 2].event, Event::Ended { code: Some(Code::ShuttingDown), .. }));
    assert_eq!(house.supervisor.failure(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_is_down() {
    let house = House::start().await;
    house.apply(|snapshot| {
        let target = snapshot.targets.get_mut(&"db".parse().unwrap()).unwrap();
        target.value.address = "127.0.0.1:1".parse().unwrap();
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let token = house.token(&principal("ada", "readers"), 600);
    let (state, message) = db(&house.try_connect("db", &token).await.err().unwrap());
    assert_eq!(state, "57P03", "{message}");
    let (_, entries) = house.recording(0).await;
    assert!(matches!(&entries[1].event, Event::Ended { code: Some(Code::TargetUnavailable), .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_too_many_is_told_to_come_later() {
    let house = House::with("", |config| config.limits.max_connections = 1).await;
    let client = house.connect("readers").await;
    let token = house.token(&principal("ada", "readers"), 600);
    assert_eq!(db(&house.try_connect("db", &token).await.err().unwrap()).0, "53300");
    drop(client);
    house.recording(0).await;
    house.connect("readers").await.sql.simple_query("SELECT 1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policy_that_is_too_old_opens_no_session() {
    let old = |config: &mut postern_gateway::GatewayConfig| {
        config.staleness_limit = postern_runtime::config::HumanDuration(Duration::from_millis(700));
    };
    let house = House::with("", old).await;
    let token = house.token(&principal("ada", "readers"), 600);
    let client = house.try_connect("db", &token).await.unwrap();
    // The control plane that is played here sends no heartbeats.
    tokio::time::sleep(Duration::from_millis(900)).await;
    assert_eq!(db(&house.try_connect("db", &token).await.err().unwrap()).0, "57P03");
    // Policy says nothing of it, so what is open ends, also when nothing wakes it.
    let (_, entries) = house.recording(0).await;
    assert!(matches!(&entries[entries.len() - 2].event, Event::Ended { code: Some(Code::PolicyUnavailable), .. }));
    assert!(client.sql.simple_query("SELECT 1").await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policy_may_say_that_what_is_open_goes_on() {
    let old = |config: &mut postern_gateway::GatewayConfig| {
        config.staleness_limit = postern_runtime::config::HumanDuration(Duration::from_millis(700));
    };
    let house = House::with("", old).await;
    house.apply(|snapshot| {
        let read = snapshot.policies.get_mut(&"read".parse().unwrap()).unwrap();
        read.staleness.then = postern_core::policy::OnStale::Keep;
        let mut short = read.clone();
        short.staleness.then = postern_core::policy::OnStale::End;
        short.resources = vec![postern_core::policy::Pattern::parse("public.secrets").unwrap()];
        snapshot.policies.insert("short".parse().unwrap(), short);
    });
    let client = house.connect("readers").await;
    let began = std::time::Instant::now();
    // Until the change is there, and then until it is too old.
    let mut permitted = false;
    loop {
        match client.sql.simple_query("SELECT * FROM secrets").await {
            Ok(_) => permitted = true,
            Err(error) if permitted => {
                let (state, message) = db(&error);
                assert_eq!(state, "57P03", "{message}");
                break;
            }
            Err(_) => {}
        }
        assert!(began.elapsed() < Duration::from_secs(10), "it does not become too old");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    client.sql.simple_query("SELECT * FROM items").await.unwrap();
    let token = house.token(&principal("ada", "readers"), 600);
    assert_eq!(db(&house.try_connect("db", &token).await.err().unwrap()).0, "57P03");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_beginnings_are_answered_and_harm_nothing() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let house = House::start().await;
    for (bytes, said) in [
        (&b"\0\0\0\x08\xff\xff\xff\xff"[..], Some("0A000")),
        (b"\0\0\0\x09\0\x03\0\0\0", Some("08P01")),
        // No packet of this protocol, by its length: as PostgreSQL, not a word.
        (b"\xff\xff\xff\xff\0\0\0\0", None),
        (b"\0\0\0\x04", None),
        (b"GET / HTTP/1.1\r\n\r\n", None),
    ] {
        let mut stream = tokio::net::TcpStream::connect(house.gateway.postgres_addr).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await.unwrap().unwrap();
        let as_expected = match said.map(|said| format!("C{said}\0")) {
            Some(code) => answer.windows(code.len()).any(|window| window == code.as_bytes()),
            None => answer.is_empty(),
        };
        assert!(as_expected, "{}: {}", bytes.escape_ascii(), answer.escape_ascii());
    }
    house.connect("readers").await.sql.simple_query("SELECT 1").await.unwrap();
}
