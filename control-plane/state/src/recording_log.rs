//! The log of recordings: one Merkle tree over all that were sealed.
//!
//! The state has the tree's edge and the newest leaves; each member writes all leaves to its own disk behind it. A leaf leaves the state only after a
//! signed head covers it, and who signs has it on its disk by then: so none is lost with a member.

use std::sync::Arc;

use postern_core::Timestamp;
use postern_core::operation::Digest;
use postern_core::secret::Sealed;
use postern_core::transparency::{CheckpointFault, Frontier, Leaf, NoteKey, SignedCheckpoint};
use postern_core::wire::resource::{sealed_from_proto, sealed_to_proto};
use postern_proto::state::v1 as pb;

use crate::outcome::Refusal;
use crate::state::Limits;
use crate::tree::Tree;

/// The feature level from which on there is a log of recordings.
pub const LOGS_RECORDINGS: u32 = 6;
/// The feature level from which on sessions of gateways that are gone are closed.
pub const CLOSES_ORPHANS: u32 = 7;
/// The feature level from which on the log keeps what witnesses have signed.
pub const KEEPS_WITNESSES: u32 = 7;
/// Leaves under a signed head that are kept: for members that are a little behind.
const KEPT: u64 = 1_024;

/// Signs the log's heads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogKey {
    /// Names the log.
    pub origin: String,
    /// Ed25519.
    pub public: [u8; 32],
    /// PKCS #8.
    pub private: Sealed,
}

/// A head that was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedHead {
    /// The head and its signature.
    pub checkpoint: SignedCheckpoint,
    /// When, by the cluster's time.
    pub at: Timestamp,
}

/// The log's part of the state. A copy costs next to nothing.
#[derive(Clone, Debug, Default)]
pub struct RecordingLog {
    /// The tree up to the first leaf that is kept here.
    base: Frontier,
    /// Leaves by their place, from the base's size on without gaps.
    tail: Tree<u64, Leaf>,
    /// The whole tree's.
    edge: Frontier,
    pub(crate) key: Option<Arc<LogKey>>,
    head: Option<Arc<SignedHead>>,
    /// The newest head that witnesses have signed, too.
    witnessed: Option<Arc<SignedHead>>,
}

impl LogKey {
    /// What heads are verified by.
    ///
    /// # Errors
    /// When the origin cannot name a log.
    pub fn verifier(&self) -> Result<NoteKey, CheckpointFault> {
        NoteKey::of_log(&self.origin, self.public)
    }

    pub(crate) fn to_proto(&self) -> pb::LogKey {
        pb::LogKey {
            origin: self.origin.clone(),
            public_key: self.public.to_vec(),
            private_key: Some(sealed_to_proto(&self.private)),
        }
    }

    pub(crate) fn from_proto(proto: pb::LogKey) -> Result<Self, &'static str> {
        Ok(Self {
            origin: proto.origin,
            public: proto.public_key.try_into().map_err(|_| "a public key has 32 bytes")?,
            private: sealed_from_proto(proto.private_key.ok_or("there is no private key")?),
        })
    }
}

impl RecordingLog {
    /// How many leaves there are.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.edge.size()
    }

    /// The root over all leaves.
    #[must_use]
    pub fn root(&self) -> Digest {
        self.edge.root()
    }

    /// The tree before the first leaf that is kept here.
    #[must_use]
    pub const fn base(&self) -> &Frontier {
        &self.base
    }

    /// The leaves that are kept here, by their place, from `index` on.
    pub fn leaves_from(&self, index: u64) -> impl Iterator<Item = (u64, &Leaf)> {
        self.tail.after(index.checked_sub(1)).map(|(index, leaf)| (*index, leaf))
    }

    /// The key; none before the first head of a life of the cluster.
    #[must_use]
    pub const fn key(&self) -> Option<&Arc<LogKey>> {
        self.key.as_ref()
    }

    /// The newest signed head.
    #[must_use]
    pub const fn head(&self) -> Option<&Arc<SignedHead>> {
        self.head.as_ref()
    }

    /// The newest head that witnesses have signed, too.
    #[must_use]
    pub const fn witnessed(&self) -> Option<&Arc<SignedHead>> {
        self.witnessed.as_ref()
    }

    /// The size that the newest signed head covers.
    #[must_use]
    pub fn signed(&self) -> u64 {
        self.head.as_ref().map_or(0, |head| head.checkpoint.head().size)
    }

    /// One leaf more.
    pub(crate) fn append(&mut self, leaf: Leaf) -> Result<(), Refusal> {
        let limit = Limits::STANDARD.unsigned_leaves;
        // Before there is a head at all nothing is dropped either.
        if self.size().saturating_sub(self.signed().max(self.base.size())) >= limit {
            return Err(Refusal::Limit(format!("{limit} recordings that no signed head of the log covers")));
        }
        self.push(leaf);
        Ok(())
    }

    /// As of a snapshot, or after [`Self::append`] has found room.
    pub(crate) fn push(&mut self, leaf: Leaf) {
        self.tail.insert(self.edge.size(), leaf);
        self.edge.push(leaf.hash());
    }

    /// The root of the tree's first `size` leaves, if it can be told from what is kept.
    fn root_at(&self, size: u64) -> Option<Digest> {
        if size == self.size() {
            return Some(self.root());
        }
        if size < self.base.size() || size > self.size() {
            return None;
        }
        let mut edge = self.base.clone();
        self.leaves_from(0).take_while(|(index, _)| *index < size).for_each(|(_, leaf)| edge.push(leaf.hash()));
        Some(edge.root())
    }

    pub(crate) fn set_key(&mut self, key: LogKey) -> Result<(), Refusal> {
        if self.key.is_some() {
            return Err(Refusal::InvalidState("the log of recordings has its key".to_owned()));
        }
        key.verifier().map_err(|fault| Refusal::invalid("key.origin", fault.to_string()))?;
        self.key = Some(Arc::new(key));
        Ok(())
    }

    pub(crate) fn publish(&mut self, checkpoint: SignedCheckpoint, at: Timestamp) -> Result<(), Refusal> {
        let missing = || Refusal::InvalidState("the log of recordings has no key yet".to_owned());
        let invalid = |fault: CheckpointFault| Refusal::invalid("checkpoint", fault.to_string());
        let key = self.key.as_ref().ok_or_else(missing)?.verifier().map_err(invalid)?;
        let head = checkpoint.verify(&key).map_err(invalid)?;
        let size = head.size;
        if size < self.signed() || (size == self.signed() && self.head.is_some()) {
            return Err(Refusal::InvalidState(format!("a head of {} leaves is signed", self.signed())));
        }
        // Nothing is signed that is not so: whoever signs may be wrong, or may not be one of us any more.
        if self.root_at(size) != Some(head.root) {
            return Err(Refusal::invalid("checkpoint", "is not of this tree"));
        }
        self.head = Some(Arc::new(SignedHead { checkpoint, at }));
        let keep_from = size.saturating_sub(KEPT);
        while self.base.size() < keep_from {
            let Some((_, leaf)) = self.tail.pop_first() else { break };
            self.base.push(leaf.hash());
        }
        Ok(())
    }

    /// Takes the signatures of witnesses. Whose they are is for those to say who verify them: they know which witnesses they trust.
    pub(crate) fn witness(&mut self, checkpoint: SignedCheckpoint, at: Timestamp) -> Result<(), Refusal> {
        let missing = || Refusal::InvalidState("the log of recordings has no key yet".to_owned());
        let invalid = |fault: CheckpointFault| Refusal::invalid("checkpoint", fault.to_string());
        let key = self.key.as_ref().ok_or_else(missing)?.verifier().map_err(invalid)?;
        let head = checkpoint.verify(&key).map_err(invalid)?;
        if let Some(known) = &self.witnessed {
            if known.checkpoint.head() == head {
                let mut both = known.checkpoint.clone();
                both.absorb(&checkpoint);
                self.witnessed = Some(Arc::new(SignedHead { checkpoint: both, at: known.at }));
                return Ok(());
            }
            if head.size <= known.checkpoint.head().size {
                let size = known.checkpoint.head().size;
                return Err(Refusal::InvalidState(format!("witnesses have signed a head of {size} leaves")));
            }
        }
        if head.size > self.signed() || self.root_at(head.size) != Some(head.root) {
            return Err(Refusal::invalid("checkpoint", "is not of this tree, or of long ago"));
        }
        self.witnessed = Some(Arc::new(SignedHead { checkpoint, at }));
        Ok(())
    }

    /// In another life of the cluster: the leaves stay, under another key.
    pub(crate) fn begin_anew(&mut self) {
        (self.key, self.head, self.witnessed) = (None, None, None);
    }

    /// For a snapshot; none where there is nothing.
    pub(crate) fn to_proto(&self) -> Option<pb::RecordingLog> {
        if self.size() == 0 && self.key.is_none() {
            return None;
        }
        Some(pb::RecordingLog {
            base_size: self.base.size(),
            base_peaks: self.base.peaks().iter().map(|peak| peak.0.to_vec()).collect(),
            key: self.key.as_ref().map(|key| key.to_proto()),
            head: self.head.as_ref().map(|head| head.checkpoint.to_string()).unwrap_or_default(),
            head_at_ms: self.head.as_ref().map_or(0, |head| head.at.millis()),
            witnessed: self.witnessed.as_ref().map(|head| head.checkpoint.to_string()).unwrap_or_default(),
            witnessed_at_ms: self.witnessed.as_ref().map_or(0, |head| head.at.millis()),
        })
    }

    /// As of a snapshot; its leaves follow ([`Self::push`]).
    pub(crate) fn restored(proto: pb::RecordingLog) -> Result<Self, String> {
        let peaks: Option<Vec<Digest>> = proto.base_peaks.iter().map(|peak| Digest::from_slice(peak)).collect();
        let peaks = peaks.ok_or("a hash has 32 bytes")?;
        let base = Frontier::from_parts(proto.base_size, peaks).map_err(|fault| fault.to_string())?;
        let head = |text: &str, at_ms: u64| match text {
            "" => Ok(None),
            text => {
                let checkpoint = text.parse().map_err(|fault: CheckpointFault| fault.to_string())?;
                Ok::<_, String>(Some(Arc::new(SignedHead { checkpoint, at: Timestamp::from_millis(at_ms) })))
            }
        };
        let (head, witnessed) = (head(&proto.head, proto.head_at_ms)?, head(&proto.witnessed, proto.witnessed_at_ms)?);
        let key = proto.key.map(LogKey::from_proto).transpose()?.map(Arc::new);
        Ok(Self { edge: base.clone(), base, tail: Tree::default(), key, head, witnessed })
    }
}
