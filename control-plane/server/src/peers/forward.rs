//! Writes that this node does not lead for, passed to the leader.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared as SharedFuture};
use postern_core::wire::cluster::audit_to_proto;
use postern_proto::peer::v1 as pb;
use postern_proto::peer::v1::peer_service_client::PeerServiceClient;
use postern_state::Outcome;
use tonic::Code;
use tonic::transport::Channel;

use super::book::PeerEntry;
use super::link::MAX_BATCH;
use super::wire::{self, Reason};
use super::{PeersConfig, Shared};
use crate::raft::{Forward, ForwardError, ForwardedProposal, ProposeError};

/// How long a leader may take to answer: as long as a caller of the write waits at most.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Passes writes to the leader, over one connection to each member that ever led.
pub struct PeerForward {
    shared: Arc<Shared>,
    channels: Arc<Mutex<BTreeMap<u64, Dialing>>>,
}

/// A connection that is there or on its way: all who wait for it share the one attempt.
type Attempt = SharedFuture<BoxFuture<'static, Option<Channel>>>;

#[derive(Clone)]
struct Dialing {
    number: u64,
    entry: PeerEntry,
    attempt: Attempt,
}

impl PeerForward {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, channels: Arc::default() }
    }

    fn channel(&self, leader: u64) -> Option<Dialing> {
        let entry = self.shared.book.get(leader)?;
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let former = channels.get(&leader);
        if let Some(known) = former.filter(|known| known.entry == entry) {
            return Some(known.clone());
        }
        let number = former.map_or(0, |former| former.number).wrapping_add(1);
        let (dialer, peer) = (self.shared.dialer.clone(), entry.clone());
        let attempt = async move {
            match dialer.connect(&peer).await {
                Ok(channel) => Some(channel),
                // The link to the same peer tells of it.
                Err(error) => {
                    tracing::debug!(name = %peer.name, %error, "no connection to the leader");
                    None
                }
            }
        };
        let dialing = Dialing { number, entry, attempt: attempt.boxed().shared() };
        channels.insert(leader, dialing.clone());
        Some(dialing)
    }
}

/// The next write dials anew.
fn discard(channels: &Mutex<BTreeMap<u64, Dialing>>, leader: u64, number: u64) {
    let mut channels = channels.lock().unwrap_or_else(PoisonError::into_inner);
    if channels.get(&leader).is_some_and(|dialing| dialing.number == number) {
        channels.remove(&leader);
    }
}

impl Forward for PeerForward {
    fn propose(&self, leader: u64, proposal: ForwardedProposal) -> BoxFuture<'static, Result<Outcome, ForwardError>> {
        let dialing = self.channel(leader);
        let channels = Arc::clone(&self.channels);
        let request = request(&self.shared.config, &proposal);
        let changed = self.shared.raft().map(|raft| raft.leader_changed(leader));
        async move {
            let dialing = dialing.ok_or(ForwardError::Unreachable)?;
            let Some(channel) = dialing.attempt.clone().await else {
                discard(&channels, leader, dialing.number);
                return Err(ForwardError::Unreachable);
            };
            let mut client = PeerServiceClient::new(channel).max_encoding_message_size(MAX_BATCH);
            let answer = tokio::select! {
                answer = client.propose(request) => answer,
                // One that was deposed may be frozen or cut off: the next is asked, under the same request id.
                () = deposed(changed) => return Err(ForwardError::Unknown),
                () = tokio::time::sleep(ANSWER_LIMIT) => {
                    discard(&channels, leader, dialing.number);
                    return Err(ForwardError::Unknown);
                }
            };
            match answer {
                Ok(answer) => wire::answered(answer.into_inner()).map_err(|error| match error {
                    ProposeError::Unknown => ForwardError::Unknown,
                    refused => ForwardError::Refused(refused),
                }),
                Err(status) => {
                    discard(&channels, leader, dialing.number);
                    Err(failure(&status))
                }
            }
        }
        .boxed()
    }
}

async fn deposed(changed: Option<BoxFuture<'static, ()>>) {
    match changed {
        Some(changed) => changed.await,
        None => std::future::pending().await,
    }
}

fn request(config: &PeersConfig, proposal: &ForwardedProposal) -> pb::ProposeRequest {
    pb::ProposeRequest {
        cluster_id: config.cluster_id.clone(),
        node_id: config.node_id,
        command: proposal.command.encode().into(),
        request_id: proposal.request_id.to_bytes().to_vec().into(),
        audit: proposal.audit.as_ref().map(audit_to_proto),
        hops: 1,
    }
}

/// What a status says of the write. Those that come before anything is proposed have a reason or tell that there is no Raft yet.
fn failure(status: &tonic::Status) -> ForwardError {
    let before = Reason::of(status).is_some()
        || status.code() == Code::InvalidArgument
        || status.code() == Code::Unimplemented
        || (status.code() == Code::Unavailable && status.message() == super::service::STARTING);
    tracing::debug!(code = ?status.code(), message = status.message(), "the leader did not take a write");
    if before { ForwardError::Unreachable } else { ForwardError::Unknown }
}
