//! What the agent may open: checked by name before anything is resolved, and by address before anything is dialled.
//!
//! A rule that names a host says nothing about loopback, link-local (cloud metadata among them) or multicast addresses: a name that
//! resolves to one of those is only opened when some rule lists the address itself, or the name is `localhost`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use postern_core::target::Address;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Hosts and ports that may be opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllowRule {
    /// Names (`*.lab.example`: any one label or more in front), addresses, or networks (`10.0.0.0/8`).
    pub hosts: Vec<Host>,
    /// Ports (`"5432"`) or ranges (`"5432-5440"`).
    pub ports: Vec<Ports>,
}

/// A name pattern or a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// A name, whole.
    Name(String),
    /// Everything under a domain; holds `.lab.example`.
    Under(String),
    /// A network, or one address.
    Network {
        /// Its first bits count.
        base: IpAddr,
        /// How many.
        bits: u8,
    },
}

/// Ports, inclusive on both ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports(RangeInclusive<u16>);

/// The text is not of the expected form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRule {
    /// Not a host.
    #[error("expected a name, *.domain, an address or a network like 10.0.0.0/8")]
    Host,
    /// Not ports.
    #[error("expected a port like 5432 or a range like 5432-5440")]
    Ports,
}

/// All rules.
#[derive(Clone, Debug, Default)]
pub struct AllowList(Vec<AllowRule>);

impl AllowList {
    /// With these rules.
    #[must_use]
    pub const fn new(rules: Vec<AllowRule>) -> Self {
        Self(rules)
    }

    /// Whether the address may be looked at further, by name alone: the first check.
    #[must_use]
    pub fn admits(&self, address: &Address) -> bool {
        match address.host().parse::<IpAddr>() {
            Ok(ip) => self.lists(ip, address.port()),
            Err(_) => self.names(address.host(), address.port()),
        }
    }

    /// Whether `ip`, to which the admitted `address` resolved, may be dialled: the second check.
    #[must_use]
    pub fn admits_resolved(&self, address: &Address, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        let local_name = address.host().eq_ignore_ascii_case("localhost") && ip.is_loopback();
        self.admits(address) && (local_name || !is_special(ip) || self.lists(ip, address.port()))
    }

    fn lists(&self, ip: IpAddr, port: u16) -> bool {
        let ip = ip.to_canonical();
        self.rules(port).any(|rule| rule.hosts.iter().any(|host| host.covers(ip)))
    }

    fn names(&self, host: &str, port: u16) -> bool {
        let host = host.to_ascii_lowercase();
        let host = host.strip_suffix('.').unwrap_or(&host);
        self.rules(port).any(|rule| rule.hosts.iter().any(|pattern| pattern.names(host)))
    }

    fn rules(&self, port: u16) -> impl Iterator<Item = &AllowRule> {
        self.0.iter().filter(move |rule| rule.ports.iter().any(|ports| ports.0.contains(&port)))
    }
}

/// Addresses that mean the agent's own host or link, or no host at all.
fn is_special(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [first, ..] = ip.octets();
            ip.is_loopback() || ip.is_link_local() || ip.is_multicast() || ip.is_broadcast() || first == 0
        }
        IpAddr::V6(ip) => {
            ip.is_loopback() || ip.is_unicast_link_local() || ip.is_multicast() || ip.is_unspecified()
                // Addresses with an IPv4 address inside (RFC 4291, section 2.5.5.1; RFC 6052; RFC 3056).
                || matches!(ip.segments(), [0, 0, 0, 0, 0, 0, ..] | [0x64, 0xff9b, ..] | [0x2002, ..])
        }
    }
}

impl Host {
    fn covers(&self, ip: IpAddr) -> bool {
        match (self, ip) {
            (Self::Network { base: IpAddr::V4(base), bits }, IpAddr::V4(ip)) => {
                same_bits(u128::from(base.to_bits()), u128::from(ip.to_bits()), 32_u32.saturating_sub(u32::from(*bits)))
            }
            (Self::Network { base: IpAddr::V6(base), bits }, IpAddr::V6(ip)) => {
                same_bits(base.to_bits(), ip.to_bits(), 128_u32.saturating_sub(u32::from(*bits)))
            }
            _ => false,
        }
    }

    fn names(&self, host: &str) -> bool {
        match self {
            Self::Name(name) => name == host,
            Self::Under(suffix) => host.len() > suffix.len() && host.ends_with(suffix.as_str()),
            Self::Network { .. } => false,
        }
    }
}

fn same_bits(one: u128, other: u128, free: u32) -> bool {
    (one ^ other).checked_shr(free).unwrap_or(0) == 0
}

impl FromStr for Host {
    type Err = InvalidRule;

    fn from_str(text: &str) -> Result<Self, InvalidRule> {
        let whole = |ip: IpAddr| match ip {
            IpAddr::V4(_) => Ipv4Addr::BITS,
            IpAddr::V6(_) => Ipv6Addr::BITS,
        };
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u8>().map_err(|_| InvalidRule::Host)?)),
            None => (text, None),
        };
        if let Ok(base) = address.parse::<IpAddr>() {
            let most = u8::try_from(whole(base)).unwrap_or(u8::MAX);
            let bits = bits.unwrap_or(most);
            return if bits <= most { Ok(Self::Network { base, bits }) } else { Err(InvalidRule::Host) };
        }
        let (under, name) = match text.strip_prefix('*') {
            Some(rest) => (true, rest.strip_prefix('.').ok_or(InvalidRule::Host)?),
            None => (false, text),
        };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        if name.is_empty() || name.len() > 253 || !name.bytes().all(plain) {
            return Err(InvalidRule::Host);
        }
        let name = name.to_ascii_lowercase();
        Ok(if under { Self::Under(format!(".{name}")) } else { Self::Name(name) })
    }
}

impl FromStr for Ports {
    type Err = InvalidRule;

    fn from_str(text: &str) -> Result<Self, InvalidRule> {
        let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port > 0).ok_or(InvalidRule::Ports);
        let (first, last) = match text.split_once('-') {
            Some((first, last)) => (port(first)?, port(last)?),
            None => (port(text)?, port(text)?),
        };
        if first <= last { Ok(Self(first..=last)) } else { Err(InvalidRule::Ports) }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Under(suffix) => write!(f, "*{suffix}"),
            Self::Network { base, bits } => write!(f, "{base}/{bits}"),
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.start() == self.0.end() {
            write!(f, "{}", self.0.start())
        } else {
            write!(f, "{}-{}", self.0.start(), self.0.end())
        }
    }
}

impl Serialize for Host {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Host {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for Ports {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Ports {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Number(u16),
            Text(String),
        }
        let text = match Form::deserialize(from)? {
            Form::Number(port) => port.to_string(),
            Form::Text(text) => text,
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(rules: &[(&[&str], &[&str])]) -> AllowList {
        let rule = |(hosts, ports): &(&[&str], &[&str])| AllowRule {
            hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
            ports: ports.iter().map(|ports| ports.parse().unwrap()).collect(),
        };
        AllowList::new(rules.iter().map(rule).collect())
    }

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    #[test]
    fn names_addresses_and_ports() {
        let list =
            list(&[(&["db.example", "*.lab.example"], &["5432", "6000-6002"]), (&["10.1.0.0/16", "fd00::1"], &["22"])]);
        for good in [
            "db.example:5432",
            "DB.Example:6001",
            "db.example.:5432",
            "a.lab.example:5432",
            "a.b.lab.example:6002",
            "10.1.2.3:22",
            "[fd00::1]:22",
        ] {
            assert!(list.admits(&address(good)), "{good}");
        }
        for bad in [
            "db.example:22",
            "xdb.example:5432",
            "lab.example:5432",
            "evil-lab.example:5432",
            "10.2.0.1:22",
            "10.1.2.3:5432",
            "[fd00::2]:22",
            "[::ffff:10.2.0.1]:22",
            "db.example.evil:5432",
        ] {
            assert!(!list.admits(&address(bad)), "{bad}");
        }
        assert!(list.admits(&address("[::ffff:10.1.0.9]:22")), "an IPv4 address in IPv6 form is the same address");
    }

    #[test]
    fn a_name_does_not_lead_to_special_addresses() {
        let names = list(&[(&["db.example"], &["1-65535"])]);
        let db = address("db.example:80");
        for good in ["10.0.0.1", "8.8.8.8", "2001:db8::1"] {
            assert!(names.admits_resolved(&db, good.parse().unwrap()), "{good}");
        }
        for bad in [
            "127.0.0.1",
            "169.254.169.254",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "fe80::1",
            "ff02::1",
            "::",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "::7f00:1",
        ] {
            assert!(!names.admits_resolved(&db, bad.parse().unwrap()), "{bad}");
        }
        let both = list(&[(&["db.example", "127.0.0.0/8"], &["80"])]);
        assert!(both.admits_resolved(&db, "127.0.0.1".parse().unwrap()), "listed itself");
        let local = list(&[(&["localhost"], &["80"])]);
        assert!(local.admits_resolved(&address("localhost:80"), "::1".parse().unwrap()));
        assert!(!local.admits_resolved(&address("localhost:80"), "169.254.0.1".parse().unwrap()));
    }

    #[test]
    fn nothing_is_allowed_by_default() {
        assert!(!AllowList::default().admits(&address("db.example:5432")));
        assert!(!list(&[(&["*.example"], &[])]).admits(&address("db.example:5432")));
    }

    #[test]
    fn bad_rules_are_refused() {
        for bad in ["", "*", "*example", "a b", "10.0.0.0/33", "10.0.0.0/x", "fd00::/129", "http://x", "a/8"] {
            assert!(bad.parse::<Host>().is_err(), "{bad}");
        }
        for bad in ["", "0", "65536", "2-1", "a", "1-", "-1"] {
            assert!(bad.parse::<Ports>().is_err(), "{bad}");
        }
        assert!(list(&[(&["0.0.0.0/0"], &["80"])]).admits(&address("1.2.3.4:80")));
        assert!(!list(&[(&["0.0.0.0/0"], &["80"])]).admits(&address("[2001:db8::1]:80")));
    }
}
