//! Every sealed value of the cluster under the current key, while all goes on.
//!
//! Pass after pass over what is still under another key: data keys are wrapped anew in batches, each put in place by compare-and-set. What
//! somebody else has changed meanwhile is skipped and looked at in the next pass. So it can be broken off at any place, run on any member,
//! and run twice at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use postern_core::resource::{Kind, Spec};
use postern_core::secret::Sealed;
use postern_state::State;
use postern_state::commands::{RewrapItem, RewrapSecrets, SealedOf};

use super::{KeyError, Keyring, transit};

/// Data keys of one change.
pub(crate) const BATCH: usize = 100;
/// How often what was skipped is looked at again.
pub(crate) const PASSES: u32 = 5;
/// How long an outcome that is unknown is waited for before the batch is tried again.
pub(crate) const AGAIN: Duration = Duration::from_millis(500);

/// A sealed value, and what it is of.
pub(crate) type Found = (SealedOf, Sealed);

/// Every sealed value.
pub(crate) fn sealed_values(state: &State) -> Vec<Found> {
    let mut found = Vec::new();
    if let Some(cluster) = state.cluster() {
        found.push((SealedOf::CaKey, cluster.ca_key.clone()));
        found.push((SealedOf::MaskKey, cluster.mask_key.clone()));
        let keys = cluster.recording_keys.iter();
        found.extend(keys.map(|key| (SealedOf::RecordingKey(key.number), key.sealed.clone())));
    }
    if let Some(key) = state.recording_log().key() {
        found.push((SealedOf::LogKey, key.private.clone()));
    }
    found.extend(state.signing_keys().into_iter().filter_map(|key| Some((key.sealed_of(), key.sealed?))));
    for object in state.resources(Kind::Secret) {
        if let Spec::Secret(sealed) = &object.spec {
            found.push((SealedOf::Secret(object.metadata.name.clone()), sealed.clone()));
        }
    }
    found
}

/// How many sealed values are under each key and version (0: none).
pub(crate) fn counted(found: &[Found]) -> BTreeMap<(String, u32), u32> {
    let mut uses: BTreeMap<(String, u32), u32> = BTreeMap::new();
    for (_, sealed) in found {
        let version = transit::version(&sealed.wrapped_key).unwrap_or(0);
        let count = uses.entry((sealed.kek_id.clone(), version)).or_default();
        *count = count.saturating_add(1);
    }
    uses
}

/// The members that lack key `id`.
pub(crate) fn lacking(state: &State, id: &str) -> Vec<String> {
    let lacks = |node: &&Arc<postern_core::cluster::ControlNode>| !node.kek_ids.iter().any(|known| known == id);
    state.nodes().filter(lacks).map(|node| node.name.to_string()).collect()
}

/// The change that puts `batch` under the current key, and what cannot be put there.
pub(crate) async fn rewrapped(keys: &Keyring, batch: &[Found]) -> (RewrapSecrets, Vec<(SealedOf, KeyError)>) {
    let names: Vec<String> = batch.iter().map(|(of, _)| of.to_string()).collect();
    let items: Vec<(&str, &Sealed)> = names.iter().zip(batch).map(|(of, (_, sealed))| (of.as_str(), sealed)).collect();
    let (mut items_done, mut faults) = (Vec::new(), Vec::new());
    for ((of, old), new) in batch.iter().zip(keys.rewrap_all(&items).await) {
        match new {
            Ok(new) => items_done.push(RewrapItem {
                of: of.clone(),
                expected_kek_id: old.kek_id.clone(),
                expected_wrapped_key: old.wrapped_key.clone(),
                kek_id: new.kek_id,
                wrapped_key: new.wrapped_key,
            }),
            Err(error) => faults.push((of.clone(), error)),
        }
    }
    (RewrapSecrets { items: items_done }, faults)
}

#[cfg(test)]
mod tests {
    use postern_core::Timestamp;
    use postern_core::cluster::ControlNode;
    use postern_core::resource::{Metadata, Resource};
    use postern_state::commands::{InitCluster, PutResources, UpdateNode};
    use postern_state::{Cluster, Command, Entry, Success};

    use super::*;

    struct Rig {
        state: State,
        keys: Keyring,
        _dir: tempfile::TempDir,
    }

    impl Rig {
        fn apply(&mut self, command: impl Into<Command>) -> Success {
            let entry =
                Entry { proposed_at: Timestamp::default(), request_id: None, command: command.into(), audit: None };
            self.state.apply(self.state.index() + 1, &entry.encode()).unwrap().outcome.unwrap()
        }

        async fn put(&mut self, name: &str, keys: &Keyring, value: &str) {
            let of = SealedOf::Secret(name.parse().unwrap());
            let sealed = keys.seal(&of.to_string(), value.as_bytes()).await.unwrap();
            let known = self.state.resource(Kind::Secret, &name.parse().unwrap());
            let metadata = Metadata {
                name: name.parse().unwrap(),
                labels: std::collections::BTreeMap::new(),
                revision: known.map_or(0, |known| known.metadata.revision),
                created_at: Timestamp::default(),
                updated_at: Timestamp::default(),
            };
            self.apply(PutResources { resources: vec![Resource { metadata, spec: Spec::Secret(sealed) }] });
        }

        async fn value(&self, name: &str) -> Vec<u8> {
            let of = format!("Secret/{name}");
            let found = sealed_values(&self.state).into_iter().find(|(known, _)| known.to_string() == of).unwrap();
            self.keys.open(&of, &found.1).await.unwrap().expose().to_vec()
        }
    }

    #[tokio::test]
    async fn what_is_written_meanwhile_is_never_put_back_and_who_lacks_the_key_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (old_path, new_path) = (dir.path().join("old"), dir.path().join("new"));
        let old = Keyring::in_file(&old_path).unwrap();
        let config = serde_json::json!({
            "source": "file", "path": new_path, "previous": [{"source": "file", "path": old_path}],
        });
        let keys = Keyring::new(&serde_json::from_value(config).unwrap(), false).unwrap();
        let mut rig = Rig { state: State::default(), keys, _dir: dir };
        let cluster = Cluster {
            id: "c".into(),
            incarnation: "i".into(),
            ca_pem: "pem".into(),
            ca_key: old.seal("cluster/ca-key", b"ca").await.unwrap(),
            session_token_jwks: "{}".into(),
            signing_keys: Vec::new(),
            recording_keys: Vec::new(),
            session_token_key: old.seal("cluster/session-token-key", b"st").await.unwrap(),
            mask_key: old.seal("cluster/mask-key", b"mk").await.unwrap(),
        };
        rig.apply(InitCluster(cluster));
        for name in ["a", "b", "c"] {
            rig.put(name, &old, &format!("old {name}")).await;
        }
        let found = sealed_values(&rig.state);
        assert_eq!(counted(&found).into_values().collect::<Vec<_>>(), [6]);
        let (command, faults) = rewrapped(&rig.keys, &found).await;
        assert!(faults.is_empty());
        // Between reading and writing another has put a new value, under the old key, and has deleted nothing.
        rig.put("b", &old, "new b").await;
        assert_eq!(rig.apply(command.clone()), Success::Rewrapped { changed: 5, skipped: 1 });
        assert_eq!(rig.value("b").await, b"new b");
        // The same again, as after an outcome that was unknown, changes nothing.
        assert_eq!(rig.apply(command), Success::Rewrapped { changed: 0, skipped: 6 });
        let stale: Vec<Found> =
            sealed_values(&rig.state).into_iter().filter(|(_, sealed)| !rig.keys.is_current(sealed, None)).collect();
        assert_eq!(stale.len(), 1);
        let (command, _) = rewrapped(&rig.keys, &stale).await;
        assert_eq!(rig.apply(command), Success::Rewrapped { changed: 1, skipped: 0 });
        assert_eq!((rig.value("a").await, rig.value("b").await), (b"old a".to_vec(), b"new b".to_vec()));
        assert!(sealed_values(&rig.state).iter().all(|(_, sealed)| rig.keys.is_current(sealed, None)));

        assert!(lacking(&rig.state, "k").is_empty());
        let node = ControlNode {
            id: 1,
            name: "one".parse().unwrap(),
            peer_address: "127.0.0.1:1".into(),
            api_address: "127.0.0.1:2".into(),
            feature_level: 1,
            kek_ids: vec!["k".into(), "k2".into()],
            version: "0".into(),
            joined_at: Timestamp::default(),
            revision: 0,
            learner: false,
        };
        rig.apply(UpdateNode { node });
        assert!(lacking(&rig.state, "k2").is_empty());
        assert_eq!(lacking(&rig.state, "k3"), ["one"]);
    }
}
