//! What reviewers of a held operation are told, and clients that wait for long.

use std::process::Stdio;
use std::time::Duration;

use postern_gateway::GatewayConfig;
use postern_proto::resource::v1::{ApprovalBackground, ApprovalState};
use postern_runtime::config::HumanDuration;

use crate::house::{Client, House, db, principal};

const LIMIT: Duration = Duration::from_secs(20);

/// The machine may be busy: an estimate comes all the same.
fn patient(config: &mut GatewayConfig) {
    config.estimate_limit = HumanDuration(Duration::from_secs(8));
}

/// Holds `sql`, the last of what `client` does, and denies it; what reviewers were told.
async fn told(house: &House, client: &Client, sql: &str) -> ApprovalBackground {
    let held = client.sql.simple_query(sql);
    let review = async {
        let approval = house.control.asked().await;
        house.control.set(&approval.id, ApprovalState::Denied);
        approval.background.expect("a background")
    };
    let (held, told) = tokio::time::timeout(LIMIT, async { tokio::join!(held, review) }).await.unwrap();
    held.unwrap_err();
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_estimate_the_transaction_and_the_session_so_far() {
    let house = House::with("ANALYZE items", patient).await;
    let client = house.connect("writers").await;
    client.sql.simple_query("SELECT count(*) FROM items").await.unwrap();
    let background = told(&house, &client, "DELETE FROM items WHERE id < 6").await;
    let estimate = background.estimate.unwrap();
    // A guess, by a histogram.
    let close = (3..=6).contains(&estimate.written) && estimate.returned == 0 && estimate.unknown.is_empty();
    assert!(close, "{estimate:?}");
    assert!(background.transaction_since.is_none() && background.ends_at.is_none());
    let past: Vec<_> = background.past.iter().map(|past| (&*past.text, &*past.outcome, past.rows)).collect();
    assert_eq!(past, [("SELECT count(*) FROM items", "SELECT 1", 1)]);

    client.sql.simple_query("BEGIN").await.unwrap();
    let background = told(&house, &client, "DELETE FROM items").await;
    assert_eq!(background.estimate.unwrap().written, 20);
    assert!(background.transaction_since.is_some());
    assert_eq!(background.past.len(), 3, "{:?}", background.past);

    // By the extended protocol, with parameters.
    let client = house.connect("writers").await;
    let held = async {
        let _ = client.sql.execute("DELETE FROM items WHERE id = ANY($1)", &[&vec![1_i32, 2, 3]]).await;
    };
    let review = async {
        let approval = house.control.asked().await;
        house.control.set(&approval.id, ApprovalState::Denied);
        approval.background.unwrap().estimate.unwrap()
    };
    let ((), estimate) = tokio::join!(held, review);
    assert_eq!((estimate.written, &*estimate.unknown), (3, ""));
    let count: i64 =
        house.target.direct().await.unwrap().query_one("SELECT count(*) FROM items", &[]).await.unwrap().get(0);
    assert_eq!(count, 20, "nothing ran");
}

/// What cannot be planned says why, and what planning might run is not planned.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_estimate_but_a_reason() {
    let house = House::with("", patient).await;
    let client = house.connect("writers").await;
    for (sql, word) in [
        ("DELETE FROM items WHERE name = pg_catalog.pg_read_file('x')", "calls functions"),
        ("DELETE FROM items WHERE id = 1; DELETE FROM items WHERE id = 2", "several statements"),
    ] {
        let _ = word;
        let held = client.sql.simple_query(sql);
        let asked = tokio::time::timeout(Duration::from_secs(3), async {
            tokio::select! {
                _ = held => None,
                approval = house.control.asked() => {
                    house.control.set(&approval.id, ApprovalState::Denied);
                    Some(approval)
                }
            }
        });
        if let Some(approval) = asked.await.unwrap() {
            let unknown = approval.background.unwrap().estimate.unwrap().unknown;
            assert!(unknown.contains(word), "{unknown}");
        }
    }
    // A lock that somebody holds: nobody waits for it.
    let mut other = house.target.direct().await.unwrap();
    let lock = other.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE items IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let background = told(&house, &house.connect("writers").await, "DELETE FROM items WHERE id = 1").await;
    let unknown = background.estimate.unwrap().unknown;
    assert!(unknown.contains("lock") || unknown.contains("too long"), "{unknown}");
    lock.rollback().await.unwrap();
    // A function that the account could have made, and that planning would run.
    other.batch_execute("CREATE FUNCTION evil() RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN PERFORM pg_sleep(9); RETURN 1; END'").await.unwrap();
    let background = told(&house, &house.connect("writers").await, "DELETE FROM items WHERE id = 1").await;
    let unknown = background.estimate.unwrap().unknown;
    assert!(unknown.contains("public.evil"), "{unknown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_targets_limit_on_idle_transactions_is_told_and_ends_the_hold() {
    let house = House::with("ALTER DATABASE postgres SET idle_in_transaction_session_timeout = '3s'", patient).await;
    let mut client = house.connect("writers").await;
    client.sql.simple_query("BEGIN").await.unwrap();
    let began = std::time::Instant::now();
    let held = client.sql.simple_query("DELETE FROM items WHERE id = 1");
    let review = async {
        let approval = house.control.asked().await;
        let background = approval.background.unwrap();
        assert_eq!(background.ends_by, "idle_in_transaction_session_timeout");
        assert!(background.ends_at.is_some());
        house.control.until(&approval.id, ApprovalState::Withdrawn).await.withdrawn_because
    };
    let (held, because) = tokio::time::timeout(LIMIT, async { tokio::join!(held, review) }).await.unwrap();
    assert!(began.elapsed() > Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(db(&held.unwrap_err()).0, "25P03");
    let mut notices = String::new();
    while let Ok(notice) = client.notices.try_recv() {
        notices.push_str(&notice);
    }
    assert!(notices.contains("is withdrawn") && notices.contains("idle_in_transaction_session_timeout"), "{notices}");
    assert!(because.contains("idle_in_transaction_session_timeout"), "{because}");
}

/// psql and psycopg wait for a statement while the gateway says the same thing over and over, and see nothing of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_bear_what_keeps_their_connections_alive() {
    let house = House::with("", |config| config.hold_keep_alive = HumanDuration(Duration::from_millis(50))).await;
    let token = house.token(&principal("ada", "writers"), 600);
    let address = house.gateway.postgres_addr;
    let dsn = format!("host=127.0.0.1 port={} user=db dbname=postgres sslmode=disable", address.port());
    let python = "import psycopg, sys\nwith psycopg.connect(sys.argv[1], autocommit=True) as c:\n    print(c.execute('DELETE FROM items WHERE id = %s', (int(sys.argv[2]),)).rowcount)\n    print(c.execute('SELECT 7').fetchone()[0])\n";
    let psql = ["-X", "-A", "-t", &dsn, "-c", "DELETE FROM items WHERE id = 1", "-c", "SELECT 7"];
    for (program, arguments) in [("psql", &psql[..]), ("/usr/bin/python3", &["-c", python, &dsn, "2"][..])] {
        let client = tokio::process::Command::new(program)
            .args(arguments)
            .env("PGPASSWORD", &token)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .output();
        let review = async {
            let approval = house.control.asked().await;
            tokio::time::sleep(Duration::from_secs(2)).await;
            house.control.set(&approval.id, ApprovalState::Approved);
        };
        let (output, ()) = tokio::time::timeout(LIMIT, async { tokio::join!(client, review) }).await.unwrap();
        let output = output.unwrap();
        let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert!(output.status.success(), "{program}: {err}");
        assert!(out.contains('1') && out.ends_with("7\n"), "{program}: {out}");
    }
}

/// Something comes on the wire while nothing else does: so it is alive for whoever stands between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_client_hears_something_now_and_then() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let house = House::with("", |config| config.hold_keep_alive = HumanDuration(Duration::from_millis(100))).await;
    let mut raw = crate::waiting::raw_session(&house, "writers").await;
    raw.write_all(b"Q\0\0\0\x23DELETE FROM items WHERE id = 2\0").await.unwrap();
    house.control.asked().await;
    let (mut seen, mut beats) = (Vec::new(), 0);
    let beat = b"S\0\0\0\x19integer_datetimes\0on\0";
    while beats < 5 {
        let read = tokio::time::timeout(Duration::from_secs(5), raw.read_buf(&mut seen)).await;
        assert!(read.unwrap().unwrap() > 0, "{}", seen.escape_ascii());
        beats = seen.windows(beat.len()).filter(|part| part == beat).count();
    }
}
