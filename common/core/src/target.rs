//! Registered resources that clients reach.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::allowance::Allowance;
use crate::name::Name;

/// A registered resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// What clients speak to it.
    pub protocol: Protocol,
    /// Where it is, as seen from whoever dials it.
    pub address: Address,
    /// How the gateway secures its own connection to it.
    pub tls: TargetTls,
    /// The account that Postern uses there.
    pub credential: CredentialRef,
    /// Who dials it.
    pub route: Route,
    /// Databases that clients may name; empty: any.
    pub databases: Vec<String>,
    /// No session may use it.
    pub disabled: bool,
    /// What all sessions on it may use up, over all gateways.
    pub limits: Allowance,
    /// Sessions that each gateway keeps logged in for who comes next; at most [`MAX_SPARE_SESSIONS`].
    pub spare_sessions: u8,
}

/// The most sessions that a gateway keeps logged in to one target, for nobody yet.
pub const MAX_SPARE_SESSIONS: u8 = 16;

/// The protocols that Postern speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// PostgreSQL's frontend/backend protocol, version 3.
    Postgres,
}

/// Who opens the connection to a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// The gateway itself.
    Direct,
    /// Any agent of the pool, through its tunnel.
    AgentPool(Name),
}

/// TLS towards a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetTls {
    /// What is demanded.
    pub mode: TlsMode,
    /// Authorities to trust; none: the system's.
    pub ca_pem: Option<String>,
    /// The name the certificate must bear, when it is not the address's host.
    pub server_name: Option<String>,
    /// From the first byte on, and not asked for in clear. Only where [`TlsMode::is_demanded`].
    pub direct: bool,
}

/// As PostgreSQL's `sslmode`, without `allow`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TlsMode {
    /// Never.
    Disable,
    /// When the target offers it; not verified.
    Prefer,
    /// Always; not verified.
    Require,
    /// Always; the chain is verified.
    VerifyCa,
    /// Always; chain and name are verified.
    VerifyFull,
}

/// The account on the target: its secret is elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialRef {
    /// User name at the target; empty with [`CredentialSource::VaultDatabase`], which brings one.
    pub username: String,
    /// What `source` holds.
    pub kind: CredentialKind,
    /// Where it comes from.
    pub source: CredentialSource,
}

/// How a gateway proves to a target who it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CredentialKind {
    /// By a password.
    #[default]
    Password,
    /// By a private key and its certificate, in PEM, in the handshake of TLS, and by a password where a line before them has one. Only where
    /// [`TlsMode::is_demanded`].
    Certificate,
}

/// Where a target's credential comes from. All but [`Self::Secret`] are resolved where the target is dialed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialSource {
    /// The target asks for none: trust or peer authentication.
    None,
    /// A Secret, sealed in the control plane.
    Secret(Name),
    /// A variable of the gateway's environment, which its configuration must allow.
    Env(String),
    /// A file of the gateway's, which its configuration must allow.
    File(String),
    /// A field of a secret in Vault's key-value store, version 2.
    VaultKv(VaultKv),
    /// An account that Vault makes for the gateway, for the time of a lease.
    VaultDatabase(VaultDatabase),
}

/// A field of a secret in a key-value store, version 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaultKv {
    /// Where the engine is mounted.
    pub mount: String,
    /// The secret's path in it.
    pub path: String,
    /// Which of the secret's fields.
    pub field: String,
    /// Which version; 0: the newest.
    pub version: u32,
}

/// A role of a database secrets engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaultDatabase {
    /// Where the engine is mounted.
    pub mount: String,
    /// The role that credentials are asked of.
    pub role: String,
}

impl TlsMode {
    /// Whether there is no connection without TLS.
    #[must_use]
    pub const fn is_demanded(self) -> bool {
        matches!(self, Self::Require | Self::VerifyCa | Self::VerifyFull)
    }
}

impl CredentialRef {
    /// The Secret that it refers to, if it does.
    #[must_use]
    pub const fn secret(&self) -> Option<&Name> {
        match &self.source {
            CredentialSource::Secret(name) => Some(name),
            _ => None,
        }
    }
}

/// `host:port`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    host: Arc<str>,
    port: u16,
}

/// The text is not `host:port`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected host:port, with an IPv6 address in brackets")]
pub struct InvalidAddress;

impl Address {
    /// Name or address, an IPv6 address without its brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let (host, port) = text.rsplit_once(':').ok_or(InvalidAddress)?;
        let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let host = match bracketed {
            Some(inner) => inner.parse::<std::net::Ipv6Addr>().map(|_| inner).map_err(|_| InvalidAddress)?,
            None => host,
        };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        if host.is_empty() || host.len() > 253 || (bracketed.is_none() && !host.bytes().all(plain)) {
            return Err(InvalidAddress);
        }
        match port.parse() {
            Ok(port) if port > 0 => Ok(Self { host: host.into(), port }),
            _ => Err(InvalidAddress),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl Protocol {
    /// The stable text form.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
        }
    }
}

/// Which targets a rule speaks of: names and labels must both match where both are given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TargetSelector {
    /// Names; `*` stands for all. Empty: by labels alone.
    pub names: Vec<String>,
    /// Labels that the target must carry with exactly these values.
    pub labels: BTreeMap<String, String>,
}

impl TargetSelector {
    /// Whether a target of this name and these labels is meant. An empty selector means none.
    #[must_use]
    pub fn matches(&self, name: &Name, labels: &BTreeMap<String, String>) -> bool {
        if self.names.is_empty() && self.labels.is_empty() {
            return false;
        }
        let named = self.names.is_empty() || self.names.iter().any(|known| known == "*" || known == name.as_str());
        named && self.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for good in ["db:5432", "10.0.0.1:1", "[::1]:5432", "a_b.example:65535"] {
            assert_eq!(good.parse::<Address>().unwrap().to_string(), good);
        }
        for bad in ["", "db", "db:", ":1", "db:0", "db:65536", "::1:5432", "[x]:1", "a b:1", "[::1:1", "db:1:2"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_empty_selector_means_none() {
        let name: Name = "db".parse().unwrap();
        assert!(!TargetSelector::default().matches(&name, &BTreeMap::new()));
        let all = TargetSelector { names: vec!["*".into()], ..Default::default() };
        assert!(all.matches(&name, &BTreeMap::new()));
        let prod = TargetSelector { names: vec![], labels: [("env".into(), "prod".into())].into() };
        assert!(!prod.matches(&name, &BTreeMap::new()));
        assert!(prod.matches(&name, &[("env".into(), "prod".into()), ("x".into(), "y".into())].into()));
    }
}
