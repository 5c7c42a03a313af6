//! Tokens that are good for a number of sessions: the number holds over all gateways, and without the control plane there is none.

use std::time::Duration;

use postern_chaos::live::fleet::{Fleet, FleetOptions};
use postern_chaos::live::wire::Wire;
use postern_chaos::live::{Postgres, PostgresOptions};

use crate::assert_has;

const USES: usize = 3;
/// Clients that come at once.
const CROWD: usize = 12;
const PATIENCE: Duration = Duration::from_secs(60);

fn made(fleet: &Fleet, from: &str, arguments: &[&str]) -> String {
    let made = fleet.cluster.cli().cli_as(from, ["token"].iter().chain(arguments)).unwrap().ok().unwrap();
    made.trim().to_owned()
}

/// Whether each of so many who come at once at these gateways is let in; what the others are told.
fn crowd(addresses: &[String], token: &str, count: usize) -> (Vec<Wire>, Vec<String>) {
    let (mut open, mut refused) = (Vec::new(), Vec::new());
    std::thread::scope(|scope| {
        let come = |place: usize| {
            let address = &addresses[place % addresses.len()];
            let mut wire = Wire::connect(address).unwrap();
            wire.login("shop-direct", "shop", token).map(|()| wire)
        };
        let all: Vec<_> = (0..count).map(|place| scope.spawn(move || come(place))).collect();
        for one in all {
            match one.join().unwrap() {
                Ok(wire) => open.push(wire),
                Err(error) => refused.push(format!("{error:#}")),
            }
        }
    });
    (open, refused)
}

#[test]
fn a_number_of_uses_holds_over_gateways_that_race() {
    let postgres = Postgres::start(PostgresOptions::default()).unwrap();
    let mut fleet = Fleet::start(&postgres, FleetOptions { gateways: 2, agents: 0, ..Default::default() }).unwrap();
    fleet.wait_for_login_to(0, "shop-direct").unwrap();
    fleet.wait_for_login_to(1, "shop-direct").unwrap();
    let gateways = [fleet.gateway(0).unwrap().postgres(), fleet.gateway(1).unwrap().postgres()];
    let oidc = fleet.issuer().token("alice", &["analysts"]).unwrap();
    let token = made(&fleet, &oidc, &["--uses", "3", "--ttl", "5m"]);
    let (mut open, refused) = crowd(&gateways, &token, CROWD);
    assert_eq!((open.len(), refused.len()), (USES, CROWD - USES), "{refused:?}");
    for why in &refused {
        assert_has(why, &["28P01", "used as often as it may be"]);
    }
    // What is open stays so; a child of it is as spent as it is, and another token of the same identity is not.
    for wire in &mut open {
        wire.query("SELECT 1").unwrap();
    }
    let child = made(&fleet, &token, &["--as", "planner"]);
    assert_eq!(crowd(&gateways, &child, 2).0.len(), 0);
    assert_eq!(crowd(&gateways, &oidc, 2).0.len(), 2);

    // Links count by themselves, within what their parent has.
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key").display().to_string();
    let parent = made(&fleet, &oidc, &["--delegate", &key, "--uses", "3"]);
    let link = |name: &str| made(&fleet, &parent, &["child", "--key", &key, "--as", name, "--uses", "2"]);
    assert_eq!(crowd(&gateways, &link("one"), 4).0.len(), 2);
    assert_eq!(crowd(&gateways, &link("two"), 4).0.len(), 1);

    // Nobody counts, nobody is let in: but for those whose token needs no counting.
    let token = made(&fleet, &oidc, &["--uses", "3"]);
    fleet.cluster.member(0).unwrap().kill9().unwrap();
    let (open, refused) = crowd(&gateways, &token, 1);
    assert!(open.is_empty());
    assert_has(&refused[0], &["57P03", "the control plane cannot be reached"]);
    assert_eq!(crowd(&gateways, &oidc, 2).0.len(), 2);
    fleet.cluster.member(0).unwrap().start().unwrap();
    postern_chaos::live::wait_until(PATIENCE, "the count", || Ok(!crowd(&gateways, &token, 1).0.is_empty())).unwrap();
}
