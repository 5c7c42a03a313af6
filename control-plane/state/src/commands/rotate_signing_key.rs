use std::time::Duration;

use postern_core::resource::FieldFault;
use postern_core::wire::resource::{sealed_from_proto, sealed_to_proto};
use postern_proto::state::v1 as pb;

use crate::outcome::{Outcome, Refusal, Success};
use crate::signing::{KeyStage, MAX_KEYS, MAX_PUBLISH, NewSigningKey, put_keys, staged};
use crate::state::Context;

/// Publishes a key that is to sign session tokens after the one that does now. Of several at once one takes effect, and all are told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RotateSigningKey {
    /// It comes in as the next.
    pub key: NewSigningKey,
    /// The key that it is to follow; empty: whichever signs now.
    pub after: String,
    /// How long it is known to all before it signs; none: it signs at once.
    pub publish: Duration,
}

impl RotateSigningKey {
    pub(crate) fn to_proto(&self) -> pb::RotateSigningKey {
        pb::RotateSigningKey {
            key: Some(to_proto(&self.key)),
            after: self.after.clone(),
            publish_ms: u64::try_from(self.publish.as_millis()).unwrap_or(u64::MAX),
        }
    }

    pub(crate) fn from_proto(proto: pb::RotateSigningKey) -> Result<Self, Vec<FieldFault>> {
        let key = proto.key.ok_or_else(|| vec![FieldFault::new("key", "is missing")])?;
        Ok(Self { key: from_proto(key)?, after: proto.after, publish: Duration::from_millis(proto.publish_ms) })
    }

    pub(crate) fn apply(self, cx: &mut Context<'_>) -> Outcome {
        self.key.check()?;
        if self.publish > MAX_PUBLISH {
            return Err(Refusal::invalid(
                "publish",
                format!("must be at most {} days", MAX_PUBLISH.as_secs() / 86_400),
            ));
        }
        let (now, mut keys) = (cx.state.now, cx.state.signing_keys());
        let until = now.plus(self.publish);
        let current = keys.iter().find(|key| key.stage == KeyStage::Current);
        if current.is_none_or(|current| !self.after.is_empty() && current.kid != self.after) {
            return Err(Refusal::InvalidState("the signing key was rotated meanwhile".to_owned()));
        }
        if let Some(next) = keys.iter_mut().find(|key| key.stage == KeyStage::Next) {
            let kid = next.kid.clone();
            // One is on its way: it may come sooner, and never later.
            if next.until.is_none_or(|known| until < known) {
                next.until = Some(until);
                put_keys(cx, keys);
            }
            return Ok(Success::SigningKey(kid));
        }
        if keys.iter().any(|key| key.kid == self.key.kid) {
            return Err(Refusal::AlreadyExists { what: format!("signing key {}", self.key.kid) });
        }
        if keys.len() >= MAX_KEYS {
            return Err(Refusal::Limit(format!("{MAX_KEYS} signing keys: wait until a previous one has ended")));
        }
        let kid = self.key.kid.clone();
        keys.push(staged(self.key, now, until));
        put_keys(cx, keys);
        Ok(Success::SigningKey(kid))
    }
}

pub(super) fn to_proto(key: &NewSigningKey) -> pb::NewSigningKey {
    pb::NewSigningKey { kid: key.kid.clone(), jwk: key.jwk.clone(), sealed: Some(sealed_to_proto(&key.sealed)) }
}

pub(super) fn from_proto(key: pb::NewSigningKey) -> Result<NewSigningKey, Vec<FieldFault>> {
    let sealed = key.sealed.ok_or_else(|| vec![FieldFault::new("key.sealed", "is missing")])?;
    Ok(NewSigningKey { kid: key.kid, jwk: key.jwk, sealed: sealed_from_proto(sealed) })
}

#[cfg(test)]
mod tests {
    use postern_core::Timestamp;
    use postern_core::cluster::ControlNode;
    use postern_core::secret::Sealed;

    use super::super::testing::*;
    use super::super::{ExpireApprovals, RaiseFeatureLevel, RewrapItem, RewrapSecrets, SealedOf, UpdateNode};
    use super::*;
    use crate::outcome::{Effect, ObjectKey};
    use crate::signing::accepted_for;
    use crate::state::State;

    fn fixture() -> Fixture {
        let mut fixture = Fixture::signing();
        fixture.run(UpdateNode { node: ControlNode { feature_level: 4, ..control_node(1, "c1") } }).unwrap();
        fixture.run(RaiseFeatureLevel { level: 4 }).unwrap();
        fixture.now = 10_000_000;
        fixture
    }

    fn rotate(kid: &str, after: &str, secs: u64) -> RotateSigningKey {
        RotateSigningKey { key: new_key(kid), after: after.into(), publish: Duration::from_secs(secs) }
    }

    /// `k1:next k0:current`
    fn shown(state: &State) -> String {
        let keys: Vec<String> =
            state.signing_keys().iter().map(|key| format!("{}:{}", key.kid, key.stage.as_str())).collect();
        keys.join(" ")
    }

    fn jwks(state: &State) -> &str {
        &state.cluster().unwrap().session_token_jwks
    }

    #[test]
    fn a_key_has_its_turns_by_logical_time() {
        let mut fixture = fixture();
        assert_eq!(shown(&fixture.state), "k0:current");
        assert_eq!(fixture.state.signing_keys()[0].since, Timestamp::from_millis(1_000));
        assert_eq!(fixture.run(rotate("k1", "k0", 600)), Ok(Success::SigningKey("k1".into())));
        assert_eq!(fixture.effects, [Effect::Changed(ObjectKey::Cluster), Effect::PolicyChanged]);
        assert_eq!(shown(&fixture.state), "k1:next k0:current");
        assert_eq!(jwks(&fixture.state), r#"{"keys":[{"kid":"k1"},{"kid":"k0","kty":"OKP"}]}"#);
        assert_eq!(fixture.state.cluster().unwrap().current_kid(), Some("k0"));
        let turn = fixture.state.next_deadline().unwrap();
        assert_eq!(turn.millis(), 10_600_000);
        // Another that leads, or leads no more, had the same thought.
        assert_eq!(fixture.run(rotate("k2", "k0", 600)), Ok(Success::SigningKey("k1".into())));
        assert!(fixture.effects.is_empty());
        fixture.now = turn.millis() - 1;
        fixture.run(ExpireApprovals).unwrap();
        assert!(fixture.effects.is_empty());
        fixture.now = turn.millis();
        fixture.run(ExpireApprovals).unwrap();
        // Gateways have both already.
        assert_eq!(fixture.effects, [Effect::Changed(ObjectKey::Cluster)]);
        assert_eq!(shown(&fixture.state), "k1:current k0:previous");
        assert!(matches!(fixture.run(rotate("k2", "k0", 600)), Err(Refusal::InvalidState(_))));
        let keys = fixture.state.signing_keys();
        // What signed is gone for good, here and where it lay at first.
        assert_eq!(
            (keys[1].sealed.clone(), fixture.state.cluster().unwrap().session_token_key.clone()),
            Default::default()
        );
        assert_eq!((keys[0].sealed.is_some(), keys[0].until), (true, None));
        let gone = keys[1].until.unwrap();
        assert_eq!(gone, turn.plus(accepted_for()));
        assert_eq!(State::restore(&fixture.state.snapshot()).unwrap().hash(), fixture.state.hash());
        fixture.now = gone.millis();
        fixture.run(ExpireApprovals).unwrap();
        assert_eq!(
            (shown(&fixture.state).as_str(), jwks(&fixture.state)),
            ("k1:current", r#"{"keys":[{"kid":"k1"}]}"#)
        );
        assert_eq!(fixture.state.next_deadline(), None);
    }

    #[test]
    fn at_once_where_that_is_asked_for() {
        let mut fixture = fixture();
        fixture.run(rotate("k1", "", 0)).unwrap();
        assert_eq!(shown(&fixture.state), "k1:current k0:previous");
        // One that is on its way is brought forward, and is not put off.
        fixture.run(rotate("k2", "k1", 600)).unwrap();
        fixture.run(rotate("k3", "", 900)).unwrap();
        assert_eq!(fixture.state.signing_keys()[0].until, Some(Timestamp::from_millis(10_600_000)));
        fixture.now += 1_000;
        assert_eq!(fixture.run(rotate("k3", "", 0)), Ok(Success::SigningKey("k2".into())));
        assert_eq!(shown(&fixture.state), "k2:current k1:previous k0:previous");
    }

    #[test]
    fn what_is_no_key_does_not_come_in() {
        let mut fixture = fixture();
        let with = |jwk: &str| {
            let mut rotate = rotate("k1", "", 60);
            rotate.key.jwk = jwk.into();
            rotate
        };
        let long = format!(r#"{{"kid":"k1","x":"{}"}}"#, "x".repeat(3_000));
        for jwk in ["", "{}", r#"{"kid":"k2"}"#, r#"[{"kid":"k1"}]"#, r#"{"kid":"k1","d":"x"}"#, &long] {
            assert!(matches!(fixture.run(with(jwk)), Err(Refusal::Invalid(_))), "{jwk}");
        }
        for kid in ["", "a b", "a\"", &"x".repeat(129)] {
            assert!(matches!(fixture.run(rotate(kid, "", 60)), Err(Refusal::Invalid(_))), "{kid}");
        }
        assert!(matches!(fixture.run(rotate("k1", "", 8 * 86_400)), Err(Refusal::Invalid(_))));
        assert!(matches!(fixture.run(rotate("k0", "", 0)), Err(Refusal::AlreadyExists { .. })));
        for round in 1..MAX_KEYS {
            fixture.run(rotate(&format!("n{round}"), "", 0)).unwrap();
        }
        assert!(matches!(fixture.run(rotate("k1", "", 0)), Err(Refusal::Limit(_))));
        let mut old = Fixture::new();
        assert!(matches!(old.run(rotate("k1", "", 0)), Err(Refusal::FeatureLevel { needed: 4, .. })));
    }

    #[test]
    fn each_is_wrapped_anew_where_it_lies() {
        let mut fixture = fixture();
        let item = |of: SealedOf, byte: u8| RewrapItem {
            of,
            expected_kek_id: "k".into(),
            expected_wrapped_key: vec![byte],
            kek_id: "k2".into(),
            wrapped_key: vec![9],
        };
        let born = fixture.state.cluster().unwrap().session_token_key.wrapped_key[0];
        fixture.run(rotate("k1", "", 60)).unwrap();
        let items = vec![item(SealedOf::SessionTokenKey, born), item(SealedOf::SigningKey("k1".into()), 7)];
        fixture.run(RewrapSecrets { items }).unwrap();
        let ids: Vec<_> = fixture.state.signing_keys().into_iter().map(|key| key.sealed.unwrap().kek_id).collect();
        assert_eq!(ids, ["k2", "k2"]);
        assert_eq!(fixture.state.cluster().unwrap().session_token_key, Sealed::default());
        let none = vec![item(SealedOf::SigningKey("k9".into()), 7)];
        assert_eq!(fixture.run(RewrapSecrets { items: none }), Ok(Success::Rewrapped { changed: 0, skipped: 1 }));
    }
}
