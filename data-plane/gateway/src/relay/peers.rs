//! The links to other gateways: dialled when first needed, shared by all sessions, closed when nobody has used them for a while.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use postern_core::Name;
use postern_core::fleet::FleetGateway;
use postern_core::node::{GATEWAYS_NAME, NodeRole};
use postern_proto::tunnel::v1::{RelayHello, RelayWelcome};
use postern_protocols::tunnel::{self, ALPN, FrameError, MAX_MESSAGE};
use postern_runtime::pki::{Revocations, RotatingCredential};
use postern_runtime::supervisor::{OnEnd, Supervisor};
use postern_runtime::tls::{self, TlsError};
use postern_runtime::tunnel::wire::{self, WireError};
use postern_runtime::tunnel::{Link, LinkError, RecvHalf, SendHalf, cause, dialing_endpoint, peer_transport};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Endpoint};

use super::metrics;

/// How long it may take to reach another gateway, over all of its addresses.
const DIAL: Duration = Duration::from_secs(3);
/// A gateway that could not be reached, or did not answer, is asked last for this long; one that could not be reached is not dialled again
/// before the shorter time is over.
const SUSPECT: Duration = Duration::from_secs(15);
const DIAL_AGAIN: Duration = Duration::from_secs(2);
/// A link that carries nothing is closed after this time.
const IDLE: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_secs(10);
/// Gateways that are remembered at a time (I11).
const MOST: usize = 1_024;
/// Addresses that one name may stand for.
const RESOLVED: usize = 8;

/// No link to another gateway.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum PeerError {
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    #[error("could not be reached a moment ago: {0}")]
    Lately(String),
    #[error("who answers there is not gateway {0}")]
    NotThat(Name),
    #[error("it refuses: {0}")]
    Refused(String),
    #[error("greeting: {0}")]
    Greeting(String),
    #[error("it takes no tunnels, or has told no address")]
    NoAddress,
    #[error("too many gateways")]
    TooMany,
}

impl From<LinkError> for PeerError {
    fn from(error: LinkError) -> Self {
        Self::Greeting(error.to_string())
    }
}

impl From<WireError<FrameError>> for PeerError {
    fn from(error: WireError<FrameError>) -> Self {
        Self::Greeting(error.to_string())
    }
}

/// The links to other gateways. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Peers(Arc<Inner>);

struct Inner {
    own: Name,
    endpoint: Endpoint,
    client: ClientConfig,
    revoked: Revocations,
    supervisor: Supervisor,
    slots: Mutex<BTreeMap<Name, Arc<Slot>>>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peers").field("own", &self.own).finish_non_exhaustive()
    }
}

/// One other gateway.
#[derive(Default)]
struct Slot {
    /// Held while it is dialled: whoever comes meanwhile waits for the outcome.
    state: tokio::sync::Mutex<State>,
    streams: Arc<AtomicUsize>,
    suspect_until: Mutex<Option<Instant>>,
}

#[derive(Default)]
enum State {
    #[default]
    Idle,
    Up(Link),
    Failed(Instant, PeerError),
}

impl Peers {
    /// Links are opened with the gateway's own certificate, and only to who shows a gateway's that is good.
    pub(crate) fn new(
        own: Name,
        credential: &RotatingCredential,
        revoked: Revocations,
        supervisor: Supervisor,
    ) -> Result<Self, TlsError> {
        let tls = tls::client_mtls_rotating(credential, revoked.clone(), &[ALPN])?;
        let quic = QuicClientConfig::try_from(tls).map_err(|error| TlsError::Quic(error.to_string()))?;
        let mut client = ClientConfig::new(Arc::new(quic));
        // Nobody opens streams to us on a link that we have dialled.
        client.transport_config(Arc::new(peer_transport(0)));
        let endpoint = dialing_endpoint().map_err(|error| TlsError::Quic(format!("no socket: {error}")))?;
        let slots = Mutex::default();
        Ok(Self(Arc::new(Inner { own, endpoint, client, revoked, supervisor, slots })))
    }

    /// This gateway.
    pub(super) fn own_name(&self) -> &Name {
        &self.0.own
    }

    /// Whether it did not answer lately.
    pub(super) fn is_suspect(&self, gateway: &Name) -> bool {
        let slot = lock(&self.0.slots).get(gateway).cloned();
        slot.is_some_and(|slot| lock(&slot.suspect_until).is_some_and(|until| until > Instant::now()))
    }

    /// Whether it has answered just now.
    pub(super) fn suspect(&self, gateway: &Name, yes: bool) {
        if let Some(slot) = lock(&self.0.slots).get(gateway) {
            *lock(&slot.suspect_until) = yes.then(|| Instant::now() + SUSPECT);
        }
    }

    /// A link to `gateway`, which counts one more stream as long as the second part lives.
    pub(super) async fn link(&self, gateway: &FleetGateway) -> Result<(Link, Counted), PeerError> {
        let slot = self.slot(&gateway.name)?;
        // Counted before it is looked at: a link that is about to be closed as idle is not.
        let counted = Counted::new(&slot.streams);
        let mut state = slot.state.lock().await;
        match &*state {
            State::Up(link) if link.closed().now_or_never().is_none() => return Ok((link.clone(), counted)),
            State::Failed(until, error) if *until > Instant::now() => {
                return Err(PeerError::Lately(error.to_string()));
            }
            _ => {}
        }
        let late = || PeerError::Unreachable(format!("no connection within {} s", DIAL.as_secs()));
        let dialled = tokio::time::timeout(DIAL, self.dial(gateway)).await.unwrap_or_else(|_| Err(late()));
        match dialled {
            Ok((link, control)) => {
                tracing::info!(gateway = %gateway.name, remote = %link.remote(), "linked to another gateway");
                *state = State::Up(link.clone());
                drop(state);
                let keep = self.clone().keep(gateway.name.clone(), Arc::clone(&slot), link.clone(), control);
                self.0.supervisor.spawn("relay-link", OnEnd::EndPart, keep);
                Ok((link, counted))
            }
            Err(error) => {
                *state = State::Failed(Instant::now() + DIAL_AGAIN, error.clone());
                drop(state);
                self.suspect(&gateway.name, true);
                tracing::warn!(gateway = %gateway.name, %error, "no link to another gateway");
                Err(error)
            }
        }
    }

    fn slot(&self, gateway: &Name) -> Result<Arc<Slot>, PeerError> {
        let mut slots = lock(&self.0.slots);
        if let Some(slot) = slots.get(gateway) {
            return Ok(Arc::clone(slot));
        }
        if slots.len() >= MOST {
            // Those that nobody uses: the map and nobody else holds them.
            slots.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        if slots.len() >= MOST {
            return Err(PeerError::TooMany);
        }
        Ok(Arc::clone(slots.entry(gateway.clone()).or_default()))
    }

    async fn dial(&self, gateway: &FleetGateway) -> Result<(Link, (SendHalf, RecvHalf)), PeerError> {
        let v6 = self.0.endpoint.local_addr().is_ok_and(|local| local.is_ipv6());
        let mut last = PeerError::NoAddress;
        for address in &gateway.tunnel_addresses {
            let resolved = match tokio::net::lookup_host((address.host(), address.port())).await {
                Ok(resolved) => resolved.take(RESOLVED).collect::<Vec<_>>(),
                Err(error) => {
                    last = PeerError::Unreachable(format!("{address}: {error}"));
                    continue;
                }
            };
            for socket in resolved {
                // A socket of both families speaks to IPv4 peers in IPv6 form.
                let socket = match socket {
                    SocketAddr::V4(v4) if v6 => SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port())),
                    other => other,
                };
                match self.connect(socket, &gateway.name).await {
                    Ok(linked) => return Ok(linked),
                    Err(error) => last = error,
                }
            }
        }
        Err(last)
    }

    async fn connect(&self, to: SocketAddr, gateway: &Name) -> Result<(Link, (SendHalf, RecvHalf)), PeerError> {
        let unreachable = |error: &dyn std::fmt::Display| PeerError::Unreachable(format!("{to}: {error}"));
        let connecting = self.0.endpoint.connect_with(self.0.client.clone(), to, GATEWAYS_NAME);
        let connection = connecting.map_err(|error| unreachable(&error))?.await.map_err(|error| unreachable(&error))?;
        let link = Link::quic(connection);
        // Any gateway's certificate bears the common name: the one that was meant must be there.
        if link.peer().is_none_or(|peer| peer.role != NodeRole::Gateway || peer.name != *gateway) {
            link.close(cause::NOT_ALLOWED, "another gateway was meant");
            return Err(PeerError::NotThat(gateway.clone()));
        }
        let (mut send, mut recv) = link.open().await?;
        let (version_min, version) = tunnel::relay_versions();
        let hello = RelayHello { version_min, version, gateway: self.0.own.to_string() };
        wire::write(&mut send, tunnel::frame(&hello)).await?;
        let welcome: RelayWelcome = wire::read(&mut recv, MAX_MESSAGE, tunnel::decode).await?;
        if !welcome.refused.is_empty() {
            return Err(PeerError::Refused(welcome.refused));
        }
        if !(version_min..=version).contains(&welcome.version) {
            return Err(PeerError::Refused(format!("it speaks version {}", welcome.version)));
        }
        Ok((link, (send, recv)))
    }

    /// Keeps a link until it closes, its gateway's certificate is revoked, or nobody has used it for a while.
    async fn keep(self, gateway: Name, slot: Arc<Slot>, link: Link, control: (SendHalf, RecvHalf)) {
        let _alive = metrics::link_out();
        let stop = self.0.supervisor.sessions_ended_token();
        let why = tokio::select! {
            error = link.closed() => error.to_string(),
            () = link.until_revoked(self.0.revoked.clone()) => {
                link.close(cause::NOT_ALLOWED, "the certificate was revoked");
                "the gateway's certificate was revoked".to_owned()
            }
            () = stop.cancelled() => {
                link.close(cause::STOPPING, "the gateway stops");
                "this gateway stops".to_owned()
            }
            () = idle(&slot, &link) => "nobody uses it".to_owned(),
        };
        drop(control);
        let mut state = slot.state.lock().await;
        if matches!(&*state, State::Up(known) if known.id() == link.id()) {
            *state = State::Idle;
        }
        drop(state);
        tracing::info!(%gateway, why, "the link to another gateway is closed");
    }
}

/// Closes the link once nothing was carried for a while.
async fn idle(slot: &Slot, link: &Link) {
    let mut since = Instant::now();
    loop {
        tokio::time::sleep(LOOK).await;
        if slot.streams.load(Ordering::SeqCst) > 0 {
            since = Instant::now();
        } else if since.elapsed() >= IDLE {
            let state = slot.state.lock().await;
            // Whoever counted meanwhile waits for the lock, finds the link closed, and dials anew.
            if slot.streams.load(Ordering::SeqCst) == 0 {
                link.close(cause::NONE, "idle");
                drop(state);
                return;
            }
        }
    }
}

/// One stream more on a link.
#[derive(Debug)]
pub(super) struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(streams: &Arc<AtomicUsize>) -> Self {
        streams.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(streams))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
