//! A leader that stands still (SIGSTOP, a long pause of its machine) and does not know that it is no longer one.

use std::time::{Duration, Instant};

use postern_chaos::live::cluster::ClientOptions;

use super::{agree, cluster, load, writes};

#[test]
fn a_leader_that_stood_still_reads_nothing_stale() {
    let mut cluster = cluster();
    let load = load(&cluster);
    let leader = cluster.leader().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _guard = runtime.enter();
    let patient = ClientOptions { attempt: Duration::from_secs(20), limit: Duration::from_secs(20), connections: 1 };
    let client = cluster.client().unwrap();
    let (old, others) = (client.only(leader).with(patient), client.beginning_with((leader + 1) % 3));
    let before = runtime.block_on(async {
        let revision = others.put("paused", "before", None).await.unwrap();
        // The connection to the leader is there: what is asked while it stands still waits in it.
        assert_eq!(old.get("paused").await.unwrap(), Some(("before".to_owned(), revision)));
        revision
    });
    cluster.member(leader).unwrap().pause().unwrap();
    let paused = Instant::now();
    writes(&cluster, &load);
    let since = runtime.block_on(others.put("paused", "since", None)).unwrap();
    assert!(since > before);
    let asked: Vec<_> = (0..8)
        .map(|_| {
            let old = old.clone();
            runtime.spawn(async move { old.get("paused").await })
        })
        .collect();
    let rest = Duration::from_secs(5).saturating_sub(paused.elapsed());
    runtime.block_on(tokio::time::sleep(rest));
    cluster.member(leader).unwrap().resume().unwrap();
    for read in asked {
        // It may say that it does not know. It must not say what was.
        match runtime.block_on(read).unwrap() {
            Ok(found) => assert_eq!(found, Some(("since".to_owned(), since)), "stale"),
            Err(failure) => assert!(!failure.to_string().is_empty()),
        }
    }
    agree(&cluster, load);
}
