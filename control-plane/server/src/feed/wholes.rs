//! Whole policies on their way to gateways.
//!
//! One that was begun is sent to its end, however many newer ones there are by then: a gateway that takes it slowly goes on from there by
//! what was changed since. Few different ones are kept at a time (I11). Who comes when there are as many is given the newest of them, and
//! has only more to catch up with. One that nobody takes anything of for minutes gives way to others.

use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use postern_core::signed::Purpose;
use postern_core::wire::snapshot::to_proto;
use postern_proto::gateway::v1 as pb;
use prost::Message as _;

use super::published::{Policy, Secrets, sign};

/// Different ones at a time.
pub(super) const MOST: usize = 4;
/// One of which nothing is taken for this long gives way: at less than half a KiB/s, by the parts that it is sent in.
const STALLED: Duration = Duration::from_secs(120);

/// A whole policy, signed, with the credentials that go with it.
pub(super) struct Whole {
    pub(super) revision: u64,
    pub(super) epoch: u64,
    pub(super) secrets: Secrets,
    signed: LazyLock<pb::Signed, Box<dyn FnOnce() -> pb::Signed + Send>>,
}

/// Those that are kept.
#[derive(Default)]
pub(crate) struct Wholes(Mutex<Vec<Kept>>);

struct Kept {
    whole: Arc<Whole>,
    /// Gateways that it is sent to.
    holders: usize,
    /// When one of them took something of it last.
    moved: Instant,
}

/// A gateway's claim to one of them.
pub(super) struct Hold {
    wholes: Arc<Wholes>,
    whole: Weak<Whole>,
}

impl Whole {
    fn of(policy: &Arc<Policy>) -> Self {
        let made_of = Arc::clone(policy);
        let make = move || {
            metrics::counter!("postern_control_policy_builds_total").increment(1);
            sign(&made_of.signer, Purpose::Snapshot, to_proto(&made_of.snapshot).encode_to_vec())
        };
        Self {
            revision: policy.revision(),
            epoch: policy.epoch,
            secrets: policy.secrets.clone(),
            signed: LazyLock::new(Box::new(make)),
        }
    }

    /// Made when the first gateway needs it.
    pub(super) fn signed(&self) -> &pb::Signed {
        &self.signed
    }
}

impl Wholes {
    /// The newest policy, or the newest of those that are kept when there are as many as may be; `None` when that is not `after` either.
    pub(super) fn hold(self: &Arc<Self>, policy: &Arc<Policy>, after: u64) -> Option<Hold> {
        let now = Instant::now();
        let mut kept = self.lock();
        let is_it = |kept: &Kept| kept.whole.revision == policy.revision() && kept.whole.epoch == policy.epoch;
        let place = match kept.iter().position(is_it) {
            Some(place) => place,
            None => {
                // One that nobody holds was kept for those who come while it is the newest.
                kept.retain(|kept| kept.holders > 0);
                if kept.len() >= MOST {
                    kept.retain(|kept| now.saturating_duration_since(kept.moved) < STALLED);
                }
                if kept.len() < MOST {
                    kept.push(Kept { whole: Arc::new(Whole::of(policy)), holders: 0, moved: now });
                }
                let newest = (0..).zip(kept.iter()).max_by_key(|(_, kept)| (kept.whole.revision, kept.whole.epoch));
                let (place, _) = newest.filter(|(_, kept)| after == 0 || kept.whole.revision > after)?;
                place
            }
        };
        let kept = kept.get_mut(place)?;
        kept.holders = kept.holders.saturating_add(1);
        kept.moved = now;
        Some(Hold { wholes: Arc::clone(self), whole: Arc::downgrade(&kept.whole) })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.lock().len()
    }

    /// As if nothing was taken of any for long.
    #[cfg(test)]
    pub(super) fn stall(&self) {
        for kept in self.lock().iter_mut() {
            kept.moved = kept.moved.checked_sub(STALLED).unwrap();
        }
    }
}

impl Hold {
    /// What is held, to take something of it; `None` when it had to give way.
    pub(super) fn take(&self) -> Option<Arc<Whole>> {
        let whole = self.whole.upgrade()?;
        let mut kept = self.wholes.lock();
        kept.iter_mut().find(|kept| Arc::ptr_eq(&kept.whole, &whole))?.moved = Instant::now();
        Some(whole)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut kept = self.wholes.lock();
        let newest = kept.iter().map(|kept| (kept.whole.revision, kept.whole.epoch)).max();
        let Some(place) = kept.iter().position(|kept| std::ptr::eq(Arc::as_ptr(&kept.whole), self.whole.as_ptr()))
        else {
            return;
        };
        let Some(held) = kept.get_mut(place) else { return };
        held.holders = held.holders.saturating_sub(1);
        // The newest stays for who comes next.
        if held.holders == 0 && newest != Some((held.whole.revision, held.whole.epoch)) {
            kept.swap_remove(place);
        }
    }
}
