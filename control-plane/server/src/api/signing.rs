//! The keys that session tokens are signed by: how they stand, another one, and one less.

use std::sync::Arc;
use std::time::Duration;

use postern_core::issuer::Algorithm;
use postern_core::wire::timestamp_to_proto;
use postern_proto::admin::v1 as pb;
use postern_state::{KeyStage, SigningKey, State, Success, commands};
use tonic::Status;
use tracing::{error, info, warn};

use super::call::Call;
use super::status;
use crate::bootstrap::{make_signing_key, signs_by};
use crate::keys::Kek;
use crate::raft::RaftHandle;
use crate::run::ControlError;

const MAX_REASON: usize = 256;

/// Changes them, for a call.
pub(super) struct Desk<'a> {
    pub(super) raft: &'a RaftHandle,
    pub(super) kek: &'a Arc<Kek>,
    pub(super) call: &'a Arc<Call>,
}

impl Desk<'_> {
    /// Another key signs after `publish`, unless one is under way that does so sooner.
    pub(super) async fn rotate(
        &self,
        publish: Duration,
        request: &pb::RotateSigningKeyRequest,
    ) -> Result<pb::RotateSigningKeyResponse, Status> {
        let request_id = status::request_id(&request.request_id)?;
        let algorithm = match request.algorithm.as_str() {
            "" => self.current().await?.1,
            text => Algorithm::from_text(text)
                .filter(|algorithm| matches!(algorithm, Algorithm::EdDsa | Algorithm::Es256))
                .ok_or_else(|| status::invalid_field("algorithm", "must be EdDSA or ES256"))?,
        };
        let key = make_signing_key(self.kek, algorithm).await.map_err(|error| not_made(&error))?;
        let command = commands::RotateSigningKey { key, after: String::new(), publish };
        self.call.about("SigningKey");
        let Success::SigningKey(kid) = self.call.write(self.raft, command, request_id).await? else {
            return Err(other());
        };
        info!(caller = %self.call.caller(), kid, ?publish, "another signing key was published");
        Ok(pb::RotateSigningKeyResponse { kid, signing_keys: self.keys().await? })
    }

    /// Drops a key, and ends what was let in by it.
    pub(super) async fn revoke(
        &self,
        request: pb::RevokeSigningKeyRequest,
    ) -> Result<pb::RevokeSigningKeyResponse, Status> {
        let request_id = status::request_id(&request.request_id)?;
        if request.because.len() > MAX_REASON {
            return Err(status::invalid_field("because", format!("is longer than {MAX_REASON} bytes")));
        }
        let (current, algorithm) = self.current().await?;
        let kid = if request.kid.is_empty() { current } else { request.kid };
        self.call.about(format_args!("SigningKey/{}", kid.chars().take(64).collect::<String>()));
        let replacement = make_signing_key(self.kek, algorithm).await.map_err(|error| not_made(&error))?;
        let by: String = self.call.caller().to_string().chars().take(MAX_REASON / 4).collect();
        let command = commands::RevokeSigningKey { kid: kid.clone(), replacement, by, because: request.because };
        let Success::SigningKey(current_kid) = self.call.write(self.raft, command, request_id).await? else {
            return Err(other());
        };
        metrics::counter!("postern_control_revocations_total").increment(1);
        warn!(caller = %self.call.caller(), kid, current_kid, "a signing key was revoked, and all that it had signed");
        Ok(pb::RevokeSigningKeyResponse { revoked_kid: kid, current_kid, signing_keys: self.keys().await? })
    }

    /// The key that signs, and by what.
    async fn current(&self) -> Result<(String, Algorithm), Status> {
        let keys = self.raft.read(State::signing_keys).await.map_err(status::read)?;
        let current = keys.into_iter().find(|key| key.stage == KeyStage::Current);
        let current = current.ok_or_else(|| status::not_found("SigningKey", "that signs"))?;
        Ok((current.kid.clone(), signs_by(&current)))
    }

    async fn keys(&self) -> Result<Vec<pb::SigningKeyStatus>, Status> {
        Ok(told(&self.raft.read(State::signing_keys).await.map_err(status::read)?))
    }
}

/// As they are told.
pub(super) fn told(keys: &[SigningKey]) -> Vec<pb::SigningKeyStatus> {
    let one = |key: &SigningKey| {
        let stage = match key.stage {
            KeyStage::Next => pb::SigningKeyStage::Next,
            KeyStage::Current => pb::SigningKeyStage::Current,
            KeyStage::Previous => pb::SigningKeyStage::Previous,
        };
        pb::SigningKeyStatus {
            kid: key.kid.clone(),
            stage: stage.into(),
            since: Some(timestamp_to_proto(key.since)),
            until: key.until.map(timestamp_to_proto),
            algorithm: signs_by(key).as_str().to_owned(),
        }
    };
    keys.iter().map(one).collect()
}

fn not_made(error: &ControlError) -> Status {
    error!(%error, "no signing key");
    Status::unavailable("a signing key cannot be made and sealed now")
}

fn other() -> Status {
    Status::internal("another outcome than was asked for")
}
