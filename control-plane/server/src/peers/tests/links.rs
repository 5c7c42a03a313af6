//! Messages and writes between members that know each other.

use std::time::Duration;

use postern_core::RequestId;
use postern_state::commands::ExpireApprovals;
use postern_state::{Command, Success};
use raft::eraftpb::{Entry, MessageType};

use super::house::{House, message, until};
use crate::raft::transport::Transport as _;
use crate::raft::{Forward as _, ForwardError, ForwardedProposal, ProposeError};

fn append(from: u64, to: u64, index: u64, bytes: usize) -> raft::eraftpb::Message {
    let mut append = message(MessageType::MsgAppend, from, to);
    append.index = index;
    append.entries.push(Entry { data: vec![7; bytes], ..Entry::default() });
    append
}

fn proposal() -> ForwardedProposal {
    let command = Command::from(ExpireApprovals);
    ForwardedProposal { command, request_id: RequestId::from_bytes([7; 16]), audit: None }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_arrive_in_order_and_whole() {
    let mut members = House::new().members(3).await;
    for (from, to) in [(0, 2), (0, 3), (1, 1), (2, 1)] {
        members[from].linked(to).await;
    }
    let sent: Vec<_> = (0..500).map(|index| append(1, 2, index, 1_000)).collect();
    members[0].transport.send(sent.clone());
    members[0].transport.send(vec![message(MessageType::MsgHeartbeat, 1, 3), append(1, 3, 9, 8 << 20)]);
    until("all arrive", || members[1].seen.step_count() == 500 && members[2].seen.step_count() == 2).await;
    assert_eq!(members[1].seen.steps(), sent);
    let link = members[0].handle.links().borrow()[&2].clone();
    assert!(link.connected && link.feature_level == 1, "{link:?}");
    let mut links = members[0].handle.links();
    let link = links.wait_for(|links| links[&2].round_trip.is_some()).await.unwrap()[&2].clone();
    assert!(link.clock_ahead_millis.unwrap().abs() < 1_000, "{link:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peer_that_was_away_comes_back() {
    let mut members = House::new().members(2).await;
    members[0].linked(2).await;
    members[1].proxy.close(true);
    members[0].fault(2, "").await;
    until("Raft is told", || members[0].seen.unreachable().contains(&2)).await;
    // What is sent meanwhile may be lost; what comes after is not.
    members[0].transport.send(vec![message(MessageType::MsgHeartbeat, 1, 2)]);
    members[1].proxy.close(false);
    members[0].linked(2).await;
    let before = members[1].seen.step_count();
    until("messages go through again", || {
        members[0].transport.send(vec![message(MessageType::MsgHeartbeat, 1, 2), append(1, 2, 1, 10)]);
        members[1].seen.step_count() > before + 2
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_peer_costs_bounded_memory_and_does_not_slow_others() {
    let mut members = House::new().members(3).await;
    members[0].linked(2).await;
    members[0].linked(3).await;
    members[1].proxy.stall(true);
    let told = members[0].seen.unreachable().len();
    for index in 0..96 {
        members[0].transport.send(vec![append(1, 2, index, 1 << 20), append(1, 3, index, 1_000)]);
    }
    let peers = members[0].transport.peers_for_test();
    assert!(peers[&2].bulk.bytes() <= 32 << 20);
    until("the other gets all", || members[2].seen.step_count() == 96).await;
    assert!(members[0].seen.unreachable().len() > told, "Raft is told that messages were dropped");
    members[1].proxy.stall(false);
    until("the newest arrive after the stall", || members[1].seen.steps().iter().any(|message| message.index == 95))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_pass_beside_large_appends() {
    let mut members = House::new().members(2).await;
    members[0].linked(2).await;
    // Some seconds of work for the bulk lane of a debug build.
    members[0].transport.send((0..4).map(|index| append(1, 2, index, 7 << 20)).collect());
    members[0].transport.send(vec![message(MessageType::MsgHeartbeat, 1, 2)]);
    until("all arrive", || members[1].seen.step_count() == 5).await;
    let kinds: Vec<_> = members[1].seen.steps().iter().map(raft::eraftpb::Message::msg_type).collect();
    assert_ne!(kinds.last(), Some(&MessageType::MsgHeartbeat), "{kinds:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_are_passed_on_once_with_their_outcome() {
    let members = House::new().members(2).await;
    let outcome = members[0].forward.propose(2, proposal()).await.unwrap();
    assert_eq!(outcome, Ok(Success::Done));
    assert_eq!(members[1].seen.proposals()[0].request_id, proposal().request_id);
    members[1].seen.refuse(ProposeError::NotLeader { leader: Some(1) });
    let refused = members[0].forward.propose(2, proposal()).await.unwrap_err();
    assert_eq!(refused, ForwardError::Refused(ProposeError::NotLeader { leader: Some(1) }));
    assert!(members[0].seen.proposals().is_empty(), "it does not come back");
    assert_eq!(members[0].forward.propose(7, proposal()).await.unwrap_err(), ForwardError::Unreachable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn write_to_a_leader_that_is_gone_is_known_not_to_be_sent() {
    let members = House::new().members(2).await;
    members[0].forward.propose(2, proposal()).await.unwrap().unwrap();
    members[1].proxy.close(true);
    // The broken connection may have carried the first.
    let _ = members[0].forward.propose(2, proposal()).await.unwrap_err();
    assert_eq!(members[0].forward.propose(2, proposal()).await.unwrap_err(), ForwardError::Unreachable);
    members[1].proxy.close(false);
    tokio::time::timeout(Duration::from_secs(5), async {
        while members[0].forward.propose(2, proposal()).await.is_err() {}
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen_leader_is_not_waited_for_once_another_leads() {
    let members = House::new().members(2).await;
    members[1].seen.freeze();
    members[0].seen.led_by(2);
    let write = members[0].forward.propose(2, proposal());
    let deposed = async {
        until("the write is there", || !members[1].seen.proposals().is_empty()).await;
        members[0].seen.led_by(1);
    };
    let (answer, ()) =
        tokio::time::timeout(Duration::from_secs(5), futures::future::join(write, deposed)).await.unwrap();
    assert_eq!(answer.unwrap_err(), ForwardError::Unknown);
}
