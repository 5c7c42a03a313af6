//! How old a policy may be that is decided by (I9).

use std::time::Duration;

use super::{Effect, Policy, PolicySlice};

/// A control plane that is there confirms every few seconds: what is to hold only while it is there holds for so long after the last time.
pub const MIN_STALENESS: Duration = Duration::from_secs(10);

/// The most that a policy may say, in seconds: no gateway's limit should be longer than a day.
pub(crate) const MAX_STALENESS: u32 = 86_400;

/// How long ago the control plane confirmed the policy, and how long ago that may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freshness {
    /// Since it was confirmed.
    pub age: Duration,
    /// The gateway's own limit: an upper bound on every policy's.
    pub limit: Duration,
}

/// What becomes of sessions that are open when a policy that permits them is too old.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnStale {
    /// It permits them nothing more. What was revoked meanwhile cannot be known, so this is what is meant when nothing is said.
    #[default]
    End,
    /// It goes on to permit them what it did. It opens none.
    Keep,
}

/// For how long a policy may be used without being confirmed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Staleness {
    /// None: as long as the gateway's limit says. Less than [`MIN_STALENESS`] is as much as that.
    pub max: Option<Duration>,
    /// And then.
    pub then: OnStale,
}

impl Freshness {
    /// Confirmed just now, and any age would do.
    pub const CONFIRMED: Self = Self { age: Duration::ZERO, limit: Duration::MAX };
}

impl Staleness {
    /// The age past which the policy opens no session, on a gateway with this limit.
    #[must_use]
    pub fn limit(&self, limit: Duration) -> Duration {
        self.max.map_or(limit, |max| max.max(MIN_STALENESS).min(limit))
    }
}

impl Policy {
    /// Whether it is too old.
    #[must_use]
    pub fn is_stale(&self, fresh: Freshness) -> bool {
        fresh.age > self.staleness.limit(fresh.limit)
    }

    /// Whether it permits anything in a session that is open. Denying is never too old.
    #[must_use]
    pub fn still_permits(&self, fresh: Freshness) -> bool {
        self.effect == Effect::Permit && (self.staleness.then == OnStale::Keep || !self.is_stale(fresh))
    }
}

impl PolicySlice {
    /// Whether a session may open by it: something permits, and is not too old.
    #[must_use]
    pub fn opens(&self, fresh: Freshness) -> bool {
        self.permits_anything() && self.permits().any(|policy| !policy.is_stale(fresh))
    }

    /// Whether a session that is open may stay so.
    #[must_use]
    pub fn keeps(&self, fresh: Freshness) -> bool {
        self.permits_anything() && self.permits().any(|policy| policy.still_permits(fresh))
    }

    /// The next age at which something in it is too old; none, when everything is already.
    #[must_use]
    pub fn next_stale(&self, fresh: Freshness) -> Option<Duration> {
        self.permits().map(|policy| policy.staleness.limit(fresh.limit)).filter(|limit| *limit >= fresh.age).min()
    }

    fn permits(&self) -> impl Iterator<Item = &Policy> {
        self.policies.iter().filter(|(name, policy)| self.permits_by(name, policy)).map(|(_, policy)| &**policy)
    }
}
