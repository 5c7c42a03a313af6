//! The whole state as bytes, and back.

use std::collections::BTreeMap;
use std::sync::Arc;

use postern_core::wire::{cluster, identity, resource};
use postern_core::{RequestId, Timestamp};
use postern_proto::state::v1 as pb;
use prost::Message as _;

use crate::audit::AuditLog;
use crate::commands::InitCluster;
use crate::entry::FEATURE_LEVEL;
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
    /// The cluster was at a feature level that this version does not know.
    #[error("the snapshot is of feature level {level}, this node knows up to {known}: upgrade it")]
    FeatureLevel {
        /// The cluster's.
        level: u32,
        /// This version's.
        known: u32,
    },
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
        let members = &self.members;
        let removed = members.removed.iter().map(|(id, name)| pb::RemovedNode { id: *id, name: name.to_string() });
        let proto = pb::StateSnapshot {
            version: SNAPSHOT_VERSION,
            index: self.index,
            logical_now_ms: self.now.millis(),
            cluster: self.cluster.as_deref().map(|cluster| InitCluster(cluster.clone()).to_proto()),
            resources: self.resources.iter().map(|object| resource::to_proto(object)).collect(),
            issuer_keys: issuer_keys.collect(),
            approvals: self.approvals.values().map(|approval| identity::approval_to_proto(approval)).collect(),
            sessions: self.sessions.values().map(|session| identity::session_to_proto(session)).collect(),
            outcomes: outcomes.collect(),
            policy_revision: self.policy_revision,
            nodes: members.nodes.values().map(|node| cluster::node_to_proto(node)).collect(),
            next_node_id: members.next_node_id,
            removed_nodes: removed.collect(),
            join_tokens: members.tokens.values().map(|token| cluster::token_to_proto(token)).collect(),
            gateways: members.gateways.values().map(|gateway| cluster::gateway_to_proto(gateway)).collect(),
            certificates: members.certificates.values().map(|it| cluster::certificate_to_proto(it)).collect(),
            feature_level: members.feature_level,
            audit: self.audit.records().map(|record| cluster::audit_to_proto(record)).collect(),
            audit_sequence: self.audit.sequence(),
            audit_head: self.audit.head().to_vec(),
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
            state.resources.insert(Arc::new(object));
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
        let members = &mut state.members;
        // A snapshot of before there were members has neither.
        members.next_node_id = proto.next_node_id.max(1);
        members.feature_level = proto.feature_level.max(1);
        if members.feature_level > FEATURE_LEVEL {
            return Err(RestoreError::FeatureLevel { level: members.feature_level, known: FEATURE_LEVEL });
        }
        for node in proto.nodes {
            let node = cluster::node_from_proto(node).map_err(|error| invalid(&error))?;
            members.nodes.insert(node.id, Arc::new(node));
        }
        for node in proto.removed_nodes {
            members.removed.insert(node.id, node.name.parse().map_err(|error| invalid(&error))?);
        }
        for token in proto.join_tokens {
            members.put_token(cluster::token_from_proto(token).map_err(|error| invalid(&error))?);
        }
        for gateway in proto.gateways {
            let gateway = cluster::gateway_from_proto(gateway).map_err(|error| invalid(&error))?;
            members.gateways.insert(gateway.name.clone(), Arc::new(gateway));
        }
        for certificate in proto.certificates {
            members.put_certificate(cluster::certificate_from_proto(certificate).map_err(|error| invalid(&error))?);
        }
        let records = proto.audit.into_iter().map(cluster::audit_from_proto).collect::<Result<Vec<_>, _>>();
        let head = proto.audit_head.try_into().unwrap_or_default();
        state.audit = AuditLog::restored(records.map_err(|error| invalid(&error))?, proto.audit_sequence, head);
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
