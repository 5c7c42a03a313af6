//! Nodes, join tokens, certificates and the audit log.

use postern_proto::resource::v1 as pb;

use super::identity::{principal_from_proto, principal_to_proto};
use super::selector::targets_to_proto;
use super::{WireError, parse, timestamp_from_proto, timestamp_or_zero, timestamp_to_proto};
use crate::audit::AuditRecord;
use crate::cluster::{ControlNode, GatewayNode, JoinToken, NodeCertificate, Revocation};
use crate::name::Name;
use crate::node::NodeRole;
use crate::operation::Digest;
use crate::target::TargetSelector;

/// To protobuf.
#[must_use]
pub const fn role_to_proto(role: NodeRole) -> pb::NodeRole {
    match role {
        NodeRole::Control => pb::NodeRole::Control,
        NodeRole::Gateway => pb::NodeRole::Gateway,
        NodeRole::Agent => pb::NodeRole::Agent,
        NodeRole::Admin => pb::NodeRole::Admin,
    }
}

/// From protobuf.
///
/// # Errors
/// For an unspecified or unknown role.
pub fn role_from_proto(role: i32) -> Result<NodeRole, WireError> {
    match pb::NodeRole::try_from(role) {
        Ok(pb::NodeRole::Control) => Ok(NodeRole::Control),
        Ok(pb::NodeRole::Gateway) => Ok(NodeRole::Gateway),
        Ok(pb::NodeRole::Agent) => Ok(NodeRole::Agent),
        Ok(pb::NodeRole::Admin) => Ok(NodeRole::Admin),
        Ok(pb::NodeRole::Unspecified) | Err(_) => {
            Err(WireError::new("role", "must be control, gateway, agent or admin"))
        }
    }
}

/// To protobuf.
#[must_use]
pub fn node_to_proto(node: &ControlNode) -> pb::ControlNode {
    pb::ControlNode {
        id: node.id,
        name: node.name.to_string(),
        peer_address: node.peer_address.clone(),
        api_address: node.api_address.clone(),
        feature_level: node.feature_level,
        kek_ids: node.kek_ids.clone(),
        version: node.version.clone(),
        joined_at: Some(timestamp_to_proto(node.joined_at)),
        revision: node.revision,
        learner: node.learner,
    }
}

/// From protobuf.
///
/// # Errors
/// When its name is none, or a text in it is too long.
pub fn node_from_proto(node: pb::ControlNode) -> Result<ControlNode, WireError> {
    let texts = [&node.peer_address, &node.api_address, &node.version];
    if texts.into_iter().chain(&node.kek_ids).any(|text| text.len() > 256) || node.kek_ids.len() > 16 {
        return Err(WireError::new("node", "holds a text longer than 256 bytes, or more than 16 keys"));
    }
    Ok(ControlNode {
        id: node.id,
        name: parse("node.name", &node.name)?,
        peer_address: node.peer_address,
        api_address: node.api_address,
        feature_level: node.feature_level,
        kek_ids: node.kek_ids,
        version: node.version,
        joined_at: timestamp_or_zero(node.joined_at.as_ref()),
        revision: node.revision,
        learner: node.learner,
    })
}

/// To protobuf, whole: with the digest of its secret.
#[must_use]
pub fn token_to_proto(token: &JoinToken) -> pb::JoinToken {
    pb::JoinToken { secret_sha256: token.secret_sha256.0.to_vec(), ..public_token_to_proto(token) }
}

/// To protobuf for readers.
#[must_use]
pub fn public_token_to_proto(token: &JoinToken) -> pb::JoinToken {
    pb::JoinToken {
        id: token.id.clone(),
        role: role_to_proto(token.role).into(),
        secret_sha256: Vec::new(),
        uses_left: token.uses_left,
        expires_at: Some(timestamp_to_proto(token.expires_at)),
        created_at: Some(timestamp_to_proto(token.created_at)),
        created_by: token.created_by.clone(),
        agent_pool: optional_to_proto(token.agent_pool.as_ref()),
        serves: token.serves.as_ref().map(targets_to_proto),
        name: optional_to_proto(token.name.as_ref()),
        learner: token.learner,
        revision: token.revision,
    }
}

/// From protobuf.
///
/// # Errors
/// When a name, the role or the digest in it is none.
pub fn token_from_proto(token: pb::JoinToken) -> Result<JoinToken, WireError> {
    Ok(JoinToken {
        id: token.id,
        role: role_from_proto(token.role)?,
        secret_sha256: Digest::from_slice(&token.secret_sha256)
            .ok_or_else(|| WireError::new("token.secret_sha256", "has not 32 bytes"))?,
        uses_left: token.uses_left,
        expires_at: timestamp_or_zero(token.expires_at.as_ref()),
        created_at: timestamp_or_zero(token.created_at.as_ref()),
        created_by: token.created_by,
        agent_pool: optional("token.agent_pool", &token.agent_pool)?,
        serves: token.serves.map(serves_from_proto),
        name: optional("token.name", &token.name)?,
        learner: token.learner,
        revision: token.revision,
    })
}

/// To protobuf.
#[must_use]
pub fn certificate_to_proto(certificate: &NodeCertificate) -> pb::NodeCertificate {
    let revoked = certificate.revoked.as_ref();
    pb::NodeCertificate {
        serial: certificate.serial.clone(),
        role: role_to_proto(certificate.role).into(),
        name: certificate.name.to_string(),
        agent_pool: optional_to_proto(certificate.agent_pool.as_ref()),
        issued_at: Some(timestamp_to_proto(certificate.issued_at)),
        not_after: Some(timestamp_to_proto(certificate.not_after)),
        revoked_at: revoked.map(|revoked| timestamp_to_proto(revoked.at)),
        revoked_by: revoked.map(|revoked| revoked.by.clone()).unwrap_or_default(),
        revoked_because: revoked.map(|revoked| revoked.because.clone()).unwrap_or_default(),
        revision: certificate.revision,
    }
}

/// From protobuf.
///
/// # Errors
/// When a name, the role or the serial in it is none.
pub fn certificate_from_proto(certificate: pb::NodeCertificate) -> Result<NodeCertificate, WireError> {
    let hexadecimal = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if !(1..=64).contains(&certificate.serial.len()) || !certificate.serial.bytes().all(hexadecimal) {
        return Err(WireError::new("certificate.serial", "must be 1 to 64 lower-case hexadecimal digits"));
    }
    let (by, because) = (certificate.revoked_by, certificate.revoked_because);
    Ok(NodeCertificate {
        serial: certificate.serial,
        role: role_from_proto(certificate.role)?,
        name: parse("certificate.name", &certificate.name)?,
        agent_pool: optional("certificate.agent_pool", &certificate.agent_pool)?,
        issued_at: timestamp_or_zero(certificate.issued_at.as_ref()),
        not_after: timestamp_or_zero(certificate.not_after.as_ref()),
        revoked: certificate.revoked_at.as_ref().map(|at| Revocation { at: timestamp_from_proto(at), by, because }),
        revision: certificate.revision,
    })
}

/// To protobuf.
#[must_use]
pub fn gateway_to_proto(gateway: &GatewayNode) -> pb::GatewayNode {
    pb::GatewayNode {
        name: gateway.name.to_string(),
        serves: gateway.serves.as_ref().map(targets_to_proto),
        joined_at: Some(timestamp_to_proto(gateway.joined_at)),
        revision: gateway.revision,
    }
}

/// From protobuf.
///
/// # Errors
/// When its name is none.
pub fn gateway_from_proto(gateway: pb::GatewayNode) -> Result<GatewayNode, WireError> {
    Ok(GatewayNode {
        name: parse("gateway.name", &gateway.name)?,
        serves: gateway.serves.map(serves_from_proto),
        joined_at: timestamp_or_zero(gateway.joined_at.as_ref()),
        revision: gateway.revision,
    })
}

/// To protobuf.
#[must_use]
pub fn audit_to_proto(record: &AuditRecord) -> pb::AuditRecord {
    pb::AuditRecord {
        sequence: record.sequence,
        at: Some(timestamp_to_proto(record.at)),
        principal: record.principal.as_ref().map(principal_to_proto),
        certificate: record.certificate.clone(),
        client_address: record.client_address.clone(),
        node: record.node.clone(),
        method: record.method.clone(),
        objects: record.objects.clone(),
        code: record.code.clone(),
        reason: record.reason.clone(),
        request_id: record.request_id.clone(),
        dry_run: record.dry_run,
        count: record.count,
        hash: record.hash.to_vec(),
    }
}

/// From protobuf; a hash that has not 32 bytes is read as none.
///
/// # Errors
/// When the principal in it is none.
pub fn audit_from_proto(record: pb::AuditRecord) -> Result<AuditRecord, WireError> {
    Ok(AuditRecord {
        sequence: record.sequence,
        at: timestamp_or_zero(record.at.as_ref()),
        principal: record.principal.map(principal_from_proto).transpose()?,
        certificate: record.certificate,
        client_address: record.client_address,
        node: record.node,
        method: record.method,
        objects: record.objects,
        code: record.code,
        reason: record.reason,
        request_id: record.request_id,
        dry_run: record.dry_run,
        count: record.count,
        hash: record.hash.try_into().unwrap_or_default(),
    })
}

pub(super) fn serves_from_proto(selector: pb::TargetSelector) -> TargetSelector {
    TargetSelector { names: selector.names, labels: selector.labels }
}

fn optional(field: &str, text: &str) -> Result<Option<Name>, WireError> {
    if text.is_empty() { Ok(None) } else { parse(field, text).map(Some) }
}

fn optional_to_proto(name: Option<&Name>) -> String {
    name.map(ToString::to_string).unwrap_or_default()
}
