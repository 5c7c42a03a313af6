//! How often tokens were used that are good for a number of sessions.

use postern_core::Timestamp;
use postern_core::revocation::{RevocationKey, seconds};

use crate::tree::{Set, Tree};

/// Those that are forgotten with one entry of the log.
const AT_ONCE: usize = 4_096;

/// Part of the state.
#[derive(Clone, Debug, Default)]
pub(crate) struct TokenUses {
    /// By token: sessions so far, and the second after which nobody asks any more.
    pub(crate) taken: Tree<RevocationKey, (u32, u32)>,
    // Derived.
    ends: Set<(u32, RevocationKey)>,
}

impl TokenUses {
    pub(crate) fn of(&self, key: &RevocationKey) -> u32 {
        self.taken.get(key).map_or(0, |(taken, _)| *taken)
    }

    pub(crate) fn put(&mut self, key: RevocationKey, taken: u32, until: u32) {
        if let Some((_, former)) = self.taken.insert(key, (taken, until)) {
            self.ends.remove(&(former, key));
        }
        self.ends.insert((until, key), ());
    }

    /// Counts one more. It is remembered for as long as anybody has said that the token lives.
    pub(crate) fn take(&mut self, key: RevocationKey, until: Timestamp) {
        let (taken, former) = self.taken.get(&key).copied().unwrap_or_default();
        self.put(key, taken.saturating_add(1), former.max(seconds(until)));
    }

    /// Forgets tokens that have ended.
    pub(crate) fn expire(&mut self, now: Timestamp) {
        for _ in 0..AT_ONCE {
            let Some((&(until, key), ())) = self.ends.first_key_value() else { break };
            if until >= seconds(now) {
                break;
            }
            self.ends.remove(&(until, key));
            self.taken.remove(&key);
        }
    }
}
