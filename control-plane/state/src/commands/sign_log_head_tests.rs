use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::Ed25519KeyPair;
use postern_core::operation::Digest;
use postern_core::transparency::{Checkpoint, Frontier, Leaf, NoteSigner};

use super::super::testing::*;
use super::super::{RaiseFeatureLevel, RewrapItem, RewrapSecrets, SealedOf, SetLogKey};
use super::*;
use crate::outcome::Refusal;
use crate::recording_log::LogKey;
use crate::state::State;

const ORIGIN: &str = "log.example";

fn signer() -> NoteSigner {
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    NoteSigner::of_log(ORIGIN, pkcs8.as_ref()).unwrap()
}

fn set_key(signer: &NoteSigner) -> SetLogKey {
    let private = sealed(5);
    SetLogKey { key: LogKey { origin: ORIGIN.into(), public: signer.public(), private } }
}

fn head(signer: &NoteSigner, size: u64, root: Digest) -> SignLogHead {
    SignLogHead { checkpoint: SignedCheckpoint::sign(Checkpoint { origin: ORIGIN.into(), size, root }, signer) }
}

#[test]
fn every_sealed_recording_is_a_leaf_once() {
    let mut fixture = Fixture::newest();
    fixture.now = 5_000;
    fixture.sealed(1).unwrap();
    fixture.now = 6_000;
    fixture.sealed(2).unwrap();
    // Told again by a gateway that had no answer.
    let known = fixture.state.session(session(2).id).unwrap().end.clone().unwrap();
    fixture.run(super::super::SealSession { id: session(2).id, end: known }).unwrap();
    let log = fixture.state.recording_log();
    let leaves: Vec<(u64, Leaf)> = log.leaves_from(0).map(|(index, leaf)| (index, *leaf)).collect();
    assert_eq!(leaves.len(), 2);
    assert_eq!((leaves[1].0, leaves[1].1.session, leaves[1].1.at.millis()), (1, session(2).id, 6_000));
    assert_eq!(log.leaves_from(1).count(), 1);
    let mut by_hand = Frontier::default();
    leaves.iter().for_each(|(_, leaf)| by_hand.push(leaf.hash()));
    assert_eq!(log.root(), by_hand.root());
    assert_eq!(State::restore(&fixture.state.snapshot()).unwrap().hash(), fixture.state.hash());
}

#[test]
fn before_its_feature_level_there_is_no_log() {
    let mut fixture = Fixture::new();
    fixture.run(RaiseFeatureLevel { level: 5 }).unwrap();
    fixture.sealed(1).unwrap();
    assert_eq!(fixture.state.recording_log().size(), 0);
    assert!(matches!(fixture.run(set_key(&signer())), Err(Refusal::FeatureLevel { needed: 6, .. })));
}

#[test]
fn only_right_and_newer_heads_are_published() {
    let (log, other) = (signer(), signer());
    let mut fixture = Fixture::newest();
    let root = |fixture: &Fixture| fixture.state.recording_log().root();
    let empty = root(&fixture);
    assert!(matches!(fixture.run(head(&log, 0, empty)), Err(Refusal::InvalidState(_))));
    fixture.run(set_key(&log)).unwrap();
    assert!(matches!(fixture.run(set_key(&other)), Err(Refusal::InvalidState(_))));
    fixture.run(head(&log, 0, empty)).unwrap();
    fixture.sealed(1).unwrap();
    let one = root(&fixture);
    fixture.sealed(2).unwrap();
    let two = root(&fixture);
    assert!(matches!(fixture.run(head(&other, 2, two)), Err(Refusal::Invalid(_))));
    assert!(matches!(fixture.run(head(&log, 2, one)), Err(Refusal::Invalid(_))));
    assert!(matches!(fixture.run(head(&log, 3, two)), Err(Refusal::Invalid(_))));
    // The tree went on while it was signed.
    fixture.run(head(&log, 1, one)).unwrap();
    assert_eq!(fixture.state.recording_log().signed(), 1);
    fixture.run(head(&log, 2, two)).unwrap();
    assert!(matches!(fixture.run(head(&log, 1, one)), Err(Refusal::InvalidState(_))));
    assert!(matches!(fixture.run(head(&log, 2, two)), Err(Refusal::InvalidState(_))));
    let restored = State::restore(&fixture.state.snapshot()).unwrap();
    assert_eq!(restored.recording_log().head(), fixture.state.recording_log().head());
    assert_eq!(restored.hash(), fixture.state.hash());
}

#[test]
fn leaves_go_only_under_a_signed_head() {
    let log = signer();
    let mut fixture = Fixture::newest();
    fixture.run(set_key(&log)).unwrap();
    for n in 0..1_500 {
        fixture.sealed(n).unwrap();
    }
    assert_eq!(fixture.state.recording_log().leaves_from(0).count(), 1_500);
    let root = fixture.state.recording_log().root();
    fixture.run(head(&log, 1_500, root)).unwrap();
    let kept = fixture.state.recording_log();
    assert_eq!((kept.base().size(), kept.leaves_from(0).count(), kept.root()), (476, 1_024, root));
    let restored = State::restore(&fixture.state.snapshot()).unwrap();
    assert_eq!(restored.recording_log().root(), root);
    assert_eq!(restored.hash(), fixture.state.hash());
    // Heads of trees whose leaves are no longer here are older than the one that is signed.
    fixture.sealed(1_500).unwrap();
    assert_eq!(fixture.state.recording_log().size(), 1_501);
}

#[test]
fn another_life_of_the_cluster_signs_by_another_key() {
    let log = signer();
    let mut fixture = Fixture::newest();
    fixture.run(set_key(&log)).unwrap();
    fixture.sealed(1).unwrap();
    let root = fixture.state.recording_log().root();
    fixture.run(head(&log, 1, root)).unwrap();
    fixture.state.begin_anew("i2", control_node(0, "c1")).unwrap();
    let reborn = fixture.state.recording_log();
    assert_eq!((reborn.size(), reborn.root(), reborn.signed()), (1, root, 0));
    assert!(reborn.key().is_none() && reborn.head().is_none());
}

#[test]
fn the_key_is_wrapped_anew_with_the_others() {
    let mut fixture = Fixture::newest();
    fixture.run(set_key(&signer())).unwrap();
    let item = |byte| RewrapItem {
        of: SealedOf::LogKey,
        expected_kek_id: "k".into(),
        expected_wrapped_key: vec![byte],
        kek_id: "k2".into(),
        wrapped_key: vec![9],
    };
    let outcome = fixture.run(RewrapSecrets { items: vec![item(4), item(5)] });
    assert_eq!(outcome, Ok(Success::Rewrapped { changed: 1, skipped: 1 }));
    assert_eq!(fixture.state.recording_log().key().unwrap().private.kek_id, "k2");
}
