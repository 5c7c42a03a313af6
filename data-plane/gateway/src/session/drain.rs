//! When a session ends because its gateway shuts down.
//!
//! What was begun may be finished: a session with a transaction open, or an operation under way, goes on to the drain's limit. One that is
//! idle between transactions loses nothing that a client could not have again elsewhere, and is ended after a grace: pools would else
//! hold the gateway up to the limit.

use std::pin::Pin;
use std::time::Duration;

use postern_runtime::supervisor::Supervisor;
use tokio::time::Instant;
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::config::GatewayConfig;

/// Idle sessions end one after the other, over this part of the grace: those who come back elsewhere must not all come at once.
const SPREAD: f64 = 0.2;
/// Longer limits are as good as this: clocks do not overflow.
const FAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// A session's view of the shutdown.
pub(super) struct Drain {
    /// Both registered once, not at each wait: all sessions share the token's lock.
    begins: Pin<Box<WaitForCancellationFutureOwned>>,
    hurry: Pin<Box<WaitForCancellationFutureOwned>>,
    limit: Duration,
    grace: Duration,
    until: Option<Until>,
}

/// The ends of a shutdown that has begun.
#[derive(Clone, Copy, Debug)]
struct Until {
    busy: Instant,
    idle: Instant,
}

impl Drain {
    pub(super) fn new(supervisor: &Supervisor, config: &GatewayConfig) -> Self {
        Self {
            begins: Box::pin(supervisor.shutdown_token().cancelled_owned()),
            hurry: Box::pin(supervisor.hurry_token().cancelled_owned()),
            limit: config.drain_limit.0.min(FAR),
            grace: config.drain_idle_grace.0.min(FAR),
            until: None,
        }
    }

    /// Ends when the session has to, and says why; `idle` is whether it does nothing now, in no transaction. Cancel-safe.
    pub(super) async fn over(&mut self, idle: bool) -> &'static str {
        let until = match self.until {
            Some(until) => until,
            None => {
                self.begins.as_mut().await;
                let until = until(Instant::now(), self.limit, self.grace, fastrand::f64());
                *self.until.insert(until)
            }
        };
        let (at, why) = if idle && until.idle < until.busy {
            (until.idle, "the gateway is shutting down: connect again")
        } else {
            (until.busy, "the gateway is shutting down, and the time for its sessions to end is over")
        };
        tokio::select! {
            () = tokio::time::sleep_until(at) => why,
            () = self.hurry.as_mut() => "the gateway is shutting down now",
        }
    }
}

fn until(begun: Instant, limit: Duration, grace: Duration, place: f64) -> Until {
    let idle = grace.saturating_add(grace.mul_f64(SPREAD * place));
    Until { busy: begun + limit, idle: begun + idle.min(limit) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn drain(supervisor: &Supervisor) -> Drain {
        let config = serde_json::json!({
            "postgres_listen": "127.0.0.1:0", "control_plane": "c:1", "spool_dir": "/nowhere",
            "drain_limit": "1000000000h", "drain_idle_grace": "0s",
        });
        Drain::new(supervisor, &serde_json::from_value(config).unwrap())
    }

    async fn goes_on(drain: &mut Drain, idle: bool) {
        assert!(tokio::time::timeout(Duration::from_millis(30), drain.over(idle)).await.is_err());
    }

    #[tokio::test]
    async fn idle_sessions_after_the_grace_and_all_when_it_is_to_hurry() {
        let supervisor = Supervisor::new();
        let mut drain = drain(&supervisor);
        goes_on(&mut drain, true).await;
        supervisor.request_shutdown("a test");
        goes_on(&mut drain, false).await;
        let why = tokio::time::timeout(LONG, drain.over(true)).await.unwrap();
        assert!(why.contains("connect again"), "{why}");
        goes_on(&mut drain, false).await;
        supervisor.hurry_token().cancel();
        let why = tokio::time::timeout(LONG, drain.over(false)).await.unwrap();
        assert!(why.contains("now"), "{why}");
    }

    #[test]
    fn no_grace_is_longer_than_the_limit() {
        let now = Instant::now();
        let (limit, grace) = (Duration::from_secs(10), Duration::from_secs(600));
        let all = until(now, limit, grace, 0.5);
        assert_eq!((all.busy, all.idle), (now + limit, now + limit));
        assert_eq!(until(now, limit, Duration::ZERO, 1.0).idle, now);
    }
}
