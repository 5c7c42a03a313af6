//! An ordered map whose copy costs next to nothing: for the large parts of the state, which is copied for each snapshot while the log goes on.
//!
//! Pairs lie in order in chunks, and a copy shares the chunks. Whoever changes a chunk that is shared copies that one first, so that after a
//! snapshot began each part of the state is copied once, when it is changed, and never all of it at once.

use std::borrow::Borrow;
use std::fmt;
use std::iter::FusedIterator;
use std::sync::Arc;

/// Pairs in one chunk at the most.
const CHUNK: usize = 128;
/// Fewer, and it is put together with the one beside it, if that has room.
const SPARSE: usize = CHUNK / 4;

type Chunk<K, V> = Vec<(K, V)>;

/// Pairs by key.
#[derive(Clone)]
pub(crate) struct Tree<K, V> {
    /// In order, none empty.
    chunks: Vec<Arc<Chunk<K, V>>>,
    len: usize,
}

/// Keys alone.
pub(crate) type Set<K> = Tree<K, ()>;

impl<K, V> Default for Tree<K, V> {
    fn default() -> Self {
        Self { chunks: Vec::new(), len: 0 }
    }
}

impl<K, V> Tree<K, V> {
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn first_key_value(&self) -> Option<(&K, &V)> {
        self.chunks.first()?.first().map(|(key, value)| (key, value))
    }

    pub(crate) fn iter(&self) -> Iter<'_, K, V> {
        Iter { chunks: self.chunks.iter(), front: [].iter(), back: [].iter(), left: self.len }
    }

    pub(crate) fn values(&self) -> impl DoubleEndedIterator<Item = &V> + ExactSizeIterator {
        self.iter().map(|(_, value)| value)
    }
}

impl<K: Ord, V> Tree<K, V> {
    /// The chunk that has `key`, if any has.
    fn chunk_of<Q: Ord + ?Sized>(&self, key: &Q) -> usize
    where
        K: Borrow<Q>,
    {
        let begins_before = |chunk: &Arc<Chunk<K, V>>| chunk.first().is_some_and(|(first, _)| first.borrow() <= key);
        self.chunks.partition_point(begins_before).saturating_sub(1)
    }

    /// Those behind `key`; all, when there is none.
    pub(crate) fn after(&self, key: Option<K>) -> impl Iterator<Item = (&K, &V)> {
        let from = key.as_ref().map_or(0, |key| self.chunk_of(key));
        let chunks = self.chunks.get(from..).unwrap_or_default();
        let all = chunks.iter().flat_map(|chunk| chunk.iter());
        all.skip_while(move |(known, _)| key.as_ref().is_some_and(|key| known <= key)).map(|(key, value)| (key, value))
    }

    pub(crate) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let chunk = self.chunks.get(self.chunk_of(key))?;
        let place = chunk.binary_search_by(|(known, _)| known.borrow().cmp(key)).ok()?;
        chunk.get(place).map(|(_, value)| value)
    }

    pub(crate) fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }
}

impl<K: Ord + Clone, V: Clone> Tree<K, V> {
    /// Gives what stood there before.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let at = self.chunk_of(&key);
        let last = at.saturating_add(1) == self.chunks.len();
        let Some(chunk) = self.chunks.get_mut(at) else {
            self.chunks.push(Arc::new(vec![(key, value)]));
            self.len = 1;
            return None;
        };
        let place = match chunk.binary_search_by(|(known, _)| known.cmp(&key)) {
            Ok(place) => {
                let (_, known) = Arc::make_mut(chunk).get_mut(place)?;
                return Some(std::mem::replace(known, value));
            }
            Err(place) => place,
        };
        self.len = self.len.saturating_add(1);
        if chunk.len() < CHUNK {
            Arc::make_mut(chunk).insert(place, (key, value));
        } else if last && place == chunk.len() {
            // What comes in order leaves full chunks behind it.
            self.chunks.push(Arc::new(vec![(key, value)]));
        } else {
            let chunk = Arc::make_mut(chunk);
            let mut upper = chunk.split_off(CHUNK / 2);
            match place.checked_sub(chunk.len()) {
                Some(place) if place > 0 => upper.insert(place, (key, value)),
                _ => chunk.insert(place, (key, value)),
            }
            self.chunks.insert(at.saturating_add(1), Arc::new(upper));
        }
        None
    }

    pub(crate) fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let at = self.chunk_of(key);
        let place = self.chunks.get(at)?.binary_search_by(|(known, _)| known.borrow().cmp(key)).ok()?;
        self.take(at, place).map(|(_, value)| value)
    }

    pub(crate) fn pop_first(&mut self) -> Option<(K, V)> {
        self.take(0, 0)
    }

    fn take(&mut self, at: usize, place: usize) -> Option<(K, V)> {
        let chunk = Arc::make_mut(self.chunks.get_mut(at)?);
        if place >= chunk.len() {
            return None;
        }
        let taken = chunk.remove(place);
        self.len = self.len.saturating_sub(1);
        let left = chunk.len();
        if left == 0 {
            self.chunks.remove(at);
        } else if left < SPARSE {
            let has_room = |other: usize| {
                let chunk = self.chunks.get(other)?;
                (left.saturating_add(chunk.len()) <= CHUNK / 2).then_some(other)
            };
            let before = at.checked_sub(1).and_then(has_room);
            let after = has_room(at.saturating_add(1));
            if let Some(lower) = before.or(after.and(Some(at))) {
                let upper = self.chunks.remove(lower.saturating_add(1));
                if let Some(chunk) = self.chunks.get_mut(lower) {
                    Arc::make_mut(chunk).extend(Arc::unwrap_or_clone(upper));
                }
            }
        }
        Some(taken)
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for Tree<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// By what is in it: the same pairs may lie in other chunks.
impl<K: PartialEq, V: PartialEq> PartialEq for Tree<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

/// In order.
pub(crate) struct Iter<'a, K, V> {
    chunks: std::slice::Iter<'a, Arc<Chunk<K, V>>>,
    front: std::slice::Iter<'a, (K, V)>,
    back: std::slice::Iter<'a, (K, V)>,
    left: usize,
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((key, value)) = self.front.next() {
                self.left = self.left.saturating_sub(1);
                return Some((key, value));
            }
            self.front = match self.chunks.next() {
                Some(chunk) => chunk.iter(),
                None if self.back.len() > 0 => std::mem::take(&mut self.back),
                None => return None,
            };
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<K, V> DoubleEndedIterator for Iter<'_, K, V> {
    fn next_back(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((key, value)) = self.back.next_back() {
                self.left = self.left.saturating_sub(1);
                return Some((key, value));
            }
            self.back = match self.chunks.next_back() {
                Some(chunk) => chunk.iter(),
                None if self.front.len() > 0 => std::mem::take(&mut self.front),
                None => return None,
            };
        }
    }
}

impl<K, V> ExactSizeIterator for Iter<'_, K, V> {}
impl<K, V> FusedIterator for Iter<'_, K, V> {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn check(tree: &Tree<u16, u32>, model: &BTreeMap<u16, u32>) {
        assert!(tree.iter().eq(model.iter()));
        assert!(tree.iter().rev().eq(model.iter().rev()));
        assert_eq!((tree.len(), tree.iter().len()), (model.len(), model.len()));
        assert_eq!(tree.first_key_value(), model.first_key_value());
        assert!(tree.chunks.iter().all(|chunk| !chunk.is_empty() && chunk.len() <= CHUNK));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn is_what_a_map_of_std_is(steps in prop::collection::vec((0_u8..6, 0_u16..600, any::<u32>()), 0..2_000)) {
            let (mut tree, mut model) = (Tree::default(), BTreeMap::new());
            let mut former = Vec::new();
            for (what, key, value) in steps {
                match what {
                    0..3 => prop_assert_eq!(tree.insert(key, value), model.insert(key, value)),
                    3 => prop_assert_eq!(tree.remove(&key), model.remove(&key)),
                    4 => prop_assert_eq!(tree.pop_first(), model.pop_first()),
                    _ if former.len() < 8 => former.push((tree.clone(), model.clone())),
                    _ => prop_assert_eq!(tree.get(&key), model.get(&key)),
                }
            }
            check(&tree, &model);
            // What was copied before did not change with it.
            former.iter().for_each(|(tree, model)| check(tree, model));
        }

        #[test]
        fn both_ends_meet(count in 0_u16..600, turns in prop::collection::vec(any::<bool>(), 0..700)) {
            let tree: Tree<u16, u32> = filled(count);
            let model: Vec<u16> = (0..count).collect();
            let (mut ours, mut theirs) = (tree.iter().map(|(key, _)| key), model.iter());
            for front in turns {
                let (one, other) =
                    if front { (ours.next(), theirs.next()) } else { (ours.next_back(), theirs.next_back()) };
                prop_assert_eq!(one, other);
                prop_assert_eq!(ours.len(), theirs.len());
            }
        }
    }

    fn filled(count: u16) -> Tree<u16, u32> {
        let mut tree = Tree::default();
        for key in 0..count {
            tree.insert(key, u32::from(key));
        }
        tree
    }

    #[test]
    fn what_comes_in_order_lies_dense_and_what_goes_leaves_no_holes() {
        let mut tree = filled(12_800);
        assert_eq!(tree.chunks.len(), 100);
        for key in (0..12_800).filter(|key| key % 64 != 0) {
            tree.remove(&key);
        }
        assert_eq!(tree.len(), 200);
        assert!(tree.chunks.len() <= 8, "{} chunks", tree.chunks.len());
    }

    #[test]
    fn a_copy_shares_what_is_not_changed() {
        let tree = filled(12_800);
        let mut copy = tree.clone();
        copy.insert(5, 0);
        let shared = tree.chunks.iter().zip(&copy.chunks).filter(|(one, other)| Arc::ptr_eq(one, other)).count();
        assert_eq!((shared, tree.get(&5), copy.get(&5)), (99, Some(&5), Some(&0)));
    }
}
