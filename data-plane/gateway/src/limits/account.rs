//! What is counted of one principal, one target, one on the other, or the node; and what it may be.

use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use dashmap::DashMap;

use super::rate::{Bucket, Rate};
use super::{Exceeded, What, Whose};
use crate::config::Quota;

/// What is remembered although it has no session, beside what has: whoever is forgotten begins with a full bucket again, and the node's own
/// limits hold for all.
pub(super) const REMEMBERED: usize = 4096;

/// One account. Each number of it is read and written alone: nobody waits for anybody.
#[derive(Debug, Default)]
pub(super) struct Account {
    allowed: Allowed,
    sessions: AtomicU32,
    connections: Bucket,
    pub(super) operations: Bucket,
    /// Statements that are prepared.
    pub(super) statements: Bucket,
}

/// 0: no limit.
#[derive(Debug, Default)]
struct Allowed {
    sessions: AtomicU32,
    connections: AtomicU32,
    operations: AtomicU32,
}

impl Account {
    pub(super) fn new(quota: Quota) -> Self {
        let account = Self::default();
        account.allow(quota);
        account
    }

    /// Sets what is allowed from now on. Sessions that there are too many of now stay.
    pub(super) fn allow(&self, quota: Quota) {
        self.allowed.sessions.store(quota.sessions, Ordering::Relaxed);
        self.allowed.connections.store(quota.connections_per_second, Ordering::Relaxed);
        self.allowed.operations.store(quota.operations_per_second, Ordering::Relaxed);
    }

    /// Of operations, and of statements that are prepared.
    pub(super) fn operation_rate(&self) -> Option<Rate> {
        Rate::new(self.allowed.operations.load(Ordering::Relaxed))
    }

    /// One more connection.
    pub(super) fn connection(&self, now: u64, whose: Whose) -> Result<(), Exceeded> {
        let Some(rate) = Rate::new(self.allowed.connections.load(Ordering::Relaxed)) else { return Ok(()) };
        let taken = self.connections.take(rate, now, Duration::ZERO);
        taken.map(drop).map_err(|after| Exceeded { whose, what: What::Connections, after: Some(after) })
    }

    /// Takes a place.
    pub(super) fn sit(&self, whose: Whose) -> Result<(), Exceeded> {
        let most = self.allowed.sessions.load(Ordering::Relaxed);
        let more = |seated: u32| if most == 0 || seated < most { seated.checked_add(1) } else { None };
        let sat = self.sessions.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        sat.map(drop).map_err(|_| Exceeded { whose, what: What::Sessions, after: None })
    }

    /// Gives the place back.
    pub(super) fn rise(&self) {
        let _ = self.sessions.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |seated| seated.checked_sub(1));
    }

    fn is_full(&self, now: u64) -> bool {
        self.connections.is_full(now) && self.operations.is_full(now) && self.statements.is_full(now)
    }
}

/// All accounts of one kind. Bounded: see [`REMEMBERED`].
#[derive(Debug)]
pub(super) struct Accounts<K: Eq + Hash>(DashMap<K, Arc<Account>>);

impl<K: Eq + Hash> Default for Accounts<K> {
    fn default() -> Self {
        Self(DashMap::new())
    }
}

impl<K: Eq + Hash + Clone> Accounts<K> {
    /// The account of `key`, with `quota` from now on; at this time, on a node with room for so many sessions.
    pub(super) fn of(&self, key: &K, quota: Quota, (now, sessions): (u64, usize)) -> Arc<Account> {
        if let Some(known) = self.0.get(key) {
            known.allow(quota);
            return Arc::clone(&known);
        }
        let most = sessions.saturating_add(REMEMBERED);
        if self.0.len() >= most {
            // Who has a session stays, so there is room for as many again before the next time.
            self.0.retain(|_, account| Arc::strong_count(account) > 1 || !account.is_full(now));
            if self.0.len() >= most {
                self.0.retain(|_, account| Arc::strong_count(account) > 1);
            }
        }
        Arc::clone(&self.0.entry(key.clone()).or_insert_with(|| Arc::new(Account::new(quota))))
    }

    pub(super) fn each(&self, of: impl Fn(&K, &Account)) {
        self.0.iter().for_each(|entry| of(entry.key(), entry.value()));
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    #[cfg(test)]
    pub(super) fn get(&self, key: &K) -> Option<Arc<Account>> {
        self.0.get(key).map(|known| Arc::clone(&known))
    }
}
