//! The whole state as bytes, and back.

use std::collections::BTreeMap;
use std::sync::Arc;

use postern_core::resource::Spec;
use postern_core::wire::{identity, resource};
use postern_core::{RequestId, Timestamp};
use postern_proto::state::v1 as pb;
use prost::Message as _;

use crate::commands::InitCluster;
use crate::requests::Remembered;
use crate::state::{IssuerKeys, State};

/// The version of snapshots that this crate writes, and the newest that it reads.
const SNAPSHOT_VERSION: u32 = 1;

/// The bytes are no snapshot that this version can read: the node stops.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// Not a snapshot.
    #[error("the snapshot cannot be decoded: {0}")]
    Undecodable(String),
    /// Written by a newer version.
    #[error("the snapshot has version {0}, this node knows up to {SNAPSHOT_VERSION}")]
    UnknownVersion(u32),
    /// Something in it is not valid.
    #[error("the snapshot is not valid: {0}")]
    Invalid(String),
}

impl State {
    /// The whole state; the same bytes on every node that applied the same entries.
    #[must_use]
    pub fn snapshot(&self) -> Vec<u8> {
        let outcomes = self.requests.iter().map(|(index, remembered)| pb::Outcome {
            request_id: remembered.request.to_bytes().to_vec(),
            index,
            at_ms: remembered.at.millis(),
            // An outcome holds only text, numbers and lists: it always encodes.
            outcome: serde_json::to_vec(&remembered.outcome).unwrap_or_default(),
        });
        let issuer_keys = self.issuer_keys.iter().map(|(issuer, keys)| pb::IssuerKeys {
            issuer: issuer.to_string(),
            jwks: keys.jwks.clone(),
            revision: keys.revision,
        });
        let proto = pb::StateSnapshot {
            version: SNAPSHOT_VERSION,
            index: self.index,
            logical_now_ms: self.now.millis(),
            cluster: self.cluster.as_deref().map(|cluster| InitCluster(cluster.clone()).to_proto()),
            resources: self.resources.values().map(|object| resource::to_proto(object)).collect(),
            issuer_keys: issuer_keys.collect(),
            approvals: self.approvals.values().map(|approval| identity::approval_to_proto(approval)).collect(),
            sessions: self.sessions.values().map(|session| identity::session_to_proto(session)).collect(),
            outcomes: outcomes.collect(),
            policy_revision: self.policy_revision,
        };
        proto.encode_to_vec()
    }

    /// The state that [`Self::snapshot`] gave the bytes of.
    ///
    /// # Errors
    /// When this version cannot read them.
    pub fn restore(bytes: &[u8]) -> Result<Self, RestoreError> {
        let proto = pb::StateSnapshot::decode(bytes).map_err(|error| RestoreError::Undecodable(error.to_string()))?;
        if proto.version != SNAPSHOT_VERSION {
            return Err(RestoreError::UnknownVersion(proto.version));
        }
        let invalid = |error: &dyn std::fmt::Display| RestoreError::Invalid(error.to_string());
        let mut state = Self {
            index: proto.index,
            now: Timestamp::from_millis(proto.logical_now_ms),
            policy_revision: proto.policy_revision,
            ..Self::default()
        };
        if let Some(cluster) = proto.cluster {
            let InitCluster(cluster) = InitCluster::from_proto(cluster).map_err(|_| invalid(&"cluster"))?;
            state.cluster = Some(Arc::new(cluster));
        }
        for object in proto.resources {
            let object = resource::from_proto(object).map_err(|faults| {
                let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
                invalid(&faults.join("; "))
            })?;
            state.resources.insert((Spec::kind(&object.spec), object.metadata.name.clone()), Arc::new(object));
        }
        let mut keys = BTreeMap::new();
        for issuer in proto.issuer_keys {
            let name = issuer.issuer.parse().map_err(|error| invalid(&error))?;
            keys.insert(name, IssuerKeys { jwks: issuer.jwks, revision: issuer.revision });
        }
        state.issuer_keys = keys;
        for approval in proto.approvals {
            state.index_approval(identity::approval_from_proto(approval).map_err(|error| invalid(&error))?);
        }
        for session in proto.sessions {
            state.index_session(identity::session_from_proto(session).map_err(|error| invalid(&error))?);
        }
        for outcome in proto.outcomes {
            let request =
                outcome.request_id.as_slice().try_into().map_err(|_| invalid(&"a request id has 16 bytes"))?;
            let remembered = Remembered {
                request: RequestId::from_bytes(request),
                at: Timestamp::from_millis(outcome.at_ms),
                outcome: serde_json::from_slice(&outcome.outcome).map_err(|error| invalid(&error))?,
            };
            state.requests.remember(outcome.index, remembered);
        }
        Ok(state)
    }

    /// SHA-256 over [`Self::snapshot`]: equal on every node at the same index.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &self.snapshot());
        let mut out = [0; 32];
        out.copy_from_slice(digest.as_ref());
        out
    }
}
