//! The log of recordings: one Merkle tree over all that were sealed (docs/recording-log.md).
//!
//! A [`Leaf`] says of one recording how its chain ends. The tree over the leaves is RFC 6962's, its signed head a checkpoint of C2SP's
//! tlog-checkpoint, and what proves that a recording is in it C2SP's tlog-proof: other programs read them too.

mod checkpoint;
mod evidence;
mod leaf;
mod merkle;
mod range;

pub use checkpoint::{Checkpoint, CheckpointFault, NoteKey, NoteSigner, SignedCheckpoint};
pub use evidence::{Evidence, EvidenceFault};
pub use leaf::{LEAF_BYTES, Leaf, LeafFault, LeafKind};
pub use merkle::{
    Frontier, FrontierFault, MAX_LEAVES, ProofFault, Subtrees, consistency_proof, empty_root, inclusion_proof,
    leaf_hash, node_hash, subtree, verify_consistency, verify_inclusion,
};
pub use range::{Exported, Range, RangeFault};
