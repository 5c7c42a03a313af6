//! Reporting to the leader, and hearing from it.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

use postern_core::fleet::{FleetGateway, Report};
use postern_core::wire::WireError;
use postern_core::wire::fleet::{news_from_proto, report_to_proto};
use postern_core::{Name, Timestamp};
use postern_proto::gateway::v1::ReportRequest;
use postern_proto::gateway::v1::fleet_service_client::FleetServiceClient;
use postern_protocols::tunnel::versions;
use postern_runtime::backoff::Backoff;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::report::{Own, Reporter};
use super::view::{Reader, View, ViewError};
use super::{Advertised, Fleet, metrics};
use crate::control::ControlPlane;

/// Largest answer taken.
const MAX_ANSWER: usize = 16 << 20;
/// Reports that may wait to be sent.
const QUEUE: usize = 4;
/// The leader says something every five seconds; silence this long is a dead connection.
const SILENCE: Duration = Duration::from_secs(15);
/// How long a connection may take to be answered.
const ANSWER: Duration = Duration::from_secs(5);
/// Changes of tunnels are gathered for this long.
const GATHER: Duration = Duration::from_millis(100);
/// How often load is looked at, told exactly, and a sign of life is given.
const LOOK: Duration = Duration::from_secs(1);
const EXACTLY: Duration = Duration::from_secs(10);
const ALIVE: Duration = Duration::from_secs(5);
/// Gateways that lose their leader together come to the next one spread over this time.
const SPREAD_MS: u64 = 500;
/// In an answer that this node does not lead: who does.
const LEADER: &str = "postern-leader";

/// What the task goes by.
pub(crate) struct Following {
    pub(crate) fleet: Fleet,
    pub(crate) control: ControlPlane,
    pub(crate) name: Name,
    pub(crate) advertised: Advertised,
    /// Cancelled when the gateway drains.
    pub(crate) draining: CancellationToken,
    pub(crate) started_at: Timestamp,
}

#[derive(Debug, thiserror::Error)]
enum FollowError {
    #[error("{}: {}", .0.code(), .0.message())]
    Status(Box<Status>),
    #[error("the stream ended")]
    Ended,
    #[error("nothing heard for {} s", SILENCE.as_secs())]
    Silent,
    #[error("an answer that is not valid: {0}")]
    Wire(#[from] WireError),
    #[error("an answer that cannot be used: {0}")]
    View(#[from] ViewError),
}

impl From<Status> for FollowError {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

impl FollowError {
    /// Where to go instead, when the node says that it does not lead.
    fn leader(&self) -> Option<Option<String>> {
        let Self::Status(status) = self else { return None };
        let not_leader = status.code() == Code::Unavailable && status.message().contains("does not lead");
        not_leader.then(|| status.metadata().get(LEADER).and_then(|at| at.to_str().ok()).map(str::to_owned))
    }
}

/// Reports and listens until `stop`. What fails is tried again, elsewhere.
pub(crate) async fn follow(following: Following, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = forever(&following) => {}
    }
    metrics::reporting(false);
}

async fn forever(following: &Following) {
    let control = &following.control;
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    let mut view = View::default();
    let (mut told, mut failures) = (false, 0);
    let mut next: Option<String> = None;
    for (address, channel) in control.in_turn() {
        let (address, channel) = match next.take().and_then(|leader| Some((leader.clone(), control.node(&leader)?))) {
            Some(leader) => leader,
            None => (address.to_owned(), channel),
        };
        let mut heard = false;
        let error = stream(following, channel, &mut view, &mut heard).await;
        metrics::reporting(false);
        if heard {
            backoff.reset();
            (told, failures) = (false, 0);
            tokio::time::sleep(Duration::from_millis(fastrand::u64(..SPREAD_MS))).await;
        }
        match error.leader() {
            Some(leader) => {
                next = leader;
                tracing::debug!(address, ?next, "the directory is kept elsewhere");
            }
            None => {
                metrics::failed();
                if !told {
                    tracing::warn!(address, %error, "not reporting to the control plane: going by what is known");
                    told = true;
                }
            }
        }
        failures += 1;
        // The next node is tried at once; after a round without any, the wait begins.
        if failures >= control.len() || matches!(error, FollowError::Wire(_) | FollowError::View(_)) {
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }
}

async fn stream(following: &Following, channel: Channel, view: &mut View, heard: &mut bool) -> FollowError {
    match converse(following, channel, view, heard).await {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

async fn converse(
    following: &Following,
    channel: Channel,
    view: &mut View,
    heard: &mut bool,
) -> Result<std::convert::Infallible, FollowError> {
    let Following { fleet, draining, .. } = following;
    let (reports, sent) = mpsc::channel::<ReportRequest>(QUEUE);
    let mut client = FleetServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER);
    let asked = tokio::time::timeout(ANSWER, client.report(ReceiverStream::new(sent))).await;
    let mut answers = asked.map_err(|_| FollowError::Silent)??.into_inner();
    let mut tunnels = fleet.tunnels.subscribe();
    let (mut reporter, mut reader) = (Reporter::default(), Reader::default());
    let mut pending: VecDeque<Report> = VecDeque::new();
    let advertised = following.advertised.addresses().await;
    let (mut look, mut exactly, mut alive) = (Instant::now(), Instant::now() + EXACTLY, Instant::now() + ALIVE);
    let mut silent = Instant::now() + SILENCE;
    let mut drains = draining.is_cancelled();
    loop {
        tokio::select! {
            answer = answers.message() => {
                let news = news_from_proto(answer?.ok_or(FollowError::Ended)?)?;
                silent = Instant::now() + SILENCE;
                if !*heard {
                    *heard = true;
                    metrics::reporting(true);
                    tracing::info!(term = news.epoch.term, "reporting to the control plane");
                }
                if reader.take(view, news)? {
                    fleet.publish(view);
                }
            }
            place = reports.reserve(), if !pending.is_empty() => {
                let place = place.map_err(|_| FollowError::Ended)?;
                if let Some(report) = pending.pop_front() {
                    place.send(report_to_proto(&report));
                    alive = Instant::now() + ALIVE;
                }
            }
            changed = tunnels.changed() => {
                // The sender is held by the fleet.
                let _ = changed;
                look = look.min(Instant::now() + GATHER);
            }
            () = draining.cancelled(), if !drains => {
                drains = true;
                look = Instant::now();
            }
            () = tokio::time::sleep_until(look), if pending.is_empty() => {
                let now = Instant::now();
                let exact = now >= exactly;
                pending.extend(reporter.next(own(following, &advertised), exact));
                if exact {
                    exactly = now + EXACTLY;
                }
                look = now + LOOK;
            }
            () = tokio::time::sleep_until(alive), if pending.is_empty() => {
                pending.push_back(Report::default());
                alive = Instant::now() + ALIVE;
            }
            () = tokio::time::sleep_until(silent) => return Err(FollowError::Silent),
        }
    }
}

type Addresses = Vec<postern_core::target::Address>;

fn own(following: &Following, (clients, quic, tcp): &(Addresses, Addresses, Addresses)) -> Own {
    let gateway = FleetGateway {
        name: following.name.clone(),
        tunnel_addresses: quic.clone(),
        tunnel_tcp_addresses: tcp.clone(),
        client_addresses: clients.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        tunnel_version_min: versions().0,
        tunnel_version: versions().1,
        draining: following.draining.is_cancelled(),
        sessions: u32::try_from(following.fleet.sessions.load(Ordering::Relaxed)).unwrap_or(u32::MAX),
        started_at: following.started_at,
        serves: None,
    };
    Own { gateway, tunnels: following.fleet.held() }
}
