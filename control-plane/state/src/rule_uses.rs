//! How often rules approved in place of people today.

use std::sync::Arc;

use postern_core::Name;
use postern_core::principal::PrincipalId;

use crate::tree::{Set, Tree};

/// Those that are forgotten with one entry of the log.
const AT_ONCE: usize = 4_096;

/// For whom, by which rule of which policy.
pub(crate) type RuleKey = (PrincipalId, Name, Arc<str>);

/// Part of the state.
#[derive(Clone, Debug, Default)]
pub(crate) struct RuleUses {
    /// The day, and how often on it.
    pub(crate) taken: Tree<RuleKey, (u64, u32)>,
    // Derived.
    days: Set<(u64, RuleKey)>,
}

impl RuleUses {
    pub(crate) const fn len(&self) -> usize {
        self.taken.len()
    }

    /// How often on `day`.
    pub(crate) fn on(&self, day: u64, key: &RuleKey) -> u32 {
        self.taken.get(key).filter(|(of, _)| *of == day).map_or(0, |(_, taken)| *taken)
    }

    pub(crate) fn put(&mut self, key: RuleKey, day: u64, taken: u32) {
        if let Some((former, _)) = self.taken.insert(key.clone(), (day, taken)) {
            self.days.remove(&(former, key.clone()));
        }
        self.days.insert((day, key), ());
    }

    /// Forgets the days before `day`.
    pub(crate) fn expire(&mut self, day: u64) {
        for _ in 0..AT_ONCE {
            let Some(((of, key), ())) = self.days.first_key_value() else { break };
            if *of >= day {
                break;
            }
            let (of, key) = (*of, key.clone());
            self.days.remove(&(of, key.clone()));
            self.taken.remove(&key);
        }
    }
}
