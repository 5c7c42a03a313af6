//! The cluster's own signing keys: Ed25519 (RFC 8037) or ECDSA with P-256 (RFC 7518, section 3.4).

use std::fmt;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use postern_core::issuer::Algorithm;
use postern_core::token::SessionClaims;
use rcgen::{KeyPair, SigningKey as _};
use secrecy::{ExposeSecret as _, SecretString};

use super::jws::KeyError;
use super::session::sha256;

/// Signs session tokens with one key.
pub struct SessionSigner {
    key: KeyPair,
    /// The same key of P-256, for signatures in the form that tokens have.
    fixed: Option<EcdsaKeyPair>,
    /// The key's SHA-256 thumbprint (RFC 7638), so that the same key has the same id on every node.
    kid: String,
    jwk: serde_json::Value,
}

impl SessionSigner {
    /// A fresh Ed25519 key.
    ///
    /// # Errors
    /// The system cannot generate keys.
    pub fn generate() -> Result<Self, KeyError> {
        Self::generate_for(Algorithm::EdDsa)
    }

    /// A fresh key that signs by `algorithm`: EdDSA or ES256.
    ///
    /// # Errors
    /// It is another algorithm, or the system cannot generate keys.
    pub fn generate_for(algorithm: Algorithm) -> Result<Self, KeyError> {
        let kind = match algorithm {
            Algorithm::EdDsa => &rcgen::PKCS_ED25519,
            Algorithm::Es256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            _ => return Err(KeyError::SigningKey),
        };
        Self::of(KeyPair::generate_for(kind).map_err(|_| KeyError::SigningKey)?)
    }

    /// From what [`Self::to_pem`] gave.
    ///
    /// # Errors
    /// The key is unreadable, or of another kind.
    pub fn from_pem(key_pem: &SecretString) -> Result<Self, KeyError> {
        Self::of(KeyPair::from_pem(key_pem.expose_secret()).map_err(|_| KeyError::SigningKey)?)
    }

    fn of(key: KeyPair) -> Result<Self, KeyError> {
        let text = |part: &[u8]| URL_SAFE_NO_PAD.encode(part);
        // The required members in lexicographic order, without spaces (RFC 7638, section 3; RFC 8037, section 2).
        let (fixed, canonical, jwk) = if *key.algorithm() == rcgen::PKCS_ED25519 {
            let x = text(key.public_key_raw());
            let canonical = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#);
            (None, canonical, serde_json::json!({"kty": "OKP", "crv": "Ed25519", "x": x, "alg": "EdDSA"}))
        } else if *key.algorithm() == rcgen::PKCS_ECDSA_P256_SHA256 {
            let fixed = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.serialized_der());
            let fixed = fixed.map_err(|_| KeyError::SigningKey)?;
            // The uncompressed form (SEC 1, section 2.3.3).
            let point = key.public_key_raw().strip_prefix(&[4]).filter(|point| point.len() == 64);
            let (x, y) = point.and_then(|point| point.split_at_checked(32)).ok_or(KeyError::SigningKey)?;
            let (x, y) = (text(x), text(y));
            let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
            (Some(fixed), canonical, serde_json::json!({"kty": "EC", "crv": "P-256", "x": x, "y": y, "alg": "ES256"}))
        } else {
            return Err(KeyError::SigningKey);
        };
        let kid = text(&sha256(&canonical));
        let serde_json::Value::Object(mut jwk) = jwk else { return Err(KeyError::SigningKey) };
        jwk.insert("use".to_owned(), "sig".into());
        jwk.insert("kid".to_owned(), kid.as_str().into());
        Ok(Self { key, fixed, kid, jwk: jwk.into() })
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

    /// What it signs by.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        if self.fixed.is_some() { Algorithm::Es256 } else { Algorithm::EdDsa }
    }

    /// The public key, as a JSON Web Key.
    #[must_use]
    pub fn jwk(&self) -> String {
        self.jwk.to_string()
    }

    /// The public key, as a JWKS of one.
    #[must_use]
    pub fn jwks(&self) -> String {
        format!(r#"{{"keys":[{}]}}"#, self.jwk)
    }

    /// The token. What it claims is the caller's to answer for.
    ///
    /// # Errors
    /// The key failed to sign.
    pub fn sign(&self, claims: &SessionClaims) -> Result<String, KeyError> {
        let header = serde_json::json!({"alg": self.algorithm().as_str(), "typ": claims.typ(), "kid": self.kid});
        jws(&header, claims, |signed| match &self.fixed {
            Some(key) => Ok(key.sign(&SystemRandom::new(), signed).map_err(|_| KeyError::Sign)?.as_ref().to_vec()),
            None => self.key.sign(signed).map_err(|_| KeyError::Sign),
        })
    }
}

/// A JWS in compact form (RFC 7515, section 7.1), by an Ed25519 key.
pub(super) fn signed(
    key: &KeyPair,
    header: &serde_json::Value,
    claims: &impl serde::Serialize,
) -> Result<String, KeyError> {
    jws(header, claims, |signed| key.sign(signed).map_err(|_| KeyError::Sign))
}

fn jws(
    header: &serde_json::Value,
    claims: &impl serde::Serialize,
    sign: impl FnOnce(&[u8]) -> Result<Vec<u8>, KeyError>,
) -> Result<String, KeyError> {
    let claims = serde_json::to_vec(claims).map_err(|_| KeyError::Sign)?;
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims));
    let signature = sign(signed.as_bytes())?;
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

impl fmt::Debug for SessionSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionSigner").field("kid", &self.kid).finish_non_exhaustive()
    }
}
