//! The side that holds the tunnel: takes other gateways' links and opens for them, through own tunnels only.
//!
//! Another gateway is believed no more than its certificate says. It reaches targets that policy here knows, by the pool and address that
//! policy gives them, and of those only what it serves itself; the agent's own list of addresses holds as ever.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use postern_core::Name;
use postern_core::node::NodeRole;
use postern_core::target::{Address, Route};
use postern_proto::tunnel::v1::{Open, RelayCancel, RelayHello, RelayOpen, RelayOpened, RelayStatus, RelayWelcome};
use postern_protocols::tunnel::{self, FrameError, MAX_MESSAGE};
use postern_runtime::supervisor::{OnEnd, Supervisor};
use postern_runtime::telemetry::Lines;
use postern_runtime::tunnel::wire::{self, WireError};
use postern_runtime::tunnel::{Link, RecvHalf, SendHalf, cause};
use tokio::sync::{Semaphore, watch};

use super::{carry, metrics};
use crate::cancel::CancelKeys;
use crate::fleet::Fleet;
use crate::policy_feed::Feed;
use crate::tunnels::{OpenError, PeerLinks, TunnelStream, Tunnels};

/// From the link to its greeting, and from a stream to its request.
const GREETING: Duration = Duration::from_secs(10);
const REQUEST: Duration = Duration::from_secs(5);
/// How long a peer that is refused has to read why.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long the directory may take to tell of a gateway that is there already.
const KNOWN: Duration = Duration::from_secs(1);
/// Links of one other gateway: one, and others while an old one is not known to be dead.
const LINKS: usize = 4;
/// What another gateway may have a target's connection take.
const CONNECT_MAX_MS: u32 = 10_000;

/// Opens for other gateways. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Holder(Arc<Inner>);

struct Inner {
    own: Name,
    tunnels: Tunnels,
    fleet: Fleet,
    feed: watch::Receiver<Feed>,
    cancels: CancelKeys,
    streams: Arc<Semaphore>,
    links: Mutex<BTreeMap<Name, usize>>,
    refusals: Lines,
    supervisor: Supervisor,
}

/// A link that is counted.
struct Linked<'a>(&'a Inner, Name);

impl Holder {
    /// `most`: streams for all other gateways together.
    pub(crate) fn new(
        own: Name,
        tunnels: Tunnels,
        fleet: Fleet,
        feed: watch::Receiver<Feed>,
        cancels: CancelKeys,
        most: u32,
        supervisor: Supervisor,
    ) -> Self {
        let streams = Arc::new(Semaphore::new(usize::try_from(most).unwrap_or(Semaphore::MAX_PERMITS)));
        Self(Arc::new(Inner {
            own,
            tunnels,
            fleet,
            feed,
            cancels,
            streams,
            links: Mutex::default(),
            refusals: Lines::default(),
            supervisor,
        }))
    }
}

impl PeerLinks for Holder {
    fn serve(&self, link: Link) -> BoxFuture<'static, ()> {
        let this = self.clone();
        async move { this.peer(link).await }.boxed()
    }
}

impl<'a> Linked<'a> {
    fn new(inner: &'a Inner, peer: &Name) -> Option<Self> {
        let mut links = inner.links.lock().unwrap_or_else(PoisonError::into_inner);
        let count = links.entry(peer.clone()).or_default();
        if *count >= LINKS {
            return None;
        }
        *count += 1;
        Some(Self(inner, peer.clone()))
    }
}

impl Drop for Linked<'_> {
    fn drop(&mut self) {
        let mut links = self.0.links.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = links.get_mut(&self.1) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                links.remove(&self.1);
            }
        }
    }
}

impl Holder {
    async fn peer(&self, link: Link) {
        let Some(peer) = link.peer().filter(|peer| peer.role == NodeRole::Gateway).map(|peer| peer.name.clone()) else {
            return link.close(cause::NOT_ALLOWED, "not a gateway");
        };
        let Some(_linked) = Linked::new(&self.0, &peer) else {
            metrics::refused("links");
            return link.close(cause::LIMIT, "too many links");
        };
        let greeted = tokio::time::timeout(GREETING, self.greet(&link, &peer)).await;
        let _control = match greeted {
            Ok(Ok(control)) => control,
            Ok(Err(why)) => {
                metrics::refused("greeting");
                tracing::warn!(gateway = %peer, remote = %link.remote(), why, "another gateway's link is refused");
                return link.close(cause::PROTOCOL, "refused");
            }
            Err(_) => {
                metrics::refused("greeting");
                return link.close(cause::SILENT, "no greeting in time");
            }
        };
        let _alive = metrics::link_in();
        tracing::info!(gateway = %peer, remote = %link.remote(), "another gateway is linked");
        while let Ok((send, recv)) = link.accept().await {
            let (this, peer) = (self.clone(), peer.clone());
            let relay = async move { this.stream(send, recv, &peer).await };
            self.0.supervisor.spawn("relayed", OnEnd::EndSession, relay);
        }
        tracing::info!(gateway = %peer, "another gateway's link is closed");
    }

    async fn greet(&self, link: &Link, peer: &Name) -> Result<(SendHalf, RecvHalf), String> {
        let (mut send, mut recv) = link.accept().await.map_err(|error| error.to_string())?;
        let text = |error: WireError<FrameError>| error.to_string();
        let hello: RelayHello = wire::read(&mut recv, MAX_MESSAGE, tunnel::decode).await.map_err(text)?;
        let agreed = tunnel::agree_relay(hello.version_min, hello.version);
        let highest = tunnel::relay_versions().1;
        let refused = if hello.gateway != peer.as_str() {
            "the greeting does not agree with the certificate".to_owned()
        } else if agreed.is_none() {
            format!("this gateway speaks version {highest}, not {} to {}", hello.version_min, hello.version)
        } else {
            String::new()
        };
        let welcome = RelayWelcome {
            version: agreed.unwrap_or(highest),
            gateway: self.0.own.to_string(),
            refused: refused.clone(),
        };
        wire::write(&mut send, tunnel::frame(&welcome)).await.map_err(text)?;
        if refused.is_empty() {
            return Ok((send, recv));
        }
        let _ = send.finish();
        let _ = tokio::time::timeout(LAST_WORDS, link.closed()).await;
        Err(refused)
    }

    async fn stream(&self, mut send: SendHalf, mut recv: RecvHalf, peer: &Name) {
        let read = wire::read::<RelayOpen, FrameError>(&mut recv, MAX_MESSAGE, tunnel::decode);
        let Ok(Ok(request)) = tokio::time::timeout(REQUEST, read).await else {
            metrics::served("malformed");
            send.reset(cause::PROTOCOL);
            return recv.stop(cause::PROTOCOL);
        };
        if let Some(cancel) = request.cancel {
            return self.cancel(&cancel, send).await;
        }
        let stop = self.0.supervisor.sessions_ended_token();
        let given_up = send.stopped();
        let opened = tokio::select! {
            opened = self.open(request, &mut send, peer) => opened,
            // Whoever asked has gone on to another, or has gone.
            _ = given_up => return metrics::served("given-up"),
            () = stop.cancelled() => return,
        };
        let (stream, _permit) = match opened {
            Ok(opened) => opened,
            Err(answer) => {
                metrics::served(outcome(answer.status()));
                tracing::debug!(gateway = %peer, status = ?answer.status(), why = answer.detail, "not relayed");
                if wire::write(&mut send, tunnel::frame(&answer)).await.is_ok() {
                    let _ = send.finish();
                }
                return recv.stop(cause::REFUSED);
            }
        };
        metrics::served("connected");
        let _alive = metrics::stream_in();
        let connected = RelayOpened { status: RelayStatus::Connected.into(), ..RelayOpened::default() };
        if wire::write(&mut send, tunnel::frame(&connected)).await.is_err() {
            return;
        }
        let (to_agent, from_agent, _counted) = stream.into_parts();
        tokio::select! {
            () = carry::both((send, recv), (to_agent, from_agent)) => {}
            () = stop.cancelled() => {}
        }
    }

    /// A client's cancel request: its key is all the right that it needs, here as there.
    async fn cancel(&self, cancel: &RelayCancel, mut send: SendHalf) {
        let from = cancel.client_address.parse().unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0)));
        let found = self.0.cancels.cancel(cancel.pid, &cancel.secret, from);
        metrics::served(if found { "cancelled" } else { "no-session" });
        let status = if found { RelayStatus::Connected } else { RelayStatus::NotPermitted };
        let answer = RelayOpened { status: status.into(), ..RelayOpened::default() };
        if wire::write(&mut send, tunnel::frame(&answer)).await.is_ok() {
            let _ = send.finish();
        }
    }

    /// What was asked for, or what is answered instead.
    async fn open(
        &self,
        request: RelayOpen,
        send: &mut SendHalf,
        peer: &Name,
    ) -> Result<(TunnelStream, tokio::sync::OwnedSemaphorePermit), RelayOpened> {
        let no = |status: RelayStatus, detail: String| RelayOpened { status: status.into(), agent_status: 0, detail };
        let busy = |_| no(RelayStatus::Busy, "too many relayed streams".into());
        let permit = Arc::clone(&self.0.streams).try_acquire_owned().map_err(busy)?;
        let opening = RelayOpened { status: RelayStatus::Opening.into(), ..RelayOpened::default() };
        let told = wire::write(send, tunnel::frame(&opening)).await;
        told.map_err(|error| no(RelayStatus::NoTunnel, error.to_string()))?;
        let (pool, open) = self.permitted(request, peer).await.map_err(|why| {
            // It is a gateway that is behind, or one that cheats.
            if self.0.refusals.may() {
                tracing::warn!(gateway = %peer, why, "another gateway asks for what is not permitted");
            }
            no(RelayStatus::NotPermitted, why.to_owned())
        })?;
        if self.0.tunnels.all_drain(&pool) {
            return Err(no(RelayStatus::NoTunnel, "every agent here is about to stop".into()));
        }
        match self.0.tunnels.open_as(&pool, &open).await {
            Ok(stream) => Ok((stream, permit)),
            // Of no agent here: the other gateway asks the next.
            Err(error) if error.elsewhere() => Err(no(RelayStatus::NoTunnel, error.to_string())),
            Err(OpenError::Refused { agent, status, detail }) => {
                let detail = format!("agent {agent}: {detail}");
                Err(RelayOpened { status: RelayStatus::Refused.into(), agent_status: status.into(), detail })
            }
            Err(error) => Err(no(RelayStatus::NoTunnel, error.to_string())),
        }
    }

    /// What the agent is asked, if policy here knows the target so and the other gateway serves it.
    async fn permitted(&self, request: RelayOpen, peer: &Name) -> Result<(Name, Open), &'static str> {
        let open = request.open.ok_or("it asks for nothing")?;
        let pool: Name = request.pool.parse().map_err(|_| "the pool is no name")?;
        let target: Name = open.target.parse().map_err(|_| "the target is no name")?;
        let address: Address = open.address.parse().map_err(|_| "the address is none")?;
        let current = self.0.feed.borrow().current.clone().ok_or("there is no policy here yet")?;
        let known = current.snapshot.targets.get(&target).ok_or("the target is not known here")?;
        if known.value.disabled || known.value.route != Route::AgentPool(pool.clone()) || known.value.address != address
        {
            return Err("policy has another pool or address for the target");
        }
        let mut changes = self.0.fleet.subscribe();
        let serves = async {
            loop {
                let serves = changes.borrow_and_update().serves(peer, &target, &known.labels);
                match serves {
                    Some(serves) => return serves,
                    // The sender is this gateway's own.
                    None => {
                        if changes.changed().await.is_err() {
                            return false;
                        }
                    }
                }
            }
        };
        match tokio::time::timeout(KNOWN, serves).await {
            Ok(true) => {}
            Ok(false) => return Err("it does not serve the target"),
            Err(_) => return Err("it is not in the directory"),
        }
        let connect_timeout_ms = open.connect_timeout_ms.min(CONNECT_MAX_MS);
        Ok((pool, Open { relayed_for: peer.to_string(), connect_timeout_ms, ..open }))
    }
}

const fn outcome(status: RelayStatus) -> &'static str {
    match status {
        RelayStatus::Refused => "refused",
        RelayStatus::NoTunnel => "no-tunnel",
        RelayStatus::NotPermitted => "not-permitted",
        RelayStatus::Busy => "busy",
        RelayStatus::Connected | RelayStatus::Opening | RelayStatus::Unspecified => "failed",
    }
}
