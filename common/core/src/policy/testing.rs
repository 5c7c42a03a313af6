//! What tests of policy share.

use std::collections::BTreeMap;

use super::{Policy, PolicySlice};
use crate::kept::KeptClaims;
use crate::principal::{Principal, PrincipalId};
use crate::snapshot::Table;

/// What holds of `policies` for one principal, in no group, on the target `shop`.
pub(super) fn slice(policies: Vec<Policy>) -> PolicySlice {
    slice_with(policies, KeptClaims::default())
}

/// As [`slice`], for one of whom these claims are kept.
pub(super) fn slice_with(policies: Vec<Policy>, claims: KeptClaims) -> PolicySlice {
    let who = Principal {
        id: PrincipalId { issuer: "corp".parse().unwrap(), subject: "alice".into() },
        groups: [].into(),
        token_id: None,
        expires_at: None,
        chain: Vec::new(),
        claims,
    };
    let named = policies.into_iter().enumerate();
    let policies: Table<Policy> = named.map(|(place, policy)| (format!("p{place}").parse().unwrap(), policy)).collect();
    PolicySlice::new(7, policies.shared(), &who, &"shop".parse().unwrap(), &BTreeMap::new())
}
