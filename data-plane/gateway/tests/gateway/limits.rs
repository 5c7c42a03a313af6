//! Overload as clients see it (I12), and clients that only take (I11).

use std::time::{Duration, Instant};

use postern_core::Code;
use postern_core::allowance::Allowance;
use postern_core::recording::{Entry, Event, OperationOutcome};
use postern_runtime::config::HumanDuration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::house::{Client, House, db, principal};

const LONG: Duration = Duration::from_secs(60);

async fn connect(house: &House, subject: &str) -> Result<Client, tokio_postgres::Error> {
    house.try_connect("db", &house.token(&principal(subject, "readers"), 600)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_identity_has_its_share_of_sessions() {
    let house = House::with("", |config| config.limits.principal.sessions = 2).await;
    let ada = [connect(&house, "ada").await.unwrap(), connect(&house, "ada").await.unwrap()];
    let (state, message) = db(&connect(&house, "ada").await.err().unwrap());
    assert_eq!(state, "53300", "{message}");
    assert!(message.contains("of this identity") && message.contains("try again"), "{message}");
    connect(&house, "bob").await.unwrap().sql.simple_query("SELECT 1").await.unwrap();
    drop(ada);
    let began = Instant::now();
    while connect(&house, "ada").await.is_err() {
        assert!(began.elapsed() < LONG, "its places do not come back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operations_past_their_rate_are_refused_and_the_session_lives() {
    let house = House::with("", |config| {
        config.limits.principal.operations_per_second = 5;
        config.limits.operation_wait = HumanDuration(Duration::ZERO);
    })
    .await;
    let (ada, bob) = (connect(&house, "ada").await.unwrap(), connect(&house, "bob").await.unwrap());
    let mut refused = 0;
    for _ in 0..30 {
        if let Err(error) = ada.sql.simple_query("SELECT 1").await {
            let (state, message) = db(&error);
            assert_eq!(state, "53400", "{message}");
            assert!(error.as_db_error().unwrap().hint().unwrap().contains("ms"));
            refused += 1;
        }
    }
    assert!(refused >= 10, "{refused}");
    bob.sql.simple_query("SELECT 1").await.unwrap();
    // In a transaction a refused operation is a failed one: the whole can be tried again.
    let began = Instant::now();
    while ada.sql.batch_execute("ROLLBACK").await.is_err() {
        assert!(began.elapsed() < LONG, "no room comes");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(ada);
    let (_, entries) = house.recording(0).await;
    let shed = entries.iter().filter(|entry| {
        matches!(&entry.event, Event::Completed(completed)
            if completed.outcome == OperationOutcome::NotRun { code: Code::RateLimited })
    });
    assert!(shed.count() >= refused, "each is in the recording");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_waits_its_turn() {
    let house = House::with("", |config| config.limits.principal.operations_per_second = 50).await;
    let ada = connect(&house, "ada").await.unwrap();
    let began = Instant::now();
    for _ in 0..75 {
        ada.sql.simple_query("SELECT 1").await.unwrap();
    }
    assert!(began.elapsed() >= Duration::from_millis(400), "{:?}", began.elapsed());
}

/// A raw session that has logged in.
async fn raw(house: &House) -> TcpStream {
    let mut stream = TcpStream::connect(house.gateway.postgres_addr).await.unwrap();
    let mut startup = vec![0, 3, 0, 0];
    startup.extend_from_slice(b"user\0db\0database\0postgres\0\0");
    let framed = |body: &[u8]| [&u32::try_from(body.len() + 4).unwrap().to_be_bytes()[..], body].concat();
    stream.write_all(&framed(&startup)).await.unwrap();
    let token = house.token(&principal("ada", "writers"), 600);
    let password = [&b"p"[..], &framed(format!("{token}\0").as_bytes())].concat();
    stream.write_all(&password).await.unwrap();
    let mut seen = Vec::new();
    while !seen.windows(6).any(|window| window == b"Z\0\0\0\x05I") {
        assert_ne!(stream.read_buf(&mut seen).await.unwrap(), 0, "{}", seen.escape_ascii());
    }
    stream
}

fn query(sql: &str) -> Vec<u8> {
    [&b"Q"[..], &u32::try_from(sql.len() + 5).unwrap().to_be_bytes(), sql.as_bytes(), b"\0"].concat()
}

/// Half a gigabyte that nobody reads: the target itself has to wait, the gateway keeps none of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_reads_stops_its_target() {
    let house = House::start().await;
    let mut stream = raw(&house).await;
    stream.write_all(&query("SELECT repeat('x', 1000) FROM items, items a, items b, items c, items d")).await.unwrap();
    let direct = house.target.direct().await.unwrap();
    let began = Instant::now();
    let waits = "SELECT FROM pg_stat_activity WHERE wait_event = 'ClientWrite' AND query LIKE '%repeat(%'";
    let mut before = 0;
    // Once its target waits, memory does not grow.
    for _ in 0..5 {
        while direct.query(waits, &[]).await.unwrap().is_empty() {
            assert!(began.elapsed() < LONG, "the target is never stopped");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let now = resident();
        assert!(before == 0 || now < before + 32_000, "{before} KiB, then {now}");
        before = now;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    connect(&house, "bob").await.unwrap().sql.simple_query("SELECT 1").await.unwrap();
}

/// Statements without end to a target that is busy: the client has to wait, the gateway keeps few of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_never_reads_stops_its_client() {
    let house = House::start().await;
    let mut stream = raw(&house).await;
    stream.write_all(&query("SELECT pg_sleep(300)")).await.unwrap();
    let statement = query(&format!("SELECT '{}'", "x".repeat(100_000)));
    let (mut sent, most) = (0, 64 << 20);
    while let Ok(written) = tokio::time::timeout(Duration::from_secs(3), stream.write_all(&statement)).await {
        written.unwrap();
        sent += statement.len();
        assert!(sent < most, "{sent} bytes were taken for a target that takes none");
    }
    connect(&house, "bob").await.unwrap().sql.simple_query("SELECT 1").await.unwrap();
}

/// This process's resident memory, in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// More connections that never show a token than there is room for: who means it gets through all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_that_never_shows_a_token_keeps_nobody_out() {
    let house = House::with("", |config| {
        config.limits.max_handshakes = 20;
        config.limits.max_handshakes_per_address = 20;
    })
    .await;
    let mut crowd = Vec::new();
    for round in 0..5 {
        for _ in 0..40 {
            let mut stream = TcpStream::connect(house.gateway.postgres_addr).await.unwrap();
            let _ = stream.write_all(&[0]).await;
            crowd.push(stream);
        }
        let client = connect(&house, "bob").await.unwrap_or_else(|error| panic!("round {round}: {error}"));
        client.sql.simple_query("SELECT 1").await.unwrap();
    }
    // Those who had to go are gone, the newest are not.
    let mut gone = 0;
    for stream in &mut crowd {
        let closed = tokio::time::timeout(Duration::from_millis(5), stream.read_u8()).await;
        gone += usize::from(closed.is_ok_and(|read| read.is_err()));
    }
    assert!((180..200).contains(&gone), "{gone} of 200");
}

/// Limits of policy and target come with the policy, and act on sessions that are open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_of_policy_hold_for_open_sessions_and_others_do_not_feel_them() {
    let house = House::with("", |config| config.limits.operation_wait = HumanDuration(Duration::ZERO)).await;
    let (ada, bob) = (connect(&house, "ada").await.unwrap(), connect(&house, "bob").await.unwrap());
    let run = async |client: &Client| client.sql.simple_query("SELECT 1").await;
    for _ in 0..20 {
        run(&ada).await.unwrap();
    }
    let limits =
        |sessions, operations_per_second| Allowance { sessions, operations_per_second, ..Allowance::default() };
    // Of ada alone: a second policy, which permits her no more than the first.
    house.apply(|snapshot| {
        let mut hers = snapshot.policies.get(&"read".parse().unwrap()).unwrap().clone();
        hers.principals.groups.clear();
        hers.principals.subjects = vec![principal("ada", "readers").id];
        hers.limits = limits(1, 5);
        snapshot.policies.insert("hers".parse().unwrap(), hers);
    });
    let began = Instant::now();
    let error = loop {
        assert!(began.elapsed() < LONG, "the limit does not arrive");
        if let Err(error) = run(&ada).await {
            break error;
        }
    };
    let (state, message) = db(&error);
    assert!(state == "53400" && message.contains("of this identity on this target"), "{state} {message}");
    for _ in 0..20 {
        run(&bob).await.unwrap();
    }
    // She stays, and has no second session; bob has.
    let (state, message) = db(&connect(&house, "ada").await.err().unwrap());
    assert!(state == "53300" && message.contains("of this identity on this target"), "{state} {message}");
    drop(connect(&house, "bob").await.unwrap());
    // The target's, of all sessions.
    house.apply(|snapshot| {
        snapshot.targets.get_mut(&"db".parse().unwrap()).unwrap().value.limits = limits(1, 0);
    });
    while let Ok(more) = connect(&house, "bob").await {
        drop(more);
        assert!(began.elapsed() < LONG, "the target's limit does not arrive");
    }
    let (state, message) = db(&connect(&house, "eve").await.err().unwrap());
    assert!(state == "53300" && message.contains("on this target"), "{state} {message}");
    // Taken back, it is gone.
    house.apply(|_| {});
    while connect(&house, "eve").await.is_err() {
        assert!(began.elapsed() < LONG, "the limit stays");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    run(&ada).await.unwrap();
}

/// With as little as may be in flight, large results and statements still pass whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn little_in_flight_is_slower_and_nothing_else() {
    let house = House::start().await;
    house.apply(|snapshot| {
        snapshot.targets.get_mut(&"db".parse().unwrap()).unwrap().value.limits.in_flight_bytes = 4096;
    });
    let client = connect(&house, "ada").await.unwrap();
    let sql = format!("SELECT '{}' || i.id FROM items i, generate_series(1, 1000)", "x".repeat(300_000 / 1000));
    let rows = client.sql.simple_query(&sql).await.unwrap();
    assert!(rows.len() > 20_000, "{}", rows.len());
    let long = format!("SELECT id FROM items WHERE name <> '{}'", "y".repeat(200_000));
    assert_eq!(client.sql.query(&long, &[]).await.unwrap().len(), 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_only_prepares_is_past_a_rate_too() {
    let house = House::with("", |config| {
        config.limits.principal.operations_per_second = 5;
        config.limits.operation_wait = HumanDuration(Duration::ZERO);
    })
    .await;
    let ada = connect(&house, "ada").await.unwrap();
    let mut refused = 0;
    for n in 0..30 {
        if let Err(error) = ada.sql.prepare(&format!("SELECT {n}")).await {
            let (state, message) = db(&error);
            assert!(state == "53400" && message.contains("statements to prepare"), "{state} {message}");
            refused += 1;
        }
    }
    assert!(refused >= 10, "{refused}");
}

/// Sessions of one identity, each with an operation that waits for its turn, a second after the other.
async fn in_turn(house: &House, count: usize) -> (Vec<tokio_postgres::CancelToken>, Vec<Answer>) {
    let (mut cancels, mut answers) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let client = connect(house, "ada").await.unwrap();
        cancels.push(client.sql.cancel_token());
        let (to, answer) = tokio::sync::oneshot::channel();
        crate::house::spawn(async move {
            let _ = to.send(client.sql.simple_query("SELECT 1").await.map(drop));
        });
        answers.push(answer);
    }
    (cancels, answers)
}

type Answer = tokio::sync::oneshot::Receiver<Result<(), tokio_postgres::Error>>;

async fn patient() -> House {
    House::with("", |config| {
        config.limits.principal.operations_per_second = 1;
        config.limits.operation_wait = HumanDuration(Duration::from_secs(600));
        config.drain_limit = HumanDuration(Duration::from_secs(600));
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_its_turn_can_be_cancelled() {
    let house = patient().await;
    let (cancels, mut answers) = in_turn(&house, 30).await;
    // Its turn would come in half a minute.
    let (cancel, answer) = (cancels.last().unwrap(), answers.pop().unwrap());
    let began = Instant::now();
    let mut answer = std::pin::pin!(answer);
    let error = loop {
        cancel.cancel_query(tokio_postgres::NoTls).await.unwrap();
        match tokio::time::timeout(Duration::from_millis(200), &mut answer).await {
            Ok(answer) => break answer.unwrap().unwrap_err(),
            Err(_) => assert!(began.elapsed() < Duration::from_secs(15), "a cancel does not reach it"),
        }
    };
    assert_eq!(db(&error).0, "57014");
    let never_ran = |entry: &Entry| {
        matches!(&entry.event, Event::Completed(completed)
            if completed.outcome == OperationOutcome::NotRun { code: Code::Cancelled })
    };
    let recorded = || house.control.sealed(&house.credential.ca_der());
    while !recorded().iter().any(|(.., entries)| entries.iter().any(never_ran)) {
        assert!(began.elapsed() < LONG, "it is in no recording");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_its_turn_does_not_hold_up_the_end() {
    let house = patient().await;
    let (_cancels, answers) = in_turn(&house, 30).await;
    house.supervisor.request_shutdown("a test");
    house.supervisor.hurry_token().cancel();
    let mut ended = 0;
    for answer in answers {
        // Within much less than the turns would take.
        let answer = tokio::time::timeout(Duration::from_secs(15), answer).await.expect("it waits on").unwrap();
        // A client that was still sending when its session ended may see no more than that.
        ended += usize::from(answer.is_err_and(|error| error.code().is_some_and(|code| code.code() == "57P01")));
    }
    assert!(ended >= 15, "{ended}");
}
