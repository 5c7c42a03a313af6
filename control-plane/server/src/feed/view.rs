//! The feed's own copy of what gateways decide by, kept up to date by the changes of the log.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use postern_core::Name;
use postern_core::access::Grant;
use postern_core::delta::{Delta, DeltaError};
use postern_core::node::NodeRole;
use postern_core::resource::{Kind, Resource, Spec};
use postern_core::revocation::Revocations;
use postern_core::secret::Sealed;
use postern_core::snapshot::Snapshot;
use postern_core::target::TargetSelector;
use postern_state::{ObjectKey, State};

use super::published::Opened;
use crate::watch::{Change, ChangeSet, Value};

/// How often gateways are told to forget revocations that are over, in seconds: at most, and only when something is revoked.
const FORGET: u32 = 600;

/// Taken out of the state, by reference count.
pub(super) struct Gathered {
    /// Of the state.
    pub(super) index: u64,
    pub(super) asked: Instant,
    revision: u64,
    cluster_id: String,
    incarnation: String,
    session_token_jwks: String,
    resources: Vec<Arc<Resource>>,
    issuer_keys: Vec<(Name, String)>,
    serves: BTreeMap<Name, TargetSelector>,
    revoked: BTreeSet<String>,
    revoked_gateways: BTreeSet<String>,
    revocations: Revocations,
    grants: Vec<Grant>,
}

/// What gateways decide by, with what is needed to change it.
#[derive(Clone)]
pub(super) struct View {
    pub(super) snapshot: Snapshot,
    pub(super) serves: Arc<BTreeMap<Name, TargetSelector>>,
    pub(super) opened: Arc<BTreeMap<Name, Arc<Opened>>>,
    /// Serial numbers of gateways' certificates, of those that are revoked.
    pub(super) revoked_gateways: Arc<BTreeSet<String>>,
    secrets: BTreeMap<Name, Arc<Resource>>,
    /// When gateways forgot revocations that were over, in seconds since the Unix epoch.
    forgot: u32,
}

/// What one entry of the log changed.
pub(super) struct Taken {
    /// For gateways; none when nothing that they decide by changed.
    pub(super) delta: Option<Delta>,
    /// Targets whose credential may be another now.
    pub(super) targets: BTreeSet<Name>,
    /// Some gateway serves other targets than before.
    pub(super) serves: bool,
}

/// A credential that is to be opened.
#[derive(Clone)]
pub(super) struct ToOpen {
    pub(super) target: Name,
    /// What the sealed secret is of.
    pub(super) of: String,
    secret: Arc<Resource>,
    username: String,
    labels: BTreeMap<String, String>,
}

impl Gathered {
    /// For the driver's thread: only pointers are copied.
    pub(super) fn of(state: &State, asked: Instant) -> Self {
        let for_gateways = Kind::ALL.into_iter().filter(|kind| kind.is_for_gateways());
        let keys = state.resources(Kind::Issuer).filter_map(|issuer| {
            let name = &issuer.metadata.name;
            state.issuer_keys(name).map(|keys| (name.clone(), keys.jwks.clone()))
        });
        let serves = state.gateways().filter_map(|gateway| Some((gateway.name.clone(), gateway.serves.clone()?)));
        let revoked = || state.certificates().filter(|certificate| certificate.revoked.is_some());
        let revoked_gateways = revoked().filter(|certificate| certificate.role == NodeRole::Gateway);
        let cluster = state.cluster();
        Self {
            index: state.index(),
            asked,
            revision: state.policy_revision(),
            cluster_id: cluster.map(|cluster| cluster.id.clone()).unwrap_or_default(),
            incarnation: cluster.map(|cluster| cluster.incarnation.clone()).unwrap_or_default(),
            session_token_jwks: cluster.map(|cluster| cluster.session_token_jwks.clone()).unwrap_or_default(),
            resources: for_gateways.flat_map(|kind| state.resources(kind)).cloned().collect(),
            issuer_keys: keys.collect(),
            serves: serves.collect(),
            revoked: revoked().map(|certificate| certificate.serial.clone()).collect(),
            revoked_gateways: revoked_gateways.map(|certificate| certificate.serial.clone()).collect(),
            revocations: state.revocations().clone(),
            grants: state.accesses().filter_map(|access| access.grant()).collect(),
        }
    }
}

impl View {
    pub(super) fn new(gathered: Gathered) -> Self {
        let mut snapshot = Snapshot {
            revision: gathered.revision,
            session_token_jwks: gathered.session_token_jwks,
            revoked: Arc::new(gathered.revoked),
            revocations: gathered.revocations,
            grants: gathered.grants.into_iter().collect(),
            ..Snapshot::empty(&gathered.cluster_id, &gathered.incarnation)
        };
        let mut secrets = BTreeMap::new();
        for object in gathered.resources {
            if object.spec.kind() == Kind::Secret {
                secrets.insert(object.metadata.name.clone(), object);
            } else {
                // Roles were left out: nothing else is refused.
                let _ = snapshot.put(Resource::clone(&object));
            }
        }
        for (issuer, keys) in gathered.issuer_keys {
            snapshot.set_keys(&issuer, Some(keys));
        }
        Self {
            snapshot,
            secrets,
            serves: Arc::new(gathered.serves),
            opened: Arc::default(),
            revoked_gateways: Arc::new(gathered.revoked_gateways),
            forgot: 0,
        }
    }

    /// Takes a set of changes in.
    pub(super) fn take(&mut self, set: &ChangeSet) -> Result<Taken, DeltaError> {
        let mut delta = Delta {
            incarnation: self.snapshot.incarnation.clone(),
            from_revision: self.snapshot.revision,
            revision: set.revision,
            ..Delta::default()
        };
        let mut taken = Taken { delta: None, targets: BTreeSet::new(), serves: false };
        for change in &set.changes {
            self.take_one(change, &mut delta, &mut taken);
        }
        if set.policy {
            self.snapshot = self.snapshot.apply(delta.clone())?;
            taken.delta = Some(delta);
        }
        Ok(taken)
    }

    fn take_one(&mut self, change: &Change, delta: &mut Delta, taken: &mut Taken) {
        match (&change.key, &change.value) {
            (ObjectKey::Resource(Kind::Secret, name), value) => {
                match value {
                    Some(Value::Resource(secret)) => drop(self.secrets.insert(name.clone(), Arc::clone(secret))),
                    _ => drop(self.secrets.remove(name)),
                }
                let users = self.snapshot.targets.iter();
                let users = users.filter(|(_, target)| target.value.credential.secret() == Some(name));
                taken.targets.extend(users.map(|(target, _)| target.clone()));
            }
            (ObjectKey::Resource(kind, name), value) if kind.is_for_gateways() => {
                if *kind == Kind::Target {
                    taken.targets.insert(name.clone());
                }
                match value {
                    Some(Value::Resource(object)) => delta.upserts.push(Resource::clone(object)),
                    _ => delta.deletes.push((*kind, name.clone())),
                }
            }
            (ObjectKey::IssuerKeys(name), value) => {
                let keys = match value {
                    Some(Value::IssuerKeys(keys)) => Some(keys.jwks.clone()),
                    _ => None,
                };
                delta.issuer_keys.push((name.clone(), keys));
            }
            (ObjectKey::Certificate(serial), Some(Value::Certificate(certificate)))
                if certificate.revoked.is_some() && !self.snapshot.revoked.contains(serial) =>
            {
                delta.revoked.push(serial.clone());
                if certificate.role == NodeRole::Gateway {
                    Arc::make_mut(&mut self.revoked_gateways).insert(serial.clone());
                }
            }
            (ObjectKey::Revocations, Some(Value::Revocations(marks, now))) => {
                delta.revocations.extend_from_slice(marks);
                // Not at each: all of them are looked through for it.
                if now.saturating_sub(self.forgot) >= FORGET {
                    (self.forgot, delta.revocations_over) = (*now, *now);
                }
            }
            (ObjectKey::Access(id), value) => {
                let grant = match value {
                    Some(Value::Access(access)) => access.grant(),
                    _ => None,
                };
                match (grant, self.snapshot.grants.get(*id)) {
                    (Some(grant), _) => delta.grants.push(grant),
                    (None, Some(_)) => delta.ended_grants.push(*id),
                    (None, None) => {}
                }
            }
            (ObjectKey::Gateway(name), value) => {
                let selector = match value {
                    Some(Value::Gateway(gateway)) => gateway.serves.clone(),
                    _ => None,
                };
                if self.serves.get(name) != selector.as_ref() {
                    taken.serves = true;
                    let serves = Arc::make_mut(&mut self.serves);
                    match selector {
                        Some(selector) => drop(serves.insert(name.clone(), selector)),
                        None => drop(serves.remove(name)),
                    }
                }
            }
            (ObjectKey::Cluster, Some(Value::Cluster(cluster, _)))
                if cluster.session_token_jwks != self.snapshot.session_token_jwks =>
            {
                delta.session_token_jwks = Some(cluster.session_token_jwks.clone());
            }
            _ => {}
        }
    }

    /// What is to be opened for `target`; none when it has no sealed credential.
    pub(super) fn to_open(&self, target: &Name) -> Option<ToOpen> {
        let labeled = self.snapshot.targets.get(target)?;
        let name = labeled.value.credential.secret()?;
        let secret = Arc::clone(self.secrets.get(name)?);
        let (username, labels) = (labeled.value.credential.username.clone(), labeled.labels.clone());
        Some(ToOpen { target: target.clone(), of: super::sealed_of(name), secret, username, labels })
    }

    /// Whether `item` is still what `target` asks for.
    pub(super) fn still_wants(&self, item: &ToOpen) -> bool {
        self.to_open(&item.target).is_some_and(|now| {
            Arc::ptr_eq(&now.secret, &item.secret) && now.username == item.username && now.labels == item.labels
        })
    }
}

impl ToOpen {
    pub(super) fn sealed(&self) -> Option<&Sealed> {
        match &self.secret.spec {
            Spec::Secret(sealed) => Some(sealed),
            _ => None,
        }
    }

    pub(super) fn opened(&self, password: postern_core::secret::SecretBytes) -> Arc<Opened> {
        Arc::new(Opened { username: self.username.clone(), password, labels: self.labels.clone() })
    }
}
