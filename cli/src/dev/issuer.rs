//! The development issuer: whoever can read its key can be anybody. It exists in `postern dev` alone, and only on loopback.

use std::path::Path;
use std::time::Duration;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use postern_core::Timestamp;
use postern_runtime::pki::write_private;
use rcgen::KeyPair;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::client::read;
use crate::failure::Failure;

/// The issuer's key: ECDSA on P-256 (RFC 7518, section 3.4).
pub(super) struct IssuerKey {
    pem: SecretString,
    jwk: Value,
    kid: String,
}

/// What a token of the development issuer says.
#[derive(Debug)]
pub(super) struct Claims<'a> {
    pub(super) issuer: &'a str,
    pub(super) subject: &'a str,
    pub(super) audience: &'a str,
    pub(super) groups: &'a [String],
    pub(super) issued_at: Timestamp,
    pub(super) not_before: Timestamp,
    pub(super) ttl: Duration,
}

impl IssuerKey {
    /// The key in `file`.
    pub(super) fn load(file: &Path) -> Result<Self, Failure> {
        Self::from_pem(SecretString::from(read(file)?), file)
    }

    /// The key in `file`, made on the first call.
    pub(super) fn load_or_create(file: &Path) -> Result<Self, Failure> {
        if file.exists() {
            return Self::load(file);
        }
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
            .map_err(|error| Failure::failed(format!("cannot make the issuer's key: {error}")))?;
        let pem = SecretString::from(key.serialize_pem());
        write_private(file, pem.expose_secret().as_bytes()).map_err(|error| Failure::failed(error.to_string()))?;
        Self::from_pem(pem, file)
    }

    fn from_pem(pem: SecretString, file: &Path) -> Result<Self, Failure> {
        let wrong = || Failure::failed(format!("{} is no key of the development issuer", file.display()));
        let key = KeyPair::from_pem(pem.expose_secret()).map_err(|_| wrong())?;
        // An uncompressed point: 4, x, y (SEC 1, section 2.3.3).
        let point = key.public_key_raw();
        let (x, y) = match point.split_first() {
            Some((4, rest)) if rest.len() == 64 => rest.split_at(32),
            _ => return Err(wrong()),
        };
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        // RFC 7638: the thumbprint is over exactly these members in this order.
        let thumbprint = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, thumbprint.as_bytes());
        let kid = URL_SAFE_NO_PAD.encode(digest);
        let jwk = json!({"kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": kid, "use": "sig", "alg": "ES256"});
        Ok(Self { pem, jwk, kid })
    }

    /// Signs a token.
    pub(super) fn sign(&self, claims: &Claims<'_>) -> Result<String, Failure> {
        let cannot = |error: jsonwebtoken::errors::Error| Failure::failed(format!("cannot sign: {error}"));
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.kid.clone());
        let body = json!({
            "iss": claims.issuer, "sub": claims.subject, "aud": claims.audience, "groups": claims.groups,
            "iat": claims.issued_at.secs(), "nbf": claims.not_before.secs(),
            "exp": claims.issued_at.plus(claims.ttl).secs(), "jti": postern_runtime::clock::token_id().to_string(),
        });
        let key = EncodingKey::from_ec_pem(self.pem.expose_secret().as_bytes()).map_err(cannot)?;
        jsonwebtoken::encode(&header, &body, &key).map_err(cannot)
    }

    /// Serves discovery (OpenID Connect Discovery 1.0, section 4) and keys for issuer `url` until `shutdown`.
    pub(super) async fn serve(&self, listener: TcpListener, url: &str, shutdown: CancellationToken) {
        let discovery = json!({
            "issuer": url, "jwks_uri": format!("{url}/jwks"), "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["ES256"],
        });
        let document = |value: &Value| {
            let text = value.to_string();
            get(async move || ([(CONTENT_TYPE, "application/json")], text))
        };
        let app = Router::new()
            .route("/.well-known/openid-configuration", document(&discovery))
            .route("/jwks", document(&json!({"keys": [self.jwk]})));
        if let Err(error) = axum::serve(listener, app).with_graceful_shutdown(shutdown.cancelled_owned()).await {
            tracing::error!(%error, "the development issuer ended");
        }
    }

    #[cfg(test)]
    pub(super) fn jwks(&self) -> String {
        json!({"keys": [self.jwk]}).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postern_core::issuer::Issuer;
    use postern_runtime::jwt::IssuerVerifier;

    #[test]
    fn its_tokens_are_good_and_its_key_stays() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("issuer.key");
        let key = IssuerKey::load_or_create(&file).unwrap();
        let again = IssuerKey::load_or_create(&file).unwrap();
        assert_eq!(key.jwks(), again.jwks());
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);

        let url = "http://127.0.0.1:15481";
        let now = postern_runtime::clock::now();
        let groups = ["analysts".to_owned(), "dba".to_owned()];
        let claims = Claims {
            issuer: url,
            subject: "alice",
            audience: "postern",
            groups: &groups,
            issued_at: now,
            not_before: now,
            ttl: Duration::from_secs(60),
        };
        let token = again.sign(&claims).unwrap();
        let issuer = Issuer { leeway: Duration::ZERO, ..Issuer::new_oidc(url, ["postern"]) };
        let verifier = IssuerVerifier::new(&"dev".parse().unwrap(), &issuer, &key.jwks()).unwrap();
        let principal = verifier.verify(&token, now).unwrap();
        assert_eq!(principal.to_string(), "dev/alice");
        assert!(principal.in_any(["dba"]));
        assert!(verifier.verify(&token, now.plus(Duration::from_secs(61))).is_err());
    }
}
