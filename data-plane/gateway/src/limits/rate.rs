//! How often something may happen: a token bucket in one atomic number, without a lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How many in a second; as many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate {
    /// Nanoseconds from one to the next.
    interval: u64,
}

const SECOND: u64 = 1_000_000_000;

impl Rate {
    /// None where `per_second` is 0: no limit.
    pub(super) const fn new(per_second: u32) -> Option<Self> {
        // Widening, and never 0: there are fewer than 2^32 nanoseconds in four seconds.
        match SECOND.checked_div(per_second as u64) {
            Some(interval) => Some(Self { interval: if interval == 0 { 1 } else { interval } }),
            None => None,
        }
    }
}

/// One rate's state: the time at which all that was taken will have been due (the generic cell rate algorithm), in nanoseconds of the
/// limiter's clock. A fresh one is full.
#[derive(Debug, Default)]
pub(super) struct Bucket(AtomicU64);

impl Bucket {
    /// Takes one at `now`, perhaps of the near future: how long to wait for it.
    ///
    /// # Errors
    /// When that is longer than `patience`: how long until there is one. Nothing is taken then.
    pub(super) fn take(&self, rate: Rate, now: u64, patience: Duration) -> Result<Duration, Duration> {
        let patience = u64::try_from(patience.as_nanos()).unwrap_or(u64::MAX);
        let mut due = self.0.load(Ordering::Relaxed);
        loop {
            let from = due.max(now);
            // A second's worth may be ahead of its time.
            let wait = from.saturating_add(rate.interval).saturating_sub(now.saturating_add(SECOND.max(rate.interval)));
            if wait > patience {
                return Err(Duration::from_nanos(wait));
            }
            let next = from.saturating_add(rate.interval);
            match self.0.compare_exchange_weak(due, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(Duration::from_nanos(wait)),
                Err(seen) => due = seen,
            }
        }
    }

    /// Whether it is as good as a fresh one.
    pub(super) fn is_full(&self, now: u64) -> bool {
        self.0.load(Ordering::Relaxed) <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_s_worth_at_once_and_then_one_by_one() {
        let (bucket, rate) = (Bucket::default(), Rate::new(10).unwrap());
        let start = 77 * SECOND;
        for _ in 0..10 {
            assert_eq!(bucket.take(rate, start, Duration::ZERO), Ok(Duration::ZERO));
        }
        let tenth = Duration::from_millis(100);
        assert_eq!(bucket.take(rate, start, Duration::ZERO), Err(tenth));
        assert_eq!(bucket.take(rate, start, Duration::from_secs(1)), Ok(tenth), "whoever waits has a place");
        assert_eq!(bucket.take(rate, start, Duration::from_secs(1)), Ok(tenth * 2));
        assert!(!bucket.is_full(start));
        assert_eq!(bucket.take(rate, start + SECOND / 2, Duration::ZERO), Ok(Duration::ZERO));
        assert!(bucket.is_full(start + 2 * SECOND));
    }

    #[test]
    fn one_in_a_second_and_none_at_all() {
        assert_eq!(Rate::new(0), None);
        let (bucket, rate) = (Bucket::default(), Rate::new(1).unwrap());
        assert!(bucket.take(rate, 0, Duration::ZERO).is_ok());
        assert_eq!(bucket.take(rate, 0, Duration::ZERO), Err(Duration::from_secs(1)));
        assert!(bucket.take(rate, SECOND, Duration::ZERO).is_ok());
        let (bucket, rate) = (Bucket::default(), Rate::new(u32::MAX).unwrap());
        for _ in 0..1000 {
            assert!(bucket.take(rate, u64::MAX - 1, Duration::ZERO).is_ok(), "no overflow");
        }
    }

    #[test]
    fn many_threads_take_no_more_than_there_is() {
        let (bucket, rate) = (Bucket::default(), Rate::new(1000).unwrap());
        let taken: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..1000).filter(|_| bucket.take(rate, 5, Duration::ZERO).is_ok()).count()))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(taken, 1000);
    }
}
