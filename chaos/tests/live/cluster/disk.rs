//! Disks: full, torn, half-written, lost.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{agree, cluster, load, writes};
use crate::assert_has;

/// A member that can write no more stops and says so; the others go on, and it comes back once there is room.
#[test]
fn full() {
    let mut cluster = cluster();
    let load = load(&cluster);
    let follower = cluster.follower().unwrap();
    let member = cluster.member(follower).unwrap();
    member.stop().unwrap();
    let largest = files(&member.data_dir()).iter().map(|file| used(file)).max().unwrap();
    member.set_file_limit(Some(largest.max(64 << 10) + (16 << 10)));
    member.spawn().unwrap();
    let status = member.wait_end(Duration::from_secs(60)).unwrap();
    assert!(!status.success());
    let log = member.log();
    assert_has(&log.lines().rev().take(5).collect::<Vec<_>>().join("\n"), &["arge"]); // "File too large"
    member.set_file_limit(None);
    writes(&cluster, &load);
    cluster.member(follower).unwrap().start().unwrap();
    agree(&cluster, load);
}

/// A power cut that tears the end of the log's file: the member starts with all that it had acknowledged, or says that it does not.
#[test]
fn torn() {
    let mut cluster = cluster();
    let load = load(&cluster);
    let follower = cluster.follower().unwrap();
    let member = cluster.member(follower).unwrap();
    member.kill9().unwrap();
    let newest = files(&member.data_dir().join("raft/wal")).into_iter().max().unwrap();
    let end = end_of_writes(&newest);
    // Nothing is acknowledged that lies in a write which never ended.
    let file = File::options().write(true).open(&newest).unwrap();
    file.write_all_at(&[0xa5; 700], end).unwrap();
    member.start().unwrap();
    writes(&cluster, &load);
    agree(&cluster, load);
}

/// A member that lost its disk founds no cluster of its own and does not come back as who it was: it is let in anew.
#[test]
fn lost() {
    let mut cluster = cluster();
    let load = load(&cluster);
    let follower = cluster.follower().unwrap();
    let member = cluster.member(follower).unwrap();
    let name = member.name().to_owned();
    member.kill9().unwrap();
    member.lose_disk().unwrap();
    member.spawn().unwrap();
    let status = member.wait_end(Duration::from_secs(30)).unwrap();
    assert!(!status.success());
    assert_has(&member.log(), &["init", "join"]);
    cluster.cli().cli(["cluster", "remove", &name]).unwrap().ok().unwrap();
    cluster.add_member_as(follower, "").unwrap();
    cluster.wait_healthy().unwrap();
    agree(&cluster, load);
}

/// Up to where there is more than room made ahead.
fn used(file: &Path) -> u64 {
    let end = fs::read(file).unwrap().iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    u64::try_from(end).unwrap()
}

/// Behind the last write in a segment of the write-ahead log: each has a header of 24 bytes, with the length of what follows, and fills up
/// to a multiple of eight.
fn end_of_writes(file: &Path) -> u64 {
    let (bytes, mut at) = (fs::read(file).unwrap(), 0);
    while bytes[at..].starts_with(b"pWAL") {
        let length = u32::from_be_bytes(bytes[at + 4..at + 8].try_into().unwrap());
        at += (24 + usize::try_from(length).unwrap()).next_multiple_of(8);
    }
    assert!(at > 0);
    u64::try_from(at).unwrap()
}

/// Regular files below `folder`.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() { folders.push(entry.path()) } else { found.push(entry.path()) }
        }
    }
    found
}
