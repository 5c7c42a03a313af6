//! The log of recordings on several members.

use std::path::Path;

use postern_core::node::{NodeIdentity, NodeRole};
use postern_core::transparency::{Evidence, LEAF_BYTES};
use postern_proto::admin::v1 as pb;
use postern_proto::admin::v1::log_service_client::LogServiceClient;
use postern_runtime::clock;

use super::{House, data_dir, run};
use crate::node::eventually;
use crate::recording_log::head;
use crate::recordings::{recording, send, upload};

/// More than what the state keeps under a signed head.
const MANY: usize = 1_100;

/// A member whose leaves are lost gets them from another, and proves as the others do; and so does whoever leads after the leader.
#[tokio::test(flavor = "multi_thread")]
async fn every_member_proves_the_same_and_mends_its_leaves() {
    let mut house = House::of(3).await;
    let leader = house.leader().await;
    let control = &house.member(leader).control;
    let identity = NodeIdentity { role: NodeRole::Gateway, name: "g1".parse().unwrap(), pool: None };
    let credential = control.issue_node_credential(&identity, &[]).await.unwrap();
    let sessions: Vec<_> = (0..MANY).map(|_| clock::session_id()).collect();
    let requests = sessions.iter().map(|one| upload(*one, 0, &recording(control, &credential, *one)));
    let answers = send(house.channel(leader, Some(&credential)).await, requests.collect()).await;
    assert!(answers.len() == MANY && answers.iter().all(|answer| answer.refused.is_empty()));
    let size = u64::try_from(MANY).unwrap();
    let admin = house.admin.clone();
    let mut keys = Vec::new();
    for n in 1..=3 {
        let mut log = LogServiceClient::new(house.channel(n, Some(&admin)).await);
        keys.push(head(&mut log, size).await.1);
    }
    assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");

    // One that does not lead loses its leaves; then nobody of those who were there leads any more.
    let loses = (1..=3).find(|n| *n != leader).unwrap();
    let folder = data_dir(&house, loses).join("recordings/log");
    let lost = |folder: &Path| std::fs::remove_dir_all(folder).unwrap();
    // As a kill may leave it while leaves come from a member that lies: a beginning that is wrong, and less than what the state has no more.
    let half = |folder: &Path| {
        let life = std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
        let mut leaves = std::fs::read(life.join("leaves")).unwrap();
        leaves.truncate(50 * LEAF_BYTES);
        leaves[3 * LEAF_BYTES + 40] ^= 1;
        std::fs::write(life.join("leaves"), leaves).unwrap();
    };
    for damage in [&lost as &dyn Fn(&Path), &half] {
        house.members[loses - 1].take().unwrap().end().await;
        damage(&folder);
        house.members[loses - 1] = Some(run(house.config(loses)).await);
        let log = LogServiceClient::new(house.channel(loses, Some(&admin)).await);
        for session in [sessions[0], sessions[MANY - 1]] {
            let request = || pb::GetEvidenceRequest { session: session.to_string(), witnessed: false };
            let proved = eventually("a proof", async || log.clone().get_evidence(request()).await.ok()).await;
            let evidence: Evidence = proved.into_inner().evidence.parse().unwrap();
            assert_eq!((evidence.verify(&keys[0]).unwrap().size, evidence.leaf.session), (size, session));
        }
    }
    let mut log = LogServiceClient::new(house.channel(loses, Some(&admin)).await);
    house.voters(3).await;
    let request = pb::TransferLeaderRequest { member: format!("c{loses}") };
    house.cluster(leader).await.transfer_leader(request).await.unwrap();
    eventually("the new leader", async || (house.leader().await == loses).then_some(())).await;
    let more = clock::session_id();
    let control = &house.member(loses).control;
    let upload = upload(more, 0, &recording(control, &credential, more));
    let answers = send(house.channel(loses, Some(&credential)).await, vec![upload]).await;
    assert!(answers[0].refused.is_empty(), "{answers:?}");
    let (_, key) = head(&mut log, size + 1).await;
    assert_eq!(key, keys[0]);
    house.end().await;
}
