//! What raft-rs is given of what peers send. It takes some messages for its own, and panics over others that no member that is in its right
//! mind sends: they end here. Checked against the node as it is, before each step.

use raft::eraftpb::{
    ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType, Message, MessageType,
};
use raft::{RawNode, StateRole};

use super::memory::LogMemory;

/// Terms and indices are counted up from here on without a thought of their end.
const HIGHEST: u64 = u64::MAX >> 2;

/// Why a message is not given to raft-rs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It makes no sense; it does no harm.
    Malformed(&'static str),
    /// The leader knows that this node has acknowledged entries up to `known`: it does not have them any more.
    Lost { known: u64, last: u64 },
}

/// Whether raft-rs can be given `message`.
pub(super) fn check(node: &RawNode<LogMemory>, message: &Message) -> Result<(), Refusal> {
    let (raft, log) = (&node.raft, &node.raft.raft_log);
    let refuse = |why| Err(Refusal::Malformed(why));
    if !MessageType::is_valid(message.msg_type)
        || !message.entries.iter().all(|entry| EntryType::is_valid(entry.entry_type))
    {
        return refuse("it is of a kind that this version does not know");
    }
    if message.from == 0 || message.from == raft.id {
        return refuse("it is of no other member");
    }
    let places = [message.term, message.log_term, message.index, message.commit, message.reject_hint];
    if places.into_iter().any(|place| place > HIGHEST) {
        return refuse("a term or an index is out of range");
    }
    if message.request_snapshot != 0 || message.priority != 0 || message.deprecated_priority != 0 {
        return refuse("it asks for what no member of this version does");
    }
    if message.msg_type() == MessageType::MsgReadIndex {
        // As from within: of no term. A follower would fall over another when it passes it on.
        return if message.term == 0 && message.entries.len() == 1 {
            Ok(())
        } else {
            refuse("a read is of no term, and of one entry")
        };
    }
    // Of no term means to raft-rs: from within.
    if message.term == 0 {
        return refuse("it is of no term");
    }
    match message.msg_type() {
        // Writes and changes of the leader come another way.
        MessageType::MsgPropose | MessageType::MsgTransferLeader => refuse("it does not come this way"),
        MessageType::MsgAppend => append(message).map_err(Refusal::Malformed),
        MessageType::MsgHeartbeat if message.commit > log.last_index() => {
            // A leader takes no other's of its own term, and nobody one of a former term.
            let heard = message.term > raft.term || (message.term == raft.term && raft.state != StateRole::Leader);
            if heard { Err(Refusal::Lost { known: message.commit, last: log.last_index() }) } else { Ok(()) }
        }
        MessageType::MsgSnapshot => {
            let metadata = message.get_snapshot().get_metadata();
            if metadata.index == log.committed && !log.match_term(metadata.index, metadata.term) {
                return refuse("a snapshot is of another log");
            }
            snapshot(message).map_err(Refusal::Malformed)
        }
        MessageType::MsgAppendResponse if raft.state == StateRole::Leader && message.term == raft.term => {
            let last = log.last_index();
            if message.index > last || message.reject_hint > last || message.commit > last {
                return refuse("it speaks of entries that there are none of");
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Whether raft-rs can be given a change of the members that is committed.
pub(super) fn is_known(change: &ConfChangeV2) -> bool {
    ConfChangeTransition::is_valid(change.transition)
        && change.changes.iter().all(|one| ConfChangeType::is_valid(one.change_type))
}

/// Entries follow each other, and the one before them.
fn append(message: &Message) -> Result<(), &'static str> {
    // Of term 0 is, to raft-rs, any place where it has nothing.
    if (message.index == 0) != (message.log_term == 0) {
        return Err("entries are to follow one of no term");
    }
    let (mut index, mut term) = (message.index, message.log_term);
    for Entry { index: next, term: of, .. } in &message.entries {
        if index.checked_add(1) != Some(*next) || *of < term.max(1) || *of > message.term {
            return Err("its entries do not follow each other");
        }
        (index, term) = (*next, *of);
    }
    Ok(())
}

fn snapshot(message: &Message) -> Result<(), &'static str> {
    let metadata = message.get_snapshot().get_metadata();
    if metadata.index == 0 || metadata.index > HIGHEST || metadata.term == 0 || metadata.term > message.term {
        return Err("a snapshot is of no place in the log");
    }
    if is_sound(metadata.get_conf_state()) { Ok(()) } else { Err("a snapshot's members cannot be") }
}

/// Whether members can stand so: what raft-rs makes of them is the same again.
fn is_sound(members: &ConfState) -> bool {
    let ConfState { voters, learners, voters_outgoing, learners_next, auto_leave } = members;
    let lists = [voters, learners, voters_outgoing, learners_next];
    let once = |list: &Vec<u64>| {
        let mut sorted = list.clone();
        sorted.sort_unstable();
        sorted.dedup();
        sorted.len() == list.len() && !sorted.contains(&0)
    };
    let apart = |one: &[u64], other: &[u64]| !one.iter().any(|id| other.contains(id));
    let joint = !voters_outgoing.is_empty();
    !voters.is_empty()
        && lists.into_iter().all(once)
        && apart(learners, voters)
        && apart(learners, voters_outgoing)
        && apart(learners_next, voters)
        && apart(learners_next, learners)
        && learners_next.iter().all(|id| voters_outgoing.contains(id))
        && (joint || !auto_leave)
}

#[cfg(test)]
mod tests {
    use raft::eraftpb::{HardState, SnapshotMetadata};

    use super::super::log_store::Loaded;
    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, ..Default::default() }
    }

    fn appending(index: u64, log_term: u64, entries: Vec<Entry>) -> Message {
        let mut message = Message { from: 2, term: 5, index, log_term, entries, ..Default::default() };
        message.set_msg_type(MessageType::MsgAppend);
        message
    }

    /// A follower of term 5 with five entries of it, three of them committed.
    fn follower() -> RawNode<LogMemory> {
        let loaded = Loaded {
            hard_state: HardState { term: 5, vote: 0, commit: 3 },
            entries: (1..=5).map(|index| entry(index, 5)).collect(),
            ..Default::default()
        };
        let memory = LogMemory::new(loaded, ConfState { voters: vec![1, 2, 3], ..Default::default() });
        RawNode::new(&raft::Config::new(1), memory, &super::super::slog_bridge::logger()).unwrap()
    }

    fn of_kind(kind: MessageType, change: impl FnOnce(&mut Message)) -> Message {
        let mut message = Message { from: 2, to: 1, term: 5, ..Default::default() };
        message.set_msg_type(kind);
        change(&mut message);
        message
    }

    #[test]
    fn what_raft_would_panic_over_is_refused() {
        use MessageType::*;
        let mut node = follower();
        let member = |message: &mut Message| message.from = 1;
        let snapshot_at = |index, term| {
            let conf_state = Some(ConfState { voters: vec![1, 2, 3], ..Default::default() });
            of_kind(MsgSnapshot, |message| {
                message.mut_snapshot().metadata = Some(SnapshotMetadata { conf_state, index, term });
            })
        };
        let faulty = [
            // Of a kind that is none.
            of_kind(MsgAppend, |message| message.msg_type = 77),
            appending(3, 5, vec![Entry { entry_type: 9, ..entry(4, 5) }]),
            // Passed on, a read bears no term; and an answer in term 0 is none.
            of_kind(MsgReadIndex, |message| message.entries.push(Entry::default())),
            of_kind(MsgRequestPreVote, |message| message.priority = -5),
            // Behind the end of the log, where raft-rs takes term 0 for a match.
            appending(9, 0, vec![]),
            appending(9, 0, vec![entry(10, 5)]),
            appending(3, 5, vec![entry(9, 5)]),
            // Counted on, these come to an end.
            of_kind(MsgRequestVote, |message| message.term = u64::MAX),
            of_kind(MsgAppendResponse, |message| message.index = u64::MAX),
            of_kind(MsgAppendResponse, |message| message.request_snapshot = 7),
            of_kind(MsgHeartbeat, member),
            snapshot_at(9, 0),
            snapshot_at(3, 4),
        ];
        for message in faulty {
            assert!(matches!(check(&node, &message), Err(Refusal::Malformed(_))), "{message:?}");
        }
        let beyond = of_kind(MsgHeartbeat, |message| message.commit = 6);
        assert_eq!(check(&node, &beyond), Err(Refusal::Lost { known: 6, last: 5 }));
        let past = Message { term: 4, ..beyond };
        let sound = [
            past,
            of_kind(MsgHeartbeat, |message| message.commit = 5),
            appending(5, 5, vec![entry(6, 5)]),
            appending(9, 5, vec![]),
            of_kind(MsgReadIndex, |message| {
                message.term = 0;
                message.entries.push(Entry::default());
            }),
            snapshot_at(9, 5),
        ];
        for message in sound {
            assert_eq!(check(&node, &message), Ok(()), "{message:?}");
            let _ = node.step(message);
        }
    }

    #[test]
    fn entries_follow_each_other() {
        assert!(append(&appending(3, 2, vec![entry(4, 2), entry(5, 5)])).is_ok());
        assert!(append(&appending(0, 0, vec![entry(1, 1)])).is_ok());
        assert!(append(&appending(3, 2, vec![])).is_ok());
        for faulty in [
            appending(3, 0, vec![]),
            appending(0, 1, vec![]),
            appending(3, 2, vec![entry(5, 2)]),
            appending(3, 2, vec![entry(4, 1)]),
            appending(3, 2, vec![entry(4, 6)]),
            appending(3, 2, vec![entry(4, 3), entry(5, 2)]),
            appending(0, 0, vec![entry(1, 0)]),
        ] {
            assert!(append(&faulty).is_err(), "{faulty:?}");
        }
    }

    #[test]
    fn members_can_stand_so() {
        let state = |voters: &[u64], learners: &[u64], outgoing: &[u64], next: &[u64]| ConfState {
            voters: voters.to_vec(),
            learners: learners.to_vec(),
            voters_outgoing: outgoing.to_vec(),
            learners_next: next.to_vec(),
            auto_leave: false,
        };
        assert!(is_sound(&state(&[1, 2], &[3], &[], &[])));
        assert!(is_sound(&state(&[1, 2], &[4], &[1, 3], &[3])));
        for faulty in [
            state(&[], &[1], &[], &[]),
            state(&[1, 1], &[], &[], &[]),
            state(&[0], &[], &[], &[]),
            state(&[1], &[1], &[], &[]),
            state(&[1], &[2], &[2], &[]),
            state(&[1], &[], &[], &[2]),
            state(&[1], &[], &[1, 2], &[1]),
            ConfState { auto_leave: true, ..state(&[1], &[], &[], &[]) },
        ] {
            assert!(!is_sound(&faulty), "{faulty:?}");
        }
    }
}
