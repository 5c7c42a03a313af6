//! From verified claims to a subject, groups, and whether the token says what it must.
//!
//! A claim of an unexpected shape refuses the token rather than being passed over: a rule that denies a group must not be lost, and a
//! requirement must not be met by what nobody thought of (I3).

use std::collections::BTreeSet;
use std::sync::Arc;

use postern_core::KeptClaims;
use postern_core::issuer::{ClaimPath, GroupsClaim, GroupsForm, RequiredClaim};
use postern_core::kept::ALWAYS_KEPT;
use serde_json::{Map, Value};

use super::TokenError;

/// Far above any directory's habit; below what would make decisions slow.
const MAX_GROUPS: usize = 1024;
/// For subjects, groups and token ids, in bytes. OpenID Connect Core 1.0, section 2, has 255 for `sub`.
const MAX_NAME: usize = 255;

pub(super) type Claims = Map<String, Value>;

/// The claim at `path`.
pub(super) fn find<'a>(claims: &'a Claims, path: &ClaimPath) -> Option<&'a Value> {
    // The whole name goes first: namespaced claims are URLs, with dots.
    if let Some(value) = path.whole().and_then(|whole| claims.get(whole)) {
        return Some(value);
    }
    let mut names = path.names().iter();
    let first = claims.get(names.next()?)?;
    names.try_fold(first, |value, name| value.as_object()?.get(name))
}

/// Names end up in recordings, logs and terminals: not empty, not long, no control characters.
pub(super) fn fit(text: &str, claim: &str) -> Result<Arc<str>, TokenError> {
    if text.is_empty() || text.len() > MAX_NAME || text.chars().any(char::is_control) {
        return Err(TokenError::claims(format!("{claim} is empty, too long or has control characters")));
    }
    Ok(text.into())
}

/// Who the token is of.
pub(super) fn subject(claims: &Claims, path: &ClaimPath) -> Result<Arc<str>, TokenError> {
    let subject = find(claims, path).and_then(Value::as_str);
    fit(subject.ok_or_else(|| TokenError::claims(format!("{path} is missing")))?, path.as_str())
}

/// Refuses a token that does not say what it must.
pub(super) fn check_required(claims: &Claims, required: &[RequiredClaim]) -> Result<(), TokenError> {
    for RequiredClaim { claim, values } in required {
        let value = match find(claims, claim) {
            None | Some(Value::Null) => return Err(TokenError::claims(format!("{claim} is required"))),
            Some(value) => value,
        };
        let fits = |value: &Value| {
            let text = scalar(value)?;
            Some(values.iter().any(|pattern| pattern.fits(&text)))
        };
        let fits = match value {
            // Each must be of a kind that is understood, also behind one that fits.
            Value::Array(all) => all.iter().map(fits).try_fold(false, |any, fits| Some(any | fits?)),
            one => fits(one),
        };
        match fits {
            Some(true) => {}
            Some(false) => return Err(TokenError::claims(format!("{claim} is none of the required values"))),
            None => return Err(TokenError::claims(format!("{claim} is not a text"))),
        }
    }
    Ok(())
}

/// A number with a fraction has no one text, and is none.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Number(number) if number.is_u64() || number.is_i64() => Some(number.to_string()),
        Value::Number(_) | Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// What the principal keeps. What is to be kept and cannot be refuses the token: else a revocation by that claim would pass it over. Of what is
/// required there is what was asked for; of the rest, what is fit.
pub(super) fn kept(claims: &Claims, keep: &[ClaimPath], required: &[RequiredClaim]) -> Result<KeptClaims, TokenError> {
    let mut kept = KeptClaims::default();
    for path in keep {
        let fits = match find(claims, path) {
            None | Some(Value::Null) => true,
            Some(value) => texts(value).is_some_and(|values| kept.keep(path.as_str(), values)),
        };
        if !fits {
            return Err(TokenError::claims(format!("{path} cannot be kept: it is no text, or there is too much")));
        }
    }
    for name in ALWAYS_KEPT.into_iter().filter(|name| kept.values(name).is_empty()).collect::<Vec<_>>() {
        if let Some(values) = claims.get(name).and_then(texts) {
            let _ = kept.keep(name, values);
        }
    }
    for RequiredClaim { claim, values: patterns } in required {
        let values = find(claims, claim).and_then(texts).unwrap_or_default();
        if kept.values(claim.as_str()).is_empty() {
            let fits = |value: &Arc<str>| patterns.iter().any(|pattern| pattern.fits(value));
            let _ = kept.keep(claim.as_str(), values.into_iter().filter(fits).collect());
        }
    }
    Ok(kept)
}

/// The texts of a claim. They end up in recordings and on terminals.
fn texts(value: &Value) -> Option<Vec<Arc<str>>> {
    let text = |value: &Value| scalar(value).filter(|text| !text.chars().any(char::is_control)).map(Into::into);
    match value {
        Value::Array(all) => all.iter().map(text).collect(),
        one => Some(vec![text(one)?]),
    }
}

/// The groups that all of `from` name.
pub(super) fn groups(claims: &Claims, from: &[GroupsClaim], prefix: &str) -> Result<BTreeSet<Arc<str>>, TokenError> {
    let mut groups = BTreeSet::new();
    for one in from {
        for name in names(claims, one)? {
            let name = fit(name, if one.is_plain() { "the groups claim" } else { one.claim.as_str() })?;
            groups.insert(format!("{prefix}{}{name}", one.prefix).into());
            if groups.len() > MAX_GROUPS {
                return Err(TokenError::claims("too many groups"));
            }
        }
    }
    Ok(groups)
}

fn names<'a>(claims: &'a Claims, from: &GroupsClaim) -> Result<Vec<&'a str>, TokenError> {
    let unfit = || TokenError::claims("the groups claim is not a list of names");
    let value = match find(claims, &from.claim) {
        None | Some(Value::Null) => {
            elsewhere(claims, &from.claim)?;
            return Ok(Vec::new());
        }
        Some(value) => value,
    };
    let names: Vec<&str> = match (from.form, value) {
        (GroupsForm::List, Value::Array(all)) if all.len() > MAX_GROUPS => {
            return Err(TokenError::claims("too many groups"));
        }
        (GroupsForm::List, Value::Array(all)) => {
            all.iter().map(|one| one.as_str().ok_or_else(unfit)).collect::<Result<_, _>>()?
        }
        (GroupsForm::List, Value::String(one)) => vec![one],
        (GroupsForm::Spaces, Value::String(text)) => text.split(' ').filter(|name| !name.is_empty()).collect(),
        (GroupsForm::Commas, Value::String(text)) => {
            text.split(',').map(str::trim).filter(|name| !name.is_empty()).collect()
        }
        (GroupsForm::Keys, Value::Object(members)) => members.keys().map(String::as_str).collect(),
        _ => return Err(unfit()),
    };
    Ok(names)
}

/// A claim that is said to be elsewhere (OpenID Connect Core 1.0, section 5.6.2) is not absent: Entra leaves `groups` out like this when there
/// are too many, and then nobody knows which they are.
fn elsewhere(claims: &Claims, claim: &ClaimPath) -> Result<(), TokenError> {
    let name = claim.whole().or_else(|| claim.names().first().map(String::as_str)).unwrap_or_default();
    let named = claims.get("_claim_names").and_then(Value::as_object).is_some_and(|names| names.contains_key(name));
    let many = name == "groups" && claims.get("hasgroups").is_some_and(|has| *has != Value::Bool(false));
    if named || many {
        return Err(TokenError::claims(format!("{claim} is not in the token: it has too many groups")));
    }
    Ok(())
}
