//! Where a Vault is, and how a node proves itself to it.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::HumanDuration;

/// A Vault, as seen from one node. No secret stands here: only where to find one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VaultConfig {
    /// `https://host:8200`; `http://` on loopback alone.
    pub address: String,
    /// Sent as `X-Vault-Namespace`.
    #[serde(default)]
    pub namespace: Option<String>,
    /// PEM of the authorities to trust; the public ones when it is not given.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// For each call, from connecting to the whole answer.
    #[serde(default = "timeout")]
    pub timeout: HumanDuration,
    /// How to come by a token.
    #[serde(default)]
    pub auth: VaultAuth,
}

/// How a node comes by a token of Vault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "lowercase", deny_unknown_fields)]
pub enum VaultAuth {
    /// A token that somebody else has made, in a file (a Vault agent's sink; read again when Vault refuses it) or a variable.
    Token {
        /// The file.
        #[serde(default)]
        file: Option<PathBuf>,
        /// The environment variable; `VAULT_TOKEN` when there is no file either.
        #[serde(default)]
        variable: Option<String>,
    },
    /// The AppRole method.
    AppRole {
        /// Where it is mounted; `approle` when it is not given.
        #[serde(default)]
        mount: Option<String>,
        /// The role's id, which is no secret.
        role_id: String,
        /// File of the secret id.
        #[serde(default)]
        secret_id_file: Option<PathBuf>,
        /// Environment variable of the secret id.
        #[serde(default)]
        secret_id_variable: Option<String>,
    },
    /// The Kubernetes method: the pod's service account.
    Kubernetes {
        /// Where it is mounted; `kubernetes` when it is not given.
        #[serde(default)]
        mount: Option<String>,
        /// The role.
        role: String,
        /// File of the JWT, read at each login; the service account's own when it is not given.
        #[serde(default)]
        jwt_file: Option<PathBuf>,
    },
    /// The JWT method.
    Jwt {
        /// Where it is mounted; `jwt` when it is not given.
        #[serde(default)]
        mount: Option<String>,
        /// The role.
        role: String,
        /// File of the JWT, read at each login.
        jwt_file: PathBuf,
    },
}

impl Default for VaultAuth {
    fn default() -> Self {
        Self::Token { file: None, variable: None }
    }
}

const fn timeout() -> HumanDuration {
    HumanDuration(Duration::from_secs(5))
}
