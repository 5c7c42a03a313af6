//! One stream of Raft messages to one peer, kept up for as long as the peer is a member.
//!
//! `PeerTransport` -> [`Lane`] -> the request stream, pulled by HTTP/2 as flow control allows -> the peer's `PeerService.Messages`. Each
//! lane has its own connection, so that appends cannot stand in a heartbeat's way. When the stream ends, what waits is dropped (Raft has
//! newer by then), Raft is told that the peer is out of reach, and the link dials anew with back-off.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::Stream;
use postern_proto::peer::v1 as pb;
use postern_proto::peer::v1::peer_service_client::PeerServiceClient;
use postern_runtime::backoff::Backoff;
use postern_runtime::clock;
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::{debug, info, warn};

use super::Shared;
use super::book::PeerEntry;
use super::dial::DialError;
use super::lane::{Lane, LaneKind};
use super::ship::Offers;
use super::wire::{PROTOCOL, Reason};

/// The first attempts follow each other fast: a restarted peer must be back well within a failover.
const RETRY_BASE: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_millis(800);
const REFUSED_DELAY: Duration = Duration::from_secs(2);
/// How long a peer may take to let this node in.
const WELCOME_LIMIT: Duration = Duration::from_secs(2);
const PING_EVERY: Duration = Duration::from_millis(500);
/// A peer that answers no ping for this long is dialed anew; appends may keep a slow wire busy for longer.
const SILENT_URGENT: Duration = Duration::from_secs(3);
const SILENT_BULK: Duration = Duration::from_secs(15);
/// When the urgent lane came back, a bulk lane that is silent for this long is not waited for.
const SILENT_BESIDE: Duration = Duration::from_millis(1_500);
/// The largest batch: one largest entry and what is around it.
pub(super) const MAX_BATCH: usize = 32 << 20;
/// Clocks that differ by more are told of.
const SKEW_WARNING_MILLIS: u64 = 2_000;

/// How a peer is reached, by its urgent lane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkStatus {
    /// Whether it let this node in and answers.
    pub connected: bool,
    /// The last round trip.
    pub round_trip: Option<Duration>,
    /// How far its clock is ahead of this node's, in milliseconds, give or take half a round trip.
    pub clock_ahead_millis: Option<i64>,
    /// The highest cluster feature level that it can.
    pub feature_level: u32,
    /// Why it is not connected.
    pub error: Option<String>,
}

/// What is kept for one peer.
pub(super) struct Peer {
    pub(super) id: u64,
    pub(super) urgent: Arc<Lane>,
    pub(super) bulk: Arc<Lane>,
    /// Snapshots to send.
    pub(super) offers: Offers,
    /// Ends with its membership.
    pub(super) stop: CancellationToken,
    /// Counts the urgent lane's connections.
    connections: watch::Sender<u64>,
}

impl Peer {
    pub(super) fn new(id: u64, stop: CancellationToken) -> Self {
        Self {
            id,
            urgent: Arc::new(Lane::new(LaneKind::Urgent)),
            bulk: Arc::new(Lane::new(LaneKind::Bulk)),
            offers: Offers::default(),
            stop,
            connections: watch::Sender::new(0),
        }
    }

    pub(super) const fn lane(&self, kind: LaneKind) -> &Arc<Lane> {
        match kind {
            LaneKind::Urgent => &self.urgent,
            LaneKind::Bulk => &self.bulk,
        }
    }
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("refused: {}", .0.message())]
    Refused(Status),
    #[error("lost: {0}")]
    Lost(String),
    #[error("it did not let this node in within {WELCOME_LIMIT:?}")]
    Slow,
    #[error("it welcomed as node {node_id} with protocol {protocol}")]
    Welcome { node_id: u64, protocol: u32 },
    #[error("it answers no more")]
    Silent,
    #[error("its address changed")]
    Moved,
}

/// Keeps the lane's stream up until the peer is no member any more, or the node stops.
pub(super) async fn run(shared: Arc<Shared>, peer: Arc<Peer>, kind: LaneKind) {
    let mut backoff = Backoff::new(RETRY_BASE, RETRY_MAX);
    let mut book = shared.book.subscribe();
    let mut told = false;
    let (mut attempt, mut likeliest) = (0_usize, None);
    loop {
        book.mark_unchanged();
        let Some(first) = shared.book.get(peer.id) else { return };
        if likeliest.as_ref() != Some(&first) {
            (attempt, likeliest) = (0, Some(first));
        }
        let Some(entry) = shared.book.attempt(peer.id, attempt) else { return };
        let mut up = false;
        let end = tokio::select! {
            () = peer.stop.cancelled() => return,
            end = session(&shared, &peer, kind, &entry, &mut up) => end,
        };
        peer.lane(kind).clear();
        shared.unreachable(peer.id);
        attempt = attempt.wrapping_add(1);
        if up {
            backoff.reset();
            (told, likeliest) = (false, None);
        }
        if kind == LaneKind::Urgent {
            shared.link(peer.id, |link| {
                link.connected = false;
                link.error = Some(end.to_string());
            });
        }
        if let LinkError::Refused(status) = &end
            && Reason::of(status) == Some(Reason::NodeRemoved)
        {
            shared.removed(status.message());
        }
        // An outage is told once, however many attempts it takes.
        if told || matches!(end, LinkError::Moved) {
            debug!(peer = peer.id, name = %entry.name, lane = kind.as_str(), error = %end, "no link to a peer");
        } else {
            warn!(peer = peer.id, name = %entry.name, lane = kind.as_str(), error = %end, "no link to a peer");
            told = true;
        }
        // Who is refused for a reason is so for a while.
        let refused = matches!(&end, LinkError::Refused(status) if Reason::of(status).is_some());
        let delay = if refused { REFUSED_DELAY } else { backoff.next_delay() };
        tokio::select! {
            () = peer.stop.cancelled() => return,
            () = tokio::time::sleep(delay) => {}
            _ = book.changed() => {}
        }
    }
}

/// One connection, from dialing to its end.
async fn session(shared: &Arc<Shared>, peer: &Peer, kind: LaneKind, entry: &PeerEntry, up: &mut bool) -> LinkError {
    match connected(shared, peer, kind, entry, up).await {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

async fn connected(
    shared: &Arc<Shared>,
    peer: &Peer,
    kind: LaneKind,
    entry: &PeerEntry,
    up: &mut bool,
) -> Result<std::convert::Infallible, LinkError> {
    let mut book = shared.book.subscribe();
    let channel = shared.dialer.connect(entry).await?;
    let mut client = PeerServiceClient::new(channel).max_encoding_message_size(MAX_BATCH);
    let gone = CancellationToken::new();
    let _gone = gone.clone().drop_guard();
    let pings = Arc::new(Pings::new());
    let outgoing = Outgoing {
        hello: Some(shared.hello(peer.id)),
        lane: Arc::clone(peer.lane(kind)),
        ticks: ticks(),
        pings: Arc::clone(&pings),
        labels: [("peer", peer.id.to_string()), ("lane", kind.as_str().to_owned())],
        gone,
    };
    let welcomed = async {
        let mut answers = client.messages(outgoing.stream()).await.map_err(LinkError::Refused)?.into_inner();
        match answers.message().await.map_err(LinkError::Refused)?.and_then(|answer| answer.response) {
            Some(pb::messages_response::Response::Welcome(welcome)) => Ok((answers, welcome)),
            _ => Err(LinkError::Lost("no welcome".to_owned())),
        }
    };
    let (mut answers, welcome) = timeout(WELCOME_LIMIT, welcomed).await.map_err(|_| LinkError::Slow)??;
    if welcome.node_id != peer.id || !PROTOCOL.contains(&welcome.protocol) {
        return Err(LinkError::Welcome { node_id: welcome.node_id, protocol: welcome.protocol });
    }
    *up = true;
    shared.book.reached(peer.id, entry);
    if kind == LaneKind::Urgent {
        info!(peer = peer.id, name = %entry.name, "linked with a peer");
        peer.connections.send_modify(|count| *count = count.wrapping_add(1));
        shared.link(peer.id, |link| {
            (link.connected, link.error, link.feature_level) = (true, None, welcome.feature_level);
        });
    }
    let mut beside = peer.connections.subscribe();
    let mut watchdog = ticks();
    loop {
        tokio::select! {
            answer = answers.message() => match answer {
                Ok(Some(answer)) => match answer.response {
                    Some(pb::messages_response::Response::Pong(pong)) => pongs(shared, peer, kind, &pings, &pong),
                    Some(pb::messages_response::Response::KnownMembers(known)) => shared.told(peer.id, entry, known),
                    _ => {}
                },
                Ok(None) => return Err(LinkError::Lost("the stream ended".to_owned())),
                Err(status) if Reason::of(&status).is_some() => return Err(LinkError::Refused(status)),
                Err(status) => return Err(LinkError::Lost(status.message().to_owned())),
            },
            _ = watchdog.tick() => {
                metrics::gauge!("postern_control_peer_queue_bytes",
                    "peer" => peer.id.to_string(), "lane" => kind.as_str())
                .set(f64::from(u32::try_from(peer.lane(kind).bytes()).unwrap_or(u32::MAX)));
                let limit = if kind == LaneKind::Urgent { SILENT_URGENT } else { SILENT_BULK };
                if pings.silence() > limit {
                    return Err(LinkError::Silent);
                }
            }
            _ = beside.changed(), if kind == LaneKind::Bulk => {
                if pings.silence() > SILENT_BESIDE {
                    return Err(LinkError::Silent);
                }
            }
            _ = book.changed() => {
                if shared.book.get(peer.id).as_ref() != Some(entry) {
                    return Err(LinkError::Moved);
                }
            }
        }
    }
}

fn pongs(shared: &Shared, peer: &Peer, kind: LaneKind, pings: &Pings, pong: &pb::Pong) {
    let Some(round_trip) = pings.answered(pong.number) else { return };
    if kind != LaneKind::Urgent {
        return;
    }
    metrics::histogram!("postern_control_peer_rtt_seconds", "peer" => peer.id.to_string())
        .record(round_trip.as_secs_f64());
    let half = u64::try_from(round_trip.as_millis() / 2).unwrap_or(u64::MAX);
    let theirs = pong.unix_millis.saturating_add(half);
    let ours = clock::now().millis();
    let apart = i64::try_from(theirs.abs_diff(ours)).unwrap_or(i64::MAX);
    let ahead = if theirs >= ours { apart } else { apart.saturating_neg() };
    let mut former = None;
    shared.link(peer.id, |link| {
        former = link.clock_ahead_millis;
        (link.round_trip, link.clock_ahead_millis) = (Some(round_trip), Some(ahead));
    });
    metrics::gauge!("postern_control_peer_clock_ahead_seconds", "peer" => peer.id.to_string()).set(seconds(ahead));
    let off = |millis: i64| millis.unsigned_abs() > SKEW_WARNING_MILLIS.saturating_add(half);
    if off(ahead) && !former.is_some_and(off) {
        warn!(peer = peer.id, ahead_millis = ahead, "a peer's clock and this node's differ");
    }
}

/// For a gauge: exact for any clock that is off by less than 280,000 years.
#[allow(clippy::cast_precision_loss)]
fn seconds(millis: i64) -> f64 {
    millis as f64 / 1_000.0
}

fn ticks() -> Interval {
    let mut ticks = interval(PING_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// What goes out, pulled by the connection as flow control lets it.
struct Outgoing {
    hello: Option<pb::Hello>,
    lane: Arc<Lane>,
    ticks: Interval,
    pings: Arc<Pings>,
    labels: [(&'static str, String); 2],
    /// The session is over: an old stream must take no more from the lane.
    gone: CancellationToken,
}

impl Outgoing {
    fn stream(self) -> impl Stream<Item = pb::MessagesRequest> + Send + 'static {
        futures::stream::unfold(self, |mut this| async move {
            let request = this.next().await?;
            Some((pb::MessagesRequest { request: Some(request) }, this))
        })
    }

    async fn next(&mut self) -> Option<pb::messages_request::Request> {
        use pb::messages_request::Request;
        if let Some(hello) = self.hello.take() {
            return Some(Request::Hello(hello));
        }
        tokio::select! {
            biased;
            () = self.gone.cancelled() => None,
            _ = self.ticks.tick() => Some(Request::Ping(pb::Ping { number: self.pings.next() })),
            messages = self.lane.take() => {
                let bytes: usize = messages.iter().map(bytes::Bytes::len).sum();
                metrics::counter!("postern_control_peer_messages_total", &self.labels)
                    .increment(u64::try_from(messages.len()).unwrap_or(u64::MAX));
                metrics::counter!("postern_control_peer_bytes_total", &self.labels)
                    .increment(u64::try_from(bytes).unwrap_or(u64::MAX));
                Some(Request::Batch(pb::Batch { messages }))
            }
        }
    }
}

/// Pings under way, and when the peer was heard last.
struct Pings(Mutex<PingState>);

struct PingState {
    number: u64,
    sent: Instant,
    heard: Instant,
}

impl Pings {
    fn new() -> Self {
        let now = Instant::now();
        Self(Mutex::new(PingState { number: 0, sent: now, heard: now }))
    }

    fn next(&self) -> u64 {
        let mut state = self.lock();
        state.number = state.number.wrapping_add(1);
        state.sent = Instant::now();
        state.number
    }

    /// The round trip, when it is the last ping that is answered.
    fn answered(&self, number: u64) -> Option<Duration> {
        let mut state = self.lock();
        state.heard = Instant::now();
        (state.number == number).then(|| state.sent.elapsed())
    }

    fn silence(&self) -> Duration {
        self.lock().heard.elapsed()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, PingState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
