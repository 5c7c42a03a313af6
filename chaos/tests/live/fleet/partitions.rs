//! Each link of a fleet on hosts of its own is cut, one after the other, under clients that keep book: nothing that was acknowledged is
//! lost or doubled, sessions that do not go over the link notice nothing, and afterwards everything is as it was.
//!
//! `POSTERN_EVERY_LINK=1` cuts all of them; otherwise one of each kind. The links from the test to the gateways stay.

use std::time::{Duration, Instant};

use anyhow::Result;
use postern_chaos::live::cluster::ClusterOptions;
use postern_chaos::live::fleet::{End, Fleet, FleetOptions, Probe};
use postern_chaos::live::wait_until;

use super::{agree, gets_on};

/// Until things are as they shall be: a tunnel or link that is silent is given up after twenty seconds, and dialled again within thirty.
const SOON: Duration = Duration::from_secs(45);
/// Nobody who is not concerned waits for longer than this, on a busy machine in a debug build.
const SLOWEST: Duration = Duration::from_secs(3);
/// How long a cut lasts at least, so that there is something to notice.
const LEAST: Duration = Duration::from_millis(1500);

/// Which sessions go over a link.
#[derive(Clone, Copy, Debug)]
enum Concerns {
    Nobody,
    /// Those that are passed on between two gateways.
    Relayed(usize),
    /// Those through this gateway and this agent, and all that are passed on.
    Tunnel(usize, usize),
    /// Those through this agent.
    Agent(usize),
}

struct Probed {
    probe: Probe,
    agent: String,
}

/// The names of the nodes have both agents choose gateways 1 and 3 for their two tunnels: sessions through the second one are passed on.
const RELAYING: usize = 1;

/// The `number`th one in all, through this gateway.
fn probed(fleet: &mut Fleet, number: usize, gateway: usize) -> Probed {
    let probe = fleet.probe(number, gateway).unwrap_or_else(|error| panic!("{error:#}\n{}", fleet.logs()));
    let agent = probe.agent(fleet.site().unwrap().postgres()).unwrap();
    Probed { probe, agent }
}

fn is_concerned(fleet: &Fleet, probed: &Probed, concerns: Concerns) -> bool {
    let at = |agent: usize| fleet.place(End::Agent(agent)).unwrap().address;
    match concerns {
        Concerns::Nobody => false,
        Concerns::Relayed(gateway) => probed.probe.gateway == gateway,
        Concerns::Tunnel(gateway, agent) => {
            probed.probe.gateway == RELAYING || (probed.probe.gateway == gateway && probed.agent == at(agent))
        }
        Concerns::Agent(agent) => probed.agent == at(agent),
    }
}

fn links(fleet: &Fleet) -> Vec<(End, End, Concerns)> {
    let leader = fleet.cluster.leader().unwrap();
    let (one, two) = ((leader + 1) % 3, (leader + 2) % 3);
    let every = std::env::var_os("POSTERN_EVERY_LINK").is_some();
    let mut links = vec![
        (End::Member(leader), End::Member(one), Concerns::Nobody),
        (End::Member(one), End::Member(two), Concerns::Nobody),
        (End::Gateway(0), End::Member(leader), Concerns::Nobody),
        (End::Gateway(2), End::Member(one), Concerns::Nobody),
        (End::Gateway(RELAYING), End::Gateway(0), Concerns::Relayed(RELAYING)),
        (End::Agent(0), End::Gateway(0), Concerns::Tunnel(0, 0)),
        (End::Agent(1), End::Target, Concerns::Agent(1)),
    ];
    if every {
        links.push((End::Member(leader), End::Member(two), Concerns::Nobody));
        for gateway in 0..3 {
            links.extend((0..3).map(|member| (End::Gateway(gateway), End::Member(member), Concerns::Nobody)));
            links.extend(
                (0..2).map(|agent| (End::Agent(agent), End::Gateway(gateway), Concerns::Tunnel(gateway, agent))),
            );
        }
        links.push((End::Gateway(RELAYING), End::Gateway(2), Concerns::Relayed(RELAYING)));
        links.push((End::Gateway(0), End::Gateway(2), Concerns::Nobody));
        links.push((End::Agent(0), End::Target, Concerns::Agent(0)));
    }
    links
}

fn tunnels(fleet: &mut Fleet, gateway: usize) -> Result<f64> {
    fleet.gateway(gateway)?.metric("postern_gateway_tunnels_open", "")
}

/// Each agent has its two tunnels, at the first and third gateway, and every gateway reports.
fn steady(fleet: &mut Fleet) -> Result<bool> {
    let mut all = true;
    for (gateway, has) in [2.0, 0.0, 2.0].into_iter().enumerate() {
        let reporting = fleet.gateway(gateway)?.metric("postern_gateway_fleet_reporting", "")? >= 1.0;
        all &= reporting && (tunnels(fleet, gateway)? - has).abs() < 0.5;
    }
    Ok(all)
}

#[test]
fn each_link_in_turn() {
    let cluster = ClusterOptions { members: 3, ..Default::default() };
    let agent = "tunnels = 2".to_owned();
    let mut fleet =
        Fleet::on_hosts(FleetOptions { cluster, gateways: 3, agents: 2, agent, ..Default::default() }).unwrap();
    wait_until(SOON, "both agents to have chosen", || steady(&mut fleet))
        .unwrap_or_else(|error| panic!("{error:#}\n{}", fleet.logs()));
    let ledger = fleet.ledger(4).unwrap();
    gets_on(&fleet, &ledger, "nothing is cut");
    let mut probes: Vec<Probed> = (0..6).map(|number| probed(&mut fleet, number, number % 3)).collect();
    let mut begun = probes.len();
    for (host, other, concerns) in links(&fleet) {
        let what = format!("{host:?} -/- {other:?}");
        let cut = fleet.cut(host, other).unwrap();
        let began = Instant::now();
        gets_on(&fleet, &ledger, &what);
        if let Concerns::Tunnel(gateway, _) = concerns {
            // Until the gateway has noticed: sessions through other tunnels do not, meanwhile.
            let gone = || Ok(gateway == RELAYING || tunnels(&mut fleet, gateway)? < 2.0);
            wait_until(SOON, "the tunnel to be given up", gone).unwrap_or_else(|error| panic!("{what}: {error:#}"));
        }
        std::thread::park_timeout(LEAST.saturating_sub(began.elapsed()));
        for probed in probes.iter().filter(|probed| !is_concerned(&fleet, probed, concerns)) {
            let (median, slowest) = probed.probe.latency(began).unwrap_or_else(|error| {
                panic!("{what}: a session that does not go there: {error:#} ({})\n{}", probed.agent, fleet.logs())
            });
            assert!(
                slowest < SLOWEST && median < SLOWEST / 6,
                "{what}: {median:?} {slowest:?} at {}",
                probed.probe.gateway
            );
        }
        cut.heal().unwrap();
        gets_on(&fleet, &ledger, &format!("{what} is healed"));
        for place in &mut probes {
            // Those that went over the link may have ended; others begin in their place.
            if is_concerned(&fleet, place, concerns) {
                *place = probed(&mut fleet, begun, place.probe.gateway);
                begun += 1;
            }
        }
    }
    wait_until(SOON, "everything to be as it was", || steady(&mut fleet))
        .unwrap_or_else(|error| panic!("{error:#}\n{}", fleet.logs()));
    fleet.cluster.wait_healthy().unwrap();
    drop(probes);
    agree(&mut fleet, ledger);
}
