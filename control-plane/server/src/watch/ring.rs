//! A bounded log in memory: one writer, any number of readers that each hold a cursor.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::watch;

/// What a ring may hold. Past it the oldest go; who still needed them begins anew.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Entries.
    pub count: usize,
    /// Bytes, as the entries weigh themselves.
    pub bytes: usize,
}

/// What a ring holds.
pub(crate) trait Held {
    /// Its place; strictly rising.
    fn revision(&self) -> u64;
    /// About how many bytes it keeps alive.
    fn weight(&self) -> usize;
}

/// Why a reader cannot go on from its cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// What follows the cursor is no longer held: read the whole, and follow from there.
    #[error("revision compacted: changes up to revision {floor} are no longer held")]
    Compacted {
        /// Changes after this revision are held.
        floor: u64,
    },
    /// The writer is gone: the node stops.
    #[error("the node stops")]
    Stopped,
}

/// The writing end. Dropped, its readers are told that the node stops.
#[derive(Debug)]
pub(crate) struct Ring<T> {
    shared: Arc<Shared<T>>,
    head: watch::Sender<u64>,
    bounds: Bounds,
}

/// The reading end. Cheap to clone.
#[derive(Debug)]
pub(crate) struct RingReader<T> {
    shared: Arc<Shared<T>>,
    head: watch::Receiver<u64>,
}

#[derive(Debug)]
struct Shared<T>(RwLock<Kept<T>>);

#[derive(Debug)]
struct Kept<T> {
    entries: VecDeque<Arc<T>>,
    bytes: usize,
    /// Every change after it is in `entries`.
    floor: u64,
    head: u64,
}

impl<T: Held> Ring<T> {
    /// Empty, at `revision`.
    pub(crate) fn new(revision: u64, bounds: Bounds) -> (Self, RingReader<T>) {
        let kept = Kept { entries: VecDeque::new(), bytes: 0, floor: revision, head: revision };
        let shared = Arc::new(Shared(RwLock::new(kept)));
        let (head, reader) = watch::channel(revision);
        (Self { shared: Arc::clone(&shared), head, bounds }, RingReader { shared, head: reader })
    }

    /// As [`Self::new`], for a writer that must not be held up by how many readers there are: it wakes the future, and that wakes them. The
    /// future has to run for as long as anybody reads.
    pub(crate) fn relayed(
        revision: u64,
        bounds: Bounds,
    ) -> (Self, RingReader<T>, impl Future<Output = ()> + Send + 'static) {
        let (ring, mut reader) = Self::new(revision, bounds);
        let (out, heads) = watch::channel(revision);
        let mut written = std::mem::replace(&mut reader.head, heads);
        let relay = async move {
            while written.changed().await.is_ok() {
                out.send_replace(*written.borrow_and_update());
            }
        };
        (ring, reader, relay)
    }

    /// Appends. What does not come after the head is dropped: it was there already.
    pub(crate) fn push(&self, entry: Arc<T>) {
        let revision = entry.revision();
        {
            let mut kept = self.shared.0.write().unwrap_or_else(PoisonError::into_inner);
            if revision <= kept.head {
                return;
            }
            kept.head = revision;
            kept.bytes = kept.bytes.saturating_add(entry.weight());
            kept.entries.push_back(entry);
            while kept.entries.len() > self.bounds.count || kept.bytes > self.bounds.bytes {
                let Some(gone) = kept.entries.pop_front() else { break };
                kept.bytes = kept.bytes.saturating_sub(gone.weight());
                kept.floor = gone.revision();
            }
        }
        self.head.send_replace(revision);
    }

    /// Begins anew at `revision`: what lies between is not known. Whoever is behind it is told so.
    pub(crate) fn reset(&self, revision: u64) {
        {
            let mut kept = self.shared.0.write().unwrap_or_else(PoisonError::into_inner);
            *kept = Kept { entries: VecDeque::new(), bytes: 0, floor: revision, head: revision };
        }
        self.head.send_replace(revision);
    }
}

impl<T: Held> RingReader<T> {
    /// The first entry after `cursor`; `None` when there is none yet.
    ///
    /// # Errors
    /// What follows the cursor is no longer held.
    pub(crate) fn after(&self, cursor: u64) -> Result<Option<Arc<T>>, Lost> {
        let kept = self.shared.0.read().unwrap_or_else(PoisonError::into_inner);
        if cursor < kept.floor {
            return Err(Lost::Compacted { floor: kept.floor });
        }
        let place = kept.entries.partition_point(|entry| entry.revision() <= cursor);
        Ok(kept.entries.get(place).cloned())
    }

    /// Waits for the first entry after `cursor`. Cancel-safe.
    ///
    /// # Errors
    /// What follows the cursor is no longer held, or nothing will follow.
    pub(crate) async fn next(&mut self, cursor: u64) -> Result<Arc<T>, Lost> {
        loop {
            // Marked as seen before looking, so that what comes in between wakes us.
            self.head.borrow_and_update();
            if let Some(entry) = self.after(cursor)? {
                return Ok(entry);
            }
            self.head.changed().await.map_err(|_| Lost::Stopped)?;
        }
    }

    /// The newest revision.
    pub(crate) fn head(&self) -> u64 {
        self.shared.0.read().unwrap_or_else(PoisonError::into_inner).head
    }

    /// Changes after this revision are held.
    #[cfg(test)]
    pub(crate) fn floor(&self) -> u64 {
        self.shared.0.read().unwrap_or_else(PoisonError::into_inner).floor
    }
}

impl<T> Clone for RingReader<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), head: self.head.clone() }
    }
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
