//! Proofs of possession for HTTP (DPoP; RFC 9449): a JWT for each request, signed by the key that a token is bound to.
//!
//! [`Proof::verify`] is a function of the proof, the request and the time. That a proof is good once, and made lately, [`Proofs`] looks after, one
//! for each node.

use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{Context, SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use postern_core::Timestamp;
use postern_core::issuer::Algorithm;
use postern_core::token::Confirmation;
use serde::Deserialize;
use serde_json::Value;

use super::TokenError;
use super::htu::normal;
use super::jws::{Jwk, Parts};
use super::seen::Digest;
use super::session::{LEEWAY, sha256};

/// RFC 9449, section 4.2.
pub(super) const TYPE: &str = "dpop+jwt";
/// What a proof may be signed by.
pub const PROOF_ALGORITHMS: [Algorithm; 6] =
    [Algorithm::Es256, Algorithm::EdDsa, Algorithm::Es384, Algorithm::Ps256, Algorithm::Rs256, Algorithm::Es512];
/// The longest proof, in bytes: RSA of 8192 bits fits.
const MAX_PROOF: usize = 6 * 1024;
/// How long after it was made a proof is good; [`LEEWAY`] before.
pub(super) const MAX_AGE: Duration = Duration::from_secs(60);
/// The longest `jti` and `nonce`, in bytes.
const MAX_TEXT: usize = 256;
/// Members of a JWK that only a private or a symmetric key has (RFC 7518, sections 6.2.2, 6.3.2 and 6.4.1).
const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// Why a proof is refused. Nothing of it is in the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// No JWT of that type with a key in its header, or too long.
    #[error("the proof is not a well-formed JWT of type dpop+jwt with a public key in its header")]
    Malformed,
    /// Its key is a private one, or unfit.
    #[error("the proof's key is not a fit public key")]
    Key,
    /// It is signed by another algorithm than is accepted, or than its key is for.
    #[error("the proof's algorithm is not accepted")]
    Algorithm,
    /// The signature is wrong.
    #[error("the proof's signature is wrong")]
    Signature,
    /// A claim is missing or unfit; the text names it.
    #[error("the proof's claims are not accepted: {0}")]
    Claims(&'static str),
    /// It is for another method.
    #[error("the proof's htm is another method")]
    Method,
    /// It is for another URL.
    #[error("the proof's htu is another URL")]
    Url,
    /// It was not made just now.
    #[error("the proof's iat is too long ago, or in the future")]
    Time,
    /// It goes with another token, or says with none.
    #[error("the proof's ath is another token")]
    Token,
    /// It was shown before.
    #[error("the proof was shown before")]
    Replayed,
    /// It lacks a nonce of this node's, or the one that it has is no longer good.
    #[error("the proof needs a nonce that was given here lately")]
    Nonce,
    /// There is no room to remember it (I11): it might be shown again.
    #[error("too many proofs were shown here of late")]
    Busy,
}

/// The SHA-256 thumbprint of a key (RFC 7638).
pub type Thumbprint = [u8; 32];

/// A proof that fits its request. It counts once [`super::Proofs::spend`] has taken it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    key: Thumbprint,
    /// SHA-256 of the token that it goes with.
    token: Option<Digest>,
    id: Digest,
    made_at: Timestamp,
    pub(super) nonce: Option<String>,
    pub(super) spent: bool,
}

#[derive(Deserialize)]
struct Header {
    jwk: Value,
}

#[derive(Deserialize)]
struct Claims {
    jti: String,
    htm: String,
    htu: String,
    iat: u64,
    exp: Option<u64>,
    nbf: Option<u64>,
    ath: Option<String>,
    nonce: Option<String>,
}

impl Proof {
    /// Verifies that `proof` was made for a request of `method` to `url`, about `now`.
    ///
    /// # Errors
    /// It is not accepted.
    pub fn verify(proof: &str, (method, url): (&str, &str), now: Timestamp) -> Result<Self, ProofError> {
        if proof.len() > MAX_PROOF {
            return Err(ProofError::Malformed);
        }
        let parts = Parts::parse(proof).map_err(|_| ProofError::Malformed)?;
        if !parts.header.typ.as_deref().is_some_and(|typ| typ.eq_ignore_ascii_case(TYPE)) {
            return Err(ProofError::Malformed);
        }
        let key = key(proof)?;
        parts.verify_by(&key, &PROOF_ALGORITHMS).map_err(|error| match error {
            TokenError::Signature => ProofError::Signature,
            _ => ProofError::Algorithm,
        })?;
        let thumbprint = sha256(&key.canonical().ok_or(ProofError::Key)?);
        let claims: Claims =
            serde_json::from_slice(&parts.payload).map_err(|_| ProofError::Claims("jti, htm, htu or iat"))?;
        if claims.jti.is_empty() || claims.jti.len() > MAX_TEXT {
            return Err(ProofError::Claims("jti"));
        }
        if claims.nonce.as_ref().is_some_and(|nonce| nonce.len() > MAX_TEXT) {
            return Err(ProofError::Claims("nonce"));
        }
        // Methods are told apart by case (RFC 9110, section 9.1).
        if claims.htm != method {
            return Err(ProofError::Method);
        }
        if normal(&claims.htu).is_none_or(|shown| normal(url) != Some(shown)) {
            return Err(ProofError::Url);
        }
        let made_at = Timestamp::from_secs(claims.iat);
        let in_time = made_at.plus(MAX_AGE) >= now && made_at <= now.plus(LEEWAY);
        let begun = claims.nbf.is_none_or(|nbf| Timestamp::from_secs(nbf) <= now.plus(LEEWAY));
        if !in_time || !begun || claims.exp.is_some_and(|exp| Timestamp::from_secs(exp).plus(LEEWAY) <= now) {
            return Err(ProofError::Time);
        }
        let token = claims.ath.map(|ath| {
            let digest = URL_SAFE_NO_PAD.decode(ath).ok().and_then(|bytes| Digest::try_from(bytes).ok());
            digest.ok_or(ProofError::Claims("ath"))
        });
        let mut id = Context::new(&SHA256);
        id.update(&thumbprint);
        id.update(claims.jti.as_bytes());
        let id = id.finish().as_ref().try_into().map_err(|_| ProofError::Malformed)?;
        Ok(Self { key: thumbprint, token: token.transpose()?, id, made_at, nonce: claims.nonce, spent: false })
    }

    /// Whose it is.
    #[must_use]
    pub const fn key(&self) -> &Thumbprint {
        &self.key
    }

    /// What a token says that is bound to its key.
    #[must_use]
    pub fn confirmation(&self) -> Confirmation {
        Confirmation::key(&self.key)
    }

    /// Stands for it among all proofs: of the key and the `jti`.
    #[must_use]
    pub const fn id(&self) -> &[u8; 32] {
        &self.id
    }

    /// When it was made, by its maker's clock.
    #[must_use]
    pub const fn made_at(&self) -> Timestamp {
        self.made_at
    }

    /// It is refused after that by itself.
    #[must_use]
    pub fn until(&self) -> Timestamp {
        self.made_at.plus(MAX_AGE)
    }

    /// Whether it was taken already, for the same request.
    #[must_use]
    pub const fn is_spent(&self) -> bool {
        self.spent
    }

    /// As if it had another `jti`.
    #[cfg(test)]
    pub(super) fn renumber(&mut self, n: u32) {
        self.id = sha256(&n.to_string());
        self.spent = false;
    }

    /// Checks that it goes with `token`, which is shown with it (RFC 9449, section 7).
    ///
    /// # Errors
    /// It goes with another, or does not say with which.
    pub fn goes_with(&self, token: &str) -> Result<(), ProofError> {
        match &self.token {
            Some(told) if verify_slices_are_equal(told, &sha256(token)).is_ok() => Ok(()),
            _ => Err(ProofError::Token),
        }
    }

    /// As [`Self::goes_with`], where a proof need not say it: where a token is asked for.
    ///
    /// # Errors
    /// It goes with another.
    pub fn may_go_with(&self, token: &str) -> Result<(), ProofError> {
        if self.token.is_none() { Ok(()) } else { self.goes_with(token) }
    }
}

/// The public key in the header.
fn key(proof: &str) -> Result<Jwk, ProofError> {
    let header = proof.split('.').next().and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
    let header = header.and_then(|json| serde_json::from_slice::<Header>(&json).ok()).ok_or(ProofError::Malformed)?;
    let members = header.jwk.as_object().ok_or(ProofError::Malformed)?;
    // Who shows a private key has it no more for themselves.
    if PRIVATE.iter().any(|member| members.contains_key(*member)) {
        return Err(ProofError::Key);
    }
    serde_json::from_value(header.jwk).map_err(|_| ProofError::Key)
}
