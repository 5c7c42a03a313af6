//! Keeps the keys of session tokens: each member opens what it is to sign with, and the leader has another published when the current one is old.
//!
//! When a key's turn comes is part of the replicated state ([`postern_state::SigningKey`]): nobody has to be there for it, and a leader that dies between
//! publishing and turning leaves nothing half done.

use std::sync::Arc;
use std::time::Duration;

use postern_core::Timestamp;
use postern_core::issuer::Algorithm;
use postern_runtime::clock;
use postern_state::{KeyStage, Success, commands};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::members::Members;
use super::view::ClusterView;
use crate::bootstrap::{make_signing_key, signs_by};
use crate::config::SigningKeysConfig;
use crate::identity::Signers;
use crate::keys::Kek;

/// Between looks: a key that did not open is tried again.
const LOOK: Duration = Duration::from_secs(5);
/// From this feature level on they are rotated.
const ROTATES: u32 = 4;

/// Follows the keys, until `stop`.
pub(crate) async fn keep(
    members: Members,
    kek: Arc<Kek>,
    signers: Signers,
    config: SigningKeysConfig,
    stop: CancellationToken,
) {
    let mut view = members.view.clone();
    loop {
        let known = Arc::clone(&view.borrow_and_update());
        tokio::select! {
            () = stop.cancelled() => return,
            () = step(&members, &kek, &signers, config, &known) => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
            changed = view.changed() => if changed.is_err() { return },
        }
    }
}

async fn step(members: &Members, kek: &Kek, signers: &Signers, config: SigningKeysConfig, view: &ClusterView) {
    signers.follow(kek, view).await;
    let now = members.raft.stamps().now();
    let missing = if signers.current().is_none() { 1.0 } else { 0.0 };
    metrics::gauge!("postern_control_signing_key_missing").set(missing);
    let keys = view.signing_keys();
    if let Some(current) = keys.iter().find(|key| key.stage == KeyStage::Current) {
        metrics::gauge!("postern_control_signing_key_age_seconds").set(now.since(current.since).as_secs_f64());
    }
    let leading = members.raft.status().borrow().leading;
    if let Some(after) = due(view, config.rotate_every.0, now).filter(|_| leading) {
        // As before: another algorithm is somebody's choice.
        let algorithm = keys.iter().find(|key| key.kid == after).map_or(Algorithm::EdDsa, signs_by);
        rotate(members, kek, (after, algorithm), config.publish_for.0).await;
    }
}

/// The current key, when it has signed for as long as it is to.
fn due(view: &ClusterView, every: Duration, now: Timestamp) -> Option<String> {
    let keys = view.signing_keys();
    let current = keys.iter().find(|key| key.stage == KeyStage::Current)?;
    let waits = keys.iter().any(|key| key.stage == KeyStage::Next);
    // Nobody knows how old it is: of a member that has not written its record yet.
    let unknown = current.since == Timestamp::default();
    if every.is_zero() || waits || unknown || view.feature_level < ROTATES || now.since(current.since) < every {
        return None;
    }
    Some(current.kid.clone())
}

async fn rotate(members: &Members, kek: &Kek, (after, algorithm): (String, Algorithm), publish: Duration) {
    let key = match make_signing_key(kek, algorithm).await {
        Ok(key) => key,
        Err(error) => return warn!(%error, "no other signing key can be made"),
    };
    let command = commands::RotateSigningKey { key, after, publish };
    match members.raft.propose(command, Some(clock::request_id())).await {
        Ok(Ok(Success::SigningKey(kid))) => info!(kid, ?publish, "the signing key is old: another was published"),
        Ok(Ok(_)) => {}
        Ok(Err(refusal)) => warn!(%refusal, "the signing key was not rotated"),
        Err(error) => debug!(%error, "the signing key was not rotated"),
    }
}

#[cfg(test)]
mod tests {
    use postern_core::secret::Sealed;
    use postern_state::{Cluster, SigningKey};

    use super::*;

    #[test]
    fn another_is_due_when_the_current_one_is_old_and_none_is_under_way() {
        let key = |kid: &str, stage, since| SigningKey {
            kid: kid.into(),
            jwk: "{}".into(),
            sealed: Some(Sealed::default()),
            stage,
            since: Timestamp::from_secs(since),
            until: None,
            founding: false,
        };
        let view = |signing_keys: Vec<SigningKey>, feature_level| ClusterView {
            cluster: Some(Arc::new(Cluster { signing_keys, ..crate::watch::testing::cluster() })),
            feature_level,
            ..ClusterView::default()
        };
        let (current, next) = (key("k1", KeyStage::Current, 1_000), key("k2", KeyStage::Next, 4_000));
        let (hour, at) = (Duration::from_secs(3_600), Timestamp::from_secs);
        let alone = view(vec![current.clone()], 4);
        assert_eq!(due(&alone, hour, at(4_599)), None);
        assert_eq!(due(&alone, hour, at(4_600)), Some("k1".into()));
        assert_eq!(due(&alone, Duration::ZERO, at(9_999)), None);
        assert_eq!(due(&view(vec![next, current.clone()], 4), hour, at(4_600)), None);
        assert_eq!(due(&view(vec![current], 3), hour, at(4_600)), None);
        // The first key of a cluster, of which no member is known.
        assert_eq!(due(&view(Vec::new(), 4), hour, at(4_600)), None);
    }
}
