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

/// How a session ended, and the head of its recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionEnd {
    /// Its gateway died: the recording is complete to that moment.
    pub interrupted: bool,
    /// When, by the gateway's clock.
    pub at: Timestamp,
    /// Why.
    pub reason: String,
    /// Events in the recording.
    pub events: u64,
    /// What its hash chain ends in.
    pub head: Digest,
}
