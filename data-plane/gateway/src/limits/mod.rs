//! What one principal, one target, and all of them together may use up (I12).
//!
//! Who connects is weighed once: a place among the sessions and a connection of each rate. The session then holds what its operations are
//! counted by, so that an operation touches no map and no lock, only an atomic number for each rate that is set.

mod handshakes;
mod rate;

use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use postern_core::Name;
use postern_core::principal::PrincipalId;

pub(crate) use handshakes::{Handshake, Handshakes};

use crate::config::{Limits, Quota};
use crate::metrics;
use rate::{Bucket, Rate};

/// Principals and targets that are remembered although they have no session, beside those that have: whoever is forgotten begins with a
/// full bucket again, and the node's own limits hold for all.
const REMEMBERED: usize = 4096;

/// Whose limit was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    Principal,
    Target,
    Node,
}

/// What there is no more of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Sessions,
    Connections,
    Operations,
}

/// Past a limit: worth another try, later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
pub(crate) struct Exceeded {
    pub(crate) whose: Whose,
    pub(crate) what: What,
    /// When there is room again, where that is known.
    pub(crate) after: Option<Duration>,
}

impl Exceeded {
    const fn text(self) -> &'static str {
        match (self.what, self.whose) {
            (What::Sessions, Whose::Principal) => "too many sessions of this identity at this gateway: try again later",
            (What::Sessions, Whose::Target) => "too many sessions on this target at this gateway: try again later",
            (What::Sessions, Whose::Node) => "too many sessions at this gateway: try again later",
            (What::Connections, Whose::Principal) => {
                "too many connections of this identity in a second: try again later"
            }
            (What::Connections, Whose::Target) => "too many connections to this target in a second: try again later",
            (What::Connections, Whose::Node) => "too many connections in a second: try again later",
            (What::Operations, Whose::Principal) => "too many operations of this identity in a second: try again later",
            (What::Operations, Whose::Target) => "too many operations on this target in a second: try again later",
            (What::Operations, Whose::Node) => "too many operations at this gateway in a second: try again later",
        }
    }
}

/// What is counted of one principal, one target, or the node.
#[derive(Debug, Default)]
struct Account {
    sessions: AtomicU32,
    connections: Bucket,
    operations: Bucket,
}

/// All accounts of one kind. Bounded: see [`REMEMBERED`].
#[derive(Debug)]
struct Accounts<K: Eq + Hash>(DashMap<K, Arc<Account>>);

/// The gateway's limits. Shared: sessions that share a limit are owned by no one.
#[derive(Debug)]
pub(crate) struct Limiter {
    limits: Limits,
    began: Instant,
    node: Account,
    principals: Accounts<PrincipalId>,
    targets: Accounts<Name>,
}

/// A session's place, and what its operations are counted by. Dropped, the place is free.
#[derive(Debug)]
pub(crate) struct Place {
    limiter: Arc<Limiter>,
    principal: Arc<Account>,
    target: Arc<Account>,
}

impl Account {
    fn is_full(&self, now: u64) -> bool {
        self.connections.is_full(now) && self.operations.is_full(now)
    }
}

impl<K: Eq + Hash + Clone> Accounts<K> {
    fn of(&self, key: &K, now: u64, sessions: usize) -> Arc<Account> {
        if let Some(known) = self.0.get(key) {
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
        Arc::clone(&self.0.entry(key.clone()).or_default())
    }
}

impl Limiter {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            began: Instant::now(),
            node: Account::default(),
            principals: Accounts(DashMap::new()),
            targets: Accounts(DashMap::new()),
        })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// One more connection, of whomever.
    ///
    /// # Errors
    /// When there were too many in this second.
    pub(crate) fn connection(&self) -> Result<(), Exceeded> {
        let rate = Rate::new(self.limits.connections_per_second);
        connection(&self.node, rate, self.now(), Whose::Node).inspect_err(count)
    }

    /// A place for a session of `principal` on `target`.
    ///
    /// # Errors
    /// When there is none: nothing is held then.
    pub(crate) fn admit(self: &Arc<Self>, principal: &PrincipalId, target: &Name) -> Result<Place, Exceeded> {
        self.weigh(principal, target).inspect_err(count)
    }

    fn weigh(self: &Arc<Self>, principal: &PrincipalId, target: &Name) -> Result<Place, Exceeded> {
        let (now, most) = (self.now(), usize::try_from(self.limits.max_connections).unwrap_or(usize::MAX));
        let (of_principal, of_target) = (self.limits.of_principal(), &self.limits.target);
        let (principal, target) = (self.principals.of(principal, now, most), self.targets.of(target, now, most));
        connection(&principal, Rate::new(of_principal.connections_per_second), now, Whose::Principal)?;
        connection(&target, Rate::new(of_target.connections_per_second), now, Whose::Target)?;
        sit(&principal, of_principal.sessions, Whose::Principal)?;
        if let Err(error) = sit(&target, of_target.sessions, Whose::Target) {
            rise(&principal);
            return Err(error);
        }
        if let Err(error) = sit(&self.node, self.limits.max_connections, Whose::Node) {
            rise(&principal);
            rise(&target);
            return Err(error);
        }
        Ok(Place { limiter: Arc::clone(self), principal, target })
    }
}

impl Place {
    /// One more operation: how long it has to wait for its turn.
    ///
    /// # Errors
    /// When that is too long: it must not run.
    pub(crate) fn operation(&self) -> Result<Duration, Exceeded> {
        let Limiter { limits, node, .. } = &*self.limiter;
        let rates = [
            (&*self.principal, limits.principal.operations_per_second, Whose::Principal),
            (&*self.target, limits.target.operations_per_second, Whose::Target),
            (node, limits.operations_per_second, Whose::Node),
        ];
        let mut longest = Duration::ZERO;
        for (account, per_second, whose) in rates {
            let Some(rate) = Rate::new(per_second) else { continue };
            let taken = account.operations.take(rate, self.limiter.now(), limits.operation_wait.0);
            let exceeded = |after| Exceeded { whose, what: What::Operations, after: Some(after) };
            longest = longest.max(taken.map_err(exceeded).inspect_err(count)?);
        }
        Ok(longest)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        rise(&self.principal);
        rise(&self.target);
        rise(&self.limiter.node);
    }
}

fn count(exceeded: &Exceeded) {
    metrics::limited(exceeded.whose, exceeded.what);
}

fn connection(account: &Account, rate: Option<Rate>, now: u64, whose: Whose) -> Result<(), Exceeded> {
    let Some(rate) = rate else { return Ok(()) };
    let taken = account.connections.take(rate, now, Duration::ZERO);
    taken.map(drop).map_err(|after| Exceeded { whose, what: What::Connections, after: Some(after) })
}

/// Takes a place; 0: there is one for everybody.
fn sit(account: &Account, most: u32, whose: Whose) -> Result<(), Exceeded> {
    let more = |seated: u32| if most == 0 || seated < most { seated.checked_add(1) } else { None };
    let sat = account.sessions.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    sat.map(drop).map_err(|_| Exceeded { whose, what: What::Sessions, after: None })
}

fn rise(account: &Account) {
    let _ = account.sessions.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |seated| seated.checked_sub(1));
}

impl Limits {
    /// What one principal may have: without a word on it, half of the node's sessions, so that none can have all.
    fn of_principal(&self) -> Quota {
        let sessions = self.principal.sessions;
        Quota { sessions: if sessions == 0 { self.max_connections.div_ceil(2) } else { sessions }, ..self.principal }
    }
}

#[cfg(test)]
mod tests;
