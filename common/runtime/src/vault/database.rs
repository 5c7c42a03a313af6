//! Accounts that a database engine makes, each for the time of a lease.

use std::time::{Duration, Instant};

use hyper::Method;
use postern_core::secret::SecretBytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Vault, VaultError, part, secret_text};

/// An account on a database.
#[derive(Clone, Debug)]
pub struct DatabaseAccount {
    /// Its name.
    pub username: String,
    /// Its password.
    pub password: SecretBytes,
    /// How long it lasts.
    pub lease: Lease,
}

/// How long what Vault made lasts.
#[derive(Clone, Debug)]
pub struct Lease {
    /// Vault's name for it.
    pub id: String,
    /// From when `duration` counts.
    pub since: Instant,
    /// Until Vault takes it away.
    pub duration: Duration,
    /// Whether it can be made longer.
    pub renewable: bool,
    /// The login whose token made it: it ends with that token too.
    pub generation: u64,
}

impl Lease {
    /// When two thirds of it are over.
    #[must_use]
    pub fn renew_at(&self) -> Instant {
        self.since.checked_add(self.duration.mul_f64(2.0 / 3.0)).unwrap_or(self.since)
    }

    /// What is left of it.
    #[must_use]
    pub fn left(&self) -> Duration {
        self.duration.saturating_sub(self.since.elapsed())
    }
}

#[derive(Deserialize)]
struct Account {
    username: String,
    #[serde(deserialize_with = "secret_text")]
    password: SecretBytes,
}

impl Vault {
    /// A new account of `role` of the database engine at `mount`.
    ///
    /// # Errors
    /// When Vault makes none.
    pub async fn database_account(&self, mount: &str, role: &str) -> Result<DatabaseAccount, VaultError> {
        let path = format!("{}/creds/{}", part("mount", mount)?, part("role", role)?);
        let since = Instant::now();
        let (answer, generation) = self.call::<Account>(Method::GET, &path, None::<&()>).await?;
        let (id, seconds, renewable) = (answer.lease_id, answer.lease_duration, answer.renewable);
        let Some(Account { username, password }) = answer.data else {
            return Err(VaultError::Form { path, what: "has no account" });
        };
        let lease = Lease { id, since, duration: Duration::from_secs(seconds), renewable, generation };
        Ok(DatabaseAccount { username, password, lease })
    }

    /// Makes a lease longer, by as much as it had at first. It may come out shorter: near the greatest age that Vault gives it.
    ///
    /// # Errors
    /// When Vault does not; [`VaultError::Status`] 400 when the lease is over.
    pub async fn renew_lease(&self, lease: &Lease, by: Duration) -> Result<Lease, VaultError> {
        let body = json!({"lease_id": lease.id, "increment": by.as_secs()});
        let since = Instant::now();
        let (answer, _) = self.call::<Value>(Method::PUT, "sys/leases/renew", Some(&body)).await?;
        let duration = Duration::from_secs(answer.lease_duration);
        Ok(Lease { since, duration, renewable: answer.renewable, ..lease.clone() })
    }

    /// Takes away what was leased.
    ///
    /// # Errors
    /// When Vault does not.
    pub async fn revoke_lease(&self, lease: &Lease) -> Result<(), VaultError> {
        let body = json!({"lease_id": lease.id});
        self.call::<Value>(Method::PUT, "sys/leases/revoke", Some(&body)).await.map(drop)
    }
}
