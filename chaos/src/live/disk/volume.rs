//! What a disk holds, and what of it would survive a loss of power: two states of each file and folder, and the changes between them.
//!
//! Stricter than any file system in use: nothing becomes durable but by a flush of that very file or folder. POSIX promises no more.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use fuser::Errno;

/// The unit that a disk writes whole.
const SECTOR: usize = 512;
/// The folder that everything is in.
pub(super) const ROOT: u64 = 1;

/// What becomes of what was not flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// All of it is gone.
    All,
    /// Some of it had reached the disk: of each file all, nothing, a beginning that ends in the middle of a write, or single sectors; of each
    /// folder a beginning of its changes. The number decides.
    Torn(u64),
}

#[derive(Clone, Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Resize(usize),
}

/// A name's new file, or that it is gone. A rename is two of them that stand or fall together.
type Renaming = Vec<(OsString, Option<u64>)>;

#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    pub(super) now: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Folder {
    pub(super) now: BTreeMap<OsString, u64>,
    durable: BTreeMap<OsString, u64>,
    pending: Vec<Renaming>,
}

#[derive(Clone, Debug)]
pub(super) enum Body {
    File(Content),
    Folder(Folder),
}

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) body: Body,
    pub(super) mode: u16,
}

/// Files and folders by number. A number is never given twice.
#[derive(Clone, Debug)]
pub(super) struct Volume {
    nodes: BTreeMap<u64, Node>,
    next: u64,
}

impl Change {
    fn apply(&self, to: &mut Vec<u8>) {
        match self {
            Self::Resize(len) => to.resize(*len, 0),
            Self::Write(offset, bytes) => put(to, *offset, bytes),
        }
    }
}

fn put(to: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset.saturating_add(bytes.len());
    if to.len() < end {
        to.resize(end, 0);
    }
    if let Some(place) = to.get_mut(offset..end) {
        place.copy_from_slice(bytes);
    }
}

impl Content {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.now);
        self.pending.push(change);
    }

    /// The flush that reports an error: the system forgets what it was to write, whether or not the disk has it.
    fn flush_in_vain(&mut self, landed: bool) {
        if landed {
            self.flush();
        }
        self.pending.clear();
    }

    fn flush(&mut self) {
        for change in self.pending.drain(..) {
            change.apply(&mut self.durable);
        }
    }

    fn survive(&mut self, loss: Loss, random: &mut fastrand::Rng) {
        let pending = std::mem::take(&mut self.pending);
        if let Loss::Torn(_) = loss {
            match random.u8(..4) {
                0 => {}
                1 => pending.iter().for_each(|change| change.apply(&mut self.durable)),
                2 => self.tear(&pending, random),
                _ => self.scatter(&pending, random),
            }
        }
        self.now = self.durable.clone();
    }

    /// A beginning, to the middle of a write.
    fn tear(&mut self, pending: &[Change], random: &mut fastrand::Rng) {
        let whole = random.usize(..=pending.len());
        let (before, after) = pending.split_at(whole);
        before.iter().for_each(|change| change.apply(&mut self.durable));
        if let Some(Change::Write(offset, bytes)) = after.first() {
            let cut = random.usize(..=bytes.len()) / SECTOR * SECTOR;
            put(&mut self.durable, *offset, bytes.get(..cut).unwrap_or_default());
        }
    }

    /// Single sectors of what the file was to hold, in no order.
    fn scatter(&mut self, pending: &[Change], random: &mut fastrand::Rng) {
        for change in pending {
            match change {
                Change::Resize(_) if random.bool() => change.apply(&mut self.durable),
                Change::Resize(_) => {}
                Change::Write(offset, bytes) => {
                    // Sectors are the disk's, not the write's.
                    let mut at = *offset;
                    let mut rest = bytes.as_slice();
                    while !rest.is_empty() {
                        let (sector, further) = rest.split_at(rest.len().min(SECTOR - at % SECTOR));
                        if random.bool() {
                            put(&mut self.durable, at, sector);
                        }
                        at = at.saturating_add(sector.len());
                        rest = further;
                    }
                }
            }
        }
    }
}

impl Folder {
    fn change(&mut self, renaming: Renaming) {
        apply(&renaming, &mut self.now);
        self.pending.push(renaming);
    }

    fn flush(&mut self) {
        for renaming in self.pending.drain(..) {
            apply(&renaming, &mut self.durable);
        }
    }

    fn survive(&mut self, loss: Loss, random: &mut fastrand::Rng) {
        let pending = std::mem::take(&mut self.pending);
        if let Loss::Torn(_) = loss {
            let landed = random.usize(..=pending.len());
            pending.iter().take(landed).for_each(|renaming| apply(renaming, &mut self.durable));
        }
        self.now = self.durable.clone();
    }
}

fn apply(renaming: &Renaming, to: &mut BTreeMap<OsString, u64>) {
    for (name, node) in renaming {
        match node {
            Some(node) => to.insert(name.clone(), *node),
            None => to.remove(name),
        };
    }
}

impl Volume {
    pub(super) fn empty() -> Self {
        let root = Node { body: Body::Folder(Folder::default()), mode: 0o755 };
        Self { nodes: BTreeMap::from([(ROOT, root)]), next: ROOT + 1 }
    }

    pub(super) fn node(&self, number: u64) -> Result<&Node, Errno> {
        self.nodes.get(&number).ok_or(Errno::ENOENT)
    }

    pub(super) fn node_mut(&mut self, number: u64) -> Result<&mut Node, Errno> {
        self.nodes.get_mut(&number).ok_or(Errno::ENOENT)
    }

    pub(super) fn file(&mut self, number: u64) -> Result<&mut Content, Errno> {
        match &mut self.node_mut(number)?.body {
            Body::File(content) => Ok(content),
            Body::Folder(_) => Err(Errno::EISDIR),
        }
    }

    pub(super) fn folder(&mut self, number: u64) -> Result<&mut Folder, Errno> {
        match &mut self.node_mut(number)?.body {
            Body::Folder(folder) => Ok(folder),
            Body::File(_) => Err(Errno::ENOTDIR),
        }
    }

    pub(super) fn lookup(&mut self, parent: u64, name: &OsStr) -> Result<u64, Errno> {
        self.folder(parent)?.now.get(name).copied().ok_or(Errno::ENOENT)
    }

    pub(super) fn make(&mut self, parent: u64, name: &OsStr, body: Body, mode: u16) -> Result<u64, Errno> {
        let number = self.next;
        let folder = self.folder(parent)?;
        if folder.now.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        folder.change(vec![(name.to_owned(), Some(number))]);
        self.next = number.saturating_add(1);
        self.nodes.insert(number, Node { body, mode });
        Ok(number)
    }

    pub(super) fn remove(&mut self, parent: u64, name: &OsStr, folder: bool) -> Result<(), Errno> {
        let number = self.lookup(parent, name)?;
        match (&self.node(number)?.body, folder) {
            (Body::Folder(inner), true) if !inner.now.is_empty() => return Err(Errno::ENOTEMPTY),
            (Body::Folder(_), false) => return Err(Errno::EISDIR),
            (Body::File(_), true) => return Err(Errno::ENOTDIR),
            _ => {}
        }
        self.folder(parent)?.change(vec![(name.to_owned(), None)]);
        Ok(())
    }

    /// Within one folder; programs that need to see it durable flush that one.
    pub(super) fn rename(&mut self, parent: u64, name: &OsStr, new_parent: u64, new: &OsStr) -> Result<(), Errno> {
        if parent != new_parent {
            return Err(Errno::EXDEV);
        }
        let number = self.lookup(parent, name)?;
        self.folder(parent)?.change(vec![(name.to_owned(), None), (new.to_owned(), Some(number))]);
        Ok(())
    }

    /// Another name for a file.
    pub(super) fn link(&mut self, number: u64, parent: u64, name: &OsStr) -> Result<(), Errno> {
        self.file(number)?;
        let folder = self.folder(parent)?;
        if folder.now.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        folder.change(vec![(name.to_owned(), Some(number))]);
        Ok(())
    }

    pub(super) fn write(&mut self, number: u64, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        let offset = usize::try_from(offset).map_err(|_| Errno::EFBIG)?;
        self.file(number)?.change(Change::Write(offset, bytes.to_vec()));
        Ok(())
    }

    pub(super) fn resize(&mut self, number: u64, len: u64) -> Result<(), Errno> {
        let len = usize::try_from(len).map_err(|_| Errno::EFBIG)?;
        self.file(number)?.change(Change::Resize(len));
        Ok(())
    }

    pub(super) fn flush(&mut self, number: u64) -> Result<(), Errno> {
        match &mut self.node_mut(number)?.body {
            Body::File(content) => content.flush(),
            Body::Folder(folder) => folder.flush(),
        }
        Ok(())
    }

    /// A flush of a file that reports an error. Whether the disk has the bytes all the same is `landed`.
    pub(super) fn flush_in_vain(&mut self, number: u64, landed: bool) {
        if let Ok(content) = self.file(number) {
            content.flush_in_vain(landed);
        }
    }

    /// Bytes in all files, as programs see them.
    pub(super) fn bytes(&self) -> u64 {
        let len = |node: &Node| match &node.body {
            Body::File(content) => content.now.len(),
            Body::Folder(_) => 0,
        };
        u64::try_from(self.nodes.values().map(len).sum::<usize>()).unwrap_or(u64::MAX)
    }

    /// What is left after the power was lost.
    pub(super) fn survive(&mut self, loss: Loss) {
        let mut random = fastrand::Rng::with_seed(match loss {
            Loss::All => 0,
            Loss::Torn(seed) => seed,
        });
        for node in self.nodes.values_mut() {
            match &mut node.body {
                Body::File(content) => content.survive(loss, &mut random),
                Body::Folder(folder) => folder.survive(loss, &mut random),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> OsString {
        OsString::from(name)
    }

    fn file(volume: &mut Volume, at: &str) -> u64 {
        volume.make(ROOT, &name(at), Body::File(Content::default()), 0o600).unwrap()
    }

    #[test]
    fn a_file_whose_folder_was_not_flushed_is_gone_with_all_that_was_flushed_in_it() {
        let mut volume = Volume::empty();
        let (kept, lost) = (file(&mut volume, "kept"), file(&mut volume, "later"));
        for number in [kept, lost] {
            volume.write(number, 0, b"flushed").unwrap();
            volume.flush(number).unwrap();
        }
        volume.remove(ROOT, &name("later"), false).unwrap();
        volume.flush(ROOT).unwrap();
        volume.rename(ROOT, &name("kept"), ROOT, &name("renamed")).unwrap();
        volume.write(kept, 7, b" and not").unwrap();
        assert_eq!(volume.file(kept).unwrap().now, b"flushed and not");
        volume.survive(Loss::All);
        assert_eq!(volume.lookup(ROOT, &name("kept")).unwrap(), kept);
        assert!(volume.lookup(ROOT, &name("renamed")).is_err());
        assert!(volume.lookup(ROOT, &name("later")).is_err());
        assert_eq!(volume.file(kept).unwrap().now, b"flushed");
    }

    #[test]
    fn a_flush_that_fails_is_not_made_good_by_one_that_succeeds() {
        let mut volume = Volume::empty();
        let number = file(&mut volume, "a");
        volume.flush(ROOT).unwrap();
        volume.write(number, 0, b"gone").unwrap();
        volume.flush_in_vain(number, false);
        assert_eq!(volume.file(number).unwrap().now, b"gone");
        volume.flush(number).unwrap();
        volume.survive(Loss::All);
        assert!(volume.file(number).unwrap().now.is_empty());
    }

    #[test]
    fn what_is_torn_is_torn_the_same_way_again_and_leaves_what_was_flushed() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..64 {
            let outcome = |seed| {
                let mut volume = Volume::empty();
                let number = file(&mut volume, "a");
                volume.write(number, 0, &[1; 1000]).unwrap();
                volume.flush(number).unwrap();
                volume.flush(ROOT).unwrap();
                volume.write(number, 1000, &[2; 3000]).unwrap();
                volume.survive(Loss::Torn(seed));
                volume.file(number).unwrap().now.clone()
            };
            let bytes = outcome(seed);
            assert_eq!(bytes, outcome(seed));
            assert_eq!(bytes.get(..1000).unwrap(), [1; 1000]);
            seen.insert(bytes);
        }
        assert!(seen.len() > 10, "{}", seen.len());
    }
}
