//! What a gateway is told, over the real stream, while leaders die: each change exactly once and in order (I8).

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use postern_chaos::live::cluster::{ClientOptions, ClusterOptions, LiveCluster, Members, channels, tls_of};
use postern_core::snapshot::Snapshot;
use postern_core::wire::snapshot::{delta_from_proto, from_proto};
use postern_proto::admin::v1::ApplyRequest;
use postern_proto::admin::v1::resource_service_client::ResourceServiceClient;
use postern_proto::gateway::v1::policy_feed_service_client::PolicyFeedServiceClient;
use postern_proto::gateway::v1::watch_response::Policy as Answer;
use postern_proto::gateway::v1::{self as pb, WatchRequest};
use postern_proto::resource::v1::mask::Function;
use postern_proto::resource::v1::resource::Spec;
use postern_proto::resource::v1::{Mask, MaskingRuleSpec, Metadata, NullMask, Resource, TargetSelector};
use prost::Message as _;

/// What the follower saw.
#[derive(Default)]
struct Seen {
    /// Revisions that came as a step.
    steps: BTreeSet<u64>,
    /// What a whole policy covered, by its bounds.
    jumps: Vec<(u64, u64)>,
    streams: usize,
}

fn rule(place: u32) -> Resource {
    let spec = MaskingRuleSpec {
        targets: Some(TargetSelector { names: vec!["*".into()], ..Default::default() }),
        columns: vec![format!("public.people.column_{place}")],
        mask: Some(Mask { function: Some(Function::Null(NullMask {})) }),
        exempt_groups: Vec::new(),
        ..Default::default()
    };
    let metadata = Metadata { name: format!("rule-{}", place % 7), ..Default::default() };
    Resource { metadata: Some(metadata), spec: Some(Spec::MaskingRule(spec)) }
}

/// Writes until told to stop; the revisions that were acknowledged.
async fn write(addresses: Vec<String>, admin: PathBuf, stop: Arc<AtomicBool>) -> BTreeSet<u64> {
    let members = Members::new(&addresses, Some(&tls_of(&admin).unwrap()), ClientOptions::default()).unwrap();
    let mut acknowledged = BTreeSet::new();
    for place in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let request_id = format!("{place:032x}");
        let request = ApplyRequest { resources: vec![rule(place)], request_id, ..Default::default() };
        let asked = members.ask(|channel| {
            let request = request.clone();
            async move { ResourceServiceClient::new(channel).apply(request).await }
        });
        if let Ok(answer) = asked.await {
            acknowledged.insert(answer.revision);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    acknowledged
}

/// Follows one member after the other, going on from what it has, until it has `until`.
async fn follow(addresses: Vec<String>, gateway: PathBuf, until: tokio::sync::watch::Receiver<u64>) -> Seen {
    let tls = tls_of(&gateway).unwrap();
    let mut seen = Seen::default();
    let mut held: Option<Snapshot> = None;
    let deadline = Instant::now() + Duration::from_secs(150);
    for address in addresses.iter().cycle() {
        assert!(Instant::now() < deadline, "the last change does not arrive; at {:?}", held.map(|held| held.revision));
        let done = |held: &Option<Snapshot>| held.as_ref().is_some_and(|held| held.revision >= *until.borrow());
        let known = held.as_ref().map(|held| (held.revision, held.incarnation.clone())).unwrap_or_default();
        let channel = channels(address, Some(&tls), 1).unwrap().pop().unwrap();
        let request = WatchRequest { known_revision: known.0, incarnation: known.1 };
        let Ok(stream) = PolicyFeedServiceClient::new(channel).watch(request).await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        seen.streams += 1;
        let mut stream = stream.into_inner();
        // Some seconds of each: the member may not die, and we want to see others too.
        let life = Instant::now() + Duration::from_secs(4);
        while Instant::now() < life {
            let Ok(Ok(Some(answer))) = tokio::time::timeout(Duration::from_secs(5), stream.message()).await else {
                break;
            };
            match answer.policy {
                Some(Answer::Whole(signed)) => {
                    let whole = from_proto(pb::Snapshot::decode(signed.payload).unwrap()).unwrap();
                    if let Some(held) = &held {
                        // Only where the changes are not held any more; never back.
                        assert_eq!(answer.because, "revision compacted");
                        assert!(whole.revision > held.revision, "{} after {}", whole.revision, held.revision);
                        seen.jumps.push((held.revision, whole.revision));
                    } else {
                        seen.jumps.push((0, whole.revision));
                    }
                    held = Some(whole);
                }
                Some(Answer::Delta(signed)) => {
                    let delta = delta_from_proto(pb::Delta::decode(signed.payload).unwrap()).unwrap();
                    let revision = delta.revision;
                    // Fails unless it follows exactly what is held.
                    held = Some(held.as_ref().expect("a policy first").apply(delta).expect("in order, each once"));
                    assert!(seen.steps.insert(revision));
                }
                Some(Answer::Part(_)) => panic!("the policy is short"),
                None => {}
            }
            if done(&held) {
                return seen;
            }
        }
    }
    seen
}

#[test]
fn each_change_reaches_a_gateway_once_and_in_order_while_leaders_die() {
    let mut cluster = LiveCluster::start(ClusterOptions::default()).unwrap();
    let gateway = cluster.folder().join("gateway");
    let out = gateway.display().to_string();
    cluster.cli().cli(["certs", "issue", "--role", "gateway", "--name", "g1", "--out", &out]).unwrap().ok().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let (until, last) = tokio::sync::watch::channel(u64::MAX);
    let following = runtime.spawn(follow(cluster.addresses(), gateway, last));
    let writing = runtime.spawn(write(cluster.addresses(), cluster.admin(), Arc::clone(&stop)));
    for _ in 0..2 {
        std::thread::park_timeout(Duration::from_secs(4));
        let leader = cluster.leader().unwrap();
        cluster.member(leader).unwrap().kill9().unwrap();
        std::thread::park_timeout(Duration::from_secs(3));
        cluster.member(leader).unwrap().start().unwrap();
        cluster.wait_healthy().unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    let acknowledged = runtime.block_on(writing).unwrap();
    until.send_replace(*acknowledged.last().unwrap());
    let seen = runtime.block_on(following).unwrap();
    assert!(acknowledged.len() > 100 && seen.streams > 1, "{} in {} streams", acknowledged.len(), seen.streams);
    let missed: Vec<u64> = acknowledged
        .iter()
        .filter(|revision| !seen.steps.contains(revision))
        .filter(|revision| !seen.jumps.iter().any(|(from, to)| from < revision && *revision <= to))
        .copied()
        .collect();
    assert!(missed.is_empty(), "acknowledged, and not told: {missed:?}");
    assert!(seen.steps.len() > acknowledged.len() / 2, "{} of {} as steps", seen.steps.len(), acknowledged.len());
}
