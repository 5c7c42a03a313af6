use postern_state::Success;
use raft::eraftpb::{Message, MessageType};

use super::*;
use crate::raft::testing::{Group, Slot, config, init, keys};
use crate::raft::{DriverError, NodeConfig, ProposeError, ReadError};

use MembershipChange::{AddLearner, Promote, Remove};

/// One founder, which two more have joined.
fn grown() -> Group {
    let mut group = Group::of(&[1]);
    group.write(init()).unwrap().unwrap();
    for id in [2, 3] {
        group.add(&config(id));
        group.change(AddLearner(id)).unwrap();
        group.until(|group| group.status(1).member(id).is_some_and(|member| member.matched > 0));
        group.change(Promote(id)).unwrap();
    }
    group.agree();
    group
}

fn voters(group: &Group, at: u64) -> Vec<u64> {
    group.status(at).members.iter().filter(|member| member.voter).map(|member| member.id).collect()
}

#[test]
fn nodes_join_by_a_snapshot_and_become_voters() {
    let mut group = grown();
    assert!(group.snapshots_sent >= 2);
    for id in [1, 2, 3] {
        assert_eq!(voters(&group, id), [1, 2, 3]);
        assert_eq!(group.status(id).members.len(), 3);
    }
    // They count: the group goes on without the founder.
    group.isolate(1);
    group.until(|group| group.leader().is_some_and(|leader| leader != 1));
    group.write(keys("nobody", "x")).unwrap().unwrap_err();
    group.heal();
    group.agree();
}

#[test]
fn members_are_known_again_after_a_restart() {
    let mut group = grown();
    for id in [1, 2, 3] {
        group.restart(&config(id));
    }
    group.until(|group| group.leader().is_some());
    group.write(keys("nobody", "x")).unwrap().unwrap_err();
    group.agree();
    for id in [1, 2, 3] {
        assert_eq!(voters(&group, id), [1, 2, 3]);
    }
}

#[test]
fn changes_that_make_no_sense_are_refused() {
    let mut group = grown();
    let leader = group.leader().unwrap();
    assert_eq!(group.change(AddLearner(2)), Err(MembershipError::AlreadyMember(2)));
    assert_eq!(group.change(AddLearner(0)), Err(MembershipError::NotAMember(0)));
    assert_eq!(group.change(Promote(2)), Err(MembershipError::AlreadyMember(2)));
    assert_eq!(group.change(Promote(9)), Err(MembershipError::NotAMember(9)));
    assert_eq!(group.change(Remove(9)), Err(MembershipError::NotAMember(9)));
    let slot = Slot::default();
    let follower = leader % 3 + 1;
    group.node(follower).replica.change_membership(Remove(1), false, slot.taker());
    assert_eq!(slot.take(), Some(Err(MembershipError::NotLeader { leader: Some(leader) })));

    let mut alone = Group::of(&[1]);
    assert_eq!(alone.change(Remove(1)), Err(MembershipError::LastVoter));
}

#[test]
fn one_change_at_a_time() {
    let mut group = grown();
    let first = group.start_change(AddLearner(4), false);
    let second = group.start_change(AddLearner(5), false);
    assert_eq!(second.take(), Some(Err(MembershipError::InProgress)));
    group.until(|_| first.is_some());
    first.take().unwrap().unwrap();
    let learner = *group.status(group.leader().unwrap()).member(4).unwrap();
    assert!(!learner.voter && !learner.active);
}

#[test]
fn a_learner_that_has_not_caught_up_is_not_promoted() {
    let mut group = grown();
    group.change(AddLearner(4)).unwrap();
    let refusal = group.change(Promote(4)).unwrap_err();
    assert!(matches!(refusal, MembershipError::NotCaughtUp { id: 4, .. }), "{refusal}");
}

#[test]
fn the_group_does_not_go_below_its_quorum_unless_forced() {
    let mut group = grown();
    let leader = group.leader().unwrap();
    let (gone, other) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    group.isolate(gone);
    for _ in 0..40 {
        group.tick();
    }
    let refusal = group.change(Remove(other)).unwrap_err();
    assert_eq!(refusal, MembershipError::WouldLoseQuorum { active: 1, voters: 2, needed: 2 });
    // The one that is gone can be removed.
    group.change(Remove(gone)).unwrap();
    assert_eq!(voters(&group, leader).len(), 2);
    group.write(keys("nobody", "x")).unwrap().unwrap_err();
}

#[test]
fn a_removal_that_is_forced_is_done() {
    let mut group = Group::of(&[1, 2, 3, 4, 5]);
    let leader = group.leader().unwrap();
    let others: Vec<u64> = (1..=5).filter(|id| *id != leader).collect();
    group.isolate(others[0]);
    group.isolate(others[1]);
    for _ in 0..60 {
        group.tick();
    }
    let refusal = group.change(Remove(others[2])).unwrap_err();
    assert_eq!(refusal, MembershipError::WouldLoseQuorum { active: 2, voters: 4, needed: 3 });
    let forced = group.start_change(Remove(others[2]), true);
    group.until(|_| forced.is_some());
    // The old majority agrees; the new one is not there until one comes back.
    group.heal();
    group.until(|group| group.leader().is_some());
    group.until(|group| voters(group, group.leader().unwrap_or(leader)).len() == 4);
}

#[test]
fn a_removed_node_serves_nobody_lingers_and_stops() {
    let mut group = grown();
    let leader = group.leader().unwrap();
    let gone = leader % 3 + 1;
    group.change(Remove(gone)).unwrap();
    assert!(!voters(&group, leader).contains(&gone));
    assert_eq!(group.start_change(AddLearner(gone), false).take(), Some(Err(MembershipError::Left(gone))));
    let status = group.status(gone);
    assert!(status.removed && !status.leading);
    assert_eq!((status.leader, group.node(gone).ended.is_none()), (0, true));
    assert_eq!(group.read(gone).take(), Some(Err(ReadError::NotLeader)));
    let write = group.propose(gone, keys("nobody", "x"));
    assert_eq!(write.take(), Some(Err(ProposeError::NotLeader { leader: None })));
    // It comes back as it was, from the same log: it has made no snapshot in which it is no member.
    for _ in 0..2 {
        group.restart(&NodeConfig { compact_after: 1, keep_entries: 0, ..config(gone) });
        group.tick();
        assert!(group.status(gone).removed);
    }
    for _ in 0..120 {
        group.tick();
    }
    assert!(matches!(group.node(gone).ended, Some(DriverError::Removed)));
    assert_eq!(group.leader(), Some(leader), "a removed node disturbs nobody");
    group.write(keys("nobody", "x")).unwrap().unwrap_err();
}

/// Two voters: the one that is removed leads in the middle of it, and takes note of its removal; the other has it in its log, does not know
/// that it was committed, and loses power. `more`: the one that leads has taken a write meanwhile, which the other will never see.
fn the_last_but_one_leaves(more: bool) {
    let mut group = Group::of(&[1]);
    group.write(init()).unwrap().unwrap();
    group.add(&config(2));
    group.change(AddLearner(2)).unwrap();
    group.until(|group| group.status(1).member(2).is_some_and(|member| member.matched > 0));
    group.change(Promote(2)).unwrap();
    let slot = Slot::default();
    group.node(1).replica.transfer_leader(2, slot.taker());
    group.until(|group| group.leader() == Some(2));
    group.agree();

    let core = group.node(2).replica.core_mut();
    core.node.propose_conf_change(Vec::new(), to_raft(Remove(2))).unwrap();
    let (term, left) = (core.term(), core.last_index() + 1);
    // Of the second entry, the one with which the joint configuration is left, nobody is told that it was taken.
    group.loses = Some(Box::new(move |message| message.from == 1 && message.index >= left));
    group.until(|group| group.status(1).last_index == left);
    for id in [1, 2] {
        assert_eq!(group.status(id).last_index, left);
        assert_eq!(group.status(id).committed, left - 1);
    }
    // What is said from now on, to which the other would answer that it has taken it, is lost.
    group.loses = Some(Box::new(|_| true));
    let write = more.then(|| group.propose(2, keys("nobody", "x")));
    let mut taken = Message { from: 1, to: 2, term, index: left, commit: left - 1, ..Default::default() };
    taken.set_msg_type(MessageType::MsgAppendResponse);
    group.node(2).replica.step(taken).unwrap();
    group.quiet();
    assert!(group.status(2).removed && !group.status(2).leading);
    assert_eq!(write.map(|write| write.take()), more.then_some(Some(Err(ProposeError::Unknown))));
    assert_eq!(group.status(1).committed, left - 1);

    group.restart(&config(1));
    group.loses = None;
    group.until(|group| group.leader() == Some(1));
    assert_eq!(voters(&group, 1), [1]);
    group.write(keys("nobody", "y")).unwrap().unwrap_err();
}

#[test]
fn whoever_stays_alone_goes_on_though_the_leader_was_removed() {
    the_last_but_one_leaves(false);
}

#[test]
fn a_leader_that_is_removed_with_writes_under_way_falls_over_none_of_them() {
    the_last_but_one_leaves(true);
}

/// Three stay of four: the leader alone knows that the fourth was removed, and is lost for good.
#[test]
fn those_who_stay_go_on_without_a_leader_that_alone_knows_who_left() {
    let mut group = Group::of(&[1, 2, 3, 4]);
    group.write(init()).unwrap().unwrap();
    let leader = group.leader().unwrap();
    let [stay, gone, behind] = [1, 2, 3].map(|by| (leader + by - 1) % 4 + 1);
    let left = group.status(leader).last_index + 2;
    // One has nothing of it; that it was committed, only the one that leaves is told.
    group.loses = Some(Box::new(move |message| {
        let news = message.entries.iter().any(|entry| entry.index >= left) || message.commit >= left;
        news && (message.to == behind || message.to == stay && message.commit >= left)
    }));
    let removed = group.start_change(Remove(gone), false);
    group.until(|group| group.status(gone).removed);
    assert!(!removed.is_some(), "done before those who stay know it");
    group.isolate(leader);
    group.loses = None;
    group.until(|group| group.leader().is_some_and(|id| id != leader));
    group.until(|group| voters(group, stay).len() == 3 && voters(group, behind).len() == 3);
    group.heal();
    group.until(|_| removed.is_some());
    assert_eq!(removed.take(), Some(Err(MembershipError::Unknown)));
    // To ask again is to be told that it is so.
    group.until(|group| group.leader().is_some());
    assert_eq!(group.change(Remove(gone)), Err(MembershipError::NotAMember(gone)));
    group.agree();
}

#[test]
fn a_change_is_done_once_a_majority_would_still_know_of_it() {
    let mut group = grown();
    let leader = group.leader().unwrap();
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    group.add(&config(4));
    group.change(AddLearner(4)).unwrap();
    group.until(|group| group.status(leader).member(4).is_some_and(|member| member.matched > 0));
    let left = group.status(leader).last_index + 2;
    group.loses = Some(Box::new(move |message| message.commit >= left));
    let promoted = group.start_change(Promote(4), false);
    for _ in 0..5 {
        group.tick();
    }
    assert_eq!(voters(&group, leader).len(), 4);
    assert!(!promoted.is_some());
    let again = group.start_change(Remove(others[0]), false);
    assert_eq!(again.take(), Some(Err(MembershipError::InProgress)));
    group.loses = None;
    group.until(|_| promoted.is_some());
    promoted.take().unwrap().unwrap();
    // The power fails everywhere: all know it who said so.
    let sure: Vec<u64> = (1..=4).filter(|id| voters(&group, *id).len() == 4).collect();
    assert!(sure.len() >= 3);
    for id in 1..=4 {
        group.restart(&config(id));
    }
    for id in sure {
        group.node(id).settle();
        assert_eq!(voters(&group, id).len(), 4);
    }
}

/// A leader that lets another go must not need it any more, whatever happens next.
#[test]
fn nobody_is_told_that_it_left_before_the_disk_knows() {
    let mut group = Group::of(&[1]);
    group.write(init()).unwrap().unwrap();
    group.add(&config(2));
    group.change(AddLearner(2)).unwrap();
    group.until(|group| group.status(1).member(2).is_some_and(|member| member.matched > 0));
    group.change(Promote(2)).unwrap();
    let left = group.status(1).last_index + 2;
    group.loses = Some(Box::new(move |message| message.from == 2 && message.index >= left));
    let removed = group.start_change(Remove(2), false);
    group.until(|group| group.status(2).last_index == left);
    let term = group.status(1).term;
    assert_eq!(group.status(1).committed, left - 1);
    let mut taken = Message { from: 2, to: 1, term, index: left, commit: left - 1, ..Default::default() };
    taken.set_msg_type(MessageType::MsgAppendResponse);
    group.node(1).replica.step(taken).unwrap();
    group.node(1).log.0.lock().unwrap().fail = true;
    group.loses = None;
    group.quiet();
    assert!(matches!(group.node(1).ended, Some(DriverError::Storage(_))));
    assert!(!group.status(2).removed, "told before it was durable");
    drop(removed);
    group.node(1).log.0.lock().unwrap().fail = false;
    group.restart(&config(1));
    group.until(|group| group.leader().is_some() && group.status(2).removed);
    group.until(|group| voters(group, 1) == [1]);
}

#[test]
fn a_follower_that_was_told_who_belongs_knows_it_after_a_loss_of_power() {
    let mut group = grown();
    let leader = group.leader().unwrap();
    let (gone, stay) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    let left = group.status(leader).last_index + 2;
    // Only that it was committed, with no entry after it.
    group.loses = Some(Box::new(move |message| message.entries.iter().any(|entry| entry.index > left)));
    let removed = group.start_change(Remove(gone), false);
    group.quiet();
    assert_eq!(voters(&group, stay).len(), 2);
    drop(removed);
    group.restart(&config(stay));
    group.node(stay).settle();
    assert_eq!(voters(&group, stay).len(), 2);
}

#[test]
fn a_leader_hands_over_before_it_is_removed() {
    let mut group = grown();
    let old = group.leader().unwrap();
    let refusal = group.change(Remove(old)).unwrap_err();
    let MembershipError::NotLeader { leader: Some(new) } = refusal else { panic!("{refusal}") };
    assert_ne!(new, old);
    group.until(|group| group.leader() == Some(new));
    group.change(Remove(old)).unwrap();
    assert_eq!(voters(&group, new).len(), 2);
    group.write(keys("nobody", "x")).unwrap().unwrap_err();
}

#[test]
fn leadership_moves_when_asked() {
    let mut group = grown();
    let (old, to) = (group.leader().unwrap(), group.leader().unwrap() % 3 + 1);
    let slot = Slot::default();
    group.node(old).replica.transfer_leader(to, slot.taker());
    group.until(|_| slot.is_some());
    assert_eq!(slot.take(), Some(Ok(to)));
    group.until(|group| group.leader() == Some(to));
    // To one that is not there, it does not, and the leader goes on.
    let gone = (1..=3).find(|id| *id != to && *id != old).unwrap();
    group.isolate(gone);
    group.write(keys("nobody", "x")).unwrap().unwrap_err();
    group.node(to).replica.transfer_leader(gone, slot.taker());
    let write = group.propose(to, keys("nobody", "y"));
    group.quiet();
    assert_eq!(write.take(), Some(Err(ProposeError::NotLeader { leader: None })));
    group.until(|_| slot.is_some());
    assert_eq!(slot.take(), Some(Err(MembershipError::NotTransferred)));
    assert_eq!(group.leader(), Some(to));
    group.write(keys("nobody", "z")).unwrap().unwrap_err();
}

#[test]
fn a_joiner_that_needs_a_snapshot_gets_one_in_which_it_is_a_member() {
    let mut group = Group::default();
    group.add(&NodeConfig { founders: vec![1], compact_after: 10, keep_entries: 0, ..config(1) });
    group.until(|group| group.leader().is_some());
    assert_eq!(group.write(init()), Ok(Ok(Success::Done)));
    for _ in 0..25 {
        group.write(keys("nobody", "x")).unwrap().unwrap_err();
    }
    group.add(&config(2));
    group.change(AddLearner(2)).unwrap();
    group.agree();
    assert_eq!(group.snapshots_sent, 1);
    assert!(group.node(2).replica.read_local().cluster().is_some());
}
