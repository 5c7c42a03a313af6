//! What may be done through the public API, and by whom.

use crate::policy::PrincipalSelector;
use crate::principal::Principal;

/// A set of permissions with a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Role {
    /// Any of them permits.
    pub grants: Vec<Grant>,
    /// For people.
    pub description: String,
}

/// Verbs on objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// `targets`, `policies`, `cluster`, ...; `*`: everything.
    pub objects: Vec<String>,
    /// `get`, `list`, ...; `*`: all.
    pub verbs: Vec<String>,
}

/// Gives a role to principals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleBinding {
    /// The role's name: a built-in one or a Role.
    pub role: String,
    /// To whom.
    pub subjects: PrincipalSelector,
}

/// What grants may name as objects.
pub const OBJECTS: [&str; 18] = [
    "approvals",
    "audit",
    "certificates",
    "cluster",
    "issuers",
    "masking-rules",
    "policies",
    "recordings",
    "revocations",
    "role-bindings",
    "roles",
    "secrets",
    "sessions",
    "targets",
    "tokens",
    "backups",
    "service-accounts",
    "webhooks",
];

/// What grants may name as verbs.
pub const VERBS: [&str; 10] =
    ["create", "delete", "export", "get", "issue", "list", "manage", "review", "update", "watch"];

/// Roles that are always there and cannot be changed.
pub const BUILT_IN: [&str; 4] = ["admin", "auditor", "operator", "reviewer"];

impl Grant {
    /// Whether it permits `verb` on `object`.
    #[must_use]
    pub fn permits(&self, object: &str, verb: &str) -> bool {
        let names = |list: &[String], wanted: &str| list.iter().any(|known| known == "*" || known == wanted);
        names(&self.objects, object) && names(&self.verbs, verb)
    }
}

impl Role {
    /// Whether any grant permits `verb` on `object`.
    #[must_use]
    pub fn permits(&self, object: &str, verb: &str) -> bool {
        self.grants.iter().any(|grant| grant.permits(object, verb))
    }
}

impl RoleBinding {
    /// Whether `principal` holds the role by it.
    #[must_use]
    pub fn holds(&self, principal: &Principal) -> bool {
        self.subjects.matches(principal)
    }
}
