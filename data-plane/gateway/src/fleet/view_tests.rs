use postern_core::Timestamp;

use super::*;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn epoch(term: u64) -> Epoch {
    Epoch { incarnation: "life".into(), term, began_at: Timestamp::from_millis(term) }
}

fn gateway(text: &str) -> FleetGateway {
    FleetGateway {
        name: name(text),
        tunnel_addresses: vec![format!("{text}.example:7443").parse().unwrap()],
        tunnel_tcp_addresses: Vec::new(),
        client_addresses: Vec::new(),
        version: String::new(),
        tunnel_version_min: 1,
        tunnel_version: 2,
        draining: false,
        sessions: 0,
        started_at: Timestamp::from_millis(0),
        serves: None,
    }
}

fn whole(term: u64, settling: bool, held: &[(&str, &str, u32, u64)]) -> News {
    let mut gateways: Vec<_> = held.iter().map(|(gateway, ..)| *gateway).collect();
    gateways.dedup();
    News {
        epoch: epoch(term),
        version: 7,
        whole: true,
        settling,
        gateways: gateways.into_iter().map(gateway).collect(),
        holdings: held
            .iter()
            .map(|(gateway, pool, agents, streams)| {
                (name(gateway), name(pool), Holding { agents: *agents, streams: *streams, draining: 0 })
            })
            .collect(),
        ..News::default()
    }
}

fn holders(view: &View, pool: &str) -> Vec<String> {
    view.holders(&name(pool)).into_iter().map(|gateway| gateway.name.to_string()).collect()
}

#[test]
fn the_least_busy_holder_comes_first_and_one_that_drains_last() {
    let (mut view, mut reader) = (View::default(), Reader::default());
    let news = whole(1, false, &[("g1", "lab", 1, 4), ("g2", "lab", 4, 4), ("g3", "lab", 9, 0), ("g4", "edge", 1, 0)]);
    assert_eq!(reader.take(&mut view, news), Ok(true));
    assert_eq!(holders(&view, "lab"), ["g3", "g2", "g1"]);
    let drains = FleetGateway { draining: true, ..gateway("g3") };
    let gone = (name("g2"), name("lab"), Holding::default());
    let news = News { epoch: epoch(1), gateways: vec![drains], holdings: vec![gone], ..News::default() };
    assert_eq!(reader.take(&mut view, news), Ok(true));
    assert_eq!(holders(&view, "lab"), ["g1", "g3"]);
    assert_eq!(holders(&view, "none"), Vec::<String>::new());
    assert!(view.for_agents().gateways.iter().any(|it| it.name == "g3" && it.draining));
    // Whose agents are all about to stop comes last of all; what they still carry says nothing of one that stays.
    let held = |agents, streams, draining| Holding { agents, streams, draining };
    let holdings = vec![
        (name("g1"), name("lab"), held(2, 0, 2)),
        (name("g2"), name("lab"), held(2, 90, 1)),
        (name("g4"), name("lab"), held(1, 95, 0)),
    ];
    assert_eq!(reader.take(&mut view, News { epoch: epoch(1), holdings, ..News::default() }), Ok(true));
    assert_eq!(holders(&view, "lab"), ["g2", "g4", "g3", "g1"]);
    // A sign of life is no news.
    assert_eq!(reader.take(&mut view, News { epoch: epoch(1), ..News::default() }), Ok(false));
}

#[test]
fn what_was_known_stays_until_a_new_leader_has_settled() {
    let (mut view, mut reader) = (View::default(), Reader::default());
    reader.take(&mut view, whole(1, false, &[("g1", "lab", 1, 0), ("g2", "lab", 1, 1), ("g3", "lab", 1, 2)])).unwrap();
    // Only g1 has come to the new leader, and holds something else by now.
    let mut reader = Reader::default();
    reader.take(&mut view, whole(2, true, &[("g1", "edge", 1, 0)])).unwrap();
    assert_eq!((holders(&view, "lab"), holders(&view, "edge")), (vec!["g2".into(), "g3".into()], vec!["g1".into()]));
    // Of g2 it is said that it is gone; another new leader comes before this one has settled.
    let gone = News { epoch: epoch(2), settling: true, gone: vec![name("g2")], ..News::default() };
    assert_eq!(reader.take(&mut view, gone), Ok(true));
    let mut reader = Reader::default();
    reader.take(&mut view, whole(3, true, &[])).unwrap();
    assert_eq!((holders(&view, "lab"), holders(&view, "edge")), (vec!["g3".to_owned()], vec!["g1".to_owned()]));
    let settled = News { epoch: epoch(3), ..News::default() };
    assert_eq!(reader.take(&mut view, settled), Ok(true));
    assert_eq!(view.gateways().count(), 0);
}

#[test]
fn an_old_leader_is_not_heard_and_a_restored_cluster_is() {
    let (mut view, mut reader) = (View::default(), Reader::default());
    reader.take(&mut view, whole(5, false, &[("g1", "lab", 1, 0)])).unwrap();
    assert_eq!(Reader::default().take(&mut view, whole(4, false, &[])), Err(ViewError::Older));
    assert_eq!(holders(&view, "lab"), ["g1"]);
    let mut restored = whole(1, false, &[("g9", "lab", 1, 0)]);
    restored.epoch.incarnation = "another".into();
    assert_eq!(Reader::default().take(&mut view, restored), Ok(true));
    assert_eq!(holders(&view, "lab"), ["g9"]);
}

#[test]
fn the_whole_comes_first_and_counts_when_it_is_complete() {
    let mut view = View::default();
    let mut reader = Reader::default();
    let change = News { epoch: epoch(1), gone: vec![name("g1")], ..News::default() };
    assert_eq!(reader.take(&mut view, change.clone()), Err(ViewError::NotWhole));
    let first = News { more: true, ..whole(1, false, &[("g1", "lab", 1, 0)]) };
    assert_eq!(reader.take(&mut view, first), Ok(false));
    assert_eq!(holders(&view, "lab"), Vec::<String>::new());
    let rest = News { whole: false, ..whole(1, false, &[("g2", "lab", 1, 5)]) };
    assert_eq!(reader.take(&mut view, rest), Ok(true));
    assert_eq!(holders(&view, "lab"), ["g1", "g2"]);
    // Broken off in the middle, another stream begins anew; what is known stays meanwhile.
    let mut reader = Reader::default();
    reader.take(&mut view, News { more: true, ..whole(1, false, &[]) }).unwrap();
    assert_eq!(holders(&view, "lab"), ["g1", "g2"]);
    let mut reader = Reader::default();
    reader.take(&mut view, whole(1, false, &[("g2", "lab", 1, 5)])).unwrap();
    assert_eq!(holders(&view, "lab"), ["g2"]);
}

#[test]
fn a_gateway_serves_what_the_control_plane_says() {
    let (mut view, mut reader) = (View::default(), Reader::default());
    let only = TargetSelector { names: vec!["db".into()], ..TargetSelector::default() };
    let mut news = whole(1, false, &[("g1", "lab", 1, 0), ("g2", "lab", 1, 0)]);
    news.gateways[0].serves = Some(only);
    reader.take(&mut view, news).unwrap();
    let serves = |gateway: &str, target: &str| view.serves(&name(gateway), &name(target), &BTreeMap::new());
    assert_eq!(
        (serves("g1", "db"), serves("g1", "other"), serves("g2", "other")),
        (Some(true), Some(false), Some(true))
    );
    assert_eq!(serves("g3", "db"), None);
}
