use std::sync::Arc;

use postern_core::Timestamp;
use postern_core::resource::FieldFault;
use postern_core::secret::Sealed;
use postern_core::wire::resource::{sealed_from_proto, sealed_to_proto};
use postern_proto::resource::v1 as resource_pb;
use postern_proto::state::v1 as pb;

use crate::outcome::{Effect, ObjectKey, Outcome, Refusal, Success};
use crate::recording_keys::RecordingKey;
use crate::signing::{KeyStage, SigningKey};
use crate::state::{Cluster, Context};

/// Gives the cluster its identity and keys: always the first command, and only once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitCluster(
    /// What the cluster is.
    pub Cluster,
);

impl InitCluster {
    pub(crate) fn to_proto(&self) -> pb::InitCluster {
        pb::InitCluster {
            cluster_id: self.0.id.clone(),
            ca_pem: self.0.ca_pem.clone(),
            ca_key: Some(sealed_to_proto(&self.0.ca_key)),
            session_token_jwks: self.0.session_token_jwks.clone(),
            session_token_key: Some(sealed_to_proto(&self.0.session_token_key)),
            mask_key: Some(sealed_to_proto(&self.0.mask_key)),
            incarnation: self.0.incarnation.clone(),
            signing_keys: self.0.signing_keys.iter().map(key_to_proto).collect(),
            recording_keys: self.0.recording_keys.iter().map(RecordingKey::to_proto).collect(),
        }
    }

    pub(crate) fn from_proto(proto: pb::InitCluster) -> Result<Self, Vec<FieldFault>> {
        let sealed = |field: &str, sealed: Option<resource_pb::Sealed>| -> Result<Sealed, Vec<FieldFault>> {
            sealed.map(sealed_from_proto).ok_or_else(|| vec![FieldFault::new(field, "is missing")])
        };
        Ok(Self(Cluster {
            id: proto.cluster_id,
            ca_pem: proto.ca_pem,
            ca_key: sealed("ca_key", proto.ca_key)?,
            session_token_jwks: proto.session_token_jwks,
            session_token_key: sealed("session_token_key", proto.session_token_key)?,
            mask_key: sealed("mask_key", proto.mask_key)?,
            incarnation: proto.incarnation,
            signing_keys: proto.signing_keys.into_iter().map(key_from_proto).collect::<Result<_, _>>()?,
            recording_keys: proto.recording_keys.into_iter().map(RecordingKey::from_proto).collect::<Result<_, _>>()?,
        }))
    }

    pub(crate) fn apply(self, cx: &mut Context<'_>) -> Outcome {
        if cx.state.cluster.is_some() {
            return Err(Refusal::AlreadyExists { what: "the cluster".to_owned() });
        }
        if self.0.id.is_empty() {
            return Err(Refusal::invalid("cluster_id", "is empty"));
        }
        cx.state.cluster = Some(Arc::new(self.0));
        Effect::Changed(ObjectKey::Cluster).add_to(cx.effects);
        cx.policy_changed();
        Ok(Success::Done)
    }
}

fn key_to_proto(key: &SigningKey) -> pb::SigningKey {
    let stage = match key.stage {
        KeyStage::Next => pb::KeyStage::Next,
        KeyStage::Current => pb::KeyStage::Current,
        KeyStage::Previous => pb::KeyStage::Previous,
    };
    pb::SigningKey {
        kid: key.kid.clone(),
        jwk: key.jwk.clone(),
        sealed: key.sealed.as_ref().map(sealed_to_proto),
        stage: stage.into(),
        since_ms: key.since.millis(),
        until_ms: key.until.map_or(0, Timestamp::millis),
        founding: key.founding,
    }
}

fn key_from_proto(key: pb::SigningKey) -> Result<SigningKey, Vec<FieldFault>> {
    let stage = match pb::KeyStage::try_from(key.stage) {
        Ok(pb::KeyStage::Next) => KeyStage::Next,
        Ok(pb::KeyStage::Current) => KeyStage::Current,
        Ok(pb::KeyStage::Previous) => KeyStage::Previous,
        Ok(pb::KeyStage::Unspecified) | Err(_) => {
            return Err(vec![FieldFault::new("signing_keys.stage", "is not known")]);
        }
    };
    Ok(SigningKey {
        kid: key.kid,
        jwk: key.jwk,
        sealed: key.sealed.map(sealed_from_proto),
        stage,
        since: Timestamp::from_millis(key.since_ms),
        until: (key.until_ms != 0).then(|| Timestamp::from_millis(key.until_ms)),
        founding: key.founding,
    })
}

impl Context<'_> {
    /// Marks this entry as the last change to what gateways decide by.
    pub(crate) fn policy_changed(&mut self) {
        self.state.policy_revision = self.state.index;
        Effect::PolicyChanged.add_to(self.effects);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn only_once_and_first() {
        let mut fresh = Fixture::uninitialised();
        let refused = fresh.run(super::super::ExpireApprovals);
        assert!(matches!(refused, Err(Refusal::InvalidState(_))), "{refused:?}");
        assert_eq!(fresh.run(InitCluster(cluster())), Ok(Success::Done));
        assert_eq!(fresh.effects, [Effect::Changed(ObjectKey::Cluster), Effect::PolicyChanged]);
        assert!(matches!(fresh.run(InitCluster(cluster())), Err(Refusal::AlreadyExists { .. })));
    }
}
