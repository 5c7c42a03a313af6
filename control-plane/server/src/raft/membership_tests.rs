use postern_state::Success;

use super::*;
use crate::raft::NodeConfig;
use crate::raft::testing::{Group, config, init, keys};

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
    let slot = crate::raft::testing::Slot::default();
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
fn a_removed_node_stops_and_the_group_goes_on() {
    let mut group = grown();
    let leader = group.leader().unwrap();
    let gone = leader % 3 + 1;
    group.change(Remove(gone)).unwrap();
    assert!(!voters(&group, leader).contains(&gone));
    // It may have missed that it was: then its peers tell it. Here it was told by the log.
    for _ in 0..5 {
        group.tick();
    }
    let node = group.node(gone);
    if let Some(ended) = &node.ended {
        assert!(matches!(ended, crate::raft::DriverError::Removed));
        assert!(node.replica.status().removed);
    }
    for _ in 0..200 {
        group.tick();
    }
    assert_eq!(group.leader(), Some(leader), "a removed node disturbs nobody");
    group.write(keys("nobody", "x")).unwrap().unwrap_err();
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
    let slot = crate::raft::testing::Slot::default();
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
    assert_eq!(write.take(), Some(Err(crate::raft::ProposeError::NotLeader { leader: None })));
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
