use std::sync::Mutex;
use std::task::Poll;

use futures::future::BoxFuture;
use postern_runtime::supervisor::Supervisor;
use postern_state::Success;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::raft::log_store::LogStore;
use crate::raft::testing::{MemoryLog, init, keys};
use crate::raft::transport::NoPeers;
use crate::raft::{NoForward, NodeConfig, start};

/// Answers by a list, and keeps what it was asked.
#[derive(Default)]
struct Script {
    answers: Mutex<Vec<Result<Outcome, ForwardError>>>,
    asked: Mutex<Vec<(u64, RequestId)>>,
}

impl Forward for Script {
    fn propose(&self, leader: u64, request: ForwardedProposal) -> BoxFuture<'static, Result<Outcome, ForwardError>> {
        self.asked.lock().unwrap().push((leader, request.request_id));
        let mut answers = self.answers.lock().unwrap();
        let answer = if answers.is_empty() { Err(ForwardError::Unreachable) } else { answers.remove(0) };
        Box::pin(std::future::ready(answer))
    }
}

/// A handle of a node that is told who leads; nobody listens to its mailbox.
fn follower(leader: u64, script: &Arc<Script>) -> (RaftHandle, watch::Sender<Status>) {
    let (mailbox, inbox) = std::sync::mpsc::sync_channel(16);
    std::mem::forget(inbox);
    let (_, changes) = watch::channel(Changes::default());
    let (status_out, status) = watch::channel(Status { id: 1, leader, ..Status::default() });
    let snapshots = LogStore::snapshots(&MemoryLog::default());
    (
        RaftHandle::new(
            mailbox,
            changes,
            status,
            Arc::<Script>::clone(script),
            snapshots,
            LateReports::default(),
            StampClock::default(),
        ),
        status_out,
    )
}

#[tokio::test]
async fn a_write_is_passed_on_with_one_request_id_until_it_has_an_outcome() {
    let script = Arc::new(Script::default());
    *script.answers.lock().unwrap() = vec![
        Err(ForwardError::Unreachable),
        Err(ForwardError::Refused(ProposeError::NotLeader { leader: Some(3) })),
        Err(ForwardError::Unknown),
        Err(ForwardError::Refused(ProposeError::Overloaded)),
        Ok(Ok(Success::Done)),
    ];
    let (handle, _status) = follower(2, &script);
    assert_eq!(handle.propose(init(), None).await, Ok(Ok(Success::Done)));
    let asked = script.asked.lock().unwrap().clone();
    assert_eq!(asked.len(), 5);
    assert!(asked.iter().all(|one| *one == asked[0] && one.0 == 2));
}

#[tokio::test]
async fn refusals_of_the_leader_are_told_and_doubt_is_never_a_refusal() {
    let script = Arc::new(Script::default());
    let (mut handle, _status) = follower(2, &script);
    handle.propose_limit = Duration::from_millis(100);
    *script.answers.lock().unwrap() = vec![Err(ForwardError::Refused(ProposeError::Overloaded))];
    assert_eq!(handle.propose(init(), None).await, Err(ProposeError::Overloaded));
    // Nobody can be reached: it is not proposed.
    assert_eq!(handle.propose(init(), None).await, Err(ProposeError::NotLeader { leader: None }));
    // It may have been, once: no later failure can tell that it was not.
    *script.answers.lock().unwrap() = vec![Err(ForwardError::Unknown)];
    assert_eq!(handle.propose(init(), None).await, Err(ProposeError::Unknown));
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_is_bearable_is_shed_at_once() {
    let (supervisor, stop) = (Supervisor::new(), CancellationToken::new());
    let config = NodeConfig::founder(1);
    let handle =
        start(&config, MemoryLog::default(), NoPeers, (), Arc::new(NoForward), &supervisor, stop.clone()).unwrap();
    handle.propose(init(), None).await.unwrap().unwrap();
    // The driver's thread is held up.
    let (release, held) = std::sync::mpsc::channel::<()>();
    let mut held_up = Box::pin(handle.read_local(move |_| held.recv().is_err()));
    assert!(futures::poll!(&mut held_up).is_pending());
    let (mut shed, mut waiting) = (0, Vec::new());
    for _ in 0..30 {
        let mut write = Box::pin(handle.propose(keys("nobody", &"x".repeat(4 << 20)), None));
        match futures::poll!(&mut write) {
            Poll::Ready(outcome) => {
                assert_eq!(outcome, Err(ProposeError::Overloaded));
                shed += 1;
            }
            Poll::Pending => waiting.push(write),
        }
    }
    assert_eq!((shed, waiting.len()), (15, 15));
    drop(release);
    assert!(held_up.await.unwrap());
    for write in waiting {
        write.await.unwrap().unwrap_err();
    }
    // It goes on as before.
    handle.propose(keys("nobody", "x"), None).await.unwrap().unwrap_err();
    assert_eq!(handle.write_units.available_permits(), WRITE_UNITS);
    stop.cancel();
}
