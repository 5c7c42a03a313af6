//! To which gateways there are tunnels: those of the list that rendezvous hashing gives this agent; while there is no list, the configured
//! ones.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use postern_protocols::tunnel::{self, GatewayAddress, Gateways};
use postern_runtime::supervisor::OnEnd;
use tokio_util::sync::CancellationToken;

use super::keep::{Kept, keep};
use super::{Place, Shared};

/// Without any tunnel for so long, the configured gateways are tried as well as those of the list.
const ALONE: Duration = Duration::from_secs(10);
/// A tunnel that is no longer chosen stays until another one is up, at most so long.
const OVERLAP: Duration = Duration::from_secs(60);
/// At first one configured gateway is asked, as most tell of the others at once; the rest when none has told for so long.
const ALL_SEEDS: Duration = Duration::from_secs(2);

/// Which gateway a kept tunnel is to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    /// By its name in the list.
    Named(String),
    /// By its configured address.
    Seed(String),
}

/// Keeps tunnels to `count` gateways until the node's sessions have ended.
pub(crate) async fn manage(shared: Arc<Shared>, seeds: Vec<Place>, count: usize) {
    let stop = shared.supervisor.sessions_ended_token();
    let (mut list, mut draining) = (shared.gateways.subscribe(), shared.draining.subscribe());
    let mut active = shared.active.subscribe();
    let mut kept: BTreeMap<Key, Arc<Kept>> = BTreeMap::new();
    let all_seeds = tokio::time::Instant::now() + ALL_SEEDS;
    let (mut alone, mut first) = (false, true);
    loop {
        // Read first: whatever changes from here on wakes the loop again.
        let lonely = *active.borrow_and_update() == 0;
        // Configured gateways are let go of when one of the list is there again, not before.
        let is_listed =
            |(key, kept): (&Key, &Arc<Kept>)| matches!(key, Key::Named(_)) && kept.up.load(Ordering::SeqCst);
        alone &= !kept.iter().any(is_listed);
        let (wanted, listed) = {
            let (list, draining) = (list.borrow_and_update().clone(), draining.borrow_and_update().clone());
            let seeds_count = if first { 1 } else { count };
            let wanted = wanted(shared.agent.as_str(), &list, &draining, &seeds, (count, seeds_count), alone);
            (wanted, !list.gateways.is_empty())
        };
        first &= !listed;
        adopt(&mut kept, &wanted);
        for (key, place) in &wanted {
            match kept.get(key) {
                Some(known) => *known.place.lock().unwrap_or_else(PoisonError::into_inner) = place.clone(),
                None => {
                    let new = Arc::new(Kept {
                        place: Mutex::new(place.clone()),
                        name: Mutex::default(),
                        up: AtomicBool::new(false),
                        retire: CancellationToken::new(),
                    });
                    kept.insert(key.clone(), Arc::clone(&new));
                    shared.supervisor.spawn("tunnel", OnEnd::EndPart, keep(new, Arc::clone(&shared)));
                }
            }
        }
        let gone: Vec<Key> = kept.keys().filter(|key| !wanted.contains_key(key)).cloned().collect();
        for key in gone {
            if let Some(kept) = kept.remove(&key) {
                retire(kept, &shared);
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            _ = list.changed() => {}
            _ = draining.changed() => {}
            _ = active.changed() => {}
            () = tokio::time::sleep_until(all_seeds), if first => first = false,
            () = tokio::time::sleep(ALONE), if lonely && !alone && !first => {
                alone = true;
                // A list that leads nowhere may be a lie: the next one is taken, whatever its number.
                shared.gateways.send_modify(|known| {
                    let gateways = known.gateways.clone();
                    *known = Arc::new(Gateways { gateways, ..Gateways::default() });
                });
            }
        }
    }
}

/// A tunnel to a configured address that turned out to be to a gateway of the list is that gateway's.
fn adopt(kept: &mut BTreeMap<Key, Arc<Kept>>, wanted: &BTreeMap<Key, Place>) {
    for key in wanted.keys() {
        let Key::Named(name) = key else { continue };
        if kept.contains_key(key) {
            continue;
        }
        let same = |kept: &Kept| kept.name.lock().unwrap_or_else(PoisonError::into_inner).as_ref() == Some(name);
        let seed = kept.iter().find(|(known, kept)| matches!(known, Key::Seed(_)) && same(kept));
        if let Some(seed) = seed.map(|(known, _)| known.clone())
            && let Some(tunnel) = kept.remove(&seed)
        {
            kept.insert(key.clone(), tunnel);
        }
    }
}

/// Lets go of it once there is another one; of one that is not up at once.
fn retire(kept: Arc<Kept>, shared: &Arc<Shared>) {
    if !kept.up.load(Ordering::SeqCst) {
        return kept.retire.cancel();
    }
    let mut active = shared.active.subscribe();
    let stop = shared.supervisor.sessions_ended_token();
    shared.supervisor.spawn("tunnel-retire", OnEnd::EndPart, async move {
        let another = async {
            // This one counts among them.
            while *active.borrow_and_update() < 2 {
                if active.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            _ = tokio::time::timeout(OVERLAP, another) => {}
        }
        kept.retire.cancel();
    });
}

fn wanted(
    agent: &str,
    list: &Gateways,
    draining: &BTreeSet<String>,
    seeds: &[Place],
    (count, seeds_count): (usize, usize),
    alone: bool,
) -> BTreeMap<Key, Place> {
    let mut known: Vec<GatewayAddress> = list.gateways.clone();
    for gateway in &mut known {
        gateway.draining |= draining.contains(&gateway.name);
    }
    tunnel::prefer(agent, &mut known);
    let place =
        |gateway: GatewayAddress| (Key::Named(gateway.name.clone()), Place { quic: gateway.quic, tcp: gateway.tcp });
    let mut wanted: BTreeMap<Key, Place> = known.into_iter().take(count).map(place).collect();
    if wanted.is_empty() || alone {
        let mut seeds = seeds.to_vec();
        seeds.sort_by_cached_key(|seed| std::cmp::Reverse(tunnel::share(agent, seed.address())));
        wanted.extend(seeds.into_iter().take(seeds_count).map(|seed| (Key::Seed(seed.address().to_owned()), seed)));
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seed(address: &str) -> Place {
        Place { quic: vec![address.into()], tcp: vec![address.into()] }
    }

    fn gateway(name: &str) -> GatewayAddress {
        GatewayAddress { name: name.into(), quic: vec![format!("{name}:1")], ..GatewayAddress::default() }
    }

    fn names(wanted: &BTreeMap<Key, Place>) -> BTreeSet<String> {
        wanted
            .keys()
            .map(|key| match key {
                Key::Named(name) | Key::Seed(name) => name.clone(),
            })
            .collect()
    }

    #[test]
    fn seeds_until_there_is_a_list_and_again_when_alone() {
        let seeds: Vec<Place> = (0..5).map(|n| seed(&format!("s{n}:1"))).collect();
        let none = BTreeSet::new();
        assert_eq!(wanted("a", &Gateways::default(), &none, &seeds, (3, 1), false).len(), 1);
        assert_eq!(wanted("a", &Gateways::default(), &none, &seeds, (3, 3), false).len(), 3);
        let list = Gateways { gateways: (0..6).map(|n| gateway(&format!("g{n}"))).collect(), ..Gateways::default() };
        let by_list = wanted("a", &list, &none, &seeds, (3, 3), false);
        assert!(by_list.len() == 3 && by_list.keys().all(|key| matches!(key, Key::Named(_))), "{by_list:?}");
        assert_eq!(wanted("a", &list, &none, &seeds, (3, 3), true).len(), 6);
        // One of them is about to stop: another takes its place, the others stay.
        let first = names(&by_list).into_iter().next().unwrap();
        let after = names(&wanted("a", &list, &[first.clone()].into(), &seeds, (3, 3), false));
        assert!(!after.contains(&first));
        assert_eq!(names(&by_list).intersection(&after).count(), 2);
    }

    #[test]
    fn a_seed_becomes_the_gateway_that_it_is() {
        let kept = Arc::new(Kept {
            place: Mutex::new(seed("s:1")),
            name: Mutex::new(Some("g1".into())),
            up: AtomicBool::new(true),
            retire: CancellationToken::new(),
        });
        let mut all = BTreeMap::from([(Key::Seed("s:1".into()), kept)]);
        let wanted = BTreeMap::from([(Key::Named("g1".into()), seed("g1:1")), (Key::Named("g2".into()), seed("g2:1"))]);
        adopt(&mut all, &wanted);
        assert_eq!(all.into_keys().collect::<Vec<_>>(), [Key::Named("g1".into())]);
    }
}
