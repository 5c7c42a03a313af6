//! The control plane as a cluster of processes, and what may befall it. What clients were told must fit together afterwards (I8).

mod administration;
mod alone;
mod certificates;
mod clocks;
mod die;
mod disk;
mod gateway;
mod jobs;
mod kek;
mod members;
mod moved;
mod partitions;
mod recordings;
mod recovery;
mod signing;
mod snapshots;
mod stand_still;
mod store;
mod tokens;
mod webhooks;

use std::time::Duration;

use postern_chaos::live::cluster::{ClusterOptions, LiveCluster, Load, LoadOptions, Summary};

/// How long another leader and its first writes may take.
const SOON: Duration = Duration::from_secs(20);

/// Three members, all of them voters.
fn cluster() -> LiveCluster {
    LiveCluster::start(ClusterOptions::default()).unwrap()
}

fn load(cluster: &LiveCluster) -> Load {
    let load = cluster.load(LoadOptions::default()).unwrap();
    writes(cluster, &load);
    load
}

/// Writes are acknowledged again.
#[track_caller]
fn writes(cluster: &LiveCluster, load: &Load) {
    load.wait_for(30, SOON).unwrap_or_else(|error| panic!("{error:#}\n{}", cluster.logs()));
}

/// The end of a scenario: everything agrees, with the clients too.
#[track_caller]
fn agree(cluster: &LiveCluster, load: Load) -> Summary {
    cluster.wait_healthy().unwrap();
    let summary = load.finish().unwrap_or_else(|error| panic!("{error:#}\n{}", cluster.logs()));
    assert!(summary.acknowledged >= 60 && summary.reads >= 10, "{summary:?}");
    cluster.wait_same_state().unwrap();
    summary
}
