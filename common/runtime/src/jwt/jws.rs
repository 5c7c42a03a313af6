//! JWS compact serialization (RFC 7515, section 3.1) and JSON Web Key sets (RFC 7517).

use std::fmt;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519, ParsedPublicKey,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents, VerificationAlgorithm,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use postern_core::issuer::Algorithm;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::TokenError;

/// The longest token that is looked at, in bytes (I11).
pub const MAX_TOKEN: usize = 16 * 1024;
/// The longest JWKS that is looked at, in bytes.
const MAX_JWKS: usize = 256 * 1024;
/// The most keys of one issuer: more have never been seen in one rotation.
const MAX_KEYS: usize = 64;

/// Another name of `EdDSA`, by the one curve of it that is accepted.
pub const ED25519_ALONE: &str = "Ed25519";

/// Keys cannot be read, made or used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not a JSON Web Key set.
    #[error("not a JSON Web Key set")]
    NotJwks,
    /// More keys or bytes than are admitted.
    #[error("the JSON Web Key set is too large")]
    TooLarge,
    /// No key in the set fits the accepted algorithms.
    #[error("no key of the set is fit for the accepted algorithms")]
    NoUsableKey,
    /// An issuer's that signs no JSON Web Tokens.
    #[error("the issuer is not one of JSON Web Tokens")]
    OtherKind,
    /// A private key is unreadable, or of another kind.
    #[error("the signing key is not a readable key of its kind")]
    SigningKey,
    /// A client's private key is unreadable, or of another kind.
    #[error("the key is not a readable private key, Ed25519 or P-256, in PKCS#8 (PEM)")]
    ClientKey,
    /// The key failed to sign.
    #[error("signing failed")]
    Sign,
}

/// The header members that count. Others are ignored, those that bring keys above all.
#[derive(Deserialize)]
pub(super) struct Header {
    pub(super) alg: String,
    pub(super) kid: Option<String>,
    pub(super) typ: Option<String>,
    /// RFC 7515, section 4.1.11: who does not understand a critical extension refuses; none is understood here.
    crit: Option<IgnoredAny>,
}

/// By what a token says whose it is: to choose who verifies it, and for nothing else.
#[derive(Deserialize)]
pub(super) struct Unverified {
    pub(super) iss: Option<String>,
    pub(super) sub: Option<IgnoredUnlessText>,
}

/// A text, or whatever else: the verifier refuses what must be one.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum IgnoredUnlessText {
    Text(String),
    Other(IgnoredAny),
}

/// What a key must be declared for (RFC 7517, section 4.2).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Usage {
    /// `sig`, or nothing said.
    Signing,
    /// `jwt-svid`, as in a SPIFFE bundle, whose other keys are not for tokens; or `sig`, as SPIRE's discovery provider says it.
    JwtSvid,
}

impl Usage {
    fn takes(self, usage: Option<&str>) -> bool {
        match self {
            Self::Signing => usage.is_none_or(|usage| usage == "sig"),
            Self::JwtSvid => usage.is_some_and(|usage| usage == "jwt-svid" || usage == "sig"),
        }
    }
}

/// A token taken apart; nothing in it is verified.
pub(super) struct Parts<'a> {
    pub(super) header: Header,
    pub(super) payload: Vec<u8>,
    signed: &'a [u8],
    signature: Vec<u8>,
}

impl<'a> Parts<'a> {
    pub(super) fn parse(token: &'a str) -> Result<Self, TokenError> {
        if token.len() > MAX_TOKEN {
            return Err(TokenError::Malformed);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed);
        let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| TokenError::Malformed)?;
        if header.crit.is_some() {
            return Err(TokenError::Malformed);
        }
        Ok(Self { header, payload: decode(payload)?, signed: signed.as_bytes(), signature: decode(signature)? })
    }

    /// Checks the signature by an Ed25519 key that is known already (RFC 8037, section 3.1).
    pub(super) fn verify_ed25519(&self, key: &ParsedPublicKey) -> Result<(), TokenError> {
        if self.header.alg != Algorithm::EdDsa.as_str() {
            return Err(TokenError::Algorithm);
        }
        key.verify_sig(self.signed, &self.signature).map_err(|_| TokenError::Signature)
    }

    /// Checks the signature by a key that came with it, for any of `accepted` that it is fit for.
    pub(super) fn verify_by(&self, key: &Jwk, accepted: &[Algorithm]) -> Result<(), TokenError> {
        let accepted = named(&self.header.alg).filter(|algorithm| accepted.contains(algorithm));
        let algorithm = accepted.ok_or(TokenError::Algorithm)?;
        if key.alg.as_deref().is_some_and(|alg| named(alg) != Some(algorithm))
            || !Usage::Signing.takes(key.usage.as_deref())
        {
            return Err(TokenError::Algorithm);
        }
        let key = key.public_key(algorithm).ok_or(TokenError::Algorithm)?;
        key.verify_sig(self.signed, &self.signature).map_err(|_| TokenError::Signature)
    }

    pub(super) fn unverified(&self) -> Option<Unverified> {
        serde_json::from_slice(&self.payload).ok()
    }
}

/// An issuer's public keys, parsed once, each bound to the algorithms that it may be used with.
pub(super) struct KeySet {
    keys: Vec<Key>,
    /// A key of any of these may be added to the set.
    accepted: Vec<Algorithm>,
}

struct Key {
    kid: Option<String>,
    algorithm: Algorithm,
    key: ParsedPublicKey,
}

/// RFC 7517, section 4; RFC 7518, section 6; RFC 8037, section 2.
#[derive(Deserialize)]
pub(super) struct Jwk {
    kty: String,
    #[serde(rename = "use")]
    usage: Option<String>,
    alg: Option<String>,
    kid: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

#[derive(Deserialize)]
struct Jwks {
    keys: Vec<serde_json::Value>,
}

impl KeySet {
    /// The keys of `jwks` that fit any of `accepted`; others are passed over (RFC 7517, section 5).
    pub(super) fn parse(jwks: &str, accepted: &[Algorithm], usage: Usage) -> Result<Self, KeyError> {
        if jwks.len() > MAX_JWKS {
            return Err(KeyError::TooLarge);
        }
        let jwks: Jwks = serde_json::from_str(jwks).map_err(|_| KeyError::NotJwks)?;
        if jwks.keys.len() > MAX_KEYS {
            return Err(KeyError::TooLarge);
        }
        let mut keys = Vec::new();
        for jwk in jwks.keys {
            let Ok(jwk) = serde_json::from_value::<Jwk>(jwk) else { continue };
            if !usage.takes(jwk.usage.as_deref()) {
                continue;
            }
            for algorithm in accepted {
                if jwk.alg.as_deref().is_none_or(|alg| named(alg) == Some(*algorithm))
                    && let Some(key) = jwk.public_key(*algorithm)
                {
                    keys.push(Key { kid: jwk.kid.clone(), algorithm: *algorithm, key });
                }
            }
        }
        if keys.is_empty() { Err(KeyError::NoUsableKey) } else { Ok(Self { keys, accepted: accepted.to_vec() }) }
    }

    /// Those of a client: of `jwks` (which may be empty), and public keys in PEM. Unfit ones are passed over.
    pub(super) fn of_client(jwks: &str, pems: &[String]) -> Result<Self, KeyError> {
        let mut set = match jwks {
            "" => Self { keys: Vec::new(), accepted: Algorithm::ALL.to_vec() },
            jwks => match Self::parse(jwks, Algorithm::ALL, Usage::Signing) {
                Err(KeyError::NoUsableKey) => Self { keys: Vec::new(), accepted: Algorithm::ALL.to_vec() },
                parsed => parsed?,
            },
        };
        for der in pems.iter().filter_map(|pem| public_der(pem)) {
            let fit = |algorithm: &Algorithm| {
                let key = ParsedPublicKey::new(verification(*algorithm), &der).ok()?;
                Some(Key { kid: None, algorithm: *algorithm, key })
            };
            set.keys.extend(Algorithm::ALL.iter().filter_map(fit));
        }
        if set.keys.is_empty() { Err(KeyError::NoUsableKey) } else { Ok(set) }
    }

    /// As [`Self::verify`], by any key of the set: whoever has one of them may name it or not.
    pub(super) fn verify_by_any(&self, parts: &Parts<'_>) -> Result<(), TokenError> {
        let algorithm = named(&parts.header.alg).ok_or(TokenError::Algorithm)?;
        let mut fit = self.keys.iter().filter(|key| key.algorithm == algorithm);
        if fit.any(|key| key.key.verify_sig(parts.signed, &parts.signature).is_ok()) {
            Ok(())
        } else {
            Err(TokenError::Signature)
        }
    }

    /// Checks the signature of `parts`, by the key that it names and an algorithm that this key is bound to. Gives that key's id.
    pub(super) fn verify(&self, parts: &Parts<'_>) -> Result<Option<&str>, TokenError> {
        let algorithm = named(&parts.header.alg).ok_or(TokenError::Algorithm)?;
        if !self.accepted.contains(&algorithm) {
            return Err(TokenError::Algorithm);
        }
        let fit: Vec<&Key> = match parts.header.kid.as_deref() {
            Some(kid) => {
                let named: Vec<&Key> = self.keys.iter().filter(|key| key.kid.as_deref() == Some(kid)).collect();
                if named.is_empty() {
                    return Err(TokenError::UnknownKey);
                }
                named.into_iter().filter(|key| key.algorithm == algorithm).collect()
            }
            None => {
                let fit: Vec<&Key> = self.keys.iter().filter(|key| key.algorithm == algorithm).collect();
                // With several keys the token has to say which (OpenID Connect Core 1.0, section 10.1).
                if fit.len() != 1 {
                    return Err(TokenError::UnknownKey);
                }
                fit
            }
        };
        if fit.is_empty() {
            return Err(TokenError::Algorithm);
        }
        let right = |key: &&&Key| key.key.verify_sig(parts.signed, &parts.signature).is_ok();
        if let Some(key) = fit.iter().find(right) {
            Ok(key.kid.as_deref())
        } else if parts.header.kid.is_none() {
            // It does not say which key it is of: it may be the one that comes after this.
            Err(TokenError::UnknownKey)
        } else {
            Err(TokenError::Signature)
        }
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|key| (&key.kid, key.algorithm))).finish()
    }
}

impl Jwk {
    /// The key for use with `algorithm`; `None` when it is of another kind, or unfit.
    fn public_key(&self, algorithm: Algorithm) -> Option<ParsedPublicKey> {
        match algorithm {
            Algorithm::Rs256 => self.rsa(&RSA_PKCS1_2048_8192_SHA256),
            Algorithm::Rs384 => self.rsa(&RSA_PKCS1_2048_8192_SHA384),
            Algorithm::Rs512 => self.rsa(&RSA_PKCS1_2048_8192_SHA512),
            Algorithm::Ps256 => self.rsa(&RSA_PSS_2048_8192_SHA256),
            Algorithm::Ps384 => self.rsa(&RSA_PSS_2048_8192_SHA384),
            Algorithm::Ps512 => self.rsa(&RSA_PSS_2048_8192_SHA512),
            Algorithm::Es256 => self.ec("P-256", 32, &ECDSA_P256_SHA256_FIXED),
            Algorithm::Es384 => self.ec("P-384", 48, &ECDSA_P384_SHA384_FIXED),
            Algorithm::Es512 => self.ec("P-521", 66, &ECDSA_P521_SHA512_FIXED),
            Algorithm::EdDsa => {
                let x = self.x.as_deref().and_then(decode)?;
                let fits = self.kty == "OKP" && self.crv.as_deref() == Some("Ed25519") && x.len() == 32;
                fits.then(|| ParsedPublicKey::new(&ED25519, x).ok())?
            }
        }
    }

    /// What RFC 7638, section 3, hashes: the members that a key must have, in order.
    pub(super) fn canonical(&self) -> Option<String> {
        let all: &[(&str, &Option<String>)] = match self.kty.as_str() {
            "EC" => &[("crv", &self.crv), ("kty", &None), ("x", &self.x), ("y", &self.y)],
            "OKP" => &[("crv", &self.crv), ("kty", &None), ("x", &self.x)],
            "RSA" => &[("e", &self.e), ("kty", &None), ("n", &self.n)],
            _ => return None,
        };
        let member = |(name, value): &(&str, &Option<String>)| {
            let value = if *name == "kty" { Some(&self.kty) } else { value.as_ref() };
            // A key that is fit has nothing in these that JSON would escape.
            Some(format!("\"{name}\":\"{}\"", value.filter(|text| !text.contains(['"', '\\']))?))
        };
        let members: Option<Vec<String>> = all.iter().map(member).collect();
        Some(format!("{{{}}}", members?.join(",")))
    }

    fn rsa(&self, parameters: &'static RsaParameters) -> Option<ParsedPublicKey> {
        let (n, e) = (self.n.as_deref().and_then(decode)?, self.e.as_deref().and_then(decode)?);
        let significant: &[u8] = n.strip_prefix(&[0]).unwrap_or(&n);
        // At least 2048 bits (RFC 7518, section 3.3), and an exponent of the usual size, so that checking stays cheap.
        let fits = self.kty == "RSA" && (256..=1024).contains(&significant.len()) && (1..=4).contains(&e.len());
        fits.then(|| RsaPublicKeyComponents { n: significant, e: &e }.to_parsed_public_key(parameters).ok())?
    }

    fn ec(&self, curve: &str, size: usize, algorithm: &'static dyn VerificationAlgorithm) -> Option<ParsedPublicKey> {
        let (x, y) = (self.x.as_deref().and_then(decode)?, self.y.as_deref().and_then(decode)?);
        if self.kty != "EC" || self.crv.as_deref() != Some(curve) || x.len() != size || y.len() != size {
            return None;
        }
        // The uncompressed form (SEC 1, section 2.3.3).
        let point: Vec<u8> = [0x04].into_iter().chain(x).chain(y).collect();
        ParsedPublicKey::new(algorithm, point).ok()
    }
}

/// SubjectPublicKeyInfo out of PEM (RFC 7468, section 13).
fn public_der(pem: &str) -> Option<Vec<u8>> {
    let body = pem.trim().strip_prefix("-----BEGIN PUBLIC KEY-----")?.strip_suffix("-----END PUBLIC KEY-----")?;
    STANDARD.decode(body.split_ascii_whitespace().collect::<String>()).ok()
}

/// RFC 7518, section 3.1; RFC 8037, section 3.1.
fn verification(algorithm: Algorithm) -> &'static dyn VerificationAlgorithm {
    match algorithm {
        Algorithm::Rs256 => &RSA_PKCS1_2048_8192_SHA256,
        Algorithm::Rs384 => &RSA_PKCS1_2048_8192_SHA384,
        Algorithm::Rs512 => &RSA_PKCS1_2048_8192_SHA512,
        Algorithm::Ps256 => &RSA_PSS_2048_8192_SHA256,
        Algorithm::Ps384 => &RSA_PSS_2048_8192_SHA384,
        Algorithm::Ps512 => &RSA_PSS_2048_8192_SHA512,
        Algorithm::Es256 => &ECDSA_P256_SHA256_FIXED,
        Algorithm::Es384 => &ECDSA_P384_SHA384_FIXED,
        Algorithm::Es512 => &ECDSA_P521_SHA512_FIXED,
        Algorithm::EdDsa => &ED25519,
    }
}

/// By the name in a header or a key.
fn named(alg: &str) -> Option<Algorithm> {
    // EdDSA by that curve, by the name that newer libraries write (RFC 9864, section 2.2).
    if alg == ED25519_ALONE { Some(Algorithm::EdDsa) } else { Algorithm::from_text(alg) }
}

fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}
