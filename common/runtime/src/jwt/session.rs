//! Postern's own session tokens: EdDSA (RFC 8037), one `typ`, one audience, one cluster.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use postern_core::Timestamp;
use postern_core::issuer::Algorithm;
use postern_core::token::{
    SESSION_TOKEN_AUDIENCE, SESSION_TOKEN_ISSUER, SESSION_TOKEN_MAX_TTL, SESSION_TOKEN_TYPE, SessionClaims,
};
use rcgen::{KeyPair, SigningKey as _};
use secrecy::{ExposeSecret as _, SecretString};

use super::TokenError;
use super::jws::{KeyError, KeySet, Parts};

/// How far a gateway's clock may be behind the control plane's. There is none for the end: it is never later than written.
const LEEWAY: Duration = Duration::from_secs(30);

/// Verifies session tokens of one cluster. Keys are parsed once, here.
#[derive(Debug)]
pub struct SessionVerifier {
    cluster_id: String,
    keys: KeySet,
}

impl SessionVerifier {
    /// From the cluster's id and the JWKS of its signing keys.
    ///
    /// # Errors
    /// The set is unreadable or has no Ed25519 key.
    pub fn new(cluster_id: &str, jwks_json: &str) -> Result<Self, KeyError> {
        Ok(Self { cluster_id: cluster_id.to_owned(), keys: KeySet::parse(jwks_json, &[Algorithm::EdDsa])? })
    }

    /// What `token` says, once it is verified at `now`. The principal in it bears the token's id and end.
    ///
    /// # Errors
    /// The token is not accepted.
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<SessionClaims, TokenError> {
        let parts = Parts::parse(token)?;
        if parts.header.typ.as_deref() != Some(SESSION_TOKEN_TYPE) {
            return Err(TokenError::claims("typ"));
        }
        self.keys.verify(&parts)?;
        let mut claims: SessionClaims =
            serde_json::from_slice(&parts.payload).map_err(|_| TokenError::claims("not a session token's"))?;
        if claims.iss != SESSION_TOKEN_ISSUER || claims.cluster != self.cluster_id {
            return Err(TokenError::Issuer);
        }
        if claims.aud != SESSION_TOKEN_AUDIENCE {
            return Err(TokenError::Audience);
        }
        if claims.sub != claims.principal.id.to_string() {
            return Err(TokenError::claims("sub is not the principal"));
        }
        if claims.jti.is_empty() {
            return Err(TokenError::claims("jti is empty"));
        }
        if claims.exp.saturating_sub(claims.iat) > u64::from(SESSION_TOKEN_MAX_TTL) {
            return Err(TokenError::claims("exp is too far from iat"));
        }
        let expires_at = Timestamp::from_secs(claims.exp);
        if now >= expires_at {
            return Err(TokenError::Expired);
        }
        if Timestamp::from_secs(claims.nbf.max(claims.iat)) > now.plus(LEEWAY) {
            return Err(TokenError::NotYetValid);
        }
        claims.principal.token_id = Some(claims.jti.as_str().into());
        claims.principal.expires_at = Some(expires_at);
        Ok(claims)
    }
}

/// Signs session tokens with one Ed25519 key.
pub struct SessionSigner {
    key: KeyPair,
    /// The key's SHA-256 thumbprint (RFC 7638), so that the same key has the same id on every node.
    kid: String,
    x: String,
}

impl SessionSigner {
    /// A fresh key.
    ///
    /// # Errors
    /// The system cannot generate keys.
    pub fn generate() -> Result<Self, KeyError> {
        Self::of(KeyPair::generate_for(&rcgen::PKCS_ED25519).map_err(|_| KeyError::SigningKey)?)
    }

    /// From what [`Self::to_pem`] gave.
    ///
    /// # Errors
    /// The key is unreadable, or not Ed25519.
    pub fn from_pem(key_pem: &SecretString) -> Result<Self, KeyError> {
        Self::of(KeyPair::from_pem(key_pem.expose_secret()).map_err(|_| KeyError::SigningKey)?)
    }

    fn of(key: KeyPair) -> Result<Self, KeyError> {
        if *key.algorithm() != rcgen::PKCS_ED25519 {
            return Err(KeyError::SigningKey);
        }
        let x = URL_SAFE_NO_PAD.encode(key.public_key_raw());
        // The required members in lexicographic order, without spaces (RFC 7638, section 3; RFC 8037, section 2).
        let canonical = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#);
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, canonical.as_bytes());
        Ok(Self { key, kid: URL_SAFE_NO_PAD.encode(digest.as_ref()), x })
    }

    /// The private key (PKCS#8), for keeping it sealed.
    #[must_use]
    pub fn to_pem(&self) -> SecretString {
        SecretString::from(self.key.serialize_pem())
    }

    /// The id of the key.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The public key, as a JWKS of one.
    #[must_use]
    pub fn jwks(&self) -> String {
        let (kid, x) = (&self.kid, &self.x);
        serde_json::json!({"keys": [
            {"kty": "OKP", "crv": "Ed25519", "x": x, "use": "sig", "alg": "EdDSA", "kid": kid}
        ]})
        .to_string()
    }

    /// The token. What it claims is the caller's to answer for.
    ///
    /// # Errors
    /// The key failed to sign.
    pub fn sign(&self, claims: &SessionClaims) -> Result<String, KeyError> {
        let header = serde_json::json!({"alg": "EdDSA", "typ": SESSION_TOKEN_TYPE, "kid": self.kid}).to_string();
        let claims = serde_json::to_vec(claims).map_err(|_| KeyError::Sign)?;
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = self.key.sign(signed.as_bytes()).map_err(|_| KeyError::Sign)?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

impl fmt::Debug for SessionSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionSigner").field("kid", &self.kid).finish_non_exhaustive()
    }
}
