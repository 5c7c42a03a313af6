//! What was acknowledged last, beside the write-ahead log: so that an end that is gone does not go unnoticed.
//!
//! What is not whole at the end of the log is taken for a write that was never finished. That is right after a crash, and wrong when the
//! last write is damaged, or the last file lost: then writes are gone that peers and clients rely on. Each write has a number, in the log
//! with it; here stands the number of the last one that was flushed.
//!
//! It never refuses wrongly. A number is written only after the flush of the write that has it, so whatever the system makes of this file,
//! and whenever, it is never ahead of what a disk that keeps its promises has. A slot that is torn, or of zeros, does not have its checksum
//! and counts for nothing; the other one is older, and so is a file that a loss of power left as it was, or empty.
//!
//! What it misses. A process that dies leaves it exact: the system has it. After a loss of power it is as the system wrote it back last,
//! some seconds ago; of what was written since then the end may be damaged unnoticed. A flush of its own for each write would close that
//! and cost each write a second wait for the disk. So it is flushed where it costs nothing that anybody waits for, or next to nothing: when the
//! log was read at the start (from then on all that was found is vouched for), with each snapshot, after [`WRITES`] writes, and at the
//! end. The damage has to come together with a loss of power, at this member, in its last seconds; and an entry is lost to the cluster only
//! if a majority is struck alike: a member that lost acknowledged entries alone is told by its leader and stops (`CoreError::Lost`).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// A number and its CRC-32. Two of them, used by turns: one is whole whatever happens.
const SLOT: usize = 12;

/// After how many writes it is flushed: one in so many waits for the disk twice.
const WRITES: u32 = 4_096;

pub(super) struct Witness {
    file: File,
    /// Writes since it was flushed.
    unflushed: u32,
}

impl Witness {
    /// The file, made where there is none, and the last number that it has; 0 for none.
    pub(super) fn open(path: &Path) -> io::Result<(Self, u64)> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut bytes = Vec::new();
        let length = file.metadata()?.len().min(2 * 12);
        bytes.resize(usize::try_from(length).unwrap_or_default(), 0);
        file.read_exact_at(&mut bytes, 0)?;
        let last = bytes.chunks_exact(SLOT).filter_map(read).max().unwrap_or_default();
        Ok((Self { file, unflushed: 0 }, last))
    }

    /// `number` was flushed.
    pub(super) fn write(&mut self, number: u64) -> io::Result<()> {
        let mut slot = [0; SLOT];
        let value = number.to_be_bytes();
        slot[..8].copy_from_slice(&value);
        slot[8..].copy_from_slice(&crc32fast::hash(&value).to_be_bytes());
        self.file.write_all_at(&slot, if number.is_multiple_of(2) { 0 } else { 12 })?;
        self.unflushed = self.unflushed.saturating_add(1);
        if self.unflushed >= WRITES { self.flush() } else { Ok(()) }
    }

    /// Makes it durable.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if self.unflushed > 0 {
            self.file.sync_data()?;
            self.unflushed = 0;
        }
        Ok(())
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        // Else it is a little behind.
        let _ = self.flush();
    }
}

fn read(slot: &[u8]) -> Option<u64> {
    let (value, sum) = slot.split_first_chunk::<8>()?;
    (crc32fast::hash(value).to_be_bytes() == sum).then(|| u64::from_be_bytes(*value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_left_of_it_is_never_ahead() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("witness");
        let (mut witness, none) = Witness::open(&path).unwrap();
        assert_eq!(none, 0);
        let mut former = std::fs::read(&path).unwrap();
        for number in 1..=40_u64 {
            witness.write(number).unwrap();
            let now = std::fs::read(&path).unwrap();
            assert_eq!(Witness::open(&path).unwrap().1, number);
            // What a loss of power may leave: some of the new bytes and some of the old, less, or zeros.
            let torn = dir.path().join("torn");
            for cut in 0..=now.len() {
                let mut left = now[..cut].to_vec();
                left.extend(former.get(cut..).unwrap_or_default());
                let zeros = [&now[..cut], &vec![0; now.len() - cut]].concat();
                for left in [left, now[..cut].to_vec(), zeros] {
                    std::fs::write(&torn, left).unwrap();
                    assert!(Witness::open(&torn).unwrap().1 <= number, "{number} cut at {cut}");
                }
            }
            former = now;
        }
    }

    #[test]
    fn flushed_now_and_then() {
        let dir = tempfile::tempdir().unwrap();
        let (mut witness, _) = Witness::open(&dir.path().join("witness")).unwrap();
        for number in 1..u64::from(WRITES) {
            witness.write(number).unwrap();
        }
        assert_eq!(witness.unflushed, WRITES - 1);
        witness.write(u64::from(WRITES)).unwrap();
        assert_eq!(witness.unflushed, 0);
    }
}
