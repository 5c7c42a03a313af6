//! What a token is worth now, for those who ask (RFC 7662), and how its bearer ends it (RFC 7009).

use std::time::Duration;

use postern_core::revocation::{MARGIN, Revocation, Revoked, TokenName};
use postern_core::token::SESSION_TOKEN_ISSUER;
use postern_core::{Name, Timestamp};
use postern_runtime::jwt::{TokenError, Verified};

/// How long the revocation of a token is kept that lives for very long.
const LONGEST: Duration = Duration::from_secs(399 * 86_400);

/// What is to be known of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Introspected {
    /// It would be taken now, where it may be shown and with a proof that fits: both are part of what it says.
    Active(Box<Verified>),
    /// It would not. Why is for the log, and not for who asks.
    Inactive(TokenError),
}

impl Introspected {
    /// What `verified` comes to, when `revoked` knows what is revoked.
    pub(crate) fn of(verified: Result<Verified, TokenError>, revoked: impl FnOnce(&Verified) -> bool) -> Self {
        match verified {
            Ok(verified) if revoked(&verified) => Self::Inactive(TokenError::Revoked),
            Ok(verified) => Self::Active(Box::new(verified)),
            Err(error) => Self::Inactive(error),
        }
    }
}

/// The revocation of a token by its bearer, or with `subtree` of all that is made of it too; `None`: it has no id to be revoked by.
pub(crate) fn revoked_by_bearer(
    verified: &Verified,
    subtree: bool,
    because: &str,
    now: Timestamp,
) -> Option<Revocation> {
    let id = verified.principal.token_id.clone()?;
    let issuer = match verified.depth {
        Some(_) => SESSION_TOKEN_ISSUER.parse::<Name>().ok()?,
        None => verified.principal.id.issuer.clone(),
    };
    let name = TokenName { issuer, id };
    let longest = now.plus(LONGEST);
    Some(Revocation {
        of: if subtree { Revoked::Subtree(name) } else { Revoked::Token(name) },
        issued_before: Timestamp::default(),
        until: verified.principal.expires_at.map_or(longest, |end| end.plus(MARGIN).min(longest)),
        by: String::new(),
        because: because.to_owned(),
        at: Timestamp::default(),
        revision: 0,
    })
}

#[cfg(test)]
mod tests {
    use postern_core::principal::PrincipalId;
    use postern_core::{KeptClaims, Principal};

    use super::*;

    fn verified(id: Option<&str>, ends: u64) -> Verified {
        let principal = Principal {
            id: PrincipalId { issuer: "ci".parse().unwrap(), subject: "robot".into() },
            groups: Default::default(),
            token_id: id.map(Into::into),
            expires_at: Some(Timestamp::from_secs(ends)),
            chain: Vec::new(),
            claims: KeptClaims::default(),
        };
        Verified::fresh(principal, Timestamp::from_secs(100))
    }

    #[test]
    fn what_is_revoked_is_not_active() {
        let token = verified(Some("a"), 900);
        assert_eq!(Introspected::of(Ok(token.clone()), |_| false), Introspected::Active(Box::new(token.clone())));
        assert_eq!(Introspected::of(Ok(token), |_| true), Introspected::Inactive(TokenError::Revoked));
        assert_eq!(Introspected::of(Err(TokenError::Expired), |_| true), Introspected::Inactive(TokenError::Expired));
    }

    #[test]
    fn a_bearer_revokes_what_was_shown() {
        let now = Timestamp::from_secs(200);
        let of = |verified: &Verified, subtree| revoked_by_bearer(verified, subtree, "done", now);
        let (token, endless) = (verified(Some("a"), 900), verified(Some("a"), u64::from(u32::MAX)));
        let revocation = of(&token, true).unwrap();
        assert_eq!(
            (revocation.of.to_string().as_str(), revocation.until),
            ("subtree a of ci", Timestamp::from_secs(1_500))
        );
        // Of an issuer's own token it is that issuer's id; of a session token the cluster's.
        assert_eq!(of(&Verified { depth: Some(0), ..token }, false).unwrap().of.to_string(), "token a");
        assert_eq!(of(&endless, false).unwrap().until, now.plus(LONGEST));
        assert_eq!(of(&verified(None, 900), true), None);
    }
}
