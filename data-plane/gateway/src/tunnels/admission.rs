//! How many peers are let in at a time: thousands that come back at once wait their turn or are sent away, and nothing sinks (I12).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use postern_runtime::telemetry::Lines;
use tokio::time::Instant;

/// How long a peer may wait for its turn; a queue that is longer sends away.
const PATIENCE: Duration = Duration::from_secs(4);
/// From this much waiting on, QUIC peers must first show that their address is theirs.
const BUSY: Duration = Duration::from_millis(250);
/// Peers without a certificate at a time, of all addresses.
const STRANGERS: usize = 32;
/// And of one address.
const STRANGERS_OF_ONE: usize = 4;

/// Who may come in. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Admission(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    every: Duration,
    /// When the next handshake's turn is.
    next: Mutex<Instant>,
    strangers: Mutex<BTreeMap<IpAddr, usize>>,
    refusals: Lines,
}

/// A place for a peer without a certificate, until it is dropped.
#[derive(Debug)]
pub(super) struct Stranger {
    admission: Admission,
    address: IpAddr,
}

impl Admission {
    pub(super) fn new(per_second: u32) -> Self {
        let every = Duration::from_secs(1).checked_div(per_second.max(1)).unwrap_or_default();
        let now = Instant::now();
        Self(Arc::new(Inner { every, next: Mutex::new(now), strangers: Mutex::default(), refusals: Lines::default() }))
    }

    /// How many handshakes may wait for their turn.
    pub(super) fn room(per_second: u32) -> usize {
        usize::try_from(per_second).unwrap_or(usize::MAX).saturating_mul(4).max(64)
    }

    /// Whether there is a queue.
    pub(super) fn is_busy(&self) -> bool {
        self.is_busy_at(Instant::now())
    }

    fn is_busy_at(&self, now: Instant) -> bool {
        let next = *self.0.next.lock().unwrap_or_else(PoisonError::into_inner);
        next.saturating_duration_since(now) > BUSY
    }

    /// When the turn of one more handshake is; none when the queue is too long. A second's worth may come at once.
    pub(super) fn turn(&self) -> Option<Instant> {
        self.turn_at(Instant::now())
    }

    fn turn_at(&self, now: Instant) -> Option<Instant> {
        const BURST: Duration = Duration::from_secs(1);
        let mut next = self.0.next.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = (*next).max(now.checked_sub(BURST).unwrap_or(now));
        if turn.saturating_duration_since(now) > PATIENCE {
            return None;
        }
        *next = turn + self.0.every;
        Some(turn)
    }

    /// Whether one more refusal may be logged: whoever can reach the listener must not fill the disk with them.
    pub(super) fn may_log(&self) -> bool {
        self.0.refusals.may()
    }

    /// A place for a peer without a certificate at `address`, if there is one.
    pub(super) fn stranger(&self, address: IpAddr) -> Option<Stranger> {
        let mut strangers = self.0.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = strangers.values().sum();
        let of_one = strangers.get(&address).copied().unwrap_or(0);
        if all >= STRANGERS || of_one >= STRANGERS_OF_ONE {
            return None;
        }
        strangers.insert(address, of_one.saturating_add(1));
        Some(Stranger { admission: self.clone(), address })
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let mut strangers = self.admission.0.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_one) = strangers.get_mut(&self.address) {
            *of_one = of_one.saturating_sub(1);
            if *of_one == 0 {
                strangers.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten thousand at once: so many as the pace allows within the time they are willing to wait, and a burst; the rest is sent away.
    #[test]
    fn a_crowd_is_let_in_at_the_pace() {
        let admission = Admission::new(100);
        let began = Instant::now() + Duration::from_secs(5);
        let turns: Vec<Instant> = (0..10_000).filter_map(|_| admission.turn_at(began)).collect();
        assert!((480..=520).contains(&turns.len()), "{}", turns.len());
        assert!(turns.iter().all(|turn| turn.saturating_duration_since(began) <= PATIENCE + Duration::from_millis(10)));
        let at_once = turns.iter().filter(|turn| **turn <= began).count();
        assert!((95..=105).contains(&at_once), "{at_once}");
        assert!(admission.is_busy_at(began));
        let later = began + Duration::from_secs(5);
        assert!(!admission.is_busy_at(later));
        assert!(admission.turn_at(later).is_some());
    }

    #[test]
    fn strangers_are_few_by_address_and_in_all() {
        let admission = Admission::new(1);
        let at = |last: u8| IpAddr::from([10, 0, 0, last]);
        let of_one: Vec<_> = (0..10).filter_map(|_| admission.stranger(at(1))).collect();
        assert_eq!(of_one.len(), STRANGERS_OF_ONE);
        let others: Vec<_> = (2..100).filter_map(|last| admission.stranger(at(last))).collect();
        assert_eq!(of_one.len() + others.len(), STRANGERS);
        drop((of_one, others));
        assert!(admission.stranger(at(1)).is_some());
        assert!(admission.0.strangers.lock().unwrap().is_empty());
    }
}
