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
        (5..10).for_each(|n| range.take(&report(n)));
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
    range.take(&report(5));
    range.take(&Report { events: 7, ..report(6) });
    range.take(&Report { head: Some(Digest([1; 32])), ..report(7) });
    range.take(&report(3));
    range.take(&report(9));
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
        (5..10).for_each(|n| range.take(&report(n)));
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
