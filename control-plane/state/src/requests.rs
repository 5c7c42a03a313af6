//! Outcomes remembered by request id, so that a retry gets the first outcome again. Bounded by weight and by age (I11).

use std::time::Duration;

use postern_core::{RequestId, Timestamp};

use crate::outcome::{Outcome, Success};
use crate::tree::Tree;

/// How long an outcome is remembered, by logical time.
const WINDOW: Duration = Duration::from_secs(3600);
/// How much is remembered: each outcome weighs 1, and 1 more for each object in it.
const MAX_WEIGHT: usize = 65_536;

/// How much is remembered whatever its age: logical time jumps when a leader's clock does, and a retry must not be taken for a new request then.
const KEPT_WEIGHT: usize = 16_384;

/// One remembered outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Remembered {
    pub(crate) request: RequestId,
    pub(crate) at: Timestamp,
    pub(crate) outcome: Outcome,
}

/// The de-duplication window.
#[derive(Clone, Debug, Default)]
pub(crate) struct Requests {
    by_index: Tree<u64, Remembered>,
    by_request: Tree<RequestId, u64>,
    weight: usize,
}

impl Requests {
    pub(crate) fn outcome_of(&self, request: RequestId) -> Option<&Outcome> {
        let index = self.by_request.get(&request)?;
        self.by_index.get(index).map(|remembered| &remembered.outcome)
    }

    pub(crate) fn remember(&mut self, index: u64, remembered: Remembered) {
        self.weight = self.weight.saturating_add(weight(&remembered.outcome));
        self.by_request.insert(remembered.request, index);
        self.by_index.insert(index, remembered);
        while self.weight > MAX_WEIGHT && self.forget_first() {}
    }

    /// Forgets what is older than the window, and not of the newest.
    pub(crate) fn expire(&mut self, now: Timestamp) {
        while let Some((_, first)) = self.by_index.first_key_value() {
            let aged = now.since(first.at) > WINDOW && self.weight > KEPT_WEIGHT;
            if !aged || !self.forget_first() {
                break;
            }
        }
    }

    /// In the order of their indexes.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &Remembered)> {
        self.by_index.iter().map(|(index, remembered)| (*index, remembered))
    }

    fn forget_first(&mut self) -> bool {
        let Some((_, first)) = self.by_index.pop_first() else { return false };
        self.by_request.remove(&first.request);
        self.weight = self.weight.saturating_sub(weight(&first.outcome));
        true
    }
}

fn weight(outcome: &Outcome) -> usize {
    match outcome {
        Ok(Success::Put(objects)) => objects.len().saturating_add(1),
        Err(crate::outcome::Refusal::Invalid(faults)) => faults.len().saturating_add(1),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remembered(n: u64, at: u64) -> Remembered {
        let request = RequestId::from_bytes(u128::from(n).to_be_bytes());
        Remembered { request, at: Timestamp::from_millis(at), outcome: Ok(Success::Done) }
    }

    #[test]
    fn bounded_by_weight_and_age() {
        let mut requests = Requests::default();
        for n in 0..70_000 {
            requests.remember(n + 1, remembered(n, 0));
        }
        assert_eq!(requests.by_index.len(), MAX_WEIGHT);
        assert_eq!(requests.by_request.len(), MAX_WEIGHT);
        assert!(requests.outcome_of(remembered(0, 0).request).is_none());
        assert!(requests.outcome_of(remembered(69_999, 0).request).is_some());
        requests.expire(Timestamp::from_millis(3_600_000));
        assert_eq!(requests.by_index.len(), MAX_WEIGHT);
        requests.expire(Timestamp::from_millis(3_600_001));
        assert_eq!((requests.by_index.len(), requests.weight), (KEPT_WEIGHT, KEPT_WEIGHT));
    }

    #[test]
    fn a_clock_that_jumps_makes_no_retry_a_new_request() {
        let mut requests = Requests::default();
        requests.remember(1, remembered(1, 0));
        requests.expire(Timestamp::from_millis(10 * 3_600_000));
        assert!(requests.outcome_of(remembered(1, 0).request).is_some());
    }
}
