//! What texts do that were classified before, shared by all sessions on one catalog.
//!
//! A classification hangs on the text, the catalog, the search path and what a session has changed of names itself. So it is kept with the catalog, for
//! each search path apart, and sessions that have changed names neither ask nor add.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::sql::{Statement, StatementKind};

/// The longest text that is kept, in bytes. Longer ones are mostly data, and never come again.
const MAX_TEXT: usize = 4 << 10;
/// Search paths of one catalog; sessions with further ones share nothing.
const MAX_PATHS: usize = 16;
/// So that threads seldom wait for each other.
const SHARDS: usize = 8;
/// Texts and their bytes in half of a shard (I11): at most 2,048 texts and 4 MiB for each search path.
const HALF_TEXTS: usize = 128;
const HALF_BYTES: usize = 256 << 10;

/// Classified texts of one catalog, by search path.
#[derive(Default)]
pub(crate) struct Classified {
    paths: Mutex<BTreeMap<Vec<Arc<str>>, Arc<Texts>>>,
}

/// Classified texts that were read by one catalog and one search path.
#[derive(Default)]
pub(crate) struct Texts {
    shards: [Mutex<Shard>; SHARDS],
}

/// Two halves: when the young one is full it becomes the old one, and what of that was not asked for meanwhile is gone.
#[derive(Default)]
struct Shard {
    young: Half,
    old: Half,
}

#[derive(Default)]
struct Half {
    texts: BTreeMap<Box<[u8]>, Arc<Statement>>,
    bytes: usize,
}

impl Classified {
    /// The texts that are read by this search path.
    pub(super) fn by(&self, path: &[Arc<str>]) -> Arc<Texts> {
        let mut paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(texts) = paths.get(path) {
            return Arc::clone(texts);
        }
        let texts = Arc::new(Texts::default());
        if paths.len() < MAX_PATHS {
            paths.insert(path.to_vec(), Arc::clone(&texts));
        }
        texts
    }
}

impl Texts {
    /// What `text` does, if it was classified lately.
    pub(crate) fn get(&self, text: &[u8]) -> Option<Arc<Statement>> {
        if text.len() > MAX_TEXT {
            return None;
        }
        let mut shard = self.shard(text)?.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(statement) = shard.young.texts.get(text) {
            return Some(Arc::clone(statement));
        }
        let (text, statement) = shard.old.take(text)?;
        let found = Arc::clone(&statement);
        shard.put(text, statement);
        Some(found)
    }

    /// Keeps what `text` does, where that hangs on nothing that another session, or this one later, does not have as well.
    pub(crate) fn put(&self, text: &[u8], statement: &Arc<Statement>) {
        if text.len() <= MAX_TEXT
            && is_lasting(statement)
            && let Some(shard) = self.shard(text)
        {
            shard.lock().unwrap_or_else(PoisonError::into_inner).put(text.into(), Arc::clone(statement));
        }
    }

    fn shard(&self, text: &[u8]) -> Option<&Mutex<Shard>> {
        // Whoever makes all texts fall into one has that one to himself, and the others have theirs.
        let place = text.iter().step_by(7).fold(text.len(), |sum, byte| sum.rotate_left(5) ^ usize::from(*byte));
        self.shards.get(place.wrapping_mul(0x9e37_79b9).wrapping_shr(16) % SHARDS)
    }
}

impl Shard {
    fn put(&mut self, text: Box<[u8]>, statement: Arc<Statement>) {
        let bytes = self.young.bytes.saturating_add(text.len());
        if self.young.texts.len() >= HALF_TEXTS || bytes > HALF_BYTES {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.bytes = self.young.bytes.saturating_add(text.len());
        if let Some(gone) = self.young.texts.insert(text.clone(), statement) {
            drop(gone);
            self.young.bytes = self.young.bytes.saturating_sub(text.len());
        }
    }
}

impl Half {
    fn take(&mut self, text: &[u8]) -> Option<(Box<[u8]>, Arc<Statement>)> {
        let taken = self.texts.remove_entry(text)?;
        self.bytes = self.bytes.saturating_sub(text.len());
        Some(taken)
    }
}

/// Whether a statement's classification hangs on nothing that a session does but on what names mean: EXECUTE and FETCH hang on what they name.
pub(crate) fn is_lasting(statement: &Statement) -> bool {
    use StatementKind::{Delete, Insert, Merge, Select, Setting, Transaction, Update};
    statement.kinds.iter().all(|kind| matches!(kind, Select | Insert | Update | Delete | Merge | Transaction | Setting))
}

/// A copy of a catalog begins with nothing known.
impl Clone for Classified {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// What was asked of a catalog says nothing of what it is.
impl PartialEq for Classified {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl std::fmt::Debug for Classified {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Classified").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Texts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Texts").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement() -> Arc<Statement> {
        Arc::new(Statement::default())
    }

    #[test]
    fn what_is_asked_for_stays_and_the_rest_goes_in_time() {
        let texts = Texts::default();
        texts.put(b"SELECT 'kept'", &statement());
        for number in 0..50_000_u32 {
            texts.put(format!("SELECT {number}").as_bytes(), &statement());
            assert!(texts.get(b"SELECT 'kept'").is_some(), "after {number}");
        }
        assert!(texts.get(b"SELECT 1").is_none());
        let (mut count, mut bytes) = (0, 0);
        for shard in &texts.shards {
            let shard = shard.lock().unwrap();
            for half in [&shard.young, &shard.old] {
                count += half.texts.len();
                bytes += half.texts.keys().map(|text| text.len()).sum::<usize>();
                assert_eq!(half.bytes, half.texts.keys().map(|text| text.len()).sum::<usize>());
            }
        }
        assert!(count <= 2 * SHARDS * HALF_TEXTS && bytes <= 2 * SHARDS * HALF_BYTES, "{count} texts, {bytes} bytes");
    }

    #[test]
    fn long_texts_are_bounded_by_their_bytes_and_longer_ones_not_kept() {
        let texts = Texts::default();
        for number in 0..10_000_u32 {
            texts.put(format!("{number:04000}").as_bytes(), &statement());
        }
        let held = |half: &Half| half.texts.keys().map(|text| text.len()).sum::<usize>();
        for shard in &texts.shards {
            let shard = shard.lock().unwrap();
            assert!(held(&shard.young) <= HALF_BYTES && held(&shard.old) <= HALF_BYTES);
        }
        let long = vec![b' '; MAX_TEXT + 1];
        texts.put(&long, &statement());
        assert!(texts.get(&long).is_none());
    }

    #[test]
    fn search_paths_share_nothing() {
        let known = Classified::default();
        let path = |name: &str| vec![Arc::<str>::from(name)];
        known.by(&path("public")).put(b"SELECT 1", &statement());
        assert!(known.by(&path("public")).get(b"SELECT 1").is_some());
        assert!(known.by(&path("other")).get(b"SELECT 1").is_none());
        for number in 0..2 * MAX_PATHS {
            known.by(&path(&number.to_string()));
        }
        assert_eq!(known.paths.lock().unwrap().len(), MAX_PATHS);
        // One more has its own, and is forgotten with its session.
        let own = known.by(&path("late"));
        own.put(b"SELECT 1", &statement());
        assert!(known.by(&path("late")).get(b"SELECT 1").is_none());
    }
}
