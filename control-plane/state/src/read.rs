//! What the state tells.

use std::sync::Arc;

use postern_core::Name;
use postern_core::audit::AuditRecord;
use postern_core::cluster::{ControlNode, GatewayNode, JoinToken, NodeCertificate};
use postern_core::revocation::{Mark, Revocation, RevocationKey, Revocations};

use crate::recording_log::RecordingLog;
use crate::state::State;

impl State {
    /// The log of recordings.
    #[must_use]
    pub const fn recording_log(&self) -> &RecordingLog {
        &self.recording_log
    }

    /// The members of the control plane, by id.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = &Arc<ControlNode>> {
        self.members.nodes.values()
    }

    /// One member.
    #[must_use]
    pub fn node(&self, id: u64) -> Option<&Arc<ControlNode>> {
        self.members.nodes.get(&id)
    }

    /// The name of a member that was removed.
    #[must_use]
    pub fn removed_node(&self, id: u64) -> Option<&Name> {
        self.members.removed.get(&id)
    }

    /// Members that were removed: id and name.
    pub fn removed_nodes(&self) -> impl ExactSizeIterator<Item = (u64, &Name)> {
        self.members.removed.iter().map(|(id, name)| (*id, name))
    }

    /// Join tokens, by id; those that expired in the last day too.
    pub fn join_tokens(&self) -> impl ExactSizeIterator<Item = &Arc<JoinToken>> {
        self.members.tokens.values()
    }

    /// One join token.
    #[must_use]
    pub fn join_token(&self, id: &str) -> Option<&Arc<JoinToken>> {
        self.members.tokens.get(id)
    }

    /// Gateways that were let in by a join token, by name.
    pub fn gateways(&self) -> impl ExactSizeIterator<Item = &Arc<GatewayNode>> {
        self.members.gateways.values()
    }

    /// One gateway.
    #[must_use]
    pub fn gateway(&self, name: &Name) -> Option<&Arc<GatewayNode>> {
        self.members.gateways.get(name)
    }

    /// Certificates that have not ended by themselves, by serial.
    pub fn certificates(&self) -> impl ExactSizeIterator<Item = &Arc<NodeCertificate>> {
        self.members.certificates.values()
    }

    /// One certificate.
    #[must_use]
    pub fn certificate(&self, serial: &str) -> Option<&Arc<NodeCertificate>> {
        self.members.certificates.get(serial)
    }

    /// Whether a certificate was revoked.
    #[must_use]
    pub fn is_revoked(&self, serial: &str) -> bool {
        self.certificate(serial).is_some_and(|certificate| certificate.revoked.is_some())
    }

    /// Tokens that are good no more. A copy costs next to nothing.
    #[must_use]
    pub const fn revocations(&self) -> &Revocations {
        &self.revocations.marks
    }

    /// The revocation of one thing.
    #[must_use]
    pub fn revocation(&self, key: &RevocationKey) -> Option<Revocation> {
        self.revocations.get(key)
    }

    /// At most `most` revocations, those behind `key`; and how many there are in all.
    #[must_use]
    pub fn revocations_after(&self, key: Option<RevocationKey>, most: usize) -> (Vec<Revocation>, usize) {
        let page = self.revocations.after(key).map(|(_, revocation)| revocation).take(most).collect();
        (page, self.revocations.len())
    }

    /// What the entry at `index` revoked, if nothing was revoked since.
    #[must_use]
    pub fn newest_revocations(&self, index: u64) -> Option<&Arc<[Mark]>> {
        self.revocations.newest(index)
    }

    /// The feature level that the cluster is at: commands of a newer one are refused.
    #[must_use]
    pub const fn feature_level(&self) -> u32 {
        self.members.feature_level
    }

    /// The newest records of the audit log, oldest first.
    pub fn audit(&self) -> impl DoubleEndedIterator<Item = &Arc<AuditRecord>> + ExactSizeIterator {
        self.audit.records()
    }

    /// Number and hash of the last record; 0 and zeros when there is none.
    #[must_use]
    pub const fn audit_head(&self) -> (u64, [u8; 32]) {
        (self.audit.sequence(), self.audit.head())
    }
}
