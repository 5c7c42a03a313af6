//! Tunnels: agents dial in, over QUIC or where that cannot pass over TCP, and sessions open streams through them.
//!
//! `listen` accepts and lets in, `greet` finds out who it is and what may be said, `serve` keeps one agent's tunnel, `proxy` passes agents
//! on to the control plane. What an agent may serve is its certificate's say: name and pool stand there, and its greeting must agree.
//! Sessions pick, of the pool's tunnels, the healthy one with the least to do; one that does not answer is left for the next.

mod admission;
mod config;
mod greet;
mod listen;
mod metrics;
mod open;
mod proxy;
mod serve;
mod stream;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use postern_core::{Name, Timestamp};
use postern_protocols::tunnel::Gateways;
use postern_runtime::clock;
use postern_runtime::pki::Revocations;
use postern_runtime::supervisor::Supervisor;
use postern_runtime::tls::TlsError;
use postern_runtime::tunnel::{Carrier, Link};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use config::TunnelsConfig;
pub(crate) use listen::{accept, listen};
pub(crate) use open::OpenError;
#[allow(unused_imports)] // for whoever carries it further
pub(crate) use open::TunnelStream;
pub(crate) use stream::HeldStream;

use admission::Admission;
use proxy::Proxy;

use crate::policy_feed::RevokedGateways;

/// The tunnel listener cannot start.
#[derive(Debug, thiserror::Error)]
pub enum TunnelsError {
    /// The credential cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// No socket.
    #[error("tunnel listener on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// One agent's tunnel to this gateway.
#[derive(Debug)]
pub(crate) struct Tunnel {
    pub(crate) agent: Name,
    pub(crate) pool: Name,
    pub(crate) since: Timestamp,
    link: Link,
    /// Of the protocol.
    version: u32,
    /// The agent's, as it says.
    release: String,
    streams: Arc<AtomicUsize>,
    /// As the agent told last: streams over all of its tunnels, and how many it takes.
    told_streams: AtomicU32,
    told_max: AtomicU32,
    /// The agent is about to stop.
    draining: AtomicBool,
    /// The same agent has a newer one.
    superseded: AtomicBool,
    /// Until then others are preferred: it did not answer.
    suspect_until: Mutex<Option<Instant>>,
    /// Addresses that its agent could not reach lately, and until when others are preferred for them.
    unreached: Mutex<BTreeMap<String, Instant>>,
}

/// What a tunnel is doing, for whoever reports it.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) agent: Name,
    pub(crate) pool: Name,
    pub(crate) since: Timestamp,
    pub(crate) carrier: Carrier,
    pub(crate) streams: usize,
    pub(crate) rtt: Duration,
    /// The agent's release.
    pub(crate) release: String,
    /// The agent is about to stop.
    pub(crate) draining: bool,
}

/// Tunnels by pool.
pub(crate) type Pools = BTreeMap<Name, Vec<Arc<Tunnel>>>;

/// The tunnels that are up. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Tunnels(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pools: watch::Sender<Pools>,
    gateways: watch::Sender<Arc<Gateways>>,
    revoked_gateways: RevokedGateways,
    draining: CancellationToken,
}

/// Takes the links that other gateways open to this one. It returns when the link's affairs are over.
pub(crate) trait PeerLinks: Send + Sync {
    /// Serves `link`, whose peer has shown a gateway's certificate, until it closes.
    fn serve(&self, link: Link) -> futures::future::BoxFuture<'static, ()>;
}

/// What the listener's tasks share.
pub(crate) struct Shared {
    pub(crate) gateway: Name,
    pub(crate) tunnels: Tunnels,
    pub(crate) revoked: Revocations,
    /// Where other gateways' links go; without it they are refused.
    pub(crate) peers: Option<Arc<dyn PeerLinks>>,
    pub(crate) supervisor: Supervisor,
    pub(crate) config: TunnelsConfig,
    admission: Admission,
    proxy: Proxy,
    labels: Mutex<metrics::Labels>,
}

impl Shared {
    /// `control_plane`: where agents are passed on to.
    pub(crate) fn new(
        gateway: Name,
        tunnels: Tunnels,
        revoked: Revocations,
        peers: Option<Arc<dyn PeerLinks>>,
        supervisor: Supervisor,
        config: TunnelsConfig,
        control_plane: Vec<String>,
    ) -> Self {
        Self {
            gateway,
            tunnels,
            revoked,
            peers,
            supervisor,
            admission: Admission::new(config.handshakes_per_second),
            proxy: Proxy::new(control_plane),
            labels: Mutex::default(),
            config,
        }
    }
}

impl Default for Tunnels {
    fn default() -> Self {
        Self(Arc::new(Inner {
            pools: watch::Sender::new(Pools::new()),
            gateways: watch::Sender::new(Arc::default()),
            revoked_gateways: RevokedGateways::default(),
            draining: CancellationToken::new(),
        }))
    }
}

impl Tunnels {
    /// How many tunnels each pool has.
    #[must_use]
    pub(crate) fn counts(&self) -> BTreeMap<Name, usize> {
        self.0.pools.borrow().iter().map(|(pool, tunnels)| (pool.clone(), tunnels.len())).collect()
    }

    /// Tells of every change in which tunnels there are.
    #[must_use]
    pub(crate) fn subscribe(&self) -> watch::Receiver<Pools> {
        self.0.pools.subscribe()
    }

    /// All that are up, as they stand now.
    #[must_use]
    pub(crate) fn held(&self) -> Vec<Held> {
        let held = |tunnel: &Arc<Tunnel>| Held {
            agent: tunnel.agent.clone(),
            pool: tunnel.pool.clone(),
            since: tunnel.since,
            carrier: tunnel.link.carrier(),
            streams: tunnel.streams.load(Ordering::Relaxed),
            rtt: tunnel.link.stats().rtt,
            release: tunnel.release.clone(),
            draining: tunnel.draining.load(Ordering::Relaxed),
        };
        self.0.pools.borrow().values().flatten().map(held).collect()
    }

    /// The gateways that agents are told of: whoever learns of a newer list puts it here.
    #[must_use]
    pub(crate) fn gateways(&self) -> &watch::Sender<Arc<Gateways>> {
        &self.0.gateways
    }

    /// What agents are told of gateways that are none any more: whoever learns of a newer list puts it here.
    #[must_use]
    pub(crate) fn revoked_gateways(&self) -> &RevokedGateways {
        &self.0.revoked_gateways
    }

    /// Has agents go elsewhere for new streams; what is open goes on.
    pub(crate) fn drain(&self) {
        self.0.draining.cancel();
    }

    /// Whether every agent of `pool` that has a tunnel here is about to stop; not so where there is none.
    pub(crate) fn all_drain(&self, pool: &Name) -> bool {
        let pools = self.0.pools.borrow();
        pools.get(pool).is_some_and(|all| all.iter().all(|tunnel| tunnel.draining.load(Ordering::Relaxed)))
    }

    /// Its agent says that it is about to stop: whoever reports tunnels looks again.
    fn drains(&self, tunnel: &Tunnel) {
        if !tunnel.draining.swap(true, Ordering::Relaxed) {
            self.0.pools.send_modify(|_| {});
        }
    }

    fn add(&self, tunnel: Arc<Tunnel>) {
        self.0.pools.send_modify(|pools| {
            let tunnels = pools.entry(tunnel.pool.clone()).or_default();
            tunnels
                .iter()
                .filter(|older| older.agent == tunnel.agent)
                .for_each(|older| older.superseded.store(true, Ordering::Relaxed));
            tunnels.push(tunnel);
        });
    }

    fn remove(&self, tunnel: &Tunnel) {
        self.0.pools.send_modify(|pools| {
            let Some(tunnels) = pools.get_mut(&tunnel.pool) else { return };
            tunnels.retain(|other| other.link.id() != tunnel.link.id());
            if let Some(newest) = tunnels.iter().rev().find(|other| other.agent == tunnel.agent) {
                newest.superseded.store(false, Ordering::Relaxed);
            }
            if tunnels.is_empty() {
                pools.remove(&tunnel.pool);
            }
        });
    }

    /// How many tunnels `agent` has here.
    fn of_agent(&self, pool: &Name, agent: &Name) -> usize {
        self.0.pools.borrow().get(pool).map_or(0, |all| all.iter().filter(|tunnel| tunnel.agent == *agent).count())
    }

    fn len(&self) -> usize {
        self.0.pools.borrow().values().map(Vec::len).sum()
    }
}

impl Tunnel {
    fn new(agent: Name, pool: Name, link: Link, version: u32, release: String) -> Self {
        Self {
            agent,
            pool,
            since: clock::now(),
            link,
            version,
            release,
            streams: Arc::default(),
            told_streams: AtomicU32::new(0),
            told_max: AtomicU32::new(0),
            draining: AtomicBool::new(false),
            superseded: AtomicBool::new(false),
            suspect_until: Mutex::default(),
            unreached: Mutex::default(),
        }
    }

    /// The less, the rather it is chosen for `address`.
    fn rank(&self, address: &str) -> (bool, bool, bool, bool, bool, usize) {
        let now = Instant::now();
        let unreached = lock(&self.unreached).get(address).is_some_and(|until| *until > now);
        let suspect = lock(&self.suspect_until).is_some_and(|until| until > now);
        let (told, max) = (self.told_streams.load(Ordering::Relaxed), self.told_max.load(Ordering::Relaxed));
        let here = self.streams.load(Ordering::Relaxed);
        let busy = here.max(usize::try_from(told).unwrap_or(usize::MAX));
        let full = max > 0 && told >= max;
        let draining = self.draining.load(Ordering::Relaxed);
        (draining, suspect, unreached, self.superseded.load(Ordering::Relaxed), full, busy)
    }

    /// Whether its agent has just reached `address`. One that cannot has little to do, and would be chosen by everybody.
    fn reaches(&self, address: &str, yes: bool) {
        const FOR: Duration = Duration::from_secs(60);
        /// Targets of a pool are few; further ones are asked as before.
        const MOST: usize = 256;
        let mut unreached = lock(&self.unreached);
        if yes {
            unreached.remove(address);
            return;
        }
        let now = Instant::now();
        if unreached.len() >= MOST {
            unreached.retain(|_, until| *until > now);
        }
        if unreached.len() < MOST {
            unreached.insert(address.to_owned(), now + FOR);
        }
    }

    fn suspect(&self, yes: bool) {
        const FOR: Duration = Duration::from_secs(15);
        *lock(&self.suspect_until) = yes.then(|| Instant::now() + FOR);
    }
}

impl Shared {
    fn labels(&self, agent: &Name) -> Arc<str> {
        lock(&self.labels).of(agent)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
