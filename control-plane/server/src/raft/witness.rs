//! What was acknowledged last, beside sled's files: so that what sled drops when it recovers does not go unnoticed.
//!
//! sled takes whatever it cannot read at the end of its log for a write that was never finished, and goes on without it. That is right
//! after a crash, and wrong when the end is damaged: then writes are gone that peers and clients rely on. Each write has a number, in sled
//! with it; here stands the number of the last one that was flushed. It is written after the flush and not flushed itself: it may be
//! behind, after a loss of power, but never ahead of what sled has to have.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// A number and its CRC-32. Two of them, used by turns: one is whole whatever happens.
const SLOT: usize = 12;

pub(super) struct Witness(File);

impl Witness {
    /// The file, made where there is none, and the last number that it has; 0 for none.
    pub(super) fn open(path: &Path) -> io::Result<(Self, u64)> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut bytes = Vec::new();
        let length = file.metadata()?.len().min(2 * 12);
        bytes.resize(usize::try_from(length).unwrap_or_default(), 0);
        file.read_exact_at(&mut bytes, 0)?;
        let last = bytes.chunks_exact(SLOT).filter_map(read).max().unwrap_or_default();
        Ok((Self(file), last))
    }

    pub(super) fn write(&self, number: u64) -> io::Result<()> {
        let mut slot = [0; SLOT];
        let value = number.to_be_bytes();
        slot[..8].copy_from_slice(&value);
        slot[8..].copy_from_slice(&crc32fast::hash(&value).to_be_bytes());
        self.0.write_all_at(&slot, if number.is_multiple_of(2) { 0 } else { 12 })
    }
}

fn read(slot: &[u8]) -> Option<u64> {
    let (value, sum) = slot.split_first_chunk::<8>()?;
    (crc32fast::hash(value).to_be_bytes() == sum).then(|| u64::from_be_bytes(*value))
}
