//! Bad networks between gateways, agents and clients, on hosts of their own: loss, delay, frames that overtake each other, a wall against
//! UDP, a NAT that forgets, links that are cut. What clients were told must fit what is there afterwards, in all of them.

use std::time::Duration;

use postern_chaos::live::cluster::ClusterOptions;
use postern_chaos::live::fleet::{Fleet, FleetOptions, OneWay};
use postern_chaos::live::net::Weather;
use postern_chaos::live::wait_until;

use super::{SOON, agree, gets_on};

fn fleet(members: usize) -> Fleet {
    let cluster = ClusterOptions { members, ..Default::default() };
    Fleet::on_hosts(FleetOptions { cluster, gateways: 3, agents: 2, ..Default::default() }).unwrap()
}

#[test]
fn writes_get_through_bad_weather_once() {
    let mut fleet = fleet(1);
    let ledger = fleet.ledger(4).unwrap();
    gets_on(&fleet, &ledger, "good weather");
    let ms = Duration::from_millis;
    for (what, weather) in [
        ("loss of 1 %", Weather { loss: 0.01, ..Default::default() }),
        ("loss of 5 %, and delay", Weather { loss: 0.05, delay: ms(20), ..Default::default() }),
        ("loss of 20 %", Weather { loss: 0.2, ..Default::default() }),
        (
            "frames that overtake each other and come twice",
            Weather { delay: ms(5), jitter: ms(20), twice: 0.1, ..Default::default() },
        ),
    ] {
        // Between the agents and everybody, and between one gateway and everybody: clients, members, the other two.
        fleet.site().unwrap().private_weather(weather).unwrap();
        fleet.site().unwrap().gateway_weather(0, weather).unwrap();
        gets_on(&fleet, &ledger, what);
    }
    fleet.site().unwrap().private_weather(Weather::default()).unwrap();
    fleet.site().unwrap().gateway_weather(0, Weather::default()).unwrap();
    fleet.site().unwrap().private().rebind().unwrap();
    gets_on(&fleet, &ledger, "the NAT has forgotten");
    agree(&mut fleet, ledger);
}

#[test]
fn a_link_that_is_cut_is_got_over() {
    let mut fleet = fleet(1);
    let ledger = fleet.ledger(4).unwrap();
    gets_on(&fleet, &ledger, "good weather");
    for (what, weather) in [
        ("nothing goes to or from a gateway", Weather::cut()),
        ("a gateway hears nothing", Weather { deaf: true, ..Default::default() }),
        ("a gateway is not heard", Weather { mute: true, ..Default::default() }),
    ] {
        fleet.site().unwrap().gateway_weather(0, weather).unwrap();
        gets_on(&fleet, &ledger, what);
        fleet.site().unwrap().gateway_weather(0, Weather::default()).unwrap();
    }
    // Everything hangs for a while, and goes on.
    fleet.site().unwrap().private_weather(Weather::cut()).unwrap();
    std::thread::park_timeout(Duration::from_secs(3));
    fleet.site().unwrap().private_weather(Weather::default()).unwrap();
    gets_on(&fleet, &ledger, "the private network is back");
    agree(&mut fleet, ledger);
}

#[test]
fn nodes_that_die_are_got_over() {
    let mut fleet = fleet(3);
    let ledger = fleet.ledger(4).unwrap();
    gets_on(&fleet, &ledger, "all are there");
    let leader = fleet.cluster.leader().unwrap();
    fleet.cluster.member(leader).unwrap().kill9().unwrap();
    gets_on(&fleet, &ledger, "the leader is gone");
    fleet.agent(0).unwrap().kill9().unwrap();
    gets_on(&fleet, &ledger, "an agent is gone");
    fleet.gateway(0).unwrap().kill9().unwrap();
    gets_on(&fleet, &ledger, "a gateway is gone");
    fleet.cluster.member(leader).unwrap().start().unwrap();
    fleet.agent(0).unwrap().start().unwrap();
    fleet.gateway(0).unwrap().start().unwrap();
    fleet.wait_for_login(0).unwrap();
    fleet.agent(1).unwrap().kill9().unwrap();
    fleet.gateway(1).unwrap().kill9().unwrap();
    gets_on(&fleet, &ledger, "the others are gone");
    fleet.gateway(1).unwrap().start().unwrap();
    fleet.cluster.wait_healthy().unwrap();
    agree(&mut fleet, ledger);
}

/// Between a gateway and the agents everything goes one way and nothing the other: each end sees packets of a peer that does not answer, or
/// none and is answered. New sessions go through another gateway, those that are open end rather than hang, and tunnels come back.
#[test]
fn a_black_hole_in_one_direction_is_got_over() {
    let mut fleet = fleet(1);
    let ledger = fleet.ledger(4).unwrap();
    gets_on(&fleet, &ledger, "good weather");
    let tunnels =
        |fleet: &mut Fleet, gateway: usize| fleet.gateway(gateway)?.metric("postern_gateway_tunnels_open", "");
    let has = |fleet: &mut Fleet, what: &str, wanted: [f64; 2]| {
        let there = || Ok((tunnels(fleet, 0)? - wanted[0]).abs() < 0.5 && (tunnels(fleet, 1)? - wanted[1]).abs() < 0.5);
        wait_until(SOON, what, there).unwrap_or_else(|error| panic!("{error:#}\n{}", fleet.logs()));
    };
    has(&mut fleet, "all tunnels", [2.0, 2.0]);
    // Both kinds at a time, each at a gateway of its own.
    let probes = [fleet.probe(0, 0).unwrap(), fleet.probe(1, 1).unwrap()];
    let holes = [fleet.black_hole(0, OneWay::FromAgents).unwrap(), fleet.black_hole(1, OneWay::ToAgents).unwrap()];
    gets_on(&fleet, &ledger, "black holes");
    for gateway in 0..2 {
        fleet.wait_for_login_to(gateway, "shop").unwrap();
    }
    has(&mut fleet, "the tunnels to be given up", [0.0, 0.0]);
    for probe in &probes {
        let ended = || Ok(!probe.is_alive());
        wait_until(SOON, "the session to end", ended).unwrap_or_else(|error| panic!("{error:#}\n{}", fleet.logs()));
    }
    gets_on(&fleet, &ledger, "the tunnels are given up");
    for hole in holes {
        hole.heal().unwrap();
    }
    has(&mut fleet, "the tunnels to come back", [2.0, 2.0]);
    gets_on(&fleet, &ledger, "healed");
    drop(probes);
    agree(&mut fleet, ledger);
}
