use std::time::Duration;

use postern_core::node::NodeRole;
use postern_core::recording::Authority;
use postern_core::signed::{Purpose, verify};
use postern_core::snapshot::Snapshot;
use postern_core::wire::snapshot::{delta_from_proto, from_proto};
use postern_proto::admin::v1 as pb;
use postern_proto::admin::v1::resource_service_client::ResourceServiceClient;
use postern_proto::gateway::v1::policy_feed_service_client::PolicyFeedServiceClient;
use postern_proto::gateway::v1::watch_response::Policy as Answer;
use postern_proto::gateway::v1::{Delta, Snapshot as SnapshotProto, WatchRequest, WatchResponse};
use postern_proto::resource::v1::Kind;
use postern_runtime::clock;
use postern_runtime::pki::NodeCredential;
use prost::Message as _;
use tonic::transport::Channel;

use crate::node::{Node, start};
use crate::resources::{apply, secret, target};

type Admin = ResourceServiceClient<Channel>;

/// One stream, verified as a gateway does.
struct Follower {
    stream: tonic::Streaming<WatchResponse>,
    ca: Vec<u8>,
}

impl Follower {
    async fn begin(node: &Node, channel: &Channel, known: &Snapshot) -> Self {
        let mut client = PolicyFeedServiceClient::new(channel.clone());
        let request = WatchRequest { known_revision: known.revision, incarnation: known.incarnation.clone() };
        let stream = client.watch(request).await.unwrap().into_inner();
        Self { stream, ca: NodeCredential::load(&node.control.admin_credential_dir).unwrap().ca_der() }
    }

    async fn next(&mut self) -> WatchResponse {
        tokio::time::timeout(Duration::from_secs(20), self.stream.message()).await.unwrap().unwrap().unwrap()
    }

    fn whole(&self, answer: &WatchResponse) -> Option<Snapshot> {
        let Some(Answer::Whole(signed)) = &answer.policy else { return None };
        let authority = Authority(&self.ca);
        verify(Purpose::Snapshot, &signed.payload, &signed.signature, &signed.certificate, authority, clock::now())
            .unwrap();
        Some(from_proto(SnapshotProto::decode(signed.payload.clone()).unwrap()).unwrap())
    }

    async fn delta(&mut self, to: &mut Snapshot) -> WatchResponse {
        loop {
            let answer = self.next().await;
            let Some(Answer::Delta(signed)) = &answer.policy else { continue };
            let authority = Authority(&self.ca);
            verify(Purpose::Delta, &signed.payload, &signed.signature, &signed.certificate, authority, clock::now())
                .unwrap();
            let delta = delta_from_proto(Delta::decode(signed.payload.clone()).unwrap()).unwrap();
            *to = to.apply(delta).unwrap();
            return answer;
        }
    }
}

async fn put(admin: &mut Admin, objects: Vec<postern_proto::resource::v1::Resource>) -> u64 {
    admin.apply(apply(objects)).await.unwrap().into_inner().revision
}

async fn delete(admin: &mut Admin, name: &str) -> u64 {
    let request = pb::DeleteRequest { kind: Kind::Target.into(), name: name.into(), ..Default::default() };
    admin.delete(request).await.unwrap().into_inner().revision
}

#[tokio::test(flavor = "multi_thread")]
async fn each_change_comes_once_and_in_order_with_its_credentials() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let mut admin = ResourceServiceClient::new(node.admin().await);
    let gateway = node.as_node(NodeRole::Gateway, "g1").await;
    let nothing = Snapshot::empty("", "");
    let mut follower = Follower::begin(&node, &gateway, &nothing).await;
    let first = follower.next().await;
    let mut snapshot = follower.whole(&first).unwrap();
    let credentials = first.credentials.unwrap();
    assert!(credentials.whole && credentials.credentials.is_empty() && !credentials.mask_key.is_empty());
    assert_eq!(first.confirmation.unwrap().revision, snapshot.revision);

    let revision = put(&mut admin, vec![secret("pw", "hunter2"), target("db", "pw", 0)]).await;
    let answer = follower.delta(&mut snapshot).await;
    assert_eq!((snapshot.revision, snapshot.targets.len()), (revision, 1));
    let Some(Answer::Delta(signed)) = &answer.policy else { unreachable!() };
    assert!(!signed.payload.windows(7).any(|part| part == b"hunter2"), "what is signed has no secret in it");
    let credentials = answer.credentials.unwrap();
    assert!(!credentials.whole);
    assert_eq!((&*credentials.credentials[0].target, &*credentials.credentials[0].password), ("db", &b"hunter2"[..]));

    // Another password, and nothing else: a step of its own.
    let revision = put(&mut admin, vec![secret("pw", "hunter3")]).await;
    let answer = follower.delta(&mut snapshot).await;
    assert_eq!(snapshot.revision, revision);
    assert_eq!(answer.credentials.unwrap().credentials[0].password, b"hunter3");
    let mut last = 0;
    for place in 0..20 {
        last = put(&mut admin, vec![target(&format!("t{place}"), "", 0)]).await;
    }
    for _ in 0..20 {
        follower.delta(&mut snapshot).await;
    }
    assert_eq!((snapshot.revision, snapshot.targets.len()), (last, 21));
    let gone = delete(&mut admin, "db").await;
    let answer = follower.delta(&mut snapshot).await;
    assert_eq!((snapshot.revision, snapshot.targets.len()), (gone, 20));
    assert_eq!(answer.credentials.unwrap().removed, ["db"]);
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_gets_what_it_missed() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let mut admin = ResourceServiceClient::new(node.admin().await);
    let gateway = node.as_node(NodeRole::Gateway, "g1").await;
    put(&mut admin, vec![secret("pw", "hunter2"), target("a", "pw", 0)]).await;
    let mut follower = Follower::begin(&node, &gateway, &Snapshot::empty("", "")).await;
    let first = follower.next().await;
    let mut known = follower.whole(&first).unwrap();
    // The whole may be of a moment before: what gateways are told follows what is acknowledged, in order.
    while known.targets.is_empty() {
        follower.delta(&mut known).await;
    }
    let known = known;
    drop(follower);
    for name in ["b", "c"] {
        put(&mut admin, vec![target(name, "", 0)]).await;
    }
    // The changes since, in order, and then all credentials: they may have changed without a revision of their own.
    let mut snapshot = known.clone();
    let mut follower = Follower::begin(&node, &gateway, &known).await;
    follower.delta(&mut snapshot).await;
    assert_eq!(snapshot.targets.len(), 2);
    follower.delta(&mut snapshot).await;
    assert_eq!(snapshot.targets.len(), 3);
    let answer = follower.next().await;
    let credentials = answer.credentials.unwrap();
    assert!(answer.policy.is_none() && credentials.whole && credentials.credentials.len() == 1);
    // Nothing new: confirmed again and again.
    let confirmed = follower.next().await;
    assert!(confirmed.policy.is_none() && confirmed.confirmation.unwrap().revision == snapshot.revision);

    // Of another life of the cluster: the whole.
    let other = Snapshot { incarnation: "other".into(), ..known.clone() };
    let mut follower = Follower::begin(&node, &gateway, &other).await;
    let answer = follower.next().await;
    assert!(answer.because.contains("restored"), "{}", answer.because);
    assert_eq!(follower.whole(&answer).unwrap().revision, snapshot.revision);

    // Ahead of this node: never something older.
    let mut ahead = PolicyFeedServiceClient::new(gateway.clone());
    let request = WatchRequest { known_revision: snapshot.revision + 1, incarnation: snapshot.incarnation.clone() };
    let refused = ahead.watch(request).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable);
    drop((ahead, follower, gateway, admin));
    node.end().await;

    // After a restart the node does not hold the changes any more: the newest revision is known, an older one is compacted.
    let node = start(dir.path()).await;
    let gateway = node.as_node(NodeRole::Gateway, "g1").await;
    let mut follower = Follower::begin(&node, &gateway, &known).await;
    let answer = follower.next().await;
    assert_eq!(answer.because, "revision compacted");
    assert_eq!(follower.whole(&answer).unwrap().targets.len(), 3);
    let mut follower = Follower::begin(&node, &gateway, &snapshot).await;
    assert!(follower.next().await.policy.is_none());
    drop((follower, gateway));
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_policy_comes_in_parts() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let mut admin = ResourceServiceClient::new(node.admin().await);
    for batch in 0..10 {
        let objects = (0..200).map(|place| {
            let mut object = target(&format!("t{batch}-{place}"), "", 0);
            if let Some(postern_proto::resource::v1::resource::Spec::Target(target)) = &mut object.spec {
                target.databases = (0..20).map(|database| format!("a-database-with-a-long-name-{database}")).collect();
            }
            object
        });
        put(&mut admin, objects.collect()).await;
    }
    let gateway = node.as_node(NodeRole::Gateway, "g1").await;
    let ca = NodeCredential::load(&node.control.admin_credential_dir).unwrap().ca_der();
    // The feed follows what is acknowledged. Until it has caught up with ten changes, it tells whoever takes an old whole to come again, or gives
    // one of a moment before.
    loop {
        let mut follower = Follower::begin(&node, &gateway, &Snapshot::empty("", "")).await;
        let (mut payload, mut parts) = (Vec::new(), 0);
        let last = loop {
            match tokio::time::timeout(Duration::from_secs(20), follower.stream.message()).await.unwrap() {
                Err(status) if status.code() == tonic::Code::Aborted => break None,
                answer => match answer.unwrap().unwrap().policy {
                    Some(Answer::Part(part)) => {
                        parts += 1;
                        payload.extend(part);
                    }
                    Some(Answer::Whole(signed)) => break Some(signed),
                    other => panic!("{other:?}"),
                },
            }
        };
        let Some(last) = last else { continue };
        payload.extend_from_slice(&last.payload);
        verify(Purpose::Snapshot, &payload, &last.signature, &last.certificate, Authority(&ca), clock::now()).unwrap();
        if from_proto(SnapshotProto::decode(&*payload).unwrap()).unwrap().targets.len() == 2_000 {
            assert!(parts >= 2, "{parts}");
            break;
        }
    }
    node.end().await;
}
