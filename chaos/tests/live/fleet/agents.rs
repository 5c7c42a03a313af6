//! Agents that are let in by a token through a gateway, renew their certificates through gateways, and are thrown out.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant, SystemTime};

use postern_chaos::live::cluster::ClusterOptions;
use postern_chaos::live::fleet::{End, Fleet, FleetOptions, Node};
use postern_chaos::live::net::Weather;
use postern_chaos::live::{Postgres, PostgresOptions, wait_until};

use crate::assert_has;

const LIMIT: Duration = Duration::from_secs(60);

fn fleet(postgres: &Postgres, lifetime: &str) -> Fleet {
    let control = format!("certificate_lifetime = \"{lifetime}\"");
    let cluster = ClusterOptions { members: 1, control, ..Default::default() };
    Fleet::start(postgres, FleetOptions { cluster, gateways: 1, agents: 0, ..Default::default() }).unwrap()
}

/// An agent with nothing but a token and a gateway's address.
fn newcomer<'a>(fleet: &'a mut Fleet, token: &str, name: &str) -> &'a mut Node {
    let tunnel = fleet.gateway(0).unwrap().tunnel();
    let number = fleet.new_agent(&[tunnel]).unwrap();
    let agent = fleet.agent(number).unwrap();
    let file = agent.folder().join("join-token");
    fs::write(&file, token).unwrap();
    fs::remove_dir_all(agent.folder().join("credential")).unwrap();
    let lines = format!("[agent]\njoin_token_file = {:?}\nname = {name:?}\n", file.display().to_string());
    agent.reconfigure(|config| config.replacen("[agent]\n", &lines, 1)).unwrap();
    agent
}

fn login(fleet: &Fleet) -> bool {
    let connection = fleet.connection(0, "shop", "alice", &["analysts"]).unwrap();
    connection.run("SELECT count(*) FROM orders").unwrap().status.success()
}

/// Its configuration names no control plane: all that it knows is a gateway. Its certificate is short, and is renewed for as long as it runs.
#[test]
fn let_in_through_a_gateway_and_renewed_through_it() {
    const LIFETIME: Duration = Duration::from_secs(30);
    let postgres = Postgres::start(PostgresOptions::default()).unwrap();
    let mut fleet = fleet(&postgres, "30s");
    let token = fleet.cluster.join_token(&["--role", "agent", "--pool", "dev"]).unwrap();
    let agent = newcomer(&mut fleet, &token, "edge");
    agent.start().unwrap();
    agent.wait_ready().unwrap();
    let began = SystemTime::now();
    let folder = agent.folder().join("credential");
    for file in ["node.crt", "node.key", "ca.crt"] {
        assert_eq!(fs::metadata(folder.join(file)).unwrap().permissions().mode() & 0o777, 0o600, "{file}");
    }
    let first = fs::read(folder.join("node.crt")).unwrap();
    let secret = token.rsplit_once('.').unwrap().1.trim();
    assert!(!agent.log().contains(secret), "the token in the log");
    fleet.wait_for_login_to(0, "shop").unwrap();
    // Past the end of the first certificate.
    wait_until(LIFETIME * 4, "a renewed certificate", || {
        let renewed = fleet.agent(0)?.metric("postern_node_certificate_renewals_total", "renewed")? >= 1.0;
        Ok(renewed && began.elapsed()? > LIFETIME + Duration::from_secs(2))
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", fleet.logs()));
    assert_ne!(fs::read(folder.join("node.crt")).unwrap(), first);
    assert!(login(&fleet), "{}", fleet.logs());
    // It starts again by what it has, with no token.
    let agent = fleet.agent(0).unwrap();
    agent.stop().unwrap();
    fs::remove_file(agent.folder().join("join-token")).unwrap();
    agent.start().unwrap();
    agent.wait_ready().unwrap();
    assert!(fleet.gateway(0).unwrap().metric("postern_gateway_control_streams_total", "connected").unwrap() >= 1.0);
}

/// A wall between the agent and the control plane: gateways are all that it reaches, for being let in as for everything else.
#[test]
fn let_in_where_only_gateways_are_reached() {
    let cluster = ClusterOptions { members: 1, ..Default::default() };
    let mut fleet = Fleet::on_hosts(FleetOptions { cluster, gateways: 1, agents: 1, ..Default::default() }).unwrap();
    let token = fleet.cluster.join_token(&["--role", "agent", "--pool", "dev"]).unwrap();
    newcomer(&mut fleet, &token, "edge");
    let wall = fleet.cut(End::Agent(1), End::Member(0)).unwrap();
    let agent = fleet.agent(1).unwrap();
    agent.start().unwrap();
    agent.wait_ready().unwrap();
    assert!(!agent.folder().join("credential/joining.key").exists(), "the key is a node's now");
    // It serves, and alone.
    fleet.agent(0).unwrap().kill9().unwrap();
    fleet.wait_for_login_to(0, "shop").unwrap();
    wall.heal().unwrap();
}

/// What is no token, is used up, has expired or is another role's: the process ends and says why, and what may pass is tried again.
#[test]
fn tokens_that_are_not_good() {
    let postgres = Postgres::start(PostgresOptions::default()).unwrap();
    let mut fleet = fleet(&postgres, "1h");
    let once = fleet.cluster.join_token(&["--role", "agent", "--pool", "dev"]).unwrap();
    let short = fleet.cluster.join_token(&["--role", "agent", "--pool", "dev", "--ttl", "1s"]).unwrap();
    let made = Instant::now();
    let gateways = fleet.cluster.join_token(&["--role", "gateway"]).unwrap();
    let agent = newcomer(&mut fleet, &once, "first");
    agent.start().unwrap();
    agent.wait_ready().unwrap();
    let told = [
        (once.as_str(), "second", "used up"),
        (short.as_str(), "third", "expired"),
        (gateways.as_str(), "fourth", "not for an agent"),
        ("nonsense", "fifth", "no join token"),
    ];
    wait_until(LIMIT, "the short token's end", || Ok(made.elapsed() > Duration::from_secs(2))).unwrap();
    for (token, name, why) in told {
        let agent = newcomer(&mut fleet, token, name);
        agent.spawn().unwrap();
        let status = agent.process().unwrap().wait(LIMIT);
        let status = status.unwrap_or_else(|error| panic!("{name}: {error:#}\n{}", agent.log()));
        assert!(!status.success(), "{name}: {}", agent.log());
        assert_has(&agent.log(), &[why]);
    }
    // A gateway that is away may come back.
    let many = fleet.cluster.join_token(&["--role", "agent", "--pool", "dev", "--uses", "2"]).unwrap();
    fleet.gateway(0).unwrap().kill9().unwrap();
    let agent = newcomer(&mut fleet, &many, "sixth");
    agent.start().unwrap();
    wait_until(LIMIT, "a first try", || Ok(agent.log().contains("was not let in yet"))).unwrap();
    fleet.gateway(0).unwrap().start().unwrap();
    let agent = fleet.agent(5).unwrap();
    agent.wait_ready().unwrap();
    // The name is taken: whoever has another use of the token does not get it.
    let agent = newcomer(&mut fleet, &many, "sixth");
    agent.spawn().unwrap();
    assert!(!agent.process().unwrap().wait(LIMIT).unwrap().success());
    assert_has(&agent.log(), &["sixth"]);
}

#[test]
fn a_revoked_agent_is_out_for_good() {
    let postgres = Postgres::start(PostgresOptions::default()).unwrap();
    let mut fleet = fleet(&postgres, "1h");
    let token = fleet.cluster.join_token(&["--role", "agent", "--pool", "dev"]).unwrap();
    let agent = newcomer(&mut fleet, &token, "edge");
    agent.start().unwrap();
    agent.wait_ready().unwrap();
    fleet.wait_for_login_to(0, "shop").unwrap();
    let cli = fleet.cluster.cli();
    cli.cli(["certs", "revoke", "--role", "agent", "--name", "edge", "--because", "lost"]).unwrap().ok().unwrap();
    wait_until(LIMIT, "its tunnel to end", || Ok(fleet.gateway(0)?.metric("postern_gateway_tunnels_open", "")? < 1.0))
        .unwrap();
    wait_until(LIMIT, "its return to be refused", || {
        Ok(fleet.gateway(0)?.metric("postern_gateway_tunnels_refused_total", "handshake")? >= 2.0)
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", fleet.logs()));
    assert!(!fleet.agent(0).unwrap().is_ready());
    assert!(!login(&fleet));
    assert_has(&fleet.gateway(0).unwrap().log(), &["the agent's certificate was revoked"]);
}

/// A firewall that lets no UDP out: tunnels go over TCP, clients get on, and afterwards tunnels move back.
#[test]
fn where_udp_is_blocked_tunnels_go_over_tcp_and_come_back() {
    let cluster = ClusterOptions { members: 1, ..Default::default() };
    let agent = "udp_probe = \"2s\"".to_owned();
    let mut fleet =
        Fleet::on_hosts(FleetOptions { cluster, gateways: 2, agents: 1, agent, ..Default::default() }).unwrap();
    let ledger = fleet.ledger(4).unwrap();
    let open = |fleet: &mut Fleet, carrier: &str| fleet.agent(0)?.metric("postern_agent_tunnels_open", carrier);
    ledger.progress(3, LIMIT).unwrap();
    fleet.site().unwrap().private_weather(Weather { no_udp: true, ..Default::default() }).unwrap();
    wait_until(LIMIT, "tunnels over TCP", || Ok(open(&mut fleet, "tcp")? >= 2.0))
        .unwrap_or_else(|error| panic!("{error:#}\n{}", fleet.logs()));
    ledger.progress(3, LIMIT).unwrap_or_else(|error| panic!("{error:#}\n{}", fleet.logs()));
    fleet.site().unwrap().private_weather(Weather::default()).unwrap();
    wait_until(LIMIT, "tunnels over UDP", || Ok(open(&mut fleet, "quic")? >= 2.0))
        .unwrap_or_else(|error| panic!("{error:#}\n{}", fleet.logs()));
    ledger.progress(3, LIMIT).unwrap_or_else(|error| panic!("{error:#}\n{}", fleet.logs()));
    let entered = ledger.finish().unwrap();
    let cli = fleet.cluster.cli();
    entered.check(fleet.site().unwrap().postgres(), &cli).unwrap_or_else(|error| panic!("{error:#}\n{}", fleet.logs()));
}
