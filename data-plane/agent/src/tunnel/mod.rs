//! Tunnels to gateways: which ones (`choose`), one of them (`keep`), getting there (`dial`), and what is said (`control`).

mod choose;
mod control;
mod dial;
mod keep;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use postern_core::Name;
use postern_protocols::tunnel::Gateways;
use postern_runtime::ops::Readiness;
use postern_runtime::pki::RotatingCredential;
use postern_runtime::supervisor::Supervisor;
use postern_runtime::telemetry::Lines;
use postern_runtime::tunnel::Link;
use tokio::sync::{Semaphore, watch};

use crate::allow::AllowList;
use crate::revoked::Revoked;

pub(crate) use choose::manage;
pub(crate) use control::to_control_plane;
pub(crate) use dial::{Dialer, Place};

/// What the agent's tasks share.
pub(crate) struct Shared {
    pub(crate) agent: Name,
    pub(crate) pool: Name,
    pub(crate) credential: RotatingCredential,
    pub(crate) dialer: Dialer,
    /// Of what gateways ask and are refused.
    pub(crate) refusals: Lines,
    /// Gateways that are none any more.
    revoked: Revoked,
    pub(crate) allow: AllowList,
    pub(crate) max_streams: u32,
    udp_probe: Duration,
    pub(crate) streams: Arc<Semaphore>,
    pub(crate) supervisor: Supervisor,
    pub(crate) readiness: Readiness,
    /// The newest list of gateways that any of them has told.
    gateways: watch::Sender<Arc<Gateways>>,
    /// Gateways that said that they are about to stop, or that they have no room.
    draining: watch::Sender<BTreeSet<String>>,
    /// Tunnels that are up and meant to stay.
    active: watch::Sender<usize>,
    links: Mutex<BTreeMap<u64, (Link, u32)>>,
    /// Streams open, over all tunnels.
    open: watch::Sender<u32>,
}

impl Shared {
    #[allow(clippy::too_many_arguments)] // each is something of its own
    pub(crate) fn new(
        agent: Name,
        pool: Name,
        credential: RotatingCredential,
        (dialer, revoked): (Dialer, Revoked),
        allow: AllowList,
        (max_streams, udp_probe): (u32, Duration),
        supervisor: Supervisor,
        readiness: Readiness,
    ) -> Self {
        Self {
            agent,
            pool,
            credential,
            dialer,
            refusals: Lines::default(),
            revoked,
            allow,
            max_streams,
            udp_probe,
            streams: Arc::new(Semaphore::new(usize::try_from(max_streams).unwrap_or(1024))),
            supervisor,
            readiness,
            gateways: watch::Sender::default(),
            draining: watch::Sender::default(),
            active: watch::Sender::default(),
            links: Mutex::default(),
            open: watch::Sender::default(),
        }
    }

    /// A stream has begun or ended: `by` is one more or one less.
    pub(crate) fn count(&self, more: bool) {
        self.open.send_modify(|open| *open = if more { open.saturating_add(1) } else { open.saturating_sub(1) });
    }

    /// Links over which the control plane can be reached, in no order.
    fn links(&self) -> Vec<Link> {
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<Link> =
            links.values().filter(|(_, version)| *version >= 2).map(|(link, _)| link.clone()).collect();
        fastrand::shuffle(&mut all);
        all
    }
}

/// A tunnel counts as up while this lives.
struct Up<'a> {
    shared: &'a Shared,
    id: u64,
    carrier: &'static str,
}

impl<'a> Up<'a> {
    fn new(shared: &'a Shared, link: &Link, version: u32) -> Self {
        shared.links.lock().unwrap_or_else(PoisonError::into_inner).insert(link.id(), (link.clone(), version));
        shared.active.send_modify(|active| *active = active.saturating_add(1));
        shared.readiness.set("tunnel", true);
        let carrier = link.carrier().as_str();
        metrics::gauge!("postern_agent_tunnels_open", "carrier" => carrier).increment(1.0);
        Self { shared, id: link.id(), carrier }
    }
}

impl Drop for Up<'_> {
    fn drop(&mut self) {
        self.shared.links.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
        self.shared.active.send_modify(|active| *active = active.saturating_sub(1));
        self.shared.readiness.set("tunnel", *self.shared.active.borrow() > 0);
        metrics::gauge!("postern_agent_tunnels_open", "carrier" => self.carrier).decrement(1.0);
    }
}
