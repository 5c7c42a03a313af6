//! What this Vault holds, and the way of a call: seal, standby, limits, token, policy, engine.

use std::collections::BTreeMap;

use anyhow::Result;
use axum::http::StatusCode;
use serde_json::json;

use super::auth::{Login, Token};
use super::database::{DatabaseRole, Leased};
use super::kv::Versions;
use super::transit::TransitKey;
use super::{Answer, Asked, auth};

#[derive(Debug)]
pub(super) struct State {
    pub(super) sealed: bool,
    pub(super) standby: bool,
    pub(super) rate_limited: bool,
    pub(super) namespace: Option<String>,
    pub(super) calls: Vec<String>,
    pub(super) tokens: BTreeMap<String, Token>,
    /// By `mount/role`.
    pub(super) logins: BTreeMap<String, Login>,
    /// By `mount/key`.
    pub(super) transit: BTreeMap<String, TransitKey>,
    /// By `mount/path`.
    pub(super) kv: BTreeMap<String, Versions>,
    /// By `mount/role`.
    pub(super) roles: BTreeMap<String, DatabaseRole>,
    /// By lease id.
    pub(super) leases: BTreeMap<String, Leased>,
}

impl State {
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            sealed: false,
            standby: false,
            rate_limited: false,
            namespace: None,
            calls: Vec::new(),
            tokens: BTreeMap::from([(auth::ROOT.to_owned(), Token::root())]),
            logins: BTreeMap::new(),
            transit: BTreeMap::new(),
            kv: BTreeMap::new(),
            roles: BTreeMap::new(),
            leases: BTreeMap::new(),
        })
    }

    pub(super) fn answer(&mut self, asked: &Asked<'_>, namespace: &str) -> Answer {
        if asked.path == "sys/health" {
            let code = if self.sealed { 503 } else { 200 };
            let status = StatusCode::from_u16(code).unwrap_or(StatusCode::OK);
            return Answer {
                status,
                body: json!({"initialized": true, "sealed": self.sealed, "standby": self.standby}),
            };
        }
        if self.sealed {
            return Answer::errors(503, &["Vault is sealed"]);
        }
        if self.standby {
            return Answer { status: StatusCode::TEMPORARY_REDIRECT, body: json!(null) };
        }
        if self.rate_limited {
            return Answer::errors(429, &["request path \"any\": rate limit quota exceeded"]);
        }
        if self.namespace.as_deref().is_some_and(|wanted| wanted != namespace) {
            return Answer::denied();
        }
        self.expire();
        let parts: Vec<&str> = asked.path.split('/').collect();
        if let ["auth", mount, "login"] = parts.as_slice() {
            return self.log_in(mount, &asked.body);
        }
        let Some(token) = self.tokens.get(asked.token) else {
            return Answer::errors(403, &["2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"]);
        };
        let exists = match parts.as_slice() {
            [mount, "encrypt", key] => self.transit.contains_key(&format!("{mount}/{key}")),
            _ => true,
        };
        if !token.may(asked.method, asked.path, exists) {
            return Answer::denied();
        }
        match parts.as_slice() {
            ["auth", "token", "lookup-self"] => self.look_up(asked.token),
            ["auth", "token", "renew-self"] => self.renew_token(asked.token),
            ["sys", "leases", "renew"] => self.renew_lease(&asked.body),
            ["sys", "leases", "revoke"] => self.revoke_lease(&asked.body),
            [mount, "encrypt", key] => self.encrypt(mount, key, &asked.body),
            [mount, "decrypt", key] => self.decrypt(mount, key, &asked.body),
            [mount, "creds", role] => self.make_account(mount, role, asked.token),
            [mount, "data", path @ ..] if !path.is_empty() => self.read_kv(mount, &path.join("/"), asked.query),
            _ => {
                let told = format!("no handler for route {:?}. route entry not found.", asked.path);
                Answer::errors(404, &[&told])
            }
        }
    }
}
