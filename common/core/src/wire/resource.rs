//! Declared objects.

use postern_proto::resource::v1 as pb;

use super::faults::Faults;
use super::{
    allowance, credential, issuer, masking, policy, role, service_account, timestamp_or_zero, timestamp_to_proto,
    webhook,
};
use crate::name::Name;
use crate::resource::{FieldFault, Kind, Metadata, Resource, Spec};
use crate::secret::Sealed;
use crate::target::{MAX_SPARE_SESSIONS, Protocol, Route, Target, TargetTls, TlsMode};

const MAX_LABELS: usize = 64;

/// Reads an object, or tells every field that is not as it must be.
///
/// # Errors
/// All faults, by field path. A Secret in clear is a fault: whoever takes it in seals it first.
pub fn from_proto(resource: pb::Resource) -> Result<Resource, Vec<FieldFault>> {
    let mut faults = Faults::default();
    let metadata = metadata(resource.metadata, &mut faults);
    let spec = match resource.spec {
        Some(pb::resource::Spec::Issuer(spec)) => issuer::read(spec, &mut faults).map(Spec::Issuer),
        Some(pb::resource::Spec::Target(spec)) => target(spec, &mut faults).map(Spec::Target),
        Some(pb::resource::Spec::Policy(spec)) => Some(Spec::Policy(policy::read(spec, &mut faults))),
        Some(pb::resource::Spec::MaskingRule(spec)) => Some(Spec::MaskingRule(masking::rule(spec, &mut faults))),
        Some(pb::resource::Spec::Secret(spec)) => secret(spec, &mut faults).map(Spec::Secret),
        Some(pb::resource::Spec::Role(spec)) => Some(Spec::Role(role::role(spec, &mut faults))),
        Some(pb::resource::Spec::RoleBinding(spec)) => Some(Spec::RoleBinding(role::binding(spec, &mut faults))),
        Some(pb::resource::Spec::ServiceAccount(spec)) => {
            Some(Spec::ServiceAccount(service_account::read(spec, &mut faults)))
        }
        Some(pb::resource::Spec::Webhook(spec)) => Some(Spec::Webhook(webhook::read(spec, &mut faults))),
        None => {
            faults.add("spec", "is missing");
            None
        }
    };
    match (metadata, spec) {
        (Some(metadata), Some(spec)) if faults.count() == 0 => Ok(Resource { metadata, spec }),
        _ => Err(faults.into_vec()),
    }
}

/// To protobuf, whole: a Secret is sealed.
#[must_use]
pub fn to_proto(resource: &Resource) -> pb::Resource {
    let spec = match &resource.spec {
        Spec::Issuer(issuer) => pb::resource::Spec::Issuer(issuer::to_proto(issuer)),
        Spec::Target(target) => pb::resource::Spec::Target(target_to_proto(target)),
        Spec::Policy(policy) => pb::resource::Spec::Policy(policy::to_proto(policy)),
        Spec::MaskingRule(rule) => pb::resource::Spec::MaskingRule(masking::to_proto(rule)),
        Spec::Secret(sealed) => pb::resource::Spec::Secret(pb::SecretSpec {
            source: Some(pb::secret_spec::Source::Sealed(sealed_to_proto(sealed))),
        }),
        Spec::Role(spec) => pb::resource::Spec::Role(role::role_to_proto(spec)),
        Spec::RoleBinding(spec) => pb::resource::Spec::RoleBinding(role::binding_to_proto(spec)),
        Spec::ServiceAccount(spec) => pb::resource::Spec::ServiceAccount(service_account::to_proto(spec)),
        Spec::Webhook(spec) => pb::resource::Spec::Webhook(webhook::to_proto(spec)),
    };
    let metadata = pb::Metadata {
        name: resource.metadata.name.to_string(),
        labels: resource.metadata.labels.clone(),
        revision: resource.metadata.revision,
        created_at: Some(timestamp_to_proto(resource.metadata.created_at)),
        updated_at: Some(timestamp_to_proto(resource.metadata.updated_at)),
    };
    pb::Resource { metadata: Some(metadata), spec: Some(spec) }
}

/// To protobuf for readers: of a Secret only that it is there (I5).
#[must_use]
pub fn public_proto(resource: &Resource) -> pb::Resource {
    let mut proto = to_proto(resource);
    if let Some(pb::resource::Spec::Secret(secret)) = &mut proto.spec {
        secret.source = Some(pb::secret_spec::Source::Stored(true));
    }
    proto
}

/// The kind of a message, before it is read.
#[must_use]
pub const fn kind_of(resource: &pb::Resource) -> Option<Kind> {
    match &resource.spec {
        Some(pb::resource::Spec::Issuer(_)) => Some(Kind::Issuer),
        Some(pb::resource::Spec::Target(_)) => Some(Kind::Target),
        Some(pb::resource::Spec::Policy(_)) => Some(Kind::Policy),
        Some(pb::resource::Spec::MaskingRule(_)) => Some(Kind::MaskingRule),
        Some(pb::resource::Spec::Secret(_)) => Some(Kind::Secret),
        Some(pb::resource::Spec::Role(_)) => Some(Kind::Role),
        Some(pb::resource::Spec::RoleBinding(_)) => Some(Kind::RoleBinding),
        Some(pb::resource::Spec::ServiceAccount(_)) => Some(Kind::ServiceAccount),
        Some(pb::resource::Spec::Webhook(_)) => Some(Kind::Webhook),
        None => None,
    }
}

/// To protobuf.
#[must_use]
pub const fn kind_to_proto(kind: Kind) -> pb::Kind {
    match kind {
        Kind::Issuer => pb::Kind::Issuer,
        Kind::Target => pb::Kind::Target,
        Kind::Policy => pb::Kind::Policy,
        Kind::MaskingRule => pb::Kind::MaskingRule,
        Kind::Secret => pb::Kind::Secret,
        Kind::Role => pb::Kind::Role,
        Kind::RoleBinding => pb::Kind::RoleBinding,
        Kind::ServiceAccount => pb::Kind::ServiceAccount,
        Kind::Webhook => pb::Kind::Webhook,
    }
}

/// From protobuf; `None` for an unspecified or unknown kind.
#[must_use]
pub fn kind_from_proto(kind: i32) -> Option<Kind> {
    match pb::Kind::try_from(kind).ok()? {
        pb::Kind::Unspecified => None,
        pb::Kind::Issuer => Some(Kind::Issuer),
        pb::Kind::Target => Some(Kind::Target),
        pb::Kind::Policy => Some(Kind::Policy),
        pb::Kind::MaskingRule => Some(Kind::MaskingRule),
        pb::Kind::Secret => Some(Kind::Secret),
        pb::Kind::Role => Some(Kind::Role),
        pb::Kind::RoleBinding => Some(Kind::RoleBinding),
        pb::Kind::ServiceAccount => Some(Kind::ServiceAccount),
        pb::Kind::Webhook => Some(Kind::Webhook),
    }
}

/// To protobuf.
#[must_use]
pub fn sealed_to_proto(sealed: &Sealed) -> pb::Sealed {
    pb::Sealed {
        kek_id: sealed.kek_id.clone(),
        wrapped_key: sealed.wrapped_key.clone(),
        nonce: sealed.nonce.clone(),
        ciphertext: sealed.ciphertext.clone(),
    }
}

/// From protobuf; what is no sealed secret fails to open.
#[must_use]
pub fn sealed_from_proto(sealed: pb::Sealed) -> Sealed {
    Sealed {
        kek_id: sealed.kek_id,
        wrapped_key: sealed.wrapped_key,
        nonce: sealed.nonce,
        ciphertext: sealed.ciphertext,
    }
}

fn metadata(metadata: Option<pb::Metadata>, faults: &mut Faults) -> Option<Metadata> {
    let metadata = metadata.unwrap_or_default();
    faults.bound("metadata.labels", metadata.labels.len(), MAX_LABELS);
    for (key, value) in &metadata.labels {
        if key.is_empty() || key.len() > 63 || value.len() > 253 {
            faults.add(format!("metadata.labels.{key}"), "a key has 1 to 63 bytes, a value at most 253");
        }
    }
    let name = match metadata.name.parse() {
        Ok(name) => name,
        Err(error) => {
            faults.add("metadata.name", error);
            return None;
        }
    };
    Some(Metadata {
        name,
        labels: metadata.labels,
        revision: metadata.revision,
        created_at: timestamp_or_zero(metadata.created_at.as_ref()),
        updated_at: timestamp_or_zero(metadata.updated_at.as_ref()),
    })
}

fn target(spec: pb::TargetSpec, faults: &mut Faults) -> Option<Target> {
    let before = faults.count();
    let protocol = match pb::Protocol::try_from(spec.protocol) {
        Ok(pb::Protocol::Postgres) => Some(Protocol::Postgres),
        _ => {
            faults.add("spec.protocol", "must be \"postgres\"");
            None
        }
    };
    let address = spec.address.parse().map_err(|error| faults.add("spec.address", error)).ok();
    let tls = spec.tls.unwrap_or_default();
    let mode = match pb::TlsMode::try_from(tls.mode) {
        Ok(pb::TlsMode::Disable) => TlsMode::Disable,
        Ok(pb::TlsMode::Require) => TlsMode::Require,
        Ok(pb::TlsMode::VerifyCa) => TlsMode::VerifyCa,
        Ok(pb::TlsMode::VerifyFull) => TlsMode::VerifyFull,
        Ok(pb::TlsMode::Prefer | pb::TlsMode::Unspecified) => TlsMode::Prefer,
        Err(_) => {
            faults.add("spec.tls.mode", "must be one of disable, prefer, require, verify-ca, verify-full");
            TlsMode::Prefer
        }
    };
    let ca_pem = Some(tls.ca_pem).filter(|pem| !pem.is_empty());
    if matches!(mode, TlsMode::VerifyCa | TlsMode::VerifyFull) && ca_pem.is_none() {
        faults.add("spec.tls.ca", "is needed by verify-ca and verify-full");
    }
    if tls.direct && !mode.is_demanded() {
        faults.add("spec.tls.mode", "must be require, verify-ca or verify-full where TLS is direct");
    }
    let credential = credential::read(spec.credential.unwrap_or_default(), mode, faults);
    let route = optional_name("spec.agentPool", &spec.agent_pool, faults).map_or(Route::Direct, Route::AgentPool);
    faults.bound_all("spec.databases", &spec.databases);
    let limits = allowance::read(spec.limits, faults);
    let spare_sessions = u8::try_from(spec.spare_sessions).ok().filter(|spare| *spare <= MAX_SPARE_SESSIONS);
    if spare_sessions.is_none() {
        faults.add("spec.spareSessions", format!("must be at most {MAX_SPARE_SESSIONS}"));
    }
    let (Some(protocol), Some(address), true) = (protocol, address, faults.count() == before) else { return None };
    Some(Target {
        protocol,
        address,
        tls: TargetTls {
            mode,
            ca_pem,
            server_name: Some(tls.server_name).filter(|name| !name.is_empty()),
            direct: tls.direct,
        },
        credential,
        route,
        databases: spec.databases,
        disabled: spec.disabled,
        limits,
        spare_sessions: spare_sessions.unwrap_or_default(),
    })
}

fn target_to_proto(target: &Target) -> pb::TargetSpec {
    let mode = match target.tls.mode {
        TlsMode::Disable => pb::TlsMode::Disable,
        TlsMode::Prefer => pb::TlsMode::Prefer,
        TlsMode::Require => pb::TlsMode::Require,
        TlsMode::VerifyCa => pb::TlsMode::VerifyCa,
        TlsMode::VerifyFull => pb::TlsMode::VerifyFull,
    };
    let protocol = match target.protocol {
        Protocol::Postgres => pb::Protocol::Postgres,
    };
    pb::TargetSpec {
        protocol: protocol.into(),
        address: target.address.to_string(),
        tls: Some(pb::TargetTls {
            mode: mode.into(),
            ca_pem: target.tls.ca_pem.clone().unwrap_or_default(),
            server_name: target.tls.server_name.clone().unwrap_or_default(),
            direct: target.tls.direct,
        }),
        credential: Some(credential::to_proto(&target.credential)),
        agent_pool: match &target.route {
            Route::Direct => String::new(),
            Route::AgentPool(pool) => pool.to_string(),
        },
        databases: target.databases.clone(),
        disabled: target.disabled,
        limits: allowance::to_proto(target.limits),
        spare_sessions: target.spare_sessions.into(),
    }
}

fn secret(spec: pb::SecretSpec, faults: &mut Faults) -> Option<Sealed> {
    match spec.source {
        Some(pb::secret_spec::Source::Sealed(sealed)) => Some(sealed_from_proto(sealed)),
        Some(pb::secret_spec::Source::Value(_)) => {
            faults.add("spec.value", "must be sealed first");
            None
        }
        Some(pb::secret_spec::Source::Stored(_)) | None => {
            faults.add("spec", "has no value");
            None
        }
    }
}

pub(super) fn optional_name(path: &str, text: &str, faults: &mut Faults) -> Option<Name> {
    if text.is_empty() {
        return None;
    }
    text.parse().map_err(|error| faults.add(path, error)).ok()
}

#[cfg(test)]
#[path = "resource_tests.rs"]
mod tests;
