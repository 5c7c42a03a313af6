//! Snapshots that break off, are damaged, and arrive all the same.

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use pb::install_snapshot_request::Request;
use pb::install_snapshot_response::Response;
use postern_proto::peer::v1 as pb;
use postern_proto::peer::v1::peer_service_client::PeerServiceClient;
use raft::eraftpb::{Message, MessageType};
use raft_prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::super::Said;
use super::house::{House, Member, introduce, message, until};
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
    members[0].seen.hold(10, data(size));
    members[0].transport.send(vec![offer(10, Vec::new())]);
    until("it is reported", || !members[0].seen.reports().is_empty()).await;
    assert_eq!(members[0].seen.reports(), [(2, true)]);
    assert!(members[1].seen.steps() == [sent], "it came whole");
    let passed = members[1].proxy.passed() - before;
    // What was under way when it was cut went twice; not the rest.
    assert!(passed < u64::try_from(size + (16 << 20)).unwrap(), "{passed}");
    assert_eq!(std::fs::read_dir(members[1].dir.path().join("incoming")).unwrap().count(), 0);
}

/// What a sender who may cheat says.
struct Sender<'a> {
    members: &'a [Member],
    offer: Message,
    data: Vec<u8>,
    sha256: Vec<u8>,
    damaged: Option<usize>,
    stop_after: Option<usize>,
}

impl<'a> Sender<'a> {
    fn new(members: &'a [Member], index: u64, length: usize) -> Self {
        let data = data(length);
        let sha256 = digest(&SHA256, &data).as_ref().to_vec();
        Self { members, offer: offer(index, Vec::new()), data, sha256, damaged: None, stop_after: None }
    }

    /// Where the receiver wants to go on from, and the end of the call.
    async fn send(&self) -> (u64, Result<bool, Status>) {
        let header = pb::SnapshotHeader {
            hello: Some(self.members[0].handle.shared.hello(2)),
            message: self.offer.encode_to_vec().into(),
            index: self.offer.get_snapshot().get_metadata().index,
            term: 1,
            length: u64::try_from(self.data.len()).unwrap(),
            sha256: self.sha256.clone().into(),
        };
        let channel = self.members[0].handle.connect(2).await.unwrap();
        let (requests, outgoing) = mpsc::channel(1);
        let request = |request| pb::InstallSnapshotRequest { request: Some(request) };
        requests.send(request(Request::Header(header))).await.unwrap();
        let answers = PeerServiceClient::new(channel).install_snapshot(ReceiverStream::new(outgoing)).await;
        let mut answers = match answers {
            Ok(answers) => answers.into_inner(),
            Err(status) => return (0, Err(status)),
        };
        let from = match answers.message().await {
            Ok(Some(pb::InstallSnapshotResponse { response: Some(Response::Installed(_)) })) => return (0, Ok(true)),
            Ok(Some(pb::InstallSnapshotResponse { response: Some(Response::Received(from)) })) => from,
            other => panic!("{other:?}"),
        };
        let mut offset = usize::try_from(from).unwrap();
        while offset < self.data.len() && self.stop_after.is_none_or(|stop| offset < stop) {
            let chunk = &self.data[offset..self.data.len().min(offset + (256 << 10))];
            let crc32 = crc32fast::hash(chunk) ^ u32::from(self.damaged == Some(offset));
            let chunk = Bytes::copy_from_slice(chunk);
            let length = chunk.len();
            let chunk = pb::SnapshotChunk { offset: u64::try_from(offset).unwrap(), data: chunk, crc32 };
            if requests.send(request(Request::Chunk(chunk))).await.is_err() {
                break;
            }
            offset += length;
        }
        if self.stop_after.is_some() {
            drop(requests);
            while let Ok(Some(_)) = answers.message().await {}
            return (from, Ok(false));
        }
        loop {
            match answers.message().await {
                Ok(Some(pb::InstallSnapshotResponse { response: Some(Response::Installed(installed)) })) => {
                    return (from, Ok(installed));
                }
                Ok(Some(_)) => {}
                Ok(None) => return (from, Ok(false)),
                Err(status) => return (from, Err(status)),
            }
        }
    }
}

fn incoming(member: &Member) -> Vec<String> {
    std::fs::read_dir(member.dir.path().join("incoming"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_chunk_is_refused_and_what_came_before_it_kept() {
    let members = House::new().members(2).await;
    let mut sender = Sender::new(&members, 10, 1 << 20);
    sender.damaged = Some(512 << 10);
    let (from, end) = sender.send().await;
    assert_eq!((from, end.unwrap_err().code()), (0, Code::DataLoss));
    sender.damaged = None;
    let (from, end) = sender.send().await;
    assert_eq!((from, end.unwrap()), (512 << 10, true));
    assert_eq!(members[1].seen.steps()[0].get_snapshot().data, sender.data);
    assert!(incoming(&members[1]).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whole_that_is_not_what_its_digest_says_is_discarded() {
    let members = House::new().members(2).await;
    let mut sender = Sender::new(&members, 10, 1 << 20);
    sender.sha256[0] ^= 1;
    let (_, end) = sender.send().await;
    assert_eq!(end.unwrap_err().code(), Code::DataLoss);
    assert!(incoming(&members[1]).is_empty());
    assert_eq!(sender.send().await.0, 0, "it begins anew");
    assert!(members[1].seen.steps().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receiver_that_was_restarted_goes_on() {
    let house = House::new();
    let mut members = house.members(2).await;
    let mut sender = Sender::new(&members, 10, 1 << 20);
    sender.stop_after = Some(512 << 10);
    assert_eq!(sender.send().await.0, 0);
    drop(sender);
    let dir = std::mem::replace(&mut members[1].dir, tempfile::tempdir().unwrap());
    members[1] = house.member_in(2, "control-2", dir).await;
    introduce(&members);
    let said = Said { address: members[1].proxy.address.clone(), starts: 0 };
    members[0].book.heard(2, &"control-2".parse().unwrap(), said);
    let sender = Sender::new(&members, 10, 1 << 20);
    let (from, end) = sender.send().await;
    assert_eq!((from, end.unwrap()), (512 << 10, true));
    assert_eq!(members[1].seen.steps()[0].get_snapshot().data, sender.data);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn newer_snapshot_takes_the_place_of_an_older() {
    let members = House::new().members(2).await;
    let mut older = Sender::new(&members, 10, 1 << 20);
    older.stop_after = Some(512 << 10);
    assert!(!older.send().await.1.unwrap());
    assert_eq!(incoming(&members[1]).len(), 1);
    let newer = Sender::new(&members, 11, 2 << 20);
    let (from, end) = newer.send().await;
    assert_eq!((from, end.unwrap()), (0, true));
    assert!(incoming(&members[1]).is_empty(), "the older one's file is gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn senseless_headers_are_refused() {
    let members = House::new().members(2).await;
    let refused = async |change: &dyn Fn(&mut Sender<'_>)| {
        let mut sender = Sender::new(&members, 10, 100);
        change(&mut sender);
        sender.send().await.1.unwrap_err()
    };
    let wrong: [&dyn Fn(&mut Sender<'_>); 6] = [
        &|sender| sender.offer.from = 3,
        &|sender| sender.offer.to = 3,
        &|sender| sender.offer.set_msg_type(MessageType::MsgAppend),
        &|sender| sender.offer.mut_snapshot().mut_metadata().term = 9,
        &|sender| sender.offer.mut_snapshot().data = vec![1],
        &|sender| sender.sha256.truncate(31),
    ];
    for change in wrong {
        assert_eq!(refused(change).await.code(), Code::InvalidArgument);
    }
    assert!(members[1].seen.steps().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disk_that_fails_is_told_of_and_nothing_is_lost() {
    let mut members = House::new().members(2).await;
    members[0].linked(2).await;
    let blocked = members[1].dir.path().join("incoming");
    std::fs::write(&blocked, "not a directory").unwrap();
    let sender = Sender::new(&members, 10, 100);
    assert_eq!(sender.send().await.1.unwrap_err().code(), Code::Internal);
    members[0].seen.hold(10, data(1_000));
    members[0].transport.send(vec![offer(10, Vec::new())]);
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    std::fs::remove_file(&blocked).unwrap();
    until("the sender comes again", || members[0].seen.reports() == [(2, true)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_applied_already_is_not_sent_again() {
    let members = House::new().members(2).await;
    let sender = Sender::new(&members, 10, 1 << 20);
    assert!(sender.send().await.1.unwrap());
    let before = members[1].proxy.passed();
    assert!(sender.send().await.1.unwrap());
    assert!(members[1].proxy.passed() - before < 64 << 10);
    assert_eq!(members[1].seen.step_count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshot_that_is_gone_or_for_nobody_known_is_reported() {
    let mut members = House::new().members(2).await;
    members[0].transport.send(vec![offer(10, Vec::new())]);
    until("it is reported", || members[0].seen.reports() == [(2, false)]).await;
    let mut unknown = offer(10, Vec::new());
    unknown.to = 7;
    members[0].transport.send(vec![unknown]);
    assert_eq!(members[0].seen.reports(), [(2, false), (7, false)]);
}
