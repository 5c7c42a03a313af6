//! What the log says of one recording.

use super::merkle::leaf_hash;
use crate::id::SessionId;
use crate::operation::Digest;
use crate::recording::Report;
use crate::session::SessionEnd;
use crate::time::Timestamp;

/// Bytes of a leaf.
pub const LEAF_BYTES: usize = 66;
const VERSION: u8 = 1;

/// What kind of recording a leaf is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeafKind {
    /// A session's, sealed by its gateway.
    Session,
    /// What there was of a session's when the control plane closed it, because its gateway was gone: it has no seal. The gateway's comes
    /// after it, of a recording that goes on from here, if the gateway is ever back.
    Orphan,
}

/// One leaf of the log: 1 byte for its version (1), 1 for its kind (1: a session, 2: an orphaned one), the session's 16 bytes, and, as big-endian 64 bits each, the number of events
/// and the time at which it came into the log, with the head of the recording's chain (32 bytes) between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Of what.
    pub kind: LeafKind,
    /// Whose recording.
    pub session: SessionId,
    /// Its events, the seal included where there is one.
    pub events: u64,
    /// The chain's hash after the last of them.
    pub head: Digest,
    /// When it came into the log, by the cluster's time; never less than that of the leaf before.
    pub at: Timestamp,
}

/// Bytes that are no leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeafFault {
    /// Not as many as a leaf has.
    #[error("a leaf has {LEAF_BYTES} bytes")]
    Length,
    /// A version or kind that this program does not know.
    #[error("a leaf of an unknown version or kind")]
    Unknown,
}

impl Leaf {
    /// Of a session that ended so, at the cluster's time `at`.
    #[must_use]
    pub const fn of_session(session: SessionId, end: &SessionEnd, at: Timestamp) -> Self {
        let kind = if end.ending.is_sealed() { LeafKind::Session } else { LeafKind::Orphan };
        Self { kind, session, events: end.events, head: end.head, at }
    }

    /// As it lies in the log.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; LEAF_BYTES] {
        let kind = match self.kind {
            LeafKind::Session => 1,
            LeafKind::Orphan => 2,
        };
        let parts: [&[u8]; 5] = [
            &[VERSION, kind],
            &self.session.to_bytes(),
            &self.events.to_be_bytes(),
            &self.head.0,
            &self.at.millis().to_be_bytes(),
        ];
        let mut out = [0; LEAF_BYTES];
        for (to, from) in out.iter_mut().zip(parts.into_iter().flatten()) {
            *to = *from;
        }
        out
    }

    /// What [`Self::to_bytes`] gave.
    ///
    /// # Errors
    /// When it did not.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, LeafFault> {
        let bytes: &[u8; LEAF_BYTES] = bytes.try_into().map_err(|_| LeafFault::Length)?;
        let (start, rest) = bytes.split_first_chunk::<2>().ok_or(LeafFault::Length)?;
        let (session, rest) = rest.split_first_chunk::<16>().ok_or(LeafFault::Length)?;
        let (events, rest) = rest.split_first_chunk::<8>().ok_or(LeafFault::Length)?;
        let (head, rest) = rest.split_first_chunk::<32>().ok_or(LeafFault::Length)?;
        let at = rest.first_chunk::<8>().ok_or(LeafFault::Length)?;
        let kind = match start {
            [VERSION, 1] => LeafKind::Session,
            [VERSION, 2] => LeafKind::Orphan,
            _ => return Err(LeafFault::Unknown),
        };
        Ok(Self {
            kind,
            session: SessionId::from_bytes(*session),
            events: u64::from_be_bytes(*events),
            head: Digest(*head),
            at: Timestamp::from_millis(u64::from_be_bytes(*at)),
        })
    }

    /// Whether a recording of its session is as it says: to its end, or, of an orphan, as far as it goes.
    #[must_use]
    pub fn agrees(&self, report: &Report) -> bool {
        match self.kind {
            LeafKind::Session => (self.events, Some(self.head)) == (report.events, report.head),
            LeafKind::Orphan => self.events == 0 || report.heads.contains(&(self.events, self.head)),
        }
    }

    /// As it counts in the tree.
    #[must_use]
    pub fn hash(&self) -> Digest {
        leaf_hash(&self.to_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leaf_is_its_bytes() {
        let leaf = Leaf {
            kind: LeafKind::Session,
            session: SessionId::from_bytes([3; 16]),
            events: 0x0102,
            head: Digest([9; 32]),
            at: Timestamp::from_millis(1_764_000_000_000),
        };
        let bytes = leaf.to_bytes();
        assert_eq!(Leaf::from_bytes(&bytes), Ok(leaf));
        assert_eq!(&bytes[..2], &[1, 1]);
        assert_eq!(&bytes[18..26], &[0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(Leaf::from_bytes(&bytes[1..]), Err(LeafFault::Length));
        for at in [0, 1] {
            let mut other = bytes;
            other[at] = 3;
            assert_eq!(Leaf::from_bytes(&other), Err(LeafFault::Unknown));
        }
        let orphan = Leaf { kind: LeafKind::Orphan, ..leaf };
        assert_eq!(Leaf::from_bytes(&orphan.to_bytes()), Ok(orphan));
        assert_eq!(orphan.to_bytes()[..2], [1, 2]);
    }
}
