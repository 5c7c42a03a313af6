use std::collections::BTreeMap;

use postern_core::fleet::Transport;
use proptest::prelude::*;

use super::*;

const SMALL: Bounds = Bounds { gateways: 4, tunnels: 6, all_tunnels: 14, marks: 3, answer: 3 };

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn epoch() -> Epoch {
    Epoch { incarnation: "life".into(), term: 3, began_at: Timestamp::from_millis(1) }
}

fn gateway(text: &str, sessions: u32) -> FleetGateway {
    FleetGateway {
        name: name(text),
        tunnel_addresses: vec!["gw:7443".parse().unwrap()],
        tunnel_tcp_addresses: Vec::new(),
        client_addresses: Vec::new(),
        version: "1".into(),
        tunnel_version_min: 1,
        tunnel_version: 2,
        draining: false,
        sessions,
        started_at: Timestamp::from_millis(0),
        serves: None,
    }
}

fn tunnel(pool: &str, agent: &str, streams: u32) -> (TunnelKey, FleetTunnel) {
    let key = TunnelKey { pool: name(pool), agent: name(agent) };
    let since = Timestamp::from_millis(2);
    (
        key,
        FleetTunnel { since, streams, rtt_us: 0, transport: Transport::Quic, version: String::new(), draining: false },
    )
}

fn whole(text: &str, tunnels: Vec<(TunnelKey, FleetTunnel)>) -> Report {
    Report { whole: true, gateway: Some(gateway(text, 0)), tunnels, ..Report::default() }
}

/// What a reader makes of the news.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    gateways: BTreeMap<Name, FleetGateway>,
    holdings: BTreeMap<(Name, Name), Holding>,
}

impl Seen {
    /// Reads all there is, in as many answers as it takes.
    fn read(&mut self, directory: &Directory, cursor: &mut Cursor, now: Instant) -> usize {
        let mut answers = 0;
        while let Some(news) = directory.since(cursor, now) {
            answers += 1;
            assert!(answers < 1_000);
            let told = news.gateways.len() + news.gone.len() + news.holdings.len();
            assert!(told <= directory.bounds.answer);
            self.take(news);
        }
        answers
    }

    fn take(&mut self, news: News) {
        if news.whole {
            *self = Self::default();
        }
        for name in news.gone {
            self.gateways.remove(&name);
        }
        self.gateways.extend(news.gateways.into_iter().map(|gateway| (gateway.name.clone(), gateway)));
        for (gateway, pool, holding) in news.holdings {
            match holding.agents {
                0 => drop(self.holdings.remove(&(gateway, pool))),
                _ => drop(self.holdings.insert((gateway, pool), holding)),
            }
        }
    }

    fn of(directory: &Directory) -> Self {
        let mut seen = Self::default();
        for listed in directory.listed() {
            seen.gateways.insert(listed.gateway.name.clone(), listed.gateway.clone());
            for (key, tunnel) in listed.tunnels {
                let holding = seen.holdings.entry((listed.gateway.name.clone(), key.pool.clone())).or_default();
                holding.agents += 1;
                holding.streams += u64::from(tunnel.streams);
            }
        }
        seen
    }
}

#[test]
fn a_gateway_is_seen_when_its_report_is_whole_and_not_before() {
    let now = Instant::now();
    let mut directory = Directory::new(epoch(), now, SMALL);
    let stream = directory.open(&name("g1"), Timestamp::from_millis(9), now).unwrap();
    assert_eq!(directory.report(&stream, Report::default(), now), Err(ReportError::NotWhole));
    let first = Report { more: true, ..whole("g1", vec![tunnel("lab", "a1", 1)]) };
    directory.report(&stream, first, now).unwrap();
    assert_eq!((directory.counts(), directory.version()), ((0, 0), 0));
    directory.report(&stream, Report { tunnels: vec![tunnel("lab", "a2", 2)], ..Report::default() }, now).unwrap();
    assert_eq!(directory.counts(), (1, 2));
    let (mut seen, mut cursor) = (Seen::default(), Cursor::default());
    seen.read(&directory, &mut cursor, now);
    assert_eq!(seen.holdings[&(name("g1"), name("lab"))], Holding { agents: 2, streams: 3, draining: 0 });

    // A second whole one takes the place of the first only when it is complete.
    directory.report(&stream, Report { more: true, ..whole("g1", Vec::new()) }, now).unwrap();
    assert_eq!(directory.counts(), (1, 2));
    directory.report(&stream, Report { tunnels: vec![tunnel("prod", "b", 0)], ..Report::default() }, now).unwrap();
    seen.read(&directory, &mut cursor, now);
    assert_eq!(seen, Seen::of(&directory));
    assert_eq!(seen.holdings.len(), 1);
}

#[test]
fn only_the_newest_stream_of_a_gateway_is_heard() {
    let now = Instant::now();
    let mut directory = Directory::new(epoch(), now, SMALL);
    let at = Timestamp::from_millis(0);
    let old = directory.open(&name("g1"), at, now).unwrap();
    directory.report(&old, whole("g1", vec![tunnel("lab", "a1", 0)]), now).unwrap();
    let new = directory.open(&name("g1"), at, now).unwrap();
    assert!(directory.superseded(&old) && !directory.superseded(&new));
    assert_eq!(directory.report(&old, whole("g1", Vec::new()), now), Err(ReportError::Superseded));
    // Nor does its end count, and until the new one has spoken what is known stays.
    directory.close(&old, now);
    directory.expire(now + GRACE);
    assert_eq!(directory.counts(), (1, 1));
}

#[test]
fn a_gateway_that_does_not_come_back_is_gone_after_a_grace() {
    let now = Instant::now();
    let mut directory = Directory::new(epoch(), now, SMALL);
    let stream = directory.open(&name("g1"), Timestamp::from_millis(0), now).unwrap();
    directory.report(&stream, whole("g1", vec![tunnel("lab", "a1", 0)]), now).unwrap();
    let (mut seen, mut cursor) = (Seen::default(), Cursor::default());
    seen.read(&directory, &mut cursor, now);
    directory.close(&stream, now);
    assert!(!directory.listed().next().unwrap().connected);
    directory.expire(now);
    assert_eq!(directory.counts(), (1, 1));
    directory.expire(now + GRACE);
    assert_eq!(directory.counts(), (0, 0));
    seen.read(&directory, &mut cursor, now);
    assert_eq!(seen, Seen::default());
}

#[test]
fn a_gateway_that_says_nothing_is_gone_though_its_stream_is_open() {
    let start = Instant::now();
    let mut directory = Directory::new(epoch(), start, SMALL);
    let stream = directory.open(&name("g1"), Timestamp::from_millis(0), start).unwrap();
    directory.report(&stream, whole("g1", vec![tunnel("lab", "a1", 0)]), start).unwrap();
    let later = start + SILENCE / 2;
    directory.report(&stream, Report::default(), later).unwrap();
    directory.expire(start + SILENCE);
    assert_eq!(directory.counts(), (1, 1));
    directory.expire(later + SILENCE);
    assert_eq!(directory.counts(), (0, 0));
    assert_eq!(directory.report(&stream, Report::default(), later), Err(ReportError::Superseded));
}

#[test]
fn too_much_is_refused_and_what_was_told_stays_right() {
    let now = Instant::now();
    let mut directory = Directory::new(epoch(), now, SMALL);
    let at = Timestamp::from_millis(0);
    let (mut seen, mut cursor) = (Seen::default(), Cursor::default());
    let agents = |count: usize| (0..count).map(|place| tunnel("lab", &format!("a{place}"), 1)).collect::<Vec<_>>();
    let one = directory.open(&name("g1"), at, now).unwrap();
    assert_eq!(directory.report(&one, whole("g1", agents(7)), now), Err(ReportError::TooManyTunnels(6)));
    assert_eq!(directory.counts(), (0, 0));
    directory.report(&one, whole("g1", agents(6)), now).unwrap();
    let more = Report { tunnels: vec![tunnel("lab", "a0", 9), tunnel("lab", "a9", 1)], ..Report::default() };
    assert_eq!(directory.report(&one, more, now), Err(ReportError::TooManyTunnels(6)));
    seen.read(&directory, &mut cursor, now);
    assert_eq!(seen, Seen::of(&directory));
    // A whole report that is as large as the last finds room, also where all together leave none.
    let two = directory.open(&name("g2"), at, now).unwrap();
    directory.report(&two, whole("g2", agents(6)), now).unwrap();
    let three = directory.open(&name("g3"), at, now).unwrap();
    assert_eq!(directory.report(&three, whole("g3", agents(3)), now), Err(ReportError::TooManyTunnels(2)));
    directory.report(&three, whole("g3", agents(2)), now).unwrap();
    directory.report(&two, whole("g2", agents(6)), now).unwrap();
    directory.open(&name("g4"), at, now).unwrap();
    assert_eq!(directory.open(&name("g5"), at, now), Err(ReportError::TooManyGateways(4)));
}

#[test]
fn what_a_gateway_serves_is_not_its_own_word() {
    let now = Instant::now();
    let mut directory = Directory::new(epoch(), now, SMALL);
    let lab = TargetSelector { names: vec!["lab-db".into()], ..Default::default() };
    let stream = directory.open(&name("g1"), Timestamp::from_millis(0), now).unwrap();
    let all = TargetSelector { names: vec!["*".into()], ..Default::default() };
    let lie = FleetGateway { serves: Some(all), ..gateway("g1", 0) };
    directory.report(&stream, Report { gateway: Some(lie), ..whole("g1", Vec::new()) }, now).unwrap();
    let serves = |directory: &Directory| directory.listed().next().unwrap().gateway.serves.clone();
    assert_eq!(serves(&directory), None);
    let (mut seen, mut cursor) = (Seen::default(), Cursor::default());
    seen.read(&directory, &mut cursor, now);
    directory.set_serves(&BTreeMap::from([(name("g1"), lab.clone())]));
    seen.read(&directory, &mut cursor, now);
    assert_eq!(seen.gateways[&name("g1")].serves, Some(lab.clone()));
    directory.report(&stream, Report { gateway: Some(gateway("g1", 5)), ..Report::default() }, now).unwrap();
    assert_eq!(serves(&directory), Some(lab));
}

/// One thing that happens.
#[derive(Clone, Debug)]
enum Step {
    Open(usize),
    Whole(usize, Vec<(usize, usize, u32)>, bool),
    Change(usize, Vec<(usize, usize, u32)>, Vec<(usize, usize)>, u32),
    /// By a stream that was opened before.
    Late(usize),
    Close(usize),
    Expire,
    Read(usize),
}

const GATEWAYS: [&str; 4] = ["g1", "g2", "g3", "g4"];
const POOLS: [&str; 3] = ["lab", "prod", "edge"];

fn step() -> impl Strategy<Value = Step> {
    let gateway = 0..GATEWAYS.len();
    let held = || (0..POOLS.len(), 0..3_usize, 0..4_u32);
    prop_oneof![
        gateway.clone().prop_map(Step::Open),
        (gateway.clone(), prop::collection::vec(held(), 0..5), any::<bool>())
            .prop_map(|(gateway, held, more)| Step::Whole(gateway, held, more)),
        (
            gateway.clone(),
            prop::collection::vec(held(), 0..4),
            prop::collection::vec((0..POOLS.len(), 0..3_usize), 0..3),
            0..3_u32
        )
            .prop_map(|(gateway, held, closed, sessions)| Step::Change(gateway, held, closed, sessions)),
        gateway.clone().prop_map(Step::Late),
        gateway.prop_map(Step::Close),
        Just(Step::Expire),
        (0..2_usize).prop_map(Step::Read),
    ]
}

fn tunnels(held: &[(usize, usize, u32)]) -> Vec<(TunnelKey, FleetTunnel)> {
    held.iter().map(|(pool, agent, streams)| tunnel(POOLS[*pool], &format!("a{agent}"), *streams)).collect()
}

proptest! {
    /// Whatever comes in whatever order, cut off wherever: readers, quick or slow, end with what gateways last said.
    #[test]
    fn readers_end_with_what_gateways_last_said(steps in prop::collection::vec(step(), 1..80)) {
        let mut now = Instant::now();
        let mut directory = Directory::new(epoch(), now, SMALL);
        let mut streams: BTreeMap<usize, Vec<StreamId>> = BTreeMap::new();
        let mut readers = [(Seen::default(), Cursor::default()), (Seen::default(), Cursor::default())];
        for step in steps {
            match step {
                Step::Open(gateway) => {
                    if let Ok(stream) = directory.open(&name(GATEWAYS[gateway]), Timestamp::from_millis(0), now) {
                        streams.entry(gateway).or_default().push(stream);
                    }
                }
                Step::Whole(gateway, held, more) => {
                    if let Some(stream) = streams.get(&gateway).and_then(|all| all.last()) {
                        let report = Report { more, ..whole(GATEWAYS[gateway], tunnels(&held)) };
                        let _ = directory.report(stream, report, now);
                    }
                }
                Step::Change(gateway, held, closed, sessions) => {
                    if let Some(stream) = streams.get(&gateway).and_then(|all| all.last()) {
                        let key = |(pool, agent): &(usize, usize)| tunnel(POOLS[*pool], &format!("a{agent}"), 0).0;
                        let report = Report {
                            gateway: Some(super::tests::gateway(GATEWAYS[gateway], sessions)),
                            tunnels: tunnels(&held),
                            closed: closed.iter().map(key).collect(),
                            ..Report::default()
                        };
                        let _ = directory.report(stream, report, now);
                    }
                }
                Step::Late(gateway) => {
                    let all = streams.get(&gateway).map(Vec::as_slice).unwrap_or_default();
                    if let [.., late, _] = all {
                        let before = Seen::of(&directory);
                        prop_assert!(directory.report(late, whole(GATEWAYS[gateway], Vec::new()), now).is_err());
                        directory.close(late, now);
                        prop_assert_eq!(before, Seen::of(&directory));
                    }
                }
                Step::Close(gateway) => {
                    if let Some(stream) = streams.get(&gateway).and_then(|all| all.last()) {
                        directory.close(stream, now);
                    }
                }
                Step::Expire => {
                    now += GRACE;
                    directory.expire(now);
                }
                // One answer only: it may be in the middle of all.
                Step::Read(reader) => {
                    let (seen, cursor) = &mut readers[reader];
                    if let Some(news) = directory.since(cursor, now) {
                        seen.take(news);
                    }
                }
            }
            let listed: usize = directory.listed().map(|listed| listed.tunnels.len()).sum();
            prop_assert_eq!(directory.counts().1, listed);
            prop_assert!(listed <= SMALL.all_tunnels && directory.marks.len() <= SMALL.marks);
            prop_assert!(directory.stamps.len() == directory.changed.len());
        }
        for (mut seen, mut cursor) in readers {
            seen.read(&directory, &mut cursor, now);
            prop_assert_eq!(seen, Seen::of(&directory));
        }
    }
}
