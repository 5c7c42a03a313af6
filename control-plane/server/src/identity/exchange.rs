//! A trusted issuer's token, or a session token, for a session token. What comes out is never more than what went in (I6).

use std::sync::Arc;

use postern_core::job::Job;
use postern_core::principal::{Actor, Link};
use postern_core::revocation::Revoked;
use postern_core::scope::{Scope, TooMany};
use postern_core::token::{
    Act, Confirmation, Delegation, MAX_DEPTH, SESSION_TOKEN_DEFAULT_TTL, SESSION_TOKEN_MAX_TTL, SessionClaims,
};
use postern_core::{Name, Timestamp, Ttl};
use postern_runtime::clock;
use postern_runtime::jwt::{KeyError, SessionSigner, Verified};

/// Why no session token is made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    #[error("{0}")]
    TooMany(#[from] TooMany),
    #[error("the subject token is not good for target {0}")]
    Wider(Name),
    #[error("the subject token has expired")]
    Expired,
    #[error("a session token lives at most {0} seconds here")]
    TooLong(u32),
    #[error("the subject token was handed on {MAX_DEPTH} times already: it is as deep as may be")]
    TooDeep,
    #[error("the token cannot be signed: {0}")]
    Sign(#[from] KeyError),
}

/// What the token is to be good for.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) scope: Scope,
    /// Seconds; 0: as usual.
    pub(crate) ttl: u32,
    /// Who is handed it; none: who asks.
    pub(crate) actor: Option<Actor>,
    /// The longest that it may be good, in seconds, if that is less than for any token.
    pub(crate) most: Option<u32>,
    /// How long it is good, in seconds, when nobody has a wish.
    pub(crate) usual: Option<u32>,
    /// `ttl` is no wish of anybody's: what is usual comes first, and less is as good.
    pub(crate) no_wish: bool,
    /// When the actor's own proof ends.
    pub(crate) until: Option<Timestamp>,
    /// A delegation key, and how often it may be used; 0: as often as may be.
    pub(crate) delegation: Option<(Vec<u8>, u8)>,
    /// What its bearer is to prove possession of.
    pub(crate) confirmation: Option<Confirmation>,
    /// What it names as who issued it, for others than Postern; none: as always.
    pub(crate) iss: Option<String>,
    /// The job that it is tied to: its name and heartbeat.
    pub(crate) job: Option<(String, Ttl)>,
}

/// A session token.
pub(crate) struct Minted {
    pub(crate) token: String,
    pub(crate) id: String,
    pub(crate) expires_at: Timestamp,
    /// Seconds from now to then.
    pub(crate) lives: u64,
    /// What it was narrowed to, by itself.
    pub(crate) scope: Scope,
    /// The job that it is to be tied to, before anybody has it.
    pub(crate) job: Option<Job>,
    /// Whether it is bound to a key that proves each request.
    pub(crate) dpop: bool,
}

/// Mints a session token for who `subject` says, at `now`.
pub(crate) fn exchange(
    signer: &SessionSigner,
    cluster: &str,
    subject: Verified,
    wanted: Wanted,
    now: Timestamp,
) -> Result<Minted, ExchangeError> {
    wanted.scope.check()?;
    let (origin, began) = (subject.traced(), subject.issued_at.secs());
    let own = Revoked::SigningKey(signer.kid().into()).key();
    let signers = subject.signers.iter().filter(|signer| **signer != own).copied().collect();
    let Verified { mut principal, depth: parent_depth, .. } = subject;
    if let Some(wider) = wanted.scope.targets.iter().find(|target| !principal.reaches(target)) {
        return Err(ExchangeError::Wider(wider.clone()));
    }
    let most = wanted.most.map_or(SESSION_TOKEN_MAX_TTL, |most| most.min(SESSION_TOKEN_MAX_TTL));
    let ttl = match wanted.ttl {
        0 => wanted.usual.unwrap_or(SESSION_TOKEN_DEFAULT_TTL).min(most),
        seconds if wanted.no_wish => wanted.usual.unwrap_or(seconds).min(most),
        seconds if seconds > most => return Err(ExchangeError::TooLong(most)),
        seconds => seconds,
    };
    let end = now.plus(Ttl(ttl).duration());
    let expires_at = [principal.expires_at, wanted.until].into_iter().flatten().fold(end, Timestamp::min);
    // In whole seconds, as the token says it.
    let expires_at = Timestamp::from_secs(expires_at.secs());
    if expires_at <= now {
        return Err(ExchangeError::Expired);
    }
    let depth = parent_depth.map_or(0, |depth| depth.saturating_add(1));
    if depth > MAX_DEPTH {
        return Err(ExchangeError::TooDeep);
    }
    let dlg = wanted.delegation.map(|(key, asked)| match MAX_DEPTH.saturating_sub(depth) {
        0 => Err(ExchangeError::TooDeep),
        left => Ok(Delegation::new(&key, if asked == 0 { left } else { asked.min(left) })),
    });
    let dlg = dlg.transpose()?;

    let id = clock::token_id().to_string();
    let token: Arc<str> = id.as_str().into();
    let parent = if parent_depth.is_some() { principal.token_id.take() } else { None };
    let root = principal.tokens().next().or(parent.as_ref()).map(ToString::to_string);
    let root = if parent.is_some() { root } else { None };
    if let (Some(parent), true) = (&parent, principal.chain.is_empty()) {
        principal.chain.push(Link { token: Arc::clone(parent), actor: None, scope: Scope::default() });
    }
    let actor = wanted.actor;
    let targets_alone = Scope { targets: wanted.scope.targets.clone(), ..Scope::default() } == wanted.scope;
    let asked = wanted.scope.clone();
    let (mut scope, mut targets) = (wanted.scope, Vec::new());
    if principal.chain.is_empty() && actor.is_none() && targets_alone && dlg.is_none() {
        // All that it says, gateways of former versions understand too.
        targets = std::mem::take(&mut scope.targets).into_iter().collect();
    } else if !principal.chain.is_empty() || actor.is_some() || scope != Scope::default() {
        principal.chain.push(Link { token: Arc::clone(&token), actor, scope });
    }
    let job = wanted.job.map(|asked| Job::new(&principal, &token, expires_at, asked));
    principal.token_id = Some(token);
    principal.expires_at = Some(expires_at);
    let mut claims = SessionClaims {
        act: Act::of(&principal.chain),
        targets,
        parent: parent.map(|parent| parent.to_string()),
        root,
        depth,
        dlg,
        cnf: wanted.confirmation.or(subject.confirmation),
        began: (began < now.secs()).then_some(began),
        origin,
        signers,
        ..SessionClaims::new(cluster, &id, principal, (now, expires_at))
    };
    if let Some(iss) = wanted.iss {
        claims.iss = iss;
    }
    let dpop = matches!(claims.cnf, Some(Confirmation::Key(_)));
    let lives = expires_at.secs().saturating_sub(now.secs());
    Ok(Minted { token: signer.sign(&claims)?, id, expires_at, lives, scope: asked, job, dpop })
}

#[cfg(test)]
#[path = "exchange_tests.rs"]
mod tests;
