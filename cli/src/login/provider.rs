//! An OpenID provider as a client of people sees it: where its endpoints are, and what it answers.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use postern_proto::admin::v1::OidcLogin;
use postern_runtime::http::{HttpClient, check_url};
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::Value;

use crate::failure::Failure;
use crate::output::printable;

/// Discovery documents and answers of token endpoints are far smaller.
pub(super) const MAX_ANSWER: usize = 256 << 10;
pub(super) const LIMIT: Duration = Duration::from_secs(20);

/// OpenID Connect Discovery 1.0, section 3; RFC 8414, section 2.
#[derive(Debug, Deserialize)]
pub(super) struct Metadata {
    issuer: String,
    pub(super) authorization_endpoint: Option<String>,
    pub(super) token_endpoint: String,
    /// RFC 8628, section 4.
    pub(super) device_authorization_endpoint: Option<String>,
    pub(super) revocation_endpoint: Option<String>,
    /// RFC 9207, section 3.
    #[serde(default)]
    pub(super) authorization_response_iss_parameter_supported: bool,
    /// Absent: not known.
    code_challenge_methods_supported: Option<Vec<String>>,
}

/// A provider whose endpoints are known.
#[derive(Debug)]
pub(super) struct Provider {
    pub(super) http: HttpClient,
    pub(super) login: OidcLogin,
    pub(super) metadata: Metadata,
}

/// What a token endpoint gave.
pub(super) struct Tokens {
    pub(super) id_token: SecretString,
    pub(super) refresh_token: Option<SecretString>,
    /// Of the ID token.
    pub(super) subject: String,
}

/// RFC 6749, section 5.2: an error, and what people may read of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct OAuthError {
    pub(crate) code: String,
    pub(crate) description: String,
}

impl OAuthError {
    pub(super) fn new(code: &str, description: &str) -> Self {
        let short = |text: &str| printable(text).replace('\n', " ").chars().take(300).collect();
        Self { code: short(code), description: short(description) }
    }

    pub(super) fn read(document: &Value) -> Option<Self> {
        let text = |key| document.get(key).and_then(Value::as_str);
        Some(Self::new(text("error")?, text("error_description").unwrap_or_default()))
    }
}

impl std::fmt::Display for OAuthError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.code)?;
        if self.description.is_empty() { Ok(()) } else { write!(f, ": {}", self.description) }
    }
}

/// Why there are no tokens.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GrantError {
    /// The provider says so.
    #[error("the identity provider refuses: {0}")]
    Refused(OAuthError),
    /// It cannot be asked.
    #[error("the identity provider cannot be asked: {0}")]
    Unreachable(String),
    /// It answers what no provider does.
    #[error("the identity provider's answer cannot be taken: {0}")]
    Answer(&'static str),
}

impl From<GrantError> for Failure {
    fn from(error: GrantError) -> Self {
        Self::failed(error.to_string())
    }
}

impl Provider {
    /// Reads where its endpoints are. What comes over TLS from the issuer's own address is the issuer's.
    pub(super) async fn discover(login: OidcLogin) -> Result<Self, Failure> {
        let http = client(&login.ca_pem)?;
        let url = login.url.clone();
        let cannot = |why: String| Failure::failed(format!("identity provider {url}: {why}"));
        let at = format!("{}/.well-known/openid-configuration", url.trim_end_matches('/'));
        let fetched = http.get_json(&at, MAX_ANSWER, LIMIT).await.map_err(|error| cannot(error.to_string()))?;
        let metadata: Metadata =
            serde_json::from_value(fetched.document).map_err(|error| cannot(format!("its discovery: {error}")))?;
        metadata.check(&url).map_err(cannot)?;
        Ok(Self { http, login, metadata })
    }

    /// Asks the token endpoint.
    pub(super) async fn grant(&self, form: &[(&str, &str)]) -> Result<Tokens, GrantError> {
        let form = [&[("client_id", self.login.client_id.as_str())], form].concat();
        let tokens = ask(&self.http, &self.metadata.token_endpoint, &form).await?;
        read_tokens(tokens, &self.login.url, &self.login.client_id)
    }

    pub(super) fn scope(&self) -> String {
        self.login.scopes.join(" ")
    }
}

impl Metadata {
    /// Whose it says that it is.
    pub(super) fn issuer(&self) -> &str {
        &self.issuer
    }

    pub(super) fn check(&self, url: &str) -> Result<(), String> {
        // Section 4.3: else another provider's endpoints would be taken for this one's.
        if self.issuer != url {
            return Err(format!("its discovery is of another issuer, {}", printable(&self.issuer)));
        }
        let endpoints = [
            Some(&self.token_endpoint),
            self.authorization_endpoint.as_ref(),
            self.device_authorization_endpoint.as_ref(),
            self.revocation_endpoint.as_ref(),
        ];
        for endpoint in endpoints.into_iter().flatten() {
            check_url(endpoint).map_err(|error| format!("its endpoint {}: {error}", printable(endpoint)))?;
        }
        let s256 = |methods: &Vec<String>| methods.iter().any(|method| method == "S256");
        if self.code_challenge_methods_supported.as_ref().is_some_and(|methods| !s256(methods)) {
            return Err("it does not know PKCE with S256".to_owned());
        }
        Ok(())
    }
}

/// To whom the issuer's own endpoints are trusted.
pub(super) fn client(ca_pem: &str) -> Result<HttpClient, Failure> {
    let ca = Some(ca_pem).filter(|pem| !pem.is_empty());
    HttpClient::new(ca).map_err(|error| Failure::failed(format!("the identity provider's authority: {error}")))
}

/// The document of a successful answer.
pub(super) async fn ask(http: &HttpClient, endpoint: &str, form: &[(&str, &str)]) -> Result<Value, GrantError> {
    let answered = http.post_form(endpoint, form, MAX_ANSWER, LIMIT).await;
    let answered = answered.map_err(|error| GrantError::Unreachable(error.to_string()))?;
    if answered.status == 200 {
        return Ok(answered.document);
    }
    Err(match OAuthError::read(&answered.document) {
        Some(error) => GrantError::Refused(error),
        None => GrantError::Unreachable(format!("it answered {}", answered.status)),
    })
}

/// RFC 6749, section 5.1, with OpenID Connect Core 1.0, section 3.1.3.3.
pub(super) fn read_tokens(mut document: Value, issuer: &str, client_id: &str) -> Result<Tokens, GrantError> {
    let mut take = |key: &str| match document.get_mut(key).map(Value::take) {
        Some(Value::String(text)) if !text.is_empty() => Some(text),
        _ => None,
    };
    let id_token = take("id_token").ok_or(GrantError::Answer("there is no ID token in it; is \"openid\" a scope?"))?;
    let refresh_token = take("refresh_token").map(SecretString::from);
    let claims = claims(&id_token).ok_or(GrantError::Answer("its ID token is none"))?;
    // Section 3.1.3.7: the control plane verifies it; that it was meant for this client, and who it is of, is asked here.
    if claims.get("iss").and_then(Value::as_str) != Some(issuer) {
        return Err(GrantError::Answer("its ID token is of another issuer"));
    }
    let meant = match claims.get("aud") {
        Some(Value::String(one)) => one == client_id,
        Some(Value::Array(many)) => many.iter().any(|one| one.as_str() == Some(client_id)),
        _ => false,
    };
    if !meant {
        return Err(GrantError::Answer("its ID token is for another client"));
    }
    let subject = claims.get("sub").and_then(Value::as_str).ok_or(GrantError::Answer("its ID token names nobody"))?;
    Ok(Tokens { subject: subject.to_owned(), id_token: SecretString::from(id_token), refresh_token })
}

/// What a JWT says, unverified.
pub(super) fn claims(jwt: &str) -> Option<Value> {
    let payload = URL_SAFE_NO_PAD.decode(jwt.split('.').nth(1)?).ok()?;
    serde_json::from_slice(&payload).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn answer(claims: &Value) -> Value {
        let payload = URL_SAFE_NO_PAD.encode(claims.to_string());
        json!({"access_token": "x", "token_type": "Bearer", "id_token": format!("e30.{payload}.sig"), "refresh_token": "r"})
    }

    #[test]
    fn an_id_token_must_be_of_the_issuer_and_for_this_client() {
        let read = |claims: &Value| read_tokens(answer(claims), "https://id.example", "cli");
        let good = read(&json!({"iss": "https://id.example", "aud": ["x", "cli"], "sub": "alice"})).unwrap();
        assert_eq!((good.subject.as_str(), good.refresh_token.is_some()), ("alice", true));
        for bad in [
            json!({"iss": "https://id.example/", "aud": "cli", "sub": "alice"}),
            json!({"iss": "https://id.example", "aud": "other", "sub": "alice"}),
            json!({"iss": "https://id.example", "aud": ["other"], "sub": "alice"}),
            json!({"iss": "https://id.example", "aud": "cli"}),
            json!({"aud": "cli", "sub": "alice"}),
        ] {
            assert!(read(&bad).is_err(), "{bad}");
        }
        assert!(read_tokens(json!({"access_token": "x"}), "https://id.example", "cli").is_err());
        assert!(read_tokens(json!({"id_token": "no-jwt"}), "https://id.example", "cli").is_err());
    }

    #[test]
    fn endpoints_are_of_the_issuer_and_over_tls() {
        let good = json!({
            "issuer": "https://id.example", "authorization_endpoint": "https://id.example/auth",
            "token_endpoint": "https://id.example/token", "code_challenge_methods_supported": ["S256"],
        });
        let check = |key: &str, value: Value| {
            let mut document = good.clone();
            document[key] = value;
            serde_json::from_value::<Metadata>(document).unwrap().check("https://id.example")
        };
        assert_eq!(check("issuer", json!("https://id.example")), Ok(()));
        assert!(check("issuer", json!("https://id.example/")).is_err());
        assert!(check("token_endpoint", json!("http://id.example/token")).is_err());
        assert!(check("device_authorization_endpoint", json!("http://id.example/device")).is_err());
        assert!(check("authorization_endpoint", json!("javascript:alert(1)")).is_err());
        assert!(check("code_challenge_methods_supported", json!(["plain"])).is_err());
    }

    #[test]
    fn what_a_provider_says_cannot_steer_the_terminal() {
        let error = OAuthError::read(&json!({"error": "x\u{1b}[2J", "error_description": "a\nb"})).unwrap();
        assert_eq!(error.to_string(), "x\\u{1b}[2J: a b");
        assert_eq!(OAuthError::read(&json!({"message": "x"})), None);
    }
}
