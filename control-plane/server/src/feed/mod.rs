//! Keeps what gateways decide by, and publishes each change of it.
//!
//! The hub's changes -> the feed's own view -> a signed delta for each revision in a ring, and the newest policy in a `watch`; watchers hold
//! cursors into both. Beside it the node asks its cluster every few seconds whether it is up to date, and tells what it learned: a node that
//! is cut off stops confirming, and so its gateways learn that they are behind (I9).
//!
//! Credentials are opened here and travel beside the signed policy, never in it. One that does not open, because Vault is away, holds
//! nothing up: it is tried again, and sent when it does.

mod published;
mod since;
mod view;
mod watcher;
mod wholes;

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use postern_core::Name;
use postern_core::secret::SecretBytes;
use postern_core::signed::Purpose;
use postern_core::wire::snapshot::delta_to_proto;
use postern_runtime::pki::{PkiError, RotatingCredential, SealSigner};
use prost::Message as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

pub(crate) use published::{Policy, Published};
pub(crate) use watcher::{Ended, Watcher};

use crate::bootstrap::ClusterKeys;
use crate::keys::{Kek, KeyError};
use crate::raft::{RaftHandle, ReadError};
use crate::watch::{Bounds, ChangeSet, Lost, Ring, Subscription, WatchHub};
use published::{Confirmed, Secrets, Step, sign};
use since::Since;
use view::{Gathered, ToOpen, View};

/// Steps that a gateway can catch up by; past them it gets what was changed since in one, or the whole policy.
const BOUNDS: Bounds = Bounds { count: 8_192, bytes: 32 << 20 };
const RETRY: Duration = Duration::from_millis(500);
/// How often the node asks its cluster whether it is up to date.
const CONFIRM: Duration = Duration::from_secs(3);
/// How long a step waits for its credentials.
const OPEN: Duration = Duration::from_millis(500);
/// How soon secrets are tried again that did not open because Vault was away.
const OPEN_AGAIN: Duration = Duration::from_secs(2);

/// What a sealed Secret is of.
pub(crate) fn sealed_of(secret: &Name) -> String {
    format!("Secret/{secret}")
}

/// The feed cannot begin.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FeedError {
    /// The state cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The node's key cannot sign.
    #[error(transparent)]
    Pki(#[from] PkiError),
}

/// Publishes what gateways decide by.
pub(crate) struct Feed {
    raft: RaftHandle,
    hub: WatchHub,
    kek: Arc<Kek>,
    keys: Arc<ClusterKeys>,
    credential: RotatingCredential,
    view: View,
    changes: Subscription,
    steps: Ring<Step>,
    since: Arc<RwLock<Since>>,
    policy: watch::Sender<Arc<Policy>>,
    confirmed: watch::Sender<Confirmed>,
    /// Targets whose secret did not open, for a cause that may go away.
    pending: BTreeSet<Name>,
    opening: Option<Opening>,
}

type Opening = Pin<Box<dyn Future<Output = Vec<(ToOpen, Result<SecretBytes, KeyError>)>> + Send>>;

impl Feed {
    /// Reads the state, and publishes the first policy.
    pub(crate) async fn start(
        raft: RaftHandle,
        hub: WatchHub,
        kek: Arc<Kek>,
        keys: Arc<ClusterKeys>,
        credential: RotatingCredential,
    ) -> Result<(Self, Published), FeedError> {
        let gathered = gather(&raft).await?;
        let changes = hub.subscribe(gathered.index);
        let asked = gathered.asked;
        let mut view = View::new(gathered);
        let mut pending = BTreeSet::new();
        let targets: BTreeSet<Name> = view.snapshot.targets.iter().map(|(name, _)| name.clone()).collect();
        open(&kek, &mut view, &targets, &mut pending).await;
        let (steps, reader) = Ring::new(view.snapshot.revision, BOUNDS);
        let signer = credential.current().signer()?;
        let revision = view.snapshot.revision;
        let policy = newest(&view, &keys, 0, signer, None);
        let (policy, policy_reader) = watch::channel(Arc::new(policy));
        let (confirmed, confirmed_reader) = watch::channel(Confirmed { revision, asked });
        let since = Arc::new(RwLock::new(Since::new(revision)));
        let published = Published {
            steps: reader,
            policy: policy_reader,
            confirmed: confirmed_reader,
            since: Arc::clone(&since),
            wholes: Arc::default(),
            started: Instant::now(),
        };
        let feed = Self {
            raft,
            hub,
            kek,
            keys,
            credential,
            view,
            changes,
            steps,
            since,
            policy,
            confirmed,
            pending,
            opening: None,
        };
        Ok((feed, published))
    }

    /// Publishes each change, until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let (raft, confirmed) = (self.raft.clone(), self.confirmed.clone());
        tokio::select! {
            () = stop.cancelled() => {}
            () = confirm(raft, confirmed) => {}
            () = self.follow() => {}
        }
    }

    async fn follow(&mut self) {
        let mut again = tokio::time::interval(OPEN_AGAIN);
        let mut renewed = self.credential.changes();
        renewed.mark_changed();
        loop {
            tokio::select! {
                // The credential outlives the feed, which holds it.
                _ = renewed.changed() => self.sign_anew(),
                next = self.changes.next() => match next {
                    Ok(set) => self.take(&set).await,
                    Err(Lost::Compacted { .. }) => self.reload().await,
                    // Raft has stopped: the node stops.
                    Err(Lost::Stopped) => return,
                },
                opened = finished(&mut self.opening) => self.take_opened(opened),
                _ = again.tick() => self.open_pending(),
            }
        }
    }

    async fn take(&mut self, set: &ChangeSet) {
        let taken = match self.view.take(set) {
            Ok(taken) => taken,
            Err(fault) => {
                // Only when the hub has left something out: read everything anew.
                error!(%fault, revision = set.revision, "a change does not follow the policy");
                self.reload().await;
                return;
            }
        };
        let changed = if taken.targets.is_empty() {
            Vec::new()
        } else {
            open(&self.kek, &mut self.view, &taken.targets, &mut self.pending).await;
            let credential = |target: Name| (target.clone(), self.view.opened.get(&target).cloned());
            taken.targets.into_iter().map(credential).collect()
        };
        let Some(delta) = taken.delta else {
            if taken.serves {
                self.publish(true);
            }
            return;
        };
        let Some(signer) = self.signer() else { return };
        let signed = sign(&signer, Purpose::Delta, delta_to_proto(&delta).encode_to_vec());
        metrics::counter!("postern_control_policy_deltas_total").increment(1);
        self.since.write().unwrap_or_else(PoisonError::into_inner).take(&delta);
        self.steps.push(Arc::new(Step { revision: delta.revision, delta: signed, credentials: changed }));
        self.publish(taken.serves);
    }

    /// The whole state anew: changes were missed, after a snapshot of the leader's for one.
    async fn reload(&mut self) {
        let gathered = loop {
            match gather(&self.raft).await {
                Ok(gathered) => break gathered,
                Err(error) => {
                    warn!(%error, "the policy cannot be read");
                    tokio::time::sleep(RETRY).await;
                }
            }
        };
        self.changes = self.hub.subscribe(gathered.index);
        self.view = View::new(gathered);
        self.pending.clear();
        self.opening = None;
        let targets = self.view.snapshot.targets.iter().map(|(name, _)| name.clone()).collect();
        open(&self.kek, &mut self.view, &targets, &mut self.pending).await;
        *self.since.write().unwrap_or_else(PoisonError::into_inner) = Since::new(self.view.snapshot.revision);
        self.steps.reset(self.view.snapshot.revision);
        self.publish(true);
    }

    /// The node's certificate is another now. What was signed under the former one is no longer good when that ends, and policy may stay as it
    /// is for longer: the whole is signed anew, and steps are made anew from here on.
    fn sign_anew(&mut self) {
        if self.policy.borrow().signed_by(&self.credential.current().certificate_der()) {
            return;
        }
        self.steps.reset(self.view.snapshot.revision);
        // Told by the epoch from what was signed before at this revision.
        self.publish(true);
    }

    /// Makes the view the newest policy.
    fn publish(&mut self, other_credentials: bool) {
        let Some(signer) = self.signer() else { return };
        let former = Arc::clone(&self.policy.borrow());
        let epoch = former.epoch.saturating_add(u64::from(other_credentials));
        let policy = newest(&self.view, &self.keys, epoch, signer, Some(&former));
        self.policy.send_replace(Arc::new(policy));
    }

    fn signer(&self) -> Option<SealSigner> {
        // A credential that is in use was checked.
        self.credential.current().signer().inspect_err(|error| error!(%error, "the policy cannot be signed")).ok()
    }

    fn open_pending(&mut self) {
        if self.opening.is_some() || self.pending.is_empty() {
            return;
        }
        let pending = std::mem::take(&mut self.pending);
        let items: Vec<ToOpen> = pending.iter().filter_map(|target| self.view.to_open(target)).collect();
        let kek = Arc::clone(&self.kek);
        self.opening = Some(Box::pin(async move { open_all(&kek, items).await }));
    }

    fn take_opened(&mut self, opened: Vec<(ToOpen, Result<SecretBytes, KeyError>)>) {
        let mut any = false;
        for (item, result) in opened {
            match result {
                Ok(password) if self.view.still_wants(&item) => {
                    Arc::make_mut(&mut self.view.opened).insert(item.target.clone(), item.opened(password));
                    any = true;
                }
                Ok(_) => {}
                Err(error) => failed(&item, &error, &mut self.pending),
            }
        }
        if any {
            self.publish(true);
        }
    }
}

/// The credentials of `targets`, as far as they open in time.
async fn open(kek: &Arc<Kek>, view: &mut View, targets: &BTreeSet<Name>, pending: &mut BTreeSet<Name>) {
    let mut items = Vec::new();
    for target in targets {
        pending.remove(target);
        match view.to_open(target) {
            Some(item) => items.push(item),
            None => drop(Arc::make_mut(&mut view.opened).remove(target)),
        }
    }
    if items.is_empty() {
        return;
    }
    let wanted: Vec<Name> = items.iter().map(|item| item.target.clone()).collect();
    let Ok(results) = tokio::time::timeout(OPEN, open_all(kek, items)).await else {
        warn!(targets = wanted.len(), "secrets do not open in time: they are sent when they do");
        pending.extend(wanted);
        return;
    };
    for (item, result) in results {
        match result {
            Ok(password) => {
                drop(Arc::make_mut(&mut view.opened).insert(item.target.clone(), item.opened(password)));
            }
            Err(error) => {
                // What was opened before is of another secret.
                Arc::make_mut(&mut view.opened).remove(&item.target);
                failed(&item, &error, pending);
            }
        }
    }
}

async fn open_all(kek: &Kek, items: Vec<ToOpen>) -> Vec<(ToOpen, Result<SecretBytes, KeyError>)> {
    let (items, sealed): (Vec<&ToOpen>, Vec<_>) =
        items.iter().filter_map(|item| Some((item, (item.of.as_str(), item.sealed()?)))).unzip();
    let results = kek.open_all(&sealed).await;
    items.into_iter().cloned().zip(results).collect()
}

fn failed(item: &ToOpen, error: &KeyError, pending: &mut BTreeSet<Name>) {
    // Sessions to the target are refused, with a clear code; others go on.
    error!(target = %item.target, %error, "a target's secret does not open");
    if error.is_transient() {
        pending.insert(item.target.clone());
    }
}

fn newest(view: &View, keys: &ClusterKeys, epoch: u64, signer: SealSigner, former: Option<&Policy>) -> Policy {
    Policy::new(
        view.snapshot.clone(),
        Secrets {
            opened: Arc::clone(&view.opened),
            mask_key: keys.mask_key.clone(),
            serves: Arc::clone(&view.serves),
            revoked_gateways: Arc::clone(&view.revoked_gateways),
        },
        epoch,
        signer,
        former,
    )
}

async fn gather(raft: &RaftHandle) -> Result<Gathered, ReadError> {
    let asked = Instant::now();
    raft.read(move |state| Gathered::of(state, asked)).await
}

/// Asks the cluster again and again whether this node is up to date. Where that fails nothing is said, and watchers end after a while.
async fn confirm(raft: RaftHandle, confirmed: watch::Sender<Confirmed>) {
    loop {
        tokio::time::sleep(CONFIRM).await;
        let asked = Instant::now();
        if let Ok(revision) = raft.read(postern_state::State::policy_revision).await {
            confirmed.send_replace(Confirmed { revision, asked });
        }
    }
}

/// What `opening` gives; for ever nothing when there is none.
async fn finished(opening: &mut Option<Opening>) -> Vec<(ToOpen, Result<SecretBytes, KeyError>)> {
    let Some(running) = opening else { return std::future::pending().await };
    let opened = running.await;
    *opening = None;
    opened
}
