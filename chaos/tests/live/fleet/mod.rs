//! Many gateways and agents: any client reaches any target through any gateway, and a node that is lost is nothing special.

mod access;
mod agents;
mod basics;
mod cancel;
mod fail_static;
mod nat;
mod partitions;
mod relay;
mod restored;
mod rolling;
mod shares;
mod uses;
mod versions;
mod weather;

use std::time::Duration;

use postern_chaos::live::fleet::{Fleet, Ledger};

/// Until every client gets on, in bad weather too, and once a cut is healed.
const SOON: Duration = Duration::from_secs(45);

#[track_caller]
fn gets_on(fleet: &Fleet, ledger: &Ledger, what: &str) {
    ledger.progress(3, SOON).unwrap_or_else(|error| panic!("{what}: {error:#}\n{}", fleet.logs()));
}

/// The target agrees with the clients, and so does the record: each row that is there is of a session whose recording is whole.
#[track_caller]
fn agree(fleet: &mut Fleet, ledger: Ledger) {
    let entered = ledger.finish().unwrap();
    let cli = fleet.cluster.cli();
    entered.check(fleet.site().unwrap().postgres(), &cli).unwrap_or_else(|error| panic!("{error:#}\n{}", fleet.logs()));
    assert!(entered.acknowledged > 20, "{entered:?}");
}
