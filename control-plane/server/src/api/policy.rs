//! Policy, for gateways.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use postern_core::wire::timestamp_to_proto;
use postern_proto::gateway::v1 as pb;
use postern_proto::gateway::v1::policy_feed_service_server::PolicyFeedService;
use postern_runtime::clock;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tracing::info;

use super::Answers;
use super::access::Access;
use crate::feed::Policy;
use crate::run::PolicyWatch;

const HEARTBEAT: Duration = Duration::from_secs(5);

pub(super) struct Service {
    pub(super) policy: PolicyWatch,
    pub(super) access: Access,
    pub(super) stop: CancellationToken,
}

/// One gateway that watches.
struct Watcher {
    policy: PolicyWatch,
    stop: CancellationToken,
    known: u64,
    /// What was sent last: one of the same revision may follow it, with secrets that did not open before.
    sent: Option<Arc<Policy>>,
    first: bool,
}

impl Watcher {
    fn new(policy: PolicyWatch, stop: CancellationToken, known: u64) -> Self {
        metrics::gauge!("postern_control_policy_watchers_total").increment(1.0);
        Self { policy, stop, known, sent: None, first: true }
    }

    /// The newest snapshot when it is not the one sent; else, after a while, a heartbeat. `None` when the node stops.
    async fn next(&mut self) -> Option<pb::WatchResponse> {
        let heartbeat = tokio::time::sleep(if self.first { Duration::ZERO } else { HEARTBEAT });
        self.first = false;
        tokio::pin!(heartbeat);
        loop {
            let snapshot = {
                let newest = self.policy.borrow_and_update();
                let new = match &self.sent {
                    // Also when the gateway knows a higher one: then it is of another life of this cluster.
                    None => newest.revision() != self.known,
                    Some(sent) => !Arc::ptr_eq(sent, &newest),
                };
                new.then(|| Arc::clone(&newest))
            };
            if let Some(policy) = snapshot {
                let snapshot = policy.proto.clone();
                self.sent = Some(policy);
                return Some(answer(Some(snapshot)));
            }
            tokio::select! {
                () = self.stop.cancelled() => return None,
                () = &mut heartbeat => return Some(answer(None)),
                changed = self.policy.changed() => if changed.is_err() { return None },
            }
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        metrics::gauge!("postern_control_policy_watchers_total").decrement(1.0);
    }
}

fn answer(snapshot: Option<pb::Snapshot>) -> pb::WatchResponse {
    pb::WatchResponse { snapshot, at: Some(timestamp_to_proto(clock::now())) }
}

#[tonic::async_trait]
impl PolicyFeedService for Service {
    type WatchStream = Answers<pb::WatchResponse>;

    async fn watch(&self, request: Request<pb::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let gateway = self.access.gateway(&request)?;
        let known = request.into_inner().known_revision;
        info!(%gateway, known, "a gateway watches the policy");
        let watcher = Watcher::new(self.policy.clone(), self.stop.clone(), known);
        let answers = futures::stream::unfold(watcher, |mut watcher| async move {
            let answer = watcher.next().await?;
            Some((Ok(answer), watcher))
        });
        Ok(Response::new(answers.boxed()))
    }
}
