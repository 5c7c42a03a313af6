//! Roles, watches and the audit log, whichever member is asked, and when the leader changes.

use std::time::{Duration, Instant};

use postern_chaos::live::cluster::{Caller, ClientOptions, LiveCluster};
use postern_chaos::live::{Issuer, wait_until};
use postern_proto::resource::v1::{AuditRecord, Kind};
use tonic::{Code, Status};

use super::{SOON, agree, cluster, load, writes};
use crate::assert_has;

const ROLE: &str = "apiVersion: postern/v1\nkind: Role\nmetadata: {name: keepers}\nspec:\n  grants: [{objects: [targets, roles], verbs: [get, list, watch]}]\n";
const BINDING: &str = "apiVersion: postern/v1\nkind: RoleBinding\nmetadata: {name: keepers}\nspec: {role: keepers, subjects: {groups: [keepers]}}\n";

/// Has every member know `issuer`, and knows by it when they do.
pub(super) fn trusted(cluster: &LiveCluster, caller: &Caller, issuer: &Issuer) {
    cluster.cli().apply(&issuer.object("test")).unwrap();
    let token = issuer.token("nobody", &[]).unwrap();
    for member in 0..3 {
        wait_until(SOON, "the issuer's keys", || {
            Ok(code(&caller.list(member, &token, Kind::Role)) != Code::Unauthenticated)
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", cluster.logs()));
    }
}

pub(super) fn code<T>(answer: &Result<T, Box<Status>>) -> Code {
    answer.as_ref().err().map_or(Code::Ok, |status| status.code())
}

/// What a member answers, once it knows who leads.
#[track_caller]
fn answered<T>(mut ask: impl FnMut() -> Result<T, Box<Status>>) -> Code {
    let mut last = Code::Ok;
    wait_until(SOON, "an answer", || {
        last = code(&ask());
        Ok(!matches!(last, Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded))
    })
    .unwrap();
    last
}

/// What was given or taken at one member holds at every other with the very next call.
#[test]
fn a_role_holds_everywhere_with_the_next_call() {
    let mut cluster = cluster();
    let load = load(&cluster);
    let (caller, issuer) = (Caller::new(&cluster).unwrap(), Issuer::start().unwrap());
    trusted(&cluster, &caller, &issuer);
    cluster.cli().apply(ROLE).unwrap();
    let token = issuer.token("kim", &["keepers"]).unwrap();
    let mut running = vec![0, 1, 2];
    let mut down = None;
    for round in 0..6 {
        if round == 3 {
            let leader = cluster.leader().unwrap();
            cluster.member(leader).unwrap().kill9().unwrap();
            running.retain(|member| *member != leader);
            down = Some(leader);
        }
        let at = |place: usize| running[place % running.len()];
        let change = |place: usize, arguments: &[&str], yaml: &str| {
            let cli = cluster.cli_of(at(place)).unwrap();
            wait_until(SOON, "a write", || {
                Ok(if yaml.is_empty() { cli.cli(arguments)? } else { cli.try_apply(yaml)? }.status.success())
            })
            .unwrap();
        };
        change(round, &[], BINDING);
        for member in &running {
            assert_eq!(answered(|| caller.list(*member, &token, Kind::Target)), Code::Ok, "{round} at {member}");
        }
        change(round + 1, &["delete", "role-binding", "keepers"], "");
        for member in &running {
            let answer = answered(|| caller.list(*member, &token, Kind::Target));
            assert_eq!(answer, Code::PermissionDenied, "{round} at {member}");
        }
    }
    cluster.member(down.unwrap()).unwrap().start().unwrap();
    agree(&cluster, load);
}

/// A watch that never rests ends, too, with the right to it.
#[test]
fn a_busy_watch_ends_with_the_right_to_it() {
    let cluster = cluster();
    let load = load(&cluster);
    let (caller, issuer) = (Caller::new(&cluster).unwrap(), Issuer::start().unwrap());
    trusted(&cluster, &caller, &issuer);
    cluster.cli().apply(&format!("{ROLE}---\n{BINDING}")).unwrap();
    let token = issuer.token("kim", &["keepers"]).unwrap();
    let follower = cluster.follower().unwrap();
    for (take, given) in [(["delete", "role-binding", "keepers"], BINDING), (["delete", "issuer", "test"], "")] {
        let mut watch = caller.watch(follower, &token, Kind::Role).unwrap();
        // Past what stands there, to what the load changes.
        for _ in 0..50 {
            caller.next(&mut watch).unwrap();
        }
        let cli = cluster.cli_of(cluster.leader().unwrap()).unwrap();
        let gone = || {
            let said = cli.cli(take)?;
            Ok(said.status.success() || said.stderr.contains("not found"))
        };
        wait_until(SOON, "a write", gone).unwrap();
        let taken = Instant::now();
        let mut told = 0_u32;
        let end = loop {
            match caller.next(&mut watch) {
                Ok(_) => told += 1,
                Err(status) => break status,
            }
            assert!(taken.elapsed() < Duration::from_secs(10), "still told of {told} changes");
        };
        let wanted = if given.is_empty() { Code::Unauthenticated } else { Code::PermissionDenied };
        assert_eq!(end.code(), wanted, "{end}");
        if !given.is_empty() {
            cluster.cli().apply(given).unwrap();
        }
    }
    agree(&cluster, load);
}

/// Any member tells the whole log: also what was refused elsewhere, at the very last by a leader that died right after.
#[test]
fn the_audit_log_is_whole_at_every_member() {
    let mut cluster = cluster();
    let load = load(&cluster);
    let (caller, issuer) = (Caller::new(&cluster).unwrap(), Issuer::start().unwrap());
    trusted(&cluster, &caller, &issuer);
    let token = issuer.token("mallory", &[]).unwrap();
    let names: Vec<String> = (0..3).map(|number| cluster.member(number).unwrap().name().to_owned()).collect();
    for member in 0..3 {
        assert_eq!(code(&caller.list(member, &token, Kind::Target)), Code::PermissionDenied);
        assert_eq!(code(&caller.list(member, "", Kind::Target)), Code::Unauthenticated);
    }
    let leader = cluster.leader().unwrap();
    // The first of its kind: in the log before it is answered.
    let last = issuer.token("the-last", &[]).unwrap();
    assert_eq!(code(&caller.list(leader, &last, Kind::Policy)), Code::PermissionDenied);
    assert_eq!(code(&caller.exchange(leader, "no token", 60)), Code::Unauthenticated);
    cluster.member(leader).unwrap().kill9().unwrap();
    writes(&cluster, &load);
    let others: Vec<usize> = (0..3).filter(|number| *number != leader).collect();

    let refused = |log: &[AuditRecord], subject: &str, node: &str, code: &str| {
        log.iter().any(|record| {
            let who = record.principal.as_ref().map_or("", |principal| principal.subject.as_str());
            who == subject && record.node == node && record.code == code
        })
    };
    let mut logs = Vec::new();
    for member in &others {
        let (log, head, _) = caller.audit(*member).unwrap();
        // From the first on, without a gap, in the order of the cluster's time.
        assert!(log.iter().zip(1..).all(|(record, number)| record.sequence == number), "a gap");
        assert!(head >= log.last().unwrap().sequence);
        let times = log.iter().map(|record| record.at.map(|at| (at.seconds, at.nanos)));
        assert!(times.is_sorted());
        for name in &names {
            assert!(refused(&log, "mallory", name, "PERMISSION_DENIED"), "{name}");
            assert!(refused(&log, "", name, "UNAUTHENTICATED"), "{name}");
        }
        assert!(refused(&log, "the-last", &names[leader], "PERMISSION_DENIED"));
        let exchanged = |record: &AuditRecord| record.method.ends_with("/ExchangeToken") && record.code != "OK";
        assert!(log.iter().any(exchanged));
        let said = cluster.cli_of(*member).unwrap().cli(["audit", "verify"]).unwrap().ok().unwrap();
        assert_has(&said, &["records"]);
        logs.push(log);
    }
    let common = logs.iter().map(Vec::len).min().unwrap();
    assert!(common > 20 && logs[0][..common] == logs[1][..common], "the same at both");
    cluster.member(leader).unwrap().start().unwrap();
    agree(&cluster, load);
}

/// `get -w` through a follower: the leader dies, then the follower itself. Each change is told once and in order.
#[test]
fn a_watch_goes_on_when_members_die() {
    let mut cluster = cluster();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let client = {
        let _guard = runtime.enter();
        let patient =
            ClientOptions { attempt: Duration::from_secs(3), limit: Duration::from_secs(60), ..Default::default() };
        cluster.client().unwrap().with(patient)
    };
    let (leader, follower) = (cluster.leader().unwrap(), cluster.follower().unwrap());
    let third = 3 - leader - follower;
    let folder = cluster.folder().to_owned();
    let cli = cluster.cli_of_all(&[follower, third, leader]).unwrap();
    let mut written = Vec::new();
    let mut write = |from: usize, to: usize| {
        for number in from..to {
            // Names come again: one register is told of more than once.
            let name = format!("w-{}", number % 7);
            written.push((name.clone(), runtime.block_on(client.put(&name, &format!("{number}"), None)).unwrap()));
        }
        written.last().cloned().unwrap()
    };
    let stood = write(0, 3);
    let watch = cli.spawn("watch", &["get", "roles", "-w", "-o", "json"], &folder).unwrap();
    let told = || -> Vec<(String, u64)> {
        let lines = watch.stdout();
        // The last line may not be whole yet.
        let whole = lines.rsplit_once('\n').map_or("", |(whole, _)| whole).to_owned();
        let one = |line: &str| {
            let change: serde_json::Value = serde_json::from_str(line).unwrap();
            let name = change["object"]["metadata"]["name"].as_str().unwrap().to_owned();
            (name, change["revision"].as_u64().unwrap())
        };
        whole.lines().map(one).collect()
    };
    let wait = |last: &(String, u64), cluster: &LiveCluster| {
        wait_until(Duration::from_secs(30), "the watch to tell of it", || Ok(told().contains(last)))
            .unwrap_or_else(|error| panic!("{error:#}\n{:?}\n{}\n{}", told(), watch.stderr(), cluster.logs()));
    };
    wait(&stood, &cluster);
    wait(&write(3, 20), &cluster);
    cluster.member(leader).unwrap().kill9().unwrap();
    wait(&write(20, 40), &cluster);
    cluster.member(leader).unwrap().start().unwrap();
    cluster.wait_healthy().unwrap();
    cluster.member(follower).unwrap().kill9().unwrap();
    let last = write(40, 60);
    wait(&last, &cluster);
    assert_eq!(told(), written, "{}", watch.stderr());
}
