//! The index of sessions.

use crate::id::SessionId;
use crate::name::Name;
use crate::operation::Digest;
use crate::principal::Principal;
use crate::time::Timestamp;

/// One line of the session index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its id, made by the gateway.
    pub id: SessionId,
    /// Who.
    pub principal: Principal,
    /// Where to.
    pub target: Name,
    /// Through which gateway.
    pub gateway: String,
    /// From where, as the gateway saw it.
    pub client_address: String,
    /// Which database.
    pub database: String,
    /// When, by the gateway's clock.
    pub started_at: Timestamp,
    /// How it ended; none while it is open.
    pub end: Option<SessionEnd>,
    /// The Raft index of its last change.
    pub revision: u64,
}

/// In what order a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Its gateway ended it, and sealed the recording.
    Orderly,
    /// Its gateway had died, and sealed the recording when it was back: it is complete to that moment.
    Interrupted,
    /// Its gateway is gone, and the control plane closed it. The recording has no seal: the log of recordings says how far it came to members.
    Orphaned,
}

impl Ending {
    /// Of a recording that its gateway sealed.
    #[must_use]
    pub const fn sealed(interrupted: bool) -> Self {
        if interrupted { Self::Interrupted } else { Self::Orderly }
    }

    /// Whether the recording has its gateway's seal.
    #[must_use]
    pub const fn is_sealed(self) -> bool {
        !matches!(self, Self::Orphaned)
    }

    /// Whether the gateway died in the middle.
    #[must_use]
    pub const fn is_interrupted(self) -> bool {
        !matches!(self, Self::Orderly)
    }
}

impl Session {
    /// Its end, once its gateway has sealed the recording.
    #[must_use]
    pub fn sealed(&self) -> Option<&SessionEnd> {
        self.end.as_ref().filter(|end| end.ending.is_sealed())
    }

    /// Whether the control plane closed it because its gateway is gone.
    #[must_use]
    pub fn is_orphaned(&self) -> bool {
        self.end.as_ref().is_some_and(|end| !end.ending.is_sealed())
    }
}

/// How a session ended, and the head of its recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionEnd {
    /// Who says so.
    pub ending: Ending,
    /// When, by the gateway's clock; of an orphan by the cluster's.
    pub at: Timestamp,
    /// Why.
    pub reason: String,
    /// Events in the recording.
    pub events: u64,
    /// What its hash chain ends in.
    pub head: Digest,
}
