//! The directory itself: what gateways last said, and what is new in it since a reader last looked. No I/O, no clock.
//!
//! Each gateway speaks through the newest stream that it opened; what comes by an older one is not heard. A first report counts when it is
//! whole, so that a gateway that begins anew is never seen half. Every change gives its key the next version; a reader holds the version up
//! to which it has read. What is gone leaves a mark for such readers, and the oldest marks are dropped: who is behind them reads all anew.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use postern_core::Name;
use postern_core::fleet::{Epoch, FleetGateway, FleetTunnel, Holding, News, Report, TunnelKey};
use postern_core::target::TargetSelector;
use postern_core::time::Timestamp;

/// How much may be told (I11).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) gateways: usize,
    /// Of one gateway.
    pub(crate) tunnels: usize,
    /// Of all.
    pub(crate) all_tunnels: usize,
    /// Marks of what is gone.
    pub(crate) marks: usize,
    /// Changes in one answer.
    pub(crate) answer: usize,
}

impl Bounds {
    pub(crate) const DEFAULT: Self =
        Self { gateways: 1_024, tunnels: 16_384, all_tunnels: 262_144, marks: 8_192, answer: 4_096 };
}

/// How long a gateway is still listed when its stream has ended: it comes back, here or at the next leader.
pub(crate) const GRACE: Duration = Duration::from_secs(5);
/// A gateway that says nothing for this long is taken for gone, whatever its connection looks like.
pub(crate) const SILENCE: Duration = Duration::from_secs(20);
/// How long a new directory waits for gateways before those that have not come are gone.
pub(crate) const SETTLING: Duration = Duration::from_secs(10);

/// What a gateway says is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReportError {
    #[error("a newer report of the same gateway has taken its place")]
    Superseded,
    #[error("{0} gateways report already")]
    TooManyGateways(usize),
    #[error("more than {0} tunnels are reported")]
    TooManyTunnels(usize),
    #[error("the first report must be whole, and tell of the gateway")]
    NotWhole,
}

/// A gateway's own stream of reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StreamId {
    pub(crate) gateway: Name,
    number: u64,
}

/// Up to where a reader has read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cursor {
    version: u64,
    /// Where the directory stood when the reader began.
    base: u64,
    /// It was told so.
    settling: bool,
    begun: bool,
}

/// Who can reach which agents.
#[derive(Debug)]
pub(crate) struct Directory {
    epoch: Epoch,
    began: Instant,
    bounds: Bounds,
    version: u64,
    /// Readers behind it read all anew.
    floor: u64,
    streams: u64,
    entries: BTreeMap<Name, Entry>,
    serves: BTreeMap<Name, TargetSelector>,
    tunnels: usize,
    /// The last change of each key.
    stamps: BTreeMap<Key, u64>,
    changed: BTreeMap<u64, Key>,
    /// Those of `changed` whose key is gone.
    marks: BTreeSet<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Gateway(Name),
    Holding(Name, Name),
}

/// What one gateway has said.
#[derive(Debug)]
struct Entry {
    stream: u64,
    since: Timestamp,
    /// When it last said anything.
    heard: Instant,
    /// Since its stream has ended.
    lost: Option<Instant>,
    told: Option<Told>,
    /// A whole report that is not yet complete.
    staged: Option<Told>,
}

#[derive(Clone, Debug)]
struct Told {
    gateway: FleetGateway,
    tunnels: BTreeMap<TunnelKey, FleetTunnel>,
    holdings: BTreeMap<Name, Holding>,
}

/// A gateway as it is listed.
#[derive(Debug)]
pub(crate) struct Listed<'a> {
    pub(crate) gateway: &'a FleetGateway,
    pub(crate) tunnels: &'a BTreeMap<TunnelKey, FleetTunnel>,
    pub(crate) connected: bool,
    /// When it began to report here.
    pub(crate) since: Timestamp,
}

impl Directory {
    pub(crate) fn new(epoch: Epoch, began: Instant, bounds: Bounds) -> Self {
        Self {
            epoch,
            began,
            bounds,
            version: 0,
            floor: 0,
            streams: 0,
            entries: BTreeMap::new(),
            serves: BTreeMap::new(),
            tunnels: 0,
            stamps: BTreeMap::new(),
            changed: BTreeMap::new(),
            marks: BTreeSet::new(),
        }
    }

    pub(crate) const fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    pub(crate) const fn version(&self) -> u64 {
        self.version
    }

    pub(crate) fn settling(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.began) < SETTLING
    }

    /// Gateways and tunnels that are listed.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.entries.values().filter(|entry| entry.told.is_some()).count(), self.tunnels)
    }

    /// A gateway begins to report: what comes by a stream of it that was opened before is not heard any more.
    pub(crate) fn open(&mut self, gateway: &Name, at: Timestamp, now: Instant) -> Result<StreamId, ReportError> {
        if !self.entries.contains_key(gateway) && self.entries.len() >= self.bounds.gateways {
            return Err(ReportError::TooManyGateways(self.bounds.gateways));
        }
        self.streams = self.streams.saturating_add(1);
        let new = || Entry { stream: 0, since: at, heard: now, lost: None, told: None, staged: None };
        let entry = self.entries.entry(gateway.clone()).or_insert_with(new);
        entry.stream = self.streams;
        entry.since = at;
        entry.heard = now;
        entry.lost = None;
        entry.staged = None;
        Ok(StreamId { gateway: gateway.clone(), number: self.streams })
    }

    /// Whether a newer stream of the same gateway has taken its place.
    pub(crate) fn superseded(&self, stream: &StreamId) -> bool {
        self.entries.get(&stream.gateway).is_none_or(|entry| entry.stream != stream.number)
    }

    /// Takes in what a gateway says.
    pub(crate) fn report(&mut self, stream: &StreamId, report: Report, now: Instant) -> Result<(), ReportError> {
        let serves = self.serves.get(&stream.gateway).cloned();
        let free = self.bounds.all_tunnels.saturating_sub(self.tunnels);
        let entry = self.entries.get_mut(&stream.gateway).filter(|entry| entry.stream == stream.number);
        let entry = entry.ok_or(ReportError::Superseded)?;
        entry.heard = now;
        let gateway = report.gateway.map(|gateway| FleetGateway { serves, ..gateway });
        if report.whole {
            let gateway = gateway.clone().ok_or(ReportError::NotWhole)?;
            entry.staged = Some(Told { gateway, tunnels: BTreeMap::new(), holdings: BTreeMap::new() });
        }
        let held = entry.told.as_ref().map_or(0, |told| told.tunnels.len());
        // A whole report takes the place of what was told: until then it may use as much room again.
        let most = self.bounds.tunnels.min(free.saturating_add(held));
        let staging = entry.staged.is_some();
        let told = entry.staged.as_mut().or(entry.told.as_mut()).ok_or(ReportError::NotWhole)?;
        let mut before = BTreeMap::new();
        let mut other_gateway = false;
        if let Some(gateway) = gateway {
            other_gateway = told.gateway != gateway;
            told.gateway = gateway;
        }
        for key in &report.closed {
            told.set(key, None, &mut before);
        }
        let mut taken = Ok(());
        for (key, tunnel) in report.tunnels {
            if told.tunnels.len() >= most && !told.tunnels.contains_key(&key) {
                taken = Err(ReportError::TooManyTunnels(most));
                break;
            }
            told.set(&key, Some(tunnel), &mut before);
        }
        if !staging {
            let holds = told.tunnels.len();
            let others = before.into_iter().filter(|(pool, was)| told.holdings.get(pool) != was.as_ref());
            let pools = others.map(|(pool, _)| pool).collect();
            self.count(held, holds);
            self.touch_all(&stream.gateway, other_gateway, pools);
        } else if !report.more && taken.is_ok() {
            self.take_staged(&stream.gateway);
        }
        taken
    }

    /// A whole report is complete: it takes the place of what was told before.
    fn take_staged(&mut self, name: &Name) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        let Some(staged) = entry.staged.take() else { return };
        let former = entry.told.replace(staged);
        let Some(told) = &entry.told else { return };
        let (none, now) = (BTreeMap::new(), told.tunnels.len());
        let before = former.as_ref().map_or(&none, |told| &told.holdings);
        let all: BTreeSet<&Name> = before.keys().chain(told.holdings.keys()).collect();
        let pools = all.into_iter().filter(|pool| before.get(*pool) != told.holdings.get(*pool)).cloned().collect();
        let other_gateway = former.as_ref().is_none_or(|former| former.gateway != told.gateway);
        self.count(former.as_ref().map_or(0, |former| former.tunnels.len()), now);
        self.touch_all(name, other_gateway, pools);
    }

    /// The stream has ended: its gateway stays listed for [`GRACE`].
    pub(crate) fn close(&mut self, stream: &StreamId, now: Instant) {
        let Some(entry) = self.entries.get_mut(&stream.gateway) else { return };
        if entry.stream == stream.number && entry.lost.is_none() {
            entry.lost = Some(now);
            entry.staged = None;
        }
    }

    /// Forgets gateways that did not come back, or say nothing.
    pub(crate) fn expire(&mut self, now: Instant) {
        let due = |entry: &Entry| {
            let silent = entry.heard + SILENCE;
            entry.lost.map_or(silent, |lost| silent.min(lost + GRACE))
        };
        let gone: Vec<Name> =
            self.entries.iter().filter(|(_, entry)| due(entry) <= now).map(|(name, _)| name.clone()).collect();
        for name in gone {
            let Some(told) = self.entries.remove(&name).and_then(|entry| entry.told) else { continue };
            self.count(told.tunnels.len(), 0);
            self.touch_all(&name, true, told.holdings.into_keys().collect());
        }
    }

    /// What gateways serve that do not serve all: the control plane's own word.
    pub(crate) fn set_serves(&mut self, serves: &BTreeMap<Name, TargetSelector>) {
        if self.serves == *serves {
            return;
        }
        self.serves.clone_from(serves);
        let mut others = Vec::new();
        for (name, entry) in &mut self.entries {
            let serves = serves.get(name);
            if let Some(staged) = &mut entry.staged {
                staged.gateway.serves = serves.cloned();
            }
            if let Some(told) = entry.told.as_mut().filter(|told| told.gateway.serves.as_ref() != serves) {
                told.gateway.serves = serves.cloned();
                others.push(name.clone());
            }
        }
        for name in others {
            self.touch_all(&name, true, Vec::new());
        }
    }

    /// What is new since `cursor`, which moves on; `None`: nothing.
    pub(crate) fn since(&self, cursor: &mut Cursor, now: Instant) -> Option<News> {
        let settling = self.settling(now);
        let mut news = News { epoch: self.epoch.clone(), settling, ..News::default() };
        if !cursor.begun || self.floor > cursor.version.max(cursor.base) {
            *cursor = Cursor { version: 0, base: self.version, settling, begun: true };
            news.whole = true;
        } else if cursor.version >= self.version && cursor.settling == settling {
            return None;
        }
        let mut told = 0;
        for (version, key) in self.changed.range(cursor.version.saturating_add(1)..) {
            if told >= self.bounds.answer {
                news.more = true;
                break;
            }
            cursor.version = *version;
            told += usize::from(self.tell(key, *version <= cursor.base, &mut news));
        }
        if !news.more {
            // The newest may be marks that were dropped.
            cursor.version = self.version;
        }
        cursor.settling = settling;
        news.version = cursor.version;
        Some(news)
    }

    /// A sign of life for a reader that has read everything.
    pub(crate) fn nothing_new(&self, cursor: &Cursor, now: Instant) -> News {
        let (epoch, version) = (self.epoch.clone(), cursor.version);
        News { epoch, version, settling: self.settling(now), ..News::default() }
    }

    /// Whether there was something to tell; of what was gone when the reader began there is not.
    fn tell(&self, key: &Key, skip_marks: bool, news: &mut News) -> bool {
        match key {
            Key::Gateway(name) => match self.told(name) {
                Some(told) => news.gateways.push(told.gateway.clone()),
                None if skip_marks => return false,
                None => news.gone.push(name.clone()),
            },
            Key::Holding(name, pool) => match self.told(name).and_then(|told| told.holdings.get(pool)) {
                Some(holding) => news.holdings.push((name.clone(), pool.clone(), *holding)),
                None if skip_marks => return false,
                None => news.holdings.push((name.clone(), pool.clone(), Holding::default())),
            },
        }
        true
    }

    /// Gateways, by name.
    pub(crate) fn listed(&self) -> impl Iterator<Item = Listed<'_>> {
        self.entries.values().filter_map(|entry| {
            let Told { gateway, tunnels, .. } = entry.told.as_ref()?;
            Some(Listed { gateway, tunnels, connected: entry.lost.is_none(), since: entry.since })
        })
    }

    fn count(&mut self, before: usize, now: usize) {
        self.tunnels = self.tunnels.saturating_sub(before).saturating_add(now);
    }

    fn touch_all(&mut self, gateway: &Name, itself: bool, pools: Vec<Name>) {
        if itself {
            self.touch(Key::Gateway(gateway.clone()));
        }
        for pool in pools {
            self.touch(Key::Holding(gateway.clone(), pool));
        }
        self.drop_marks();
    }

    fn touch(&mut self, key: Key) {
        self.version = self.version.saturating_add(1);
        if !self.is_live(&key) {
            self.marks.insert(self.version);
        }
        if let Some(former) = self.stamps.insert(key.clone(), self.version) {
            self.changed.remove(&former);
            self.marks.remove(&former);
        }
        self.changed.insert(self.version, key);
    }

    fn drop_marks(&mut self) {
        while self.marks.len() > self.bounds.marks {
            let Some(oldest) = self.marks.pop_first() else { return };
            if let Some(key) = self.changed.remove(&oldest) {
                self.stamps.remove(&key);
            }
            self.floor = oldest;
        }
    }

    fn told(&self, name: &Name) -> Option<&Told> {
        self.entries.get(name)?.told.as_ref()
    }

    fn is_live(&self, key: &Key) -> bool {
        match key {
            Key::Gateway(name) => self.told(name).is_some(),
            Key::Holding(name, pool) => self.told(name).is_some_and(|told| told.holdings.contains_key(pool)),
        }
    }
}

impl Told {
    /// Sets or removes a tunnel; `before` keeps what was held of its pool when it is first touched.
    fn set(&mut self, key: &TunnelKey, tunnel: Option<FleetTunnel>, before: &mut BTreeMap<Name, Option<Holding>>) {
        let held = self.holdings.get(&key.pool).copied();
        before.entry(key.pool.clone()).or_insert(held);
        let mut holding = held.unwrap_or_default();
        if let Some(former) = self.tunnels.remove(key) {
            holding.agents = holding.agents.saturating_sub(1);
            holding.streams = holding.streams.saturating_sub(former.streams.into());
            holding.draining = holding.draining.saturating_sub(former.draining.into());
        }
        if let Some(tunnel) = tunnel {
            holding.agents = holding.agents.saturating_add(1);
            holding.streams = holding.streams.saturating_add(tunnel.streams.into());
            holding.draining = holding.draining.saturating_add(tunnel.draining.into());
            self.tunnels.insert(key.clone(), tunnel);
        }
        if holding.agents == 0 {
            self.holdings.remove(&key.pool);
        } else {
            self.holdings.insert(key.pool.clone(), holding);
        }
    }
}

#[cfg(test)]
#[path = "directory_tests.rs"]
mod tests;
