use postern_state::{Command, Success};
use raft::eraftpb::{Entry as LogEntry, Message, MessageType};

use super::super::proposals::ENTRY_BYTES;
use super::super::status::ProposeError;
use super::*;
use crate::raft::testing::{Group, MemoryLog, Node, config, init, keys};

fn big(bytes: usize) -> Command {
    keys("nobody", &"x".repeat(bytes))
}

#[test]
fn three_founders_elect_one_leader_and_agree() {
    let mut group = Group::of(&[1, 2, 3]);
    assert_eq!(group.write(init()), Ok(Ok(Success::Done)));
    for n in 0..20 {
        group.write(keys("nobody", &n.to_string())).unwrap().unwrap_err();
    }
    group.agree();
    let leaders = [1, 2, 3].map(|id| group.status(id).leader);
    assert_eq!(leaders, [group.leader().unwrap(); 3]);
    // Each was told of each change once, in order.
    let seen = group.nodes.values().map(|node| node.seen.0.lock().unwrap().clone()).collect::<Vec<_>>();
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]) && seen[0].0.len() == 21 && seen[0].1 == 1);
}

#[test]
fn a_node_with_an_empty_log_and_no_founders_never_stands_for_election() {
    let mut group = Group::default();
    group.add(&config(1));
    for _ in 0..300 {
        group.tick();
    }
    let status = group.status(1);
    assert_eq!((status.leader, status.term, status.last_index, status.members.len()), (0, 0, 0, 0));
}

#[test]
fn a_write_at_a_follower_names_the_leader() {
    let mut group = Group::of(&[1, 2, 3]);
    let leader = group.leader().unwrap();
    let follower = leader % 3 + 1;
    let slot = group.propose(follower, init());
    assert_eq!(slot.take(), Some(Err(ProposeError::NotLeader { leader: Some(leader) })));
}

/// What is committed rides on the next append; without one, it is told by itself.
#[test]
fn followers_learn_what_is_committed_with_the_next_write_or_tick() {
    let mut group = Group::of(&[1, 2, 3]);
    group.write(init()).unwrap().unwrap();
    group.agree();
    let leader = group.leader().unwrap();
    let follower = leader % 3 + 1;
    group.node(leader).tells_late = true;
    let write = |group: &mut Group, name: &str| {
        let slot = group.propose(leader, keys("nobody", name));
        group.quiet();
        slot.take().unwrap().unwrap().unwrap_err();
        (group.status(leader).committed, group.status(follower).committed)
    };
    let (first, known) = write(&mut group, "1");
    assert_eq!(known, first - 1);
    assert!(group.node(leader).replica.has_untold_commit());
    let (second, known) = write(&mut group, "2");
    assert_eq!((second, known), (first + 1, first), "with the next write");
    let read = group.read(follower);
    group.quiet();
    assert_eq!(read.take(), Some(Ok(second)), "a read does not wait for it");
    let (third, _) = write(&mut group, "3");
    group.tick();
    assert_eq!(group.status(follower).applied, third, "with a tick");
    assert!(!group.node(leader).replica.has_untold_commit());
}

/// With raft-rs' `batch_append`, entries that are sent again are added to an empty append that waits and begins behind them.
#[test]
fn a_follower_acknowledges_only_what_it_has() {
    let mut group = Group::of(&[1, 2]);
    group.write(init()).unwrap().unwrap();
    let leader = group.leader().unwrap();
    let follower = 3 - leader;
    group.lost = vec![MessageType::MsgAppendResponse];
    let writes = [1, 2, 3].map(|n| group.propose(leader, keys("nobody", &n.to_string())));
    group.quiet();
    let last = group.status(leader).last_index;
    assert_eq!(group.status(follower).last_index, last);
    let mut alive = Message { from: follower, to: leader, term: group.status(leader).term, ..Default::default() };
    alive.set_msg_type(MessageType::MsgHeartbeatResponse);
    // An append that says no more than what was committed, and then all again, before the first has left.
    let replica = &mut group.node(leader).replica;
    replica.step(alive.clone()).unwrap();
    replica.report_unreachable(follower);
    replica.step(alive).unwrap();
    group.lost.clear();
    group.quiet();
    assert_eq!(group.status(leader).member(follower).unwrap().matched, last);
    assert!(writes.iter().all(|write| write.take().is_some_and(|outcome| outcome.is_ok())));
}

#[test]
fn reads_at_any_node_see_what_was_acknowledged() {
    let mut group = Group::of(&[1, 2, 3]);
    group.write(init()).unwrap().unwrap();
    let written = group.node(1).replica.read_local().index().max(group.status(group.leader().unwrap()).applied);
    for id in [1, 2, 3] {
        let slots = [group.read(id), group.read(id)];
        group.quiet();
        assert!(slots.iter().all(|slot| slot.take().unwrap().unwrap() >= written), "at {id}");
    }
}

#[test]
fn a_read_whose_answer_is_lost_is_asked_for_again() {
    let mut group = Group::of(&[1, 2, 3]);
    let follower = group.leader().unwrap() % 3 + 1;
    group.lost = vec![MessageType::MsgReadIndexResp];
    let slot = group.read(follower);
    group.tick();
    assert!(!slot.is_some());
    group.lost.clear();
    group.until(|_| slot.is_some());
    slot.take().unwrap().unwrap();
}

#[test]
fn a_node_that_is_cut_off_answers_no_read() {
    let mut group = Group::of(&[1, 2, 3]);
    group.write(init()).unwrap().unwrap();
    let old = group.leader().unwrap();
    group.isolate(old);
    // It does not yet know that it leads no more.
    let slot = group.read(old);
    group.until(|group| group.leader().is_some_and(|leader| leader != old));
    group.write(keys("nobody", "x")).unwrap().unwrap_err();
    group.until(|_| slot.is_some());
    assert_eq!(slot.take(), Some(Err(ReadError::NotLeader)));
    group.heal();
    group.agree();
}

#[test]
fn what_a_deposed_leader_proposed_is_unknown() {
    let mut group = Group::of(&[1, 2, 3]);
    group.write(init()).unwrap().unwrap();
    let old = group.leader().unwrap();
    group.isolate(old);
    let slot = group.propose(old, keys("nobody", "lost"));
    group.until(|group| group.leader().is_some_and(|leader| leader != old));
    group.write(keys("nobody", "x")).unwrap().unwrap_err();
    group.heal();
    group.until(|_| slot.is_some());
    assert_eq!(slot.take(), Some(Err(ProposeError::Unknown)));
    group.agree();
}

#[test]
fn too_much_is_shed_and_too_large_is_refused() {
    let mut group = Group::of(&[1, 2, 3]);
    let leader = group.leader().unwrap();
    let slot = group.propose(leader, big(ENTRY_BYTES));
    assert_eq!(slot.take(), Some(Err(ProposeError::TooLarge { limit: ENTRY_BYTES })));
    group.isolate(leader);
    let slots: Vec<_> = (0..12).map(|_| group.propose(leader, big(ENTRY_BYTES - 1_000))).collect();
    group.quiet();
    let shed = slots.iter().filter(|slot| slot.take() == Some(Err(ProposeError::Overloaded))).count();
    assert!((4..12).contains(&shed), "{shed}");
    group.heal();
    group.until(|_| slots.iter().filter(|slot| slot.is_some()).count() == 12 - shed);
    assert_eq!(group.node(leader).replica.proposals.bytes(), 0);
    group.write(init()).unwrap().unwrap();
}

#[test]
fn a_commit_alone_is_not_flushed_and_comes_with_the_next_entries() {
    let mut group = Group::of(&[1, 2, 3]);
    group.write(init()).unwrap().unwrap();
    group.agree();
    let saves = |group: &Group| group.nodes.values().map(|node| node.log.0.lock().unwrap().saves).collect::<Vec<_>>();
    let before = saves(&group);
    for _ in 0..5 {
        group.write(keys("nobody", "x")).unwrap().unwrap_err();
    }
    group.agree();
    let after = saves(&group);
    assert!(before.iter().zip(&after).all(|(before, after)| after - before == 5), "{before:?} {after:?}");
    for node in group.nodes.values() {
        let disk = node.log.0.lock().unwrap();
        let last = disk.loaded.entries.last().unwrap().index;
        // What was known to be committed when the last entry was written.
        assert_eq!(disk.loaded.hard_state.commit, last - 1);
    }
}

#[test]
fn the_log_is_compacted_by_bytes_and_by_count() {
    for small in [NodeConfig { compact_bytes: 10_000, ..config(1) }, NodeConfig { compact_after: 30, ..config(1) }] {
        let mut group = Group::default();
        group.add(&NodeConfig { founders: vec![1], keep_entries: 4, ..small.clone() });
        group.until(|group| group.leader().is_some());
        group.write(init()).unwrap().unwrap();
        for _ in 0..100 {
            group.write(big(400)).unwrap().unwrap_err();
        }
        let before = (group.node(1).replica.read_local().index(), group.node(1).replica.read_local().hash());
        {
            let disk = group.node(1).log.0.lock().unwrap();
            let snapshot = disk.loaded.snapshot.as_ref().unwrap().index;
            assert!(disk.loaded.entries.len() <= 36, "{}", disk.loaded.entries.len());
            assert_eq!(disk.loaded.entries[0].index, snapshot - 3);
        }
        group.restart(&small);
        group.until(|group| group.leader().is_some());
        let state = group.node(1).replica.read_local();
        assert_eq!((state.index(), state.hash()), before);
    }
}

#[test]
fn a_follower_that_lags_a_little_gets_entries_and_one_that_lags_much_a_snapshot() {
    for (writes, snapshots) in [(30, 0), (90, 1)] {
        let mut group = Group::default();
        for id in [1, 2, 3] {
            let founders = vec![1, 2, 3];
            group.add(&NodeConfig { founders, compact_after: 20, keep_entries: 50, ..config(id) });
        }
        group.until(|group| group.leader().is_some());
        group.write(init()).unwrap().unwrap();
        let away = group.leader().unwrap() % 3 + 1;
        group.agree();
        group.isolate(away);
        for _ in 0..writes {
            group.write(keys("nobody", "x")).unwrap().unwrap_err();
        }
        group.heal();
        group.agree();
        assert_eq!(group.snapshots_sent, snapshots, "after {writes} writes");
        let restored = group.node(away).seen.0.lock().unwrap().1;
        assert_eq!(restored, 1 + snapshots);
    }
}

#[test]
fn a_leaders_snapshot_leaves_nothing_of_the_tail_that_was_there() {
    let mut group = Group::default();
    for id in [1, 2, 3] {
        group.add(&NodeConfig { founders: vec![1, 2, 3], compact_after: 10, keep_entries: 0, ..config(id) });
    }
    group.until(|group| group.leader().is_some());
    group.write(init()).unwrap().unwrap();
    let old = group.leader().unwrap();
    group.isolate(old);
    for _ in 0..100 {
        group.propose(old, keys("nobody", "never"));
    }
    group.until(|group| group.leader().is_some_and(|leader| leader != old));
    for _ in 0..30 {
        group.write(keys("nobody", "x")).unwrap().unwrap_err();
    }
    group.heal();
    group.agree();
    let disk = group.node(old).log.0.lock().unwrap().loaded.clone();
    let covered = disk.snapshot.as_ref().unwrap();
    assert!(disk.entries.iter().all(|entry| entry.index > covered.index && entry.term >= covered.term));
    crate::raft::log_store::check_whole(&disk).unwrap();
}

#[test]
fn a_log_of_before_there_was_a_genesis_loads_and_gets_a_snapshot() {
    let log = MemoryLog::default();
    {
        let entry = |command| Entry { proposed_at: Timestamp::default(), request_id: None, command, audit: None };
        let data = [Vec::new(), entry(init()).encode(), entry(keys("nobody", "x")).encode()];
        let entries =
            data.into_iter().zip(1..).map(|(data, index)| LogEntry { index, term: 1, data, ..Default::default() });
        let loaded = &mut log.0.lock().unwrap().loaded;
        loaded.entries = entries.collect();
        loaded.hard_state = HardState { term: 1, vote: 1, commit: 3 };
    }
    let mut group = Group::default();
    group.nodes.insert(1, Node::new(&config(1), log));
    group.until(|group| group.leader().is_some());
    let loaded = group.node(1).log.0.lock().unwrap().loaded.clone();
    assert!(loaded.snapshot.is_some_and(|snapshot| snapshot.members.voters == [1]));
    assert!(group.node(1).replica.read_local().cluster().is_some());
}

#[test]
fn messages_without_what_they_should_have_do_no_harm() {
    let mut group = Group::of(&[1, 2, 3]);
    let leader = group.leader().unwrap();
    for kind in (0..=18).filter_map(MessageType::from_i32) {
        for term in [0, 1, 2, 100] {
            for from in [0, 2, 9] {
                let mut message = Message { from, to: leader, term, ..Default::default() };
                message.set_msg_type(kind);
                // A term far ahead makes it step down: that is Raft's way. It must not fall over.
                group.node(leader).replica.step(message).unwrap();
                group.node(leader).settle();
            }
        }
    }
    group.until(|group| group.leader().is_some());
    group.write(init()).unwrap().unwrap();
    group.agree();
}
