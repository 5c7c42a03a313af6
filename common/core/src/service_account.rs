//! Workloads without an identity provider of their own.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::name::Name;
use crate::principal::PrincipalId;
use crate::scope::Network;

/// The issuer of service accounts' principals. No Issuer may have this name beside them.
pub const SERVICE_ACCOUNT_ISSUER: &str = "service-account";
/// The most public keys of one, in PEM.
pub const SERVICE_ACCOUNT_KEYS: usize = 16;

/// A workload that proves who it is by a key of its own (RFC 7523). Whoever has the private key of any of its public ones is it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceAccount {
    /// For people.
    pub description: String,
    /// Public keys, each SubjectPublicKeyInfo in PEM.
    pub public_keys: Vec<String>,
    /// Public keys as a JSON Web Key set; none: empty.
    pub jwks: String,
    /// For policies and roles.
    pub groups: BTreeSet<Arc<str>>,
    /// Where it may ask for tokens from, and show them; empty: anywhere.
    pub networks: Vec<Network>,
    /// The longest life of its tokens, in seconds; none: as of any.
    pub max_token_ttl: Option<u32>,
    /// It gets no tokens, and those that it has are good no more.
    pub disabled: bool,
}

impl ServiceAccount {
    /// The principal of the one that is called `name`; `None`, if the issuer's name were none.
    #[must_use]
    pub fn id(name: &Name) -> Option<PrincipalId> {
        Some(PrincipalId { issuer: SERVICE_ACCOUNT_ISSUER.parse().ok()?, subject: name.as_str().into() })
    }
}
