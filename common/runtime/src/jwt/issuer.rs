//! Tokens of a trusted OIDC issuer: ID tokens (OpenID Connect Core 1.0) and JWT access tokens (RFC 9068).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use postern_core::issuer::{Issuer, OidcIssuer};
use postern_core::principal::PrincipalId;
use postern_core::{Name, Principal, Timestamp};
use serde_json::{Map, Value};

use super::TokenError;
use super::jws::{KeyError, KeySet, Parts};

/// Far above any directory's habit; below what would make decisions slow.
const MAX_GROUPS: usize = 1024;
/// For subjects, groups and token ids, in bytes. OpenID Connect Core 1.0, section 2, has 255 for `sub`.
const MAX_NAME: usize = 255;

/// Verifies one issuer's tokens. Keys are parsed once, here.
#[derive(Debug)]
pub struct IssuerVerifier {
    name: Name,
    rules: Issuer,
    oidc: OidcIssuer,
    keys: KeySet,
}

impl IssuerVerifier {
    /// From the issuer's rules and its keys (a JWKS as fetched).
    ///
    /// # Errors
    /// The issuer is of another kind, or the set is unreadable or has no key for the accepted algorithms.
    pub fn new(name: &Name, issuer: &Issuer, jwks_json: &str) -> Result<Self, KeyError> {
        let oidc = issuer.oidc().ok_or(KeyError::OtherKind)?;
        let keys = KeySet::parse(jwks_json, &oidc.algorithms)?;
        Ok(Self { name: name.clone(), rules: issuer.clone(), oidc: oidc.clone(), keys })
    }

    /// The principal that `token` proves at `now`.
    ///
    /// # Errors
    /// The token is not accepted.
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<Principal, TokenError> {
        self.verify_parts(&Parts::parse(token)?, now)
    }

    pub(super) fn verify_parts(&self, parts: &Parts<'_>, now: Timestamp) -> Result<Principal, TokenError> {
        // Only what says that it is an ID or access token: a session, logout or event token is another thing (RFC 8725, section 3.11).
        if let Some(typ) = &parts.header.typ {
            let lower = typ.to_ascii_lowercase();
            if !matches!(lower.strip_prefix("application/").unwrap_or(&lower), "jwt" | "at+jwt") {
                return Err(TokenError::claims("typ"));
            }
        }
        self.keys.verify(parts)?;
        let claims: Map<String, Value> =
            serde_json::from_slice(&parts.payload).map_err(|_| TokenError::claims("they are not a JSON object"))?;

        if claims.get("iss").and_then(Value::as_str) != Some(self.rules.url.as_str()) {
            return Err(TokenError::Issuer);
        }
        self.check_audience(&claims)?;
        let expires_at = self.check_times(&claims, now)?;
        let subject = claims.get("sub").and_then(Value::as_str).ok_or_else(|| TokenError::claims("sub is missing"))?;
        let token_id = match claims.get("jti") {
            None | Some(Value::Null) => None,
            Some(Value::String(id)) => Some(fit(id, "jti")?),
            Some(_) => return Err(TokenError::claims("jti")),
        };
        Ok(Principal {
            id: PrincipalId { issuer: self.name.clone(), subject: fit(subject, "sub")? },
            groups: self.groups(&claims)?,
            token_id,
            expires_at: Some(expires_at),
            chain: Vec::new(),
        })
    }

    /// RFC 7519, section 4.1.3: a string or a list of them.
    fn check_audience(&self, claims: &Map<String, Value>) -> Result<(), TokenError> {
        let accepted = |value: &Value| value.as_str().is_some_and(|text| self.oidc.audiences.iter().any(|a| a == text));
        let ours = match claims.get("aud") {
            Some(Value::Array(all)) => all.iter().any(accepted),
            Some(one) => accepted(one),
            None => false,
        };
        if ours { Ok(()) } else { Err(TokenError::Audience) }
    }

    /// RFC 7519, sections 4.1.4 to 4.1.6. Gives `exp`.
    fn check_times(&self, claims: &Map<String, Value>, now: Timestamp) -> Result<Timestamp, TokenError> {
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
        Ok(expires_at)
    }

    /// A claim of an unexpected shape is refused rather than passed over: a rule that denies a group must not be lost.
    fn groups(&self, claims: &Map<String, Value>) -> Result<BTreeSet<Arc<str>>, TokenError> {
        let unfit = || TokenError::claims("the groups claim is not a list of names");
        let values: &[Value] = match find(claims, &self.oidc.groups_claim) {
            None | Some(Value::Null) => &[],
            Some(Value::Array(all)) => all,
            Some(one @ Value::String(_)) => std::slice::from_ref(one),
            Some(_) => return Err(unfit()),
        };
        if values.len() > MAX_GROUPS {
            return Err(TokenError::claims("too many groups"));
        }
        let mut groups = BTreeSet::new();
        for value in values {
            let group = fit(value.as_str().ok_or_else(unfit)?, "the groups claim")?;
            groups.insert(format!("{}{group}", self.rules.groups_prefix).into());
        }
        Ok(groups)
    }
}

/// A claim by its name, or by a path of names with dots between. The whole name goes first: namespaced claims are URLs, with dots.
fn find<'a>(claims: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    if path.is_empty() {
        return None;
    }
    if let Some(value) = claims.get(path) {
        return Some(value);
    }
    let mut names = path.split('.');
    let first = claims.get(names.next()?)?;
    names.try_fold(first, |value, name| value.as_object()?.get(name))
}

/// A NumericDate (RFC 7519, section 2), which may have a fraction.
fn date(claims: &Map<String, Value>, name: &str) -> Result<Option<Timestamp>, TokenError> {
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

/// Names end up in recordings, logs and terminals: not empty, not long, no control characters.
fn fit(text: &str, claim: &str) -> Result<Arc<str>, TokenError> {
    if text.is_empty() || text.len() > MAX_NAME || text.chars().any(char::is_control) {
        return Err(TokenError::claims(format!("{claim} is empty, too long or has control characters")));
    }
    Ok(text.into())
}
