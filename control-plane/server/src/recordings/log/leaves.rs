//! The leaves of the log on this member's disk, one after another, and the hashes above them in memory.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use postern_core::operation::Digest;
use postern_core::transparency::{Frontier, LEAF_BYTES, Leaf, LeafKind, Subtrees};
use postern_core::{SessionId, Timestamp};
use postern_runtime::pki::create_private_dir;

use super::packed;

/// Levels of the tree between two of which hashes are kept: so that a proof needs few leaves, and a leaf little memory.
const TIER: u32 = 8;
/// Leaves read at once.
const TOGETHER: u64 = 4_096;
/// By how much a gateway's clock may be ahead of the cluster's.
const SKEW_MILLIS: u64 = 3_600_000;

/// A file of leaves.
pub(super) struct Leaves {
    path: PathBuf,
    file: File,
    edge: Frontier,
    /// The roots of full subtrees: of 2^8 leaves, of 2^16, and so on.
    tiers: Vec<Vec<Digest>>,
    /// A flush has failed: of what was written before it nobody knows what is on the disk.
    broken: bool,
}

/// A leaf that another place has otherwise.
#[derive(Debug, thiserror::Error)]
pub(super) enum LeavesError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("leaf {0} of the log of recordings is damaged")]
    Damaged(u64),
    /// The disk cannot be trusted any more.
    #[error("leaves of the log of recordings cannot be made durable")]
    Flush,
}

impl Leaves {
    /// Reads what is there. A leaf that was cut off is written again.
    pub(super) fn open(path: &Path) -> Result<Self, LeavesError> {
        if let Some(dir) = path.parent() {
            create_private_dir(dir).map_err(io::Error::other)?;
        }
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        // Its name is to survive as its leaves are.
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()?;
        let whole = file.metadata()?.len() / bytes(1);
        let mut this =
            Self { path: path.to_owned(), file, edge: Frontier::default(), tiers: Vec::new(), broken: false };
        this.file.set_len(bytes(whole))?;
        while this.size() < whole {
            for leaf in this.read(this.size(), whole)? {
                this.count(leaf.hash())?;
            }
        }
        Ok(this)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) const fn size(&self) -> u64 {
        self.edge.size()
    }

    /// Some leaves from `from` on, before `until`: as many as are read at once.
    pub(super) fn read(&self, from: u64, until: u64) -> Result<Vec<Leaf>, LeavesError> {
        let count = until.saturating_sub(from).min(TOGETHER);
        let mut buffer = vec![0; usize::try_from(bytes(count)).unwrap_or(0)];
        self.file.read_exact_at(&mut buffer, bytes(from))?;
        let leaves = buffer.chunks_exact(LEAF_BYTES).zip(from..);
        leaves.map(|(leaf, index)| Leaf::from_bytes(leaf).map_err(|_| LeavesError::Damaged(index))).collect()
    }

    /// Writes leaves behind the others; durable after [`Self::sync`].
    pub(super) fn append(&mut self, leaves: &[Leaf]) -> Result<(), LeavesError> {
        self.trusted()?;
        // What is written in part is not counted, and written again.
        self.file.write_all_at(&packed(leaves), bytes(self.size()))?;
        let counted = leaves.iter().try_for_each(|leaf| self.count(leaf.hash()));
        if counted.is_err() {
            *self = Self::open(&self.path)?;
        }
        counted
    }

    /// Makes all that was written durable. Once that has failed it fails for ever.
    pub(super) fn sync(&mut self) -> Result<(), LeavesError> {
        if let Err(error) = self.file.sync_data() {
            tracing::error!(%error, "leaves of the log of recordings cannot be made durable");
            self.broken = true;
        }
        self.trusted()
    }

    /// Whether no flush has failed.
    pub(super) const fn trusted(&self) -> Result<(), LeavesError> {
        if self.broken { Err(LeavesError::Flush) } else { Ok(()) }
    }

    /// Puts the file beside, and begins an empty one.
    pub(super) fn set_aside(&mut self) -> Result<(), LeavesError> {
        std::fs::rename(&self.path, self.path.with_extension("damaged"))?;
        *self = Self::open(&self.path)?;
        Ok(())
    }

    /// Forgets what comes after the first `size` leaves.
    pub(super) fn cut(&mut self, size: u64) -> Result<(), LeavesError> {
        self.file.set_len(bytes(size.min(self.size())))?;
        self.sync()?;
        *self = Self::open(&self.path)?;
        Ok(())
    }

    /// Takes a leaf that is in the file into the tree.
    fn count(&mut self, hash: Digest) -> Result<(), LeavesError> {
        self.edge.push(hash);
        let mut level = TIER;
        // The subtrees that became full with it.
        while level <= self.size().trailing_zeros() {
            let index = (self.size() >> level).saturating_sub(1);
            let root = self.combined(level, index)?;
            let tier = usize::try_from(level / TIER).unwrap_or(0).saturating_sub(1);
            if self.tiers.len() <= tier {
                self.tiers.push(Vec::new());
            }
            if let Some(tier) = self.tiers.get_mut(tier) {
                tier.push(root);
            }
            level = level.saturating_add(TIER);
        }
        Ok(())
    }

    /// The root of a full subtree, from the hashes of the tier below it.
    fn combined(&self, level: u32, index: u64) -> Result<Digest, LeavesError> {
        let below = level.saturating_sub(1) / TIER;
        let height = level.saturating_sub(below.saturating_mul(TIER));
        let from = index << height;
        let until = from.saturating_add(1 << height);
        let hashes: Vec<Digest> = match below.checked_sub(1) {
            None => self.read(from, until)?.iter().map(Leaf::hash).collect(),
            Some(tier) => {
                let range = usize::try_from(from).ok().zip(usize::try_from(until).ok());
                let tier = usize::try_from(tier).ok().and_then(|tier| self.tiers.get(tier));
                let found = tier.zip(range).and_then(|(tier, (from, until))| tier.get(from..until));
                found.ok_or(LeavesError::Damaged(index << level))?.to_vec()
            }
        };
        let mut edge = Frontier::default();
        hashes.into_iter().for_each(|hash| edge.push(hash));
        Ok(edge.root())
    }

    /// The place of a session's leaf in the first `until` leaves: the one of so many events, or else the last.
    pub(super) fn find(
        &self,
        session: SessionId,
        events: Option<u64>,
        until: u64,
    ) -> Result<Option<(u64, Leaf)>, LeavesError> {
        // A recording is sealed after it began, and leaves come in the order of time.
        let begun = session.made_at().millis().saturating_sub(SKEW_MILLIS);
        let (mut from, mut to) = (0, until);
        while from < to {
            let middle = from.midpoint(to);
            let leaf = self.read(middle, middle.saturating_add(1))?;
            if leaf.first().is_some_and(|leaf| leaf.at < Timestamp::from_millis(begun)) {
                from = middle.saturating_add(1);
            } else {
                to = middle;
            }
        }
        // Of an orphan what its gateway says later is worth more.
        let is_last = |leaf: &Leaf| events.map_or(leaf.kind == LeafKind::Session, |events| leaf.events == events);
        let mut found = None;
        while from < until {
            let some = self.read(from, until)?;
            for (index, leaf) in (from..).zip(&some).filter(|(_, leaf)| leaf.session == session) {
                found = Some((index, *leaf));
                if is_last(leaf) {
                    return Ok(found);
                }
            }
            from = from.saturating_add(u64::try_from(some.len()).unwrap_or(u64::MAX));
        }
        Ok(found)
    }
}

impl Subtrees for Leaves {
    type Error = LeavesError;

    fn full(&mut self, level: u32, index: u64) -> Result<Digest, LeavesError> {
        if level > 0 && level.is_multiple_of(TIER) {
            let tier = usize::try_from(level / TIER).ok().and_then(|tier| self.tiers.get(tier.saturating_sub(1)));
            let hash = tier.zip(usize::try_from(index).ok()).and_then(|(tier, index)| tier.get(index));
            return hash.copied().ok_or(LeavesError::Damaged(index << level));
        }
        if level == 0 {
            let leaf = self.read(index, index.saturating_add(1))?;
            return leaf.first().map(Leaf::hash).ok_or(LeavesError::Damaged(index));
        }
        self.combined(level, index)
    }
}

/// Where leaf `index` begins in the file.
fn bytes(index: u64) -> u64 {
    index.saturating_mul(u64::try_from(LEAF_BYTES).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use postern_core::transparency::{
        LeafKind, consistency_proof, inclusion_proof, subtree, verify_consistency, verify_inclusion,
    };

    use super::*;

    fn leaf(n: u64) -> Leaf {
        // As a gateway makes an id: the time first.
        let id = (u128::from(n * 1_000) << 80) | u128::from(n);
        Leaf {
            kind: LeafKind::Session,
            session: SessionId::from_bytes(id.to_be_bytes()),
            events: n,
            head: Digest([7; 32]),
            at: Timestamp::from_millis(n * 1_000 + 5_000_000),
        }
    }

    fn grown(dir: &Path, size: u64) -> Leaves {
        let mut leaves = Leaves::open(&dir.join("leaves")).unwrap();
        let all: Vec<Leaf> = (0..size).map(leaf).collect();
        for some in all.chunks(1_000) {
            leaves.append(some).unwrap();
        }
        leaves
    }

    #[test]
    fn proofs_from_the_disk_hold_before_and_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let size = 70_000;
        drop(grown(dir.path(), size));
        let mut leaves = Leaves::open(&dir.path().join("leaves")).unwrap();
        assert_eq!(leaves.size(), size);
        let root = leaves.edge.root();
        assert_eq!(subtree(&mut leaves, 0, size).unwrap(), root);
        for index in [0, 1, 255, 256, 4_095, 65_535, 65_536, 69_999] {
            let proof = inclusion_proof(&mut leaves, index, size).unwrap();
            verify_inclusion(leaf(index).hash(), index, size, &proof, &root).unwrap();
            assert_eq!(leaves.find(leaf(index).session, None, size).unwrap(), Some((index, leaf(index))));
        }
        for old in [1, 255, 256, 257, 65_536, 69_999] {
            let older = (old, subtree(&mut leaves, 0, old).unwrap());
            let proof = consistency_proof(&mut leaves, old, size).unwrap();
            verify_consistency(older, (size, root), &proof).unwrap();
        }
        assert_eq!(leaves.find(leaf(size).session, None, size).unwrap(), None);
        // What a head does not cover is not found by it.
        assert_eq!(leaves.find(leaf(69_999).session, None, 69_999).unwrap(), None);
    }

    #[test]
    fn a_leaf_that_was_cut_off_is_written_again_and_a_damaged_one_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leaves");
        let root = grown(dir.path(), 300).edge.root();
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        let mut leaves = Leaves::open(&path).unwrap();
        assert_eq!(leaves.size(), 299);
        leaves.append(&[leaf(299)]).unwrap();
        assert_eq!(leaves.edge.root(), root);
        leaves.cut(100).unwrap();
        assert_eq!((leaves.size(), std::fs::read(&path).unwrap().len()), (100, 100 * LEAF_BYTES));
        let mut damaged = whole;
        damaged[66 * 7] = 9;
        std::fs::write(&path, &damaged).unwrap();
        assert!(matches!(Leaves::open(&path), Err(LeavesError::Damaged(7))));
    }
}
