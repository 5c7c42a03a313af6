//! Bad tokens, made from good ones.

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// The same claims, said to be unsigned (`alg: none`, RFC 7518, section 3.6).
///
/// # Errors
/// When `token` is no JWT.
pub fn unsigned(token: &str) -> Result<String> {
    let [_, claims, _] = parts(token)?;
    let header = URL_SAFE_NO_PAD.encode(json!({"alg": "none", "typ": "JWT"}).to_string());
    Ok(format!("{header}.{claims}."))
}

/// The signature kept, the claims changed by `change`.
///
/// # Errors
/// When `token` is no JWT.
pub fn tampered(token: &str, change: impl FnOnce(&mut Value)) -> Result<String> {
    let [header, claims, signature] = parts(token)?;
    let mut claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims)?)?;
    change(&mut claims);
    Ok(format!("{header}.{}.{signature}", URL_SAFE_NO_PAD.encode(claims.to_string())))
}

/// The claims, unverified.
///
/// # Errors
/// When `token` is no JWT.
pub fn claims(token: &str) -> Result<Value> {
    let [_, claims, _] = parts(token)?;
    Ok(serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims)?)?)
}

fn parts(token: &str) -> Result<[&str; 3]> {
    let parts: Vec<&str> = token.split('.').collect();
    parts.try_into().ok().context("a JWT has three parts")
}
