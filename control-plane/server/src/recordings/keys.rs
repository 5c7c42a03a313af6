//! The cluster's keys of recordings on this member: opened once, and kept in memory.
//!
//! Each recording has a key of its own ([`super::cipher`]); that one lies beside the recording, under one of these. These are in the
//! replicated state, under the key-encryption key: so neither a disk nor an object store has what opens a recording, and who deletes a
//! recording's own key has erased it.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use aws_lc_rs::rand;
use postern_core::SessionId;
use postern_core::secret::Sealed;
use postern_runtime::clock;
use postern_state::ENCRYPTS_RECORDINGS;
use postern_state::commands::{AddRecordingKey, SealedOf};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use zeroize::Zeroizing;

use super::cipher::{CipherFault, DataKey, KEY, KeySlot, WrappingKey};
use crate::cluster::members::Members;
use crate::cluster::view::ClusterView;
use crate::keys::Kek;

/// Between looks: a key that did not open is tried again.
const LOOK: Duration = Duration::from_secs(2);
/// How long one key takes in the keys of new recordings.
const ROTATE_AFTER: Duration = Duration::from_secs(90 * 86_400);

/// Why a recording's key is not to be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// The key-encryption key is away, or this member has only just started.
    #[error("key {0} of recordings is not open on this member yet")]
    NotOpen(u32),
    /// The recording's own key does not open.
    #[error(transparent)]
    Fault(#[from] CipherFault),
}

/// Makes and opens keys of recordings. Cheap to clone.
#[derive(Clone)]
pub(crate) struct RecordingKeys {
    view: watch::Receiver<Arc<ClusterView>>,
    open: Arc<RwLock<BTreeMap<u32, WrappingKey>>>,
}

impl RecordingKeys {
    pub(crate) fn new(view: watch::Receiver<Arc<ClusterView>>) -> Self {
        Self { view, open: Arc::default() }
    }

    /// A key for a new recording; none while the cluster has no key to put it under: then it is written in clear, as members of before do.
    pub(super) fn make(&self, session: SessionId) -> Result<Option<(DataKey, KeySlot)>, KeysError> {
        let newest = {
            let view = self.view.borrow();
            view.cluster.as_ref().and_then(|cluster| cluster.recording_keys.last()).map(|key| key.number)
        };
        let Some(newest) = newest else { return Ok(None) };
        Ok(Some(self.wrapping(newest)?.make(session)?))
    }

    /// The key that lies in a recording's slot.
    pub(super) fn open(&self, session: SessionId, slot: &KeySlot) -> Result<DataKey, KeysError> {
        Ok(self.wrapping(slot.number())?.open(session, slot)?)
    }

    fn wrapping(&self, number: u32) -> Result<WrappingKey, KeysError> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.get(&number).cloned().ok_or(KeysError::NotOpen(number))
    }

    async fn follow(&self, kek: &Kek, view: &ClusterView) {
        let Some(cluster) = &view.cluster else { return };
        for key in &cluster.recording_keys {
            if self.wrapping(key.number).is_ok() {
                continue;
            }
            let of = SealedOf::RecordingKey(key.number).to_string();
            let opened = match kek.open(&of, &key.sealed).await {
                Ok(opened) => WrappingKey::new(key.number, opened.expose()).map_err(|fault| fault.to_string()),
                Err(error) => Err(error.to_string()),
            };
            match opened {
                Ok(opened) => {
                    self.open.write().unwrap_or_else(PoisonError::into_inner).insert(key.number, opened);
                }
                Err(error) => {
                    metrics::counter!("postern_control_recording_key_failures_total").increment(1);
                    warn!(
                        number = key.number,
                        error,
                        "a key of recordings does not open: what lies under it cannot be read, nor new ones be taken"
                    );
                }
            }
        }
    }

    #[cfg(test)]
    pub(super) fn testing(numbers: &[u32]) -> Self {
        let keys = numbers.iter().map(|number| postern_state::RecordingKey {
            number: *number,
            sealed: Sealed::default(),
            since: postern_core::Timestamp::default(),
        });
        let recording_keys = keys.collect();
        let cluster = Some(Arc::new(postern_state::Cluster { recording_keys, ..crate::watch::testing::cluster() }));
        let (_, view) = watch::channel(Arc::new(ClusterView { cluster, ..ClusterView::default() }));
        let key = |number: &u32| (*number, WrappingKey::new(*number, &[number.to_be_bytes()[3]; KEY]).unwrap());
        Self { view, open: Arc::new(RwLock::new(numbers.iter().map(key).collect())) }
    }
}

/// Opens what the cluster has, and, where this member leads, sees to it that there is one; until `stop`.
pub(crate) async fn keep(keys: RecordingKeys, members: Members, kek: Arc<Kek>, stop: CancellationToken) {
    let mut view = keys.view.clone();
    loop {
        let known = Arc::clone(&view.borrow_and_update());
        let step = async {
            keys.follow(&kek, &known).await;
            let leading = members.raft.status().borrow().leading;
            if let Some(number) = due(&known, members.raft.stamps().now()).filter(|_| leading) {
                add(&members, &kek, number).await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = step => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
            changed = view.changed() => if changed.is_err() { return },
        }
    }
}

/// The number of the key that is to be added now.
fn due(view: &ClusterView, now: postern_core::Timestamp) -> Option<u32> {
    let cluster = view.cluster.as_ref().filter(|_| view.feature_level >= ENCRYPTS_RECORDINGS)?;
    match cluster.recording_keys.last() {
        None => Some(1),
        Some(newest) if now.since(newest.since) >= ROTATE_AFTER => newest.number.checked_add(1),
        Some(_) => None,
    }
}

async fn add(members: &Members, kek: &Kek, number: u32) {
    let sealed: Result<Sealed, String> = async {
        let mut key = Zeroizing::new([0; KEY]);
        rand::fill(key.as_mut_slice()).map_err(|_| "no randomness".to_owned())?;
        let of = SealedOf::RecordingKey(number).to_string();
        kek.seal(&of, key.as_slice()).await.map_err(|error| error.to_string())
    }
    .await;
    let sealed = match sealed {
        Ok(sealed) => sealed,
        Err(error) => return warn!(error, "no key of recordings can be made"),
    };
    match members.raft.propose(AddRecordingKey { number, sealed }, Some(clock::request_id())).await {
        Ok(Ok(_)) => info!(number, "the cluster has a new key of recordings"),
        Ok(Err(refusal)) => debug!(%refusal, "a key of recordings was not taken"),
        Err(error) => debug!(%error, "a key of recordings was not added"),
    }
}

#[cfg(test)]
mod tests {
    use postern_core::Timestamp;

    use super::*;

    #[test]
    fn a_key_is_due_when_there_is_none_or_it_is_old() {
        let view = |numbers: &[u32], feature_level| ClusterView {
            feature_level,
            ..ClusterView::clone(&RecordingKeys::testing(numbers).view.borrow())
        };
        let (now, later) = (Timestamp::from_secs(1), Timestamp::from_secs(90 * 86_400));
        assert_eq!(due(&view(&[], 6), now), None);
        assert_eq!(due(&view(&[], 7), now), Some(1));
        assert_eq!(due(&view(&[1, 2], 7), now), None);
        assert_eq!(due(&view(&[1, 2], 7), later), Some(3));
        assert_eq!(due(&ClusterView { feature_level: 7, ..ClusterView::default() }, now), None);
    }

    #[test]
    fn no_recording_is_begun_in_clear_once_there_is_a_key() {
        let session = SessionId::new(Timestamp::from_secs(1), 1);
        assert!(RecordingKeys::testing(&[]).make(session).unwrap().is_none());
        let keys = RecordingKeys::testing(&[1, 2]);
        let (_, slot) = keys.make(session).unwrap().unwrap();
        assert_eq!(slot.number(), 2);
        assert!(keys.open(session, &slot).is_ok());
        // Of a member that has not opened it.
        keys.open.write().unwrap().remove(&2);
        assert_eq!(keys.make(session).unwrap_err(), KeysError::NotOpen(2));
        assert_eq!(keys.open(session, &slot).unwrap_err(), KeysError::NotOpen(2));
    }
}
