//! What changed at one revision.

use std::collections::BTreeMap;
use std::sync::Arc;

use postern_core::access::AccessRequest;
use postern_core::approval::Approval;
use postern_core::audit::AuditRecord;
use postern_core::cluster::{ControlNode, GatewayNode, JoinToken, NodeCertificate};
use postern_core::resource::{Resource, Spec};
use postern_core::revocation::{MARK_BYTES, Mark, seconds};
use postern_core::session::Session;
use postern_core::{ApprovalId, SessionId};
use postern_state::{Cluster, Effect, IssuerKeys, ObjectKey, State};

use super::ring::Held;

/// What a value weighs beside its texts.
const BASE: usize = 512;

/// All that one entry of the log changed, in order, each object once.
#[derive(Clone, Debug)]
pub struct ChangeSet {
    /// The entry's index.
    pub revision: u64,
    /// What gateways decide by is another now.
    pub policy: bool,
    /// The objects.
    pub changes: Vec<Change>,
}

/// One object.
#[derive(Clone, Debug)]
pub struct Change {
    /// Which.
    pub key: ObjectKey,
    /// As it was right after the entry; `None`: gone.
    pub value: Option<Value>,
    /// Of an approval or session that is gone: as it was last, for whoever could see it.
    pub was: Option<Value>,
}

/// Approvals and sessions as they were told of last, shared with the state: it forgets the oldest, and does not say whose they were.
#[derive(Debug, Default)]
pub(super) struct Known {
    approvals: BTreeMap<ApprovalId, Arc<Approval>>,
    sessions: BTreeMap<SessionId, Arc<Session>>,
}

impl Known {
    pub(super) fn of(state: &State) -> Self {
        Self {
            approvals: state.approvals().map(|approval| (approval.id, Arc::clone(approval))).collect(),
            sessions: state.sessions().map(|session| (session.id, Arc::clone(session))).collect(),
        }
    }

    /// Takes in what an object is now; what it was, when it is gone.
    fn take(&mut self, key: &ObjectKey, value: Option<&Value>) -> Option<Value> {
        match (key, value) {
            (_, Some(Value::Approval(approval))) => drop(self.approvals.insert(approval.id, Arc::clone(approval))),
            (_, Some(Value::Session(session))) => drop(self.sessions.insert(session.id, Arc::clone(session))),
            (ObjectKey::Approval(id), None) => return self.approvals.remove(id).map(Value::Approval),
            (ObjectKey::Session(id), None) => return self.sessions.remove(id).map(Value::Session),
            _ => {}
        }
        None
    }
}

/// An object, shared with the state.
#[derive(Clone, Debug)]
pub enum Value {
    /// A declared object.
    Resource(Arc<Resource>),
    /// The keys of an issuer.
    IssuerKeys(Arc<IssuerKeys>),
    /// An approval.
    Approval(Arc<Approval>),
    /// A session.
    Session(Arc<Session>),
    /// A request for access.
    Access(Arc<AccessRequest>),
    /// A member of the control plane.
    Node(Arc<ControlNode>),
    /// A join token.
    JoinToken(Arc<JoinToken>),
    /// A node's certificate.
    Certificate(Arc<NodeCertificate>),
    /// A gateway.
    Gateway(Arc<GatewayNode>),
    /// The cluster's own record, and its feature level.
    Cluster(Arc<Cluster>, u32),
    /// The records that are new in the audit log, oldest first.
    Audit(Vec<Arc<AuditRecord>>),
    /// Tokens that are revoked now, and the second in which this was.
    Revocations(Arc<[Mark]>, u32),
}

impl ChangeSet {
    /// What `effects` tell of `state`, which has just applied the entry at `revision`; `None` when nothing changed. Audit records are
    /// new when they come after `audit_from`.
    pub(super) fn new(
        state: &State,
        revision: u64,
        effects: &[Effect],
        audit_from: u64,
        known: &mut Known,
    ) -> Option<Self> {
        let mut changes = Vec::new();
        let mut policy = false;
        for effect in effects {
            match effect {
                Effect::Changed(key) => {
                    let value = value(state, key, audit_from);
                    let was = known.take(key, value.as_ref());
                    changes.push(Change { key: key.clone(), value, was });
                }
                Effect::PolicyChanged => policy = true,
                Effect::IssuersChanged | Effect::ApprovalsChanged => {}
            }
        }
        (policy || !changes.is_empty()).then_some(Self { revision, policy, changes })
    }
}

fn value(state: &State, key: &ObjectKey, audit_from: u64) -> Option<Value> {
    match key {
        ObjectKey::Resource(kind, name) => state.resource(*kind, name).cloned().map(Value::Resource),
        ObjectKey::IssuerKeys(name) => state.issuer_keys(name).cloned().map(Arc::new).map(Value::IssuerKeys),
        ObjectKey::Approval(id) => state.approval(*id).cloned().map(Value::Approval),
        ObjectKey::Session(id) => state.session(*id).cloned().map(Value::Session),
        ObjectKey::Access(id) => state.access(*id).cloned().map(Value::Access),
        ObjectKey::Node(id) => state.node(*id).cloned().map(Value::Node),
        ObjectKey::JoinToken(id) => state.join_token(id).cloned().map(Value::JoinToken),
        ObjectKey::Certificate(serial) => state.certificate(serial).cloned().map(Value::Certificate),
        ObjectKey::Gateway(name) => state.gateway(name).cloned().map(Value::Gateway),
        ObjectKey::Cluster => state.cluster().cloned().map(|cluster| Value::Cluster(cluster, state.feature_level())),
        ObjectKey::Audit => {
            let newest = state.audit().rev().take_while(|record| record.sequence > audit_from);
            let mut records: Vec<_> = newest.cloned().collect();
            records.reverse();
            Some(Value::Audit(records))
        }
        ObjectKey::Revocations => {
            let newest = state.newest_revocations(state.index()).cloned();
            newest.map(|marks| Value::Revocations(marks, seconds(state.now())))
        }
    }
}

impl Held for ChangeSet {
    fn revision(&self) -> u64 {
        self.revision
    }

    fn weight(&self) -> usize {
        let values = |change: &Change| {
            let both = [&change.value, &change.was].into_iter().flatten().map(Value::weight);
            both.fold(BASE, usize::saturating_add)
        };
        let changes = self.changes.iter().map(values);
        changes.fold(BASE, usize::saturating_add)
    }
}

impl Value {
    /// Its long texts; the rest is in `BASE`.
    fn weight(&self) -> usize {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let texts = |all: &[String]| all.iter().map(|one| one.len().saturating_add(24)).fold(0, usize::saturating_add);
        match self {
            Self::Resource(resource) => match &resource.spec {
                Spec::Issuer(issuer) => {
                    let oidc = issuer
                        .oidc()
                        .map_or(0, |oidc| text(&oidc.ca_pem).saturating_add(oidc.jwks().map_or(0, str::len)));
                    oidc.saturating_add(texts(issuer.audiences()))
                }
                Spec::Target(target) => text(&target.tls.ca_pem).saturating_add(texts(&target.databases)),
                Spec::Secret(sealed) => sealed.ciphertext.len(),
                // Lists of small things.
                Spec::Policy(policy) => {
                    let selected = policy.principals.groups.len() + policy.principals.subjects.len();
                    64_usize.saturating_mul(selected + policy.targets.names.len() + policy.resources.len())
                }
                Spec::MaskingRule(rule) => 64_usize.saturating_mul(
                    rule.columns.len() + rule.exempt_groups.len() + rule.matching.len() + rule.types.len(),
                ),
                Spec::Role(role) => 128_usize.saturating_mul(role.grants.len()),
                Spec::ServiceAccount(account) => {
                    let small = 64_usize.saturating_mul(account.groups.len() + account.networks.len());
                    texts(&account.public_keys).saturating_add(account.jwks.len()).saturating_add(small)
                }
                Spec::Webhook(webhook) => webhook.url.len().saturating_add(text(&webhook.ca_pem)),
                Spec::RoleBinding(binding) => {
                    64_usize.saturating_mul(binding.subjects.groups.len() + binding.subjects.subjects.len())
                }
            },
            Self::IssuerKeys(keys) => keys.jwks.len(),
            Self::Approval(approval) => {
                approval.text.len().saturating_add(texts(&approval.parameters)).saturating_add(texts(&approval.actions))
            }
            Self::Access(access) => access.weight(),
            Self::Audit(records) => records.len().saturating_mul(BASE),
            Self::Revocations(marks, _) => marks.len().saturating_mul(MARK_BYTES),
            Self::Session(_)
            | Self::Node(_)
            | Self::JoinToken(_)
            | Self::Certificate(_)
            | Self::Gateway(_)
            | Self::Cluster(..) => BASE,
        }
    }
}
