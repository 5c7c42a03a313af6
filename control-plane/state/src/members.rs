//! Who belongs to the cluster: members of the control plane, gateways, the tokens that let nodes in, and their certificates.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use postern_core::cluster::{ControlNode, GatewayNode, JoinToken, NodeCertificate};
use postern_core::node::NodeRole;
use postern_core::{Name, Timestamp};

use crate::outcome::{Effect, ObjectKey, Refusal};
use crate::state::Limits;
use crate::tree::{Set, Tree};

/// How long an expired token is remembered, so that its holder is told that it has expired.
const REMEMBER_TOKENS: Duration = Duration::from_secs(86_400);
/// How many removed members are remembered, so that they are told.
const MAX_REMOVED: usize = 1_000;

/// Part of the state.
#[derive(Clone, Debug)]
pub(crate) struct Members {
    pub(crate) nodes: BTreeMap<u64, Arc<ControlNode>>,
    pub(crate) next_node_id: u64,
    pub(crate) removed: BTreeMap<u64, Name>,
    pub(crate) tokens: BTreeMap<String, Arc<JoinToken>>,
    pub(crate) gateways: BTreeMap<Name, Arc<GatewayNode>>,
    pub(crate) certificates: Tree<String, Arc<NodeCertificate>>,
    pub(crate) feature_level: u32,
    // Derived: what ends when.
    tokens_end: BTreeSet<(Timestamp, String)>,
    certificates_end: Set<(Timestamp, String)>,
}

impl Default for Members {
    fn default() -> Self {
        Self {
            nodes: BTreeMap::new(),
            next_node_id: 1,
            removed: BTreeMap::new(),
            tokens: BTreeMap::new(),
            gateways: BTreeMap::new(),
            certificates: Tree::default(),
            feature_level: 1,
            tokens_end: BTreeSet::new(),
            certificates_end: Set::default(),
        }
    }
}

impl Members {
    pub(crate) fn put_token(&mut self, token: JoinToken) {
        self.remove_token(&token.id);
        self.tokens_end.insert((token.expires_at, token.id.clone()));
        self.tokens.insert(token.id.clone(), Arc::new(token));
    }

    pub(crate) fn remove_token(&mut self, id: &str) -> bool {
        let Some(token) = self.tokens.remove(id) else { return false };
        self.tokens_end.remove(&(token.expires_at, token.id.clone()));
        true
    }

    pub(crate) fn put_certificate(&mut self, certificate: NodeCertificate) {
        if let Some(known) = self.certificates.remove(&certificate.serial) {
            self.certificates_end.remove(&(known.not_after, known.serial.clone()));
        }
        self.certificates_end.insert((certificate.not_after, certificate.serial.clone()), ());
        self.certificates.insert(certificate.serial.clone(), Arc::new(certificate));
    }

    /// Takes a certificate in that is new.
    pub(crate) fn admit(&mut self, certificate: NodeCertificate, index: u64, now: Timestamp) -> Result<(), Refusal> {
        if self.certificates.contains_key(&certificate.serial) {
            return Err(Refusal::AlreadyExists { what: format!("certificate {}", certificate.serial) });
        }
        if certificate.not_after <= now {
            return Err(Refusal::invalid("certificate.not_after", "is over"));
        }
        if self.certificates.len() >= Limits::STANDARD.certificates {
            return Err(Refusal::Limit(format!("{} certificates", Limits::STANDARD.certificates)));
        }
        self.put_certificate(NodeCertificate { issued_at: now, revoked: None, revision: index, ..certificate });
        Ok(())
    }

    /// Those of a node that are good yet.
    pub(crate) fn good_certificates(&self, role: NodeRole, name: &Name) -> Vec<Arc<NodeCertificate>> {
        let good = |certificate: &&Arc<NodeCertificate>| {
            certificate.role == role && certificate.name == *name && certificate.revoked.is_none()
        };
        self.certificates.values().filter(good).cloned().collect()
    }

    pub(crate) fn forget_node(&mut self, id: u64) -> Option<Arc<ControlNode>> {
        let node = self.nodes.remove(&id)?;
        self.removed.insert(id, node.name.clone());
        while self.removed.len() > MAX_REMOVED {
            self.removed.pop_first();
        }
        Some(node)
    }

    /// Forgets what has ended by itself.
    pub(crate) fn expire(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        while let Some((end, _)) = self.tokens_end.first() {
            if end.plus(REMEMBER_TOKENS) > now {
                break;
            }
            let Some((_, id)) = self.tokens_end.pop_first() else { break };
            self.tokens.remove(&id);
            Effect::Changed(ObjectKey::JoinToken(id)).add_to(effects);
        }
        while let Some(((end, _), ())) = self.certificates_end.first_key_value() {
            if *end > now {
                break;
            }
            let Some(((_, serial), ())) = self.certificates_end.pop_first() else { break };
            self.certificates.remove(&serial);
            Effect::Changed(ObjectKey::Certificate(serial)).add_to(effects);
        }
    }
}
