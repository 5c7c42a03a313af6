//! What a token is good for: how much of what policy permits its bearer it leaves over.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::action::Action;
use crate::name::Name;
use crate::policy::{ActionPattern, Pattern};
use crate::principal::Principal;

/// The most entries of each list of a [`Scope`].
pub const SCOPE_ENTRIES: usize = 64;

/// What one token says that it is good for. It permits nothing: it narrows what policy permits. What it does not speak of it does not narrow, but
/// for `roles`: a token that was narrowed at all, or handed on, rules nothing unless it says so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
// A restriction that this version does not know must not be passed over.
#[serde(default, deny_unknown_fields)]
pub struct Scope {
    /// Targets; empty: all.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub targets: BTreeSet<Name>,
    /// What may be done; empty: anything.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub actions: Vec<ActionPattern>,
    /// To what; empty: to anything.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<Pattern>,
    /// Where it may be shown from; empty: anywhere.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<Network>,
    /// Roles of the control plane that it carries, of those that the principal has; empty: none.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub roles: BTreeSet<Arc<str>>,
    /// Sessions that may be opened by it, and by what is made of it, together; none: any number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uses: Option<u32>,
}

/// A list of a scope has too many entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a token's scope names at most {SCOPE_ENTRIES} {0}")]
pub struct TooMany(pub &'static str);

impl Scope {
    /// Good for these targets only.
    #[must_use]
    pub fn of_targets(targets: impl IntoIterator<Item = Name>) -> Self {
        Self { targets: targets.into_iter().collect(), ..Self::default() }
    }

    /// Whether it narrows no operation.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.targets.is_empty() && self.actions.is_empty() && self.resources.is_empty() && self.networks.is_empty()
    }

    /// # Errors
    /// When a list is too long (I11).
    pub fn check(&self) -> Result<(), TooMany> {
        let lists = [
            ("targets", self.targets.len()),
            ("actions", self.actions.len()),
            ("resources", self.resources.len()),
            ("networks", self.networks.len()),
            ("roles", self.roles.len()),
        ];
        lists.iter().find(|(_, len)| *len > SCOPE_ENTRIES).map_or(Ok(()), |(what, _)| Err(TooMany(what)))
    }

    /// About how many bytes it takes to keep.
    #[must_use]
    pub fn weight(&self) -> usize {
        let texts = self.targets.iter().map(|target| target.as_str().len());
        let texts = texts.chain(self.resources.iter().map(|pattern| pattern.as_str().len()));
        let texts = texts.chain(self.roles.iter().map(|role| role.len()));
        let small = self.actions.len().saturating_add(self.networks.len()).saturating_mul(24);
        texts.fold(small, usize::saturating_add)
    }

    pub(crate) fn reaches(&self, target: &Name) -> bool {
        self.targets.is_empty() || self.targets.contains(target)
    }

    fn covers(&self, action: &Action) -> bool {
        (self.actions.is_empty() || self.actions.iter().any(|pattern| pattern.matches(action.verb)))
            && (self.resources.is_empty() || self.resources.iter().any(|pattern| pattern.matches(&action.object)))
    }

    pub(crate) fn admits(&self, from: IpAddr) -> bool {
        self.networks.is_empty() || self.networks.iter().any(|network| network.contains(from))
    }
}

/// For people: `targets shop; actions sql:select`. Empty, when it narrows nothing.
impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn list<T: ToString>(name: &str, of: impl IntoIterator<Item = T>) -> Option<String> {
            let all: Vec<String> = of.into_iter().map(|one| one.to_string()).collect();
            (!all.is_empty()).then(|| format!("{name} {}", all.join(", ")))
        }
        let lists = [
            list("targets", &self.targets),
            list("actions", &self.actions),
            list("resources", &self.resources),
            list("from", &self.networks),
            list("roles", &self.roles),
            list("uses", self.uses),
        ];
        f.write_str(&lists.into_iter().flatten().collect::<Vec<_>>().join("; "))
    }
}

/// What all tokens of a chain leave over of operations together: each narrows what the one before it left (I6). That is how it is worked out, not how it is
/// checked: nothing that a token says can widen it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Scopes(Option<Arc<[Scope]>>);

impl Scopes {
    /// Those of `principal`'s tokens.
    #[must_use]
    pub fn of(principal: &Principal) -> Self {
        let narrowing: Vec<Scope> =
            principal.chain.iter().map(|link| &link.scope).filter(|scope| !scope.is_open()).cloned().collect();
        Self((!narrowing.is_empty()).then(|| narrowing.into()))
    }

    /// Whether they leave every action over.
    #[must_use]
    pub const fn are_open(&self) -> bool {
        self.0.is_none()
    }

    /// Whether they leave `action` over.
    #[must_use]
    pub fn cover(&self, action: &Action) -> bool {
        self.0.as_deref().is_none_or(|scopes| scopes.iter().all(|scope| scope.covers(action)))
    }
}

/// A network: an address and how many of its bits count (RFC 4632, section 3.1; RFC 4291, section 2.3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

/// The text is not a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an address, nor a network like 10.0.0.0/8 or fd00::/8")]
pub struct InvalidNetwork;

impl Network {
    /// Whether `address` is in it. An IPv4 address is the same when it comes mapped into IPv6.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let shift = 32_u32.saturating_sub(self.bits.into());
                network.to_bits().checked_shr(shift) == address.to_bits().checked_shr(shift)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let shift = 128_u32.saturating_sub(self.bits.into());
                network.to_bits().checked_shr(shift) == address.to_bits().checked_shr(shift)
            }
            _ => false,
        }
    }
}

impl Network {
    /// Whether all of `other` is in it.
    #[must_use]
    pub fn holds(&self, other: &Self) -> bool {
        self.bits <= other.bits && self.address.is_ipv4() == other.address.is_ipv4() && self.contains(other.address)
    }
}

impl FromStr for Network {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| InvalidNetwork)?;
        // Mapped addresses are compared as what they stand for.
        let mapped = address != address.to_canonical();
        let most: u8 = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => most,
            Some(bits) if bits.bytes().all(|byte| byte.is_ascii_digit()) => bits.parse().map_err(|_| InvalidNetwork)?,
            Some(_) => return Err(InvalidNetwork),
        };
        if mapped || bits > most {
            return Err(InvalidNetwork);
        }
        // Bits that do not count are cleared, so that what is the same is equal.
        let address = match address {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(u32::from(most.saturating_sub(bits))).unwrap_or(0);
                Ipv4Addr::from_bits(address.to_bits() & mask).into()
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(u32::from(most.saturating_sub(bits))).unwrap_or(0);
                Ipv6Addr::from_bits(address.to_bits() & mask).into()
            }
        };
        Ok(Self { address, bits })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What is written as text, and read again as the same.
macro_rules! as_text {
    ($($type:ty, $read:expr;)*) => {$(
        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
                $read(&text).map_err(serde::de::Error::custom)
            }
        }
    )*};
}

as_text! {
    Network, str::parse::<Network>;
    ActionPattern, |text: &str| ActionPattern::parse(text).ok_or("not an action");
    Pattern, Pattern::parse;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    #[test]
    fn networks_hold_what_is_in_them() {
        let holds = |net: &str, address: &str| network(net).contains(address.parse().unwrap());
        assert!(holds("10.0.0.0/8", "10.255.0.1") && !holds("10.0.0.0/8", "11.0.0.0"));
        assert!(holds("10.0.0.0/8", "::ffff:10.1.2.3") && !holds("10.0.0.0/8", "::a01:203"));
        assert!(holds("0.0.0.0/0", "1.2.3.4") && !holds("0.0.0.0/0", "::1"));
        assert!(holds("::/0", "fd00::1") && !holds("::/0", "1.2.3.4"));
        assert!(holds("fd00::/8", "fdff::1") && !holds("fd00::/8", "fe00::1"));
        assert!(holds("192.0.2.7", "192.0.2.7") && !holds("192.0.2.7", "192.0.2.6"));
        assert_eq!(network("10.1.2.3/8").to_string(), "10.0.0.0/8");
        let within = |outer: &str, inner: &str| network(outer).holds(&network(inner));
        assert!(
            within("10.0.0.0/8", "10.1.0.0/16") && within("10.0.0.0/8", "10.0.0.0/8") && within("::/0", "fd00::/8")
        );
        assert!(!within("10.1.0.0/16", "10.0.0.0/8") && !within("0.0.0.0/0", "::/0") && !within("::/0", "10.0.0.0/8"));
        for bad in
            ["", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/+8", "10.0.0.0/", "fd00::/129", "::ffff:10.0.0.0/104", "a"]
        {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_unknown_restriction_is_refused() {
        let read = |text: &str| serde_json::from_str::<Scope>(text);
        let scope =
            read(r#"{"targets":["shop"],"actions":["sql:*"],"networks":["10.0.0.0/8"],"resources":["public.*"]}"#);
        let scope = scope.unwrap();
        assert_eq!(read(&serde_json::to_string(&scope).unwrap()).unwrap(), scope);
        assert!(read(r#"{"columns":["a"]}"#).is_err() && read(r#"{"actions":["sql:dance"]}"#).is_err());
        assert!(read("{}").unwrap().is_open());
        let targets = (0..=SCOPE_ENTRIES).map(|n| format!("t{n}").parse().unwrap());
        assert_eq!(Scope::of_targets(targets).check(), Err(TooMany("targets")));
    }
}
