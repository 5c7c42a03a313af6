//! This gateway among the others: what it tells the control plane of itself and its tunnels, and what it learns of the rest.
//!
//! One task reports to whichever node of the control plane leads, and keeps the [`View`] that the relay goes by and agents are told of. With
//! the control plane gone what is known stays; with another leader everything is told anew, within a second or two.

mod advertise;
mod follow;
mod metrics;
mod report;
mod view;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use postern_core::fleet::{FleetTunnel, Transport, TunnelKey};
use postern_protocols::tunnel::newer;
use postern_runtime::tunnel::Carrier;
use tokio::sync::watch;

pub use advertise::{AdvertiseError, FleetConfig};
pub(crate) use advertise::{Advertised, Bound};
pub(crate) use follow::{Following, follow};
#[cfg(test)]
pub(crate) use view::Reader;
pub(crate) use view::View;

use crate::tunnels::Tunnels;

/// What this gateway knows of the fleet. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Fleet {
    view: Arc<watch::Sender<Arc<View>>>,
    tunnels: Tunnels,
    sessions: Arc<AtomicUsize>,
}

/// A session that is told of as long as this lives.
#[derive(Debug)]
pub(crate) struct OneSession(Arc<AtomicUsize>);

impl Drop for OneSession {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Fleet {
    pub(crate) fn new(tunnels: Tunnels) -> Self {
        Self { view: Arc::default(), tunnels, sessions: Arc::default() }
    }

    /// Counts one more session of a client.
    pub(crate) fn session(&self) -> OneSession {
        self.sessions.fetch_add(1, Ordering::Relaxed);
        OneSession(Arc::clone(&self.sessions))
    }

    /// What is known now.
    pub(crate) fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.borrow())
    }

    /// Tells of every change.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<View>> {
        self.view.subscribe()
    }

    /// What is known is another now: whoever asks, and every agent here, is told.
    fn publish(&self, view: &View) {
        metrics::known(view.gateways().count(), view.epoch().term);
        let list = view.for_agents();
        self.view.send_replace(Arc::new(view.clone()));
        self.tunnels.gateways().send_if_modified(|told| {
            // A list without anybody is of a control plane that has just begun: the own entry is better.
            let other = told.gateways != list.gateways && newer(&list, told) && !list.gateways.is_empty();
            if other {
                *told = Arc::new(list);
            }
            other
        });
    }

    /// The tunnels that are up here: of each agent the newest.
    fn held(&self) -> BTreeMap<TunnelKey, FleetTunnel> {
        let mut held: BTreeMap<TunnelKey, FleetTunnel> = BTreeMap::new();
        for tunnel in self.tunnels.held() {
            let fact = FleetTunnel {
                since: tunnel.since,
                streams: u32::try_from(tunnel.streams).unwrap_or(u32::MAX),
                rtt_us: u32::try_from(tunnel.rtt.as_micros()).unwrap_or(u32::MAX),
                transport: match tunnel.carrier {
                    Carrier::Quic => Transport::Quic,
                    Carrier::Tcp => Transport::Tcp,
                },
                version: tunnel.release,
                draining: tunnel.draining,
            };
            let key = TunnelKey { pool: tunnel.pool, agent: tunnel.agent };
            held.entry(key)
                .and_modify(|known| {
                    let streams = known.streams.saturating_add(fact.streams);
                    if fact.since >= known.since {
                        *known = fact.clone();
                    }
                    known.streams = streams;
                })
                .or_insert(fact);
        }
        held
    }
}
