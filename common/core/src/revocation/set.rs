//! Many marks by key, shared between revisions.
//!
//! Keys are digests, so they spread evenly: two levels of 64 lead to a leaf with its marks in order. A copy shares everything; who adds a mark copies the way to
//! it, 64 pointers twice and some hundred marks where there are a million.

use std::sync::Arc;

use super::{Bearer, Mark, RevocationKey};

const FAN: usize = 64;
/// Bytes of an encoded mark.
pub const MARK_BYTES: usize = 24;

type Leaf = Vec<Mark>;
type Branch = Vec<Arc<Leaf>>;

/// A set of marks, one for each key. A copy costs next to nothing.
#[derive(Clone, Debug, Default)]
pub struct Revocations {
    /// [`FAN`] of them, or none at all.
    root: Arc<Vec<Arc<Branch>>>,
    len: usize,
}

/// Encoded marks that are no such thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a list of revocations: {0} bytes")]
pub struct Damaged(pub usize);

impl Revocations {
    /// How many.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// None.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What there is by a key.
    #[must_use]
    pub fn get(&self, key: &RevocationKey) -> Option<Mark> {
        let (upper, lower) = place(key);
        let leaf = self.root.get(upper)?.get(lower)?;
        leaf.binary_search_by(|mark| mark.key.cmp(key)).ok().and_then(|place| leaf.get(place)).copied()
    }

    /// Whether any of them means the token that `bearer` is of.
    #[must_use]
    pub fn mean(&self, bearer: &Bearer) -> bool {
        !self.is_empty() && bearer.keys().iter().any(|key| self.get(key).is_some_and(|mark| bearer.is_meant_by(&mark)))
    }

    /// Adds a mark. With one that is there by the same key it is one that means what both do. Gives whether anything changed.
    pub fn insert(&mut self, mark: Mark) -> bool {
        let known = self.get(&mark.key);
        let mark = known.map_or(mark, |known| Mark {
            key: mark.key,
            issued_before: mark.issued_before.max(known.issued_before),
            until: mark.until.max(known.until),
        });
        if known == Some(mark) {
            return false;
        }
        let (upper, lower) = place(&mark.key);
        let root = Arc::make_mut(&mut self.root);
        root.resize(FAN, Arc::default());
        let Some(branch) = root.get_mut(upper).map(Arc::make_mut) else { return false };
        branch.resize(FAN, Arc::default());
        let Some(leaf) = branch.get_mut(lower).map(Arc::make_mut) else { return false };
        match leaf.binary_search_by(|other| other.key.cmp(&mark.key)) {
            Ok(place) => {
                if let Some(known) = leaf.get_mut(place) {
                    *known = mark;
                }
            }
            Err(place) => {
                // Not twice the room of what is there: there are many leaves.
                leaf.reserve_exact(leaf.len() / 8 + 1);
                leaf.insert(place, mark);
                self.len = self.len.saturating_add(1);
            }
        }
        true
    }

    /// Removes what there is by a key.
    pub fn remove(&mut self, key: &RevocationKey) {
        if self.get(key).is_none() {
            return;
        }
        let (upper, lower) = place(key);
        let branch = Arc::make_mut(&mut self.root).get_mut(upper).map(Arc::make_mut);
        if let Some(leaf) = branch.and_then(|branch| branch.get_mut(lower)).map(Arc::make_mut) {
            leaf.retain(|mark| mark.key != *key);
            self.len = self.len.saturating_sub(1);
        }
    }

    /// Forgets those that nobody needs after `second`.
    pub fn forget(&mut self, second: u32) {
        let over = |mark: &Mark| mark.until < second;
        let old = |leaf: &Arc<Leaf>| leaf.iter().any(over);
        if !self.root.iter().any(|branch| branch.iter().any(old)) {
            return;
        }
        for branch in Arc::make_mut(&mut self.root).iter_mut().filter(|branch| branch.iter().any(old)) {
            for leaf in Arc::make_mut(branch).iter_mut().filter(|leaf| old(leaf)) {
                let before = leaf.len();
                *leaf = Arc::new(leaf.iter().filter(|mark| !over(mark)).copied().collect());
                self.len = self.len.saturating_sub(before.saturating_sub(leaf.len()));
            }
        }
    }

    /// All, by key.
    pub fn iter(&self) -> impl Iterator<Item = &Mark> {
        self.root.iter().flat_map(|branch| branch.iter()).flat_map(|leaf| leaf.iter())
    }

    /// What is here and not in `before`, or means more than there. What both share is passed over.
    #[must_use]
    pub fn added_since(&self, before: &Self) -> Vec<Mark> {
        let mut added = Vec::new();
        if Arc::ptr_eq(&self.root, &before.root) {
            return added;
        }
        for (upper, branch) in self.root.iter().enumerate() {
            let former = before.root.get(upper);
            if former.is_some_and(|former| Arc::ptr_eq(former, branch)) {
                continue;
            }
            for (lower, leaf) in branch.iter().enumerate() {
                let known = former.and_then(|former| former.get(lower));
                if known.is_some_and(|known| Arc::ptr_eq(known, leaf)) {
                    continue;
                }
                let is_known = |mark: &Mark| {
                    let known = known.and_then(|known| {
                        let place = known.binary_search_by(|other| other.key.cmp(&mark.key)).ok()?;
                        known.get(place)
                    });
                    known.is_some_and(|known| known.issued_before >= mark.issued_before)
                };
                added.extend(leaf.iter().filter(|mark| !is_known(mark)));
            }
        }
        added
    }

    /// All of them, [`MARK_BYTES`] each.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self.iter())
    }

    /// What [`Self::to_bytes`] gave.
    ///
    /// # Errors
    /// It is not whole.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Damaged> {
        let mut all = Self::default();
        for mark in decode(bytes)? {
            all.insert(mark);
        }
        Ok(all)
    }
}

impl PartialEq for Revocations {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.root, &other.root) || (self.len == other.len && self.iter().eq(other.iter()))
    }
}

/// The first twelve bits.
const fn place(key: &RevocationKey) -> (usize, usize) {
    let [first, second, ..] = key.0;
    ((first >> 2) as usize, (((first & 3) << 4) | (second >> 4)) as usize)
}

/// Marks one after the other: the key, then both times, big-endian.
#[must_use]
pub(crate) fn encode<'a>(marks: impl IntoIterator<Item = &'a Mark>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for mark in marks {
        bytes.extend_from_slice(&mark.key.0);
        bytes.extend_from_slice(&mark.issued_before.to_be_bytes());
        bytes.extend_from_slice(&mark.until.to_be_bytes());
    }
    bytes
}

/// What [`encode`] gave.
pub(crate) fn decode(bytes: &[u8]) -> Result<Vec<Mark>, Damaged> {
    let (records, rest) = bytes.as_chunks::<MARK_BYTES>();
    if !rest.is_empty() {
        return Err(Damaged(bytes.len()));
    }
    let mark = |record: &[u8; MARK_BYTES]| {
        let (key, times) = record.split_first_chunk::<16>()?;
        let (issued_before, until) = times.split_first_chunk::<4>()?;
        Some(Mark {
            key: RevocationKey(*key),
            issued_before: u32::from_be_bytes(*issued_before),
            until: u32::from_be_bytes(until.try_into().ok()?),
        })
    };
    records.iter().map(|record| mark(record).ok_or(Damaged(bytes.len()))).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn mark(key: u16, issued_before: u32, until: u32) -> Mark {
        let mut bytes = [0; 16];
        bytes[..2].copy_from_slice(&key.to_be_bytes());
        Mark { key: RevocationKey(bytes), issued_before, until }
    }

    proptest! {
        /// Against a plain map, with a copy taken on the way that must not change.
        #[test]
        fn as_a_map_would(
            first in prop::collection::vec((any::<u16>(), 0_u32..9, 0_u32..9), 0..200),
            then in prop::collection::vec((any::<u16>(), 0_u32..9, 0_u32..9, any::<bool>()), 0..200),
            second in 0_u32..9,
        ) {
            let (mut set, mut map) = (Revocations::default(), BTreeMap::new());
            let put = |set: &mut Revocations, map: &mut BTreeMap<u16, (u32, u32)>, key, before: u32, until: u32| {
                set.insert(mark(key, before, until));
                let known: &mut (u32, u32) = map.entry(key).or_default();
                *known = (known.0.max(before), known.1.max(until));
            };
            for (key, before, until) in first {
                put(&mut set, &mut map, key, before, until);
            }
            let (copy, was) = (set.clone(), map.clone());
            for (key, before, until, goes) in then {
                if goes {
                    set.remove(&mark(key, 0, 0).key);
                    map.remove(&key);
                } else {
                    put(&mut set, &mut map, key, before, until);
                }
            }
            let shown = |map: &BTreeMap<u16, (u32, u32)>| {
                map.iter().map(|(key, (before, until))| mark(*key, *before, *until)).collect::<Vec<_>>()
            };
            prop_assert_eq!(set.iter().copied().collect::<Vec<_>>(), shown(&map));
            prop_assert_eq!((set.len(), copy.len()), (map.len(), was.len()));
            prop_assert_eq!(copy.iter().copied().collect::<Vec<_>>(), shown(&was));
            let added = set.added_since(&copy);
            let more = |(key, (before, _)): &(&u16, &(u32, u32))| was.get(*key).is_none_or(|(known, _)| known < before);
            prop_assert_eq!(added.len(), map.iter().filter(more).count());
            prop_assert_eq!(&Revocations::from_bytes(&set.to_bytes()).unwrap(), &set);
            set.forget(second);
            map.retain(|_, (_, until)| *until >= second);
            prop_assert_eq!(set.iter().copied().collect::<Vec<_>>(), shown(&map));
            prop_assert_eq!(set.len(), map.len());
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            prop_assert_eq!(Revocations::from_bytes(&bytes).is_ok(), bytes.len() % MARK_BYTES == 0);
        }
    }
}
