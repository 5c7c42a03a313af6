//! What administrators declare.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::issuer::Issuer;
use crate::masking::MaskingRule;
use crate::name::Name;
use crate::policy::Policy;
use crate::role::{Role, RoleBinding};
use crate::secret::Sealed;
use crate::service_account::ServiceAccount;
use crate::target::Target;
use crate::time::Timestamp;
use crate::webhook::Webhook;

/// One declared object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// What every object carries.
    pub metadata: Metadata,
    /// What it is.
    pub spec: Spec,
}

/// What every declared object carries beside its specification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// Unique within the kind.
    pub name: Name,
    /// For selectors.
    pub labels: BTreeMap<String, String>,
    /// The Raft index of the last change; in a write, the revision that the writer has seen (0: none; [`ANY_REVISION`]).
    pub revision: u64,
    /// When it was first declared.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// The specification of an object, by kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spec {
    /// A trusted identity provider.
    Issuer(Issuer),
    /// A resource that clients reach.
    Target(Target),
    /// Permits or denies.
    Policy(Policy),
    /// Replaces values.
    MaskingRule(MaskingRule),
    /// A secret, at rest.
    Secret(Sealed),
    /// What may be done through the public API.
    Role(Role),
    /// Who may.
    RoleBinding(RoleBinding),
    /// A workload that proves who it is by a key.
    ServiceAccount(ServiceAccount),
    /// Where what becomes of approvals is told.
    Webhook(Webhook),
}

/// The kinds of declared object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// [`Spec::Issuer`]
    Issuer,
    /// [`Spec::Target`]
    Target,
    /// [`Spec::Policy`]
    Policy,
    /// [`Spec::MaskingRule`]
    MaskingRule,
    /// [`Spec::Secret`]
    Secret,
    /// [`Spec::Role`]
    Role,
    /// [`Spec::RoleBinding`]
    RoleBinding,
    /// [`Spec::ServiceAccount`]
    ServiceAccount,
    /// [`Spec::Webhook`]
    Webhook,
}

/// In the revision of an object that is to be written: whatever it is at, or whether it is there at all.
pub const ANY_REVISION: u64 = u64::MAX;

/// A field that is not as it must be, by its path in the object (`spec.targets.names[2]`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldFault {
    /// Where.
    pub path: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl Spec {
    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Issuer(_) => Kind::Issuer,
            Self::Target(_) => Kind::Target,
            Self::Policy(_) => Kind::Policy,
            Self::MaskingRule(_) => Kind::MaskingRule,
            Self::Secret(_) => Kind::Secret,
            Self::Role(_) => Kind::Role,
            Self::RoleBinding(_) => Kind::RoleBinding,
            Self::ServiceAccount(_) => Kind::ServiceAccount,
            Self::Webhook(_) => Kind::Webhook,
        }
    }
}

impl Kind {
    /// Every kind, in the order in which they refer to each other.
    pub const ALL: [Self; 9] = [
        Self::Secret,
        Self::Issuer,
        Self::Target,
        Self::Policy,
        Self::MaskingRule,
        Self::Role,
        Self::RoleBinding,
        Self::ServiceAccount,
        Self::Webhook,
    ];

    /// Whether gateways decide by objects of this kind, or use them.
    #[must_use]
    pub const fn is_for_gateways(self) -> bool {
        match self {
            Self::Issuer | Self::Target | Self::Policy | Self::MaskingRule | Self::Secret => true,
            Self::Role | Self::RoleBinding | Self::ServiceAccount | Self::Webhook => false,
        }
    }

    /// As in a file's `kind:`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Issuer => "Issuer",
            Self::Target => "Target",
            Self::Policy => "Policy",
            Self::MaskingRule => "MaskingRule",
            Self::Secret => "Secret",
            Self::Role => "Role",
            Self::RoleBinding => "RoleBinding",
            Self::ServiceAccount => "ServiceAccount",
            Self::Webhook => "Webhook",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FieldFault {
    /// At `path`: `message`.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

impl fmt::Display for FieldFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}
