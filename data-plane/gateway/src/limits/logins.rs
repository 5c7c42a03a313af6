//! Failed logins: when they are answered.
//!
//! Never sooner than after a while that is the same for all of them, so that how long it took to find out why tells nothing: not whether
//! a target exists, nor how far a token got. And the later, the more of late failed from the same place or for the same identity. Only an
//! identity that a good token proves is counted: nobody fails in another's name.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use postern_runtime::failures::{Failures, network};
use postern_runtime::jwt::TokenError;

use crate::identify::Refusal;
use crate::metrics;

/// The least from the token to a refusal: far more than finding out takes.
const LEAST: Duration = Duration::from_millis(100);

/// Who failed of late.
#[derive(Debug, Default)]
pub(crate) struct FailedLogins {
    sources: Failures,
    subjects: Failures,
}

impl FailedLogins {
    /// Waits until whoever came from `from`, and showed a token at `shown`, may be told of `refusal`.
    pub(crate) async fn pause(&self, refusal: &Refusal, from: IpAddr, shown: Instant) {
        let wait = self.failed(refusal, from, Instant::now());
        tokio::time::sleep_until((shown + LEAST).max(Instant::now() + wait).into()).await;
    }

    fn failed(&self, refusal: &Refusal, from: IpAddr, now: Instant) -> Duration {
        let subject = match refusal {
            // Not the client's failing.
            Refusal::OnRequest { .. }
            | Refusal::Forbidden { .. }
            | Refusal::Stale { .. }
            | Refusal::Token(TokenError::KeysUnavailable) => {
                return Duration::ZERO;
            }
            Refusal::Target { principal, .. } => self.subjects.failed(&principal.id, now),
            Refusal::NoToken | Refusal::Token(_) | Refusal::Unproven { .. } => Duration::ZERO,
        };
        let source = self.sources.failed(network(from), now);
        for (by, wait) in [("subject", subject), ("source", source)] {
            if !wait.is_zero() {
                metrics::login_slowed(by);
            }
        }
        source.max(subject)
    }
}

#[cfg(test)]
mod tests {
    use postern_core::Principal;
    use postern_core::principal::PrincipalId;

    use super::*;

    fn probes(subject: &str) -> Refusal {
        let principal = Box::new(Principal {
            id: PrincipalId { issuer: "ci".parse().unwrap(), subject: subject.into() },
            groups: Default::default(),
            token_id: None,
            expires_at: None,
            chain: Vec::new(),
            claims: postern_core::KeptClaims::default(),
        });
        Refusal::Target { principal, target: "x".into(), database: "x".into(), why: "no such target" }
    }

    #[test]
    fn an_identity_is_slowed_from_wherever_it_fails_and_a_place_whoever_does() {
        let (logins, now) = (FailedLogins::default(), Instant::now());
        let from = |n: u8| IpAddr::from([192, 0, 2, n]);
        for n in 0..40 {
            logins.failed(&probes("eve"), from(n), now);
        }
        assert!(!logins.failed(&probes("eve"), from(200), now).is_zero());
        assert!(logins.failed(&probes("ada"), from(201), now).is_zero());
        let bad = Refusal::Token(TokenError::Signature);
        for _ in 0..40 {
            logins.failed(&bad, from(202), now);
        }
        assert!(!logins.failed(&bad, from(202), now).is_zero());
        assert!(logins.failed(&bad, from(203), now).is_zero());
        // What is the control plane's failing slows nobody.
        for _ in 0..100 {
            assert!(logins.failed(&Refusal::Token(TokenError::KeysUnavailable), from(202), now).is_zero());
        }
    }

    #[tokio::test]
    async fn a_refusal_is_told_no_sooner_than_after_the_same_while() {
        for refusal in [probes("eve"), Refusal::NoToken, Refusal::Token(TokenError::Malformed)] {
            let (logins, shown) = (FailedLogins::default(), Instant::now());
            logins.pause(&refusal, IpAddr::from([192, 0, 2, 1]), shown).await;
            assert!(shown.elapsed() >= LEAST, "{refusal}");
        }
    }
}
