//! The key of a client, by which it proves who it is (RFC 7523) or that a token is its own (RFC 9449).

use std::fmt;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use postern_core::Timestamp;
use postern_core::issuer::Algorithm;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject as _;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};

use super::dpop::{TYPE, Thumbprint};
use super::jws::{Jwk, KeyError};
use super::session::sha256;

/// How long an assertion is good, in seconds.
const ASSERTION: u64 = 60;

/// A private key, Ed25519 or P-256. It never leaves its holder.
pub struct ClientKey {
    key: Key,
    public: Value,
    thumbprint: Thumbprint,
}

enum Key {
    Ed25519(Ed25519KeyPair),
    P256(Box<EcdsaKeyPair>),
}

impl ClientKey {
    /// From PKCS#8 in PEM, as OpenSSL writes it.
    ///
    /// # Errors
    /// The key is unreadable, or of another kind.
    pub fn from_pem(key_pem: &SecretString) -> Result<Self, KeyError> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(key_pem.expose_secret().as_bytes());
        let der = der.map_err(|_| KeyError::ClientKey)?;
        let der = der.secret_pkcs8_der();
        let (key, public) = if let Ok(key) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
            let x = URL_SAFE_NO_PAD.encode(key.public_key());
            (Key::Ed25519(key), json!({"kty": "OKP", "crv": "Ed25519", "x": x}))
        } else {
            let key =
                EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der).map_err(|_| KeyError::ClientKey)?;
            // The uncompressed form (SEC 1, section 2.3.3).
            let (x, y) = match key.public_key().as_ref().split_first() {
                Some((0x04, point)) if point.len() == 64 => point.split_at(32),
                _ => return Err(KeyError::ClientKey),
            };
            let [x, y] = [x, y].map(|part| URL_SAFE_NO_PAD.encode(part));
            (Key::P256(Box::new(key)), json!({"kty": "EC", "crv": "P-256", "x": x, "y": y}))
        };
        let jwk: Jwk = serde_json::from_value(public.clone()).map_err(|_| KeyError::ClientKey)?;
        let thumbprint = sha256(&jwk.canonical().ok_or(KeyError::ClientKey)?);
        Ok(Self { key, public, thumbprint })
    }

    /// The key's SHA-256 thumbprint (RFC 7638), by which tokens are bound to it.
    #[must_use]
    pub const fn thumbprint(&self) -> &Thumbprint {
        &self.thumbprint
    }

    /// A proof of possession for one request of `method` to `url` (RFC 9449, section 4.2), which shows `token` or none.
    ///
    /// # Errors
    /// The key failed to sign.
    pub fn proof(
        &self,
        (method, url): (&str, &str),
        token: Option<&str>,
        nonce: Option<&str>,
        now: Timestamp,
    ) -> Result<String, KeyError> {
        let mut claims = json!({"jti": fresh_id()?, "htm": method, "htu": url, "iat": now.secs()});
        let ath = token.map(|token| URL_SAFE_NO_PAD.encode(sha256(token)));
        for (name, value) in [("ath", ath.as_deref()), ("nonce", nonce)] {
            if let (Some(value), Some(claims)) = (value, claims.as_object_mut()) {
                claims.insert(name.to_owned(), value.into());
            }
        }
        self.signed(&json!({"typ": TYPE, "alg": self.algorithm().as_str(), "jwk": self.public}), &claims)
    }

    /// The word of the client that is called `client` that it is the one, for the server `audience` alone (RFC 7523, section 3). It is good once, for a minute.
    ///
    /// # Errors
    /// The key failed to sign.
    pub fn assertion(&self, client: &str, audience: &str, now: Timestamp) -> Result<String, KeyError> {
        let (now, id) = (now.secs(), fresh_id()?);
        let claims = json!({
            "iss": client, "sub": client, "aud": audience, "jti": id, "iat": now, "exp": now.saturating_add(ASSERTION),
        });
        self.signed(&json!({"typ": "JWT", "alg": self.algorithm().as_str()}), &claims)
    }

    const fn algorithm(&self) -> Algorithm {
        match self.key {
            Key::Ed25519(_) => Algorithm::EdDsa,
            Key::P256(_) => Algorithm::Es256,
        }
    }

    fn signed(&self, header: &Value, claims: &Value) -> Result<String, KeyError> {
        let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        let signed = format!("{header}.{claims}");
        let signature = match &self.key {
            Key::Ed25519(key) => URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes())),
            Key::P256(key) => {
                let signature = key.sign(&SystemRandom::new(), signed.as_bytes()).map_err(|_| KeyError::Sign)?;
                URL_SAFE_NO_PAD.encode(signature)
            }
        };
        Ok(format!("{signed}.{signature}"))
    }
}

fn fresh_id() -> Result<String, KeyError> {
    let mut id = [0; 16];
    aws_lc_rs::rand::fill(&mut id).map_err(|_| KeyError::Sign)?;
    Ok(URL_SAFE_NO_PAD.encode(id))
}

impl fmt::Debug for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientKey").field("public", &self.public).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use postern_core::service_account::ServiceAccount;

    use super::super::{ClientAssertion, Proof};
    use super::*;

    #[test]
    fn what_it_signs_is_taken() {
        let now = Timestamp::from_secs(1_800_000_000);
        for kind in [&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P256_SHA256] {
            let made = rcgen::KeyPair::generate_for(kind).unwrap();
            let key = ClientKey::from_pem(&SecretString::from(made.serialize_pem())).unwrap();
            let request = ("POST", "https://a.example/x");
            let proof =
                Proof::verify(&key.proof(request, Some("a.b.c"), Some("n"), now).unwrap(), request, now).unwrap();
            assert_eq!((proof.key(), proof.goes_with("a.b.c")), (key.thumbprint(), Ok(())));
            assert_eq!(proof.nonce.as_deref(), Some("n"));
            let account = ServiceAccount { public_keys: vec![made.public_key_pem()], ..ServiceAccount::default() };
            let word = key.assertion("ci", "https://a.example", now).unwrap();
            ClientAssertion::verify(&word, ("ci", &account), &["https://a.example"], now).unwrap();
            assert!(!format!("{key:?}").contains("\"d\""));
        }
        let other = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap().serialize_pem();
        for bad in [other.as_str(), "", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
            assert_eq!(ClientKey::from_pem(&SecretString::from(bad)).err(), Some(KeyError::ClientKey));
        }
    }
}
