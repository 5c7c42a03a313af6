//! Who acts.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::kept::KeptClaims;
use crate::name::Name;
use crate::scope::Scope;
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
    /// The tokens from the root's to the one that was shown, where one of them was narrowed or handed on. Policy decides by `id` and `groups`
    /// alone, which are the root's, within what the chain leaves over: a child never names itself into anything (I6).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chain: Vec<Link>,
    /// What its issuer's rules keep of what its proof said.
    #[serde(default, skip_serializing_if = "KeptClaims::is_empty")]
    pub claims: KeptClaims,
}

/// One token of a chain.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Link {
    /// Its id.
    pub token: Arc<str>,
    /// Who was handed it; none: whoever had the one before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<Actor>,
    /// What it leaves over of the one before it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub scope: Scope,
}

impl Link {
    /// About how many bytes it takes to keep.
    #[must_use]
    pub fn weight(&self) -> usize {
        let name = self.actor.as_ref().map_or(0, |actor| actor.name.len());
        [self.token.len(), name, self.scope.weight()].into_iter().fold(0, usize::saturating_add)
    }
}

/// Who acts for a principal (RFC 8693, section 4.1).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Actor {
    /// Who vouches for the name: an Issuer resource; none: the one who handed on the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<Name>,
    /// The name.
    pub name: Arc<str>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
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
        self.identities().any(|mine| other.identities().any(|theirs| mine == theirs))
    }

    /// Whom issuers vouch for: on whose behalf, and those who act.
    fn identities(&self) -> impl Iterator<Item = (&Name, &str)> {
        let actors = self.chain.iter().filter_map(|link| link.actor.as_ref());
        let vouched = actors.filter_map(|actor| Some((actor.issuer.as_ref()?, &*actor.name)));
        vouched.chain([(&self.id.issuer, &*self.id.subject)])
    }

    /// The ids of the tokens from the root's to the one that was shown.
    pub fn tokens(&self) -> impl Iterator<Item = &Arc<str>> {
        let last = self.chain.last().map(|link| &link.token);
        let own = self.token_id.iter().filter(move |own| Some(*own) != last);
        self.chain.iter().map(|link| &link.token).chain(own)
    }

    /// Whether every token of the chain is good for `target`.
    #[must_use]
    pub fn reaches(&self, target: &Name) -> bool {
        self.chain.iter().all(|link| link.scope.reaches(target))
    }

    /// The tokens of the chain by which so many sessions may be opened, and no more.
    pub fn counted(&self) -> impl Iterator<Item = (&Arc<str>, u32)> {
        self.chain.iter().filter_map(|link| Some((&link.token, link.scope.uses?)))
    }

    /// Whether every token of the chain may be shown from there.
    #[must_use]
    pub fn may_come_from(&self, address: IpAddr) -> bool {
        self.chain.iter().all(|link| link.scope.admits(address))
    }

    /// Whether the token that was shown was made from another session token, or for somebody else.
    #[must_use]
    pub fn is_handed_on(&self) -> bool {
        self.chain.len() > 1 || self.chain.iter().any(|link| link.actor.is_some())
    }

    /// Whether every token of the chain carries a role of the control plane, where the principal has it.
    #[must_use]
    pub fn carries(&self, role: &str) -> bool {
        self.chain.iter().all(|link| link.scope.roles.contains(role))
    }

    /// Whether the token that was shown is good for all that its principal may do. One that was narrowed or handed on is for work at targets, and
    /// rules by no more than the roles that it [carries](Self::carries).
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.chain.is_empty()
    }
}

/// The name, after its issuer's where one vouches for it.
impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.issuer {
            Some(issuer) => write!(f, "{issuer}/{}", self.name),
            None => f.write_str(&self.name),
        }
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
        fmt::Display::fmt(&self.id, f)?;
        let actors = self.chain.iter().filter_map(|link| link.actor.as_ref());
        actors
            .enumerate()
            .try_for_each(|(place, actor)| write!(f, "{}{actor}", if place == 0 { " by " } else { " > " }))
    }
}
