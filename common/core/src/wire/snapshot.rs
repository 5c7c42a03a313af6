//! The snapshot that gateways decide by.

use std::collections::BTreeMap;

use postern_proto::gateway::v1 as pb;

use super::{WireError, parse, resource};
use crate::name::Name;
use crate::resource::{Metadata, Resource, Spec};
use crate::secret::SecretBytes;
use crate::snapshot::{Labeled, Snapshot};
use crate::time::Timestamp;

/// To protobuf.
#[must_use]
pub fn to_proto(snapshot: &Snapshot) -> pb::Snapshot {
    let none = BTreeMap::new();
    let object = |name: &Name, labels: &BTreeMap<String, String>, spec: Spec| {
        let metadata = Metadata {
            name: name.clone(),
            labels: labels.clone(),
            revision: 0,
            created_at: Timestamp::default(),
            updated_at: Timestamp::default(),
        };
        resource::to_proto(&Resource { metadata, spec })
    };
    let mut resources = Vec::new();
    for (name, (issuer, _)) in &snapshot.issuers {
        resources.push(object(name, &none, Spec::Issuer(issuer.clone())));
    }
    for (name, target) in &snapshot.targets {
        resources.push(object(name, &target.labels, Spec::Target(target.value.clone())));
    }
    for (name, policy) in &snapshot.policies {
        resources.push(object(name, &none, Spec::Policy(policy.clone())));
    }
    for (name, rule) in &snapshot.masking {
        resources.push(object(name, &none, Spec::MaskingRule(rule.clone())));
    }
    let issuer_keys = snapshot.issuers.iter().filter_map(|(name, (_, keys))| {
        keys.as_ref().map(|jwks| pb::IssuerKeys { issuer: name.to_string(), jwks: jwks.clone() })
    });
    let credentials = snapshot.credentials.iter().map(|(target, password)| pb::Credential {
        target: target.to_string(),
        username: snapshot.targets.get(target).map(|t| t.value.credential.username.clone()).unwrap_or_default(),
        password: password.expose().to_vec(),
    });
    pb::Snapshot {
        revision: snapshot.revision,
        cluster_id: snapshot.cluster_id.clone(),
        resources,
        issuer_keys: issuer_keys.collect(),
        credentials: credentials.collect(),
        session_token_jwks: snapshot.session_token_jwks.clone(),
        mask_key: snapshot.mask_key.expose().to_vec(),
    }
}

/// From protobuf, whole or not at all: a gateway never decides by part of a policy.
///
/// # Errors
/// When any object in it is not valid.
pub fn from_proto(proto: pb::Snapshot) -> Result<Snapshot, WireError> {
    let mut snapshot = Snapshot {
        revision: proto.revision,
        cluster_id: proto.cluster_id,
        issuers: BTreeMap::new(),
        targets: BTreeMap::new(),
        policies: BTreeMap::new(),
        masking: BTreeMap::new(),
        credentials: BTreeMap::new(),
        session_token_jwks: proto.session_token_jwks,
        mask_key: SecretBytes::new(proto.mask_key),
    };
    for (place, object) in proto.resources.into_iter().enumerate() {
        let object = resource::from_proto(object).map_err(|faults| {
            let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
            WireError::new(format!("snapshot.resources[{place}]"), faults.join("; "))
        })?;
        let Metadata { name, labels, .. } = object.metadata;
        match object.spec {
            Spec::Issuer(issuer) => drop(snapshot.issuers.insert(name, (issuer, None))),
            Spec::Target(value) => drop(snapshot.targets.insert(name, Labeled { labels, value })),
            Spec::Policy(policy) => drop(snapshot.policies.insert(name, policy)),
            Spec::MaskingRule(rule) => drop(snapshot.masking.insert(name, rule)),
            Spec::Secret(_) | Spec::Role(_) | Spec::RoleBinding(_) => {
                return Err(WireError::new("snapshot.resources", "holds an object that is not for gateways"));
            }
        }
    }
    for keys in proto.issuer_keys {
        let name: Name = parse("snapshot.issuer_keys", &keys.issuer)?;
        if let Some((_, jwks)) = snapshot.issuers.get_mut(&name) {
            *jwks = Some(keys.jwks);
        }
    }
    for credential in proto.credentials {
        let target = parse("snapshot.credentials", &credential.target)?;
        snapshot.credentials.insert(target, SecretBytes::new(credential.password));
    }
    Ok(snapshot)
}
