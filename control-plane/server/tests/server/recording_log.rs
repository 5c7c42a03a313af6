use postern_core::node::NodeRole;
use postern_core::operation::Digest;
use postern_core::transparency::{Evidence, Frontier, Leaf, NoteKey, SignedCheckpoint, verify_consistency};
use postern_proto::admin::v1 as pb;
use postern_proto::admin::v1::log_service_client::LogServiceClient;
use postern_runtime::clock;
use tonic::Code;
use tonic::transport::Channel;

use crate::issuer::Issuer;
use crate::node::{Node, eventually, start, with_token};
use crate::recordings::{recording, send, upload};

/// The newest head, once it covers so many leaves.
pub(crate) async fn head(client: &mut LogServiceClient<Channel>, size: u64) -> (SignedCheckpoint, NoteKey) {
    let head = eventually("a signed head", async || {
        let answer = client.clone().get_head(pb::GetHeadRequest::default()).await.ok()?.into_inner();
        let checkpoint: SignedCheckpoint = answer.checkpoint.parse().unwrap();
        (checkpoint.head().size >= size).then(|| (checkpoint, answer.key.parse().unwrap()))
    });
    let (checkpoint, key) = head.await;
    checkpoint.verify(&key).unwrap();
    (checkpoint, key)
}

async fn seal(node: &Node, count: usize) -> Vec<postern_core::SessionId> {
    let credential = node.credential(NodeRole::Gateway, "g1").await;
    let mut sessions = Vec::new();
    let mut requests = Vec::new();
    for _ in 0..count {
        let session = clock::session_id();
        requests.push(upload(session, 0, &recording(&node.control, &credential, session)));
        sessions.push(session);
    }
    let answers = send(node.as_node(NodeRole::Gateway, "g1").await, requests).await;
    assert!(answers.iter().all(|answer| answer.refused.is_empty()), "{answers:?}");
    sessions
}

async fn leaves(client: &mut LogServiceClient<Channel>, from: u64) -> (Vec<Leaf>, Frontier) {
    let answer = client.list_leaves(pb::ListLeavesRequest { from, page_size: 0 }).await.unwrap().into_inner();
    let leaves = answer.leaves.iter().map(|leaf| Leaf::from_bytes(leaf).unwrap()).collect();
    let edge = answer.edge.iter().map(|peak| Digest::from_slice(peak).unwrap()).collect();
    (leaves, Frontier::from_parts(from, edge).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_recording_is_proved_by_a_signed_head_across_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let mut log = LogServiceClient::new(node.admin().await);
    // There is a head before there is a recording: whoever keeps it misses none.
    let (empty, key) = head(&mut log, 0).await;
    assert_eq!(empty.head().size, 0);
    let first = seal(&node, 5).await;
    let (five, _) = head(&mut log, 5).await;
    drop(log);
    node.end().await;

    let node = start(dir.path()).await;
    let mut log = LogServiceClient::new(node.admin().await);
    let second = seal(&node, 3).await;
    let (eight, again) = head(&mut log, 8).await;
    assert_eq!(again, key, "a restart is no other log");
    for session in first.iter().chain(&second) {
        let request = pb::GetEvidenceRequest { session: session.to_string(), witnessed: false };
        let answer = log.get_evidence(request).await.unwrap().into_inner();
        let evidence: Evidence = answer.evidence.parse().unwrap();
        assert_eq!((evidence.verify(&key).unwrap().size, evidence.leaf.session), (8, *session));
    }
    // Older heads are the beginning of the newest one.
    for older in [&empty, &five, &eight] {
        let request = pb::GetConsistencyRequest { old_size: older.head().size };
        let answer = log.get_consistency(request).await.unwrap().into_inner();
        let newer: SignedCheckpoint = answer.checkpoint.parse().unwrap();
        let proof: Vec<Digest> = answer.proof.iter().map(|hash| Digest::from_slice(hash).unwrap()).collect();
        let of = |head: &SignedCheckpoint| (head.head().size, head.head().root);
        verify_consistency(of(older), of(&newer), &proof).unwrap();
    }
    // All leaves between two heads lead from the one to the other.
    let (some, mut edge) = leaves(&mut log, 5).await;
    assert_eq!(edge.root(), five.head().root);
    some.iter().for_each(|leaf| edge.push(leaf.hash()));
    assert_eq!((edge.size(), edge.root()), (8, eight.head().root));
    let told: Vec<_> = some.iter().map(|leaf| leaf.session).collect();
    assert_eq!(told, second);

    let nobody = pb::GetEvidenceRequest { session: clock::session_id().to_string(), witnessed: false };
    assert_eq!(log.get_evidence(nobody).await.unwrap_err().code(), Code::NotFound);
    let beyond = pb::GetConsistencyRequest { old_size: 9 };
    assert_eq!(log.get_consistency(beyond).await.unwrap_err().code(), Code::NotFound);
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_are_for_everybody_and_the_rest_for_whoever_may_see_it() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let session = seal(&node, 1).await[0];
    let issuer = Issuer::trusted_by(&node).await;
    let mut log = LogServiceClient::new(node.anonymous().await);
    head(&mut log, 1).await;
    let evidence = || pb::GetEvidenceRequest { session: session.to_string(), witnessed: false };
    let list = pb::ListLeavesRequest::default;
    assert_eq!(log.get_evidence(evidence()).await.unwrap_err().code(), Code::Unauthenticated);
    // Whose session it is, an auditor, and another.
    for (subject, groups, proof, all) in
        [("alice", &[][..], true, false), ("ada", &["auditors"][..], true, true), ("sam", &["dev"][..], false, false)]
    {
        let token = issuer.token(subject, groups, 600);
        let got = log.get_evidence(with_token(evidence(), &token)).await.map_err(|status| status.code());
        assert_eq!(got.is_ok(), proof, "{subject}: {got:?}");
        let got = log.list_leaves(with_token(list(), &token)).await.map_err(|status| status.code());
        assert_eq!(got.is_ok(), all, "{subject}: {got:?}");
    }
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leaves_that_are_damaged_or_lost_are_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let mut log = LogServiceClient::new(node.admin().await);
    let sessions = seal(&node, 4).await;
    let (before, key) = head(&mut log, 4).await;
    drop(log);
    node.end().await;

    let file =
        std::fs::read_dir(dir.path().join("recordings/log")).unwrap().next().unwrap().unwrap().path().join("leaves");
    let whole = std::fs::read(&file).unwrap();
    assert_eq!(whole.len(), 4 * 66);
    let mut changed = whole.clone();
    changed[70] ^= 1;
    for damaged in [changed, vec![0; 100], Vec::new()] {
        std::fs::write(&file, damaged).unwrap();
        let node = start(dir.path()).await;
        let log = LogServiceClient::new(node.admin().await);
        let request = || pb::GetEvidenceRequest { session: sessions[0].to_string(), witnessed: false };
        let answer = eventually("a proof", async || log.clone().get_evidence(request()).await.ok()).await.into_inner();
        let evidence: Evidence = answer.evidence.parse().unwrap();
        assert_eq!(evidence.verify(&key).unwrap().root, before.head().root);
        drop(log);
        node.end().await;
        assert_eq!(std::fs::read(&file).unwrap(), whole);
    }
}
