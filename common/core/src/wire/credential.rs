//! Where a target's credential comes from, and what it is.

use postern_proto::resource::v1 as pb;

use super::faults::{Faults, MAX_TEXT};
use crate::target::{CredentialKind, CredentialRef, CredentialSource, TlsMode, VaultDatabase, VaultKv};

type Source = pb::target_credential::Source;

pub(super) fn read(credential: pb::TargetCredential, mode: TlsMode, faults: &mut Faults) -> CredentialRef {
    let kind = match credential.r#type() {
        pb::CredentialType::Unspecified | pb::CredentialType::Password => CredentialKind::Password,
        pb::CredentialType::Certificate => CredentialKind::Certificate,
    };
    if pb::CredentialType::try_from(credential.r#type).is_err() {
        faults.add("spec.credential.type", "must be password or certificate");
    }
    let username = credential.username;
    let source = match credential.source {
        None => CredentialSource::None,
        // An empty name was always the same as none.
        Some(Source::Secret(name)) if name.is_empty() => CredentialSource::None,
        Some(Source::Secret(name)) => match name.parse() {
            Ok(name) => CredentialSource::Secret(name),
            Err(error) => {
                faults.add("spec.credential.secret", error);
                CredentialSource::None
            }
        },
        Some(Source::Env(variable)) => {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            if variable.is_empty() || variable.len() > 255 || !variable.bytes().all(plain) {
                faults.add("spec.credential.env", "must be a variable's name: letters, digits and _");
            }
            CredentialSource::Env(variable)
        }
        Some(Source::File(path)) => {
            let steps_out = path.split('/').any(|part| part == "..");
            if !path.starts_with('/') || path.len() > MAX_TEXT || path.contains('\0') || steps_out {
                faults.add("spec.credential.file", "must be an absolute path without \"..\"");
            }
            CredentialSource::File(path)
        }
        Some(Source::VaultKv(kv)) => {
            let mount = vault_path("spec.credential.vaultKv.mount", kv.mount, "secret", faults);
            let path = vault_path("spec.credential.vaultKv.path", kv.path, "", faults);
            let field = if kv.field.is_empty() { "password".to_owned() } else { kv.field };
            faults.bound("spec.credential.vaultKv.field", field.len(), 255);
            CredentialSource::VaultKv(VaultKv { mount, path, field, version: kv.version })
        }
        Some(Source::VaultDatabase(database)) => CredentialSource::VaultDatabase(VaultDatabase {
            mount: vault_path("spec.credential.vaultDatabase.mount", database.mount, "database", faults),
            role: vault_path("spec.credential.vaultDatabase.role", database.role, "", faults),
        }),
    };
    if kind == CredentialKind::Certificate {
        if matches!(source, CredentialSource::None | CredentialSource::VaultDatabase(_)) {
            faults.add("spec.credential.type", "certificate needs one of secret, env, file, vaultKv");
        }
        // Else it would be shown where nobody asked for it, or not at all.
        if !mode.is_demanded() {
            faults
                .add("spec.tls.mode", "must be require, verify-ca or verify-full for a credential of type certificate");
        }
    }
    let dynamic = matches!(source, CredentialSource::VaultDatabase(_));
    if dynamic && !username.is_empty() {
        faults.add("spec.credential.username", "must be empty: vaultDatabase brings a name of its own");
    }
    if !dynamic && (username.is_empty() || username.len() > 63 || username.contains('\0')) {
        faults.add("spec.credential.username", "must have 1 to 63 bytes");
    }
    CredentialRef { username, kind, source }
}

pub(super) fn to_proto(credential: &CredentialRef) -> pb::TargetCredential {
    let source = match &credential.source {
        CredentialSource::None => None,
        CredentialSource::Secret(name) => Some(Source::Secret(name.to_string())),
        CredentialSource::Env(variable) => Some(Source::Env(variable.clone())),
        CredentialSource::File(path) => Some(Source::File(path.clone())),
        CredentialSource::VaultKv(kv) => Some(Source::VaultKv(pb::VaultKv {
            mount: kv.mount.clone(),
            path: kv.path.clone(),
            field: kv.field.clone(),
            version: kv.version,
        })),
        CredentialSource::VaultDatabase(database) => Some(Source::VaultDatabase(pb::VaultDatabase {
            mount: database.mount.clone(),
            role: database.role.clone(),
        })),
    };
    let kind = match credential.kind {
        CredentialKind::Password => pb::CredentialType::Unspecified,
        CredentialKind::Certificate => pb::CredentialType::Certificate,
    };
    pb::TargetCredential { username: credential.username.clone(), source, r#type: kind.into() }
}

/// A path in Vault's API: it becomes part of a URL, so nothing in it may lead elsewhere.
fn vault_path(field: &str, path: String, default: &str, faults: &mut Faults) -> String {
    let path = if path.is_empty() { default.to_owned() } else { path };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'_' | b'.');
    let steps = path.split('/').any(|part| matches!(part, "" | "." | ".."));
    if path.is_empty() || path.len() > 255 || steps || !path.bytes().all(plain) {
        faults.add(field, "must be 1 to 255 letters, digits, -, _ and . in parts divided by /");
    }
    path
}
