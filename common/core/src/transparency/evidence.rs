//! What proves that a recording is in the log: C2SP's tlog-proof.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::checkpoint::{Checkpoint, CheckpointFault, NoteKey, SignedCheckpoint};
use super::leaf::{Leaf, LeafFault};
use super::merkle::{ProofFault, verify_inclusion};
use crate::operation::Digest;
use crate::recording::Report;

const HEADER: &str = "c2sp.org/tlog-proof@v1";
/// Hashes of a proof at the most: levels of the tree.
const MAX_HASHES: usize = 63;

/// A leaf, its place, and the proof that it is there in a signed head's tree. The leaf lies in the format's `extra`, base64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The leaf.
    pub leaf: Leaf,
    /// Its place, from 0.
    pub index: u64,
    /// The proof (RFC 9162, section 2.1.3).
    pub proof: Vec<Digest>,
    /// The head.
    pub checkpoint: SignedCheckpoint,
}

/// Evidence that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvidenceFault {
    /// Not such a text.
    #[error("this is no proof as of c2sp.org/tlog-proof@v1 with a leaf in it")]
    Text,
    /// The leaf.
    #[error(transparent)]
    Leaf(#[from] LeafFault),
    /// The head.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointFault),
    /// The proof.
    #[error(transparent)]
    Proof(#[from] ProofFault),
}

impl Evidence {
    /// Checks that the leaf is in the log of `key`; gives the head that says so.
    ///
    /// # Errors
    /// When it is not proved.
    pub fn verify(&self, key: &NoteKey) -> Result<&Checkpoint, EvidenceFault> {
        let head = self.checkpoint.verify(key)?;
        verify_inclusion(self.leaf.hash(), self.index, head.size, &self.proof, &head.root)?;
        Ok(head)
    }

    /// After how many events its leaf speaks of a recording ([`crate::recording::Verifier::at`]).
    #[must_use]
    pub const fn place(&self) -> u64 {
        self.leaf.events
    }

    /// Whether it is of this recording. Of one whose session was orphaned there is no seal, and need not be.
    pub fn is_of(&self, report: &mut Report) -> bool {
        let is = report.session == Some(self.leaf.session) && self.leaf.agrees(report);
        if is {
            report.accept_orphan(&self.leaf);
        }
        is
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}\nextra {}\nindex {}", STANDARD.encode(self.leaf.to_bytes()), self.index)?;
        self.proof.iter().try_for_each(|hash| writeln!(f, "{}", STANDARD.encode(hash.0)))?;
        write!(f, "\n{}", self.checkpoint)
    }
}

impl FromStr for Evidence {
    type Err = EvidenceFault;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fault = EvidenceFault::Text;
        let (proof, checkpoint) = text.split_once("\n\n").ok_or(fault)?;
        let mut lines = proof.split('\n');
        if lines.next() != Some(HEADER) {
            return Err(fault);
        }
        let extra = lines.next().and_then(|line| line.strip_prefix("extra ")).ok_or(fault)?;
        let index = lines.next().and_then(|line| line.strip_prefix("index ")).ok_or(fault)?;
        let number: u64 = index.parse().map_err(|_| fault)?;
        // One number, one text.
        if number.to_string() != index {
            return Err(fault);
        }
        let hashes: Option<Vec<Digest>> =
            lines.map(|line| STANDARD.decode(line).ok().and_then(|hash| Digest::from_slice(&hash))).collect();
        let proof = hashes.filter(|hashes| hashes.len() <= MAX_HASHES).ok_or(fault)?;
        let leaf = Leaf::from_bytes(&STANDARD.decode(extra).map_err(|_| fault)?)?;
        Ok(Self { leaf, index: number, proof, checkpoint: checkpoint.parse()? })
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{KeyPair, PKCS_ED25519};

    use super::super::checkpoint::NoteSigner;
    use super::super::leaf::LeafKind;
    use super::super::merkle::{Frontier, node_hash};
    use super::*;
    use crate::id::SessionId;
    use crate::time::Timestamp;

    fn leaf(n: u8) -> Leaf {
        Leaf {
            kind: LeafKind::Session,
            session: SessionId::from_bytes([n; 16]),
            events: 4,
            head: Digest([n; 32]),
            at: Timestamp::from_secs(n.into()),
        }
    }

    #[test]
    fn evidence_stands_alone_and_no_letter_of_it_can_be_changed() {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap().serialize_der();
        let log = NoteSigner::of_log("log.example", &key).unwrap();
        let mut frontier = Frontier::default();
        (0..3).for_each(|n| frontier.push(leaf(n).hash()));
        let head = Checkpoint { origin: "log.example".into(), size: 3, root: frontier.root() };
        let checkpoint = SignedCheckpoint::sign(head, &log);
        let proof = vec![node_hash(&leaf(0).hash(), &leaf(1).hash())];
        let evidence = Evidence { leaf: leaf(2), index: 2, proof, checkpoint };
        let text = evidence.to_string();
        let read: Evidence = text.parse().unwrap();
        assert_eq!(read, evidence);
        assert_eq!(read.verify(log.key()).unwrap().size, 3);
        for at in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'B' { b'C' } else { b'B' };
            let Ok(changed) = String::from_utf8(changed) else { continue };
            let verified = changed.parse::<Evidence>().and_then(|it| it.verify(log.key()).cloned());
            assert!(verified.is_err(), "byte {at}: {changed}");
        }
    }
}
