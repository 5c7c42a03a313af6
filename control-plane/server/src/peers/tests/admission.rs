//! Who is let in.

use std::collections::{BTreeMap, BTreeSet};

use postern_core::node::NodeRole;
use raft::eraftpb::MessageType;

use super::house::{House, message, until};
use crate::raft::transport::Transport as _;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn member_of_another_cluster_is_refused() {
    let house = House::new();
    let one = house.member(1, "control-1").await;
    let other = house.member_of(2, "control-2", "cluster-b", &house.credential(NodeRole::Control, "control-2")).await;
    other.book.seed([(1, one.entry("control-1"))]);
    let fault = other.fault(1, "refused").await;
    assert!(fault.contains("cluster-a") && fault.contains("cluster-b"), "{fault}");
    assert!(one.book.get(2).is_none(), "nobody refused gets into the book");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificate_of_another_authority_is_refused() {
    let one = House::new().member(1, "control-1").await;
    let other = House::new().member(2, "control-2").await;
    other.book.seed([(1, one.entry("control-1"))]);
    let fault = other.fault(1, "trust").await;
    assert!(one.seen.steps().is_empty(), "{fault}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateway_is_no_member() {
    let house = House::new();
    let one = house.member(1, "control-1").await;
    let gateway = house.credential(NodeRole::Gateway, "control-2");
    let other = house.member_of(2, "control-2", &house.cluster_id, &gateway).await;
    other.book.seed([(1, one.entry("control-1"))]);
    other.fault(1, "only members").await;
    // Nor is it dialed as one.
    one.book.seed([(2, other.entry("control-2"))]);
    one.fault(2, "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_takes_the_place_of_another() {
    let house = House::new();
    let members = house.members(2).await;
    // The certificate of control-3, the id of control-2; and the name of control-2 with a fresh id.
    let thief = house.member(2, "control-3").await;
    thief.book.seed([(1, members[0].entry("control-1"))]);
    thief.fault(1, "not that of node 2").await;
    let thief = house.member(9, "control-2").await;
    thief.book.seed([(1, members[0].entry("control-1"))]);
    thief.fault(1, "not that of node 9").await;
    assert_eq!(members[0].book.get(2).unwrap().address, members[1].proxy.address);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dialed_address_must_be_the_member_that_is_meant() {
    let house = House::new();
    let members = house.members(2).await;
    let lost = house.member(3, "control-3").await;
    // By name; and the right name under another id.
    lost.book.seed([(1, members[1].entry("control-1"))]);
    lost.fault(1, "not the member").await;
    let lost = house.member(4, "control-4").await;
    lost.book.seed([(5, members[1].entry("control-2"))]);
    lost.fault(5, "this is node 2, not node 5").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joiner_that_nobody_knows_gets_known() {
    let house = House::new();
    let members = house.members(2).await;
    let joiner = house.member(3, "control-3").await;
    joiner.book.seed([(1, members[0].entry("control-1"))]);
    members[0].linked(3).await;
    assert_eq!(members[0].book.get(3).unwrap().address, joiner.proxy.address);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removed_member_is_told_so() {
    let house = House::new();
    let members = house.members(3).await;
    members[2].linked(1).await;
    let removed = BTreeMap::from([(3, "control-3".parse().unwrap())]);
    members[0].book.replace(BTreeMap::new(), removed, BTreeSet::new());
    // Its open stream is ended, and it learns why.
    let why = tokio::time::timeout(super::house::LONG, members[2].handle.removed()).await.unwrap();
    assert!(why.contains("node 3 (control-3) was removed"), "{why}");
    until("nobody dials it any more", || !members[0].handle.links().borrow().contains_key(&3)).await;
    members[2].fault(1, "removed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoked_certificate_ends_its_streams() {
    let house = House::new();
    let credential = house.credential(NodeRole::Control, "control-2");
    let one = house.member(1, "control-1").await;
    let two = house.member_of(2, "control-2", &house.cluster_id, &credential).await;
    two.book.seed([(1, one.entry("control-1"))]);
    two.linked(1).await;
    let revoked = BTreeSet::from([credential.serial().unwrap()]);
    one.book.replace(BTreeMap::new(), BTreeMap::new(), revoked);
    two.fault(1, "was revoked").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_and_misdirected_messages_go_nowhere() {
    let mut members = House::new().members(2).await;
    members[0].linked(2).await;
    let peers = members[0].transport.peers_for_test();
    for wrong in [
        message(MessageType::MsgHeartbeat, 7, 2),
        message(MessageType::MsgHeartbeat, 1, 3),
        message(MessageType::MsgHup, 1, 2),
        message(MessageType::MsgSnapshot, 1, 2),
        message(MessageType::MsgPropose, 1, 2),
    ] {
        peers[&2].urgent.push(wrong);
    }
    members[0].transport.send(vec![message(MessageType::MsgHeartbeat, 1, 2)]);
    until("the right one arrives", || members[1].seen.step_count() == 1).await;
    assert_eq!(members[1].seen.steps(), [message(MessageType::MsgHeartbeat, 1, 2)]);
}
