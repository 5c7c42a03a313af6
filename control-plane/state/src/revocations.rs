//! Revocations of tokens that are in force.

use std::sync::Arc;

use postern_core::Timestamp;
use postern_core::resource::FieldFault;
use postern_core::revocation::{Mark, Revocation, RevocationKey, Revocations, seconds};
use postern_core::wire::revocation::{revocation_from_proto, revocation_to_proto};
use postern_proto::resource::v1 as pb;
use prost::Message as _;

use crate::entry::fault;
use crate::tree::{Set, Tree};

/// Those that are forgotten with one entry of the log: of a million that end in the same second no entry has to wait for all.
const AT_ONCE: usize = 4_096;

/// Part of the state. There may be a million: what only people read lies encoded.
#[derive(Clone, Debug, Default)]
pub(crate) struct RevocationBook {
    /// As gateways look them up.
    pub(crate) marks: Revocations,
    /// Encoded, by key.
    told: Tree<RevocationKey, Arc<[u8]>>,
    // Derived.
    ends: Set<(u32, RevocationKey)>,
    /// Those that are not of one token.
    broad: usize,
    /// What the entry at this index added.
    newest: (u64, Arc<[Mark]>),
}

impl RevocationBook {
    pub(crate) const fn len(&self) -> usize {
        self.told.len()
    }

    pub(crate) const fn broad(&self) -> usize {
        self.broad
    }

    pub(crate) fn get(&self, key: &RevocationKey) -> Option<Revocation> {
        self.told.get(key).and_then(|bytes| decode(bytes))
    }

    /// Whether it says more than what there is.
    pub(crate) fn is_new(&self, mark: &Mark) -> bool {
        let covered = |known: Mark| known.issued_before >= mark.issued_before && known.until >= mark.until;
        !self.marks.get(&mark.key).is_some_and(covered)
    }

    /// With one that is there of the same thing it is one that means what both do.
    pub(crate) fn put(&mut self, mut revocation: Revocation) {
        let key = revocation.of.key();
        if let Some(known) = self.get(&key) {
            revocation.issued_before = revocation.issued_before.max(known.issued_before);
            revocation.until = revocation.until.max(known.until);
            self.remove(&key);
        }
        let mark = revocation.mark();
        self.broad = self.broad.saturating_add(usize::from(!revocation.of.is_single()));
        self.ends.insert((mark.until, key), ());
        self.told.insert(key, revocation_to_proto(&revocation).encode_to_vec().into());
        self.marks.insert(mark);
    }

    fn remove(&mut self, key: &RevocationKey) {
        let Some(known) = self.told.remove(key).and_then(|bytes| decode(&bytes)) else { return };
        self.broad = self.broad.saturating_sub(usize::from(!known.of.is_single()));
        self.ends.remove(&(known.mark().until, *key));
        self.marks.remove(key);
    }

    /// Forgets those that no living token can be meant by.
    pub(crate) fn expire(&mut self, now: Timestamp) {
        for _ in 0..AT_ONCE {
            let Some((&(until, key), ())) = self.ends.first_key_value() else { break };
            if until >= seconds(now) {
                break;
            }
            self.remove(&key);
            // Also one that could not be read.
            self.ends.remove(&(until, key));
        }
    }

    pub(crate) fn set_newest(&mut self, index: u64, marks: Vec<Mark>) {
        self.newest = (index, marks.into());
    }

    /// What the entry at `index` added, if it was the last that added any.
    pub(crate) fn newest(&self, index: u64) -> Option<&Arc<[Mark]>> {
        (self.newest.0 == index).then_some(&self.newest.1)
    }

    /// As they lie in a snapshot.
    pub(crate) fn to_proto(&self) -> impl Iterator<Item = pb::Revocation> {
        self.told.values().filter_map(|bytes| pb::Revocation::decode(&**bytes).ok())
    }

    pub(crate) fn after(&self, key: Option<RevocationKey>) -> impl Iterator<Item = (RevocationKey, Revocation)> {
        let from = self.told.after(key);
        from.filter_map(|(key, bytes)| Some((*key, decode(bytes)?)))
    }
}

pub(crate) fn from_proto(revocation: pb::Revocation) -> Result<Revocation, Vec<FieldFault>> {
    revocation_from_proto(revocation).map_err(fault)
}

fn decode(bytes: &[u8]) -> Option<Revocation> {
    revocation_from_proto(pb::Revocation::decode(bytes).ok()?).ok()
}
