//! Threads that each run a part of a node's connections, from their first byte to their last.
//!
//! A connection that stays on one thread is woken there by its own sockets: nobody hands it over, steals it, or is woken to look whether
//! there is something to steal. For work of a few microseconds between two waits that is most of what there is to save. The price: a busy
//! connection holds up its neighbours on the thread, which nobody takes from it, so a new one goes where the fewest are.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::supervisor::{OnEnd, Supervisor};

/// A node's threads for connections. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Workers {
    lanes: Arc<[Lane]>,
    /// Where the next search begins, so that equals take turns.
    turn: Arc<AtomicUsize>,
}

/// One thread, with its own event loop.
#[derive(Debug)]
struct Lane {
    handle: Handle,
    /// What runs there.
    open: Arc<AtomicUsize>,
}

/// Counts one task for as long as it is there.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Workers {
    /// Starts `count` threads, one at least. They end when all of `supervisor`'s tasks have, or with the runtime that this is called in.
    ///
    /// # Errors
    /// When a thread or its event loop cannot be made.
    pub fn start(supervisor: &Supervisor, count: usize) -> std::io::Result<Self> {
        let stop = CancellationToken::new();
        let ends = stop.clone().drop_guard();
        let lanes = (0..count.max(1)).map(|place| lane(place, stop.clone())).collect::<Result<_, _>>()?;
        let supervisor = supervisor.clone();
        // Not one of the supervisor's tasks, as it waits for all of them. It cannot fail, and its end is theirs.
        #[allow(clippy::disallowed_methods)]
        tokio::spawn(async move {
            supervisor.all_ended().await;
            drop(ends);
        });
        Ok(Self { lanes, turn: Arc::default() })
    }

    /// As many as this process may use processors at a time, unless `TOKIO_WORKER_THREADS` says otherwise.
    #[must_use]
    pub fn usual_count() -> usize {
        let told = std::env::var("TOKIO_WORKER_THREADS").ok().and_then(|count| count.parse().ok());
        told.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get))
    }

    /// Runs `task` to its end on the thread that has the fewest.
    pub fn spawn(
        &self,
        supervisor: &Supervisor,
        name: &'static str,
        on_end: OnEnd,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let (later, sooner) = self.lanes.split_at(turn % self.lanes.len().max(1));
        let free = sooner.iter().chain(later).min_by_key(|lane| lane.open.load(Ordering::Relaxed));
        // There is always one.
        let Some(lane) = free else { return };
        lane.open.fetch_add(1, Ordering::Relaxed);
        let counted = Counted(Arc::clone(&lane.open));
        supervisor.spawn_on(&lane.handle, name, on_end, async move {
            let _counted = counted;
            task.await;
        });
    }
}

fn lane(place: usize, stop: CancellationToken) -> std::io::Result<Lane> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    std::thread::Builder::new().name(format!("sessions-{place}")).spawn(move || {
        runtime.block_on(stop.cancelled_owned());
        runtime.shutdown_background();
    })?;
    Ok(Lane { handle, open: Arc::default() })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use tokio::sync::{mpsc, oneshot};

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn here() -> String {
        std::thread::current().name().unwrap_or_default().to_owned()
    }

    #[tokio::test]
    async fn each_task_stays_on_the_thread_that_had_the_fewest() {
        let supervisor = Supervisor::new();
        let workers = Workers::start(&supervisor, 3).unwrap();
        let (to, mut from) = mpsc::channel(8);
        let mut ends = Vec::new();
        let begin = || {
            let (end, ended) = oneshot::channel::<()>();
            let to = to.clone();
            workers.spawn(&supervisor, "session", OnEnd::EndSession, async move {
                let began = here();
                tokio::time::sleep(Duration::from_millis(1)).await;
                assert_eq!(here(), began);
                to.send(began).await.unwrap();
                drop(ended.await);
            });
            end
        };
        let mut on: BTreeMap<String, Vec<oneshot::Sender<()>>> = BTreeMap::new();
        for _ in 0..6 {
            let end = begin();
            on.entry(from.recv().await.unwrap()).or_default().push(end);
        }
        assert!(on.len() == 3 && on.values().all(|ends| ends.len() == 2), "{:?}", on.keys());
        // Whoever has lost most gets the next ones.
        let left = on.pop_first().unwrap();
        drop(left.1);
        tokio::time::timeout(LONG, async {
            while supervisor.running(OnEnd::EndSession) > 4 {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
        for _ in 0..2 {
            ends.push(begin());
            assert_eq!(from.recv().await.unwrap(), left.0);
        }
        drop((on, ends));
        assert!(supervisor.drain(LONG).await.all_ended);
    }

    #[tokio::test]
    async fn a_panic_ends_one_task_and_not_the_thread() {
        let supervisor = Supervisor::new();
        let workers = Workers::start(&supervisor, 1).unwrap();
        workers.spawn(&supervisor, "session", OnEnd::EndSession, async { panic!("expected by the test") });
        let (done, ended) = oneshot::channel();
        workers.spawn(&supervisor, "session", OnEnd::EndSession, async move { done.send(()).unwrap() });
        tokio::time::timeout(LONG, ended).await.unwrap().unwrap();
        assert_eq!(supervisor.failure(), None);
    }

    #[test]
    fn threads_end_with_the_runtime_that_began_them() {
        let outer = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let supervisor = Supervisor::new();
        let (held, gone) = std::sync::mpsc::channel::<()>();
        outer.block_on(async {
            let workers = Workers::start(&supervisor, 1).unwrap();
            workers.spawn(&supervisor, "session", OnEnd::EndSession, async move {
                let _held = held;
                std::future::pending::<()>().await;
            });
        });
        assert_eq!(gone.recv_timeout(Duration::from_millis(50)), Err(std::sync::mpsc::RecvTimeoutError::Timeout));
        drop(outer);
        assert_eq!(gone.recv_timeout(LONG), Err(std::sync::mpsc::RecvTimeoutError::Disconnected));
    }
}
