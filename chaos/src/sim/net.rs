//! The network between nodes and clients: each link delays, loses, repeats and reorders, and may be cut in one direction or both.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;

use super::rng::{chance, stream};
use super::{MS, Time};

/// A node's id, or a client's ([`client_address`]).
pub type Address = u64;

const CLIENTS: Address = 1_000_000;

/// Where client `n` is.
#[must_use]
pub const fn client_address(n: u64) -> Address {
    CLIENTS.saturating_add(n)
}

/// How the network is, everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weather {
    /// Packets lost in a thousand.
    pub loss: u64,
    /// Packets that come twice in a thousand.
    pub duplicates: u64,
    /// Packets in a thousand that take ten times as long.
    pub stragglers: u64,
    /// The least that a packet takes.
    pub least: Time,
    /// The most.
    pub most: Time,
}

impl Weather {
    /// Nothing is lost and all is quick.
    pub const FAIR: Self = Self { loss: 0, duplicates: 0, stragglers: 0, least: 200, most: 2 * MS };
}

/// See the module.
pub struct Net {
    rng: Rng,
    /// How it is now.
    pub weather: Weather,
    cut: BTreeSet<(Address, Address)>,
    /// The last arrival on each link, where links keep their order.
    ordered: Option<BTreeMap<(Address, Address), Time>>,
}

impl Net {
    /// In fair weather. `ordered`: each link delivers in the order in which it was given.
    #[must_use]
    pub fn new(seed: u64, ordered: bool) -> Self {
        Self {
            rng: stream(seed, "net"),
            weather: Weather::FAIR,
            cut: BTreeSet::new(),
            ordered: ordered.then(BTreeMap::new),
        }
    }

    /// When a packet that is sent now arrives: never, once, or twice.
    pub fn route(&mut self, now: Time, from: Address, to: Address) -> Vec<Time> {
        if self.cut.contains(&(from, to)) || chance(&mut self.rng, self.weather.loss) {
            return Vec::new();
        }
        let copies = if chance(&mut self.rng, self.weather.duplicates) { 2 } else { 1 };
        let mut arrivals = Vec::with_capacity(copies);
        for _ in 0..copies {
            let Weather { least, most, stragglers, .. } = self.weather;
            let mut delay = self.rng.u64(least..=most.max(least));
            if chance(&mut self.rng, stragglers) {
                delay = delay.saturating_mul(10);
            }
            let mut at = now.saturating_add(delay);
            if let Some(ordered) = &mut self.ordered {
                let last = ordered.entry((from, to)).or_default();
                at = at.max(last.saturating_add(1));
                *last = at;
            }
            arrivals.push(at);
        }
        arrivals
    }

    /// Whether nothing gets from `from` to `to`.
    #[must_use]
    pub fn is_cut(&self, from: Address, to: Address) -> bool {
        self.cut.contains(&(from, to))
    }

    /// Nothing gets from `from` to `to` any more; the other direction stays as it is.
    pub fn cut(&mut self, from: Address, to: Address) {
        self.cut.insert((from, to));
    }

    /// Nothing gets from one side to the other.
    pub fn part(&mut self, one: &[Address], other: &[Address]) {
        for a in one {
            for b in other {
                self.cut(*a, *b);
                self.cut(*b, *a);
            }
        }
    }

    /// Mends every cut.
    pub fn mend(&mut self) {
        self.cut.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_are_one_way_and_mended() {
        let mut net = Net::new(1, false);
        net.cut(1, 2);
        assert!(net.route(0, 1, 2).is_empty());
        assert_eq!(net.route(0, 2, 1).len(), 1);
        net.part(&[1], &[3, 4]);
        assert!(net.route(0, 4, 1).is_empty() && net.route(0, 1, 3).is_empty() && net.is_cut(3, 1));
        net.mend();
        assert_eq!(net.route(0, 1, 2).len(), 1);
    }

    #[test]
    fn weather_loses_repeats_and_reorders_unless_links_are_ordered() {
        for ordered in [false, true] {
            let mut net = Net::new(2, ordered);
            net.weather = Weather { loss: 200, duplicates: 200, stragglers: 100, least: MS, most: 20 * MS };
            let arrivals: Vec<Vec<Time>> = (0..1_000).map(|n| net.route(n * MS, 1, 2)).collect();
            let (lost, twice) = (arrivals.iter().filter(|a| a.is_empty()), arrivals.iter().filter(|a| a.len() == 2));
            assert!((100..300).contains(&lost.count()) && (100..300).contains(&twice.count()));
            let flat: Vec<Time> = arrivals.into_iter().flatten().collect();
            assert_eq!(flat.is_sorted(), ordered);
        }
    }
}
