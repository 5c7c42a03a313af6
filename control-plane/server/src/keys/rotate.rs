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
        found.push((SealedOf::SessionTokenKey, cluster.session_token_key.clone()));
        found.push((SealedOf::MaskKey, cluster.mask_key.clone()));
    }
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
