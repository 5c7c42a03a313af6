//! A client of HashiCorp Vault's HTTP API, version 1: a token that is kept alive, transit, key-value store version 2, database
//! credentials with leases. Written after Vault's API documentation (<https://developer.hashicorp.com/vault/api-docs>).
//!
//! Calls are bounded in time and size and are not retried here, but for one new login when Vault refuses the token. Whoever calls knows
//! whether to wait: [`VaultError::is_transient`].

mod call;
mod config;
mod database;
mod error;
mod kv;
mod token;
mod transit;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

pub use config::{VaultAuth, VaultConfig};
pub use database::{DatabaseAccount, Lease};
pub use error::VaultError;
pub use kv::KvSecret;
pub use transit::{Transit, Wrapped};

use crate::backoff::Backoff;
use call::{Caller, Envelope};
use token::{Token, Tokens};

/// How often a token without a known end is looked after.
const IDLE: Duration = Duration::from_secs(60);

/// One Vault, as one node is known to it. Cheap to clone.
#[derive(Clone)]
pub struct Vault(Arc<Inner>);

struct Inner {
    caller: Arc<Caller>,
    auth: VaultAuth,
    /// Held across a login, so that one runs at a time.
    tokens: Mutex<Tokens>,
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Vault")
    }
}

impl Vault {
    /// Nothing is called yet.
    ///
    /// # Errors
    /// When the configuration cannot be used, or the authorities cannot be read.
    pub fn new(config: &VaultConfig) -> Result<Self, VaultError> {
        let ca_pem = match &config.ca_file {
            None => None,
            Some(path) => Some(
                std::fs::read_to_string(path)
                    .map_err(|error| VaultError::Config(format!("ca_file {}: {error}", path.display())))?,
            ),
        };
        if config.timeout.0.is_zero() {
            return Err(VaultError::Config("timeout: must be longer than nothing".to_owned()));
        }
        let caller = Caller::new(&config.address, config.namespace.as_deref(), ca_pem.as_deref(), config.timeout.0)?;
        Ok(Self(Arc::new(Inner { caller, auth: config.auth.clone(), tokens: Mutex::new(Tokens::default()) })))
    }

    /// Keeps the token alive until `stop`: renews it at two thirds of its life, also when nothing is asked of Vault.
    pub async fn keep(self, stop: CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        let mut told = false;
        loop {
            let now = Instant::now();
            let renewed = {
                let mut tokens = self.0.tokens.lock().await;
                match tokens.get(&self.0.caller, &self.0.auth).await {
                    Ok(token) if token.renew_at().is_some_and(|at| at <= now) => {
                        tokens.renew(&self.0.caller, &self.0.auth).await
                    }
                    other => other,
                }
            };
            let wait = match renewed {
                Ok(token) => {
                    backoff.reset();
                    told = false;
                    let until = token.renew_at().map_or(IDLE, |at| at.saturating_duration_since(Instant::now()));
                    until.clamp(Duration::from_millis(100), IDLE)
                }
                Err(error) => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!(%error, "the token of Vault cannot be renewed; trying again");
                    }
                    backoff.next_delay()
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Which login the token in use is of: what was leased by an earlier one ends with that one's token.
    pub async fn generation(&self) -> u64 {
        self.0.tokens.lock().await.generation()
    }

    async fn token(&self) -> Result<Token, VaultError> {
        self.0.tokens.lock().await.get(&self.0.caller, &self.0.auth).await
    }

    async fn token_after(&self, refused: &Token) -> Result<Option<Token>, VaultError> {
        self.0.tokens.lock().await.after(refused, &self.0.caller, &self.0.auth).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<(Envelope<T>, u64), VaultError> {
        let token = self.token().await?;
        let answer = self.0.caller.call(method.clone(), path, Some(&token.header), body).await;
        match answer {
            Err(VaultError::Denied { .. }) => match self.token_after(&token).await? {
                None => answer.map(|answer| (answer, token.generation)),
                Some(token) => {
                    let answer = self.0.caller.call(method, path, Some(&token.header), body).await;
                    answer.map(|answer| (answer, token.generation))
                }
            },
            answer => answer.map(|answer| (answer, token.generation)),
        }
    }

    async fn call_batch<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Envelope<T>, VaultError> {
        let token = self.token().await?;
        let answer = self.0.caller.call_batch(path, Some(&token.header), body).await;
        match answer {
            Err(VaultError::Denied { .. }) => match self.token_after(&token).await? {
                None => answer,
                Some(token) => self.0.caller.call_batch(path, Some(&token.header), body).await,
            },
            answer => answer,
        }
    }
}

/// A mount's or a path's text in a URL.
fn part(what: &str, text: &str) -> Result<String, VaultError> {
    call::escaped(text.trim_matches('/'))
        .ok_or_else(|| VaultError::Config(format!("{what} {text:?}: not a path of Vault's")))
}

/// Reads a JSON string into memory that is wiped.
fn secret_text<'de, D: serde::Deserializer<'de>>(from: D) -> Result<postern_core::secret::SecretBytes, D::Error> {
    let text = <String as serde::Deserialize>::deserialize(from)?;
    Ok(postern_core::secret::SecretBytes::new(text.into_bytes()))
}

#[cfg(test)]
mod tests;
