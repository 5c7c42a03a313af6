//! What a policy asks of whatever it permits, and what that comes to for one operation.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};

use super::afterwards::{ReviewAfterwards, ReviewAsked, join};
use super::durability::Durability;
use super::{Effect, Policy, PolicySlice};
use crate::action::{Action, Verb};
use crate::name::Name;
use crate::time::Ttl;

/// The longest time that a policy may give a statement, in seconds: a day.
pub(crate) const MAX_STATEMENT_TIMEOUT: u32 = 86_400;

/// What one policy asks of what it permits. Several together ask for the strictest of each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Obligations {
    /// The most rows that leave of one operation's results, or of all cursors that are open together.
    pub row_limit: Option<NonZeroU64>,
    /// How long a statement may run at the target.
    pub statement_timeout: Option<Ttl>,
    /// It runs in a transaction that cannot write.
    pub read_only: bool,
    /// Masking rules that hold for whomever the policy speaks of, wherever it speaks of them, whatever its conditions are: a session is masked as a whole,
    /// or what a cursor or a prepared statement shows would hang on what was asked before.
    pub masks: BTreeSet<Name>,
    /// What its record must have survived before it is forwarded.
    pub durability: Option<Durability>,
    /// Who reviews afterwards, each for itself.
    pub reviews: BTreeSet<ReviewAfterwards>,
}

/// What binds one operation: of each obligation the strictest that any policy asks for that applies to it, and which policy that is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Obliged {
    /// The most rows that leave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row_limit: Option<By<NonZeroU64>>,
    /// How long it may run, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statement_timeout: Option<By<Ttl>>,
    /// It may not write, by this policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_only: Option<Name>,
    /// Masking rules that hold, and which policy asks for each.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub masks: BTreeMap<Name, Name>,
    /// What its record must have survived before it is forwarded; none: as the gateway is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durability: Option<By<Durability>>,
    /// Who reviews it afterwards: each set of groups once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reviews: Vec<ReviewAsked>,
}

/// A bound, and the policy that sets it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct By<T> {
    /// The bound.
    pub limit: T,
    /// Who sets it.
    pub policy: Name,
}

impl Obligations {
    /// Nothing is asked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it binds how an operation runs, and not only what is seen of it.
    fn binds_runs(&self) -> bool {
        self.row_limit.is_some() || self.statement_timeout.is_some() || self.read_only
    }
}

impl Obliged {
    /// Nothing binds it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.row_limit.is_none()
            && self.statement_timeout.is_none()
            && self.read_only.is_none()
            && self.masks.is_empty()
            && self.durability.is_none()
            && self.reviews.is_empty()
    }

    /// Whoever asks for it.
    #[must_use]
    pub fn asked(&self) -> Obligations {
        Obligations {
            row_limit: self.row_limit.as_ref().map(|by| by.limit),
            statement_timeout: self.statement_timeout.as_ref().map(|by| by.limit),
            read_only: self.read_only.is_some(),
            masks: self.masks.keys().cloned().collect(),
            durability: self.durability.as_ref().map(|by| by.limit),
            reviews: self.reviews.iter().map(ReviewAsked::asked).collect(),
        }
    }

    /// What of it concerns how the operation runs and what is seen of it, and not how it is recorded, nor what follows.
    #[must_use]
    pub fn how_it_runs(&self) -> Self {
        Self {
            row_limit: self.row_limit.clone(),
            statement_timeout: self.statement_timeout.clone(),
            read_only: self.read_only.clone(),
            masks: self.masks.clone(),
            durability: None,
            reviews: Vec::new(),
        }
    }

    /// Adds what `policy` asks.
    pub(super) fn add(&mut self, policy: &Name, asked: &Obligations) {
        let by = |limit| By { limit, policy: policy.clone() };
        stricter(&mut self.row_limit, asked.row_limit.map(by));
        let by = |limit| By { limit, policy: policy.clone() };
        stricter(&mut self.statement_timeout, asked.statement_timeout.map(by));
        let by = |limit| By { limit, policy: policy.clone() };
        stricter(&mut self.durability, asked.durability.map(by));
        if asked.read_only && self.read_only.is_none() {
            self.read_only = Some(policy.clone());
        }
        for ReviewAfterwards { groups, within } in &asked.reviews {
            let policies = [policy.clone()].into_iter().collect();
            join(&mut self.reviews, ReviewAsked { groups: groups.clone(), within: *within, policies, review: None });
        }
    }

    /// Adds the masks that `policy` asks for.
    fn mask(&mut self, policy: &Name, asked: &Obligations) {
        for mask in &asked.masks {
            self.masks.entry(mask.clone()).or_insert_with(|| policy.clone());
        }
    }

    /// Both together.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        stricter(&mut self.row_limit, other.row_limit);
        stricter(&mut self.statement_timeout, other.statement_timeout);
        stricter(&mut self.durability, other.durability);
        self.read_only = self.read_only.or(other.read_only);
        for (mask, policy) in other.masks {
            self.masks.entry(mask).or_insert(policy);
        }
        for asked in other.reviews {
            join(&mut self.reviews, asked);
        }
        self
    }
}

/// `at most 1000 rows (analysts), at most 30 s (analysts), read only (analysts)`; nothing, where nothing binds.
impl std::fmt::Display for Obliged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rows = self.row_limit.as_ref().map(|by| format!("at most {} rows ({})", by.limit, by.policy));
        let time = self.statement_timeout.as_ref().map(|by| format!("at most {} s ({})", by.limit.0, by.policy));
        let reads = self.read_only.as_ref().map(|policy| format!("read only ({policy})"));
        let masks = self.masks.iter().map(|(mask, policy)| format!("masked by {mask} ({policy})"));
        let reviews = self.reviews.iter().map(ToString::to_string);
        let durable = self.durability.as_ref().map(|by| format!("recorded as {} ({})", by.limit, by.policy));
        let all: Vec<String> = [rows, time, reads, durable].into_iter().flatten().chain(masks).chain(reviews).collect();
        f.write_str(&all.join(", "))
    }
}

/// Of two bounds the smaller; of equal ones the one that was there.
fn stricter<T: PartialOrd>(known: &mut Option<By<T>>, other: Option<By<T>>) {
    if let Some(other) = other
        && known.as_ref().is_none_or(|known| other.limit < known.limit)
    {
        *known = Some(other);
    }
}

/// Whether `action` can be done in a transaction that cannot write, without an effect that outlives or leaves it.
pub(super) fn only_reads(action: &Action) -> bool {
    match action.verb {
        Verb::SqlSelect | Verb::SqlSet | Verb::SqlSetRole => true,
        // What a user's function writes, the target refuses. PostgreSQL's own that are not harmless take locks, signal, make large objects.
        Verb::SqlCall => action.object.path.get(1).is_some_and(|schema| !matches!(&**schema, "pg_catalog" | "?")),
        Verb::SqlInsert
        | Verb::SqlUpdate
        | Verb::SqlDelete
        | Verb::SqlTruncate
        | Verb::SqlCreate
        | Verb::SqlAlter
        | Verb::SqlDrop
        | Verb::SqlGrant
        | Verb::SqlMaintain
        | Verb::SqlLock
        | Verb::SqlNotify
        | Verb::SqlServerFile
        | Verb::SqlAdmin
        | Verb::SqlOpaque => false,
    }
}

impl PolicySlice {
    /// Whether anything that it permits may be bound in how it runs.
    #[must_use]
    pub fn may_oblige(&self) -> bool {
        self.policies.iter().any(|(name, policy)| self.stands(name, policy) && policy.obligations.binds_runs())
    }

    /// The masking rules that its policies ask for: they hold for all that a session does.
    #[must_use]
    pub fn masks(&self) -> BTreeSet<Name> {
        let standing = self.policies.iter().filter(|(name, policy)| self.stands(name, policy));
        standing.flat_map(|(_, policy)| policy.obligations.masks.iter().cloned()).collect()
    }

    /// Adds the masks that hold for whatever the session does.
    pub(super) fn mask(&self, obliged: &mut Obliged) {
        for (name, policy) in self.policies.iter().filter(|(_, policy)| !policy.obligations.masks.is_empty()) {
            if self.stands(name, policy) {
                obliged.mask(name, &policy.obligations);
            }
        }
    }

    /// What binds an operation that does nothing of which policy speaks: it can read and write nothing, and still take its time. What ends the transaction
    /// of one that is acknowledged before it runs is so, too.
    pub(super) fn obliged_without_actions(&self) -> Obliged {
        let permits = |name: &Name, policy: &Policy| policy.effect == Effect::Permit && self.stands(name, policy);
        let mut obliged = Obliged::default();
        for (name, policy) in self.policies.iter().filter(|(name, policy)| permits(name, policy)) {
            let Obligations { statement_timeout, durability, .. } = policy.obligations;
            let durability = durability.filter(|class| *class == Durability::Quorum);
            let asked = Obligations { statement_timeout, durability, ..Obligations::default() };
            obliged.add(name, &asked);
        }
        obliged
    }
}

#[cfg(test)]
#[path = "obligations_tests.rs"]
mod tests;
