//! What changes a [`Snapshot`](crate::snapshot::Snapshot) from one revision to the next.

use crate::access::Grant;
use crate::id::AccessId;
use crate::name::Name;
use crate::resource::{Kind, Resource};
use crate::revocation::Mark;

/// The changes of one entry of the log, as far as gateways decide by them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Which life of the cluster.
    pub incarnation: String,
    /// It changes the snapshot of this revision, and no other.
    pub from_revision: u64,
    /// The revision that it makes.
    pub revision: u64,
    /// Objects that are new, or others than before.
    pub upserts: Vec<Resource>,
    /// Objects that are gone.
    pub deletes: Vec<(Kind, Name)>,
    /// Keys of issuers that are new, or others than before; `None`: gone.
    pub issuer_keys: Vec<(Name, Option<String>)>,
    /// Keys of session tokens, when they are others than before.
    pub session_token_jwks: Option<String>,
    /// Serial numbers of certificates that are good no more, in addition to those before.
    pub revoked: Vec<String>,
    /// Revocations of tokens, in addition to those before.
    pub revocations: Vec<Mark>,
    /// Those are forgotten that count no more in this second; 0: none.
    pub revocations_over: u32,
    /// Access that is granted now.
    pub grants: Vec<Grant>,
    /// Grants that have ended.
    pub ended_grants: Vec<AccessId>,
}

/// A delta that does not follow the snapshot: whoever has it asks for a whole one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeltaError {
    /// Of another life of the cluster.
    #[error("the change is of incarnation {theirs:?}, this policy of {ours:?}")]
    Incarnation {
        /// The snapshot's.
        ours: String,
        /// The delta's.
        theirs: String,
    },
    /// One was left out, repeated, or came too early.
    #[error("the change is from revision {from}, this policy is at {ours}")]
    Gap {
        /// The snapshot's revision.
        ours: u64,
        /// Where the delta begins.
        from: u64,
    },
    /// It does not lead on.
    #[error("the change leads from revision {from} to {to}")]
    Backwards {
        /// Where it begins.
        from: u64,
        /// Where it leads.
        to: u64,
    },
    /// Of a kind that gateways do not decide by.
    #[error("a {0} is not for gateways")]
    NotForGateways(Kind),
}
