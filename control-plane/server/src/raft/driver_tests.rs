use postern_state::{Refusal, Success};
use raft::eraftpb::Entry;

use super::*;
use crate::raft::log_store::DiskLog;
use crate::raft::testing::{MemoryLog, init, keys};
use crate::raft::transport::NoPeers;
use crate::raft::{NoForward, ProposeError};

fn config() -> NodeConfig {
    NodeConfig { compact_after: 1_000_000, ..NodeConfig::founder(1) }
}

struct Node {
    handle: RaftHandle,
    supervisor: Supervisor,
    stop: CancellationToken,
}

fn node(config: &NodeConfig, log: impl LogStore) -> Node {
    let (supervisor, stop) = (Supervisor::new(), CancellationToken::new());
    let handle = start(config, log, NoPeers, (), Arc::new(NoForward), &supervisor, stop.clone()).unwrap();
    Node { handle, supervisor, stop }
}

impl Node {
    async fn end(self) {
        self.stop.cancel();
        drop(self.handle);
        self.supervisor.request_shutdown("end of test");
        assert!(self.supervisor.drain(Duration::from_secs(10)).await.all_ended);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_is_durable_when_acknowledged_and_read_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(&config(), DiskLog::open(dir.path()).unwrap());
    assert_eq!(node.handle.propose(init(), None).await.unwrap(), Ok(Success::Done));
    let id = node.handle.read(|state| state.cluster().map(|cluster| cluster.id.clone())).await.unwrap();
    assert_eq!(id.as_deref(), Some("c"));
    let applied = node.handle.changes().borrow().applied;
    node.end().await;

    let again = self::node(&config(), DiskLog::open(dir.path()).unwrap());
    let (index, id) =
        again.handle.read(|state| (state.index(), state.cluster().map(|cluster| cluster.id.clone()))).await.unwrap();
    assert_eq!((index, id.as_deref()), (applied, Some("c")));
    again.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_gets_the_first_outcome() {
    let node = node(&config(), MemoryLog::default());
    let request = Some(clock::request_id());
    let first = node.handle.propose(init(), request).await.unwrap();
    let second = node.handle.propose(init(), request).await.unwrap();
    assert_eq!((&first, &second), (&Ok(Success::Done), &Ok(Success::Done)));
    assert!(node.handle.propose(init(), None).await.unwrap().is_err());
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_writers_share_a_flush() {
    let log = MemoryLog::default();
    let node = node(&config(), log.clone());
    node.handle.propose(init(), None).await.unwrap().unwrap();
    let before = log.0.lock().unwrap().saves;
    let writes = (0..500).map(|n| {
        let handle = node.handle.clone();
        async move { handle.propose(keys("nobody", &n.to_string()), None).await.unwrap() }
    });
    let outcomes = futures::future::join_all(writes).await;
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Err(Refusal::NotFound { .. }))));
    let saves = log.0.lock().unwrap().saves - before;
    assert!(saves < 500, "{saves} flushes for 500 writes");
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_disk_stops_the_node_and_acknowledges_nothing() {
    let log = MemoryLog::default();
    let node = node(&config(), log.clone());
    node.handle.propose(init(), None).await.unwrap().unwrap();
    log.0.lock().unwrap().fail = true;
    assert_eq!(node.handle.propose(keys("a", "b"), None).await, Err(ProposeError::Unknown));
    tokio::time::timeout(Duration::from_secs(10), node.supervisor.until_shutdown()).await.unwrap();
    assert!(node.supervisor.failure().is_some());
    // Unknown while the driver's mailbox is on its way out.
    let after = node.handle.propose(keys("a", "b"), None).await;
    assert!(matches!(after, Err(ProposeError::Stopped | ProposeError::Unknown)), "{after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compacted_log_restarts_to_the_same_state() {
    let log = MemoryLog::default();
    let small = NodeConfig { compact_after: 20, keep_entries: 5, ..config() };
    let node = node(&small, log.clone());
    node.handle.propose(init(), None).await.unwrap().unwrap();
    for n in 0..50 {
        let _ = node.handle.propose(keys("nobody", &n.to_string()), Some(clock::request_id())).await.unwrap();
    }
    let before = node.handle.read(|state| (state.index(), state.hash())).await.unwrap();
    // Snapshots are made beside the driver: they are there soon, not at once.
    let compacted = || {
        let disk = log.0.lock().unwrap();
        disk.loaded.snapshot.as_ref().is_some_and(|snapshot| snapshot.index > 1) && disk.loaded.entries.len() < 40
    };
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !compacted() {
        assert!(std::time::Instant::now() < deadline, "the log is not compacted");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    node.end().await;
    let again = self::node(&small, log);
    assert_eq!(again.handle.read(|state| (state.index(), state.hash())).await.unwrap(), before);
    again.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_of_the_future_halts_the_node() {
    let log = MemoryLog::default();
    {
        let node = node(&config(), log.clone());
        node.handle.propose(init(), None).await.unwrap().unwrap();
        node.end().await;
    }
    {
        // Version 99 of the command set, at the end of the log.
        let loaded = &mut log.0.lock().unwrap().loaded;
        let last = loaded.entries.last().unwrap().clone();
        loaded.entries.push(Entry {
            index: last.index + 1,
            term: last.term,
            data: vec![0x08, 99],
            ..Default::default()
        });
        loaded.hard_state.commit = last.index + 1;
    }
    let node = node(&config(), log);
    tokio::time::timeout(Duration::from_secs(10), node.supervisor.until_shutdown()).await.unwrap();
    assert!(node.supervisor.failure().is_some());
}
