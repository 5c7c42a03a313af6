//! Snapshots that break off, are damaged, and arrive all the same.

use raft::eraftpb::{Message, MessageType};

use super::house::{House, message, until};
use crate::raft::transport::Transport as _;

fn offer(index: u64, data: Vec<u8>) -> Message {
    let mut offer = message(MessageType::MsgSnapshot, 1, 2);
    let snapshot = offer.mut_snapshot();
    snapshot.data = data;
    snapshot.mut_metadata().index = index;
    snapshot.mut_metadata().term = 1;
    offer
}

/// Bytes that differ from chunk to chunk.
fn data(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from((at ^ (at >> 8) ^ (at >> 16)) & 0xff).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshot_cut_in_the_middle_goes_on_where_it_was() {
    let mut members = House::new().members(2).await;
    members[0].linked(2).await;
    let size = 64 << 20;
    let (sent, before) = (offer(10, data(size)), members[1].proxy.passed());
    members[1].proxy.cut_after(24 << 20);
    members[0].transport.send(vec![sent.clone()]);
    until("it is reported", || !members[0].seen.reports().is_empty()).await;
    assert_eq!(members[0].seen.reports(), [(2, true)]);
    assert!(members[1].seen.steps() == [sent], "it came whole");
    let passed = members[1].proxy.passed() - before;
    // What was under way when it was cut went twice; not the rest.
    assert!(passed < u64::try_from(size + (16 << 20)).unwrap(), "{passed}");
    assert_eq!(std::fs::read_dir(members[1].dir.path().join("incoming")).unwrap().count(), 0);
}
