//! The whole state as bytes, and back.

use std::sync::Arc;

use postern_core::principal::PrincipalId;
use postern_core::revocation::RevocationKey;
use postern_core::transparency::Leaf;
use postern_core::wire::{access, cluster, identity, job, resource, review, webhook};
use postern_core::{RequestId, Timestamp};
use postern_proto::state::v1 as pb;
use prost::Message as _;

use crate::audit::AuditLog;
use crate::commands::InitCluster;
use crate::level::known_level;
use crate::logins::PendingLogin;
use crate::recording_log::RecordingLog;
use crate::requests::Remembered;
use crate::revocations;
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

/// Objects that are encoded, or read, together.
const TOGETHER: usize = 64;

impl State {
    /// The whole state; the same bytes on every node that applied the same entries.
    #[must_use]
    pub fn snapshot(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.write_snapshot(|piece| bytes.extend_from_slice(piece));
        bytes
    }

    /// The bytes of [`Self::snapshot`], piece by piece: only one is in memory at a time.
    pub fn write_snapshot(&self, mut out: impl FnMut(&[u8])) {
        let mut buffer = Vec::new();
        // A message in parts is the message, as long as they come in the order of its fields.
        let mut part = |part: pb::StateSnapshot| {
            buffer.clear();
            // A Vec takes all that it is given.
            let _ = part.encode(&mut buffer);
            out(&buffer);
        };
        part(pb::StateSnapshot {
            version: SNAPSHOT_VERSION,
            index: self.index,
            logical_now_ms: self.now.millis(),
            cluster: self.cluster.as_deref().map(|cluster| InitCluster(cluster.clone()).to_proto()),
            ..Default::default()
        });
        macro_rules! list {
            ($field:ident, $objects:expr) => {{
                let mut objects = $objects;
                loop {
                    let some: Vec<_> = objects.by_ref().take(TOGETHER).collect();
                    if some.is_empty() {
                        break;
                    }
                    part(pb::StateSnapshot { $field: some, ..Default::default() });
                }
            }};
        }
        let members = &self.members;
        list!(resources, self.resources.iter().map(|object| resource::to_proto(object)));
        list!(
            issuer_keys,
            self.issuer_keys.iter().map(|(issuer, keys)| pb::IssuerKeys {
                issuer: issuer.to_string(),
                jwks: keys.jwks.clone(),
                revision: keys.revision,
            })
        );
        list!(approvals, self.approvals.values().map(|approval| identity::approval_to_proto(approval)));
        list!(sessions, self.sessions.values().map(|session| identity::session_to_proto(session)));
        list!(
            outcomes,
            self.requests.iter().map(|(index, remembered)| pb::Outcome {
                request_id: remembered.request.to_bytes().to_vec(),
                index,
                at_ms: remembered.at.millis(),
                // An outcome holds only text, numbers and lists: it always encodes.
                outcome: serde_json::to_vec(&remembered.outcome).unwrap_or_default(),
            })
        );
        part(pb::StateSnapshot { policy_revision: self.policy_revision, ..Default::default() });
        list!(nodes, members.nodes.values().map(|node| cluster::node_to_proto(node)));
        part(pb::StateSnapshot { next_node_id: members.next_node_id, ..Default::default() });
        let removed = members.removed.iter();
        list!(removed_nodes, removed.map(|(id, name)| pb::RemovedNode { id: *id, name: name.to_string() }));
        list!(join_tokens, members.tokens.values().map(|token| cluster::token_to_proto(token)));
        list!(gateways, members.gateways.values().map(|gateway| cluster::gateway_to_proto(gateway)));
        list!(certificates, members.certificates.values().map(|it| cluster::certificate_to_proto(it)));
        part(pb::StateSnapshot { feature_level: members.feature_level, ..Default::default() });
        list!(audit, self.audit.records().map(|record| cluster::audit_to_proto(record)));
        part(pb::StateSnapshot {
            audit_sequence: self.audit.sequence(),
            audit_head: self.audit.head().to_vec(),
            ..Default::default()
        });
        let spent = self.logins.spent.iter();
        list!(spent, spent.map(|(digest, until)| pb::Spent { digest: digest.to_vec(), until_ms: until.millis() }));
        list!(logins, self.logins.pending.values().map(|login| login.to_proto()));
        list!(revocations, self.revocations.to_proto());
        list!(access, self.accesses().map(|it| access::access_to_proto(it)));
        let uses = self.uses.taken.iter();
        list!(
            uses,
            uses.map(|(key, (taken, until))| pb::UsedToken { key: key.0.to_vec(), taken: *taken, until: *until })
        );
        list!(jobs, self.jobs().map(|it| job::job_to_proto(it)));
        let hooks = &self.webhooks;
        list!(webhook_deliveries, hooks.waiting.values().map(|one| webhook::delivery_to_proto(one)));
        let statuses = hooks.statuses.iter();
        list!(webhook_statuses, statuses.map(|(name, status)| webhook::status_to_proto(name.as_str(), status)));
        part(pb::StateSnapshot { webhook_sequence: hooks.sequence, ..Default::default() });
        list!(reviews, self.reviews().map(|item| review::item_to_proto(item)));
        let rules = self.rule_uses.taken.iter();
        list!(
            rule_uses,
            rules.map(|((who, policy, rule), (day, taken))| pb::UsedRule {
                issuer: who.issuer.to_string(),
                subject: who.subject.to_string(),
                policy: policy.to_string(),
                rule: rule.to_string(),
                day: *day,
                taken: *taken,
            })
        );
        // None before the cluster has one: its snapshots are what former releases write.
        let log = &self.recording_log;
        part(pb::StateSnapshot { recording_log: log.to_proto(), ..Default::default() });
        list!(log_leaves, log.leaves_from(0).map(|(_, leaf)| leaf.to_bytes().to_vec()));
    }

    /// The state that [`Self::snapshot`] gave the bytes of. Beside the bytes and the state there are only some objects in memory at a time.
    ///
    /// # Errors
    /// When this version cannot read them.
    pub fn restore(bytes: &[u8]) -> Result<Self, RestoreError> {
        // First what there is one of, for the version is to be known before anything else is read.
        let mut single = Vec::new();
        for field in Fields(bytes) {
            let (list, field) = field?;
            if !list {
                single.extend_from_slice(field);
            }
        }
        let single = decode(&single)?;
        if single.version != SNAPSHOT_VERSION {
            return Err(RestoreError::UnknownVersion(single.version));
        }
        let mut state = Self {
            index: single.index,
            now: Timestamp::from_millis(single.logical_now_ms),
            policy_revision: single.policy_revision,
            ..Self::default()
        };
        state.webhooks.sequence = single.webhook_sequence;
        if let Some(cluster) = single.cluster {
            let InitCluster(cluster) = InitCluster::from_proto(cluster).map_err(|_| invalid("cluster"))?;
            state.cluster = Some(Arc::new(cluster));
        }
        let members = &mut state.members;
        // A snapshot of before there were members has neither.
        members.next_node_id = single.next_node_id.max(1);
        members.feature_level = single.feature_level.max(1);
        if members.feature_level > known_level() {
            return Err(RestoreError::FeatureLevel { level: members.feature_level, known: known_level() });
        }
        state.audit = AuditLog::restored(single.audit_sequence, single.audit_head.try_into().unwrap_or_default());
        if let Some(log) = single.recording_log {
            state.recording_log = RecordingLog::restored(log).map_err(invalid)?;
        }
        let mut lists = Fields(bytes).filter_map(|field| match field {
            Ok((list, field)) => list.then_some(Ok(field)),
            Err(error) => Some(Err(error)),
        });
        loop {
            let mut some = pb::StateSnapshot::default();
            let mut any = false;
            for field in lists.by_ref().take(TOGETHER) {
                some.merge(field?).map_err(|error| RestoreError::Undecodable(error.to_string()))?;
                any = true;
            }
            if !any {
                return Ok(state);
            }
            state.absorb(some)?;
        }
    }

    /// Takes the lists of a part in.
    fn absorb(&mut self, part: pb::StateSnapshot) -> Result<(), RestoreError> {
        for object in part.resources {
            let object = resource::from_proto(object).map_err(|faults| {
                let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
                invalid(faults.join("; "))
            })?;
            self.resources.insert(Arc::new(object));
        }
        for issuer in part.issuer_keys {
            let keys = IssuerKeys { jwks: issuer.jwks, revision: issuer.revision };
            self.issuer_keys.insert(issuer.issuer.parse().map_err(invalid)?, keys);
        }
        for approval in part.approvals {
            self.index_approval(identity::approval_from_proto(approval).map_err(invalid)?);
        }
        for session in part.sessions {
            self.index_session(identity::session_from_proto(session).map_err(invalid)?);
        }
        for outcome in part.outcomes {
            let request = outcome.request_id.as_slice().try_into().map_err(|_| invalid("a request id has 16 bytes"))?;
            let remembered = Remembered {
                request: RequestId::from_bytes(request),
                at: Timestamp::from_millis(outcome.at_ms),
                outcome: serde_json::from_slice(&outcome.outcome).map_err(invalid)?,
            };
            self.requests.remember(outcome.index, remembered);
        }
        let members = &mut self.members;
        for node in part.nodes {
            let node = cluster::node_from_proto(node).map_err(invalid)?;
            members.nodes.insert(node.id, Arc::new(node));
        }
        for node in part.removed_nodes {
            members.removed.insert(node.id, node.name.parse().map_err(invalid)?);
        }
        for token in part.join_tokens {
            members.put_token(cluster::token_from_proto(token).map_err(invalid)?);
        }
        for gateway in part.gateways {
            let gateway = cluster::gateway_from_proto(gateway).map_err(invalid)?;
            members.gateways.insert(gateway.name.clone(), Arc::new(gateway));
        }
        for certificate in part.certificates {
            members.put_certificate(cluster::certificate_from_proto(certificate).map_err(invalid)?);
        }
        for spent in part.spent {
            let what = spent.digest.as_slice().try_into().map_err(|_| invalid("a digest has 32 bytes"))?;
            self.logins.spend(what, Timestamp::from_millis(spent.until_ms));
        }
        for login in part.logins {
            self.logins.keep(PendingLogin::from_proto(login).map_err(|_| invalid("a login"))?);
        }
        for revocation in part.revocations {
            let revocation = revocations::from_proto(revocation).map_err(|_| invalid("a revocation"))?;
            self.revocations.put(revocation);
        }
        for request in part.access {
            self.accesses.index(access::access_from_proto(request).map_err(invalid)?);
        }
        for used in part.uses {
            let key = used.key.as_slice().try_into().map_err(|_| invalid("a key has 16 bytes"))?;
            self.uses.put(RevocationKey(key), used.taken, used.until);
        }
        for job in part.jobs {
            self.jobs.put(job::job_from_proto(job).map_err(invalid)?);
        }
        for delivery in part.webhook_deliveries {
            self.webhooks.put(webhook::delivery_from_proto(delivery).map_err(invalid)?);
        }
        for status in part.webhook_statuses {
            let name = status.name.parse().map_err(invalid)?;
            self.webhooks.statuses.insert(name, Arc::new(webhook::status_from_proto(status)));
        }
        for item in part.reviews {
            self.reviews.index(review::item_from_proto(item).map_err(invalid)?);
        }
        for used in part.rule_uses {
            let who = PrincipalId { issuer: used.issuer.parse().map_err(invalid)?, subject: used.subject.into() };
            let key = (who, used.policy.parse().map_err(invalid)?, used.rule.into());
            self.rule_uses.put(key, used.day, used.taken);
        }
        for leaf in part.log_leaves {
            self.recording_log.push(Leaf::from_bytes(&leaf).map_err(invalid)?);
        }
        for record in part.audit {
            self.audit.keep(cluster::audit_from_proto(record).map_err(invalid)?);
        }
        Ok(())
    }

    /// SHA-256 over [`Self::snapshot`]: equal on every node at the same index.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        self.write_snapshot(|piece| context.update(piece));
        let mut out = [0; 32];
        out.copy_from_slice(context.finish().as_ref());
        out
    }
}

fn invalid(what: impl std::fmt::Display) -> RestoreError {
    RestoreError::Invalid(what.to_string())
}

fn decode(bytes: &[u8]) -> Result<pb::StateSnapshot, RestoreError> {
    pb::StateSnapshot::decode(bytes).map_err(|error| RestoreError::Undecodable(error.to_string()))
}

/// The fields of an encoded snapshot: whether it is one of a list, and its bytes, key and all.
struct Fields<'a>(&'a [u8]);

/// Wire types of protobuf.
const VARINT: usize = 0;
const FIXED64: usize = 1;
const LENGTH: usize = 2;
const FIXED32: usize = 5;
/// Fields with a length that there is one of: `cluster`, `audit_head` and `recording_log`.
const SINGLE: [usize; 3] = [4, 20, 100];

impl<'a> Fields<'a> {
    fn field(&mut self) -> Result<(bool, &'a [u8]), prost::DecodeError> {
        let mut rest = self.0;
        // A varint, as lengths are.
        let key = prost::decode_length_delimiter(&mut rest)?;
        let length = match key & 7 {
            VARINT => {
                prost::decode_length_delimiter(&mut rest)?;
                0
            }
            FIXED64 => 8,
            LENGTH => prost::decode_length_delimiter(&mut rest)?,
            FIXED32 => 4,
            // Groups, which nobody has written for long: the message's own decoder says so.
            _ => rest.len(),
        };
        let after = rest.len().saturating_sub(length);
        let (field, after) = self.0.split_at_checked(self.0.len().saturating_sub(after)).unwrap_or((self.0, &[]));
        self.0 = after;
        Ok((key & 7 == LENGTH && !SINGLE.contains(&(key >> 3)), field))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(bool, &'a [u8]), RestoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field.map_err(|error| RestoreError::Undecodable(error.to_string())))
    }
}

#[cfg(test)]
#[path = "snapshot_tests.rs"]
mod tests;
