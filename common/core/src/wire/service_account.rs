//! Service accounts.

use postern_proto::resource::v1 as pb;

use super::faults::{Faults, MAX_TEXT};
use super::issuer::check_jwks;
use crate::service_account::{SERVICE_ACCOUNT_KEYS, ServiceAccount};
use crate::token::SESSION_TOKEN_MAX_TTL;

/// What a public key begins and ends with (RFC 7468, section 13).
const PEM: [&str; 2] = ["-----BEGIN PUBLIC KEY-----", "-----END PUBLIC KEY-----"];

pub(super) fn read(spec: pb::ServiceAccountSpec, faults: &mut Faults) -> ServiceAccount {
    faults.bound("spec.description", spec.description.len(), MAX_TEXT);
    faults.bound("spec.publicKeys", spec.public_keys.len(), SERVICE_ACCOUNT_KEYS);
    faults.bound_all("spec.publicKeys", &spec.public_keys);
    for (place, pem) in spec.public_keys.iter().enumerate() {
        let path = format!("spec.publicKeys[{place}]");
        if pem.contains("PRIVATE KEY") {
            // Not in the message: what it holds is secret (I5).
            faults.add(path, "holds a private key: give public keys only, and take that one for compromised");
        } else if !pem.trim().starts_with(PEM[0]) || !pem.trim().ends_with(PEM[1]) {
            faults.add(path, "must be one public key in PEM (-----BEGIN PUBLIC KEY-----)");
        }
    }
    if !spec.jwks.is_empty() {
        check_jwks("spec.jwks", &spec.jwks, faults);
    } else if spec.public_keys.is_empty() {
        faults.add("spec.publicKeys", "is needed, or jwks: by its keys the account is known");
    }
    faults.bound_all("spec.groups", &spec.groups);
    if spec.groups.iter().any(|group| group == "*") {
        faults.add("spec.groups", "must name groups");
    }
    faults.bound_all("spec.networks", &spec.networks);
    let mut networks = Vec::new();
    for (place, text) in spec.networks.iter().enumerate() {
        match text.parse() {
            Ok(network) => networks.push(network),
            Err(error) => faults.add(format!("spec.networks[{place}]"), error),
        }
    }
    faults.bound("spec.networks", networks.len(), crate::scope::SCOPE_ENTRIES);
    if spec.max_token_ttl_seconds > SESSION_TOKEN_MAX_TTL {
        faults.add("spec.maxTokenTtl", format!("must be at most {SESSION_TOKEN_MAX_TTL} seconds"));
    }
    ServiceAccount {
        description: spec.description,
        public_keys: spec.public_keys,
        jwks: spec.jwks,
        groups: spec.groups.into_iter().map(Into::into).collect(),
        networks,
        max_token_ttl: Some(spec.max_token_ttl_seconds).filter(|most| *most > 0),
        disabled: spec.disabled,
    }
}

pub(super) fn to_proto(account: &ServiceAccount) -> pb::ServiceAccountSpec {
    pb::ServiceAccountSpec {
        description: account.description.clone(),
        public_keys: account.public_keys.clone(),
        jwks: account.jwks.clone(),
        groups: account.groups.iter().map(ToString::to_string).collect(),
        networks: account.networks.iter().map(ToString::to_string).collect(),
        max_token_ttl_seconds: account.max_token_ttl.unwrap_or_default(),
        disabled: account.disabled,
    }
}
