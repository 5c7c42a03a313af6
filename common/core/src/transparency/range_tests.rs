use rcgen::{KeyPair, PKCS_ED25519};

use super::super::checkpoint::{Checkpoint, NoteSigner};
use super::super::leaf::LeafKind;
use super::*;
use crate::time::Timestamp;

fn session(n: u8) -> SessionId {
    SessionId::from_bytes([n; 16])
}

fn leaf(n: u8) -> Leaf {
    let at = Timestamp::from_secs(n.into());
    Leaf { kind: LeafKind::Session, session: session(n), events: n.into(), head: Digest([n; 32]), at }
}

fn report(n: u8) -> Report {
    let head = Some(Digest([n; 32]));
    let faults = Vec::new();
    Report {
        session: Some(session(n)),
        started: None,
        events: n.into(),
        head,
        sealed: true,
        interrupted: false,
        gap: None,
        orphaned: false,
        heads: Vec::new(),
        faults,
    }
}

struct Log {
    signer: NoteSigner,
    older: SignedCheckpoint,
    newer: SignedCheckpoint,
    edge: Vec<Digest>,
    leaves: Vec<u8>,
}

/// Leaves 5 to 9 of a log.
fn log() -> Log {
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap().serialize_der();
    let signer = NoteSigner::of_log("log.example", &key).unwrap();
    let sign = |tree: &Frontier| {
        let head = Checkpoint { origin: "log.example".into(), size: tree.size(), root: tree.root() };
        SignedCheckpoint::sign(head, &signer)
    };
    let mut tree = Frontier::default();
    (0..5).for_each(|n| tree.push(leaf(n).hash()));
    let (older, edge) = (sign(&tree), tree.peaks().to_vec());
    (5..10).for_each(|n| tree.push(leaf(n).hash()));
    let newer = sign(&tree);
    let leaves = (5..10).flat_map(|n| leaf(n).to_bytes()).collect();
    Log { signer, older, newer, edge, leaves }
}

impl Log {
    fn open(&self) -> Range {
        let given = Exported { older: Some(&self.older), newer: &self.newer, edge: &self.edge, leaves: &self.leaves };
        Range::open(self.signer.key(), given)
    }

    /// With all recordings.
    fn faults(&self) -> Vec<RangeFault> {
        let mut range = self.open();
        (5..10).for_each(|n| range.take(&mut report(n)));
        range.faults()
    }
}

#[test]
fn a_whole_export_has_no_fault() {
    assert_eq!(log().faults(), []);
}

#[test]
fn each_missing_changed_and_foreign_recording_is_told() {
    let log = log();
    let mut range = log.open();
    range.take(&mut report(5));
    range.take(&mut Report { events: 7, ..report(6) });
    range.take(&mut Report { head: Some(Digest([1; 32])), ..report(7) });
    range.take(&mut report(3));
    range.take(&mut report(9));
    let other = |n, found| RangeFault::Other { session: session(n), index: n.into(), found, expected: n.into() };
    let missing = RangeFault::Missing { session: session(8), index: 8 };
    assert_eq!(range.faults(), [other(6, 7), other(7, 7), RangeFault::NotThere(session(3)), missing]);
}

#[test]
fn no_byte_of_the_leaves_or_the_edge_can_be_changed() {
    let log = log();
    for at in 0..log.leaves.len() {
        let mut leaves = log.leaves.clone();
        leaves[at] ^= 1;
        let mut range = Range::open(
            log.signer.key(),
            Exported { older: Some(&log.older), newer: &log.newer, edge: &log.edge, leaves: &leaves },
        );
        (5..10).for_each(|n| range.take(&mut report(n)));
        assert!(!range.faults().is_empty(), "byte {at}");
    }
    for at in 0..log.edge.len() {
        let mut edge = log.edge.clone();
        edge[at].0[0] ^= 1;
        let given = Exported { older: Some(&log.older), newer: &log.newer, edge: &edge, leaves: &log.leaves };
        assert!(matches!(Range::open(log.signer.key(), given).faults()[0], RangeFault::Edge(_)));
    }
}

#[test]
fn leaves_that_are_dropped_moved_or_added_are_told() {
    let whole = log();
    let size = LEAF_BYTES;
    let with = |leaves: Vec<u8>| {
        let given = Exported { older: Some(&whole.older), newer: &whole.newer, edge: &whole.edge, leaves: &leaves };
        Range::open(whole.signer.key(), given).faults
    };
    assert_eq!(with(whole.leaves.clone()), []);
    assert_eq!(with(whole.leaves[size..].to_vec()), [RangeFault::Count { expected: 5, found: 4 }]);
    assert_eq!(with(whole.leaves[..4 * size].to_vec()), [RangeFault::Count { expected: 5, found: 4 }]);
    let cut = with(whole.leaves[..5 * size - 1].to_vec());
    assert_eq!(cut, [RangeFault::Leaf(9)]);
    let more = [&whole.leaves[..], &leaf(10).to_bytes()].concat();
    assert_eq!(with(more), [RangeFault::Count { expected: 5, found: 6 }]);
    let moved = [&whole.leaves[size..2 * size], &whole.leaves[..size], &whole.leaves[2 * size..]].concat();
    assert_eq!(with(moved), [RangeFault::Root]);
    let other = Leaf { head: Digest([99; 32]), ..leaf(5) };
    let twice = [&whole.leaves[..4 * size], &other.to_bytes()].concat();
    let told = RangeFault::Twice { session: session(5), first: 5, second: 9 };
    assert_eq!(with(twice), [told, RangeFault::Root]);
}

#[test]
fn heads_of_another_log_or_of_a_smaller_tree_are_told() {
    let (one, other) = (log(), log());
    let given = Exported { older: Some(&one.older), newer: &one.newer, edge: &one.edge, leaves: &one.leaves };
    let faults = Range::open(other.signer.key(), given).faults;
    assert_eq!(faults, [RangeFault::Older(CheckpointFault::Unsigned), RangeFault::Newer(CheckpointFault::Unsigned)]);
    let given = Exported { older: Some(&one.newer), newer: &one.older, edge: &one.edge, leaves: &[] };
    let faults = Range::open(one.signer.key(), given).faults;
    assert_eq!(faults[0], RangeFault::Shrunk { older: 10, newer: 5 });
}

/// Of a session that was orphaned after `n` events.
fn orphan(of: u8, n: u8) -> Leaf {
    Leaf { kind: LeafKind::Orphan, events: n.into(), head: Digest([n; 32]), ..leaf(of) }
}

/// A log of these leaves, from its beginning.
fn of(leaves: &[Leaf]) -> Range {
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap().serialize_der();
    let signer = NoteSigner::of_log("log.example", &key).unwrap();
    let mut tree = Frontier::default();
    leaves.iter().for_each(|leaf| tree.push(leaf.hash()));
    let head = Checkpoint { origin: "log.example".into(), size: tree.size(), root: tree.root() };
    let newer = SignedCheckpoint::sign(head, &signer);
    let leaves: Vec<u8> = leaves.iter().flat_map(Leaf::to_bytes).collect();
    Range::open(signer.key(), Exported { older: None, newer: &newer, edge: &[], leaves: &leaves })
}

/// Of session 9, of so many events, without a seal, as the verifier tells it that is asked for these places.
fn unsealed(events: u8, range: &Range) -> Report {
    let heads = range.places(session(9)).into_iter().filter(|place| *place <= events.into());
    let heads = heads.map(|place| (place, Digest([u8::try_from(place).unwrap(); 32]))).collect();
    let faults = vec![crate::recording::Fault::Unsealed];
    Report {
        session: Some(session(9)),
        events: events.into(),
        head: Some(Digest([events; 32])),
        sealed: false,
        heads,
        faults,
        ..report(9)
    }
}

fn whole(range: &Range) -> Report {
    Report { sealed: true, faults: Vec::new(), ..unsealed(9, range) }
}

#[test]
fn an_orphan_needs_no_seal_up_to_where_the_log_has_it() {
    let log = || of(&[leaf(1), orphan(9, 4), orphan(9, 6)]);
    assert_eq!(log().places(session(9)), [4, 6]);
    let judged = |mut recording: Report| {
        let mut range = log();
        range.take(&mut report(1));
        range.take(&mut recording);
        (range.faults(), recording.is_good(), recording.orphaned)
    };
    assert_eq!(judged(unsealed(6, &log())), (vec![], true, true));
    // What came after is sealed, or nobody speaks for it.
    assert_eq!(judged(whole(&log())), (vec![], true, false));
    assert_eq!(judged(unsealed(7, &log())), (vec![], false, false));
    // Cut back to an earlier leaf, or another recording.
    let other = |index, found, expected| RangeFault::Other { session: session(9), index, found, expected };
    assert_eq!(judged(unsealed(4, &log())), (vec![other(2, 4, 6)], false, false));
    let mut changed = unsealed(6, &log());
    changed.heads[0].1 = Digest([77; 32]);
    assert_eq!(judged(changed), (vec![other(1, 6, 4)], false, false));
    // Another fault beside is not excused.
    let mut broken = unsealed(6, &log());
    broken.faults.push(crate::recording::Fault::NoStart);
    assert!(!judged(broken).1);
    // No recording at all.
    let missing = RangeFault::Missing { session: session(9), index: 1 };
    let mut range = of(&[orphan(9, 4), orphan(9, 6), orphan(8, 0)]);
    range.take(&mut report(1));
    assert_eq!(range.faults(), [RangeFault::NotThere(session(1)), missing]);
}

#[test]
fn the_seal_of_an_orphan_comes_after_and_goes_on_from_it() {
    let sealed = leaf(9);
    let log = || of(&[orphan(9, 4), sealed]);
    let mut range = log();
    range.take(&mut whole(&log()));
    assert_eq!(range.faults(), []);
    // Nothing stands for a seal that the log has.
    let mut range = log();
    let mut cut = unsealed(4, &log());
    range.take(&mut cut);
    let told = RangeFault::Other { session: session(9), index: 1, found: 4, expected: 9 };
    assert_eq!((range.faults(), cut.is_good()), (vec![told], false));
    // A seal of something else than what was there.
    let mut other = whole(&log());
    other.heads[0].1 = Digest([77; 32]);
    let mut range = log();
    range.take(&mut other);
    assert_eq!(range.faults(), [RangeFault::Other { session: session(9), index: 0, found: 9, expected: 4 }]);
    for wrong in [&[sealed, orphan(9, 4)], &[orphan(9, 4), orphan(9, 3)], &[orphan(9, 9), sealed]] {
        let mut range = of(wrong);
        range.take(&mut whole(&of(wrong)));
        let faults = range.faults();
        assert!(matches!(faults[0], RangeFault::Twice { first: 0, second: 1, .. }), "{faults:?}");
    }
}
