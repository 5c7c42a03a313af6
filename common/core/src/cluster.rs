//! Nodes of a cluster, the tokens that let them in, and their certificates.

use std::fmt;

use crate::name::Name;
use crate::node::NodeRole;
use crate::operation::Digest;
use crate::target::TargetSelector;
use crate::time::Timestamp;

/// A member of the control plane, as it tells of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlNode {
    /// Its id in the Raft group; 0 until the cluster has given it one. Never used again after it is removed.
    pub id: u64,
    /// Unique among the members.
    pub name: Name,
    /// `host:port` where its peers reach it.
    pub peer_address: String,
    /// `host:port` where clients and gateways reach it.
    pub api_address: String,
    /// The newest feature level that its version knows.
    pub feature_level: u32,
    /// The key-encryption keys that it can open with.
    pub kek_ids: Vec<String>,
    /// Of its program.
    pub version: String,
    /// When it was let in.
    pub joined_at: Timestamp,
    /// The Raft index of its last change.
    pub revision: u64,
    /// It stays a learner: it gets everything and votes on nothing.
    pub learner: bool,
}

/// Lets a node, or the first administrator, get a certificate. The secret itself is known to its holder alone (I5).
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// Public; names the token.
    pub id: String,
    /// What its holder becomes.
    pub role: NodeRole,
    /// Of the secret.
    pub secret_sha256: Digest,
    /// How often it can be redeemed yet.
    pub uses_left: u32,
    /// Good until then, by the cluster's logical time.
    pub expires_at: Timestamp,
    /// When it was made.
    pub created_at: Timestamp,
    /// By whom.
    pub created_by: String,
    /// For agents: the pool that they serve.
    pub agent_pool: Option<Name>,
    /// For gateways: the targets that they serve; none: all.
    pub serves: Option<TargetSelector>,
    /// The only name that it is good for; none: any.
    pub name: Option<Name>,
    /// For members of the control plane: they stay learners.
    pub learner: bool,
    /// The Raft index of its last change.
    pub revision: u64,
}

/// Without the digest: it is of no use in a log.
impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken").field("id", &self.id).field("role", &self.role).finish_non_exhaustive()
    }
}

/// A certificate that the cluster's authority has given out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeCertificate {
    /// Lower-case hexadecimal; unique.
    pub serial: String,
    /// What it lets its holder do.
    pub role: NodeRole,
    /// The holder's name.
    pub name: Name,
    /// For agents: the pool.
    pub agent_pool: Option<Name>,
    /// When it was given out.
    pub issued_at: Timestamp,
    /// When it ends by itself.
    pub not_after: Timestamp,
    /// Set when it ended before.
    pub revoked: Option<Revocation>,
    /// The Raft index of its last change.
    pub revision: u64,
}

/// That a certificate is good no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// When.
    pub at: Timestamp,
    /// Who did it.
    pub by: String,
    /// Why.
    pub because: String,
}

/// A gateway that was let in, and what it serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayNode {
    /// Its name.
    pub name: Name,
    /// The targets whose secrets it gets; none: all.
    pub serves: Option<TargetSelector>,
    /// When it was let in.
    pub joined_at: Timestamp,
    /// The Raft index of its last change.
    pub revision: u64,
}
