//! `postern cluster rotate-signing-key`, and how the keys stand.

use std::time::Duration;

use postern_proto::admin::v1::{
    GetClusterStatusRequest, RevokeSigningKeyRequest, RotateSigningKeyRequest, SigningKeyStage, SigningKeyStatus,
};
use postern_runtime::clock;
use serde_json::{Value, json};

use super::when;
use crate::args::ConnectionArgs;
use crate::client::{Client, connect, refused};
use crate::cluster_args::{RotateSigningKeyArgs, SigningAlgorithm};
use crate::failure::Failure;
use crate::output;

/// Between looks whether the new key signs.
const LOOK: Duration = Duration::from_millis(500);
/// Looks in a row that nobody answers.
const TRIES: u32 = 60;

pub(super) async fn rotate(args: &RotateSigningKeyArgs, connection: &ConnectionArgs) -> Result<(), Failure> {
    let client = connect(connection).await?;
    let request_id = clock::request_id().to_string();
    if args.revoke.is_some() || args.revoke_current {
        let (kid, because) = (args.revoke.clone().unwrap_or_default(), args.reason.clone());
        let request = RevokeSigningKeyRequest { kid, because, request_id };
        let answer = client.cluster().revoke_signing_key(request).await.map_err(refused)?.into_inner();
        output::note(format!(
            "signing key {} is dropped, and all that it signed is revoked; {} signs",
            answer.revoked_kid, answer.current_kid
        ));
        return table(&answer.signing_keys);
    }
    if !args.reason.is_empty() {
        return Err(Failure::usage("--reason goes with --revoke and --revoke-current"));
    }
    let publish = if args.now { Some(Duration::ZERO) } else { args.publish_for };
    // Up: 0 would mean at once.
    let seconds = publish.map(|publish| publish.as_secs().saturating_add(u64::from(publish.subsec_nanos() > 0)));
    let publish_seconds = seconds.map(|seconds| u32::try_from(seconds).unwrap_or(u32::MAX));
    let algorithm = match args.algorithm {
        None => "",
        Some(SigningAlgorithm::Eddsa) => "EdDSA",
        Some(SigningAlgorithm::Es256) => "ES256",
    };
    let request = RotateSigningKeyRequest { publish_seconds, request_id, algorithm: algorithm.to_owned() };
    let answer = client.cluster().rotate_signing_key(request).await.map_err(refused)?.into_inner();
    let keys = if args.wait { signs(&client, &answer.kid, answer.signing_keys).await? } else { answer.signing_keys };
    let stage = |key: &SigningKeyStatus| match key.stage() {
        SigningKeyStage::Current => "signs".to_owned(),
        _ => format!("is published, and signs from {}", when(key.until.as_ref())),
    };
    let stands = keys.iter().find(|key| key.kid == answer.kid).map_or_else(|| "is gone".to_owned(), stage);
    output::note(format!("signing key {} {stands}", answer.kid));
    table(&keys)
}

/// The keys, once `kid` is not published only.
async fn signs(client: &Client, kid: &str, mut keys: Vec<SigningKeyStatus>) -> Result<Vec<SigningKeyStatus>, Failure> {
    let mut failed = 0;
    while keys.iter().any(|key| key.kid == kid && key.stage() == SigningKeyStage::Next) {
        tokio::time::sleep(LOOK).await;
        match client.cluster().get_cluster_status(GetClusterStatusRequest {}).await {
            Ok(answer) => (keys, failed) = (answer.into_inner().signing_keys, 0),
            // A member that restarts, or a cluster that elects: the rotation goes on by itself.
            Err(_) if failed < TRIES => failed += 1,
            Err(error) => return Err(refused(error)),
        }
    }
    Ok(keys)
}

const fn stage_name(stage: SigningKeyStage) -> &'static str {
    match stage {
        SigningKeyStage::Unspecified => "unknown",
        SigningKeyStage::Next => "next",
        SigningKeyStage::Current => "current",
        SigningKeyStage::Previous => "previous",
    }
}

pub(super) fn table(keys: &[SigningKeyStatus]) -> Result<(), Failure> {
    let row = |key: &SigningKeyStatus| {
        let (since, until) = (when(key.since.as_ref()), when(key.until.as_ref()));
        vec![key.kid.clone(), key.algorithm.clone(), stage_name(key.stage()).to_owned(), since, until]
    };
    output::table(&["SIGNING KEY", "ALGORITHM", "STATE", "SINCE", "UNTIL"], &keys.iter().map(row).collect::<Vec<_>>())
}

pub(super) fn value(key: &SigningKeyStatus) -> Value {
    json!({
        "kid": key.kid, "algorithm": key.algorithm, "state": stage_name(key.stage()), "since": when(key.since.as_ref()),
        "until": when(key.until.as_ref()),
    })
}
