//! How somebody must have proven who they are for a policy to permit them anything.

use std::fmt;

use super::{Effect, Policy, PolicySlice};
use crate::kept::KeptClaims;
use crate::name::Name;
use crate::time::Ttl;

/// What is asked of a login. What the token does not say is not so: then nothing is permitted (I3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Authentication {
    /// Any of these is the token's `acr`; empty: whichever.
    pub acr: Vec<String>,
    /// All of these are among the token's `amr`.
    pub amr: Vec<String>,
    /// The token that is shown lives no longer than this, from when it was issued to its end: an offline child from when its first token was.
    pub max_token_ttl: Option<Ttl>,
}

impl Authentication {
    /// Whether whoever has `claims` has proven so much.
    #[must_use]
    pub fn is_met(&self, claims: &KeptClaims) -> bool {
        (self.acr.is_empty() || self.acr.iter().any(|acr| claims.says("acr", acr)))
            && self.amr.iter().all(|amr| claims.says("amr", amr))
            && self.is_short(claims)
    }

    fn is_short(&self, claims: &KeptClaims) -> bool {
        self.max_token_ttl.is_none_or(|most| claims.token_ttl().is_some_and(|ttl| ttl <= most.0))
    }
}

/// As it is asked for: `acr gold or platinum, amr otp and pwd`.
impl fmt::Display for Authentication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.acr.is_empty() {
            write!(f, "acr {}", self.acr.join(" or "))?;
        }
        if !self.amr.is_empty() {
            let joint = if self.acr.is_empty() { "" } else { ", " };
            write!(f, "{joint}amr {}", self.amr.join(" and "))?;
        }
        if let Some(most) = self.max_token_ttl {
            let joint = if self.acr.is_empty() && self.amr.is_empty() { "" } else { ", " };
            write!(f, "{joint}a token good for {} s at most", most.0)?;
        }
        Ok(())
    }
}

impl Policy {
    /// Whether whoever has `claims` has proven as much as it asks for.
    #[must_use]
    pub(super) fn is_proven(&self, claims: &KeptClaims) -> bool {
        self.when.authentication.as_ref().is_none_or(|asked| asked.is_met(claims))
    }
}

impl PolicySlice {
    /// What a login would have to have, by the first policy that would permit something then; none where no policy waits for that.
    #[must_use]
    pub fn asks(&self) -> Option<String> {
        let standing = self.policies.iter().filter(|(name, policy)| self.stands(name, policy));
        standing.into_iter().find_map(|(name, policy)| self.unproven(name, policy))
    }

    /// For people: what to do so that `policy` permits.
    pub(super) fn unproven(&self, name: &Name, policy: &Policy) -> Option<String> {
        let asked = policy.when.authentication.as_ref()?;
        if policy.effect != Effect::Permit || asked.is_met(&self.claims) {
            return None;
        }
        let how = match (asked.acr.first(), asked.max_token_ttl) {
            // It is all that is missing.
            (_, Some(most)) if Authentication { max_token_ttl: None, ..asked.clone() }.is_met(&self.claims) => {
                format!("postern token --ttl {}s", most.0)
            }
            (Some(acr), _) => format!("postern login --acr {acr}"),
            (None, _) => "postern login".to_owned(),
        };
        let why = policy.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
        Some(format!("policy {name} permits it after a login with {asked} ({how}){why}"))
    }
}

#[cfg(test)]
#[path = "authentication_tests.rs"]
mod tests;
