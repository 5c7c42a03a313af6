//! Signed heads, proofs and exports of the log of recordings, as a verifier is given them: whatever is made of what was signed is refused, or says what
//! was signed.

#![allow(clippy::expect_used)] // a target panics where something is wrong

use std::sync::LazyLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::Ed25519KeyPair;
use postern_core::operation::Digest;
use postern_core::secret::Sealed;
use postern_core::transparency::{
    Checkpoint, Evidence, Exported, Frontier, Leaf, LeafKind, NoteKey, NoteSigner, Range, SignedCheckpoint, node_hash,
};
use postern_core::{SessionId, Timestamp};
use postern_state::LogKey;

const ORIGIN: &str = "log.example";

struct Known {
    key: NoteKey,
    public: [u8; 32],
    empty: SignedCheckpoint,
    leaves: Vec<Leaf>,
    head: SignedCheckpoint,
    evidence: Evidence,
}

static KNOWN: LazyLock<Known> = LazyLock::new(|| {
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key");
    let signer = NoteSigner::of_log(ORIGIN, pkcs8.as_ref()).expect("a signer");
    let leaf = |n: u8| Leaf {
        kind: LeafKind::Session,
        session: SessionId::from_bytes([n; 16]),
        events: n.into(),
        head: Digest([n; 32]),
        at: Timestamp::from_secs(n.into()),
    };
    let leaves: Vec<Leaf> = (0..3).map(leaf).collect();
    let mut tree = Frontier::default();
    leaves.iter().for_each(|leaf| tree.push(leaf.hash()));
    let sign = |tree: &Frontier| {
        SignedCheckpoint::sign(Checkpoint { origin: ORIGIN.into(), size: tree.size(), root: tree.root() }, &signer)
    };
    let (empty, head) = (sign(&Frontier::default()), sign(&tree));
    let proof = vec![node_hash(&leaf(0).hash(), &leaf(1).hash())];
    let evidence = Evidence { leaf: leaf(2), index: 2, proof, checkpoint: head.clone() };
    Known { key: signer.key().clone(), public: signer.public(), empty, leaves, head, evidence }
});

pub(super) fn run(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    let text = std::str::from_utf8(rest).unwrap_or_default();
    match kind % 4 {
        0 => {
            let Ok(head) = text.parse::<SignedCheckpoint>() else { return };
            assert_eq!(head.to_string().parse().as_ref(), Ok(&head), "a head is read as another");
            if let Ok(proved) = head.verify(&KNOWN.key) {
                assert_eq!(proved, KNOWN.head.head(), "a head that nobody signed");
            }
        }
        1 => {
            let Ok(evidence) = text.parse::<Evidence>() else { return };
            assert_eq!(evidence.to_string().parse().as_ref(), Ok(&evidence), "a proof is read as another");
            if evidence.verify(&KNOWN.key).is_ok() {
                let place = usize::try_from(evidence.index).ok().and_then(|index| KNOWN.leaves.get(index));
                assert_eq!(Some(&evidence.leaf), place, "a leaf that is not there");
            }
        }
        2 => {
            let given = Exported { older: None, newer: &KNOWN.head, edge: &[], leaves: rest };
            let range = Range::open(&KNOWN.key, given);
            let seen = range.leaves().to_vec();
            // Without its recordings each leaf is one fault, and more are of the leaves themselves.
            if range.faults().len() == KNOWN.leaves.len() && seen.len() == KNOWN.leaves.len() {
                assert_eq!(seen, KNOWN.leaves, "other leaves");
            }
        }
        _ => {
            let Ok(key) = text.parse::<NoteKey>() else { return };
            assert_eq!(key.to_string(), text, "a key has two texts");
        }
    }
}

/// The key that the seeds are signed by.
pub(super) fn log_key(private: Sealed) -> LogKey {
    LogKey { origin: ORIGIN.into(), public: KNOWN.public, private }
}

/// The head of a log with nothing in it.
pub(super) fn empty_head() -> SignedCheckpoint {
    KNOWN.empty.clone()
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let leaves: Vec<u8> = KNOWN.leaves.iter().flat_map(Leaf::to_bytes).collect();
    let texts = [KNOWN.head.to_string(), KNOWN.evidence.to_string(), String::new(), KNOWN.key.to_string()];
    let mut seeds: Vec<Vec<u8>> =
        texts.iter().zip(0_u8..).map(|(text, kind)| [&[kind][..], text.as_bytes()].concat()).collect();
    seeds.push([&[2][..], &leaves].concat());
    seeds
}
