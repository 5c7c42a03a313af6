//! Policy as the control plane has it: one signed snapshot, and from then on the signed change from each revision to the next.
//!
//! One task follows any node of the control plane, has each revision's [`Standings`] ready, and puts it into a `watch`; sessions follow their standing. When the stream ends it
//! goes on at another node, from the revision that it has. What does not follow exactly, or is not signed, is not taken: the gateway asks for
//! the whole anew (I8). What is older than the staleness limit opens no session (I9).

mod assemble;
pub(crate) mod kept;
mod standing;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use postern_core::policy::Freshness;
use postern_core::signed::Purpose;
use postern_core::snapshot::Snapshot;
use postern_proto::gateway::v1::policy_feed_service_client::PolicyFeedServiceClient;
use postern_proto::gateway::v1::{self as pb, WatchRequest, WatchResponse};
use postern_runtime::backoff::Backoff;
use postern_runtime::clock;
use postern_runtime::jwt::Verifier;
use postern_runtime::ops::Readiness;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::control::ControlPlane;
use crate::metrics;
use assemble::{Anchor, AssembleError, Assembler};
use kept::{Keeper, Loaded};
pub(crate) use standing::{Gone, Seat, Standing, Standings};

/// Largest answer taken: a part of a snapshot, a long delta, or all credentials.
const MAX_ANSWER: usize = 16 << 20;
/// The control plane confirms every few seconds; silence this long is a dead connection, or a node that is cut off.
const SILENCE: Duration = Duration::from_secs(15);
/// How long one stream is followed: then the next, perhaps of another node, so that a node that came back gets its share. It also bounds
/// how far two monotonic clocks drift apart.
const STREAM_LIFE: Duration = Duration::from_secs(3_600);
const AGE_INTERVAL: Duration = Duration::from_secs(5);

/// A policy, ready to be decided by.
#[derive(Debug)]
pub(crate) struct Current {
    /// All that is decided by.
    pub snapshot: Arc<Snapshot>,
    /// Verifies tokens by the snapshot's keys.
    pub verifier: Arc<Verifier>,
}

/// What the feed has: nothing before the first snapshot.
#[derive(Clone, Debug, Default)]
pub(crate) struct Feed {
    /// The newest policy.
    pub current: Option<Arc<Current>>,
    /// When the control plane last knew that it is the newest.
    pub confirmed_at: Option<Instant>,
}

#[derive(Debug, thiserror::Error)]
enum FeedError {
    #[error("{}: {}", .0.code(), .0.message())]
    Status(#[from] tonic::Status),
    #[error("the stream ended")]
    Ended,
    #[error("nothing heard for {} s", SILENCE.as_secs())]
    Silent,
    #[error("an answer that cannot be used: {0}")]
    Answer(#[from] AssembleError),
}

/// How a stream ended.
enum End {
    /// Its time was over: go on elsewhere.
    Moved,
    Failed(FeedError),
}

impl Feed {
    /// The newest policy, unless it was confirmed longer ago than `limit`.
    #[must_use]
    pub(crate) fn fresh(&self, limit: Duration) -> Option<(Arc<Current>, Freshness)> {
        let (current, fresh) = (self.current.clone()?, self.freshness(limit));
        (fresh.age <= limit).then_some((current, fresh))
    }

    /// How old it is; of what was never confirmed, as old as can be.
    #[must_use]
    pub(crate) fn freshness(&self, limit: Duration) -> Freshness {
        Freshness { age: self.confirmed_at.map_or(Duration::MAX, |confirmed| confirmed.elapsed()), limit }
    }
}

/// Follows the control plane until `stop`, from what was kept on. Errors end the stream, never the task.
pub(crate) async fn follow(
    control: ControlPlane,
    mut held: Held,
    readiness: Readiness,
    limit: Duration,
    stop: CancellationToken,
) {
    let feed = held.feed.clone();
    tokio::select! {
        () = stop.cancelled() => {}
        () = forever(&control, &mut held) => {}
        () = watch_age(&feed, &readiness, limit) => {}
    }
}

/// What is held, where it is told, and where it is kept.
pub(crate) struct Held {
    feed: watch::Sender<Feed>,
    standings: Standings,
    assembler: Assembler,
    keeper: Option<Keeper>,
    /// For agents; it goes on to them as it came.
    revoked_gateways: RevokedGateways,
}

/// The newest signed list of gateways' certificates that are good no more; none before the control plane has told one.
pub(crate) type RevokedGateways = watch::Sender<Option<pb::Signed>>;

impl Held {
    /// Begins with what the disk had.
    pub(crate) fn new(
        loaded: Loaded,
        keeper: Option<Keeper>,
        revoked_gateways: RevokedGateways,
    ) -> (Self, watch::Receiver<Feed>, Standings) {
        let standings = Standings::default();
        let feed = match loaded.policy {
            Some((current, confirmed_at)) => {
                metrics::policy(current.snapshot.revision);
                standings.update(&current);
                Feed { current: Some(current), confirmed_at }
            }
            None => Feed::default(),
        };
        if loaded.revoked_gateways.is_some() {
            revoked_gateways.send_replace(loaded.revoked_gateways);
        }
        let (feed, reader) = watch::channel(feed);
        let told = standings.clone();
        (Self { feed, standings, assembler: loaded.assembler, keeper, revoked_gateways }, reader, told)
    }
}

/// Tells of certificates that were revoked, as the policy tells of them, until `stop`.
pub(crate) async fn follow_revoked(
    mut feed: watch::Receiver<Feed>,
    to: watch::Sender<Arc<BTreeSet<String>>>,
    stop: CancellationToken,
) {
    loop {
        let revoked = feed.borrow_and_update().current.as_ref().map(|current| Arc::clone(&current.snapshot.revoked));
        if let Some(revoked) = revoked {
            to.send_if_modified(|known| {
                let other = !Arc::ptr_eq(known, &revoked) && *known != revoked;
                *known = revoked;
                other
            });
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = feed.changed() => if changed.is_err() { return },
        }
    }
}

async fn forever(control: &ControlPlane, held: &mut Held) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    let mut told = false;
    let mut failures = 0;
    for (address, channel) in control.in_turn() {
        let mut progress = false;
        match stream(channel, held, &mut progress).await {
            End::Moved => tracing::debug!(address, "the policy is followed elsewhere"),
            End::Failed(error) => {
                if let FeedError::Answer(fault) = &error {
                    // What is held stays good; what follows must be whole.
                    tracing::error!(address, %fault, "a policy was refused");
                    metrics::policy_refused();
                    held.assembler.ask_anew();
                } else if !told {
                    tracing::warn!(address, %error, "no policy from this node: deciding by the last");
                    told = true;
                }
                if progress {
                    backoff.reset();
                    told = false;
                    failures = 0;
                }
                failures += 1;
                // The next node is tried at once; after a round without any, the wait begins.
                if failures >= control.len() || matches!(error, FeedError::Answer(_)) {
                    tokio::time::sleep(backoff.next_delay()).await;
                }
            }
        }
    }
}

async fn stream(channel: Channel, held: &mut Held, progress: &mut bool) -> End {
    let until = Instant::now() + STREAM_LIFE.mul_f64(fastrand::f64().mul_add(0.2, 0.9));
    let mut client = PolicyFeedServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER);
    let (known_revision, incarnation) = held.assembler.known();
    // Before asking: what the node says in its first answer it cannot have known earlier.
    let mut anchor = Anchor::new(Instant::now());
    let request = WatchRequest { known_revision, incarnation };
    let asked = tokio::time::timeout(SILENCE, client.watch(request)).await;
    let mut answers = match asked {
        Err(_) => return End::Failed(FeedError::Silent),
        Ok(Err(status)) => return End::Failed(status.into()),
        Ok(Ok(answers)) => answers.into_inner(),
    };
    while Instant::now() < until {
        let answer = match tokio::time::timeout(SILENCE, answers.message()).await {
            Err(_) => return End::Failed(FeedError::Silent),
            Ok(Err(status)) => return End::Failed(status.into()),
            Ok(Ok(None)) => return End::Failed(FeedError::Ended),
            Ok(Ok(Some(answer))) => answer,
        };
        if let Err(fault) = take(answer, held, &mut anchor) {
            return End::Failed(fault.into());
        }
        *progress = true;
        if held.keeper.as_ref().is_some_and(Keeper::wants_whole) {
            held.assembler.ask_anew();
            return End::Moved;
        }
    }
    End::Moved
}

fn take(mut answer: WatchResponse, held: &mut Held, anchor: &mut Anchor) -> Result<(), AssembleError> {
    let Held { feed, standings, assembler, keeper, revoked_gateways } = held;
    let revoked = answer.revoked_gateways.take();
    let (confirmation, now) = (answer.confirmation, clock::now());
    let newer = assembler.take(answer, now)?;
    if let Some(revoked) = revoked {
        assembler.verified(Purpose::RevokedGateways, &revoked, now)?;
        if let Some(keeper) = keeper {
            keeper.revoked(revoked.clone());
        }
        revoked_gateways.send_replace(Some(revoked));
    }
    let confirmed = confirmation.and_then(|confirmation| {
        let asked = anchor.local(confirmation.asked_ms, confirmation.sent_ms);
        asked.filter(|_| confirmation.revision <= assembler.revision())
    });
    if let Some(keeper) = keeper {
        if let Some(current) = &newer {
            keeper.took(assembler.taken(), current, now);
        }
        if let Some(at) = confirmed.filter(|_| assembler.revision() > 0) {
            keeper.confirmed(at);
        }
    }
    let later = |known: Option<Instant>| known.max(confirmed);
    match newer {
        Some(current) => {
            tracing::debug!(revision = current.snapshot.revision, "policy");
            let revision = current.snapshot.revision;
            // First: who is let in by it finds it there.
            standings.update(&current);
            feed.send_modify(|feed| {
                feed.current = Some(current);
                feed.confirmed_at = later(feed.confirmed_at);
            });
            // Who reads the gauge finds sessions decided by that revision.
            metrics::policy(revision);
        }
        // Sessions need not wake for a confirmation.
        None => drop(feed.send_if_modified(|feed| {
            if feed.current.is_some() {
                feed.confirmed_at = later(feed.confirmed_at);
            }
            false
        })),
    }
    Ok(())
}

async fn watch_age(feed: &watch::Sender<Feed>, readiness: &Readiness, limit: Duration) {
    let mut changes = feed.subscribe();
    loop {
        let now = changes.borrow_and_update().clone();
        if let Some(confirmed) = now.confirmed_at {
            metrics::policy_age(confirmed.elapsed());
        }
        readiness.set("policy", now.fresh(limit).is_some());
        // At the limit it is said at once.
        let left = limit.saturating_sub(now.freshness(limit).age).saturating_add(Duration::from_millis(1));
        let left = if left > Duration::from_millis(1) { left.min(AGE_INTERVAL) } else { AGE_INTERVAL };
        // An error only means that the sender, which we hold, is gone.
        let _ = tokio::time::timeout(left, changes.changed()).await;
    }
}
