//! Sessions whose agent has its tunnel elsewhere: through the gateway that holds it, as long as there is one.

use std::time::Duration;

use postern_chaos::live::cluster::ClusterOptions;
use postern_chaos::live::fleet::{Fleet, FleetOptions};
use postern_chaos::live::wire::Wire;
use postern_chaos::live::{Finished, Postgres, PostgresOptions, wait_until};
use rustix::process::Signal;

/// Until the fleet knows of what has happened.
const SOON: Duration = Duration::from_secs(30);

/// Gateways, and agents of which each has a tunnel to the gateway of its own number alone.
fn fleet(postgres: &Postgres, members: usize, gateways: usize, agents: usize) -> Fleet {
    let cluster = ClusterOptions { members, ..Default::default() };
    let options = FleetOptions { cluster, gateways, agents: 0, agent: "tunnels = 1".into(), ..Default::default() };
    let mut fleet = Fleet::start(postgres, options).unwrap();
    for agent in 0..agents {
        let tunnel = fleet.gateway(agent).unwrap().tunnel();
        fleet.add_agent_of(&[tunnel]).unwrap();
    }
    fleet
}

pub(super) fn query(fleet: &Fleet, gateway: usize) -> Finished {
    let connection = fleet.connection(gateway, "shop", "alice", &["analysts"]).unwrap();
    connection.run("SELECT count(*) FROM orders").unwrap()
}

#[track_caller]
pub(super) fn until_reached(fleet: &Fleet, gateway: usize) {
    let mut last = String::new();
    wait_until(SOON, "the target to be reached", || {
        let run = query(fleet, gateway);
        last = run.stderr;
        Ok(run.status.success())
    })
    .unwrap_or_else(|error| panic!("{error:#}: {last}\n{}", fleet.logs()));
}

#[test]
fn a_session_goes_through_the_gateway_that_has_the_tunnel() {
    let postgres = Postgres::start(PostgresOptions::default()).unwrap();
    let mut fleet = fleet(&postgres, 1, 2, 1);
    until_reached(&fleet, 0);
    until_reached(&fleet, 1);
    // The one gateway has it by itself, the other through the first.
    let (one, other) = (fleet.gateway(0).unwrap().metrics().unwrap(), fleet.gateway(1).unwrap().metrics().unwrap());
    assert!(one.contains("postern_gateway_relay_served_total{outcome=\"connected\"}"), "{one}");
    assert!(other.contains("postern_gateway_relay_opens_total{outcome=\"connected\"}"), "{other}");
    assert!(!one.contains("postern_gateway_relay_opens_total"), "{one}");
    assert!(fleet.logs().contains("gateway-2"), "the agent's log names who asked");

    let cli = fleet.cluster.cli();
    let listed = cli.cli(["fleet", "gateways"]).unwrap().ok().unwrap();
    assert!(listed.contains("gateway-1") && listed.contains("gateway-2"), "{listed}");
    let listed = cli.cli(["fleet", "agents", "--pool", "dev"]).unwrap().ok().unwrap();
    assert!(listed.contains("agent-1") && listed.contains("gateway-1") && !listed.contains("gateway-2"), "{listed}");
    let json = cli.cli(["fleet", "agents", "--gateway", "gateway-2", "-o", "json"]).unwrap().ok().unwrap();
    assert!(!json.contains("agent-1"), "{json}");

    // Without the gateway that has the tunnel there is an answer all the same, and in time.
    fleet.gateway(0).unwrap().kill9().unwrap();
    let started = std::time::Instant::now();
    let run = query(&fleet, 1);
    assert!(!run.status.success() && started.elapsed() < Duration::from_secs(25), "{run:?}");
    fleet.gateway(0).unwrap().start().unwrap();
    until_reached(&fleet, 1);
}

#[test]
fn a_gateway_that_is_lost_leaves_the_others_and_a_leader_nothing_at_all() {
    let postgres = Postgres::start(PostgresOptions::default()).unwrap();
    let mut fleet = fleet(&postgres, 3, 3, 2);
    until_reached(&fleet, 2);
    let mut session = Wire::connect(&fleet.gateway(2).unwrap().postgres()).unwrap();
    let token = fleet.issuer().token("alice", &["analysts"]).unwrap();
    session.login("shop", "shop", &token).unwrap();
    session.query("SELECT 1").unwrap();

    // The directory comes back by being told anew; sessions do not notice, and new ones find their way meanwhile.
    let leader = fleet.cluster.leader().unwrap();
    fleet.cluster.member(leader).unwrap().kill9().unwrap();
    session.query("SELECT 2").unwrap();
    query(&fleet, 2).ok().unwrap();
    let cli = fleet.cluster.cli();
    wait_until(SOON, "the directory", || {
        let listed = cli.cli(["fleet", "agents"])?;
        Ok(listed.status.success() && listed.stdout.contains("agent-1") && listed.stdout.contains("agent-2"))
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", fleet.logs()));
    session.query("SELECT 3").unwrap();
    fleet.cluster.member(leader).unwrap().start().unwrap();

    // Either of the two that have a tunnel may go: new sessions use the other.
    fleet.gateway(0).unwrap().kill9().unwrap();
    until_reached(&fleet, 2);
    fleet.gateway(0).unwrap().start().unwrap();
    fleet.wait_for_login(0).unwrap();
    fleet.gateway(1).unwrap().kill9().unwrap();
    until_reached(&fleet, 2);
}

/// The gateway that holds the tunnel vanishes without a word, as a machine does that loses its power. For a moment that is nothing; then
/// sessions that it passed on end, and not only when a client gives up.
#[test]
fn a_session_through_a_gateway_that_vanishes_ends_in_time() {
    let postgres = Postgres::start(PostgresOptions::default()).unwrap();
    let mut fleet = fleet(&postgres, 1, 2, 1);
    until_reached(&fleet, 1);
    let mut session = Wire::connect_tls(&fleet.gateway(1).unwrap().postgres(), Duration::from_secs(60)).unwrap();
    let token = fleet.issuer().token("alice", &["analysts"]).unwrap();
    session.login("shop", "shop", &token).unwrap();
    session.query("SELECT 1").unwrap();
    fleet.gateway(0).unwrap().signal(Signal::STOP).unwrap();
    std::thread::park_timeout(Duration::from_secs(4));
    fleet.gateway(0).unwrap().signal(Signal::CONT).unwrap();
    let answer = session.query("SELECT 2").unwrap();
    assert!(answer.iter().all(|message| message.kind != 'E'), "{answer:?}");

    fleet.gateway(0).unwrap().signal(Signal::STOP).unwrap();
    let began = std::time::Instant::now();
    session.message('Q', b"SELECT 3\0").unwrap();
    let told = session.read().unwrap();
    let took = began.elapsed();
    assert!(took > Duration::from_secs(5) && took < Duration::from_secs(18), "{took:?}");
    assert_eq!((told.kind, told.field('C').as_deref()), ('E', Some("57P03")), "{told:?}");
    fleet.gateway(0).unwrap().kill9().unwrap();
}

/// An agent that is told to stop: people and gateways see it at once, no new session asks it, wherever it comes from, and what is open in it
/// goes on to its end.
#[test]
fn an_agent_that_drains_is_seen_to_and_nobody_is_sent_to_it() {
    let postgres = Postgres::start(PostgresOptions::default()).unwrap();
    let mut fleet = fleet(&postgres, 1, 3, 2);
    for gateway in 0..3 {
        until_reached(&fleet, gateway);
    }
    // The agents' tunnels are where hashing has them: at one of the three gateways there is none.
    let token = fleet.issuer().token("alice", &["analysts"]).unwrap();
    let mut sessions: Vec<Wire> = (0..3)
        .map(|gateway| {
            let mut session = Wire::connect(&fleet.gateway(gateway).unwrap().postgres()).unwrap();
            session.login("shop", "shop", &token).unwrap();
            session
        })
        .collect();
    let open = |fleet: &mut Fleet| fleet.agent(0).unwrap().metric("postern_agent_streams_open", "").unwrap();
    assert!(open(&mut fleet) >= 1.0 && fleet.agent(0).unwrap().is_ready());
    fleet.agent(0).unwrap().signal(Signal::TERM).unwrap();
    let cli = fleet.cluster.cli();
    wait_until(SOON, "the drain to be listed", || {
        let listed = cli.cli(["fleet", "agents"])?.ok()?;
        let row = |name: &str| listed.lines().find(|line| line.contains(name)).unwrap_or_default().to_owned();
        Ok(row("agent-1").contains("draining") && row("agent-2").contains("ok"))
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", fleet.logs()));
    assert!(!fleet.agent(0).unwrap().is_ready());
    // Its own gateway has no other agent: each finds the one that stays, at the first try.
    for gateway in [0, 1, 2, 0, 1, 2] {
        query(&fleet, gateway).ok().unwrap();
    }
    let refused = fleet.agent(0).unwrap().metric("postern_agent_streams_total", "unavailable").unwrap();
    assert!(refused < 1.0, "{refused}: {}", fleet.logs());
    for session in &mut sessions {
        let answer = session.query("SELECT 2").unwrap();
        assert!(answer.iter().all(|message| message.kind != 'E'), "{answer:?}");
    }
    drop(sessions);
    fleet.agent(0).unwrap().wait_end(SOON).unwrap();
    for gateway in 0..3 {
        query(&fleet, gateway).ok().unwrap();
    }
}
