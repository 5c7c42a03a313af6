use postern_core::resource::FieldFault;
use postern_core::revocation::{Revocation, Revoked};
use postern_proto::state::v1 as pb;

use super::revoke_tokens::put;
use super::rotate_signing_key::{from_proto, to_proto};
use crate::outcome::{Outcome, Refusal, Success};
use crate::signing::{KeyStage, NewSigningKey, accepted_for, put_keys, seated};
use crate::state::Context;

const MAX_TEXT: usize = 256;

/// Drops a key that somebody else may have: nothing by it is accepted any more, and what was let in by it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevokeSigningKey {
    /// Which.
    pub kid: String,
    /// Signs from now on, if it was the current one and no next is published.
    pub replacement: NewSigningKey,
    /// Who did it.
    pub by: String,
    /// Why.
    pub because: String,
}

impl RevokeSigningKey {
    pub(crate) fn to_proto(&self) -> pb::RevokeSigningKey {
        pb::RevokeSigningKey {
            kid: self.kid.clone(),
            replacement: Some(to_proto(&self.replacement)),
            by: self.by.clone(),
            because: self.because.clone(),
        }
    }

    pub(crate) fn from_proto(proto: pb::RevokeSigningKey) -> Result<Self, Vec<FieldFault>> {
        let key = proto.replacement.ok_or_else(|| vec![FieldFault::new("replacement", "is missing")])?;
        Ok(Self { kid: proto.kid, replacement: from_proto(key)?, by: proto.by, because: proto.because })
    }

    pub(crate) fn apply(self, cx: &mut Context<'_>) -> Outcome {
        self.replacement.check()?;
        if self.by.len() > MAX_TEXT || self.because.len() > MAX_TEXT {
            return Err(Refusal::invalid("because", format!("is longer than {MAX_TEXT} bytes")));
        }
        let (now, index, mut keys) = (cx.state.now, cx.state.index, cx.state.signing_keys());
        let Some(place) = keys.iter().position(|key| key.kid == self.kid) else {
            return Err(Refusal::not_found(format!("signing key {}", self.kid)));
        };
        let dropped = keys.remove(place);
        let taken = [&dropped].into_iter().chain(&keys).any(|key| key.kid == self.replacement.kid);
        let mut next = keys.iter_mut().filter(|key| key.stage == KeyStage::Next);
        match next.next() {
            _ if dropped.stage != KeyStage::Current => {}
            Some(next) => (next.stage, next.since, next.until) = (KeyStage::Current, now, None),
            None if taken => return Err(Refusal::invalid("replacement", "is no new key")),
            None => keys.push(seated(self.replacement, now)),
        }
        put_keys(cx, keys);
        let revocation = Revocation {
            of: Revoked::SigningKey(self.kid.as_str().into()),
            issued_before: now,
            until: now.plus(accepted_for()),
            by: self.by,
            because: self.because,
            at: now,
            revision: index,
        };
        let mark = revocation.mark();
        if cx.state.revocations.is_new(&mark) {
            put(cx, vec![(mark, revocation)]);
        }
        let current = cx.state.cluster.as_ref().and_then(|cluster| cluster.current_kid()).unwrap_or_default();
        Ok(Success::SigningKey(current.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::testing::*;
    use super::super::{ExpireApprovals, RaiseFeatureLevel, RotateSigningKey};
    use super::*;
    use crate::outcome::{Effect, ObjectKey};
    use crate::state::State;

    fn fixture() -> Fixture {
        let mut fixture = Fixture::signing();
        fixture.run(RaiseFeatureLevel { level: 4 }).unwrap();
        fixture.now = 10_000_000;
        fixture
    }

    fn revoke(kid: &str, replacement: &str) -> RevokeSigningKey {
        let (by, because) = ("corp/ann".into(), "leaked".into());
        RevokeSigningKey { kid: kid.into(), replacement: new_key(replacement), by, because }
    }

    fn rotate(fixture: &mut Fixture, kid: &str, secs: u64) {
        let publish = Duration::from_secs(secs);
        fixture.run(RotateSigningKey { key: new_key(kid), after: String::new(), publish }).unwrap();
    }

    fn kids(state: &State) -> Vec<(String, KeyStage)> {
        state.signing_keys().into_iter().map(|key| (key.kid, key.stage)).collect()
    }

    #[test]
    fn it_is_gone_and_remembered_as_long_as_tokens_by_it_could_live() {
        let mut fixture = fixture();
        assert_eq!(fixture.run(revoke("k0", "k1")), Ok(Success::SigningKey("k1".into())));
        let told =
            [Effect::Changed(ObjectKey::Cluster), Effect::PolicyChanged, Effect::Changed(ObjectKey::Revocations)];
        assert_eq!(fixture.effects, told);
        assert_eq!(kids(&fixture.state), [("k1".to_owned(), KeyStage::Current)]);
        assert_eq!(fixture.state.cluster().unwrap().session_token_jwks, r#"{"keys":[{"kid":"k1"}]}"#);
        let key = Revoked::SigningKey("k0".into()).key();
        let mark = fixture.state.revocations().get(&key).unwrap();
        // Whoever has a key signs any date.
        assert_eq!((mark.issued_before, mark.until), (u32::MAX, 10_000 + 43_200 + 600 + 1));
        assert_eq!(State::restore(&fixture.state.snapshot()).unwrap().hash(), fixture.state.hash());
        assert!(matches!(fixture.run(revoke("k0", "k2")), Err(Refusal::NotFound { .. })));
        fixture.now += 44_000_000;
        fixture.run(ExpireApprovals).unwrap();
        assert!(fixture.state.revocations().is_empty());
    }

    #[test]
    fn the_published_one_takes_the_place_of_the_current_and_others_just_go() {
        let mut fixture = fixture();
        rotate(&mut fixture, "k1", 0);
        rotate(&mut fixture, "k2", 600);
        fixture.run(revoke("k0", "unused")).unwrap();
        assert_eq!(kids(&fixture.state), [("k2".to_owned(), KeyStage::Next), ("k1".to_owned(), KeyStage::Current)]);
        assert_eq!(fixture.run(revoke("k1", "unused")), Ok(Success::SigningKey("k2".into())));
        assert_eq!(kids(&fixture.state), [("k2".to_owned(), KeyStage::Current)]);
        assert_eq!(fixture.state.next_deadline(), None);
        rotate(&mut fixture, "k3", 600);
        assert_eq!(fixture.run(revoke("k3", "unused")), Ok(Success::SigningKey("k2".into())));
        assert_eq!(kids(&fixture.state), [("k2".to_owned(), KeyStage::Current)]);
        // There is always one that signs.
        assert!(matches!(fixture.run(revoke("k2", "k2")), Err(Refusal::Invalid(_))));
        assert_eq!(kids(&fixture.state), [("k2".to_owned(), KeyStage::Current)]);
    }
}
