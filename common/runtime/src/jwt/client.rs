//! Clients that prove who they are by a key of their own (`private_key_jwt`; RFC 7523, section 3).

use std::time::Duration;

use postern_core::Timestamp;
use postern_core::service_account::ServiceAccount;
use serde::Deserialize;

use super::TokenError;
use super::jws::{KeySet, Parts};
use super::session::LEEWAY;

/// The longest that one may be good, from now.
const LONGEST: Duration = Duration::from_secs(600);
/// The longest `jti`, in bytes.
const MAX_ID: usize = 256;

/// A client's word that it is who it says. It is good once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAssertion {
    /// Its `jti`: unique among those of the client.
    pub id: String,
    /// It is refused after that by itself.
    pub until: Timestamp,
}

/// RFC 7519, section 4.1.3: one, or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Audience,
    exp: u64,
    nbf: Option<u64>,
    iat: Option<u64>,
    jti: String,
}

impl ClientAssertion {
    /// Verifies that `assertion` is the word of `account`, called `client`, to a server that is known as any of `audiences`.
    ///
    /// # Errors
    /// It is not accepted.
    pub fn verify(
        assertion: &str,
        (client, account): (&str, &ServiceAccount),
        audiences: &[&str],
        now: Timestamp,
    ) -> Result<Self, TokenError> {
        let parts = Parts::parse(assertion)?;
        // No other token of ours, nor of any kind that says what it is.
        if !matches!(parts.header.typ.as_deref(), None | Some("JWT" | "jwt" | "client-authentication+jwt")) {
            return Err(TokenError::claims("typ"));
        }
        let keys = KeySet::of_client(&account.jwks, &account.public_keys).map_err(|_| TokenError::KeysUnavailable)?;
        keys.verify_by_any(&parts)?;
        let claims: Claims =
            serde_json::from_slice(&parts.payload).map_err(|_| TokenError::claims("not a client's assertion"))?;
        if claims.iss != client || claims.sub != client {
            return Err(TokenError::claims("iss and sub are not the client"));
        }
        let ours = |audience: &String| audiences.contains(&audience.as_str());
        let meant = match &claims.aud {
            Audience::One(one) => ours(one),
            // Meant for another as well, it could be handed on by that one.
            Audience::Several(all) => !all.is_empty() && all.iter().all(ours),
        };
        if !meant {
            return Err(TokenError::Audience);
        }
        let end = Timestamp::from_secs(claims.exp);
        let until = end.plus(LEEWAY);
        if until <= now {
            return Err(TokenError::Expired);
        }
        if end > now.plus(LONGEST).plus(LEEWAY) {
            return Err(TokenError::claims("exp is too far from now"));
        }
        if claims.nbf.max(claims.iat).is_some_and(|begins| begins > now.plus(LEEWAY).secs()) {
            return Err(TokenError::NotYetValid);
        }
        if claims.jti.is_empty() || claims.jti.len() > MAX_ID {
            return Err(TokenError::claims("jti"));
        }
        Ok(Self { id: claims.jti, until })
    }
}
