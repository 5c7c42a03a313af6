//! Tokens, their policies, and the ways to come by one.

use std::time::{Duration, Instant};

use axum::http::Method;
use serde_json::{Value, json};

use super::state::State;
use super::{Answer, Vault, random_text};

/// The root token.
pub(super) const ROOT: &str = "hvs.root-token-of-the-tests-3c1f";

/// What a policy lets a token do.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The path; a `*` at its end stands for the rest.
    pub path: String,
    /// `create`, `read`, `update`.
    pub capabilities: Vec<&'static str>,
}

impl Rule {
    /// `capabilities` on `path`.
    #[must_use]
    pub fn new(path: &str, capabilities: &[&'static str]) -> Self {
        Self { path: path.to_owned(), capabilities: capabilities.to_vec() }
    }

    fn matches(&self, path: &str) -> bool {
        match self.path.strip_suffix('*') {
            Some(head) => path.starts_with(head),
            None => path == self.path,
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Token {
    rules: Option<Vec<Rule>>,
    ttl: Duration,
    max_ttl: Duration,
    made_at: Instant,
    ends_at: Option<Instant>,
}

/// A way to log in.
#[derive(Clone, Debug)]
pub(super) struct Login {
    /// What has to be shown: a secret id, or a JWT.
    shown: String,
    rules: Vec<Rule>,
    ttl: Duration,
    max_ttl: Duration,
}

impl Token {
    pub(super) fn root() -> Self {
        let zero = Duration::ZERO;
        Self { rules: None, ttl: zero, max_ttl: zero, made_at: Instant::now(), ends_at: None }
    }

    fn new(rules: Vec<Rule>, ttl: Duration, max_ttl: Duration) -> Self {
        let now = Instant::now();
        Self { rules: Some(rules), ttl, max_ttl, made_at: now, ends_at: (!ttl.is_zero()).then(|| now + ttl) }
    }

    pub(super) fn may(&self, method: &Method, path: &str, exists: bool) -> bool {
        let Some(rules) = &self.rules else { return true };
        // Of the policy `default`.
        if matches!(path, "auth/token/lookup-self" | "auth/token/renew-self" | "sys/leases/renew") {
            return true;
        }
        let needed = match *method {
            Method::GET => "read",
            _ if exists => "update",
            _ => "create",
        };
        rules.iter().any(|rule| rule.matches(path) && rule.capabilities.contains(&needed))
    }

    fn left(&self) -> u64 {
        self.ends_at.map_or(0, whole_seconds)
    }

    fn auth(&self, text: &str) -> Value {
        let whole = self.left();
        json!({"auth": {"client_token": text, "lease_duration": whole, "renewable": self.ends_at.is_some(), "policies": ["default"]}})
    }
}

/// Until `at`; a second that has begun counts.
pub(super) fn whole_seconds(at: Instant) -> u64 {
    (at.saturating_duration_since(Instant::now()) + Duration::from_millis(999)).as_secs()
}

impl State {
    pub(super) fn log_in(&mut self, mount: &str, body: &Value) -> Answer {
        let field = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default();
        let (role, shown) = match mount {
            "approle" => (field("role_id"), field("secret_id")),
            _ => (field("role"), field("jwt")),
        };
        let found = self.logins.get(&format!("{mount}/{role}")).filter(|login| login.shown == shown);
        let Some(login) = found else {
            return match mount {
                "approle" => Answer::errors(400, &["invalid role or secret ID"]),
                "kubernetes" => Answer::denied(),
                _ => Answer::errors(400, &["error validating token: invalid signature"]),
            };
        };
        let token = Token::new(login.rules.clone(), login.ttl, login.max_ttl);
        let text = format!("hvs.{}", random_text(32));
        let answer = Answer::whole(token.auth(&text));
        self.tokens.insert(text, token);
        answer
    }

    pub(super) fn look_up(&self, text: &str) -> Answer {
        let Some(token) = self.tokens.get(text) else { return Answer::denied() };
        Answer::data(json!({"ttl": token.left(), "renewable": token.ends_at.is_some(), "policies": ["default"]}))
    }

    pub(super) fn renew_token(&mut self, text: &str) -> Answer {
        let Some(token) = self.tokens.get_mut(text) else { return Answer::denied() };
        if token.ends_at.is_none() {
            return Answer::errors(400, &["lease is not renewable"]);
        }
        let last = token.made_at + token.max_ttl;
        token.ends_at = Some((Instant::now() + token.ttl).min(last));
        Answer::whole(token.auth(text))
    }

    /// Ends tokens and leases whose time is over; with a token, all that was leased by it.
    pub(super) fn expire(&mut self) {
        if self.sealed {
            return;
        }
        let now = Instant::now();
        self.tokens.retain(|_, token| token.ends_at.is_none_or(|at| at > now));
        let over: Vec<String> = self
            .leases
            .iter()
            .filter(|(_, lease)| lease.ends_at <= now || !self.tokens.contains_key(&lease.token))
            .map(|(id, _)| id.clone())
            .collect();
        for id in over {
            self.revoke(&id);
        }
    }
}

impl Vault {
    /// A token with these rights, for `ttl`; renewable up to `max_ttl`. Zero: it does not end.
    #[must_use]
    pub fn token(&self, rules: &[Rule], ttl: Duration, max_ttl: Duration) -> String {
        let text = format!("hvs.{}", random_text(32));
        self.state().tokens.insert(text.clone(), Token::new(rules.to_vec(), ttl, max_ttl));
        text
    }

    /// A role that `shown` logs in to: a secret id with `approle`, a JWT with `jwt` and `kubernetes`.
    pub fn set_login(&self, mount: &str, role: &str, shown: &str, rules: &[Rule], ttl: Duration, max_ttl: Duration) {
        let login = Login { shown: shown.to_owned(), rules: rules.to_vec(), ttl, max_ttl };
        self.state().logins.insert(format!("{mount}/{role}"), login);
    }

    /// Takes every token but the root one away, with all that was leased by them.
    pub fn revoke_tokens(&self) {
        let mut state = self.state();
        state.tokens.retain(|text, _| text == ROOT);
        state.expire();
    }
}
