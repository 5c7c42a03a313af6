//! All that a gateway decides by, at one revision.

use std::collections::BTreeMap;

use crate::issuer::Issuer;
use crate::masking::{MaskSlice, MaskingRule};
use crate::name::Name;
use crate::policy::{Policy, PolicySlice};
use crate::principal::Principal;
use crate::secret::SecretBytes;
use crate::target::Target;

/// A whole, versioned view of policy. Never changed: a newer one replaces it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The Raft index that it shows.
    pub revision: u64,
    /// The cluster it is of.
    pub cluster_id: String,
    /// Trusted issuers, each with its keys (a JWKS as fetched; none when it was never reached).
    pub issuers: BTreeMap<Name, (Issuer, Option<String>)>,
    /// Targets.
    pub targets: BTreeMap<Name, Labeled<Target>>,
    /// Policies.
    pub policies: BTreeMap<Name, Policy>,
    /// Masking rules.
    pub masking: BTreeMap<Name, MaskingRule>,
    /// Passwords by target, opened for this gateway, in memory only (I5).
    pub credentials: BTreeMap<Name, SecretBytes>,
    /// JWKS of the keys that session tokens are signed with.
    pub session_token_jwks: String,
    /// Key of the `hash` mask.
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

impl Snapshot {
    /// The policies that speak of `principal` on `target`: taken once per session and revision, not per operation.
    #[must_use]
    pub fn policy_slice(&self, principal: &Principal, target: &Name) -> PolicySlice {
        let none = BTreeMap::new();
        let labels = self.targets.get(target).map_or(&none, |target| &target.labels);
        PolicySlice::new(self.revision, &self.policies, principal, target, labels)
    }

    /// The masking rules that hold for `principal` on `target`.
    #[must_use]
    pub fn mask_slice(&self, principal: &Principal, target: &Name) -> MaskSlice {
        let none = BTreeMap::new();
        let labels = self.targets.get(target).map_or(&none, |target| &target.labels);
        MaskSlice::new(&self.masking, principal, target, labels)
    }
}
