//! What one principal, one target, one on the other, and all of them together may use up (I12).
//!
//! Who connects is weighed once: a place among the sessions and a connection of each rate. The session then holds what its operations are
//! counted by, so that an operation touches no map and no lock, only atomic numbers for each rate that is set. What is allowed is atomic
//! numbers, too: [`central`] sets them as policy and the fleet change, and open sessions follow.

mod account;
mod central;
mod handshakes;
mod logins;
mod rate;

use std::sync::Arc;
use std::time::{Duration, Instant};

use postern_core::Name;
use postern_core::allowance::Allowance;
use postern_core::principal::PrincipalId;

pub(crate) use central::{Central, follow};
pub(crate) use handshakes::{Handshake, Handshakes};
pub(crate) use logins::FailedLogins;

use crate::config::{Limits, Quota};
use crate::metrics;
use account::{Account, Accounts};
use rate::Bucket;

/// Whose limit was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    Principal,
    /// One principal's on one target.
    Pair,
    Target,
    Node,
}

/// What there is no more of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Sessions,
    Connections,
    Operations,
    /// Statements that are prepared.
    Statements,
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
    fn text(self) -> String {
        let what = match self.what {
            What::Sessions => "sessions",
            What::Connections => "connections",
            What::Operations => "operations",
            What::Statements => "statements to prepare",
        };
        let whose = match self.whose {
            Whose::Principal => " of this identity at this gateway",
            Whose::Pair => " of this identity on this target",
            Whose::Target => " on this target",
            Whose::Node => " at this gateway",
        };
        let when = if self.what == What::Sessions { "" } else { " in a second" };
        format!("too many {what}{whose}{when}: try again later")
    }
}

/// The gateway's limits. Shared: sessions that share a limit are owned by no one.
#[derive(Debug)]
pub(crate) struct Limiter {
    limits: Limits,
    began: Instant,
    node: Account,
    principals: Accounts<PrincipalId>,
    pairs: Accounts<(PrincipalId, Name)>,
    targets: Accounts<Name>,
}

/// The accounts that a session is counted on.
#[derive(Debug)]
struct Counted {
    principal: Arc<Account>,
    pair: Arc<Account>,
    target: Arc<Account>,
}

/// A session's place, and what its operations are counted by. Dropped, the place is free.
#[derive(Debug)]
pub(crate) struct Place {
    limiter: Arc<Limiter>,
    counted: Counted,
}

impl Counted {
    fn all<'a>(&'a self, node: &'a Account) -> [(&'a Account, Whose); 4] {
        [
            (&self.principal, Whose::Principal),
            (&self.pair, Whose::Pair),
            (&self.target, Whose::Target),
            (node, Whose::Node),
        ]
    }
}

impl Limiter {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        let node = Account::new(Quota {
            sessions: limits.max_connections,
            connections_per_second: limits.connections_per_second,
            operations_per_second: limits.operations_per_second,
        });
        Arc::new(Self {
            limits,
            began: Instant::now(),
            node,
            principals: Accounts::default(),
            pairs: Accounts::default(),
            targets: Accounts::default(),
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
        self.node.connection(self.now(), Whose::Node).inspect_err(count)
    }

    /// A place for a session of `principal` on `target`, by what is said of them centrally.
    ///
    /// # Errors
    /// When there is none: nothing is held then.
    pub(crate) fn admit(
        self: &Arc<Self>,
        principal: &PrincipalId,
        target: &Name,
        central: Central,
    ) -> Result<Place, Exceeded> {
        self.weigh(principal, target, central).inspect_err(count)
    }

    fn weigh(self: &Arc<Self>, principal: &PrincipalId, target: &Name, central: Central) -> Result<Place, Exceeded> {
        let most = usize::try_from(self.limits.max_connections).unwrap_or(usize::MAX);
        let at = (self.now(), most);
        let counted = Counted {
            principal: self.principals.of(principal, self.limits.of_principal(), at),
            pair: self.pairs.of(&(principal.clone(), target.clone()), central.pair.into(), at),
            target: self.targets.of(target, self.of_target(central.target), at),
        };
        // The node's was counted before the handshake.
        for (account, whose) in counted.all(&self.node).into_iter().take(3) {
            account.connection(at.0, whose)?;
        }
        for (place, (account, whose)) in counted.all(&self.node).into_iter().enumerate() {
            if let Err(full) = account.sit(whose) {
                counted.all(&self.node).into_iter().take(place).for_each(|(account, _)| account.rise());
                return Err(full);
            }
        }
        Ok(Place { limiter: Arc::clone(self), counted })
    }

    /// What all sessions on a target may have here: the smaller of what is said centrally and what this gateway says.
    fn of_target(&self, central: Allowance) -> Quota {
        central.and(self.limits.target.into()).into()
    }

    /// What is said of targets centrally is another now.
    fn allow_targets(&self, central: impl Fn(&Name) -> Allowance) {
        self.targets.each(|target, account| account.allow(self.of_target(central(target))));
    }
}

impl Place {
    /// One more operation: how long it has to wait for its turn.
    ///
    /// # Errors
    /// When that is too long: it must not run.
    pub(crate) fn operation(&self) -> Result<Duration, Exceeded> {
        self.turn(What::Operations, |account| &account.operations)
    }

    /// One more statement that is prepared: as [`Self::operation`], at the same rates and counted apart, as it is to be executed as a rule.
    ///
    /// # Errors
    /// When that is too long: it must not be parsed.
    pub(crate) fn statement(&self) -> Result<Duration, Exceeded> {
        self.turn(What::Statements, |account| &account.statements)
    }

    fn turn(&self, what: What, of: impl Fn(&Account) -> &Bucket) -> Result<Duration, Exceeded> {
        let Limiter { limits, node, .. } = &*self.limiter;
        let mut longest = Duration::ZERO;
        for (account, whose) in self.counted.all(node) {
            let Some(rate) = account.operation_rate() else { continue };
            let taken = of(account).take(rate, self.limiter.now(), limits.operation_wait.0);
            let exceeded = |after| Exceeded { whose, what, after: Some(after) };
            longest = longest.max(taken.map_err(exceeded).inspect_err(count)?);
        }
        Ok(longest)
    }

    /// What policy lets the principal use up on the target is another now.
    pub(crate) fn allow_pair(&self, central: Allowance) {
        self.counted.pair.allow(central.into());
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.counted.all(&self.limiter.node).into_iter().for_each(|(account, _)| account.rise());
    }
}

fn count(exceeded: &Exceeded) {
    metrics::limited(exceeded.whose, exceeded.what);
}

impl Limits {
    /// What one principal may have: without a word on it, half of the node's sessions, so that none can have all.
    fn of_principal(&self) -> Quota {
        let sessions = self.principal.sessions;
        Quota { sessions: if sessions == 0 { self.max_connections.div_ceil(2) } else { sessions }, ..self.principal }
    }
}

impl From<Allowance> for Quota {
    fn from(allowance: Allowance) -> Self {
        Self {
            sessions: allowance.sessions,
            connections_per_second: allowance.connections_per_second,
            operations_per_second: allowance.operations_per_second,
        }
    }
}

impl From<Quota> for Allowance {
    fn from(quota: Quota) -> Self {
        Self {
            sessions: quota.sessions,
            connections_per_second: quota.connections_per_second,
            operations_per_second: quota.operations_per_second,
            in_flight_bytes: 0,
        }
    }
}

#[cfg(test)]
mod tests;
