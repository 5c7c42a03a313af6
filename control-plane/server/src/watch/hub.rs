//! The changes of the replicated state, for whoever follows them on this node.
//!
//! The driver's thread writes ([`HubWriter`] is its [`Observer`]); anybody subscribes. Every node has a hub of what it has applied itself,
//! so followers serve watches as the leader does.

use std::fmt;
use std::sync::Arc;

use postern_state::{Effect, State};

use super::change::{Change, ChangeSet, Known};
use super::ring::{Bounds, Lost, Ring, RingReader};
use crate::raft::Observer;

/// Enough for a follower that is away for a minute of busy administration; past it, it reads the whole anew.
const BOUNDS: Bounds = Bounds { count: 16_384, bytes: 64 << 20 };

/// Where the raft driver tells of what it has applied.
#[derive(Debug)]
pub struct HubWriter {
    ring: Ring<ChangeSet>,
    /// Nothing was applied or restored yet.
    fresh: bool,
    /// The last audit record that was told of.
    audit: u64,
    known: Known,
}

/// Where changes are followed. Cheap to clone.
#[derive(Clone, Debug)]
pub struct WatchHub {
    ring: RingReader<ChangeSet>,
}

type Predicate = Arc<dyn Fn(&Change) -> bool + Send + Sync>;

/// One that follows: a cursor, and perhaps a filter.
#[derive(Clone)]
pub struct Subscription {
    ring: RingReader<ChangeSet>,
    cursor: u64,
    only: Option<Predicate>,
}

impl WatchHub {
    /// A hub, its writing end for the raft driver, and what has to run between them: so that a change costs the driver the same however
    /// many follow.
    pub fn new() -> (HubWriter, Self, impl Future<Output = ()> + Send + 'static) {
        let (ring, reader, relay) = Ring::relayed(0, BOUNDS);
        (HubWriter { ring, fresh: true, audit: 0, known: Known::default() }, Self { ring: reader }, relay)
    }

    /// With nothing between them, holding as much as `bounds` allow.
    #[cfg(test)]
    pub(crate) fn bounded(bounds: Bounds) -> (HubWriter, Self) {
        let (ring, reader) = Ring::new(0, bounds);
        (HubWriter { ring, fresh: true, audit: 0, known: Known::default() }, Self { ring: reader })
    }

    /// Follows all that changes after `revision`: usually the index of the state that the caller has just read.
    #[must_use]
    pub fn subscribe(&self, revision: u64) -> Subscription {
        Subscription { ring: self.ring.clone(), cursor: revision, only: None }
    }

    /// The revision of the newest change.
    #[must_use]
    pub fn head(&self) -> u64 {
        self.ring.head()
    }
}

impl Subscription {
    /// Only changes for which `only` holds. Sets of changes without any are passed over.
    #[must_use]
    pub fn filtered(mut self, only: impl Fn(&Change) -> bool + Send + Sync + 'static) -> Self {
        self.only = Some(Arc::new(only));
        self
    }

    /// The next set of changes; each comes once, in order. Cancel-safe.
    ///
    /// # Errors
    /// [`Lost::Compacted`]: read the state again, and subscribe from its index. [`Lost::Stopped`]: the node stops.
    pub async fn next(&mut self) -> Result<Arc<ChangeSet>, Lost> {
        loop {
            let set = self.ring.next(self.cursor).await?;
            self.cursor = set.revision;
            if let Some(set) = self.pick(set) {
                return Ok(set);
            }
        }
    }

    /// As [`Self::next`], without waiting.
    ///
    /// # Errors
    /// [`Lost::Compacted`]: read the state again, and subscribe from its index.
    pub fn try_next(&mut self) -> Result<Option<Arc<ChangeSet>>, Lost> {
        while let Some(set) = self.ring.after(self.cursor)? {
            self.cursor = set.revision;
            if let Some(set) = self.pick(set) {
                return Ok(Some(set));
            }
        }
        Ok(None)
    }

    /// All changes up to this revision were given out, or passed over.
    #[must_use]
    pub const fn cursor(&self) -> u64 {
        self.cursor
    }

    fn pick(&self, set: Arc<ChangeSet>) -> Option<Arc<ChangeSet>> {
        let Some(only) = &self.only else { return Some(set) };
        if set.changes.iter().all(|change| only(change)) {
            return (!set.changes.is_empty()).then_some(set);
        }
        let changes: Vec<Change> = set.changes.iter().filter(|change| only(change)).cloned().collect();
        (!changes.is_empty()).then(|| Arc::new(ChangeSet { revision: set.revision, policy: set.policy, changes }))
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("cursor", &self.cursor).finish_non_exhaustive()
    }
}

impl Observer for HubWriter {
    fn applied(&mut self, state: &State, index: u64, effects: &[Effect]) {
        if std::mem::replace(&mut self.fresh, false) {
            // What came before was not seen here.
            self.ring.reset(index.saturating_sub(1));
            self.audit = state.audit_head().0.saturating_sub(1);
            self.known = Known::of(state);
        }
        let set = ChangeSet::new(state, index, effects, self.audit, &mut self.known);
        self.audit = state.audit_head().0;
        if let Some(set) = set {
            self.ring.push(Arc::new(set));
        }
        if effects.contains(&Effect::ApprovalsChanged) {
            count_reviews(state);
        }
    }

    fn restored(&mut self, state: &State) {
        self.fresh = false;
        self.audit = state.audit_head().0;
        self.known = Known::of(state);
        self.ring.reset(state.index());
        count_reviews(state);
    }
}

#[allow(clippy::cast_precision_loss)] // at most ten thousand
fn count_reviews(state: &State) {
    let (open, overdue) = state.open_reviews();
    metrics::gauge!("postern_control_reviews_open").set(open as f64);
    metrics::gauge!("postern_control_reviews_overdue").set(overdue as f64);
}

#[cfg(test)]
#[path = "hub_tests.rs"]
mod tests;
