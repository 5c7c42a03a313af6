//! The directory as this gateway has it. No I/O, no clock.
//!
//! A new leader's directory begins empty. Until it has settled, what was known before stays good of gateways that it does not know yet; what
//! an old leader still says when a newer one has spoken is not taken.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use postern_core::Name;
use postern_core::fleet::{Epoch, FleetGateway, Holding, News};
use postern_core::target::TargetSelector;
use postern_protocols::tunnel::{GatewayAddress, Gateways, MAX_ADDRESSES};

/// What the control plane says cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ViewError {
    #[error("the directory of an older leader than one that has spoken")]
    Older,
    #[error("changes came before the whole")]
    NotWhole,
}

/// Who can reach which agents.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    epoch: Epoch,
    version: u64,
    now: Told,
    /// Of the epoch before: for gateways that the new leader does not know yet.
    former: Told,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Told {
    gateways: BTreeMap<Name, FleetGateway>,
    /// By gateway and pool.
    holdings: BTreeMap<Name, BTreeMap<Name, Holding>>,
}

/// One stream of news that is put into a view.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    staged: Option<(Epoch, Told)>,
    begun: bool,
}

impl Reader {
    /// Takes news in; whether the view is another now.
    pub(crate) fn take(&mut self, view: &mut View, news: News) -> Result<bool, ViewError> {
        if news.epoch.compare(&view.epoch) == Some(Ordering::Less) {
            return Err(ViewError::Older);
        }
        let (epoch, version, settling, more) = (news.epoch.clone(), news.version, news.settling, news.more);
        if news.whole {
            self.staged = Some((epoch.clone(), Told::default()));
        }
        let whole = match &mut self.staged {
            Some((_, staged)) => {
                staged.take(news);
                !more
            }
            None if !self.begun || epoch != view.epoch => return Err(ViewError::NotWhole),
            None => {
                let other = !(news.gateways.is_empty() && news.gone.is_empty() && news.holdings.is_empty());
                view.former.forget(&news.gone);
                view.now.take(news);
                view.version = version;
                return Ok(view.settle(settling) || other);
            }
        };
        if let Some((epoch, staged)) = self.staged.take_if(|_| whole) {
            self.begun = true;
            let before = std::mem::replace(&mut view.now, staged);
            if epoch != view.epoch {
                // Two changes of the leader in a row: what the first did not come to know is of its predecessor.
                view.former.overlay(before);
                view.epoch = epoch;
            }
            view.version = version;
            view.settle(settling);
            return Ok(true);
        }
        Ok(false)
    }
}

impl View {
    /// Once the new leader's directory has settled, what it does not know is gone. Whether that is news.
    fn settle(&mut self, settling: bool) -> bool {
        if settling || self.former == Told::default() {
            return false;
        }
        self.former = Told::default();
        true
    }

    /// Which life of the directory it is of.
    pub(crate) const fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    /// Every gateway, by name.
    pub(crate) fn gateways(&self) -> impl Iterator<Item = &FleetGateway> {
        let former = self.former.gateways.values().filter(|former| !self.now.gateways.contains_key(&former.name));
        self.now.gateways.values().chain(former)
    }

    /// One gateway.
    pub(crate) fn gateway(&self, name: &Name) -> Option<&FleetGateway> {
        self.now.gateways.get(name).or_else(|| self.former.gateways.get(name))
    }

    /// Whether `gateway` serves the target, as far as is known: nothing is known of one that is not here.
    pub(crate) fn serves(&self, gateway: &Name, target: &Name, labels: &BTreeMap<String, String>) -> Option<bool> {
        let all = |serves: &Option<TargetSelector>| serves.as_ref().is_none_or(|only| only.matches(target, labels));
        self.gateway(gateway).map(|gateway| all(&gateway.serves))
    }

    /// The agents that each gateway has a tunnel of.
    pub(crate) fn agents(&self) -> BTreeMap<Name, u64> {
        let all = |gateway: &FleetGateway| {
            let told = if self.now.gateways.contains_key(&gateway.name) { &self.now } else { &self.former };
            let held = told.holdings.get(&gateway.name).into_iter().flat_map(BTreeMap::values);
            (gateway.name.clone(), held.map(|holding| u64::from(holding.agents)).sum())
        };
        self.gateways().map(all).collect()
    }

    /// What `gateway` holds of `pool`.
    fn holding(&self, gateway: &Name, pool: &Name) -> Option<Holding> {
        let told = if self.now.gateways.contains_key(gateway) { &self.now } else { &self.former };
        told.holdings.get(gateway)?.get(pool).copied()
    }

    /// The gateways that hold a tunnel of `pool`: those with an agent that stays first, of them those that stay themselves, then by the
    /// streams that each agent has.
    pub(crate) fn holders(&self, pool: &Name) -> Vec<&FleetGateway> {
        let holding = |gateway: &&FleetGateway| self.holding(&gateway.name, pool).filter(|held| held.agents > 0);
        let held = self.gateways().filter_map(|gateway| Some((gateway, holding(&gateway)?)));
        let mut holders: Vec<_> = held
            .map(|(gateway, held)| {
                // In sixteenths of a stream: enough to tell idle ones apart. What is open to agents that drain is left to them.
                let each = held.streams.saturating_mul(16) / u64::from(held.staying().max(1));
                ((held.staying() == 0, gateway.draining, each), gateway)
            })
            .collect();
        holders.sort_by_key(|(rank, _)| *rank);
        holders.into_iter().map(|(_, gateway)| gateway).collect()
    }

    /// What agents are told: every gateway that takes tunnels.
    pub(crate) fn for_agents(&self) -> Gateways {
        let texts = |addresses: &[postern_core::target::Address]| {
            addresses.iter().take(MAX_ADDRESSES).map(ToString::to_string).collect::<Vec<_>>()
        };
        let address = |gateway: &FleetGateway| GatewayAddress {
            name: gateway.name.to_string(),
            quic: texts(&gateway.tunnel_addresses),
            tcp: texts(&gateway.tunnel_tcp_addresses),
            draining: gateway.draining,
        };
        let mut gateways: Vec<GatewayAddress> = self.gateways().map(address).collect();
        gateways.retain(|gateway| !(gateway.quic.is_empty() && gateway.tcp.is_empty()));
        gateways.sort_by(|one, other| one.name.cmp(&other.name));
        let (term, started) = (self.epoch.term, self.epoch.began_at.millis());
        Gateways { term, started, revision: self.version, gateways }
    }
}

impl Told {
    fn take(&mut self, news: News) {
        self.forget(&news.gone);
        self.gateways.extend(news.gateways.into_iter().map(|gateway| (gateway.name.clone(), gateway)));
        for (gateway, pool, holding) in news.holdings {
            if holding.agents > 0 {
                self.holdings.entry(gateway).or_default().insert(pool, holding);
            } else if let Some(held) = self.holdings.get_mut(&gateway) {
                held.remove(&pool);
                if held.is_empty() {
                    self.holdings.remove(&gateway);
                }
            }
        }
    }

    fn forget(&mut self, gone: &[Name]) {
        for name in gone {
            self.gateways.remove(name);
            self.holdings.remove(name);
        }
    }

    /// What is in `newer` takes the place of what is here, gateway by gateway.
    fn overlay(&mut self, newer: Self) {
        let Self { gateways, mut holdings } = newer;
        for (name, gateway) in gateways {
            match holdings.remove(&name) {
                Some(held) => drop(self.holdings.insert(name.clone(), held)),
                None => drop(self.holdings.remove(&name)),
            }
            self.gateways.insert(name, gateway);
        }
    }
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
