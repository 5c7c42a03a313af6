//! The log of recordings on this member: its leaves on the disk, proofs from them, and, where this member leads, its signed heads.
//!
//! ```text
//! the driver's thread -- the log's part of the state --> follow --> leaves on the disk --> signed head --> the state
//!                                                          ^---- leaves that this member missed, from another
//! ```

mod follow;
mod leaves;
pub(crate) mod witness;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use postern_core::operation::Digest;
use postern_core::transparency::{
    Evidence, LEAF_BYTES, Leaf, SignedCheckpoint, Subtrees as _, consistency_proof, inclusion_proof, subtree,
};
use postern_core::{SessionId, Timestamp};
use postern_state::{Effect, RecordingLog, SignedHead, State};
use tokio::sync::watch;

use crate::raft::Observer;

pub(crate) use follow::{Keeper, keep};
use leaves::{Leaves, LeavesError};

/// Takes the log's part out of the state whenever it has changed. Runs on the driver's thread.
pub(crate) struct LogObserver(watch::Sender<RecordingLog>);

/// Answers from the log. Cheap to clone.
#[derive(Clone)]
pub(crate) struct LogBook {
    state: watch::Receiver<RecordingLog>,
    leaves: Arc<Mutex<Leaves>>,
}

/// Why the log does not tell.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    /// Nothing is signed yet, or this member does not have it yet.
    #[error("{0}")]
    NotYet(&'static str),
    /// What is asked for is not in the signed part of the log.
    #[error("{0}")]
    NotThere(&'static str),
    /// The disk.
    #[error("the log of recordings on this member's disk: {0}")]
    Disk(String),
    /// The disk cannot be trusted any more.
    #[error("the disk of the log of recordings cannot be trusted any more")]
    Flush,
}

impl From<LeavesError> for LogError {
    fn from(error: LeavesError) -> Self {
        match error {
            LeavesError::Flush => Self::Flush,
            LeavesError::Io(_) | LeavesError::Damaged(_) => Self::Disk(error.to_string()),
        }
    }
}

/// Which heads count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heads {
    /// All that the log has signed.
    All,
    /// Those that witnesses have signed, too.
    Witnessed,
}

impl Heads {
    pub(crate) const fn witnessed(witnessed: bool) -> Self {
        if witnessed { Self::Witnessed } else { Self::All }
    }
}

/// That one head is the beginning of another.
pub(crate) struct Consistency {
    pub(crate) proof: Vec<Digest>,
    pub(crate) checkpoint: SignedCheckpoint,
}

impl LogObserver {
    pub(crate) fn new() -> (Self, watch::Receiver<RecordingLog>) {
        let (to, from) = watch::channel(RecordingLog::default());
        (Self(to), from)
    }

    fn publish(&self, state: &State) {
        let log = state.recording_log();
        self.0.send_if_modified(|known| {
            let stands = |log: &RecordingLog| (log.size(), log.head().map(|head| head.checkpoint.head().size));
            let same = known.key() == log.key() && known.witnessed() == log.witnessed();
            let changed = stands(known) != stands(log) || !same;
            if changed {
                *known = log.clone();
            }
            changed
        });
    }
}

impl Observer for LogObserver {
    fn applied(&mut self, state: &State, _: u64, _: &[Effect]) {
        self.publish(state);
    }

    fn restored(&mut self, state: &State) {
        self.publish(state);
    }
}

impl LogBook {
    /// Opens the leaves in `dir`; blocks on the disk. Those of former lives of the cluster lie beside.
    pub(crate) fn open(dir: &Path, incarnation: &str, state: watch::Receiver<RecordingLog>) -> io::Result<Self> {
        let file = dir.join(life(incarnation)).join("leaves");
        let leaves = match Leaves::open(&file) {
            Err(error @ LeavesError::Damaged(_)) => {
                tracing::error!(%error, "it is put beside, and its leaves are got from other members");
                std::fs::rename(&file, file.with_extension("damaged"))?;
                Leaves::open(&file)
            }
            opened => opened,
        };
        let leaves = leaves.map_err(io::Error::other)?;
        Ok(Self { state, leaves: Arc::new(Mutex::new(leaves)) })
    }

    /// The newest signed head, or the newest that witnesses have signed, too; the key that verifies it, and when it was published.
    pub(crate) fn head(&self, of: Heads) -> Result<(SignedCheckpoint, String, Timestamp), LogError> {
        let state = self.state.borrow();
        let newest = match of {
            // With all signatures that there are of it.
            Heads::All => {
                let same = |kept: &&Arc<SignedHead>| {
                    Some(kept.checkpoint.head()) == state.head().map(|head| head.checkpoint.head())
                };
                state.witnessed().filter(same).or(state.head()).ok_or("no head of the log is signed yet")
            }
            Heads::Witnessed => state.witnessed().ok_or("no witness has signed a head of the log yet"),
        };
        let head = newest.map_err(LogError::NotYet)?;
        let key = state.key().ok_or(LogError::NotYet("no head of the log is signed yet"))?;
        let key = key.verifier().map_err(|fault| LogError::Disk(fault.to_string()))?;
        Ok((head.checkpoint.clone(), key.to_string(), head.at))
    }

    /// What proves that the tree of `old` leaves is the beginning of that of `size`.
    pub(crate) async fn proof(&self, old: u64, size: u64) -> Result<Vec<Digest>, LogError> {
        self.with(move |leaves| {
            if leaves.size() < size {
                return Err(LogError::NotYet("this member does not have all leaves yet"));
            }
            Ok(consistency_proof(leaves, old, size)?)
        })
        .await
    }

    /// What proves that a session's recording is in the log; with so many events, where the index knows how many it has.
    pub(crate) async fn evidence(
        &self,
        session: SessionId,
        events: Option<u64>,
        of: Heads,
    ) -> Result<Evidence, LogError> {
        let (checkpoint, ..) = self.head(of)?;
        self.with(move |leaves| {
            let size = covered(leaves, &checkpoint)?;
            let missing = LogError::NotThere("no signed head of the log covers this recording");
            let (index, leaf) = leaves.find(session, events, size)?.ok_or(missing)?;
            let proof = inclusion_proof(leaves, index, size)?;
            Ok(Evidence { leaf, index, proof, checkpoint })
        })
        .await
    }

    /// What proves that the tree of `old` leaves is the beginning of the newest signed head's.
    pub(crate) async fn consistency(&self, old: u64) -> Result<Consistency, LogError> {
        let (checkpoint, ..) = self.head(Heads::All)?;
        self.with(move |leaves| {
            let size = covered(leaves, &checkpoint)?;
            if old > size {
                return Err(LogError::NotThere("the newest signed head of the log is smaller"));
            }
            Ok(Consistency { proof: consistency_proof(leaves, old, size)?, checkpoint })
        })
        .await
    }

    /// Some leaves from `from` on, those that are on this disk: fewer than `until` asks for where there are many.
    pub(crate) async fn read(&self, from: u64, until: u64) -> Result<Vec<Leaf>, LogError> {
        self.with(move |leaves| Ok(leaves.read(from, until.min(leaves.size()).max(from))?)).await
    }

    /// The full subtrees of the tree of `size` leaves, the largest first.
    pub(crate) async fn edge(&self, size: u64) -> Result<Vec<Digest>, LogError> {
        self.with(move |leaves| {
            if size > leaves.size() {
                return Err(LogError::NotThere("there are not so many leaves in the log"));
            }
            let levels = (0..u64::BITS).rev().filter(|level| size >> level & 1 == 1);
            // The subtree of a bit that is set lies behind those of the higher ones.
            let peak = |level: u32| leaves.full(level, (size >> level).saturating_sub(1));
            Ok(levels.map(peak).collect::<Result<_, _>>()?)
        })
        .await
    }

    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Leaves) -> Result<T, LogError> + Send + 'static,
    ) -> Result<T, LogError> {
        let leaves = Arc::clone(&self.leaves);
        let done =
            tokio::task::spawn_blocking(move || work(&mut leaves.lock().unwrap_or_else(PoisonError::into_inner)));
        done.await.map_err(|error| LogError::Disk(error.to_string()))?
    }
}

/// The size of a head whose leaves are all here.
fn covered(leaves: &Leaves, checkpoint: &SignedCheckpoint) -> Result<u64, LogError> {
    let size = checkpoint.head().size;
    if leaves.size() < size {
        return Err(LogError::NotYet("this member does not have all leaves yet"));
    }
    Ok(size)
}

/// What a life of the cluster is called in the log's names: clusters of before there were several have none.
fn life(incarnation: &str) -> &str {
    if incarnation.is_empty() { "first" } else { incarnation }
}

/// As they lie in a file, and go to another member.
pub(crate) fn packed(leaves: &[Leaf]) -> Vec<u8> {
    leaves.iter().flat_map(Leaf::to_bytes).collect()
}

/// What [`packed`] gave; none when it did not.
pub(crate) fn unpacked(bytes: &[u8]) -> Option<Vec<Leaf>> {
    let leaves = bytes.chunks_exact(LEAF_BYTES);
    leaves.remainder().is_empty().then(|| leaves.map(Leaf::from_bytes).collect::<Result<_, _>>().ok())?
}

/// Files of leaves of other lives of the cluster.
fn former(path: &Path) -> Vec<PathBuf> {
    let all = path.parent().and_then(Path::parent).and_then(|dir| std::fs::read_dir(dir).ok());
    let files = all.into_iter().flatten().filter_map(|life| Some(life.ok()?.path().join("leaves")));
    files.filter(|other| other != path && other.exists()).collect()
}

/// Whether the first leaves are those that the state says were there.
fn agrees(leaves: &mut Leaves, log: &RecordingLog) -> Result<bool, LeavesError> {
    Ok(subtree(leaves, 0, log.base().size())? == log.base().root())
}
