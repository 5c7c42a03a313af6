//! What a node knows of its cluster: taken out of the replicated state whenever a member, a certificate or the cluster itself changes.

use std::collections::BTreeSet;
use std::sync::Arc;

use postern_core::Name;
use postern_core::cluster::ControlNode;
use postern_state::{Cluster, Effect, ObjectKey, SigningKey, State};
use tokio::sync::watch;

use crate::peers::AddressBook;
use crate::raft::Observer;

/// The members, and what is refused.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClusterView {
    pub(crate) cluster: Option<Arc<Cluster>>,
    /// By id.
    pub(crate) nodes: Vec<Arc<ControlNode>>,
    pub(crate) feature_level: u32,
    /// This node is no longer a member: the name that it had.
    pub(crate) removed: Option<Name>,
}

impl ClusterView {
    pub(crate) fn node(&self, id: u64) -> Option<&Arc<ControlNode>> {
        self.nodes.iter().find(|node| node.id == id)
    }

    /// Every key of session tokens: next, current, then the previous ones.
    pub(crate) fn signing_keys(&self) -> Vec<SigningKey> {
        let founded = self.nodes.iter().map(|node| node.joined_at).min().unwrap_or_default();
        self.cluster.as_ref().map(|cluster| cluster.all_signing_keys(founded)).unwrap_or_default()
    }

    /// By name or id, as people write it.
    pub(crate) fn named(&self, text: &str) -> Option<&Arc<ControlNode>> {
        let id = text.parse().ok();
        self.nodes.iter().find(|node| node.name.as_str() == text || Some(node.id) == id)
    }
}

/// Publishes views. Runs on the driver's thread: it copies members and serials only when one has changed.
pub(crate) struct ViewObserver {
    own_id: u64,
    view: watch::Sender<Arc<ClusterView>>,
    revoked: watch::Sender<Arc<BTreeSet<String>>>,
}

/// The receiving ends.
#[derive(Clone, Debug)]
pub(crate) struct Views {
    pub(crate) view: watch::Receiver<Arc<ClusterView>>,
    /// Serials of revoked certificates.
    pub(crate) revoked: watch::Receiver<Arc<BTreeSet<String>>>,
}

impl ViewObserver {
    pub(crate) fn new(own_id: u64) -> (Self, Views) {
        let (view, views) = watch::channel(Arc::default());
        let (revoked, revoked_out) = watch::channel(Arc::default());
        (Self { own_id, view, revoked }, Views { view: views, revoked: revoked_out })
    }

    fn follow(&self, state: &State, effects: &[Effect]) {
        let (mut members, mut certificates) = (false, false);
        for effect in effects {
            match effect {
                Effect::Changed(ObjectKey::Node(_) | ObjectKey::Cluster) => members = true,
                Effect::Changed(ObjectKey::Certificate(_)) => certificates = true,
                _ => {}
            }
        }
        if members {
            self.publish(state);
        }
        if certificates {
            self.publish_revoked(state);
        }
    }

    fn publish(&self, state: &State) {
        self.view.send_replace(Arc::new(ClusterView {
            cluster: state.cluster().cloned(),
            nodes: state.nodes().cloned().collect(),
            feature_level: state.feature_level(),
            removed: state.removed_node(self.own_id).cloned(),
        }));
    }

    fn publish_revoked(&self, state: &State) {
        let serials: BTreeSet<String> = state
            .certificates()
            .filter(|certificate| certificate.revoked.is_some())
            .map(|certificate| certificate.serial.clone())
            .collect();
        self.revoked.send_if_modified(|known| {
            let changed = **known != serials;
            if changed {
                *known = Arc::new(serials);
            }
            changed
        });
    }
}

/// What this node does with what it applies: `first` comes first.
pub(crate) struct Observers<O> {
    pub(crate) first: O,
    pub(crate) view: ViewObserver,
    /// Whom to dial, and whom to refuse.
    pub(crate) book: AddressBook,
}

impl<O: Observer> Observer for Observers<O> {
    fn applied(&mut self, state: &State, index: u64, effects: &[Effect]) {
        self.first.applied(state, index, effects);
        let concerns = |effect: &Effect| {
            matches!(effect, Effect::Changed(ObjectKey::Node(_) | ObjectKey::Certificate(_) | ObjectKey::Cluster))
        };
        if effects.iter().any(concerns) {
            self.view.follow(state, effects);
            self.book.follow(state);
        }
    }

    fn restored(&mut self, state: &State) {
        self.first.restored(state);
        self.view.publish(state);
        self.view.publish_revoked(state);
        self.book.follow(state);
    }
}
