//! Postern's own session tokens: EdDSA (RFC 8037) or ES256, one audience, one cluster; and the links by which their holders hand them on.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{self, SHA256};
use aws_lc_rs::signature::ParsedPublicKey;
use postern_core::issuer::Algorithm;
use postern_core::principal::Link;
use postern_core::revocation::{Bearer, RevocationKey, Revoked};
use postern_core::scope::Scope;
use postern_core::token::{
    Confirmation, LINK_SEPARATOR, MAX_DEPTH, SCOPED_TOKEN_TYPE, SESSION_TOKEN_AUDIENCE, SESSION_TOKEN_MAX_TTL,
    SESSION_TOKEN_TYPE, SessionClaims,
};
use postern_core::{Principal, Timestamp};

use super::jws::{KeyError, KeySet, MAX_TOKEN, Parts, Usage};
use super::seen::{Digest, Seen};
use super::{TokenError, Verified, link, lives};

/// By what session tokens are signed; each key is for one of them, whatever a token says.
pub(super) const SIGNS: [Algorithm; 2] = [Algorithm::EdDsa, Algorithm::Es256];
/// How far a gateway's clock may be behind the control plane's. There is none for the end: it is never later than written.
pub(super) const LEEWAY: Duration = Duration::from_secs(30);

/// The most keys that may have signed what one token was made of: no more than it was handed on, and room for later versions.
const MAX_SIGNERS: usize = 16;

/// Verifies session tokens of one cluster, and the links that follow them. Keys are parsed once, here; a token that was seen before is known by
/// its digest.
#[derive(Debug)]
pub struct SessionVerifier {
    cluster_id: String,
    keys: KeySet,
    seen: Seen,
}

/// A token, alone or with links, whose signatures are right; its time is another matter.
#[derive(Debug)]
pub(super) struct Checked {
    /// With the end of the whole chain.
    pub(super) principal: Principal,
    pub(super) issued_at: Timestamp,
    pub(super) depth: u8,
    pub(super) not_before: Timestamp,
    pub(super) expires_at: Timestamp,
    /// By whom the next link must be signed, and how many there may be.
    pub(super) delegation: Option<(ParsedPublicKey, u8)>,
    pub(super) confirmation: Option<Confirmation>,
    pub(super) origin: Option<RevocationKey>,
    /// The key that signed the first, and those that had signed what that was made of.
    pub(super) signers: Vec<RevocationKey>,
    pub(super) bearer: Bearer,
}

impl SessionVerifier {
    /// From the cluster's id and the JWKS of its signing keys.
    ///
    /// # Errors
    /// The set is unreadable or has no key by which session tokens are signed.
    pub fn new(cluster_id: &str, jwks_json: &str) -> Result<Self, KeyError> {
        let keys = KeySet::parse(jwks_json, &SIGNS, Usage::Signing)?;
        Ok(Self { cluster_id: cluster_id.to_owned(), keys, seen: Seen::default() })
    }

    /// Whom `token` (with the links that follow it) proves, at `now`.
    ///
    /// # Errors
    /// The token is not accepted.
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<Verified, TokenError> {
        match self.again(token, now) {
            Some(verified) => verified,
            None => self.anew(token, now),
        }
    }

    /// As [`Self::verify`], of a token that [`Self::again`] does not know.
    pub(super) fn anew(&self, token: &str, now: Timestamp) -> Result<Verified, TokenError> {
        if token.len() > MAX_TOKEN {
            return Err(TokenError::Malformed);
        }
        self.check(token, now)?.show(now)
    }

    /// As [`Self::verify`], if the token's signatures were checked before.
    pub(super) fn again(&self, token: &str, now: Timestamp) -> Option<Result<Verified, TokenError>> {
        if token.len() > MAX_TOKEN {
            return None;
        }
        Some(self.seen.get(&sha256(token))?.show(now))
    }

    /// As [`Self::verify`], also of what is only shown with links behind it.
    pub(super) fn look(&self, token: &str, now: Timestamp) -> Result<Verified, TokenError> {
        if token.len() > MAX_TOKEN {
            return Err(TokenError::Malformed);
        }
        let checked = self.check(token, now)?;
        if now >= checked.expires_at { Err(TokenError::Expired) } else { Ok(checked.verified()) }
    }

    fn check(&self, token: &str, now: Timestamp) -> Result<Arc<Checked>, TokenError> {
        let parts: Vec<&str> = token.split(LINK_SEPARATOR).collect();
        if parts.len() > usize::from(MAX_DEPTH) + 1 {
            return Err(TokenError::claims("more links than any token may have"));
        }
        let prefixes = digests(&parts);
        // What was handed to many begins alike for all of them.
        let known = prefixes.iter().enumerate().rev().find_map(|(place, digest)| Some((place, self.seen.get(digest)?)));
        let mut checked: Option<Arc<Checked>> = known.as_ref().map(|(_, checked)| Arc::clone(checked));
        let from = known.map_or(0, |(place, _)| place.saturating_add(1));
        let mut parent = from.checked_sub(1).and_then(|before| prefixes.get(before));
        for (part, digest) in parts.iter().zip(&prefixes).skip(from) {
            let next = match (&checked, parent) {
                (Some(before), Some(parent)) => link::follow(before, part, parent)?,
                _ => self.root(part)?,
            };
            let next = Arc::new(next);
            self.seen.keep(*digest, Arc::clone(&next), now);
            (checked, parent) = (Some(next), Some(digest));
        }
        checked.ok_or(TokenError::Malformed)
    }

    /// What the cluster itself signed.
    fn root(&self, token: &str) -> Result<Checked, TokenError> {
        let parts = Parts::parse(token)?;
        if !matches!(parts.header.typ.as_deref(), Some(SESSION_TOKEN_TYPE | SCOPED_TOKEN_TYPE)) {
            return Err(TokenError::claims("typ"));
        }
        let kid = self.keys.verify(&parts)?.unwrap_or_default();
        let claims: SessionClaims =
            serde_json::from_slice(&parts.payload).map_err(|_| TokenError::claims("not a session token's"))?;
        if !claims.is_ours() || claims.cluster != self.cluster_id {
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
        if claims.signers.len() > MAX_SIGNERS {
            return Err(TokenError::claims("signers: more than any token has"));
        }
        if claims.exp.saturating_sub(claims.iat) > u64::from(SESSION_TOKEN_MAX_TTL) {
            return Err(TokenError::claims("exp is too far from iat"));
        }
        let last = claims.principal.chain.last();
        if parts.header.typ.as_deref() != Some(claims.typ()) || last.is_some_and(|last| *last.token != *claims.jti) {
            return Err(TokenError::claims("typ and scope do not go together"));
        }
        let (mut principal, id): (Principal, Arc<str>) = (claims.principal, claims.jti.into());
        if !claims.targets.is_empty() {
            let scope = Scope::of_targets(claims.targets);
            principal.chain.push(Link { token: Arc::clone(&id), actor: None, scope });
        }
        let delegation = claims.dlg.map(|dlg| link::delegation(&dlg, MAX_DEPTH.saturating_sub(claims.depth)));
        let expires_at = Timestamp::from_secs(claims.exp);
        principal.token_id = Some(id);
        principal.expires_at = Some(expires_at);
        principal.claims.live(lives(Timestamp::from_secs(claims.iat), expires_at));
        let issued_at = Timestamp::from_secs(claims.began.map_or(claims.iat, |began| began.min(claims.iat)));
        let own = Revoked::SigningKey(kid.into()).key();
        let mut signers = vec![own];
        signers.extend(claims.signers.into_iter().filter(|signer| *signer != own));
        Ok(Checked {
            bearer: Bearer::new(&principal, true, claims.origin, issued_at).signed_by(&signers),
            origin: claims.origin,
            signers,
            principal,
            issued_at,
            depth: claims.depth,
            not_before: Timestamp::from_secs(claims.nbf.max(claims.iat)),
            expires_at,
            delegation: delegation.transpose()?,
            confirmation: claims.cnf,
        })
    }

    #[cfg(test)]
    pub(super) fn known(&self) -> usize {
        self.seen.len()
    }
}

impl Checked {
    /// Shown to somebody, at `now`.
    fn show(&self, now: Timestamp) -> Result<Verified, TokenError> {
        if now >= self.expires_at {
            return Err(TokenError::Expired);
        }
        if self.not_before > now.plus(LEEWAY) {
            return Err(TokenError::NotYetValid);
        }
        // Else whoever was handed a link could cut it off.
        if self.delegation.is_some() {
            return Err(TokenError::Delegable);
        }
        Ok(self.verified())
    }

    fn verified(&self) -> Verified {
        Verified {
            principal: self.principal.clone(),
            issued_at: self.issued_at,
            depth: Some(self.depth),
            confirmation: self.confirmation.clone(),
            origin: self.origin,
            signers: self.signers.clone(),
            bearer: self.bearer.clone(),
        }
    }
}

pub(super) fn sha256(text: &str) -> Digest {
    bytes(digest::digest(&SHA256, text.as_bytes()))
}

/// Both are 32 bytes.
fn bytes(digest: digest::Digest) -> Digest {
    digest.as_ref().try_into().unwrap_or_default()
}

/// Of the first part, of the first two with the separator between them, and so on.
fn digests(parts: &[&str]) -> Vec<Digest> {
    let mut so_far = digest::Context::new(&SHA256);
    let mut digests = Vec::with_capacity(parts.len());
    for (place, part) in parts.iter().enumerate() {
        if place > 0 {
            so_far.update(LINK_SEPARATOR.encode_utf8(&mut [0; 4]).as_bytes());
        }
        so_far.update(part.as_bytes());
        digests.push(bytes(so_far.clone().finish()));
    }
    digests
}
