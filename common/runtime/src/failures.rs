//! Failed logins, by whom they came from: whoever fails often is answered late.
//!
//! It is the failures that wait, never the good tokens: whoever shares an address with an attacker, or a name that one claims, gets in as
//! before, so that nobody can be locked out by somebody else's failing. Memory is of a fixed size whatever comes: whom to remember is a bucket
//! by a keyed hash, and two who meet in one at worst have their failures answered late together.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hash};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Failures that cost nothing but the usual.
const FREE: u32 = 20;
/// One is forgotten each.
const FORGET: Duration = Duration::from_secs(3);
/// What each failure beyond those that are free adds to the wait.
const STEP: Duration = Duration::from_millis(100);
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(5);
/// Whom to remember: 16 bytes each.
const BUCKETS: usize = 1 << 14;

/// Who failed how often of late.
#[derive(Debug)]
pub struct Failures {
    hasher: RandomState,
    epoch: Instant,
    /// Each: until when, since the epoch, failures are still to be forgotten.
    buckets: Mutex<Box<[Duration]>>,
}

impl Default for Failures {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            epoch: Instant::now(),
            buckets: Mutex::new(vec![Duration::ZERO; BUCKETS].into_boxed_slice()),
        }
    }
}

impl Failures {
    /// Notes a failure of `who` at `now`; gives how long its answer is to wait.
    pub fn failed(&self, who: impl Hash, now: Instant) -> Duration {
        let now = now.saturating_duration_since(self.epoch);
        let place = usize::try_from(self.hasher.hash_one(who)).unwrap_or(usize::MAX) % BUCKETS;
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(until) = buckets.get_mut(place) else { return Duration::ZERO };
        // No more is remembered than makes the longest wait, so that it ends soon after the failing does.
        let most = now + FORGET * (FREE + 1 + steps());
        *until = ((*until).max(now) + FORGET).min(most);
        let failures = (*until - now).as_millis().div_ceil(FORGET.as_millis());
        let beyond = u32::try_from(failures).unwrap_or(u32::MAX).saturating_sub(FREE);
        STEP.saturating_mul(beyond).min(LONGEST)
    }
}

/// How many failures beyond those that are free make the longest wait.
fn steps() -> u32 {
    u32::try_from(LONGEST.as_millis() / STEP.as_millis()).unwrap_or(u32::MAX)
}

/// Where a client is, as far as it is one: who has an IPv6 address has a /64 of them.
#[must_use]
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
        four @ IpAddr::V4(_) => four,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_fails_often_waits_and_is_forgotten_in_time() {
        let failures = Failures::default();
        let start = Instant::now();
        for _ in 0..FREE {
            assert_eq!(failures.failed("eve", start), Duration::ZERO);
        }
        assert_eq!(failures.failed("eve", start), STEP);
        assert_eq!(failures.failed("eve", start), STEP * 2);
        for _ in 0..10_000 {
            assert!(failures.failed("eve", start) <= LONGEST);
        }
        assert_eq!(failures.failed("eve", start), LONGEST);
        // Nobody else waits for it, and a pause of some minutes makes all good.
        assert_eq!(failures.failed("ada", start), Duration::ZERO);
        assert_eq!(failures.failed("eve", start + FORGET * (FREE + 2 + steps())), Duration::ZERO);
        // One failure every now and then never adds up.
        for n in 0..100 {
            assert_eq!(failures.failed("bob", start + FORGET * n), Duration::ZERO);
        }
    }

    #[test]
    fn many_sources_take_no_more_memory_and_seldom_meet() {
        let failures = Failures::default();
        let start = Instant::now();
        let waiting = (0..5_000_u32).filter(|n| !failures.failed(n, start).is_zero()).count();
        assert_eq!(waiting, 0);
        assert_eq!(failures.buckets.lock().unwrap().len(), BUCKETS);
    }

    #[test]
    fn an_address_is_its_network() {
        let same = |a: &str, b: &str| network(a.parse().unwrap()) == network(b.parse().unwrap());
        assert!(same("2001:db8::1", "2001:db8::ffff:1") && same("192.0.2.1", "::ffff:192.0.2.1"));
        assert!(!same("2001:db8::1", "2001:db8:0:1::1") && !same("192.0.2.1", "192.0.2.2"));
    }
}
