//! The only place that spawns: every task has a name, and its end has a stated meaning.
//!
//! A node does not patch itself up in-process. A task that ends unexpectedly ends its session or its node; the orchestrator
//! restarts the node. Shutdown goes in two steps: [`Supervisor::shutdown_token`] is cancelled first (stop accepting, wind sessions
//! down); once the session tasks have ended, [`Supervisor::sessions_ended_token`] is (recorders, feeds and tunnels stop). A second
//! signal cancels [`Supervisor::hurry_token`]: whoever still waits for somebody else ends in good order, but now.
//!
//! | task | ends before shutdown | panics |
//! | --- | --- | --- |
//! | `StopNode` | the node stops, exit code 1 | the node stops, exit code 1 |
//! | `EndSession` | normal | logged, counted; only its session ends |
//! | `EndPart` | normal | the node stops, exit code 1 |

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::Instrument as _;

/// Counts tasks that panicked, by `task`.
const PANICS: &str = "postern_node_task_panics_total";

/// How long what was told to hurry may still take.
const HURRY: Duration = Duration::from_secs(10);

/// What a task's end means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnEnd {
    /// It lives as long as the node: an end before shutdown, or a panic, stops the node.
    StopNode,
    /// It lives as long as a session or connection: its end is normal, a panic is logged and counted.
    EndSession,
    /// It serves the node itself, until after the last session, but may end before: a link to one peer, the writing of one snapshot. A
    /// panic stops the node.
    EndPart,
}

/// Starts, watches and ends a node's tasks. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Supervisor(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    sessions: TaskTracker,
    node: TaskTracker,
    stopping: CancellationToken,
    hurry: CancellationToken,
    sessions_ended: CancellationToken,
    /// Why the node stopped itself: the first reason stays.
    failure: Mutex<Option<String>>,
}

/// How a drain went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Whether every task ended in time.
    pub all_ended: bool,
    /// Tasks that had not.
    pub left: usize,
}

impl Default for Supervisor {
    fn default() -> Self {
        Self::new()
    }
}

impl Supervisor {
    /// With no task yet.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Inner::default()))
    }

    /// Runs `task` on the current runtime, in the current tracing span.
    pub fn spawn(&self, name: &'static str, on_end: OnEnd, task: impl Future<Output = ()> + Send + 'static) {
        self.tracker(on_end).spawn(self.watched(name, on_end, task));
    }

    /// Runs `task` on `runtime`, in the current tracing span.
    pub(crate) fn spawn_on(
        &self,
        runtime: &Handle,
        name: &'static str,
        on_end: OnEnd,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        self.tracker(on_end).spawn_on(self.watched(name, on_end, task), runtime);
    }

    fn watched(
        &self,
        name: &'static str,
        on_end: OnEnd,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> impl Future<Output = ()> + Send + 'static {
        let this = self.clone();
        let watched = async move {
            let end = AssertUnwindSafe(task).catch_unwind().await;
            this.ended(name, on_end, end);
        };
        watched.in_current_span()
    }

    /// Ends when every task has, after shutdown has begun.
    pub(crate) async fn all_ended(&self) {
        self.0.sessions_ended.cancelled().await;
        self.0.node.wait().await;
        self.0.sessions.wait().await;
    }

    /// Runs `f` on a thread of its own, for work that blocks (a disk, a state machine). `f` has to watch the shutdown token itself.
    pub fn spawn_blocking_thread(&self, name: &'static str, on_end: OnEnd, f: impl FnOnce() + Send + 'static) {
        let (this, token): (_, TaskTrackerToken) = (self.clone(), self.tracker(on_end).token());
        let span = tracing::Span::current();
        let runtime = Handle::try_current().ok();
        let body = move || {
            // So that `f` can spawn as well.
            let _inside = runtime.as_ref().map(Handle::enter);
            let end = span.in_scope(|| std::panic::catch_unwind(AssertUnwindSafe(f)));
            this.ended(name, on_end, end);
            drop(token);
        };
        if let Err(error) = std::thread::Builder::new().name(name.to_owned()).spawn(body) {
            // A lost session thread would leave its session hanging without an answer: no way on in either case.
            self.fail(format!("the thread of {name} could not be started: {error}"));
        }
    }

    /// Cancelled when shutdown starts: stop accepting, wind down.
    #[must_use]
    pub fn shutdown_token(&self) -> CancellationToken {
        self.0.stopping.clone()
    }

    /// Cancelled when shutdown has begun and must not wait for anybody any more: sessions are to end now, in good order.
    #[must_use]
    pub fn hurry_token(&self) -> CancellationToken {
        self.0.hurry.clone()
    }

    /// Cancelled during [`Self::drain`] once every `EndSession` task has ended, or the limit is over: for tasks that sessions need to
    /// their end (recorder, policy feed, tunnels).
    #[must_use]
    pub fn sessions_ended_token(&self) -> CancellationToken {
        self.0.sessions_ended.clone()
    }

    /// Starts shutdown in good order.
    pub fn request_shutdown(&self, reason: &str) {
        if !self.0.stopping.is_cancelled() {
            tracing::info!(reason, "shutting down");
        }
        self.0.stopping.cancel();
    }

    /// From now on SIGINT and SIGTERM start shutdown, also of a node that is only starting. Comes before all else that a node does: until then they
    /// end the process at once.
    pub fn heed_signals(&self) {
        let (told, this) = (signal(), self.clone());
        self.spawn("signals", OnEnd::EndPart, async move {
            tokio::select! {
                () = this.0.stopping.cancelled() => {}
                signal = told => this.request_shutdown(signal),
            }
        });
    }

    /// Waits for SIGINT, SIGTERM, a request, or the end of a `StopNode` task; shutdown has then started.
    pub async fn until_shutdown(&self) {
        tokio::select! {
            () = self.0.stopping.cancelled() => {}
            signal = signal() => self.request_shutdown(signal),
        }
    }

    /// Starts shutdown if it has not, waits for session tasks, then for all others. A second signal has sessions end at once, each in good
    /// order, and leaves ten seconds for it; a third ends the wait.
    pub async fn drain(&self, limit: Duration) -> Drained {
        self.request_shutdown("drain");
        self.0.sessions.close();
        self.0.node.close();
        let all = async {
            self.0.sessions.wait().await;
            self.0.sessions_ended.cancel();
            self.0.node.wait().await;
            // A node task may have started a last session task, an upload for one.
            self.0.sessions.wait().await;
        };
        let all_ended = tokio::select! {
            ended = tokio::time::timeout(limit, all) => ended.is_ok(),
            () = self.told_again() => false,
        };
        self.0.sessions_ended.cancel();
        Drained { all_ended, left: self.0.sessions.len().saturating_add(self.0.node.len()) }
    }

    /// Ends when nothing is to be waited for any longer.
    async fn told_again(&self) {
        tokio::select! {
            name = signal() => tracing::warn!(signal = name, "told again to stop: sessions end now"),
            () = self.0.hurry.cancelled() => {}
        }
        self.0.hurry.cancel();
        tokio::select! {
            name = signal() => tracing::warn!(signal = name, "told once more to stop: not waiting longer"),
            () = tokio::time::sleep(HURRY) => {}
        }
    }

    /// Why the node stopped itself, if it did: the process then exits with 1.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.0.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tasks of the given kind that run now.
    #[must_use]
    pub fn running(&self, on_end: OnEnd) -> usize {
        self.tracker(on_end).len()
    }

    fn tracker(&self, on_end: OnEnd) -> &TaskTracker {
        match on_end {
            OnEnd::StopNode | OnEnd::EndPart => &self.0.node,
            OnEnd::EndSession => &self.0.sessions,
        }
    }

    fn ended(&self, name: &'static str, on_end: OnEnd, end: Result<(), Box<dyn Any + Send>>) {
        match (end, on_end) {
            (Ok(()), OnEnd::EndSession | OnEnd::EndPart) => {}
            (Ok(()), OnEnd::StopNode) => {
                if !self.0.stopping.is_cancelled() {
                    self.fail(format!("{name} ended unexpectedly"));
                }
            }
            (Err(_), on_end) => {
                // The panic's own text was logged by the panic hook; it is not repeated to anyone else.
                metrics::counter!(PANICS, "task" => name).increment(1);
                tracing::error!(task = name, ?on_end, "task panicked");
                if on_end != OnEnd::EndSession {
                    self.fail(format!("{name} panicked"));
                }
            }
        }
    }

    /// Stops the node for a reason that its operator has to know: the process exits with 1. The first reason stays.
    pub fn stop_node(&self, why: &str) {
        self.fail(why.to_owned());
    }

    fn fail(&self, why: String) {
        tracing::error!(reason = why, "the node stops");
        self.0.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
        self.0.stopping.cancel();
    }
}

/// Waits for SIGINT or SIGTERM and names it; listens from the call on, not from the first poll. Where handlers cannot be installed, waits for ever.
fn signal() -> impl Future<Output = &'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let listening = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    async {
        match listening {
            (Ok(mut interrupt), Ok(mut terminate)) => tokio::select! {
                _ = interrupt.recv() => "SIGINT",
                _ = terminate.recv() => "SIGTERM",
            },
            (Err(error), _) | (_, Err(error)) => {
                tracing::error!(%error, "no signal handler: the node only stops when killed");
                std::future::pending().await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_signal_is_heeded_before_anybody_waits_for_it() {
        let supervisor = Supervisor::new();
        supervisor.heed_signals();
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM).unwrap();
        tokio::time::timeout(LONG, supervisor.shutdown_token().cancelled()).await.unwrap();
        assert!(supervisor.failure().is_none());
        assert!(supervisor.drain(LONG).await.all_ended);
    }

    #[tokio::test]
    async fn end_of_a_node_task_stops_the_node() {
        let supervisor = Supervisor::new();
        supervisor.spawn("feed", OnEnd::StopNode, async {});
        tokio::time::timeout(LONG, supervisor.until_shutdown()).await.unwrap();
        assert_eq!(supervisor.failure().as_deref(), Some("feed ended unexpectedly"));
        assert!(supervisor.drain(LONG).await.all_ended);
    }

    #[tokio::test]
    async fn panic_of_a_node_task_stops_the_node() {
        let supervisor = Supervisor::new();
        supervisor.spawn("driver", OnEnd::StopNode, async { panic!("expected by the test") });
        tokio::time::timeout(LONG, supervisor.until_shutdown()).await.unwrap();
        assert_eq!(supervisor.failure().as_deref(), Some("driver panicked"));
    }

    #[tokio::test]
    async fn panic_of_a_session_ends_only_it() {
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        let _guard = metrics::set_default_local_recorder(&recorder);
        let supervisor = Supervisor::new();
        supervisor.spawn("session", OnEnd::EndSession, async { panic!("expected by the test") });
        supervisor.spawn("session", OnEnd::EndSession, async {});
        while supervisor.running(OnEnd::EndSession) > 0 {
            tokio::task::yield_now().await;
        }
        assert!(!supervisor.shutdown_token().is_cancelled());
        assert_eq!(supervisor.failure(), None);
        assert!(handle.render().contains("postern_node_task_panics_total{task=\"session\"} 1"), "{}", handle.render());
    }

    #[tokio::test]
    async fn part_of_a_node_may_end_and_outlives_sessions() {
        let supervisor = Supervisor::new();
        supervisor.spawn("link", OnEnd::EndPart, async {});
        let (stop, ended) = (supervisor.shutdown_token(), supervisor.sessions_ended_token());
        supervisor.spawn("session", OnEnd::EndSession, async move { stop.cancelled().await });
        supervisor.spawn("other link", OnEnd::EndPart, async move { ended.cancelled().await });
        assert_eq!(supervisor.drain(LONG).await, Drained { all_ended: true, left: 0 });
        assert_eq!(supervisor.failure(), None);
    }

    #[tokio::test]
    async fn drain_ends_sessions_before_what_they_need() {
        let supervisor = Supervisor::new();
        let (stop, ended) = (supervisor.shutdown_token(), supervisor.sessions_ended_token());
        let session_done = CancellationToken::new();
        let (mark, seen) = (session_done.clone(), session_done.clone());
        supervisor.spawn("session", OnEnd::EndSession, async move {
            stop.cancelled().await;
            tokio::time::sleep(Duration::from_millis(30)).await;
            mark.cancel();
        });
        supervisor.spawn("recorder", OnEnd::StopNode, async move {
            ended.cancelled().await;
            assert!(seen.is_cancelled());
        });
        assert_eq!(supervisor.drain(LONG).await, Drained { all_ended: true, left: 0 });
        assert_eq!(supervisor.failure(), None);
    }

    #[tokio::test]
    async fn hurry_ends_a_drain_in_good_order() {
        let supervisor = Supervisor::new();
        let hurry = supervisor.hurry_token();
        supervisor.spawn("session", OnEnd::EndSession, async move { hurry.cancelled().await });
        let (again, hurry) = (supervisor.clone(), supervisor.hurry_token());
        let told = async move {
            again.shutdown_token().cancelled().await;
            hurry.cancel();
        };
        let (drained, ()) = tokio::join!(supervisor.drain(LONG * 100), told);
        assert_eq!(drained, Drained { all_ended: true, left: 0 });
    }

    #[tokio::test]
    async fn drain_gives_up_at_its_limit() {
        let supervisor = Supervisor::new();
        supervisor.spawn("stuck", OnEnd::EndSession, std::future::pending());
        assert_eq!(supervisor.drain(Duration::from_millis(20)).await, Drained { all_ended: false, left: 1 });
        assert!(supervisor.sessions_ended_token().is_cancelled());
    }

    #[tokio::test]
    async fn threads_are_watched_too() {
        let supervisor = Supervisor::new();
        let (inner, (sent, received)) = (supervisor.clone(), tokio::sync::oneshot::channel());
        supervisor.spawn_blocking_thread("spawner", OnEnd::EndSession, move || {
            inner.spawn("spawned", OnEnd::EndSession, async move { sent.send(()).unwrap() });
        });
        received.await.unwrap();
        supervisor.spawn_blocking_thread("disk", OnEnd::StopNode, || panic!("expected by the test"));
        tokio::time::timeout(LONG, supervisor.until_shutdown()).await.unwrap();
        assert_eq!(supervisor.failure().as_deref(), Some("disk panicked"));
        assert!(supervisor.drain(LONG).await.all_ended);
    }
}
