//! The database engine, of PostgreSQL: accounts that are truly made, and dropped at the end of their lease.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::super::postgres::SUPERUSER_PASSWORD;
use super::super::process::run;
use super::auth::whole_seconds;
use super::state::State;
use super::{Answer, Vault, random_text};

/// How accounts of a role are made.
#[derive(Clone, Debug)]
pub struct DatabaseRole {
    /// The server's port on loopback.
    pub port: u16,
    /// Run for each account, with `{{name}}` and `{{password}}`.
    pub creation: String,
    /// Of a lease.
    pub ttl: Duration,
    /// The greatest age of an account.
    pub max_ttl: Duration,
}

#[derive(Debug)]
pub(super) struct Leased {
    pub(super) token: String,
    pub(super) ends_at: Instant,
    made_at: Instant,
    role: DatabaseRole,
    username: String,
}

fn sql(port: u16, sql: &str) -> Result<String> {
    let mut psql = Command::new("psql");
    psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", "postgres", "-d", "shop"]);
    psql.args(["-p", &port.to_string()]).env("PGPASSWORD", SUPERUSER_PASSWORD);
    run(psql, sql, Duration::from_secs(20))?.ok()
}

impl State {
    pub(super) fn make_account(&mut self, mount: &str, role: &str, token: &str) -> Answer {
        let Some(found) = self.roles.get(&format!("{mount}/{role}")).cloned() else {
            return Answer::errors(400, &[&format!("unknown role: {role}")]);
        };
        let username = format!("v-token-{role}-{}", random_text(20).to_ascii_lowercase());
        // Vault's own passwords have a capital, a small letter, a digit and a dash.
        let password = format!("A1a-{}", random_text(20));
        let made = found.creation.replace("{{name}}", &username).replace("{{password}}", &password);
        if let Err(error) = sql(found.port, &made) {
            return Answer::errors(500, &[&format!("1 error occurred:\n\t* {error}\n\n")]);
        }
        let id = format!("{mount}/creds/{role}/{}", random_text(24));
        let now = Instant::now();
        let lease = Leased {
            token: token.to_owned(),
            ends_at: now + found.ttl,
            made_at: now,
            role: found.clone(),
            username: username.clone(),
        };
        self.leases.insert(id.clone(), lease);
        Answer::whole(json!({
            "lease_id": id, "lease_duration": found.ttl.as_secs(), "renewable": true,
            "data": {"username": username, "password": password},
        }))
    }

    pub(super) fn renew_lease(&mut self, body: &Value) -> Answer {
        let id = body.get("lease_id").and_then(Value::as_str).unwrap_or_default();
        let Some(lease) = self.leases.get_mut(id) else { return Answer::errors(400, &["lease not found"]) };
        let now = Instant::now();
        let asked = body.get("increment").and_then(Value::as_u64).filter(|seconds| *seconds > 0);
        let by = asked.map_or(lease.role.ttl, Duration::from_secs);
        lease.ends_at = (now + by).min(lease.made_at + lease.role.max_ttl);
        let left = whole_seconds(lease.ends_at);
        Answer::whole(json!({"lease_id": id, "lease_duration": left, "renewable": true}))
    }

    pub(super) fn revoke_lease(&mut self, body: &Value) -> Answer {
        let id = body.get("lease_id").and_then(Value::as_str).unwrap_or_default().to_owned();
        self.revoke(&id);
        Answer { status: StatusCode::NO_CONTENT, body: Value::Null }
    }

    /// Drops the account. Sessions that are open go on, as with Vault's own statements.
    pub(super) fn revoke(&mut self, id: &str) {
        if let Some(lease) = self.leases.remove(id) {
            let name = &lease.username;
            // A server that is gone has no account either.
            let _ = sql(lease.role.port, &format!("DROP OWNED BY \"{name}\"; DROP ROLE IF EXISTS \"{name}\""));
        }
    }
}

impl Vault {
    /// Makes a role of the engine at `mount`.
    pub fn set_database_role(&self, mount: &str, role: &str, how: DatabaseRole) {
        self.state().roles.insert(format!("{mount}/{role}"), how);
    }

    /// The accounts that are leased now.
    #[must_use]
    pub fn accounts(&self) -> Vec<String> {
        self.state().leases.values().map(|lease| lease.username.clone()).collect()
    }

    /// Revokes every lease, as an operator may.
    pub fn revoke_leases(&self) {
        let mut state = self.state();
        let ids: Vec<String> = state.leases.keys().cloned().collect();
        for id in ids {
            state.revoke(&id);
        }
    }
}
