//! From a token to a principal, and to what it may know of (I3).
//!
//! A valid token gets one answer for a target that does not exist, that is disabled, that the token is not for, and on which policy
//! permits the principal nothing: nobody learns which targets there are.

use std::net::IpAddr;
use std::sync::Arc;

use postern_core::policy::{Circumstances, Freshness, PolicySlice};
use postern_core::revocation::Bearer;
use postern_core::secret::SecretBytes;
use postern_core::service_account::SERVICE_ACCOUNT_ISSUER;
use postern_core::snapshot::Snapshot;
use postern_core::target::{Protocol, Target};
use postern_core::token::SESSION_TOKEN_ISSUER;
use postern_core::{Code, Name, Principal, Timestamp};
use postern_runtime::jwt::{TokenError, Verified};

use crate::metrics;
use crate::policy_feed::Current;

/// A client that is let in.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) principal: Principal,
    /// What a revocation can go by.
    pub(crate) bearer: Bearer,
    pub(crate) name: Name,
    pub(crate) target: Arc<Target>,
    pub(crate) slice: PolicySlice,
    pub(crate) sent: Option<SecretBytes>,
    pub(crate) database: String,
}

/// A client that is not.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("no token")]
    NoToken,
    #[error("{0}")]
    Token(#[from] TokenError),
    #[error("target {target:?}, database {database:?}: {why} (for {principal})")]
    Target { principal: Box<Principal>, target: String, database: String, why: &'static str },
    #[error("target {target}: {principal} has no access there, and may request it")]
    OnRequest { principal: Box<Principal>, target: Name },
    #[error("target {target}: {asked} (for {principal})")]
    Unproven { principal: Box<Principal>, target: Name, asked: String },
    #[error("target {target}: {said} (for {principal})")]
    Forbidden { principal: Box<Principal>, target: Name, said: String },
    #[error("target {target}: what permits {principal} anything there must have been confirmed more lately")]
    Stale { principal: Box<Principal>, target: Name },
}

impl Refusal {
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::NoToken => Code::TokenMissing,
            Self::Token(error) => error.code(),
            Self::Target { .. } => Code::UnknownTarget,
            Self::OnRequest { .. } | Self::Unproven { .. } | Self::Forbidden { .. } => Code::Denied,
            Self::Stale { .. } => Code::PolicyUnavailable,
        }
    }

    /// What the client is told, where that is more than its code says: how to ask for access, for whoever may.
    pub(crate) fn told(&self) -> Option<String> {
        match self {
            Self::OnRequest { target, .. } => Some(format!(
                "access to {target} is by request: postern access request --target {target} --reason \"...\" --for 30m"
            )),
            Self::Unproven { asked, .. } => Some(format!("no session: {asked}")),
            Self::Forbidden { said, .. } => Some(format!("no session: {said}")),
            // Who has it may read in it that it is bound; a client that could prove it here does not exist.
            Self::Token(TokenError::Unproven) => Some(
                "the token is bound to a key by DPoP, of which there is proof over HTTP alone: exchange it for one that is bound to a client certificate"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

/// Decides whether the bearer of `token`, who has shown a certificate in TLS or none, may open a session on `target`.
pub(crate) fn identify(
    current: &Current,
    fresh: Freshness,
    token: &SecretBytes,
    (target, database): (&str, &str),
    (from, certificate): (IpAddr, Option<&[u8; 32]>),
    now: Timestamp,
) -> Result<Admitted, Refusal> {
    let verified = match std::str::from_utf8(token.expose()) {
        Ok("") => Err(Refusal::NoToken),
        Ok(token) => current.verifier.verify(token.trim_ascii(), now).map_err(Refusal::from),
        Err(_) => Err(TokenError::Malformed.into()),
    };
    let verified = verified.and_then(|verified| Ok(verified.shown_with(Some(from), certificate).map(|()| verified)?));
    let verified = verified.and_then(|verified| match current.snapshot.revocations.mean(&verified.bearer) {
        true => Err(TokenError::Revoked.into()),
        false => Ok(verified),
    });
    let verified = verified.and_then(|verified| Ok(as_long_as_issued(verified, &current.snapshot, now)?));
    let Verified { principal, bearer, .. } = verified.inspect_err(|refusal| metrics::token_refused(label(refusal)))?;
    let unknown = |principal, why| {
        let (target, database) = (target.to_owned(), database.to_owned());
        Refusal::Target { principal, target, database, why }
    };
    match find(&current.snapshot, &principal, (target, database), now) {
        Ok((name, _, slice)) if slice.permits_on_request_only() => {
            Err(Refusal::OnRequest { principal: Box::new(principal), target: name })
        }
        Ok((name, _, slice)) if !slice.permits_anything() => Err(match slice.asks() {
            Some(asked) => Refusal::Unproven { principal: Box::new(principal), target: name, asked },
            None => unknown(Box::new(principal), NOTHING),
        }),
        Ok((name, _, slice)) if !slice.opens(fresh) => {
            Err(Refusal::Stale { principal: Box::new(principal), target: name })
        }
        Ok((name, target, slice)) => {
            if let Some((_, said)) = slice.forbids_session(&Circumstances::new(now, fresh).from(from)) {
                return Err(Refusal::Forbidden { principal: Box::new(principal), target: name, said });
            }
            let sent = current.snapshot.credentials.get(&name).cloned();
            Ok(Admitted { principal, bearer, name, target, slice, sent, database: database.to_owned() })
        }
        Err(why) => Err(unknown(Box::new(principal), why)),
    }
}

/// An issuer's own token is good no longer than a session token of its principals could be: one that it has given for a day opens no session of a
/// day. (A session token was made so.)
fn as_long_as_issued(mut verified: Verified, snapshot: &Snapshot, now: Timestamp) -> Result<Verified, TokenError> {
    let issuer = snapshot.issuers.get(&verified.principal.id.issuer).filter(|_| verified.depth.is_none());
    if let Some(most) = issuer.and_then(|(issuer, _)| issuer.max_token_ttl) {
        let end = verified.issued_at.plus(most.duration());
        if end <= now {
            return Err(TokenError::TooOld);
        }
        let principal = &mut verified.principal;
        principal.expires_at = Some(principal.expires_at.map_or(end, |own| own.min(end)));
        principal.claims.live(principal.claims.token_ttl().map_or(most.0, |own| own.min(most.0)));
    }
    Ok(verified)
}

/// The target, if there may be a session of `principal` on it as far as that is not policy's to say, and what policy says.
fn find(
    snapshot: &Snapshot,
    principal: &Principal,
    (target, database): (&str, &str),
    now: Timestamp,
) -> Result<(Name, Arc<Target>, PolicySlice), &'static str> {
    let name: Name = target.parse().map_err(|_| "not a target's name")?;
    if !principal.reaches(&name) {
        return Err("the token is not for it");
    }
    let target = snapshot.targets.get(&name).map(|labeled| &labeled.value).ok_or("no such target")?;
    if target.protocol != Protocol::Postgres {
        return Err("of another protocol");
    }
    let slice = may_be(snapshot, snapshot, principal, (&name, database))?;
    // The control plane may be away: what it granted ends all the same.
    let slice = slice.without_ended(now).unwrap_or(slice);
    Ok((name, Arc::new(target.clone()), slice))
}

/// Why somebody has no session, where policy leaves nothing over.
pub(crate) const NOTHING: &str = "policy permits nothing there";

/// Whether a session of `principal` on the database may exist under `now`, and by which policies; asked again at each change, `before` being what it
/// existed under.
pub(crate) fn may_stay(
    before: &Snapshot,
    now: &Snapshot,
    principal: &Principal,
    (target, database): (&Name, &str),
) -> Result<PolicySlice, &'static str> {
    let slice = may_be(before, now, principal, (target, database))?;
    if slice.permits_anything() {
        Ok(slice)
    } else if slice.permits_on_request_only() {
        Err("access there is by request, and what was granted has ended")
    } else {
        Err(NOTHING)
    }
}

/// As [`may_stay`], whatever policy permits.
fn may_be(
    before: &Snapshot,
    now: &Snapshot,
    principal: &Principal,
    (target, database): (&Name, &str),
) -> Result<PolicySlice, &'static str> {
    let issuer = &principal.id.issuer;
    if issuer.as_str() != SESSION_TOKEN_ISSUER {
        let url = |snapshot: &Snapshot| snapshot.issuers.get(issuer).map(|(issuer, _)| issuer.url.clone());
        match url(now) {
            // Under the same name there is another issuer now.
            Some(trusted)
                if !now.issuers.is_same(&before.issuers) && url(before).is_some_and(|before| before != trusted) =>
            {
                return Err("its issuer is no longer trusted");
            }
            Some(_) => {}
            // Gateways do not know service accounts: with one its tokens are revoked.
            None if issuer.as_str() == SERVICE_ACCOUNT_ISSUER => {}
            None => return Err("its issuer is no longer trusted"),
        }
    }
    let known = now.targets.get(target).ok_or("the target was deleted")?;
    if known.value.disabled {
        return Err("the target is disabled");
    }
    if !known.value.databases.is_empty() && !known.value.databases.iter().any(|known| known == database) {
        return Err("not one of the target's databases");
    }
    Ok(now.policy_slice(principal, target))
}

const fn label(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::NoToken => "missing",
        Refusal::Token(error) => match error {
            TokenError::Malformed => "malformed",
            TokenError::Algorithm => "algorithm",
            TokenError::UnknownKey => "unknown-key",
            TokenError::KeysUnavailable => "keys-unavailable",
            TokenError::Signature => "signature",
            TokenError::Issuer => "issuer",
            TokenError::Audience => "audience",
            TokenError::Expired => "expired",
            TokenError::NotYetValid => "not-yet-valid",
            TokenError::TooOld => "too-old",
            TokenError::Claims(_) => "claims",
            TokenError::Delegable => "delegable",
            TokenError::Unconfirmed => "unconfirmed",
            TokenError::Unproven => "unproven",
            TokenError::Network => "network",
            TokenError::Revoked => "revoked",
        },
        Refusal::Target { .. }
        | Refusal::OnRequest { .. }
        | Refusal::Unproven { .. }
        | Refusal::Forbidden { .. }
        | Refusal::Stale { .. } => "target",
    }
}
