//! A target's limits over several gateways: each lets in its share, and those that stay take over the share of one that is gone.

use std::time::Duration;

use anyhow::Result;
use postern_chaos::live::fleet::{Fleet, FleetOptions};
use postern_chaos::live::wire::Wire;
use postern_chaos::live::{Postgres, PostgresOptions, wait_until};

/// A gateway that vanished is forgotten after twenty seconds of silence, one whose process ended after five.
const SOON: Duration = Duration::from_secs(60);
const LIMIT: usize = 6;

/// A session on the limited target, unless the gateway says that there are too many.
fn open(fleet: &mut Fleet, gateway: usize) -> Result<Option<Wire>> {
    let token = fleet.issuer().token("alice", &["analysts"])?;
    let mut wire = Wire::connect(&fleet.gateway(gateway)?.postgres())?;
    match wire.login("limited", "shop", &token) {
        Ok(()) => Ok(Some(wire)),
        Err(error) if error.to_string().contains("53300") => Ok(None),
        Err(error) => Err(error),
    }
}

/// As many more as the gateway lets in.
fn fill(fleet: &mut Fleet, gateway: usize, into: &mut Vec<Wire>) -> Result<()> {
    while let Some(session) = open(fleet, gateway)? {
        into.push(session);
        anyhow::ensure!(into.len() <= 2 * LIMIT, "it lets in everybody");
    }
    Ok(())
}

/// Until the gateway lets in so many at a time, and no more.
fn share_is(fleet: &mut Fleet, gateway: usize, wanted: usize) {
    let mut last = String::new();
    wait_until(SOON, "the share", || {
        let mut all = Vec::new();
        let filled = fill(fleet, gateway, &mut all);
        last = format!("{} at gateway {gateway}: {filled:?}", all.len());
        // What is closed is given back once the gateway has noticed.
        for session in &mut all {
            session.message('X', b"")?;
        }
        Ok(filled.is_ok() && all.len() == wanted)
    })
    .unwrap_or_else(|error| panic!("{error:#}: {last}\n{}", fleet.logs()));
}

#[test]
fn a_targets_limit_is_held_by_two_gateways_and_passes_on_when_one_is_killed() {
    let postgres = Postgres::start(PostgresOptions::default()).unwrap();
    let mut fleet = Fleet::start(&postgres, FleetOptions { gateways: 2, agents: 0, ..Default::default() }).unwrap();
    let limited = "
apiVersion: postern/v1
kind: Target
metadata: {name: limited, labels: {env: dev}}
spec:
  protocol: postgres
  address: @ADDRESS@
  tls: {mode: disable}
  limits: {sessions: @LIMIT@}
  credential: {username: app, secret: shop-password}
---
apiVersion: postern/v1
kind: Policy
metadata: {name: limited}
spec:
  effect: permit
  principals: {groups: [analysts]}
  targets: {names: [limited]}
  actions: [\"*\"]
";
    let limited = limited.replace("@ADDRESS@", &postgres.address()).replace("@LIMIT@", &LIMIT.to_string());
    fleet.cluster.cli().apply(&limited).unwrap();
    for gateway in 0..2 {
        share_is(&mut fleet, gateway, LIMIT / 2);
    }
    // All at once: the sum is the target's limit, wherever they come.
    let mut held: [Vec<Wire>; 2] = Default::default();
    for (gateway, held) in held.iter_mut().enumerate() {
        wait_until(SOON, "all places", || {
            fill(&mut fleet, gateway, held)?;
            Ok(held.len() >= LIMIT / 2)
        })
        .unwrap();
    }
    assert_eq!(held.each_ref().map(Vec::len), [LIMIT / 2; 2]);
    let counted = postgres.sql(
        "shop",
        "SELECT count(*) FROM pg_stat_activity WHERE application_name <> 'postern catalog' AND usename = 'app'",
    );
    assert!(counted.unwrap().trim().parse::<usize>().unwrap() <= LIMIT);

    // One is killed: its sessions are gone, and the other lets in what was its share.
    fleet.gateway(1).unwrap().kill9().unwrap();
    let [mine, _] = &mut held;
    wait_until(SOON, "the share of the other", || {
        fill(&mut fleet, 0, mine)?;
        Ok(mine.len() >= LIMIT)
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", fleet.logs()));
    assert_eq!(mine.len(), LIMIT);
    // It is back: who is open stays, and nobody is let in past the share.
    fleet.gateway(1).unwrap().start().unwrap();
    share_is(&mut fleet, 1, LIMIT / 2);
    mine.truncate(LIMIT / 2);
    wait_until(SOON, "the smaller share", || Ok(open(&mut fleet, 0)?.is_none())).unwrap();
    for session in mine {
        let answer = session.query("SELECT 1").unwrap();
        assert!(answer.iter().all(|message| message.kind != 'E'), "{answer:?}");
    }
}
