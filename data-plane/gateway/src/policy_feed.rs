//! Policy as the control plane has it: whole snapshots, each replacing the last.
//!
//! One task follows the control plane's stream and puts each snapshot into a `watch`; sessions borrow from it. What is older than the
//! staleness limit opens no session (I9).

use std::sync::Arc;
use std::time::{Duration, Instant};

use postern_core::snapshot::Snapshot;
use postern_core::wire::{WireError, snapshot::from_proto};
use postern_proto::gateway::v1::WatchRequest;
use postern_proto::gateway::v1::policy_feed_service_client::PolicyFeedServiceClient;
use postern_runtime::backoff::Backoff;
use postern_runtime::jwt::Verifier;
use postern_runtime::ops::Readiness;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::metrics;

/// Largest snapshot taken, in bytes.
const MAX_SNAPSHOT: usize = 64 << 20;
/// The control plane sends a heartbeat every few seconds; silence this long is a dead connection.
const SILENCE: Duration = Duration::from_secs(20);
const AGE_INTERVAL: Duration = Duration::from_secs(5);

/// A snapshot, ready to be decided by.
#[derive(Debug)]
pub(crate) struct Current {
    /// All that is decided by.
    pub snapshot: Arc<Snapshot>,
    /// Verifies tokens by the snapshot's keys.
    pub verifier: Verifier,
}

/// What the feed has: nothing before the first snapshot.
#[derive(Clone, Debug, Default)]
pub(crate) struct Feed {
    /// The newest snapshot.
    pub current: Option<Arc<Current>>,
    /// When the control plane last said that it is the newest.
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
    #[error("a snapshot that cannot be used: {0}")]
    Snapshot(#[from] WireError),
}

impl Feed {
    /// The newest snapshot, unless it was confirmed longer ago than `limit`.
    #[must_use]
    pub(crate) fn fresh(&self, limit: Duration) -> Option<Arc<Current>> {
        let confirmed = self.confirmed_at?;
        self.current.clone().filter(|_| confirmed.elapsed() <= limit)
    }
}

/// Follows the control plane until `stop`. Errors end the stream, never the task.
pub(crate) async fn follow(
    channel: Channel,
    feed: watch::Sender<Feed>,
    readiness: Readiness,
    limit: Duration,
    stop: CancellationToken,
) {
    let client = PolicyFeedServiceClient::new(channel).max_decoding_message_size(MAX_SNAPSHOT);
    tokio::select! {
        () = stop.cancelled() => {}
        () = forever(client, &feed) => {}
        () = watch_age(&feed, &readiness, limit) => {}
    }
}

async fn forever(mut client: PolicyFeedServiceClient<Channel>, feed: &watch::Sender<Feed>) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    let mut told = false;
    loop {
        let mut progress = false;
        let error = match stream(&mut client, feed, &mut progress).await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        if progress {
            backoff.reset();
            told = false;
        }
        if !told {
            tracing::warn!(%error, "no policy from the control plane: deciding by the last");
            told = true;
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

async fn stream(
    client: &mut PolicyFeedServiceClient<Channel>,
    feed: &watch::Sender<Feed>,
    progress: &mut bool,
) -> Result<std::convert::Infallible, FeedError> {
    // Always the whole newest one: the control plane may have been restored to an older state than ours.
    let asked = tokio::time::timeout(SILENCE, client.watch(WatchRequest { known_revision: 0 }));
    let mut answers = asked.await.map_err(|_| FeedError::Silent)??.into_inner();
    loop {
        let message = tokio::time::timeout(SILENCE, answers.message()).await.map_err(|_| FeedError::Silent)??;
        let message = message.ok_or(FeedError::Ended)?;
        let current = match message.snapshot {
            None => None,
            Some(snapshot) => {
                let snapshot = Arc::new(from_proto(snapshot)?);
                tracing::info!(revision = snapshot.revision, "policy");
                metrics::policy(snapshot.revision);
                let verifier = Verifier::from_snapshot(&snapshot);
                Some(Arc::new(Current { snapshot, verifier }))
            }
        };
        *progress = true;
        match current {
            Some(current) => feed.send_modify(|feed| {
                feed.current = Some(current);
                feed.confirmed_at = Some(Instant::now());
            }),
            // Sessions need not wake for a heartbeat.
            None => drop(feed.send_if_modified(|feed| {
                feed.confirmed_at = feed.current.is_some().then(Instant::now);
                false
            })),
        }
    }
}

async fn watch_age(feed: &watch::Sender<Feed>, readiness: &Readiness, limit: Duration) {
    let mut changes = feed.subscribe();
    loop {
        let now = changes.borrow_and_update().clone();
        if let Some(confirmed) = now.confirmed_at {
            metrics::policy_age(confirmed.elapsed());
        }
        readiness.set("policy", now.fresh(limit).is_some());
        // An error only means that the sender, which we hold, is gone.
        let _ = tokio::time::timeout(AGE_INTERVAL, changes.changed()).await;
    }
}
