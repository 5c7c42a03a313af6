//! Which gateways an agent has its tunnels to: rendezvous hashing, so that agents spread over gateways evenly, and a gateway that comes
//! or goes moves none but its own share.

use postern_proto::tunnel::v1::{GatewayAddress, Gateways};

/// The order in which `agent` prefers these gateways: by hash, those that are about to stop last.
pub fn prefer(agent: &str, gateways: &mut [GatewayAddress]) {
    gateways.sort_by_cached_key(|gateway| {
        (gateway.draining, std::cmp::Reverse(share(agent, &gateway.name)), gateway.name.clone())
    });
}

/// The claim that `gateway` has on `agent`: the greatest ones win. The same in every build: FNV-1a of both names, and the finalizer of
/// `splitmix64` for an even spread.
#[must_use]
pub fn share(agent: &str, gateway: &str) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in agent.bytes().chain([0xff]).chain(gateway.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// Whether `this` takes the place of `that`.
#[must_use]
pub fn newer(this: &Gateways, that: &Gateways) -> bool {
    (this.term, this.started, this.revision) > (that.term, that.started, that.revision)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use proptest::prelude::*;

    fn gateways(names: impl IntoIterator<Item = String>) -> Vec<GatewayAddress> {
        names.into_iter().map(|name| GatewayAddress { name, ..GatewayAddress::default() }).collect()
    }

    fn chosen(agent: &str, gateways: &[GatewayAddress], k: usize) -> BTreeSet<String> {
        let mut all = gateways.to_vec();
        prefer(agent, &mut all);
        all.into_iter().take(k).map(|gateway| gateway.name).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]

        #[test]
        fn load_spreads_and_a_change_moves_its_share(n in 4_usize..20, k in 1_usize..4, prefix in "[a-z]{1,8}", place in 0_usize..20) {
            // So many that a third off the fair share is over 5.8 standard deviations for one of 19 gateways.
            const AGENTS: usize = 6000;
            let all = gateways((0..n).map(|number| format!("{prefix}-{number}")));
            let agents: Vec<String> = (0..AGENTS).map(|number| format!("agent-{number}.{prefix}")).collect();
            let before: Vec<BTreeSet<String>> = agents.iter().map(|agent| chosen(agent, &all, k)).collect();
            let mut load = BTreeMap::new();
            for name in before.iter().flatten() {
                *load.entry(name.clone()).or_insert(0_usize) += 1;
            }
            let fair = AGENTS * k / n;
            for gateway in &all {
                let has = load.get(&gateway.name).copied().unwrap_or(0);
                prop_assert!(has * 3 > fair * 2 && has * 2 < fair * 3, "{} of {fair} at {}", has, gateway.name);
            }
            // One goes: its own tunnels move, all others stay.
            let gone = &all[place % n];
            let left: Vec<_> = all.iter().filter(|gateway| *gateway != gone).cloned().collect();
            for (agent, before) in agents.iter().zip(&before) {
                let after = chosen(agent, &left, k);
                let moved = before.difference(&after).count();
                prop_assert_eq!(moved, usize::from(before.contains(&gone.name)));
            }
        }

        #[test]
        fn order_of_the_list_does_not_matter(mut names in prop::collection::btree_set("[a-z]{1,6}", 1..12), agent in "[a-z]{1,6}") {
            let forward = gateways(names.clone());
            let backward: Vec<_> = forward.iter().rev().cloned().collect();
            prop_assert_eq!(chosen(&agent, &forward, 3), chosen(&agent, &backward, 3));
            names.clear();
        }
    }

    #[test]
    fn those_that_are_about_to_stop_come_last() {
        let mut all = gateways((0..6).map(|number| format!("g{number}")));
        prefer("a", &mut all);
        let first = all[0].name.clone();
        all[0].draining = true;
        prefer("a", &mut all);
        assert_eq!(all[5].name, first);
    }

    #[test]
    fn newer_by_term_then_start_then_revision() {
        let at = |term, started, revision| Gateways { term, started, revision, gateways: Vec::new() };
        assert!(newer(&at(2, 0, 0), &at(1, 9, 9)));
        assert!(newer(&at(1, 2, 0), &at(1, 1, 9)));
        assert!(newer(&at(1, 1, 2), &at(1, 1, 1)));
        assert!(!newer(&at(1, 1, 1), &at(1, 1, 1)));
    }
}
