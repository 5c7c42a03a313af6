//! Nodes of a cluster and the names in their certificates.

use std::fmt;

use crate::name::Name;

/// What a node's certificate lets it do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeRole {
    /// A member of the control plane.
    Control,
    /// Terminates client protocols and enforces.
    Gateway,
    /// Dials out of a private network.
    Agent,
    /// No node: an administrator's own certificate.
    Admin,
}

/// Who a node is, as its certificate says: the one DNS name `NAME.ROLE.postern.internal`, for an agent `NAME.POOL.agent.postern.internal`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NodeIdentity {
    /// What it may do.
    pub role: NodeRole,
    /// Unique within the role.
    pub name: Name,
    /// For an agent: the pool that it serves.
    pub pool: Option<Name>,
}

const SUFFIX: &str = ".postern.internal";

/// The name that every control-plane node's certificate bears besides its own: what clients check.
pub const CONTROL_PLANE_NAME: &str = "control-plane.postern.internal";
/// The name that every gateway's certificate bears besides its own: what agents check.
pub const GATEWAYS_NAME: &str = "gateways.postern.internal";

impl NodeRole {
    /// The stable text form.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Gateway => "gateway",
            Self::Agent => "agent",
            Self::Admin => "admin",
        }
    }
}

impl NodeIdentity {
    /// The DNS name in its certificate.
    #[must_use]
    pub fn dns_name(&self) -> String {
        self.to_string() + SUFFIX
    }

    /// From the DNS name in a certificate; `None` when it is no node's.
    #[must_use]
    pub fn from_dns_name(dns: &str) -> Option<Self> {
        let mut parts = dns.strip_suffix(SUFFIX)?.split('.').rev();
        let role = match parts.next()? {
            "control" => NodeRole::Control,
            "gateway" => NodeRole::Gateway,
            "agent" => NodeRole::Agent,
            "admin" => NodeRole::Admin,
            _ => return None,
        };
        let pool = if role == NodeRole::Agent { Some(parts.next()?.parse().ok()?) } else { None };
        let name = parts.next()?.parse().ok()?;
        parts.next().is_none().then_some(Self { role, name, pool })
    }
}

/// Without the domain.
impl fmt::Display for NodeIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.pool {
            Some(pool) => write!(f, "{}.{pool}.{}", self.name, self.role.as_str()),
            None => write!(f, "{}.{}", self.name, self.role.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for text in ["a.control.postern.internal", "g1.gateway.postern.internal", "e.lab.agent.postern.internal"] {
            assert_eq!(NodeIdentity::from_dns_name(text).unwrap().dns_name(), text);
        }
        for text in [
            "control.postern.internal",
            "a.gateway",
            "e.agent.postern.internal",
            "x.y.gateway.postern.internal",
            CONTROL_PLANE_NAME,
        ] {
            assert!(NodeIdentity::from_dns_name(text).is_none(), "{text}");
        }
    }
}
