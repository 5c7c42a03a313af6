//! What must hold at every step, whatever goes wrong (I8).
//!
//! - At most one leader in a term.
//! - An entry that one node has applied is never another one on any node; each node applies in order, each entry once in a life.
//! - A state machine apart from all nodes applies what they apply: its effects, its logical time and its hash are theirs, also where a
//!   node took its state from a snapshot.
//! - Whoever watches one node, across its restarts, is told of every change once and in order; what a snapshot skips it is told to skip.
//! - Every acknowledged write stands in the log where it was said to stand, under its request id.

use std::collections::BTreeMap;

use postern_proto::state::v1 as pb;
use postern_state::State;
use prost::Message as _;

use super::client::Acknowledged;
use super::io::{AppliedEntry, HASH_EVERY};
use super::{Violation, broken};

/// Entries between two copies of the reference.
const CHECKPOINT_EVERY: usize = 64;

/// One step of a watcher.
#[derive(Clone, Copy, Debug)]
enum Seen {
    /// A change.
    Change(u64),
    /// A snapshot that ends at this index.
    Skip(u64),
}

#[derive(Default)]
struct Watched {
    /// The last entry applied in this life.
    applied: u64,
    /// Of all lives.
    cursor: u64,
    seen: Vec<Seen>,
}

/// See the module.
#[derive(Default)]
pub struct Laws {
    leaders: BTreeMap<u64, u64>,
    /// Entries of the state machine that some node has applied.
    committed: BTreeMap<u64, (u64, Vec<u8>)>,
    reference: State,
    hashes: BTreeMap<u64, [u8; 32]>,
    /// The reference as it was, now and then: to find the state at any index without beginning at the first.
    checkpoints: BTreeMap<u64, State>,
    nodes: BTreeMap<u64, Watched>,
}

impl Laws {
    /// `node` acts as the leader of `term`.
    ///
    /// # Errors
    /// When another has.
    pub fn leads(&mut self, node: u64, term: u64) -> Result<(), Violation> {
        let known = *self.leaders.entry(term).or_insert(node);
        if known == node {
            return Ok(());
        }
        broken("one leader in a term", format!("nodes {known} and {node} both lead in term {term}"))
    }

    /// `node` begins a life, or takes a snapshot: it has the state that ends at `index`.
    ///
    /// # Errors
    /// When that is not the state of the log up to there.
    pub fn restored(&mut self, node: u64, index: u64, hash: [u8; 32]) -> Result<(), Violation> {
        let watched = self.nodes.entry(node).or_default();
        watched.applied = index;
        if index > watched.cursor {
            watched.cursor = index;
            watched.seen.push(Seen::Skip(index));
        }
        if let Some(known) = self.hash_at(index)
            && known != hash
        {
            return broken(
                "a snapshot is its log",
                format!("node {node} has another state at {index} than the log gives"),
            );
        }
        Ok(())
    }

    /// `node` begins a life with what is on its disk.
    pub fn began(&mut self, node: u64) {
        self.nodes.entry(node).or_default().applied = 0;
    }

    /// `node` has applied an entry.
    ///
    /// # Errors
    /// When it must not have, or not so.
    pub fn applied(&mut self, node: u64, entry: &AppliedEntry) -> Result<(), Violation> {
        let AppliedEntry { index, entry: logged, effects, now, hash } = entry;
        let index = *index;
        let watched = self.nodes.entry(node).or_default();
        if index <= watched.applied {
            let how = format!("node {node} applies entry {index} after entry {}", watched.applied);
            return broken("entries are applied in order", how);
        }
        watched.applied = index;
        if index > watched.cursor {
            watched.cursor = index;
            watched.seen.push(Seen::Change(index));
        }
        // A planted bug may apply what is not in the log.
        let Some((term, data)) = logged else { return Ok(()) };
        match self.committed.get(&index) {
            Some((known_term, known)) if known_term != term || known != data => {
                let how = format!(
                    "node {node} applies an entry of term {term} at {index}; another node applied one of term {known_term}"
                );
                return broken("what is committed stays", how);
            }
            Some(_) => {}
            None => {
                self.committed.insert(index, (*term, data.clone()));
                if index <= self.reference.index() {
                    let how = format!("node {node} applies entry {index}, which others passed over");
                    return broken("what is committed stays", how);
                }
                let applied = match self.reference.apply(index, data) {
                    Ok(applied) => applied,
                    Err(halt) => return broken("a node goes on", halt.to_string()),
                };
                if applied.effects != *effects || self.reference.now() != *now {
                    return broken("nodes agree", format!("node {node} has other effects or another time at {index}"));
                }
                if self.committed.len().is_multiple_of(CHECKPOINT_EVERY) {
                    self.checkpoints.insert(index, self.reference.clone());
                }
                if index.is_multiple_of(HASH_EVERY) {
                    self.hashes.insert(index, self.reference.hash());
                }
            }
        }
        match (hash, self.hashes.get(&index)) {
            (Some(hash), Some(known)) if hash != known => {
                broken("nodes agree", format!("node {node} has another state at {index}"))
            }
            _ => Ok(()),
        }
    }

    /// The log's state where it ends.
    #[must_use]
    pub const fn reference(&self) -> &State {
        &self.reference
    }

    /// How many entries of the state machine are committed.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.committed.len()
    }

    /// The hash of the state that ends at `index`, from the log alone.
    fn hash_at(&self, index: u64) -> Option<[u8; 32]> {
        if index > self.reference.index() {
            return None;
        }
        if let Some(known) = self.hashes.get(&index) {
            return Some(*known);
        }
        let mut state =
            self.checkpoints.range(..=index).next_back().map(|(_, state)| state.clone()).unwrap_or_default();
        let from = state.index().saturating_add(1);
        for (at, (_, data)) in self.committed.range(from.min(index.saturating_add(1))..index.saturating_add(1)) {
            state.apply(*at, data).ok()?;
        }
        Some(state.hash())
    }

    /// At the end: every watcher was told of everything, and every acknowledged write is there.
    ///
    /// # Errors
    /// When something is not.
    pub fn at_the_end(&self, acknowledged: &[Acknowledged]) -> Result<(), Violation> {
        for (node, watched) in &self.nodes {
            let mut cursor = 0;
            for seen in &watched.seen {
                match *seen {
                    Seen::Skip(to) => cursor = to,
                    Seen::Change(index) => {
                        let between = self.committed.range(index.min(cursor.saturating_add(1))..index).next();
                        if let Some((missed, _)) = between {
                            let how = format!(
                                "whoever watches node {node} is told of {index} after {cursor}, not of {missed}"
                            );
                            return broken("a watch misses nothing", how);
                        }
                        cursor = index;
                    }
                }
            }
        }
        for write in acknowledged {
            let stands =
                self.committed.get(&write.revision).and_then(|(_, data)| pb::Entry::decode(data.as_slice()).ok());
            if stands.is_none_or(|entry| entry.request_id != write.request_id.to_bytes()) {
                let how = format!(
                    "write {} was acknowledged at revision {}, which is another entry's",
                    write.request_id, write.revision
                );
                return broken("acknowledged writes survive (I8)", how);
            }
        }
        Ok(())
    }
}
