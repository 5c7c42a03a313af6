//! All that came into the log between two heads, and whether each recording of it is there.

use std::collections::BTreeMap;

use super::checkpoint::{CheckpointFault, NoteKey, SignedCheckpoint};
use super::leaf::{LEAF_BYTES, Leaf, LeafKind};
use super::merkle::{Frontier, FrontierFault};
use crate::id::SessionId;
use crate::operation::Digest;
use crate::recording::Report;

/// What was exported, unverified.
#[derive(Clone, Copy, Debug)]
pub struct Exported<'a> {
    /// The head that was known before; none: the log's beginning.
    pub older: Option<&'a SignedCheckpoint>,
    /// The head that is to be reached.
    pub newer: &'a SignedCheckpoint,
    /// The full subtrees of the older tree, the largest first.
    pub edge: &'a [Digest],
    /// The leaves between, one after another.
    pub leaves: &'a [u8],
}

/// Leaves between two heads, as far as they can be read, and what is wrong.
#[derive(Clone, Debug, Default)]
pub struct Range {
    first: u64,
    leaves: Vec<Leaf>,
    places: BTreeMap<SessionId, Place>,
    faults: Vec<RangeFault>,
}

/// A session's leaves.
#[derive(Clone, Debug)]
struct Place {
    index: u64,
    /// The last.
    leaf: Leaf,
    /// Those before it: it was orphaned, and its recording went on.
    before: Vec<(u64, Leaf)>,
    /// Whether its recording was found.
    seen: bool,
}

impl Place {
    /// The same again tells nothing new; after an orphan's may come what its recording went on to.
    fn add(&mut self, index: u64, leaf: Leaf) -> bool {
        let says = |leaf: &Leaf| (leaf.kind, leaf.events, leaf.head);
        if says(&self.leaf) == says(&leaf) {
            return true;
        }
        if self.leaf.kind == LeafKind::Orphan && leaf.events > self.leaf.events {
            self.before.push((std::mem::replace(&mut self.index, index), std::mem::replace(&mut self.leaf, leaf)));
            return true;
        }
        false
    }

    /// The leaf with which a recording does not agree.
    fn contradicts(&self, report: &Report) -> Option<(u64, u64)> {
        let mut all = self.before.iter().copied().chain([(self.index, self.leaf)]);
        all.find(|(_, leaf)| !leaf.agrees(report)).map(|(index, leaf)| (index, leaf.events))
    }
}

/// Something that is not as in a whole, untouched export.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeFault {
    /// The older head.
    #[error("the older head: {0}")]
    Older(CheckpointFault),
    /// The newer head.
    #[error("the newer head: {0}")]
    Newer(CheckpointFault),
    /// The newer one is smaller.
    #[error("the newer head has {newer} leaves, the older one {older}")]
    Shrunk {
        /// Leaves.
        older: u64,
        /// Leaves.
        newer: u64,
    },
    /// The older tree is not what its head says.
    #[error("the older tree's edge does not lead to its root: {0}")]
    Edge(String),
    /// A leaf that is none.
    #[error("leaf {0} is damaged")]
    Leaf(u64),
    /// Too few or too many.
    #[error("there are {found} leaves between the heads, not {expected}: some were taken out, or added")]
    Count {
        /// There should be.
        expected: u64,
        /// There are.
        found: u64,
    },
    /// The leaves are not those that were signed.
    #[error(
        "the leaves do not lead to the newer head's root: one was changed, moved, or left out; or the log was not only added to"
    )]
    Root,
    /// Two recordings of one session.
    #[error("{session} has two leaves, {first} and {second}, that say different things")]
    Twice {
        /// Whose.
        session: SessionId,
        /// A place.
        first: u64,
        /// Another.
        second: u64,
    },
    /// There is no recording to a leaf.
    #[error("the recording of {session}, leaf {index}, is missing")]
    Missing {
        /// Whose.
        session: SessionId,
        /// Its place.
        index: u64,
    },
    /// A recording says something else than its leaf.
    #[error(
        "the recording of {session} is not the one of leaf {index}: it has {found} events, the leaf {expected}, or ends otherwise"
    )]
    Other {
        /// Whose.
        session: SessionId,
        /// Its place.
        index: u64,
        /// Events of the recording.
        found: u64,
        /// Events of the leaf.
        expected: u64,
    },
    /// A recording without a leaf.
    #[error("{0} is not in the log between these heads")]
    NotThere(SessionId),
}

impl Range {
    /// Checks the heads by the log's key, and that the leaves lead from the one to the other: nothing was taken out, changed or moved.
    #[must_use]
    pub fn open(key: &NoteKey, given: Exported<'_>) -> Self {
        let mut this = Self::default();
        let older = given.older.map(|older| {
            this.note(older.verify(key).err().map(RangeFault::Older));
            older.head()
        });
        this.note(given.newer.verify(key).err().map(RangeFault::Newer));
        let newer = given.newer.head();
        this.first = older.map_or(0, |older| older.size);
        if newer.size < this.first {
            this.faults.push(RangeFault::Shrunk { older: this.first, newer: newer.size });
        }
        let edge = Frontier::from_parts(this.first, given.edge.to_vec());
        let edge = edge.map_err(|fault: FrontierFault| RangeFault::Edge(fault.to_string())).and_then(|edge| {
            let wrong = older.is_some_and(|older| edge.root() != older.root);
            if wrong { Err(RangeFault::Edge("it leads to another".to_owned())) } else { Ok(edge) }
        });
        let edge = edge.map_err(|fault| this.faults.push(fault)).ok();
        let root = this.read(given.leaves, edge);
        let found = u64::try_from(given.leaves.len().div_ceil(LEAF_BYTES)).unwrap_or(u64::MAX);
        let expected = newer.size.saturating_sub(this.first);
        if found != expected {
            this.faults.push(RangeFault::Count { expected, found });
        } else if root.is_some_and(|root| root != newer.root) {
            this.faults.push(RangeFault::Root);
        }
        this
    }

    fn note(&mut self, fault: Option<RangeFault>) {
        self.faults.extend(fault);
    }

    /// Reads the leaves; the root that they lead to, if they can be read and follow a known edge.
    fn read(&mut self, bytes: &[u8], mut edge: Option<Frontier>) -> Option<Digest> {
        for (index, bytes) in (self.first..).zip(bytes.chunks(LEAF_BYTES)) {
            let Ok(leaf) = Leaf::from_bytes(bytes) else {
                self.faults.push(RangeFault::Leaf(index));
                edge = None;
                continue;
            };
            if let Some(edge) = &mut edge {
                edge.push(leaf.hash());
            }
            let new = || Place { index, leaf, before: Vec::new(), seen: false };
            let place = self.places.entry(leaf.session).or_insert_with(new);
            if !place.add(index, leaf) {
                let (session, first) = (leaf.session, place.index);
                self.faults.push(RangeFault::Twice { session, first, second: index });
            }
            self.leaves.push(leaf);
        }
        edge.map(|edge| edge.root())
    }

    /// The leaves that could be read.
    #[must_use]
    pub fn leaves(&self) -> &[Leaf] {
        &self.leaves
    }

    /// After how many events leaves of orphans speak of the recording of a session: a verifier is to tell what its chain is
    /// there ([`crate::recording::Verifier::at`]).
    #[must_use]
    pub fn places(&self, session: SessionId) -> Vec<u64> {
        let Some(place) = self.places.get(&session) else { return Vec::new() };
        let all = place.before.iter().map(|(_, leaf)| leaf).chain([&place.leaf]);
        all.filter(|leaf| leaf.kind == LeafKind::Orphan).map(|leaf| leaf.events).collect()
    }

    /// Takes note of a recording that was found; what its own report says is not repeated. That there is no seal is no fault where a leaf
    /// says that the session was orphaned there.
    pub fn take(&mut self, report: &mut Report) {
        let Some(session) = report.session else { return };
        let Some(place) = self.places.get_mut(&session) else {
            self.faults.push(RangeFault::NotThere(session));
            return;
        };
        place.seen = true;
        if let Some((index, expected)) = place.contradicts(report) {
            self.faults.push(RangeFault::Other { session, index, found: report.events, expected });
        } else {
            report.accept_orphan(&place.leaf);
        }
    }

    /// Every fault, in order; last the recordings that were not found.
    #[must_use]
    pub fn faults(mut self) -> Vec<RangeFault> {
        let mut missing: Vec<(u64, SessionId)> = self
            .places
            .iter()
            // Of an orphan there may have been nothing.
            .filter(|(_, place)| !place.seen && place.leaf.events > 0)
            .map(|(session, place)| (place.index, *session))
            .collect();
        missing.sort_unstable();
        self.faults.extend(missing.into_iter().map(|(index, session)| RangeFault::Missing { session, index }));
        self.faults
    }
}

#[cfg(test)]
#[path = "range_tests.rs"]
mod tests;
