//! Tokens of a trusted OIDC issuer: ID tokens (OpenID Connect Core 1.0) and JWT access tokens (RFC 9068).

use std::time::Duration;

use postern_core::issuer::{Issuer, OidcIssuer};
use postern_core::principal::PrincipalId;
use postern_core::{Name, Principal, Timestamp};
use serde_json::Value;

use super::claims::{self, Claims, fit};
use super::jws::{KeyError, KeySet, Parts, Usage};
use super::{TokenError, Verified, lives};

/// Verifies one issuer's tokens. Keys are parsed once, here.
#[derive(Debug)]
pub struct IssuerVerifier {
    name: Name,
    rules: Issuer,
    oidc: OidcIssuer,
    keys: KeySet,
}

impl IssuerVerifier {
    /// From the issuer's rules and its keys (a JWKS as fetched; one that declares its own needs none, and takes no other).
    ///
    /// # Errors
    /// The issuer is of another kind, or the set is unreadable or has no key for the accepted algorithms.
    pub fn new(name: &Name, issuer: &Issuer, jwks_json: &str) -> Result<Self, KeyError> {
        let oidc = issuer.oidc().ok_or(KeyError::OtherKind)?;
        let usage = if issuer.is_trust_domain() { Usage::JwtSvid } else { Usage::Signing };
        let keys = KeySet::parse(oidc.jwks().unwrap_or(jwks_json), &oidc.algorithms, usage)?;
        Ok(Self { name: name.clone(), rules: issuer.clone(), oidc: oidc.clone(), keys })
    }

    /// The principal that `token` proves at `now`.
    ///
    /// # Errors
    /// The token is not accepted.
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<Principal, TokenError> {
        Ok(self.verify_parts(&Parts::parse(token)?, now)?.principal)
    }

    pub(super) fn verify_parts(&self, parts: &Parts<'_>, now: Timestamp) -> Result<Verified, TokenError> {
        // Only what says that it is an ID or access token: a session, logout or event token is another thing (RFC 8725, section 3.11).
        if let Some(typ) = &parts.header.typ {
            let lower = typ.to_ascii_lowercase();
            let svid = lower == "jose" && self.rules.is_trust_domain();
            if !svid && !matches!(lower.strip_prefix("application/").unwrap_or(&lower), "jwt" | "at+jwt") {
                return Err(TokenError::claims("typ"));
            }
        }
        self.keys.verify(parts)?;
        let claims: Claims =
            serde_json::from_slice(&parts.payload).map_err(|_| TokenError::claims("they are not a JSON object"))?;

        self.check_issuer(&claims)?;
        self.check_audience(&claims)?;
        let (issued_at, expires_at) = self.check_times(&claims, now)?;
        claims::check_required(&claims, &self.oidc.required)?;
        let subject = claims::subject(&claims, &self.oidc.subject)?;
        let token_id = match claims.get("jti") {
            None | Some(Value::Null) => None,
            Some(Value::String(id)) => Some(fit(id, "jti")?),
            Some(_) => return Err(TokenError::claims("jti")),
        };
        let mut principal = Principal {
            id: PrincipalId { issuer: self.name.clone(), subject },
            groups: claims::groups(&claims, &self.oidc.groups, &self.rules.groups_prefix)?,
            token_id,
            expires_at: Some(expires_at),
            chain: Vec::new(),
            claims: claims::kept(&claims, &self.rules.keep, &self.oidc.required)?,
        };
        if let Some(issued_at) = issued_at {
            principal.claims.live(lives(issued_at, expires_at));
        }
        let issued_at = issued_at.unwrap_or_default();
        Ok(Verified::fresh(principal, issued_at))
    }

    /// Byte for byte. Of a trust domain the subject says it (JWT-SVID, sections 3 and 4), and whatever `iss` says does not count.
    fn check_issuer(&self, claims: &Claims) -> Result<(), TokenError> {
        let text = |claim: &str| claims.get(claim).and_then(Value::as_str);
        let stated = match self.rules.is_trust_domain() {
            true => text("sub").and_then(Issuer::trust_domain_of),
            false => text("iss"),
        };
        if stated == Some(self.rules.url.as_str()) { Ok(()) } else { Err(TokenError::Issuer) }
    }

    /// RFC 7519, section 4.1.3: a string or a list of them.
    fn check_audience(&self, claims: &Claims) -> Result<(), TokenError> {
        let accepted = |value: &Value| value.as_str().is_some_and(|text| self.oidc.audiences.iter().any(|a| a == text));
        let ours = match claims.get("aud") {
            Some(Value::Array(all)) => all.iter().any(accepted),
            Some(one) => accepted(one),
            None => false,
        };
        if ours { Ok(()) } else { Err(TokenError::Audience) }
    }

    /// RFC 7519, sections 4.1.4 to 4.1.6. Gives `iat`, when it is said, and `exp`.
    fn check_times(&self, claims: &Claims, now: Timestamp) -> Result<(Option<Timestamp>, Timestamp), TokenError> {
        let leeway = self.rules.leeway;
        let expires_at = date(claims, "exp")?.ok_or_else(|| TokenError::claims("exp is missing"))?;
        if now >= expires_at.plus(leeway) {
            return Err(TokenError::Expired);
        }
        let issued_at = date(claims, "iat")?;
        for begin in [date(claims, "nbf")?, issued_at].into_iter().flatten() {
            if begin > now.plus(leeway) {
                return Err(TokenError::NotYetValid);
            }
        }
        if let Some(max_age) = self.rules.max_age {
            let issued_at = issued_at.ok_or_else(|| TokenError::claims("iat is missing"))?;
            if now > issued_at.plus(max_age).plus(leeway) {
                return Err(TokenError::TooOld);
            }
        }
        Ok((issued_at, expires_at))
    }
}

/// A NumericDate (RFC 7519, section 2), which may have a fraction.
fn date(claims: &Claims, name: &str) -> Result<Option<Timestamp>, TokenError> {
    let unfit = || TokenError::claims(name);
    match claims.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match (value.as_u64(), value.as_f64()) {
            (Some(secs), _) => Ok(Some(Timestamp::from_secs(secs))),
            (None, Some(secs)) => {
                let since = Duration::try_from_secs_f64(secs).map_err(|_| unfit())?;
                Ok(Some(Timestamp::from_millis(0).plus(since)))
            }
            (None, None) => Err(unfit()),
        },
    }
}
