//! Tokens whose signatures were checked: the next time only their times are.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use postern_core::Timestamp;

use super::session::Checked;

/// How many are known at a time (I11); a few hundred bytes each. Only what bears a good signature comes in.
const KEPT: usize = 16_384;

/// SHA-256 of a token as it was shown: the tokens themselves are not kept (I5).
pub(super) type Digest = [u8; 32];

/// By digest; in shards, so that sessions which begin at once wait for one another only by chance.
#[derive(Debug, Default)]
pub(super) struct Seen {
    all: DashMap<Digest, Arc<Checked>>,
    /// `DashMap::len` locks every shard.
    len: AtomicUsize,
}

impl Seen {
    pub(super) fn get(&self, digest: &Digest) -> Option<Arc<Checked>> {
        self.all.get(digest).map(|known| Arc::clone(&known))
    }

    /// Keeps what is good for some time yet. When there is no more room, what has ended makes it; or else all: it is quickly checked anew.
    pub(super) fn keep(&self, digest: Digest, checked: Arc<Checked>, now: Timestamp) {
        if checked.expires_at <= now {
            return;
        }
        if self.len.load(Ordering::Relaxed) >= KEPT {
            self.all.retain(|_, known| known.expires_at > now);
            if self.all.len() >= KEPT / 2 {
                self.all.clear();
            }
            self.len.store(self.all.len(), Ordering::Relaxed);
        }
        match self.all.entry(digest) {
            Entry::Occupied(mut known) => _ = known.insert(checked),
            Entry::Vacant(free) => {
                free.insert(checked);
                self.len.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }
}
