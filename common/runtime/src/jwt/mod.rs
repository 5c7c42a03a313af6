//! Verification of identity providers' tokens and of Postern's own session tokens; signing of the latter.
//!
//! JSON Web Tokens (RFC 7519) in JWS compact form (RFC 7515), by the practices of RFC 8725: the accepted algorithms come from
//! configuration and the keys, never from the token; kinds of token are told apart by their `typ`; headers that would bring a
//! key along (`jwk`, `jku`, `x5u`, `x5c`) are not even read, but for proofs of possession: who has that key is all that they say. Everything here is a function of the token, the keys and the given time.

mod claims;
mod client;
mod client_key;
mod dpop;
mod htu;
mod issuer;
mod jws;
mod link;
mod proofs;
mod seen;
mod session;
mod signer;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use postern_core::issuer::Issuer;
use postern_core::revocation::{Bearer, RevocationKey, Revoked, TokenName};
use postern_core::snapshot::Snapshot;
use postern_core::token::{Confirmation, LINK_SEPARATOR, SCOPED_TOKEN_TYPE, SESSION_TOKEN_ISSUER, SESSION_TOKEN_TYPE};
use postern_core::{Code, Name, Principal, Timestamp};

pub use client::ClientAssertion;
pub use client_key::ClientKey;
pub use dpop::{PROOF_ALGORITHMS, Proof, ProofError, Thumbprint};
pub use issuer::IssuerVerifier;
pub use jws::{ED25519_ALONE, KeyError, MAX_TOKEN};
pub use link::{DelegationKey, NewLink, is_actor};
pub use proofs::Proofs;
pub use session::SessionVerifier;
pub use signer::SessionSigner;

/// Why a token is refused. Nothing of the token is in the text, so that it may be logged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a JWT in compact form, too long, or with a critical header.
    #[error("the token is not a well-formed JWT")]
    Malformed,
    /// Its algorithm is not among the accepted ones, or not one of its key.
    #[error("the token's signature algorithm is not accepted")]
    Algorithm,
    /// No key of the issuer has the token's key id.
    #[error("the token's key is not among the issuer's keys")]
    UnknownKey,
    /// The issuer is trusted, but its keys are not there: never fetched, or unusable.
    #[error("the issuer's keys are not available")]
    KeysUnavailable,
    /// The signature is wrong.
    #[error("the token's signature is wrong")]
    Signature,
    /// Its issuer is not a trusted one.
    #[error("the token's issuer is not trusted")]
    Issuer,
    /// It is meant for someone else.
    #[error("the token is for another audience")]
    Audience,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// Its time has not begun.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// Issued longer ago than the issuer's rules accept.
    #[error("the token was issued too long ago")]
    TooOld,
    /// It is good only from other addresses.
    #[error("the token is not for use from this address")]
    Network,
    /// Its bearer has not proven to have what it is bound to.
    #[error("the token is bound to a certificate that was not shown")]
    Unconfirmed,
    /// It is bound to a key that signs a proof for each request, and there was no proof by that key.
    #[error("the token is bound to a key (DPoP) of which there was no proof")]
    Unproven,
    /// It was revoked, or something that it is made of.
    #[error("the token was revoked")]
    Revoked,
    /// It carries a delegation key: only what is made from it by that key is shown.
    #[error("the token is to be handed on: only its children are shown")]
    Delegable,
    /// A claim is missing or unfit; the text names it, not its value.
    #[error("the token's claims are not accepted: {0}")]
    Claims(String),
}

impl TokenError {
    /// The code that the client is told.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::Expired | Self::TooOld => Code::TokenExpired,
            Self::NotYetValid => Code::TokenNotYetValid,
            Self::Revoked => Code::Revoked,
            Self::Malformed
            | Self::Algorithm
            | Self::UnknownKey
            | Self::KeysUnavailable
            | Self::Signature
            | Self::Issuer
            | Self::Audience
            | Self::Delegable
            | Self::Unconfirmed
            | Self::Unproven
            | Self::Network
            | Self::Claims(_) => Code::TokenInvalid,
        }
    }

    /// Of two reasons by which two candidates refuse, the one that was reached later tells more.
    const fn depth(&self) -> u8 {
        match self {
            Self::Malformed | Self::Issuer => 0,
            Self::KeysUnavailable => 1,
            Self::UnknownKey => 2,
            Self::Algorithm => 3,
            Self::Signature => 4,
            Self::Audience => 5,
            Self::Claims(_) | Self::Delegable | Self::Unconfirmed | Self::Unproven | Self::Network => 6,
            Self::Expired | Self::NotYetValid | Self::TooOld | Self::Revoked => 7,
        }
    }

    fn claims(what: impl Into<String>) -> Self {
        Self::Claims(what.into())
    }
}

/// A verified token's meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Who, and within what.
    pub principal: Principal,
    /// When the first proof was issued that it comes of: also of what a session token was made of.
    pub issued_at: Timestamp,
    /// How often it was handed on; none: it is no session token.
    pub depth: Option<u8>,
    /// Of what the bearer must prove possession.
    pub confirmation: Option<Confirmation>,
    /// What stands for the token of an issuer that the first of the session tokens was made of, when it has an id.
    pub origin: Option<RevocationKey>,
    /// What stands for the cluster's keys that have signed it, and what it was made of.
    pub signers: Vec<RevocationKey>,
    /// What a revocation can go by.
    pub bearer: Bearer,
}

impl Verified {
    /// Of a proof that is no session token.
    #[must_use]
    pub fn fresh(principal: Principal, issued_at: Timestamp) -> Self {
        let bearer = Bearer::new(&principal, false, None, issued_at);
        Self { principal, issued_at, depth: None, confirmation: None, origin: None, signers: Vec::new(), bearer }
    }

    /// What stands for it in the session token that is made of it, and of what is made of that.
    #[must_use]
    pub fn traced(&self) -> Option<RevocationKey> {
        match self.depth {
            Some(_) => self.origin,
            None => {
                let (issuer, id) = (self.principal.id.issuer.clone(), Arc::clone(self.principal.token_id.as_ref()?));
                Some(Revoked::Subtree(TokenName { issuer, id }).key())
            }
        }
    }

    /// Whether it is bound to a key that signs a proof for each request (RFC 9449).
    #[must_use]
    pub const fn needs_proof(&self) -> bool {
        matches!(self.confirmation, Some(Confirmation::Key(_)))
    }

    /// Checks what hangs on the connection on which the token was shown, `from` being the other end; none: unknown.
    ///
    /// # Errors
    /// The token is not for there, or bound to what was not shown.
    pub fn shown_from(&self, from: Option<IpAddr>) -> Result<(), TokenError> {
        self.shown_with(from, None)
    }

    /// As [`Self::shown_from`], by a client that has shown a certificate in TLS: its SHA-256, in DER.
    ///
    /// # Errors
    /// The token is not for there, or bound to what was not shown.
    pub fn shown_with(&self, from: Option<IpAddr>, certificate: Option<&[u8; 32]>) -> Result<(), TokenError> {
        self.shown_by(from, certificate, None)
    }

    /// As [`Self::shown_with`], with a proof of possession by a key.
    ///
    /// # Errors
    /// The token is not for there, or bound to what was not shown.
    pub fn shown_by(
        &self,
        from: Option<IpAddr>,
        certificate: Option<&[u8; 32]>,
        key: Option<&Thumbprint>,
    ) -> Result<(), TokenError> {
        match &self.confirmation {
            Some(bound @ Confirmation::Certificate(_))
                if certificate.is_none_or(|shown| Confirmation::certificate(shown) != *bound) =>
            {
                return Err(TokenError::Unconfirmed);
            }
            Some(bound @ Confirmation::Key(_)) if key.is_none_or(|shown| Confirmation::key(shown) != *bound) => {
                return Err(TokenError::Unproven);
            }
            _ => {}
        }
        if self.principal.may_come_from(from.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED))) {
            Ok(())
        } else {
            Err(TokenError::Network)
        }
    }
}

/// Everything that may sign a principal's token, at one revision: made once per snapshot, shared by all sessions.
#[derive(Debug)]
pub struct Verifier {
    session: Option<SessionVerifier>,
    /// By `iss`. Several Issuer resources may name one provider, for different audiences.
    issuers: BTreeMap<String, Vec<Candidate>>,
}

/// An issuer; without a verifier when its keys are missing or unusable.
type Candidate = (Name, Option<IssuerVerifier>);

impl Verifier {
    /// With every issuer of `snapshot`. One whose keys are missing or unusable refuses its own tokens and no others.
    #[must_use]
    pub fn from_snapshot(snapshot: &Snapshot) -> Self {
        let mut issuers: BTreeMap<String, Vec<Candidate>> = BTreeMap::new();
        for (name, (issuer, jwks)) in &snapshot.issuers {
            let Some(oidc) = issuer.oidc() else { continue };
            if issuer.url == SESSION_TOKEN_ISSUER {
                tracing::warn!(issuer = %name, "the issuer's URL is reserved for session tokens: not trusted");
                continue;
            }
            let verifier = match oidc.jwks().or(jwks.as_deref()).map(|jwks| IssuerVerifier::new(name, issuer, jwks)) {
                Some(Ok(verifier)) => Some(verifier),
                Some(Err(error)) => {
                    tracing::warn!(issuer = %name, %error, "the issuer's keys are not usable");
                    None
                }
                None => None,
            };
            issuers.entry(issuer.url.clone()).or_default().push((name.clone(), verifier));
        }
        let session = match SessionVerifier::new(&snapshot.cluster_id, &snapshot.session_token_jwks) {
            Ok(verifier) => Some(verifier),
            Err(error) => {
                tracing::warn!(%error, "the keys of session tokens are not usable");
                None
            }
        };
        Self { session, issuers }
    }

    /// Verifies a token of any kind. The unverified `typ` and `iss` only choose who verifies.
    ///
    /// # Errors
    /// The token is not accepted.
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<Verified, TokenError> {
        let session = || self.session.as_ref().ok_or(TokenError::KeysUnavailable);
        if let Some(verifier) = &self.session
            && let Some(verified) = verifier.again(token, now)
        {
            return verified;
        }
        if token.contains(LINK_SEPARATOR) {
            return session()?.anew(token, now);
        }
        let parts = jws::Parts::parse(token)?;
        if matches!(parts.header.typ.as_deref(), Some(SESSION_TOKEN_TYPE | SCOPED_TOKEN_TYPE)) {
            return session()?.anew(token, now);
        }
        let mut refusal = TokenError::Issuer;
        for (_, candidate) in self.candidates(&parts).ok_or(TokenError::Issuer)? {
            let error = match candidate {
                Some(verifier) => match verifier.verify_parts(&parts, now) {
                    Ok(verified) => return Ok(verified),
                    Err(error) => error,
                },
                None => TokenError::KeysUnavailable,
            };
            if error.depth() > refusal.depth() {
                refusal = error;
            }
        }
        Err(refusal)
    }

    /// What a session token says that is genuine and whose time is not over, also one that is only handed on. It is not to be let in by: somebody may have
    /// cut the links off that follow it.
    ///
    /// # Errors
    /// The token is not genuine, or has expired.
    pub fn look(&self, token: &str, now: Timestamp) -> Result<Verified, TokenError> {
        match self.verify(token, now) {
            Err(TokenError::Delegable) => self.session.as_ref().ok_or(TokenError::KeysUnavailable)?.look(token, now),
            settled => settled,
        }
    }

    /// Which issuers could have signed the token, by its own word: those whose keys are worth a look when its key is unknown.
    #[must_use]
    pub fn claimed_issuers(&self, token: &str) -> Vec<Name> {
        let parts = jws::Parts::parse(token).ok();
        let candidates = parts.as_ref().and_then(|parts| self.candidates(parts));
        candidates.unwrap_or_default().iter().map(|(name, _)| name.clone()).collect()
    }

    /// By `iss`; where that is of nobody, by the trust domain of the subject.
    fn candidates(&self, parts: &jws::Parts<'_>) -> Option<&[Candidate]> {
        let claims = parts.unverified()?;
        let by_issuer = claims.iss.as_deref().and_then(|iss| self.issuers.get(iss));
        let found = by_issuer.or_else(|| match &claims.sub {
            Some(jws::IgnoredUnlessText::Text(sub)) => self.issuers.get(Issuer::trust_domain_of(sub)?),
            Some(jws::IgnoredUnlessText::Other(_)) | None => None,
        });
        found.map(Vec::as_slice)
    }
}

/// How long a token lives, in seconds.
fn lives(issued_at: Timestamp, expires_at: Timestamp) -> u32 {
    u32::try_from(expires_at.secs().saturating_sub(issued_at.secs())).unwrap_or(u32::MAX)
}

/// The `iss` of a token, taken at its word: to choose who verifies it, and for nothing else.
#[must_use]
pub fn unverified_issuer(token: &str) -> Option<String> {
    jws::Parts::parse(token).ok()?.unverified()?.iss
}

/// What a session token, with the links behind it, says that it is bound to; taken at its word: for who is about to show it.
#[must_use]
pub fn unverified_binding(token: &str) -> Option<Confirmation> {
    #[derive(serde::Deserialize)]
    struct Bound {
        cnf: Option<Confirmation>,
    }
    let bound = |part: &str| serde_json::from_slice::<Bound>(&jws::Parts::parse(part).ok()?.payload).ok()?.cnf;
    token.rsplit(LINK_SEPARATOR).find_map(bound)
}

/// Whether a subject token leaves it to the bearer of `actor` to act for its subject (`may_act`, RFC 8693, section 4.4). Both must be verified
/// before. One that says nothing about it leaves it to whoever has both tokens.
#[must_use]
pub fn lets_act(subject: &str, actor: &str) -> bool {
    let claims = |token: &str| -> Option<serde_json::Value> {
        let root = token.split(LINK_SEPARATOR).next()?;
        serde_json::from_slice(&jws::Parts::parse(root).ok()?.payload).ok()
    };
    // An assertion has no such word.
    let Some(subject) = claims(subject) else { return true };
    let Some(may_act) = subject.get("may_act") else { return true };
    let Some(actor) = claims(actor) else { return false };
    let issuer = may_act.get("iss").or_else(|| subject.get("iss"));
    let named = may_act.get("sub").filter(|sub| sub.is_string());
    named.is_some() && named == actor.get("sub") && issuer.is_some() && issuer == actor.get("iss")
}

#[cfg(test)]
mod tests;
