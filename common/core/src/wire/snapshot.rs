//! The policy that gateways decide by: whole, by its changes, and the credentials that go with it.

use std::collections::BTreeMap;
use std::sync::Arc;

use postern_proto::gateway::v1 as pb;
use postern_proto::resource::v1::Resource as ResourceProto;

use super::access::{grant_from_proto, grant_to_proto};
use super::{WireError, older, parse, resource};
use crate::delta::Delta;
use crate::name::Name;
use crate::resource::{Metadata, Resource, Spec};
use crate::revocation::{self, Revocations};
use crate::secret::SecretBytes;
use crate::snapshot::{Credentials, Snapshot};
use crate::time::Timestamp;

/// What gateways of levels before 4 do not know: it is told apart, as they would take it for something else.
const fn is_on_request(spec: &Spec) -> bool {
    matches!(spec, Spec::Policy(policy) if policy.on_request.is_some() || policy.cedar.is_some())
}

/// To protobuf. Credentials and the key of masks stay here: they are never part of what is signed (I5).
#[must_use]
pub fn to_proto(snapshot: &Snapshot) -> pb::Snapshot {
    let none = BTreeMap::new();
    let mut resources = Vec::new();
    for (name, (issuer, _)) in &snapshot.issuers {
        resources.push(object(name, &none, Spec::Issuer(issuer.clone())));
    }
    let targets =
        snapshot.targets.iter().map(|(name, target)| (name, &target.labels, Spec::Target(target.value.clone())));
    let policies = snapshot.policies.iter().map(|(name, policy)| (name, &none, Spec::Policy(policy.clone())));
    let rules = snapshot.masking.iter().map(|(name, rule)| (name, &none, Spec::MaskingRule(rule.clone())));
    let (mut on_request, mut newer, mut newest) = (Vec::new(), Vec::new(), Vec::new());
    for (name, labels, spec) in targets.chain(policies).chain(rules) {
        if let Some(spec) = older::told(&spec) {
            let list = if is_on_request(&spec) { &mut on_request } else { &mut resources };
            list.push(object(name, labels, spec.into_owned()));
        }
        if older::is_newer(&spec) {
            let list = if older::is_newest(&spec) { &mut newest } else { &mut newer };
            list.push(object(name, labels, spec));
        }
    }
    let issuer_keys = snapshot.issuers.iter().filter_map(|(name, (_, keys))| {
        keys.as_ref().map(|jwks| pb::IssuerKeys { issuer: name.to_string(), jwks: jwks.clone() })
    });
    pb::Snapshot {
        revision: snapshot.revision,
        cluster_id: snapshot.cluster_id.clone(),
        incarnation: snapshot.incarnation.clone(),
        resources,
        issuer_keys: issuer_keys.collect(),
        session_token_jwks: snapshot.session_token_jwks.clone(),
        revoked_serials: snapshot.revoked.iter().cloned().collect(),
        revocations: snapshot.revocations.to_bytes(),
        on_request,
        grants: snapshot.grants.iter().map(grant_to_proto).collect(),
        newer,
        newest,
    }
}

/// From protobuf, whole or not at all: a gateway never decides by part of a policy. Without credentials.
///
/// # Errors
/// When any object in it is not valid.
pub fn from_proto(proto: pb::Snapshot) -> Result<Snapshot, WireError> {
    let mut snapshot = Snapshot {
        revision: proto.revision,
        session_token_jwks: proto.session_token_jwks,
        revoked: Arc::new(proto.revoked_serials.into_iter().collect()),
        revocations: Revocations::from_bytes(&proto.revocations)
            .map_err(|error| WireError::new("snapshot.revocations", error))?,
        grants: proto.grants.into_iter().map(grant_from_proto).collect::<Result<_, _>>()?,
        ..Snapshot::empty(&proto.cluster_id, &proto.incarnation)
    };
    // The last of a name holds: those before it stand for it where it is not known.
    let objects = proto.resources.into_iter().chain(proto.on_request).chain(proto.newer).chain(proto.newest);
    for (place, object) in objects.enumerate() {
        let field = || format!("snapshot.resources[{place}]");
        let object = read(object, field)?;
        snapshot.put(object).map_err(|error| WireError::new(field(), error))?;
    }
    for keys in proto.issuer_keys {
        let name: Name = parse("snapshot.issuer_keys", &keys.issuer)?;
        snapshot.set_keys(&name, Some(keys.jwks));
    }
    Ok(snapshot)
}

/// To protobuf.
#[must_use]
pub fn delta_to_proto(delta: &Delta) -> pb::Delta {
    let for_older = |object: &Resource| {
        let spec = older::told(&object.spec)?.into_owned();
        Some(Resource { metadata: object.metadata.clone(), spec })
    };
    let older: Vec<Resource> = delta.upserts.iter().filter_map(for_older).collect();
    let on_request = |object: &&Resource| is_on_request(&object.spec);
    // To a gateway that does not know of such an object it is gone: it must not go on with what it had of that name.
    let gone = |object: &&Resource| on_request(object) || older::told(&object.spec).is_none();
    let unknown = delta.upserts.iter().filter(gone).map(|object| (object.spec.kind(), &object.metadata.name));
    let deletes = delta
        .deletes
        .iter()
        .map(|(kind, name)| (*kind, name))
        .chain(unknown)
        .map(|(kind, name)| pb::ObjectName { kind: resource::kind_to_proto(kind).into(), name: name.to_string() });
    let issuer_keys = delta
        .issuer_keys
        .iter()
        .map(|(name, keys)| pb::IssuerKeys { issuer: name.to_string(), jwks: keys.clone().unwrap_or_default() });
    let told = |upsert: &Resource| object(&upsert.metadata.name, &upsert.metadata.labels, upsert.spec.clone());
    let (newest, newer): (Vec<_>, Vec<_>) = (delta.upserts.iter().filter(|object| older::is_newer(&object.spec)))
        .partition(|object| older::is_newest(&object.spec));
    pb::Delta {
        incarnation: delta.incarnation.clone(),
        from_revision: delta.from_revision,
        revision: delta.revision,
        upserts: older.iter().filter(|object| !on_request(object)).map(told).collect(),
        deletes: deletes.collect(),
        issuer_keys: issuer_keys.collect(),
        session_token_jwks: delta.session_token_jwks.clone().unwrap_or_default(),
        revoked_serials: delta.revoked.clone(),
        revocations: revocation::encode(&delta.revocations),
        revocations_over: delta.revocations_over,
        on_request: older.iter().filter(on_request).map(told).collect(),
        newer: newer.into_iter().map(told).collect(),
        newest: newest.into_iter().map(told).collect(),
        grants: delta.grants.iter().map(grant_to_proto).collect(),
        ended_grants: delta.ended_grants.iter().map(ToString::to_string).collect(),
    }
}

/// From protobuf.
///
/// # Errors
/// When any object in it is not valid.
pub fn delta_from_proto(proto: pb::Delta) -> Result<Delta, WireError> {
    let ended = proto.ended_grants.iter().map(|id| parse("delta.ended_grants", id));
    let named = |object: &ResourceProto| {
        let kind = object.spec.as_ref().map(std::mem::discriminant);
        object.metadata.as_ref().map(|metadata| (metadata.name.clone(), kind))
    };
    let known: Vec<_> = proto.newer.iter().chain(&proto.newest).map(named).collect();
    // What stands for an object where it is not known is nothing to us.
    let stands_in = |object: &ResourceProto| known.contains(&named(object));
    let upserts = proto.upserts.into_iter().chain(proto.on_request).filter(|object| !stands_in(object));
    let upserts = upserts.chain(proto.newer).chain(proto.newest).enumerate();
    let upserts = upserts.map(|(place, object)| read(object, || format!("delta.upserts[{place}]")));
    let deletes = proto.deletes.into_iter().map(|gone| {
        let kind =
            resource::kind_from_proto(gone.kind).ok_or_else(|| WireError::new("delta.deletes", "of no known kind"))?;
        Ok((kind, parse("delta.deletes", &gone.name)?))
    });
    let issuer_keys = proto.issuer_keys.into_iter().map(|keys| {
        let name = parse("delta.issuer_keys", &keys.issuer)?;
        Ok((name, Some(keys.jwks).filter(|jwks| !jwks.is_empty())))
    });
    Ok(Delta {
        incarnation: proto.incarnation,
        from_revision: proto.from_revision,
        revision: proto.revision,
        upserts: upserts.collect::<Result<_, _>>()?,
        deletes: deletes.collect::<Result<_, WireError>>()?,
        issuer_keys: issuer_keys.collect::<Result<_, WireError>>()?,
        session_token_jwks: Some(proto.session_token_jwks).filter(|jwks| !jwks.is_empty()),
        revoked: proto.revoked_serials,
        revocations: revocation::decode(&proto.revocations)
            .map_err(|error| WireError::new("delta.revocations", error))?,
        revocations_over: proto.revocations_over,
        grants: proto.grants.into_iter().map(grant_from_proto).collect::<Result<_, _>>()?,
        ended_grants: ended.collect::<Result<_, _>>()?,
    })
}

/// From protobuf.
///
/// # Errors
/// When a name in it is none.
pub fn credentials_from_proto(proto: pb::Credentials) -> Result<Credentials, WireError> {
    let mut credentials = Credentials { whole: proto.whole, ..Credentials::default() };
    for credential in proto.credentials {
        // Taken over first, so that it is wiped whatever comes.
        let password = SecretBytes::new(credential.password);
        credentials.passwords.insert(parse("credentials.target", &credential.target)?, password);
    }
    for removed in &proto.removed {
        credentials.removed.push(parse("credentials.removed", removed)?);
    }
    credentials.mask_key = Some(proto.mask_key).filter(|key| !key.is_empty()).map(SecretBytes::new);
    Ok(credentials)
}

/// Without what gateways have no use for.
fn object(name: &Name, labels: &BTreeMap<String, String>, spec: Spec) -> ResourceProto {
    let metadata = Metadata {
        name: name.clone(),
        labels: labels.clone(),
        revision: 0,
        created_at: Timestamp::default(),
        updated_at: Timestamp::default(),
    };
    resource::to_proto(&Resource { metadata, spec })
}

fn read(object: ResourceProto, field: impl Fn() -> String) -> Result<Resource, WireError> {
    resource::from_proto(object).map_err(|faults| {
        let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
        WireError::new(field(), faults.join("; "))
    })
}
