//! Members' and gateways' certificates: renewed while all goes on, ended while all stood still, revoked.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use postern_chaos::live::cluster::{ClientOptions, ClusterOptions, Gateway, LiveCluster};
use postern_chaos::live::wire::Wire;
use postern_chaos::live::{Postgres, PostgresOptions, wait_until};
use postern_proto::admin::v1::GetClusterStatusResponse;
use tokio::runtime::Runtime;

use super::{agree, cluster, load, writes};
use crate::assert_has;

/// Short enough to see it end; long enough for a busy machine to renew in the last third.
const LIFETIME: Duration = Duration::from_secs(24);

fn short_lived(lifetime: Duration) -> LiveCluster {
    let control = format!("certificate_lifetime = \"{}s\"", lifetime.as_secs());
    LiveCluster::start(ClusterOptions { control, ..Default::default() }).unwrap()
}

fn now() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs().try_into().unwrap()
}

/// When the certificate of each member ends, by name.
fn ends(status: &GetClusterStatusResponse) -> BTreeMap<String, i64> {
    let end = |member: &postern_proto::admin::v1::MemberStatus| {
        Some((member.node.clone()?.name, member.certificate_not_after?.seconds))
    };
    status.members.iter().filter_map(end).collect()
}

/// The sum of a metric's samples.
fn count(metrics: &str, name: &str, label: &str) -> u64 {
    let samples = metrics.lines().filter(|line| line.starts_with(name) && line.contains(label));
    samples.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum()
}

const RENEWALS: &str = "postern_node_certificate_renewals_total";

#[test]
fn renewed_before_they_end_and_nobody_notices() {
    let postgres = Postgres::start(PostgresOptions::default()).unwrap();
    let mut cluster = short_lived(LIFETIME);
    let mut gateway = Gateway::start(&cluster, &postgres).unwrap();
    let mut session = Wire::connect(&gateway.address()).unwrap();
    session.login("shop-direct", "shop", &gateway.token("dora", &["dba"]).unwrap()).unwrap();
    let load = load(&cluster);
    let before = cluster.status().unwrap();
    let last = ends(&before).into_values().max().unwrap();
    assert_eq!(ends(&before).len(), 3, "{before:#?}");
    let lost_links = |cluster: &LiveCluster| cluster.logs().matches("no link to a peer").count();
    let lost = lost_links(&cluster);

    // Past the end of all that was shown at the beginning, the gateway's too.
    let (end, began) = (last.max(now() + i64::try_from(LIFETIME.as_secs()).unwrap()), Instant::now());
    wait_until(LIFETIME * 4, "the certificates to be renewed", || {
        let status = cluster.status()?;
        Ok(now() > end + 1 && ends(&status).len() == 3 && ends(&status).values().all(|ends| *ends > now()))
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", cluster.logs()));
    writes(&cluster, &load);
    let after = cluster.status().unwrap();
    assert_eq!((after.term, after.leader_id), (before.term, before.leader_id), "no election in {:?}", began.elapsed());
    assert_eq!(lost_links(&cluster), lost, "{}", cluster.logs());
    for number in 0..3 {
        let metrics = cluster.member(number).unwrap().metrics().unwrap();
        assert!(count(&metrics, RENEWALS, "renewed") >= 1, "{metrics}");
        assert_eq!(count(&metrics, RENEWALS, "failed"), 0, "{}", cluster.logs());
        // Two certificates of each member, each renewed at two thirds of its life: not in a loop.
        let most = 2 * (4 + began.elapsed().as_secs() / (LIFETIME.as_secs() / 3));
        assert!(count(&metrics, RENEWALS, "renewed") <= most, "{metrics}");
    }
    let metrics = gateway.metrics().unwrap();
    assert!(count(&metrics, RENEWALS, "renewed") >= 1 && count(&metrics, RENEWALS, "failed") == 0, "{metrics}");
    // The session has seen nothing of it; and a gateway with nothing in memory takes policy that nobody has changed for longer than any
    // certificate was good for.
    assert_eq!(session.query("SELECT count(*) FROM orders").unwrap()[0].kind, 'T');
    gateway.restart().unwrap_or_else(|error| panic!("{error:#}"));
    let summary = agree(&cluster, load);
    assert_eq!(summary.unknown, 0, "{summary:?}");
}

/// All were down for longer than their certificates are good for. None of them would let another in, and without a leader nobody records a
/// new certificate: they help themselves.
#[test]
fn all_ended_while_the_cluster_was_down() {
    let lifetime = Duration::from_secs(10);
    let mut cluster = short_lived(lifetime);
    let load = load(&cluster);
    for number in 0..3 {
        cluster.member(number).unwrap().kill9().unwrap();
    }
    // Nothing to look at: time has to pass.
    std::thread::park_timeout(lifetime + Duration::from_secs(2));
    for number in 0..3 {
        cluster.member(number).unwrap().start().unwrap();
    }
    cluster.wait_healthy().unwrap();
    writes(&cluster, &load);
    assert_has(&cluster.logs(), &["the node's certificate had ended", "the node has a new certificate"]);
    agree(&cluster, load);
}

/// The leader's certificates are revoked: all others cut it off at once, elect another, and it is replaced.
#[test]
fn a_revoked_leader_is_cut_off() {
    let mut cluster = cluster();
    let load = load(&cluster);
    let leader = cluster.leader().unwrap();
    let name = cluster.member(leader).unwrap().name().to_owned();
    let others: Vec<usize> = (0..3).filter(|number| *number != leader).collect();
    let cli = cluster.cli_of(others[0]).unwrap();
    cli.cli(["certs", "revoke", "--role", "control", "--name", &name, "--because", "lost"]).unwrap().ok().unwrap();
    let revoked = Instant::now();
    // Each of the others ends what was open, and says why.
    let names: Vec<String> = others.iter().map(|other| cluster.member(*other).unwrap().name().to_owned()).collect();
    let told = format!("the certificate of {name} was revoked");
    let by = |log: &str, name: &str| log.lines().any(|line| line.contains(&told) && line.contains(name));
    wait_until(Duration::from_secs(10), "all others to cut it off", || {
        let log = cluster.member(leader)?.log();
        Ok(names.iter().all(|name| by(&log, name)))
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", cluster.logs()));
    // A second is promised; the machine may be busy.
    assert!(revoked.elapsed() < Duration::from_secs(4), "{:?}", revoked.elapsed());
    writes(&cluster, &load);
    // It neither reads nor writes for anybody, whoever still asks it.
    let runtime = Runtime::new().unwrap();
    let short = ClientOptions { attempt: Duration::from_secs(2), limit: Duration::from_secs(2), connections: 1 };
    let alone = {
        let _guard = runtime.enter();
        cluster.client().unwrap().only(leader).with(short)
    };
    assert!(runtime.block_on(alone.get("register-0")).is_err());
    assert!(runtime.block_on(alone.put("never", "acknowledged", None)).is_err());
    let cli = cluster.cli_of(others[1]).unwrap();
    cli.cli(["cluster", "remove", &name]).unwrap().ok().unwrap();
    let member = cluster.member(leader).unwrap();
    assert!(!member.wait_end(Duration::from_secs(30)).unwrap().success());
    assert_has(&member.log(), &["removed"]);
    cluster.add_member_as(leader, "b").unwrap();
    agree(&cluster, load);
}
