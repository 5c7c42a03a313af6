//! Room on the disk that is there before it is needed: to flush what overwrites a file's zeros takes one write, to flush what makes it longer
//! takes the file system's journal as well.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Weak, mpsc};

use super::super::log::Log;
use super::cipher::{BEGIN, SegmentKey, SpoolKey};

/// The file's name before it is a segment.
const NAME: &str = "next";
/// Zeros of one write.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// What there is of a segment to come.
#[derive(Debug, Default)]
pub(in crate::recorder) enum Spare {
    #[default]
    None,
    /// It is being made.
    Coming,
    /// It could not be made: not tried again for this one.
    Failed,
    /// Durable: its first bytes, and then zeros.
    Ready(File, SegmentKey),
}

/// Where a spool's spare lies.
pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join(NAME)
}

/// Fills `file` with zeros from `from` to `to`, durable on return. Its position stays.
pub(super) fn reserve(file: &File, from: u64, to: u64) -> io::Result<()> {
    let mut at = from;
    while at < to {
        let left = usize::try_from(to.saturating_sub(at)).unwrap_or(usize::MAX);
        let zeros = ZEROS.get(..left).unwrap_or(&ZEROS);
        file.write_all_at(zeros, at)?;
        at = at.saturating_add(u64::try_from(zeros.len()).unwrap_or(u64::MAX));
    }
    file.sync_all()
}

fn make(dir: &Path, key: &SpoolKey, size: u64) -> io::Result<(File, SegmentKey)> {
    let path = path(dir);
    let (begin, key) = key.begin().map_err(io::Error::other)?;
    let made = OpenOptions::new().write(true).create(true).truncate(true).open(&path).and_then(|mut file| {
        file.write_all(&begin)?;
        reserve(&file, u64::try_from(BEGIN).unwrap_or(0), size)?;
        Ok((file, key))
    });
    if made.is_err() {
        // What there is not enough of is not to be held besides.
        drop(fs::remove_file(&path));
    }
    made
}

/// Makes a spare whenever one is `wanted`, on a thread that nobody waits for. Ends when nobody can want one any more.
pub(in crate::recorder) fn keep(log: &Weak<Log>, dir: &Path, key: &SpoolKey, size: u64, wanted: &mpsc::Receiver<()>) {
    while let Ok(()) = wanted.recv() {
        let spare = match make(dir, key, size) {
            Ok((file, key)) => Spare::Ready(file, key),
            Err(error) => {
                // Segments then grow as they are written.
                tracing::warn!(%error, "no room could be made ready for the recording spool");
                Spare::Failed
            }
        };
        let Some(log) = log.upgrade() else { return };
        log.lock().spool.give(spare);
    }
}
