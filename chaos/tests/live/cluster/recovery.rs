//! Majorities at risk, and lost.

use std::time::Duration;

use postern_chaos::live::cluster::{Caller, ClientOptions, LiveCluster};
use postern_chaos::live::wait_until;
use postern_proto::resource::v1::Kind;
use tokio::runtime::Runtime;
use tonic::Code;

use super::{agree, cluster, load, writes};
use crate::assert_has;

/// With one member away, no other goes: the cluster would stand still. By force it goes, and stands still until the one comes back.
#[test]
fn below_a_majority_only_by_force() {
    let mut cluster = cluster();
    let load = load(&cluster);
    let leader = cluster.leader().unwrap();
    let others: Vec<usize> = (0..3).filter(|number| *number != leader).collect();
    let (away, goes) = (others[0], others[1]);
    cluster.member(away).unwrap().kill9().unwrap();
    writes(&cluster, &load);
    let name = cluster.member(goes).unwrap().name().to_owned();
    let cli = cluster.cli_of(leader).unwrap();
    // Right after a member died it may still count as there.
    let said = cli.cli(["cluster", "remove", &name]).unwrap().fails().unwrap();
    assert_has(&said, &["1 of the 2 voters", "2 are needed", "force"]);
    writes(&cluster, &load);
    let folder = cluster.folder().to_owned();
    let mut forced = cli.spawn("forced", &["cluster", "remove", "--force", &name], &folder).unwrap();
    wait_until(Duration::from_secs(20), "the warning", || Ok(forced.stderr().contains("--force"))).unwrap();
    cluster.member(away).unwrap().start().unwrap();
    let status = forced.wait(Duration::from_secs(60)).unwrap();
    if !status.success() {
        // It came back too late for the command to see the end of it: asked again, what is left is done.
        assert_has(&forced.stderr(), &["unknown"]);
        wait_until(Duration::from_secs(60), "the removal to be done", || {
            Ok(cli.cli(["cluster", "remove", &name])?.status.success())
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", cluster.logs()));
    }
    let member = cluster.member(goes).unwrap();
    assert!(!member.wait_end(Duration::from_secs(30)).unwrap().success());
    assert_has(&member.log(), &["removed"]);
    writes(&cluster, &load);
    agree(&cluster, load);
}

/// Two of three are lost for good, and with them every write to come. What was saved makes a new cluster: a backup, or what lies on the disk of
/// the one that is left, which is newer.
#[test]
fn two_of_three_are_lost() {
    let mut cluster = cluster();
    let load = load(&cluster);
    let runtime = Runtime::new().unwrap();
    let client = |cluster: &LiveCluster| {
        let _guard = runtime.enter();
        cluster.client().unwrap()
    };
    let before = client(&cluster);
    runtime.block_on(before.put("saved", "in both", None)).unwrap();
    let backup = cluster.folder().join("online.backup");
    let out = backup.display().to_string();
    cluster.cli().cli(["control", "backup", "--out", &out]).unwrap().ok().unwrap();
    runtime.block_on(before.put("later", "on the disk alone", None)).unwrap();
    load.finish().unwrap();

    let left = cluster.leader().unwrap();
    for number in (0..3).filter(|number| *number != left) {
        let member = cluster.member(number).unwrap();
        member.kill9().unwrap();
        member.lose_disk().unwrap();
    }
    let short = ClientOptions { attempt: Duration::from_secs(2), limit: Duration::from_secs(2), connections: 1 };
    let alone = before.only(left).with(short);
    assert!(runtime.block_on(alone.put("never", "acknowledged", None)).is_err());
    // Nor is a refusal told that cannot be recorded.
    let caller = Caller::new(&cluster).unwrap();
    assert_eq!(caller.list(left, "", Kind::Role).unwrap_err().code(), Code::Unavailable);
    // It cannot be saved while it runs; and no majority, no backup.
    let salvaged = cluster.folder().join("salvaged.backup");
    let (out, member) = (salvaged.display().to_string(), cluster.member(left).unwrap());
    let folder = member.data_dir().parent().unwrap().join("control.toml").display().to_string();
    let cli = cluster.cli_of(left).unwrap();
    let salvage = ["control", "backup", "--from-disk", &folder, "--out", &out];
    cli.cli(salvage).unwrap().fails().unwrap();
    assert!(!salvaged.exists());
    cluster.member(left).unwrap().kill9().unwrap();
    assert_has(&cli.cli(salvage).unwrap().ok().unwrap(), &["up to index"]);

    cluster.restore(&backup, "a").unwrap();
    let restored = client(&cluster);
    let value = |found: Option<(String, u64)>| found.map(|(value, _)| value);
    assert_eq!(value(runtime.block_on(restored.get("saved")).unwrap()).as_deref(), Some("in both"));
    assert_eq!(value(runtime.block_on(restored.get("later")).unwrap()), None);

    cluster.restore(&salvaged, "b").unwrap();
    for _ in 0..2 {
        cluster.add_member().unwrap();
    }
    cluster.wait_healthy().unwrap();
    let restored = client(&cluster);
    for (name, wanted) in [("saved", "in both"), ("later", "on the disk alone")] {
        assert_eq!(value(runtime.block_on(restored.get(name)).unwrap()).as_deref(), Some(wanted));
    }
    runtime.block_on(restored.put("new", "in the new life", None)).unwrap();
    cluster.wait_same_state().unwrap();
}
