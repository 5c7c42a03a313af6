//! How long a reconnect loop waits.

use std::time::Duration;

/// Exponential back-off with full jitter: many nodes that lost the same peer do not come back in step.
#[derive(Clone, Debug)]
pub struct Backoff {
    base: Duration,
    max: Duration,
    attempt: u32,
}

impl Backoff {
    /// The first delay is at most `base`; the bound doubles on each attempt, up to `max`.
    #[must_use]
    pub const fn new(base: Duration, max: Duration) -> Self {
        Self { base, max, attempt: 0 }
    }

    /// The delay before the next attempt: evenly drawn from one millisecond to the attempt's bound.
    pub fn next_delay(&mut self) -> Duration {
        let bound = self.base.saturating_mul(1_u32.checked_shl(self.attempt).unwrap_or(u32::MAX)).min(self.max);
        self.attempt = self.attempt.saturating_add(1).min(31);
        let millis = u64::try_from(bound.as_millis()).unwrap_or(u64::MAX).max(1);
        Duration::from_millis(fastrand::u64(1..=millis))
    }

    /// To be called after a success: the next delay is short again.
    pub const fn reset(&mut self) {
        self.attempt = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bound_doubles_to_the_maximum_and_resets() {
        let (base, max) = (Duration::from_millis(100), Duration::from_secs(5));
        let mut backoff = Backoff::new(base, max);
        for attempt in 0..200_u32 {
            let delay = backoff.next_delay();
            assert!(delay >= Duration::from_millis(1) && delay <= max);
            assert!(delay <= base * 2_u32.pow(attempt.min(10)), "attempt {attempt}: {delay:?}");
        }
        backoff.reset();
        assert!(backoff.next_delay() <= base);
    }

    #[test]
    fn extremes_do_not_overflow() {
        let mut backoff = Backoff::new(Duration::MAX, Duration::MAX);
        for _ in 0..100 {
            let _ = backoff.next_delay();
        }
        assert_eq!(Backoff::new(Duration::ZERO, Duration::ZERO).next_delay(), Duration::from_millis(1));
    }
}
