//! A time to wake at that outlives the waits for it: setting a timer takes a lock that all sessions of a worker share, and a session waits at each message.

use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// Rings once, at the time that it is set to.
#[derive(Debug, Default)]
pub(super) struct Alarm {
    at: Option<Instant>,
    /// Made when it is first needed, and used again.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Alarm {
    /// Sets it, unless it is set to this already.
    pub(super) fn set(&mut self, at: Instant) {
        if self.at == Some(at) {
            return;
        }
        self.at = Some(at);
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().reset(at),
            None => self.sleep = Some(Box::pin(sleep_until(at))),
        }
    }

    /// Sets it to a while from now, unless it is set.
    pub(super) fn set_if_off(&mut self, after: Duration) {
        if self.at.is_none() {
            self.set(Instant::now() + after);
        }
    }

    /// Ends when it rings, and it is off then; never while it is off. Cancel-safe.
    pub(super) async fn rings(&mut self) {
        match (&self.at, &mut self.sleep) {
            (Some(_), Some(sleep)) => sleep.as_mut().await,
            _ => std::future::pending().await,
        }
        self.at = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(30);
    const LONG: Duration = Duration::from_secs(60);

    async fn rings(alarm: &mut Alarm, within: Duration) -> bool {
        tokio::time::timeout(within, alarm.rings()).await.is_ok()
    }

    #[tokio::test]
    async fn it_rings_once_at_the_time_last_set_though_nobody_waited_until_then() {
        let mut alarm = Alarm::default();
        assert!(!rings(&mut alarm, SOON).await);
        alarm.set_if_off(SOON);
        // It is on already.
        alarm.set_if_off(LONG * 2);
        assert!(rings(&mut alarm, LONG).await);
        assert!(!rings(&mut alarm, SOON).await);
        alarm.set(Instant::now() + LONG * 2);
        assert!(!rings(&mut alarm, SOON).await);
        alarm.set(Instant::now() + SOON);
        tokio::time::sleep(SOON * 2).await;
        assert!(rings(&mut alarm, LONG).await);
        assert!(!rings(&mut alarm, SOON).await);
    }
}
