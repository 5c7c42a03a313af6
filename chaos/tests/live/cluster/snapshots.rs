//! Snapshots that were being written, or on their way, when a member died.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use postern_chaos::live::cluster::{ClusterOptions, LiveCluster};
use postern_chaos::live::wait_until;

use super::{agree, load, writes};
use crate::assert_has;

/// A log that is compacted all the time.
fn compacting() -> LiveCluster {
    LiveCluster::start(ClusterOptions { control: "compact_after = 100".to_owned(), ..Default::default() }).unwrap()
}

/// The snapshot files of a member, the newest last.
fn snapshots(data: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(data.join("raft").join("snapshots"))
        .into_iter()
        .flatten()
        .filter_map(|file| Some(file.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "snapshot"))
        .collect();
    found.sort();
    found
}

/// Waits until `number` has written a snapshot that it had not.
fn wait_snapshot(cluster: &mut LiveCluster, number: usize) -> PathBuf {
    let data = cluster.member(number).unwrap().data_dir();
    let before = snapshots(&data).pop();
    let mut newest = None;
    wait_until(Duration::from_secs(60), "a snapshot", || {
        newest = snapshots(&data).pop();
        Ok(newest.is_some() && newest != before)
    })
    .unwrap();
    newest.unwrap()
}

/// Killed again and again while it compacts, and with the remains of unfinished files beside the good one: it starts with all that it had.
#[test]
fn half_written() {
    let mut cluster = compacting();
    let load = load(&cluster);
    for round in 0..4_u64 {
        let follower = cluster.follower().unwrap();
        wait_snapshot(&mut cluster, follower);
        // Somewhere in the next one, or between two.
        let moment = Instant::now() + Duration::from_millis(37 * round);
        wait_until(Duration::from_secs(5), "a moment", || Ok(Instant::now() >= moment)).unwrap();
        let member = cluster.member(follower).unwrap();
        member.kill9().unwrap();
        let data = member.data_dir();
        let good = snapshots(&data).pop().unwrap();
        let bytes = fs::read(&good).unwrap();
        // A crash while it is written, and one after it was renamed and before the log knows of it: whole, and half of it.
        let later = |index: u64| good.with_file_name(format!("{:020}-{:020}.snapshot", u64::MAX / 2 + index, 9));
        fs::write(good.with_extension("tmp"), &bytes[..bytes.len() / 2]).unwrap();
        fs::write(later(1), &bytes).unwrap();
        fs::write(later(2), &bytes[..bytes.len() / 2]).unwrap();
        cluster.member(follower).unwrap().start().unwrap();
        writes(&cluster, &load);
        cluster.wait_healthy().unwrap();
        assert!(!later(1).exists() && !later(2).exists(), "remains are removed");
    }
    agree(&cluster, load);
}

/// A damaged snapshot is never served from: the member says which file it is, and comes back as a new member.
#[test]
fn cut_off() {
    let mut cluster = compacting();
    let load = load(&cluster);
    let follower = cluster.follower().unwrap();
    wait_snapshot(&mut cluster, follower);
    let member = cluster.member(follower).unwrap();
    member.stop().unwrap();
    let name = member.name().to_owned();
    let snapshot = snapshots(&member.data_dir()).pop().unwrap();
    let half = fs::metadata(&snapshot).unwrap().len() / 2;
    File::options().write(true).open(&snapshot).unwrap().set_len(half).unwrap();
    member.spawn().unwrap();
    assert!(!member.wait_end(Duration::from_secs(30)).unwrap().success());
    let file = snapshot.file_name().unwrap().to_string_lossy().into_owned();
    assert_has(&member.log(), &["snapshot", &file, "cut off"]);
    // It stays as it is for whoever looks into it.
    assert_eq!(fs::metadata(&snapshot).unwrap().len(), half);
    writes(&cluster, &load);
    cluster.cli().cli(["cluster", "remove", &name]).unwrap().ok().unwrap();
    cluster.member(follower).unwrap().lose_disk().unwrap();
    cluster.add_member_as(follower, "").unwrap();
    agree(&cluster, load);
}

/// A new member is killed while its snapshot comes in, and goes on with what it had of it; then its sender is killed too.
#[test]
fn half_received() {
    let mut cluster = LiveCluster::start(ClusterOptions::default()).unwrap();
    // Some 36 MB: half a second on the wire, at the rate that members keep to.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime
        .block_on(async {
            let client = cluster.client().unwrap();
            for part in 0..10 {
                client.fill(&format!("part-{part}"), 900).await?;
            }
            Ok::<_, postern_chaos::live::cluster::Failure>(())
        })
        .unwrap();
    cluster.wait_same_state().unwrap();
    let fourth = cluster.add_member().unwrap();
    let incoming = cluster.member(fourth).unwrap().data_dir().join("incoming");
    let arriving = || {
        wait_until(Duration::from_secs(60), "a piece of a snapshot", || {
            let sizes = fs::read_dir(&incoming).into_iter().flatten().flatten().filter_map(|file| file.metadata().ok());
            Ok(sizes.map(|file| file.len()).max().unwrap_or_default() > 1 << 20)
        })
    };
    arriving().unwrap_or_else(|error| panic!("{error:#}\n{}", cluster.logs()));
    cluster.member(fourth).unwrap().kill9().unwrap();
    cluster.member(fourth).unwrap().spawn().unwrap();
    let log = |cluster: &mut LiveCluster| cluster.member(fourth).unwrap().log();
    wait_until(Duration::from_secs(60), "the snapshot to go on", || {
        Ok(log(&mut cluster).matches("a snapshot comes in").count() >= 2)
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", cluster.logs()));
    let leader = cluster.leader().unwrap();
    cluster.member(fourth).unwrap().kill9().unwrap();
    cluster.member(leader).unwrap().kill9().unwrap();
    let log_of_it = log(&mut cluster);
    let again = log_of_it.lines().filter(|line| line.contains("a snapshot comes in")).nth(1).unwrap().to_owned();
    assert!(!again.contains("received=0"), "it begins anew: {again}");
    cluster.member(leader).unwrap().start().unwrap();
    cluster.member(fourth).unwrap().start().unwrap();
    cluster.wait_healthy().unwrap();
    cluster.wait_same_state().unwrap();
    assert_eq!(fs::read_dir(&incoming).unwrap().count(), 0, "pieces stay behind");
}
