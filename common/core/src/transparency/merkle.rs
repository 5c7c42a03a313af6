//! The tree of RFC 6962 (RFC 9162, section 2.1): its hashes, its edge, and proofs.

use aws_lc_rs::digest::{Context, SHA256};

use crate::operation::Digest;

/// Leaves that a tree may have: what fits into an i64, as elsewhere.
pub const MAX_LEAVES: u64 = 1 << 62;

/// The hash of a leaf (RFC 9162, section 2.1.1).
#[must_use]
pub fn leaf_hash(data: &[u8]) -> Digest {
    let mut hash = Context::new(&SHA256);
    hash.update(&[0]);
    hash.update(data);
    finish(hash)
}

/// The hash of two subtrees.
#[must_use]
pub fn node_hash(left: &Digest, right: &Digest) -> Digest {
    let mut hash = Context::new(&SHA256);
    hash.update(&[1]);
    hash.update(&left.0);
    hash.update(&right.0);
    finish(hash)
}

/// The root of a tree without leaves.
#[must_use]
pub fn empty_root() -> Digest {
    finish(Context::new(&SHA256))
}

fn finish(hash: Context) -> Digest {
    let mut out = [0; 32];
    out.copy_from_slice(hash.finish().as_ref());
    Digest(out)
}

/// The right edge of a tree: enough to go on with it, and to know its root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    /// The roots of the full subtrees, the largest first: one for each bit of `size` that is set.
    peaks: Vec<Digest>,
}

/// Peaks that belong to no tree of this size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a tree of {size} leaves has {} full subtrees, not {peaks}", size.count_ones())]
pub struct FrontierFault {
    size: u64,
    peaks: usize,
}

impl Frontier {
    /// What [`Self::size`] and [`Self::peaks`] gave.
    ///
    /// # Errors
    /// When there are not as many peaks as such a tree has.
    pub fn from_parts(size: u64, peaks: Vec<Digest>) -> Result<Self, FrontierFault> {
        if u32::try_from(peaks.len()).ok() != Some(size.count_ones()) || size > MAX_LEAVES {
            return Err(FrontierFault { size, peaks: peaks.len() });
        }
        Ok(Self { size, peaks })
    }

    /// How many leaves there are.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The roots of the full subtrees, the largest first.
    #[must_use]
    pub fn peaks(&self) -> &[Digest] {
        &self.peaks
    }

    /// One leaf more.
    pub fn push(&mut self, leaf: Digest) {
        let mut hash = leaf;
        // Each bit that is set at the end is a subtree that becomes full with it.
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.peaks.pop() {
                hash = node_hash(&left, &hash);
            }
        }
        self.peaks.push(hash);
        self.size = self.size.saturating_add(1);
    }

    /// The tree's root.
    #[must_use]
    pub fn root(&self) -> Digest {
        let mut peaks = self.peaks.iter().rev();
        let Some(last) = peaks.next() else { return empty_root() };
        peaks.fold(*last, |right, left| node_hash(left, &right))
    }
}

/// Where hashes of a tree are kept.
pub trait Subtrees {
    /// Why one cannot be had.
    type Error;

    /// The root of the full subtree of `2^level` leaves that begins at leaf `index * 2^level`.
    ///
    /// # Errors
    /// When it cannot be had.
    fn full(&mut self, level: u32, index: u64) -> Result<Digest, Self::Error>;
}

/// The root of the tree over leaves `from` to `to`, `to` not included: the head of a smaller tree where `from` is 0.
///
/// # Errors
/// As `tree`'s.
pub fn subtree<T: Subtrees>(tree: &mut T, from: u64, to: u64) -> Result<Digest, T::Error> {
    // From the right, where the small ones are.
    let mut full = Vec::new();
    let mut at = from;
    while at < to {
        let left = to.saturating_sub(at);
        let level = left.ilog2();
        full.push(tree.full(level, at >> level)?);
        at = at.saturating_add(1 << level);
    }
    let mut full = full.into_iter().rev();
    let Some(last) = full.next() else { return Ok(empty_root()) };
    Ok(full.fold(last, |right, left| node_hash(&left, &right)))
}

/// The largest power of two below `count`, which is at least 2.
fn split(count: u64) -> u64 {
    1 << count.saturating_sub(1).ilog2()
}

/// What proves that leaf `index` is in the tree of `size` leaves (RFC 9162, section 2.1.3.1).
///
/// # Errors
/// As `tree`'s. `index` must be less than `size`.
pub fn inclusion_proof<T: Subtrees>(tree: &mut T, index: u64, size: u64) -> Result<Vec<Digest>, T::Error> {
    let (mut from, mut to, mut beside) = (0_u64, size, Vec::new());
    while to.saturating_sub(from) > 1 {
        let middle = from.saturating_add(split(to.saturating_sub(from)));
        if index < middle {
            beside.push((middle, to));
            to = middle;
        } else {
            beside.push((from, middle));
            from = middle;
        }
    }
    beside.into_iter().rev().map(|(from, to)| subtree(tree, from, to)).collect()
}

/// What proves that the tree of `old` leaves is the beginning of the one of `size` (RFC 9162, section 2.1.4.1).
///
/// # Errors
/// As `tree`'s. `old` must be at most `size`.
pub fn consistency_proof<T: Subtrees>(tree: &mut T, old: u64, size: u64) -> Result<Vec<Digest>, T::Error> {
    if old == 0 || old >= size {
        return Ok(Vec::new());
    }
    let (mut from, mut to, mut parts) = (0_u64, size, Vec::new());
    while to != old {
        let middle = from.saturating_add(split(to.saturating_sub(from)));
        if old <= middle {
            parts.push((middle, to));
            to = middle;
        } else {
            parts.push((from, middle));
            from = middle;
        }
    }
    // The old tree itself is known to whoever asks.
    if from != 0 {
        parts.push((from, to));
    }
    parts.into_iter().rev().map(|(from, to)| subtree(tree, from, to)).collect()
}

/// A proof does not prove it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofFault {
    /// The numbers make no sense together.
    #[error("there is no such leaf or tree in a tree of {0} leaves")]
    Range(u64),
    /// Too few or too many hashes.
    #[error("the proof has not as many hashes as it must")]
    Length,
    /// The hashes lead to another root.
    #[error("the proof leads to another root")]
    Root,
    /// The older tree is not the one that was known.
    #[error("the older tree is not the beginning of the newer one")]
    Older,
}

/// Checks that `leaf` is leaf `index` of the tree with this size and root (RFC 9162, section 2.1.3.2).
///
/// # Errors
/// When it is not proved.
pub fn verify_inclusion(
    leaf: Digest,
    index: u64,
    size: u64,
    proof: &[Digest],
    root: &Digest,
) -> Result<(), ProofFault> {
    if index >= size || size > MAX_LEAVES {
        return Err(ProofFault::Range(size));
    }
    let (mut at, mut last, mut hash) = (index, size.saturating_sub(1), leaf);
    for other in proof {
        if last == 0 {
            return Err(ProofFault::Length);
        }
        if at & 1 == 1 || at == last {
            hash = node_hash(other, &hash);
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            hash = node_hash(&hash, other);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    if last != 0 {
        return Err(ProofFault::Length);
    }
    if hash == *root { Ok(()) } else { Err(ProofFault::Root) }
}

/// Checks that the tree `older` (its size and root) is the beginning of `newer` (RFC 9162, section 2.1.4.2).
///
/// # Errors
/// When it is not proved.
pub fn verify_consistency(older: (u64, Digest), newer: (u64, Digest), proof: &[Digest]) -> Result<(), ProofFault> {
    let ((old, old_root), (size, root)) = (older, newer);
    if old > size || size > MAX_LEAVES {
        return Err(ProofFault::Range(size));
    }
    if old == size || old == 0 {
        if !proof.is_empty() {
            return Err(ProofFault::Length);
        }
        let same = if old == 0 { old_root == empty_root() } else { old_root == root };
        return if same { Ok(()) } else { Err(ProofFault::Older) };
    }
    let mut proof = proof.iter();
    let (mut at, mut last) = (old.saturating_sub(1), size.saturating_sub(1));
    while at & 1 == 1 {
        (at, last) = (at >> 1, last >> 1);
    }
    // A full subtree is not in the proof: it is the old root.
    let first = if old.is_power_of_two() { old_root } else { *proof.next().ok_or(ProofFault::Length)? };
    let (mut older, mut newer) = (first, first);
    for other in proof {
        if last == 0 {
            return Err(ProofFault::Length);
        }
        if at & 1 == 1 || at == last {
            older = node_hash(other, &older);
            newer = node_hash(other, &newer);
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            newer = node_hash(&newer, other);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    if last != 0 {
        return Err(ProofFault::Length);
    }
    match (older == old_root, newer == root) {
        (true, true) => Ok(()),
        (false, _) => Err(ProofFault::Older),
        (true, false) => Err(ProofFault::Root),
    }
}

#[cfg(test)]
#[path = "merkle_tests.rs"]
mod tests;
