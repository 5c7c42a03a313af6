//! The node's own token: made by a login, renewed before it ends, made anew when Vault refuses it.

use std::path::Path;
use std::time::{Duration, Instant};

use hyper::Method;
use hyper::header::HeaderValue;
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::{Zeroize as _, Zeroizing};

use super::call::{AuthAnswer, Caller, escaped};
use super::config::VaultAuth;
use super::error::VaultError;

/// A refused token is replaced by a login no more often: what is refused may be the path, not the token.
const LOGIN_AGAIN: Duration = Duration::from_secs(10);
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
/// Bytes of a token, a secret id or a JWT.
const MAX_SECRET: usize = 64 << 10;

/// A token that Vault has accepted, or is expected to.
#[derive(Clone)]
pub(super) struct Token {
    pub(super) header: HeaderValue,
    /// Counts logins: leases end with the token that they were made by.
    pub(super) generation: u64,
    made_at: Instant,
    /// None for one that does not end, or of which it is not known.
    life: Option<Duration>,
    renewable: bool,
}

impl Token {
    fn new(text: &[u8], generation: u64) -> Result<Self, VaultError> {
        let mut header = HeaderValue::from_bytes(text.trim_ascii())
            .map_err(|_| VaultError::Login("the token is not a header's text".to_owned()))?;
        header.set_sensitive(true);
        Ok(Self { header, generation, made_at: Instant::now(), life: None, renewable: false })
    }

    fn of(answer: &AuthAnswer, generation: u64) -> Result<Self, VaultError> {
        let life = (answer.lease_duration > 0).then(|| Duration::from_secs(answer.lease_duration));
        Ok(Self { life, renewable: answer.renewable, ..Self::new(answer.client_token.expose(), generation)? })
    }

    /// When two thirds of its life are over.
    pub(super) fn renew_at(&self) -> Option<Instant> {
        self.life.and_then(|life| self.made_at.checked_add(life.mul_f64(2.0 / 3.0)))
    }

    fn has_ended(&self) -> bool {
        self.life.is_some_and(|life| self.made_at.elapsed() >= life)
    }
}

/// The token in use; behind a lock, so that one login at a time runs and the others wait for it.
#[derive(Default)]
pub(super) struct Tokens {
    current: Option<Token>,
    generation: u64,
    logged_in_at: Option<Instant>,
}

impl Tokens {
    pub(super) const fn generation(&self) -> u64 {
        self.generation
    }

    /// A token to try.
    pub(super) async fn get(&mut self, caller: &Caller, auth: &VaultAuth) -> Result<Token, VaultError> {
        match &self.current {
            Some(token) if !token.has_ended() => Ok(token.clone()),
            _ => self.log_in(caller, auth).await,
        }
    }

    /// Another token than `refused`, if there may be one.
    pub(super) async fn after(
        &mut self,
        refused: &Token,
        caller: &Caller,
        auth: &VaultAuth,
    ) -> Result<Option<Token>, VaultError> {
        if let Some(token) = &self.current
            && token.header != refused.header
        {
            return Ok(Some(token.clone()));
        }
        if self.logged_in_at.is_some_and(|at| at.elapsed() < LOGIN_AGAIN) {
            return Ok(None);
        }
        let token = self.log_in(caller, auth).await?;
        Ok((token.header != refused.header).then_some(token))
    }

    /// Renews the token, or makes a new one when it cannot be renewed.
    pub(super) async fn renew(&mut self, caller: &Caller, auth: &VaultAuth) -> Result<Token, VaultError> {
        if let Some(token) = self.current.clone().filter(|token| token.renewable && !token.has_ended()) {
            let renewed = caller
                .call::<Value>(Method::POST, "auth/token/renew-self", Some(&token.header), Some(&json!({})))
                .await;
            match renewed {
                Ok(envelope) => {
                    let life = envelope.auth.map_or(0, |auth| auth.lease_duration);
                    // One that comes to its greatest age is renewed for less and less: then a new one, in time.
                    let enough = token.life.is_some_and(|was| Duration::from_secs(life) > was / 2);
                    if enough || matches!(auth, VaultAuth::Token { .. }) {
                        let life = (life > 0).then(|| Duration::from_secs(life));
                        let token = Token { made_at: Instant::now(), life, ..token };
                        self.current = Some(token.clone());
                        return Ok(token);
                    }
                }
                Err(error) if error.is_transient() => return Err(error),
                Err(_) => {}
            }
        }
        self.log_in(caller, auth).await
    }

    async fn log_in(&mut self, caller: &Caller, auth: &VaultAuth) -> Result<Token, VaultError> {
        self.logged_in_at = Some(Instant::now());
        let generation = self.generation.wrapping_add(1);
        let token = match auth {
            VaultAuth::Token { file, variable } => {
                let text = match (file, variable) {
                    (Some(file), _) => read_file("the token", file).await?,
                    (None, Some(variable)) => read_variable("the token", variable)?,
                    (None, None) => read_variable("the token", "VAULT_TOKEN")?,
                };
                given(caller, Token::new(text.as_bytes(), generation)?).await?
            }
            VaultAuth::AppRole { mount, role_id, secret_id_file, secret_id_variable } => {
                let secret_id = match (secret_id_file, secret_id_variable) {
                    (Some(file), _) => Some(read_file("the secret id", file).await?),
                    (None, Some(variable)) => Some(read_variable("the secret id", variable)?),
                    // A role may be bound to addresses instead.
                    (None, None) => None,
                };
                let mut body = json!({"role_id": role_id});
                if let (Some(id), Some(body)) = (&secret_id, body.as_object_mut()) {
                    body.insert("secret_id".to_owned(), Value::String(id.as_str().to_owned()));
                }
                login(caller, mount.as_deref().unwrap_or("approle"), body, generation).await?
            }
            VaultAuth::Kubernetes { mount, role, jwt_file } => {
                let jwt_file = jwt_file.as_deref().unwrap_or_else(|| Path::new(SERVICE_ACCOUNT));
                let jwt = read_file("the JWT", jwt_file).await?;
                let body = json!({"role": role, "jwt": jwt.as_str()});
                login(caller, mount.as_deref().unwrap_or("kubernetes"), body, generation).await?
            }
            VaultAuth::Jwt { mount, role, jwt_file } => {
                let jwt = read_file("the JWT", jwt_file).await?;
                let body = json!({"role": role, "jwt": jwt.as_str()});
                login(caller, mount.as_deref().unwrap_or("jwt"), body, generation).await?
            }
        };
        self.generation = generation;
        self.current = Some(token.clone());
        Ok(token)
    }
}

#[derive(Deserialize)]
struct Looked {
    #[serde(default)]
    ttl: u64,
    #[serde(default)]
    renewable: bool,
}

/// How long a given token lives; one whose policy does not let it ask that is taken as it is.
async fn given(caller: &Caller, token: Token) -> Result<Token, VaultError> {
    let asked = caller.call::<Looked>(Method::GET, "auth/token/lookup-self", Some(&token.header), None::<&()>).await;
    match asked {
        Ok(envelope) => {
            let found = envelope.data.unwrap_or(Looked { ttl: 0, renewable: false });
            let life = (found.ttl > 0).then(|| Duration::from_secs(found.ttl));
            Ok(Token { life, renewable: found.renewable, ..token })
        }
        Err(VaultError::Denied { .. }) => Ok(token),
        Err(error) => Err(error),
    }
}

async fn login(caller: &Caller, mount: &str, mut body: Value, generation: u64) -> Result<Token, VaultError> {
    let mount = escaped(mount).ok_or_else(|| VaultError::Config("auth.mount: not a path".to_owned()))?;
    let path = format!("auth/{mount}/login");
    let answered = caller.call::<Value>(Method::POST, &path, None, Some(&body)).await;
    wipe(&mut body);
    let answered = answered.map_err(|error| match error {
        VaultError::Status { status: 400, detail, .. } | VaultError::Denied { detail, .. } => {
            VaultError::Login(format!("{path} refused this node: {detail}"))
        }
        other => other,
    })?;
    let auth = answered.auth.ok_or(VaultError::Form { path, what: "has no token" })?;
    Token::of(&auth, generation)
}

fn wipe(body: &mut Value) {
    for value in body.as_object_mut().into_iter().flat_map(|fields| fields.iter_mut().map(|(_, value)| value)) {
        if let Value::String(text) = value {
            text.zeroize();
        }
    }
}

async fn read_file(what: &str, path: &Path) -> Result<Zeroizing<String>, VaultError> {
    let fault = |why: &dyn std::fmt::Display| VaultError::Login(format!("{what} in {}: {why}", path.display()));
    let bytes = Zeroizing::new(tokio::fs::read(path).await.map_err(|error| fault(&error))?);
    let text = std::str::from_utf8(&bytes).map_err(|_| fault(&"not text"))?.trim_ascii();
    if text.is_empty() || text.len() > MAX_SECRET {
        return Err(fault(&"empty, or too long"));
    }
    Ok(Zeroizing::new(text.to_owned()))
}

fn read_variable(what: &str, name: &str) -> Result<Zeroizing<String>, VaultError> {
    match std::env::var(name) {
        Ok(text) if !text.trim_ascii().is_empty() => Ok(Zeroizing::new(text)),
        _ => Err(VaultError::Login(format!("{what}: the environment variable {name} is not set"))),
    }
}
