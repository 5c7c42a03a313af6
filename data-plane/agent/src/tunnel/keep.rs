//! One gateway's tunnel: dialled, kept, dialled again; moved from TCP to QUIC when that works.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use postern_core::node::NodeRole;
use postern_protocols::tunnel::{
    self, Drain, FrameError, Hello, Load, MAX_MESSAGE, ToAgent, ToGateway, Welcome, to_agent, to_gateway,
};
use postern_runtime::backoff::Backoff;
use postern_runtime::clock;
use postern_runtime::supervisor::OnEnd;
use postern_runtime::tunnel::wire::{self, WireError};
use postern_runtime::tunnel::{Carrier, Link, LinkError, RecvHalf, SILENCE, SendHalf, cause};
use tokio_util::sync::CancellationToken;

use super::dial::{DialError, Own};
use super::{Place, Shared, Up};
use crate::serve;

const GREETING: Duration = Duration::from_secs(10);
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// A gateway may ask for patience, but not for ever.
const MOST_PATIENCE: Duration = Duration::from_secs(120);
/// How long a gateway without room is left alone, more or less.
const AVOID: Duration = Duration::from_secs(600);
/// While the tunnel goes over TCP, QUIC is tried again after a time that grows up to so many times its first.
const PROBES: u32 = 20;
/// A tunnel that is left goes on for what is open in it, at most so long.
const LINGER: Duration = Duration::from_secs(3600);
const LOOK: Duration = Duration::from_millis(500);
/// What is told of the load changes at most so often.
const LOAD_EVERY: Duration = Duration::from_millis(500);

/// Which gateway it is and where, as far as is known; changes as more becomes known.
pub(super) struct Kept {
    pub(super) place: Mutex<Place>,
    /// As its greeting said.
    pub(super) name: Mutex<Option<String>>,
    pub(super) up: AtomicBool,
    pub(super) retire: CancellationToken,
}

#[derive(Debug, thiserror::Error)]
enum TunnelError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("{0}")]
    Link(#[from] LinkError),
    #[error("greeting: {0}")]
    Wire(#[from] WireError<FrameError>),
    #[error("no greeting in time")]
    TimedOut,
    #[error("the peer's certificate is not a gateway's")]
    NotAGateway,
    #[error("refused by the gateway: {why}")]
    Refused { gateway: String, why: String, retry_after: Duration },
    #[error("the gateway speaks version {theirs} of the protocol, this agent {least} to {most}")]
    Version { theirs: u32, least: u32, most: u32 },
    #[error("the gateway's certificate was revoked")]
    Revoked,
    #[error("it lives no longer: {0}")]
    Lost(LinkError),
}

impl TunnelError {
    /// Why a tunnel was lost that was up.
    fn reason(&self) -> &'static str {
        match self {
            Self::Revoked => "revoked",
            Self::Lost(error) if error.is_silence() => "silent",
            _ => "closed",
        }
    }
}

/// A link that was greeted.
struct Tunnel {
    link: Own,
    version: u32,
    gateway: String,
    send: SendHalf,
    recv: RecvHalf,
    streams: Arc<AtomicUsize>,
}

enum End {
    Lost(TunnelError),
    Moved(Box<Tunnel>),
    Retired,
    Stopped,
}

/// Keeps a tunnel until it is told to let go, or the node's sessions have ended.
pub(super) async fn keep(kept: Arc<Kept>, shared: Arc<Shared>) {
    let stop = shared.supervisor.sessions_ended_token();
    let mut backoff = Backoff::new(FIRST_RETRY, LAST_RETRY);
    let mut told = false;
    loop {
        let place = kept.place.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let began = Instant::now();
        let error = tokio::select! {
            () = stop.cancelled() => return,
            () = kept.retire.cancelled() => return,
            connected = connect(&place, &shared) => match connected {
                Err(error) => error,
                Ok(tunnel) => match live(tunnel, &kept, &shared).await {
                    Some(error) => error,
                    None => return,
                },
            },
        };
        if began.elapsed() > SILENCE {
            backoff.reset();
            told = false;
        }
        metrics::counter!("postern_agent_tunnel_failures_total").increment(1);
        if !told {
            tracing::warn!(gateway = place.address(), %error, "no tunnel to the gateway: trying again");
            told = true;
        }
        let least = match &error {
            TunnelError::Refused { gateway, retry_after, .. } if !retry_after.is_zero() => {
                avoid(gateway.clone(), &shared);
                (*retry_after).min(MOST_PATIENCE)
            }
            _ => Duration::ZERO,
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = kept.retire.cancelled() => return,
            () = tokio::time::sleep(backoff.next_delay().max(least)) => {}
        }
    }
}

/// A gateway that has no room: another one takes its place, if there is one, and it is looked at again later. Not soon, as trying it costs
/// the tunnel that was taken instead.
fn avoid(gateway: String, shared: &Arc<Shared>) {
    if !shared.draining.send_if_modified(|avoided| avoided.insert(gateway.clone())) {
        return;
    }
    tracing::info!(gateway, "the gateway has no room: another one is taken");
    let (later, served) = (AVOID.mul_f64(fastrand::f64() + 0.5), Arc::clone(shared));
    shared.supervisor.spawn("gateway-full", OnEnd::EndPart, async move {
        let stop = served.supervisor.sessions_ended_token();
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(later) => {
                served.draining.send_if_modified(|avoided| avoided.remove(&gateway));
            }
        }
    });
}

async fn connect(place: &Place, shared: &Arc<Shared>) -> Result<Tunnel, TunnelError> {
    let link = shared.dialer.dial(place).await?;
    greeted(link, shared).await
}

async fn greeted(link: Own, shared: &Arc<Shared>) -> Result<Tunnel, TunnelError> {
    tokio::time::timeout(GREETING, greet(link, shared)).await.map_err(|_| TunnelError::TimedOut)?
}

async fn greet(link: Own, shared: &Arc<Shared>) -> Result<Tunnel, TunnelError> {
    if link.0.peer().is_none_or(|peer| peer.role != NodeRole::Gateway) {
        return Err(TunnelError::NotAGateway);
    }
    let (mut send, mut recv) = link.0.open().await?;
    let (agent, pool) = (shared.agent.to_string(), shared.pool.to_string());
    let (version_min, version) = tunnel::versions();
    let hello = Hello { version, agent, pool, version_min, release: env!("CARGO_PKG_VERSION").to_owned() };
    wire::write(&mut send, tunnel::frame(&hello)).await?;
    let welcome: Welcome = wire::read(&mut recv, MAX_MESSAGE, tunnel::decode).await?;
    if !welcome.refused.is_empty() {
        let retry_after = Duration::from_millis(welcome.retry_after_ms.into());
        return Err(TunnelError::Refused { gateway: welcome.gateway, why: welcome.refused, retry_after });
    }
    if !(version_min..=version).contains(&welcome.version) {
        return Err(TunnelError::Version { theirs: welcome.version, least: version_min, most: version });
    }
    let Welcome { version, gateway, .. } = welcome;
    Ok(Tunnel { link, version, gateway, send, recv, streams: Arc::default() })
}

/// Until it is lost, and why; none when it is to be no more.
async fn live(mut tunnel: Tunnel, kept: &Kept, shared: &Arc<Shared>) -> Option<TunnelError> {
    loop {
        let (gateway, address) = (tunnel.gateway.clone(), tunnel.link.0.remote());
        *kept.name.lock().unwrap_or_else(PoisonError::into_inner) = Some(gateway.clone());
        shared.draining.send_if_modified(|draining| draining.remove(&gateway));
        let carrier = tunnel.link.0.carrier().as_str();
        tracing::info!(gateway, %address, carrier, version = tunnel.version, "tunnel up");
        kept.up.store(true, Ordering::SeqCst);
        let up = Up::new(shared, &tunnel.link.0, tunnel.version);
        let end = match (run(&mut tunnel, kept, shared).await, tunnel.link.0.closed().now_or_never()) {
            // What ended is the tunnel, and with it the stream that told it.
            (End::Lost(TunnelError::Wire(_)), Some(error)) => End::Lost(TunnelError::Lost(error)),
            (end, _) => end,
        };
        kept.up.store(false, Ordering::SeqCst);
        match end {
            End::Lost(error) => {
                metrics::counter!("postern_agent_tunnels_lost_total", "reason" => error.reason()).increment(1);
                tracing::info!(gateway, %error, "tunnel down");
                return Some(error);
            }
            End::Stopped => return None,
            End::Retired => {
                drop(up);
                leave(tunnel, shared);
                return None;
            }
            End::Moved(new) => {
                drop(up);
                leave(std::mem::replace(&mut tunnel, *new), shared);
            }
        }
    }
}

/// What is open in it goes on; then it is closed.
fn leave(tunnel: Tunnel, shared: &Arc<Shared>) {
    tracing::info!(gateway = tunnel.gateway, "the tunnel is left; what is open in it goes on");
    let served = Arc::clone(shared);
    shared.supervisor.spawn("tunnel-left", OnEnd::EndPart, async move {
        let stop = served.supervisor.sessions_ended_token();
        let empty = async {
            let began = Instant::now();
            // The gateway has heard of the newer tunnel a moment after we have.
            tokio::time::sleep(LOOK * 4).await;
            while tunnel.streams.load(Ordering::Relaxed) > 0 && began.elapsed() < LINGER {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = empty => {}
            () = tunnel.link.0.until_revoked(served.revoked.revocations()) => {}
            _ = accept(&tunnel.link.0, tunnel.version, &tunnel.streams, &served) => {}
        }
    });
}

async fn run(tunnel: &mut Tunnel, kept: &Kept, shared: &Arc<Shared>) -> End {
    let Tunnel { link, version, gateway, send, recv, streams } = tunnel;
    let (link, version) = (&link.0, *version);
    let stop = shared.supervisor.sessions_ended_token();
    let probed = async {
        match link.carrier() {
            Carrier::Quic => std::future::pending().await,
            Carrier::Tcp => probe(kept, shared).await,
        }
    };
    tokio::select! {
        () = stop.cancelled() => End::Stopped,
        () = kept.retire.cancelled() => End::Retired,
        () = link.until_revoked(shared.revoked.revocations()) => {
            link.close(cause::NOT_ALLOWED, "the certificate was revoked");
            End::Lost(TunnelError::Revoked)
        }
        error = accept(link, version, streams, shared) => End::Lost(TunnelError::Lost(error)),
        error = talk(version, gateway, send, recv, shared) => End::Lost(error),
        new = probed => End::Moved(Box::new(new)),
    }
}

/// Serves what the gateway opens; why it ended.
async fn accept(link: &Link, version: u32, streams: &Arc<AtomicUsize>, shared: &Arc<Shared>) -> LinkError {
    loop {
        match link.accept().await {
            Err(error) => return error,
            Ok((send, recv)) => {
                let (shared, streams) = (Arc::clone(shared), Arc::clone(streams));
                streams.fetch_add(1, Ordering::Relaxed);
                // Streams are bounded by what the link lets the peer open.
                shared.supervisor.clone().spawn("stream", OnEnd::EndSession, async move {
                    serve::stream(send, recv, version, shared).await;
                    streams.fetch_sub(1, Ordering::Relaxed);
                });
            }
        }
    }
}

/// Tries QUIC from time to time until it works.
async fn probe(kept: &Kept, shared: &Arc<Shared>) -> Tunnel {
    let first = shared.udp_probe;
    let mut backoff = Backoff::new(first, first.saturating_mul(PROBES));
    loop {
        tokio::time::sleep(first.saturating_add(backoff.next_delay())).await;
        let place = kept.place.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if place.quic.is_empty() {
            continue;
        }
        let tried = async { greeted(shared.dialer.quic(&place.quic).await?, shared).await };
        match tried.await {
            Ok(tunnel) => return tunnel,
            Err(error) => tracing::debug!(gateway = place.address(), %error, "still no way over UDP"),
        }
    }
}

/// What is said over the control stream; why it ended.
async fn talk(version: u32, gateway: &str, send: &mut SendHalf, recv: &mut RecvHalf, shared: &Shared) -> TunnelError {
    if version < 2 {
        return std::future::pending().await;
    }
    tokio::select! {
        Err(error) = hear(gateway, recv, shared) => error.into(),
        Err(error) = tell(send, shared) => error.into(),
    }
}

async fn hear(
    gateway: &str,
    recv: &mut RecvHalf,
    shared: &Shared,
) -> Result<std::convert::Infallible, WireError<FrameError>> {
    let mut forged = false;
    loop {
        let said: ToAgent = wire::read(recv, MAX_MESSAGE, tunnel::decode).await?;
        match said.message {
            Some(to_agent::Message::Gateways(mut told)) => {
                told.gateways.truncate(tunnel::MAX_GATEWAYS);
                shared.gateways.send_if_modified(|known| {
                    // The first list is taken whatever its age: there is none yet.
                    let take = known.gateways.is_empty() || tunnel::newer(&told, known);
                    if take {
                        *known = Arc::new(told);
                    }
                    take
                });
            }
            Some(to_agent::Message::Drain(_)) => {
                tracing::info!(gateway, "the gateway is about to stop");
                shared.draining.send_if_modified(|draining| draining.insert(gateway.to_owned()));
            }
            Some(to_agent::Message::Revoked(list)) => match shared.revoked.take(&list, clock::now()) {
                Ok(false) => {}
                Ok(true) => {
                    tracing::warn!(told_by = gateway, "gateways' certificates were revoked: what is open to them ends");
                    if let Err(error) = shared.revoked.keep(&list) {
                        tracing::error!(%error, "the list of revoked gateways is not kept for the next start");
                    }
                }
                Err(error) => {
                    metrics::counter!("postern_agent_revocations_refused_total").increment(1);
                    if !std::mem::replace(&mut forged, true) {
                        tracing::warn!(gateway, %error, "the gateway tells a list of revoked gateways that is not the control plane's");
                    }
                }
            },
            None => metrics::counter!("postern_agent_messages_skipped_total").increment(1),
        }
    }
}

async fn tell(send: &mut SendHalf, shared: &Shared) -> Result<std::convert::Infallible, WireError<FrameError>> {
    let stopping = shared.supervisor.shutdown_token();
    let (mut told, mut draining) = (None, false);
    let mut open_streams = shared.open.subscribe();
    loop {
        if stopping.is_cancelled() && !draining {
            draining = true;
            let message = Some(to_gateway::Message::Drain(Drain {}));
            wire::write(send, tunnel::frame(&ToGateway { message })).await?;
        }
        let open = *open_streams.borrow_and_update();
        if told != Some(open) {
            let load = Load { open_streams: open, max_streams: shared.max_streams };
            let message = Some(to_gateway::Message::Load(load));
            wire::write(send, tunnel::frame(&ToGateway { message })).await?;
            told = Some(open);
        }
        let another = async {
            tokio::time::sleep(LOAD_EVERY).await;
            // The sender is `shared`'s own.
            let _ = open_streams.changed().await;
        };
        tokio::select! {
            () = stopping.cancelled(), if !draining => {}
            () = another => {}
        }
    }
}
