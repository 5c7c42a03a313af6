use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use postern_core::Timestamp;
use postern_core::resource::FieldFault;
use postern_core::revocation::{MARGIN, Revoked, TokenName};
use postern_core::token::{MAX_DEPTH, SESSION_TOKEN_MAX_TTL};
use postern_proto::state::v1 as pb;

use crate::outcome::{Outcome, Refusal, Success};
use crate::state::{Context, Limits};

/// In one chain: the tokens before the links, and these.
const MOST: usize = 2 * (MAX_DEPTH as usize) + 2;
const MAX_ID: usize = 255;

/// Takes one use of each token of a chain that is good for a number of sessions: of all of them, or of none. A compare-and-set in the log, so that
/// two gateways never let in one more than there are. Whoever tries again says so by the request's id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakeUses {
    /// Ids of session tokens or links, each with the number of its uses.
    pub uses: Vec<(Arc<str>, u32)>,
    /// When the whole chain ends.
    pub until: Timestamp,
}

impl TakeUses {
    pub(crate) fn to_proto(&self) -> pb::TakeUses {
        let uses = self.uses.iter().map(|(token, most)| pb::CountedToken { token: token.to_string(), most: *most });
        pb::TakeUses { uses: uses.collect(), until_ms: self.until.millis() }
    }

    pub(crate) fn from_proto(proto: pb::TakeUses) -> Result<Self, Vec<FieldFault>> {
        let uses = proto.uses.into_iter().map(|counted| (counted.token.into(), counted.most)).collect();
        Ok(Self { uses, until: Timestamp::from_millis(proto.until_ms) })
    }

    pub(crate) fn apply(self, cx: &mut Context<'_>) -> Outcome {
        let tokens: BTreeSet<&str> = self.uses.iter().map(|(token, _)| &**token).collect();
        let fits = |token: &&str| !token.is_empty() && token.len() <= MAX_ID;
        if tokens.is_empty() || tokens.len() != self.uses.len() || tokens.len() > MOST || !tokens.iter().all(fits) {
            return Err(Refusal::invalid("uses", format!("must be 1 to {MOST} tokens, each another")));
        }
        let longest = cx.state.now.plus(Duration::from_secs(SESSION_TOKEN_MAX_TTL.into()));
        let until = self.until.min(longest).max(cx.state.now).plus(MARGIN);
        let book = &mut cx.state.uses;
        let mut keys = Vec::with_capacity(self.uses.len());
        for (token, most) in &self.uses {
            let name =
                TokenName::session(token).ok_or_else(|| Refusal::invalid("uses", "are not of session tokens"))?;
            let key = Revoked::Token(name).key();
            if book.of(&key) >= *most {
                return Err(Refusal::Spent);
            }
            keys.push(key);
        }
        let new = keys.iter().filter(|key| book.of(key) == 0).count();
        if book.taken.len().saturating_add(new) > Limits::STANDARD.counted_tokens {
            return Err(Refusal::Limit(format!("{} tokens with a number of uses", Limits::STANDARD.counted_tokens)));
        }
        for key in keys {
            book.take(key, until);
        }
        Ok(Success::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::super::{ExpireApprovals, RaiseFeatureLevel};
    use super::*;
    use crate::state::State;

    fn take(uses: &[(&str, u32)], until_secs: u64) -> TakeUses {
        let uses = uses.iter().map(|(token, most)| ((*token).into(), *most)).collect();
        TakeUses { uses, until: Timestamp::from_secs(until_secs) }
    }

    #[test]
    fn as_many_as_there_are_and_all_of_a_chain_or_none() {
        let mut fixture = Fixture::new();
        fixture.now = 1_000_000;
        assert!(matches!(fixture.run(take(&[("a", 1)], 2_000)), Err(Refusal::FeatureLevel { needed: 4, .. })));
        fixture.run(RaiseFeatureLevel { level: 4 }).unwrap();
        assert_eq!(fixture.run(take(&[("a", 2), ("b", 1)], 2_000)), Ok(Success::Done));
        // Of `b` there is none left, and so none of `a` is taken.
        assert_eq!(fixture.run(take(&[("a", 2), ("b", 1)], 2_000)), Err(Refusal::Spent));
        assert_eq!(fixture.run(take(&[("a", 2), ("c", 1)], 2_000)), Ok(Success::Done));
        assert_eq!(fixture.run(take(&[("a", 2)], 2_000)), Err(Refusal::Spent));
        assert_eq!(fixture.run(take(&[("none", 0)], 2_000)), Err(Refusal::Spent));
        // Over a snapshot, and until the token has ended.
        let restored = State::restore(&fixture.state.snapshot()).unwrap();
        assert_eq!(restored.hash(), fixture.state.hash());
        fixture.state = restored;
        assert_eq!(fixture.run(take(&[("a", 2)], 2_000)), Err(Refusal::Spent));
        fixture.now = 2_700_000;
        fixture.run(ExpireApprovals).unwrap();
        assert_eq!(fixture.state.uses.taken.len(), 0);
    }

    #[test]
    fn a_retry_takes_none() {
        let mut fixture = Fixture::new();
        fixture.run(RaiseFeatureLevel { level: 4 }).unwrap();
        let id = Some(request_id(7));
        for _ in 0..3 {
            assert_eq!(fixture.run_as(id, take(&[("a", 1)], 2_000)), Ok(Success::Done));
        }
        assert_eq!(fixture.run_as(Some(request_id(8)), take(&[("a", 1)], 2_000)), Err(Refusal::Spent));
    }

    #[test]
    fn what_is_no_chain_is_refused() {
        let mut fixture = Fixture::new();
        fixture.run(RaiseFeatureLevel { level: 4 }).unwrap();
        let long = "x".repeat(MAX_ID + 1);
        let many: Vec<String> = (0..=MOST).map(|place| place.to_string()).collect();
        let many: Vec<(&str, u32)> = many.iter().map(|token| (token.as_str(), 1)).collect();
        for uses in [&[][..], &[("a", 1), ("a", 2)], &[("", 1)], &[(&long, 1)], &many] {
            assert!(matches!(fixture.run(take(uses, 2_000)), Err(Refusal::Invalid(_))));
        }
    }
}
