//! Jobs: tokens that end when the work that they were made for does.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use crate::principal::{Link, Principal};
use crate::scope::Scope;
use crate::time::{Timestamp, Ttl};

/// What a heartbeat may be, in seconds.
pub const HEARTBEATS: RangeInclusive<u32> = 5..=3_600;
/// What it is when nobody says.
pub const DEFAULT_HEARTBEAT: Ttl = Ttl(30);
/// The longest name, in bytes.
pub const MAX_NAME: usize = 128;

/// A session token that is tied to a job: it ends, with all that was made of it, when the job is said to be finished, or is not heard of in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// The token's id.
    pub token: Arc<str>,
    /// What people call it.
    pub name: String,
    /// Whose token it is, with those that it was made from: without their scopes, and without groups and claims.
    pub principal: Principal,
    /// It has to be heard of within so long, again and again.
    pub heartbeat: Ttl,
    /// When it began, by the control plane's logical clock.
    pub started_at: Timestamp,
    /// Not heard of until then it is taken for dead.
    pub deadline: Timestamp,
    /// When the token ends by itself.
    pub ends_at: Timestamp,
    /// The Raft index of its last change.
    pub revision: u64,
}

impl Job {
    /// A job of the token that `principal` says, which ends at `ends_at`. What of the principal may be long is not kept.
    #[must_use]
    pub fn new(principal: &Principal, token: &Arc<str>, ends_at: Timestamp, (name, heartbeat): (String, Ttl)) -> Self {
        let chain = principal.chain.iter();
        let chain = chain.map(|link| Link {
            token: Arc::clone(&link.token),
            actor: link.actor.clone(),
            scope: Scope::default(),
        });
        let principal = Principal {
            id: principal.id.clone(),
            groups: Default::default(),
            token_id: Some(Arc::clone(token)),
            expires_at: None,
            chain: chain.collect(),
            claims: Default::default(),
        };
        let (started_at, deadline) = Default::default();
        Self { token: Arc::clone(token), name, principal, heartbeat, started_at, deadline, ends_at, revision: 0 }
    }

    /// Until when it is good to have heard of it at `now`: half a heartbeat more than was asked for, so that what is heard within [`Self::rest`] of that
    /// need not be written down.
    #[must_use]
    pub fn next_deadline(&self, now: Timestamp) -> Timestamp {
        now.plus(self.heartbeat.duration() + self.rest())
    }

    /// For how long after it was written down that it was heard of nothing of that kind need be: it is never taken for dead within a heartbeat.
    #[must_use]
    pub fn rest(&self) -> Duration {
        self.heartbeat.duration() / 2
    }

    /// Whether `own` is its token, or was made from it.
    #[must_use]
    pub fn is_told_of_by(&self, own: &Principal) -> bool {
        own.id == self.principal.id && own.tokens().any(|token| *token == self.token)
    }

    /// Whether who shows `own` may say that it is finished: its token, or a child of that which was neither named nor narrowed (where a token names a
    /// key, its bearer shows such a one); a token that it was made from; or any whole token of its principal.
    #[must_use]
    pub fn is_ended_by(&self, own: &Principal) -> bool {
        if own.id != self.principal.id {
            return false;
        }
        let mut after = own.chain.iter().skip_while(|link| link.token != self.token).skip(1);
        let as_itself = after.all(|link| link.actor.is_none() && link.scope == Scope::default());
        let shown = own.token_id.as_ref();
        let is_parent = || shown.is_some_and(|shown| self.principal.tokens().any(|token| token == shown));
        own.is_whole() || is_parent() || (self.is_told_of_by(own) && as_itself)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kept::KeptClaims;
    use crate::principal::{Actor, PrincipalId};

    fn shown(chain: &[(&str, Option<&str>, &str)], own: &str) -> Principal {
        let link = |(token, actor, scope): &(&str, Option<&str>, &str)| Link {
            token: (*token).into(),
            actor: actor.map(|name| Actor { issuer: None, name: name.into() }),
            scope: Scope::from_words(scope).unwrap(),
        };
        Principal {
            id: PrincipalId { issuer: "ci".parse().unwrap(), subject: "robot".into() },
            groups: ["dev".into()].into(),
            token_id: Some(own.into()),
            expires_at: None,
            chain: chain.iter().map(link).collect(),
            claims: KeptClaims::default(),
        }
    }

    #[test]
    fn who_may_tell_of_it_and_who_may_end_it() {
        let (root, step) = (("a", None, "target:db"), ("b", Some("build"), ""));
        let of = shown(&[root, step], "b");
        let job = Job::new(&of, &"b".into(), Timestamp::from_secs(9), ("build".to_owned(), Ttl(10)));
        assert!(job.principal.groups.is_empty() && job.principal.chain[0].scope == Scope::default());
        assert_eq!(job.principal.to_string(), "ci/robot by build");
        // Who shows it: may they tell of it, may they end it?
        for (own, tells, ends) in [
            (of, true, true),
            (shown(&[root, step, ("c", None, "")], "c"), true, true),
            (shown(&[root, step, ("c", Some("tool"), "")], "c"), true, false),
            (shown(&[root, step, ("c", None, "action:sql:select")], "c"), true, false),
            (shown(&[root, step, ("c", Some("tool"), ""), ("d", None, "")], "d"), true, false),
            (shown(&[root], "a"), false, true),
            (shown(&[root, ("x", Some("other"), "")], "x"), false, false),
            (shown(&[], "z"), false, true),
        ] {
            assert_eq!((job.is_told_of_by(&own), job.is_ended_by(&own)), (tells, ends), "{own:?}");
            let mut stranger = own;
            stranger.id.subject = "another".into();
            assert!(!job.is_told_of_by(&stranger) && !job.is_ended_by(&stranger));
        }
    }
}
