//! The accounts that the gateway logs in to targets with. References are resolved here, where the target is dialled: the control plane
//! sees neither the gateway's environment and files, nor what its Vault holds.
//!
//! What may be resolved at all, the gateway's own configuration says: whoever declares targets must not be able to read any file of the
//! gateway by sending its content to a server of theirs.

mod allow;
pub(crate) mod config;
mod leases;
mod local;
#[cfg(test)]
mod tests;
mod vault;

use std::sync::Arc;

use postern_core::Code;
use postern_core::secret::SecretBytes;
use postern_core::target::{CredentialKind, CredentialSource};
use postern_runtime::vault::{Vault, VaultError};
use tokio_util::sync::CancellationToken;

use crate::upstream::Destination;
use allow::Allowed;
use config::CredentialsConfig;
pub(crate) use leases::Holding;
use vault::FromVault;

/// An account on a target.
#[derive(Clone)]
pub(crate) struct Account {
    pub(crate) username: String,
    pub(crate) proof: Proof,
    /// As long as this is held, its lease is kept up.
    pub(crate) holding: Option<Arc<Holding>>,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Account").field("username", &self.username).finish_non_exhaustive()
    }
}

/// By what a target knows the gateway as the account's own.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Proof {
    /// May be empty, where the target asks for none.
    Password(SecretBytes),
    /// A private key and its certificate, PEM, and a password, where the target asks for both.
    Certificate(SecretBytes, Option<SecretBytes>),
}

/// What a line of a certificate's source begins with that is the password beside it.
const PASSWORD: &[u8] = b"password: ";

impl Proof {
    fn of(kind: CredentialKind, secret: SecretBytes) -> Self {
        match kind {
            CredentialKind::Password => Self::Password(secret),
            CredentialKind::Certificate => {
                // Before the first of PEM's blocks, which pass over such lines: a gateway that does not know it shows the certificate alone.
                let mut lines =
                    secret.expose().split(|byte| *byte == b'\n').take_while(|line| !line.starts_with(b"-----"));
                let password = lines.find_map(|line| line.strip_prefix(PASSWORD));
                let password = password.map(|line| SecretBytes::new(line.strip_suffix(b"\r").unwrap_or(line).to_vec()));
                Self::Certificate(secret, password)
            }
        }
    }

    /// What is shown as a password.
    pub(crate) fn password(&self) -> Option<&SecretBytes> {
        match self {
            Self::Password(password) => Some(password),
            Self::Certificate(_, password) => password.as_ref(),
        }
    }

    /// What is shown in the handshake of TLS.
    pub(crate) fn certificate(&self) -> Option<&SecretBytes> {
        match self {
            Self::Password(_) => None,
            Self::Certificate(pem, _) => Some(pem),
        }
    }
}

/// A target's credential cannot be had. For the log; names no secret.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum CredentialError {
    #[error("its secret is not stored, or does not open in the control plane")]
    NotSent,
    #[error("{what} is not one that this gateway may use: see {setting} in its configuration")]
    NotAllowed { what: String, setting: &'static str },
    #[error("the environment variable {0} is not set, or empty")]
    Variable(String),
    #[error("file {path}: {why}")]
    File { path: String, why: String },
    #[error("this gateway has no [gateway.vault] in its configuration")]
    NoVault,
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error("what {0} holds cannot be a password: it is empty, or has a zero byte in it")]
    NoPassword(String),
}

impl CredentialError {
    pub(crate) const fn code(&self) -> Code {
        Code::CredentialUnavailable
    }
}

/// Resolves credentials. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Accounts {
    allowed: Arc<Allowed>,
    vault: Option<FromVault>,
}

impl std::fmt::Debug for Accounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Accounts")
    }
}

impl Accounts {
    pub(crate) fn new(config: &CredentialsConfig, vault: Option<Vault>) -> Self {
        let vault = vault.map(|vault| FromVault::new(vault, config.kv_ttl.0, config.kv_stale.0));
        Self { allowed: Arc::new(Allowed::new(config)), vault }
    }

    /// Keeps leases up until `stop`; gives them back then.
    pub(crate) async fn keep(self, stop: CancellationToken) {
        match self.vault {
            Some(vault) => vault.keep(stop).await,
            None => stop.cancelled().await,
        }
    }

    /// The account for `to`, now.
    pub(crate) async fn account(&self, to: &Destination) -> Result<Account, CredentialError> {
        let credential = &to.target.credential;
        let named = |secret| {
            let proof = Proof::of(credential.kind, secret);
            Account { username: credential.username.clone(), proof, holding: None }
        };
        match &credential.source {
            CredentialSource::None => Ok(named(to.sent.clone().unwrap_or_else(|| SecretBytes::new(Vec::new())))),
            CredentialSource::Secret(_) => to.sent.clone().map(named).ok_or(CredentialError::NotSent),
            CredentialSource::Env(variable) => {
                self.allowed.variable(variable)?;
                local::variable(variable).map(named)
            }
            CredentialSource::File(path) => {
                let path = self.allowed.file(path).await?;
                local::file(&path).await.map(named)
            }
            source @ (CredentialSource::VaultKv(_) | CredentialSource::VaultDatabase(_)) => {
                self.allowed.vault(source)?;
                self.vault.as_ref().ok_or(CredentialError::NoVault)?.account(&to.name, credential).await
            }
        }
    }

    /// After the target has refused `account`: another one, if there is one to try.
    pub(crate) async fn after(&self, to: &Destination, account: &Account) -> Option<Account> {
        let from = self.vault.as_ref()?;
        match &to.target.credential.source {
            CredentialSource::VaultKv(_) | CredentialSource::VaultDatabase(_) => {
                from.after(&to.name, &to.target.credential, account).await
            }
            _ => None,
        }
    }
}

/// What a password can be: PostgreSQL's protocol ends it with a zero byte.
fn password(bytes: &[u8], from: impl FnOnce() -> String) -> Result<SecretBytes, CredentialError> {
    if bytes.is_empty() || bytes.contains(&0) {
        return Err(CredentialError::NoPassword(from()));
    }
    Ok(SecretBytes::new(bytes.to_vec()))
}
