//! Who acts.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::name::Name;
use crate::time::Timestamp;

/// A verified identity: a human or a workload, named by issuer and subject. Made only where a token or certificate was verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Principal {
    /// Who and by whose word.
    #[serde(flatten)]
    pub id: PrincipalId,
    /// Groups, already mapped and prefixed by the issuer's rules.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub groups: BTreeSet<Arc<str>>,
    /// The token's `jti`, when it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_id: Option<Arc<str>>,
    /// When the identity's proof ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// From the root's principal to the immediate parent, for a delegated identity.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chain: Vec<PrincipalId>,
}

/// The name of a principal: unique and stable.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PrincipalId {
    /// The Issuer resource.
    pub issuer: Name,
    /// The issuer's own name for the identity (`sub`).
    pub subject: Arc<str>,
}

impl Principal {
    /// Whether any of `groups` is among the principal's; `*` stands for every verified principal.
    pub fn in_any<S: AsRef<str>>(&self, groups: impl IntoIterator<Item = S>) -> bool {
        groups.into_iter().any(|group| group.as_ref() == "*" || self.groups.contains(group.as_ref()))
    }

    /// Whether `other` is the same person or workload, directly or through delegation: such a one never reviews for the other (I7).
    #[must_use]
    pub fn shares_identity_with(&self, other: &Self) -> bool {
        let mut mine = self.chain.iter().chain([&self.id]);
        mine.any(|id| *id == other.id || other.chain.contains(id))
    }
}

/// `issuer/subject`
impl fmt::Display for PrincipalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.issuer, self.subject)
    }
}

impl fmt::Debug for PrincipalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.id, f)
    }
}
