//! A trusted issuer's token for a session token. What comes out is never more than what went in (I6).

use postern_core::token::{
    SESSION_TOKEN_AUDIENCE, SESSION_TOKEN_DEFAULT_TTL, SESSION_TOKEN_ISSUER, SESSION_TOKEN_MAX_TTL, SessionClaims,
};
use postern_core::{Name, Timestamp, Ttl};
use postern_runtime::clock;
use postern_runtime::jwt::{KeyError, SessionSigner, Verified};

/// The most targets that a session token may name.
const MAX_TARGETS: usize = 64;

/// Why no session token is made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    #[error("a session token names at most {MAX_TARGETS} targets")]
    TooManyTargets,
    #[error("the subject token is not good for target {0}")]
    Wider(Name),
    #[error("the subject token has expired")]
    Expired,
    #[error("a session token lives at most {SESSION_TOKEN_MAX_TTL} seconds")]
    TooLong,
    #[error("the token cannot be signed: {0}")]
    Sign(#[from] KeyError),
}

/// A session token.
pub(crate) struct Minted {
    pub(crate) token: String,
    pub(crate) id: String,
    pub(crate) expires_at: Timestamp,
}

/// Mints a session token for who `subject` says, at `now`.
pub(crate) fn exchange(
    signer: &SessionSigner,
    cluster: &str,
    subject: Verified,
    targets: Vec<Name>,
    ttl_seconds: u32,
    now: Timestamp,
) -> Result<Minted, ExchangeError> {
    if targets.len() > MAX_TARGETS {
        return Err(ExchangeError::TooManyTargets);
    }
    let targets = match (subject.targets.is_empty(), targets.is_empty()) {
        (true, _) => targets,
        // A narrowed token stays as narrow.
        (false, true) => subject.targets,
        (false, false) => match targets.iter().find(|target| !subject.targets.contains(target)) {
            Some(wider) => return Err(ExchangeError::Wider(wider.clone())),
            None => targets,
        },
    };
    let ttl = match ttl_seconds {
        0 => SESSION_TOKEN_DEFAULT_TTL,
        seconds if seconds > SESSION_TOKEN_MAX_TTL => return Err(ExchangeError::TooLong),
        seconds => seconds,
    };
    let wanted = now.plus(Ttl(ttl).duration());
    let expires_at = subject.principal.expires_at.map_or(wanted, |end| end.min(wanted));
    // In whole seconds, as the token says it.
    let expires_at = Timestamp::from_secs(expires_at.secs());
    if expires_at <= now {
        return Err(ExchangeError::Expired);
    }
    let id = clock::token_id().to_string();
    let mut principal = subject.principal;
    principal.token_id = Some(id.as_str().into());
    principal.expires_at = Some(expires_at);
    let claims = SessionClaims {
        iss: SESSION_TOKEN_ISSUER.to_owned(),
        aud: SESSION_TOKEN_AUDIENCE.to_owned(),
        sub: principal.id.to_string(),
        exp: expires_at.secs(),
        nbf: now.secs(),
        iat: now.secs(),
        jti: id.clone(),
        cluster: cluster.to_owned(),
        principal,
        targets,
    };
    Ok(Minted { token: signer.sign(&claims)?, id, expires_at })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use postern_core::Principal;
    use postern_core::principal::PrincipalId;
    use postern_runtime::jwt::SessionVerifier;

    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    fn subject(ends_in: u64, targets: &[&str]) -> Verified {
        let principal = Principal {
            id: PrincipalId { issuer: "corp".parse().unwrap(), subject: "alice".into() },
            groups: BTreeSet::from(["dev".into()]),
            token_id: None,
            expires_at: Some(Timestamp::from_secs(NOW.secs() + ends_in)),
            chain: Vec::new(),
        };
        Verified { principal, targets: names(targets) }
    }

    fn names(of: &[&str]) -> Vec<Name> {
        of.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn never_outlives_or_outreaches_its_subject() {
        let signer = SessionSigner::generate().unwrap();
        let verifier = SessionVerifier::new("c", &signer.jwks()).unwrap();
        let minted = exchange(&signer, "c", subject(100, &[]), names(&["db"]), 0, NOW).unwrap();
        let claims = verifier.verify(&minted.token, NOW).unwrap();
        assert_eq!((claims.exp, &claims.targets), (NOW.secs() + 100, &names(&["db"])));
        assert_eq!(&*claims.principal.id.subject, "alice");
        assert!(SessionVerifier::new("other", &signer.jwks()).unwrap().verify(&minted.token, NOW).is_err());

        let narrowed = exchange(&signer, "c", subject(9_000, &["db"]), Vec::new(), 60, NOW).unwrap();
        assert_eq!(verifier.verify(&narrowed.token, NOW).unwrap().targets, names(&["db"]));
        assert_eq!(narrowed.expires_at.secs(), NOW.secs() + 60);
        let wider = exchange(&signer, "c", subject(9_000, &["db"]), names(&["db", "other"]), 60, NOW);
        assert!(matches!(wider, Err(ExchangeError::Wider(_))));
        assert!(matches!(exchange(&signer, "c", subject(0, &[]), Vec::new(), 0, NOW), Err(ExchangeError::Expired)));
        let long = exchange(&signer, "c", subject(90_000, &[]), Vec::new(), SESSION_TOKEN_MAX_TTL + 1, NOW);
        assert!(matches!(long, Err(ExchangeError::TooLong)));
    }
}
