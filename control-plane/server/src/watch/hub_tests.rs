use std::collections::BTreeSet;

use postern_core::approval::{Approval, ApprovalRequirement, ApprovalState};
use postern_core::operation::Digest;
use postern_core::principal::{Principal, PrincipalId};
use postern_core::resource::Kind;
use postern_core::{ApprovalId, Name, OperationId, SessionId, Timestamp, Ttl};
use postern_state::{Command, Entry, ObjectKey, commands};

use super::*;
use crate::watch::change::Value;

struct Rig {
    state: State,
    writer: HubWriter,
    hub: WatchHub,
}

impl Rig {
    fn new(bounds: Bounds) -> Self {
        let (mut writer, hub) = WatchHub::bounded(bounds);
        let state = State::default();
        writer.restored(&state);
        let mut rig = Self { state, writer, hub };
        rig.apply(commands::InitCluster(crate::watch::testing::cluster()));
        rig
    }

    fn apply(&mut self, command: impl Into<Command>) -> u64 {
        let at = Timestamp::from_millis(1_000);
        let entry = Entry { proposed_at: at, request_id: None, command: command.into(), audit: None };
        let index = self.state.index() + 1;
        let applied = self.state.apply(index, &entry.encode()).unwrap();
        assert!(applied.outcome.is_ok(), "{:?}", applied.outcome);
        self.writer.applied(&self.state, index, &applied.effects);
        index
    }

    fn put(&mut self, name: &str) -> u64 {
        self.apply(crate::watch::testing::put_target(name))
    }
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

#[tokio::test]
async fn every_change_once_and_in_order_with_its_value() {
    let mut rig = Rig::new(BOUNDS);
    let mut following = rig.hub.subscribe(rig.state.index());
    let first = rig.put("a");
    let second = rig.put("b");
    // Nothing changes: no set.
    rig.apply(commands::ExpireApprovals);
    let third = rig.apply(commands::DeleteResource { kind: Kind::Target, name: name("a"), expected_revision: first });
    let mut seen = Vec::new();
    for _ in 0..3 {
        let set = following.next().await.unwrap();
        assert!(set.policy);
        for change in &set.changes {
            seen.push((set.revision, change.key.clone(), change.value.is_some()));
        }
    }
    let key = |text| ObjectKey::Resource(Kind::Target, name(text));
    assert_eq!(seen, [(first, key("a"), true), (second, key("b"), true), (third, key("a"), false)]);
    assert_eq!(following.cursor(), third);
    assert!(following.try_next().unwrap().is_none());
}

#[tokio::test]
async fn a_filter_passes_over_the_rest() {
    let mut rig = Rig::new(BOUNDS);
    let wanted = |change: &Change| matches!(&change.value, Some(Value::Resource(object)) if object.metadata.name.as_str() == "b");
    let mut following = rig.hub.subscribe(0).filtered(wanted);
    rig.put("a");
    let second = rig.put("b");
    rig.put("c");
    assert_eq!(following.next().await.unwrap().revision, second);
    assert!(following.try_next().unwrap().is_none());
    assert_eq!(following.cursor(), rig.hub.head());
}

#[tokio::test]
async fn who_is_too_slow_learns_it_and_memory_stays_bounded() {
    let mut rig = Rig::new(Bounds { count: 3, bytes: 1 << 20 });
    let mut slow = rig.hub.subscribe(rig.state.index());
    let indices: Vec<u64> = (0..8).map(|place| rig.put(&format!("t{place}"))).collect();
    assert_eq!(slow.next().await.unwrap_err(), Lost::Compacted { floor: indices[4] });
    // It reads the state anew, and follows from there.
    let mut again = rig.hub.subscribe(indices[7]);
    let next = rig.put("t9");
    assert_eq!(again.next().await.unwrap().revision, next);
}

#[tokio::test]
async fn a_restored_state_begins_anew_and_a_stopped_driver_is_told() {
    let mut rig = Rig::new(BOUNDS);
    let before = rig.put("a");
    let mut following = rig.hub.subscribe(before);
    let mut other = Rig::new(BOUNDS);
    for place in 0..5 {
        other.put(&format!("t{place}"));
    }
    rig.writer.restored(&other.state);
    assert_eq!(following.next().await.unwrap_err(), Lost::Compacted { floor: other.state.index() });
    let mut following = rig.hub.subscribe(other.state.index());
    drop(rig.writer);
    assert_eq!(following.next().await.unwrap_err(), Lost::Stopped);
}

fn held(number: u128, bytes: usize) -> commands::RequestApproval {
    let approval = Approval {
        id: ApprovalId::from_bytes(number.to_be_bytes()),
        state: ApprovalState::Pending,
        requester: Principal {
            id: PrincipalId { issuer: name("corp"), subject: "alice".into() },
            groups: BTreeSet::new(),
            token_id: None,
            expires_at: None,
            chain: Vec::new(),
            claims: postern_core::KeptClaims::default(),
        },
        target: name("db"),
        session: SessionId::from_bytes(number.to_be_bytes()),
        operation: OperationId::from_bytes(number.to_be_bytes()),
        digest: Digest([7; 32]),
        text: "x".repeat(bytes),
        parameters: Vec::new(),
        actions: Vec::new(),
        policies: Vec::new(),
        reason: String::new(),
        requirement: ApprovalRequirement { groups: vec!["dba".into()], count: 1, expires: Ttl(60) },
        reviews: Vec::new(),
        requested_at: Timestamp::default(),
        expires_at: Timestamp::default(),
        revision: 0,
        withdrawn_because: String::new(),
        background: None,
    };
    commands::RequestApproval { approval, expires: Ttl(60) }
}

/// The state forgets the oldest approvals that are over. Whose they were is told with it, so that they learn of it too, whatever was told by
/// whom: also by a hub that began after the approval was asked for.
#[tokio::test]
async fn what_is_gone_is_told_with_what_it_was() {
    // Large ones: of those, the state keeps fewer.
    let mut rig = Rig::new(Bounds { count: 1_000, bytes: 1 << 30 });
    let finish = |rig: &mut Rig, number: u128| {
        rig.apply(held(number, 1_000_000));
        let id = ApprovalId::from_bytes(number.to_be_bytes());
        rig.apply(commands::WithdrawApproval { id, because: "the client went away".into() })
    };
    finish(&mut rig, 1);
    let state = rig.state.clone();
    rig.writer.restored(&state);
    let mut following = rig.hub.subscribe(rig.state.index());
    for number in 2..=80 {
        finish(&mut rig, number);
    }
    let gone = loop {
        let set = following.next().await.unwrap();
        if let Some(change) = set.changes.iter().find(|change| change.value.is_none()) {
            break change.clone();
        }
    };
    let first = ApprovalId::from_bytes(1_u128.to_be_bytes());
    assert_eq!(gone.key, ObjectKey::Approval(first));
    assert!(
        matches!(&gone.was, Some(Value::Approval(was)) if was.id == first && &*was.requester.id.subject == "alice")
    );
}
