//! All that a gateway decides by, at one revision.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::access::Grants;
use crate::delta::{Delta, DeltaError};
use crate::issuer::Issuer;
use crate::masking::{MaskSlice, MaskingRule};
use crate::name::Name;
use crate::policy::{Granted, Policy, PolicySlice};
use crate::principal::Principal;
use crate::resource::{Kind, Metadata, Resource, Spec};
use crate::revocation::Revocations;
use crate::secret::SecretBytes;
use crate::target::Target;
use crate::time::Timestamp;

/// A whole, versioned view of policy. Never changed: a newer one replaces it, and shares with it what is the same.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The Raft index that it shows.
    pub revision: u64,
    /// The cluster it is of.
    pub cluster_id: String,
    /// Which life of the cluster: a restored one has another.
    pub incarnation: String,
    /// Trusted issuers, each with its keys (a JWKS as fetched; none when it was never reached).
    pub issuers: Table<(Issuer, Option<String>)>,
    /// Targets.
    pub targets: Table<Labeled<Target>>,
    /// Policies.
    pub policies: Table<Policy>,
    /// Masking rules.
    pub masking: Table<MaskingRule>,
    /// Access that was granted on request, and had not ended.
    pub grants: Grants,
    /// Serial numbers of nodes' certificates that are good no more.
    pub revoked: Arc<BTreeSet<String>>,
    /// Tokens that are good no more.
    pub revocations: Revocations,
    /// Passwords by target, opened for this gateway, in memory only (I5).
    pub credentials: BTreeMap<Name, SecretBytes>,
    /// JWKS of the keys that session tokens are signed with.
    pub session_token_jwks: String,
    /// Key of the `hash` mask. In memory only, too.
    pub mask_key: SecretBytes,
}

/// A thing with its labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labeled<T> {
    /// For selectors.
    pub labels: BTreeMap<String, String>,
    /// The thing.
    pub value: T,
}

/// Credentials that were opened for one gateway, to be put into its [`Snapshot`].
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// These are all; else they change the ones before.
    pub whole: bool,
    /// By target.
    pub passwords: BTreeMap<Name, SecretBytes>,
    /// Targets without one any more.
    pub removed: Vec<Name>,
    /// `None`: as before.
    pub mask_key: Option<SecretBytes>,
}

/// Things by name, shared between revisions: a copy costs nothing until one of the two is changed, and then one pointer each.
#[derive(Clone, Debug)]
pub struct Table<T>(Arc<BTreeMap<Name, Arc<T>>>);

impl Snapshot {
    /// Nothing is in it.
    #[must_use]
    pub fn empty(cluster_id: &str, incarnation: &str) -> Self {
        Self {
            revision: 0,
            cluster_id: cluster_id.to_owned(),
            incarnation: incarnation.to_owned(),
            issuers: Table::default(),
            targets: Table::default(),
            policies: Table::default(),
            masking: Table::default(),
            grants: Grants::default(),
            revoked: Arc::default(),
            revocations: Revocations::default(),
            credentials: BTreeMap::new(),
            session_token_jwks: String::new(),
            mask_key: SecretBytes::new(Vec::new()),
        }
    }

    /// The policies that speak of `principal` on `target`: taken once per session and revision, not per operation.
    #[must_use]
    pub fn policy_slice(&self, principal: &Principal, target: &Name) -> PolicySlice {
        let none = BTreeMap::new();
        let labels = self.targets.get(target).map_or(&none, |target| &target.labels);
        PolicySlice::new(self.revision, self.policies.shared(), principal, target, labels)
            .with(self.granted(principal, target))
    }

    /// What was granted `principal` on `target`, ended by now or not.
    fn granted(&self, principal: &Principal, target: &Name) -> Granted {
        Granted::of(self.grants.of(&principal.id), principal, target)
    }

    /// The masking rules that hold for `principal` on `target`, and those that the policies there ask for ([`PolicySlice::masks`]).
    #[must_use]
    pub fn mask_slice(&self, principal: &Principal, target: &Name, asked: &BTreeSet<Name>) -> MaskSlice {
        let none = BTreeMap::new();
        let labels = self.targets.get(target).map_or(&none, |target| &target.labels);
        MaskSlice::with(&self.masking, asked, principal, target, labels)
    }

    /// The masking rules that hold by policy alone, and all that some policy asks for, of whomever.
    #[must_use]
    pub fn masks_by_policy(&self) -> BTreeSet<Name> {
        let rules = (&self.masking).into_iter().filter(|(_, rule)| rule.only_by_policy);
        let asked =
            (&self.policies).into_iter().flat_map(|(_, policy): (&Name, &Policy)| policy.obligations.masks.iter());
        rules.map(|(name, _)| name).chain(asked).cloned().collect()
    }

    /// Whether any masking rule holds on `target`, for whomever.
    #[must_use]
    pub fn masks_anybody(&self, target: &Name) -> bool {
        let none = BTreeMap::new();
        let labels = self.targets.get(target).map_or(&none, |target| &target.labels);
        (&self.masking).into_iter().any(|(_, rule)| rule.only_by_policy || rule.targets.matches(target, labels))
    }

    /// The policy at the delta's revision. What it does not speak of is shared, credentials stay.
    ///
    /// # Errors
    /// When the delta does not follow this very snapshot. Nothing is taken of it then.
    pub fn apply(&self, delta: Delta) -> Result<Self, DeltaError> {
        if delta.incarnation != self.incarnation {
            return Err(DeltaError::Incarnation { ours: self.incarnation.clone(), theirs: delta.incarnation });
        }
        if delta.from_revision != self.revision {
            return Err(DeltaError::Gap { ours: self.revision, from: delta.from_revision });
        }
        if delta.revision <= delta.from_revision {
            return Err(DeltaError::Backwards { from: delta.from_revision, to: delta.revision });
        }
        let mut next = self.clone();
        next.revision = delta.revision;
        for (kind, name) in delta.deletes {
            next.remove(kind, &name)?;
        }
        for resource in delta.upserts {
            next.put(resource)?;
        }
        for (name, keys) in delta.issuer_keys {
            next.set_keys(&name, keys);
        }
        if let Some(jwks) = delta.session_token_jwks {
            next.session_token_jwks = jwks;
        }
        for ended in delta.ended_grants {
            next.grants.remove(ended);
        }
        for grant in delta.grants {
            next.grants.insert(grant);
        }
        if !delta.revoked.is_empty() {
            Arc::make_mut(&mut next.revoked).extend(delta.revoked);
        }
        next.revocations.forget(delta.revocations_over);
        for mark in delta.revocations {
            next.revocations.insert(mark);
        }
        Ok(next)
    }

    /// The same policy, with other credentials.
    #[must_use]
    pub fn with_credentials(mut self, credentials: Credentials) -> Self {
        if credentials.whole {
            self.credentials = credentials.passwords;
        } else {
            for name in &credentials.removed {
                self.credentials.remove(name);
            }
            self.credentials.extend(credentials.passwords);
        }
        if let Some(key) = credentials.mask_key {
            self.mask_key = key;
        }
        self
    }

    /// Adds an object, or replaces it. An issuer keeps its keys.
    ///
    /// # Errors
    /// It is of a kind that gateways do not decide by.
    pub fn put(&mut self, resource: Resource) -> Result<(), DeltaError> {
        let Metadata { name, labels, .. } = resource.metadata;
        match resource.spec {
            Spec::Issuer(issuer) => {
                let keys = self.issuers.get(&name).and_then(|(_, keys)| keys.clone());
                self.issuers.insert(name, (issuer, keys));
            }
            Spec::Target(value) => self.targets.insert(name, Labeled { labels, value }),
            Spec::Policy(policy) => self.policies.insert(name, policy),
            Spec::MaskingRule(rule) => self.masking.insert(name, rule),
            spec @ (Spec::Secret(_)
            | Spec::Role(_)
            | Spec::RoleBinding(_)
            | Spec::ServiceAccount(_)
            | Spec::Webhook(_)) => {
                return Err(DeltaError::NotForGateways(spec.kind()));
            }
        }
        Ok(())
    }

    /// One object as a delta speaks of it: of its metadata there are the name and the labels alone.
    #[must_use]
    pub fn object(&self, kind: Kind, name: &Name) -> Option<Resource> {
        let none = BTreeMap::new;
        let (labels, spec) = match kind {
            Kind::Issuer => (none(), Spec::Issuer(self.issuers.get(name)?.0.clone())),
            Kind::Target => {
                let target = self.targets.get(name)?;
                (target.labels.clone(), Spec::Target(target.value.clone()))
            }
            Kind::Policy => (none(), Spec::Policy(self.policies.get(name)?.clone())),
            Kind::MaskingRule => (none(), Spec::MaskingRule(self.masking.get(name)?.clone())),
            Kind::Secret | Kind::Role | Kind::RoleBinding | Kind::ServiceAccount | Kind::Webhook => return None,
        };
        let (created_at, updated_at) = (Timestamp::default(), Timestamp::default());
        Some(Resource { metadata: Metadata { name: name.clone(), labels, revision: 0, created_at, updated_at }, spec })
    }

    /// Sets the keys of an issuer; there is nothing to set for one that is not there.
    pub fn set_keys(&mut self, issuer: &Name, keys: Option<String>) {
        if let Some(known) = self.issuers.get_mut(issuer) {
            known.1 = keys;
        }
    }

    fn remove(&mut self, kind: Kind, name: &Name) -> Result<(), DeltaError> {
        match kind {
            Kind::Issuer => self.issuers.remove(name),
            Kind::Target => self.targets.remove(name),
            Kind::Policy => self.policies.remove(name),
            Kind::MaskingRule => self.masking.remove(name),
            Kind::Secret | Kind::Role | Kind::RoleBinding | Kind::ServiceAccount | Kind::Webhook => {
                return Err(DeltaError::NotForGateways(kind));
            }
        }
        Ok(())
    }
}

impl<T> Table<T> {
    /// One of them.
    #[must_use]
    pub fn get(&self, name: &Name) -> Option<&T> {
        self.0.get(name).map(|value| &**value)
    }

    /// Whether it is there.
    #[must_use]
    pub fn contains_key(&self, name: &Name) -> bool {
        self.0.contains_key(name)
    }

    /// All, by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Name, &T)> {
        self.0.iter().map(|(name, value)| (name, &**value))
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// None.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it is the very same table: nothing was changed in either since one was copied from the other.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// All, by name, to be kept.
    pub fn shared(&self) -> impl ExactSizeIterator<Item = (&Name, &Arc<T>)> {
        self.0.iter()
    }

    /// Adds one, or replaces it.
    pub fn insert(&mut self, name: Name, value: T) {
        Arc::make_mut(&mut self.0).insert(name, Arc::new(value));
    }

    /// Removes one, if it is there.
    pub fn remove(&mut self, name: &Name) {
        if self.0.contains_key(name) {
            Arc::make_mut(&mut self.0).remove(name);
        }
    }
}

impl<T: Clone> Table<T> {
    /// One of them, to be changed.
    pub fn get_mut(&mut self, name: &Name) -> Option<&mut T> {
        if !self.0.contains_key(name) {
            return None;
        }
        Arc::make_mut(&mut self.0).get_mut(name).map(Arc::make_mut)
    }
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: PartialEq> Table<T> {
    /// What is here and in `before` is not, or another, or the other way round: each with what it was and what it is.
    #[must_use]
    pub fn differences<'a>(&'a self, before: &'a Self) -> Vec<Difference<'a, T>> {
        if self.is_same(before) {
            return Vec::new();
        }
        let same = |one: &Arc<T>, other: &Arc<T>| Arc::ptr_eq(one, other) || one == other;
        let now = self.0.iter().filter_map(|(name, now)| match before.0.get(name) {
            Some(was) if same(was, now) => None,
            was => Some(Difference { name, was, now: Some(now) }),
        });
        let gone = before.0.iter().filter(|(name, _)| !self.contains_key(name));
        now.chain(gone.map(|(name, was)| Difference { name, was: Some(was), now: None })).collect()
    }
}

/// One thing of a table that is another than it was.
#[derive(Clone, Copy, Debug)]
pub struct Difference<'a, T> {
    /// Which.
    pub name: &'a Name,
    /// Before; none: it was not there.
    pub was: Option<&'a Arc<T>>,
    /// Now; none: it is gone.
    pub now: Option<&'a Arc<T>>,
}

impl<T: PartialEq> PartialEq for Table<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl<T> FromIterator<(Name, T)> for Table<T> {
    fn from_iter<I: IntoIterator<Item = (Name, T)>>(from: I) -> Self {
        Self(Arc::new(from.into_iter().map(|(name, value)| (name, Arc::new(value))).collect()))
    }
}

impl<T, const N: usize> From<[(Name, T); N]> for Table<T> {
    fn from(from: [(Name, T); N]) -> Self {
        from.into_iter().collect()
    }
}

impl<'a, T> IntoIterator for &'a Table<T> {
    type Item = (&'a Name, &'a T);
    type IntoIter = std::iter::Map<
        std::collections::btree_map::Iter<'a, Name, Arc<T>>,
        fn((&'a Name, &'a Arc<T>)) -> (&'a Name, &'a T),
    >;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter().map(|(name, value)| (name, value))
    }
}

#[cfg(test)]
#[path = "snapshot_tests.rs"]
mod tests;
