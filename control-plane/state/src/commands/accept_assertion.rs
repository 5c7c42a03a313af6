use std::collections::BTreeSet;

use postern_core::Timestamp;
use postern_core::operation::Digest;
use postern_core::resource::FieldFault;
use postern_proto::state::v1 as pb;

use crate::logins::{PendingLogin, digest};
use crate::outcome::{Outcome, Refusal, Success};
use crate::state::{Context, Limits};

/// Things that one command spends.
const MAX_ONCE: usize = 8;
/// Groups and their bytes of one principal that waits.
const MAX_PRINCIPAL: usize = 64 << 10;

/// Spends what may be presented once, all of it or none, and keeps the login that it came to. A compare-and-set in the log: it holds also when the
/// same assertion is presented to two members at once, and when another takes over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptAssertion {
    /// What may be presented once: the assertion, the request that it answers.
    pub once: Vec<Digest>,
    /// None of it can be presented after that.
    pub until: Timestamp,
    /// What waits for the client that began the login; `None`: whoever presents it has it at once.
    pub login: Option<PendingLogin>,
}

impl AcceptAssertion {
    pub(crate) fn to_proto(&self) -> pb::AcceptAssertion {
        pb::AcceptAssertion {
            once: self.once.iter().map(|digest| digest.0.to_vec()).collect(),
            until_ms: self.until.millis(),
            login: self.login.as_ref().map(PendingLogin::to_proto),
        }
    }

    pub(crate) fn from_proto(proto: pb::AcceptAssertion) -> Result<Self, Vec<FieldFault>> {
        Ok(Self {
            once: proto.once.iter().map(|bytes| digest("once", bytes)).collect::<Result<_, _>>()?,
            until: Timestamp::from_millis(proto.until_ms),
            login: proto.login.map(PendingLogin::from_proto).transpose()?,
        })
    }

    /// Level 4: with claims that the principal keeps.
    #[must_use]
    pub fn feature_level(&self) -> u32 {
        if self.login.as_ref().is_some_and(|login| !login.principal.claims.is_empty()) { 4 } else { 3 }
    }

    pub(crate) fn apply(self, cx: &mut Context<'_>) -> Outcome {
        let (now, limits) = (cx.state.now, Limits::STANDARD);
        let logins = &mut cx.state.logins;
        let once: BTreeSet<[u8; 32]> = self.once.iter().map(|digest| digest.0).collect();
        if once.is_empty() || once.len() != self.once.len() || once.len() > MAX_ONCE {
            return Err(Refusal::invalid("once", format!("must be 1 to {MAX_ONCE}, each another")));
        }
        if once.iter().any(|what| logins.spent.contains_key(what)) {
            return Err(Refusal::Spent);
        }
        if self.until < now {
            return Err(Refusal::invalid("until", "is over"));
        }
        if logins.spent.len().saturating_add(once.len()) > limits.spent {
            return Err(Refusal::Limit(format!("{} assertions that are good yet", limits.spent)));
        }
        if let Some(login) = &self.login {
            if logins.pending.contains_key(&login.code.0) {
                return Err(Refusal::Spent);
            }
            if login.expires_at <= now {
                return Err(Refusal::invalid("login.expires_at", "is over"));
            }
            let bytes = login.principal.groups.iter().map(|group| group.len()).fold(0, usize::saturating_add);
            if bytes > MAX_PRINCIPAL {
                return Err(Refusal::Limit(format!("{MAX_PRINCIPAL} bytes of groups")));
            }
            if logins.pending.len() >= limits.pending_logins {
                return Err(Refusal::Limit(format!("{} logins that wait for their clients", limits.pending_logins)));
            }
        }
        for what in once {
            logins.spend(what, self.until);
        }
        if let Some(login) = self.login {
            logins.keep(login);
        }
        Ok(Success::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::super::{ExpireApprovals, RaiseFeatureLevel, RedeemLogin};
    use super::*;
    use crate::State;

    fn accept(once: &[u8], login: Option<u8>) -> AcceptAssertion {
        AcceptAssertion {
            once: once.iter().map(|byte| Digest([*byte; 32])).collect(),
            until: Timestamp::from_millis(60_000),
            login: login.map(|code| PendingLogin {
                code: Digest([code; 32]),
                challenge: Some(Digest([9; 32])),
                principal: principal("alice", &["dev"]),
                expires_at: Timestamp::from_millis(30_000),
            }),
        }
    }

    fn fixture() -> Fixture {
        let mut fixture = Fixture::new();
        fixture.run(RaiseFeatureLevel { level: 3 }).unwrap();
        fixture
    }

    fn redeem(code: u8, challenge: u8) -> RedeemLogin {
        RedeemLogin { code: Digest([code; 32]), challenge: Some(Digest([challenge; 32])) }
    }

    #[test]
    fn all_of_it_once_or_none() {
        let mut fixture = fixture();
        assert_eq!(fixture.run(accept(&[1, 2], None)), Ok(Success::Done));
        assert_eq!(fixture.run(accept(&[1, 2], None)), Err(Refusal::Spent));
        assert_eq!(fixture.run(accept(&[3, 2], None)), Err(Refusal::Spent));
        assert_eq!(fixture.run(accept(&[3], None)), Ok(Success::Done));
        // In a snapshot too, so that it holds for who takes over.
        fixture.state = State::restore(&fixture.state.snapshot()).unwrap();
        assert_eq!(fixture.run(accept(&[1], None)), Err(Refusal::Spent));
        // Until its end, and that moment too.
        fixture.now = 60_000;
        assert_eq!(fixture.run(accept(&[2], None)), Err(Refusal::Spent));
        fixture.now = 60_001;
        fixture.run(ExpireApprovals).unwrap();
        assert_eq!(fixture.state.logins.spent.len(), 0);
        assert!(matches!(fixture.run(accept(&[4], None)), Err(Refusal::Invalid(_))));
        assert!(matches!(fixture.run(accept(&[], None)), Err(Refusal::Invalid(_))));
        assert!(matches!(fixture.run(accept(&[5, 5], None)), Err(Refusal::Invalid(_))));
    }

    #[test]
    fn a_login_is_taken_once_by_who_began_it() {
        let mut fixture = fixture();
        fixture.run(accept(&[1], Some(7))).unwrap();
        assert!(matches!(fixture.run(redeem(7, 8)), Err(Refusal::NotFound { .. })));
        let without = RedeemLogin { challenge: None, ..redeem(7, 9) };
        assert!(matches!(fixture.run(without), Err(Refusal::NotFound { .. })));
        fixture.state = State::restore(&fixture.state.snapshot()).unwrap();
        let alice = principal("alice", &["dev"]);
        assert_eq!(fixture.run(redeem(7, 9)), Ok(Success::Login(Box::new(alice))));
        assert!(matches!(fixture.run(redeem(7, 9)), Err(Refusal::NotFound { .. })));
        fixture.run(accept(&[2], Some(8))).unwrap();
        fixture.now = 30_000;
        assert!(matches!(fixture.run(redeem(8, 9)), Err(Refusal::NotFound { .. })));
        assert_eq!(fixture.state.logins.pending.len(), 0);
        // A refused one leaves nothing.
        fixture.now = 1_000;
        assert_eq!(fixture.run(accept(&[2], Some(5))), Err(Refusal::Spent));
        assert!(matches!(fixture.run(redeem(5, 9)), Err(Refusal::NotFound { .. })));
    }

    #[test]
    fn needs_a_cluster_that_knows_it() {
        let mut fixture = Fixture::new();
        assert_eq!(fixture.run(accept(&[1], None)), Err(Refusal::FeatureLevel { needed: 3, level: 1 }));
        assert_eq!(fixture.run(redeem(1, 1)), Err(Refusal::FeatureLevel { needed: 3, level: 1 }));
    }
}
