use std::sync::Arc;

use postern_core::resource::FieldFault;
use postern_core::secret::Sealed;
use postern_core::wire::resource::{sealed_from_proto, sealed_to_proto};
use postern_proto::state::v1 as pb;

use crate::outcome::{Effect, ObjectKey, Outcome, Refusal, Success};
use crate::recording_keys::RecordingKey;
use crate::state::{Cluster, Context};

/// Gives the cluster another key for the keys of recordings. Of several at once one comes in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddRecordingKey {
    /// The number that it is to have: the one after the newest.
    pub number: u32,
    /// The key.
    pub sealed: Sealed,
}

impl AddRecordingKey {
    pub(crate) fn to_proto(&self) -> pb::AddRecordingKey {
        pb::AddRecordingKey { number: self.number, sealed: Some(sealed_to_proto(&self.sealed)) }
    }

    pub(crate) fn from_proto(proto: pb::AddRecordingKey) -> Result<Self, Vec<FieldFault>> {
        let sealed = proto.sealed.ok_or_else(|| vec![FieldFault::new("sealed", "is missing")])?;
        Ok(Self { number: proto.number, sealed: sealed_from_proto(sealed) })
    }

    pub(crate) fn apply(self, cx: &mut Context<'_>) -> Outcome {
        let Some(cluster) = &cx.state.cluster else {
            return Err(Refusal::InvalidState("there is no cluster yet".to_owned()));
        };
        let mut cluster = Cluster::clone(cluster);
        cluster.add_recording_key(RecordingKey { number: self.number, sealed: self.sealed, since: cx.state.now })?;
        cx.state.cluster = Some(Arc::new(cluster));
        Effect::Changed(ObjectKey::Cluster).add_to(cx.effects);
        Ok(Success::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::super::{RaiseFeatureLevel, RewrapItem, RewrapSecrets, SealedOf};
    use super::*;
    use crate::State;

    #[test]
    fn one_comes_after_the_other_and_each_is_wrapped_anew_where_it_lies() {
        let mut old = Fixture::new();
        let add = |number: u32| AddRecordingKey { number, sealed: sealed(u8::try_from(number).unwrap()) };
        assert!(matches!(old.run(add(1)), Err(Refusal::FeatureLevel { needed: 7, .. })));
        let mut fixture = Fixture::new();
        fixture.run(RaiseFeatureLevel { level: 7 }).unwrap();
        assert!(matches!(fixture.run(add(2)), Err(Refusal::InvalidState(_))));
        assert_eq!(fixture.run(add(1)), Ok(Success::Done));
        assert_eq!(fixture.effects, [Effect::Changed(ObjectKey::Cluster)]);
        // Another member had the same thought.
        assert!(matches!(fixture.run(add(1)), Err(Refusal::InvalidState(_))));
        fixture.run(add(2)).unwrap();
        let item = RewrapItem {
            of: SealedOf::RecordingKey(1),
            expected_kek_id: "k".into(),
            expected_wrapped_key: vec![1],
            kek_id: "k2".into(),
            wrapped_key: vec![9],
        };
        let none = RewrapItem { of: SealedOf::RecordingKey(3), ..item.clone() };
        let rewrapped = fixture.run(RewrapSecrets { items: vec![item, none] });
        assert_eq!(rewrapped, Ok(Success::Rewrapped { changed: 1, skipped: 1 }));
        let state = State::restore(&fixture.state.snapshot()).unwrap();
        assert_eq!(state.hash(), fixture.state.hash());
        let keys = &state.cluster().unwrap().recording_keys;
        let shown: Vec<_> = keys.iter().map(|key| (key.number, key.sealed.kek_id.as_str())).collect();
        assert_eq!(shown, [(1, "k2"), (2, "k")]);
    }
}
