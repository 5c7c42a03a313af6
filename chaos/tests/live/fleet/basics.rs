//! The harness's own proof, and the plainest use of a fleet.

use std::time::Duration;

use postern_chaos::live::fleet::{Fleet, FleetOptions};
use postern_chaos::live::{Postgres, PostgresOptions, wait_until};

#[test]
fn any_client_reaches_any_target_through_any_gateway_that_is_left() {
    let postgres = Postgres::start(PostgresOptions::default()).unwrap();
    let mut fleet = Fleet::start(&postgres, FleetOptions { gateways: 2, agents: 2, ..Default::default() }).unwrap();
    let login = |fleet: &Fleet, gateway: usize, target: &str| {
        let connection = fleet.connection(gateway, target, "alice", &["analysts"]).unwrap();
        connection.run("SELECT count(*) FROM orders").unwrap()
    };
    for gateway in 0..2 {
        for target in ["shop", "shop-direct"] {
            login(&fleet, gateway, target).ok().unwrap();
        }
    }
    fleet.agent(0).unwrap().kill9().unwrap();
    fleet.gateway(0).unwrap().kill9().unwrap();
    // Until the lost agent's tunnel is known to be dead, its streams may fail.
    wait_until(Duration::from_secs(40), "the other agent", || Ok(login(&fleet, 1, "shop").status.success()))
        .unwrap_or_else(|error| panic!("{error:#}\n{}", fleet.logs()));
    fleet.gateway(0).unwrap().start().unwrap();
    fleet.wait_for_login(0).unwrap();
    fleet.gateway(1).unwrap().stop().unwrap();
    // The login may have gone through the other gateway: the agent comes back to this one in its own time.
    wait_until(Duration::from_secs(40), "a tunnel", || {
        Ok(fleet.gateway(0)?.metric("postern_gateway_tunnels_open", "")? >= 1.0)
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", fleet.logs()));
}
