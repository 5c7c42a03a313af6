//! How a node stands, and why it does not answer.

/// How the node stands in its group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Its id.
    pub id: u64,
    /// The current term.
    pub term: u64,
    /// The leader; 0 when there is none.
    pub leader: u64,
    /// Whether this node leads and may answer.
    pub leading: bool,
    /// The last entry known to be committed.
    pub committed: u64,
    /// The last entry applied here, membership and empty ones included.
    pub applied: u64,
    /// The last entry of its log.
    pub last_index: u64,
    /// Where its last snapshot stands.
    pub snapshot_index: u64,
    /// The members as far as they are applied here, by id.
    pub members: Vec<MemberStatus>,
    /// Whether this node was removed from the group: it serves nobody, and stops once those who stay know of it.
    pub removed: bool,
}

/// How a member stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemberStatus {
    /// Its id.
    pub id: u64,
    /// Whether it votes; a learner does not.
    pub voter: bool,
    /// The last entry that it is known to have. Known to the leader only, else 0.
    pub matched: u64,
    /// Whether it was heard of lately. Known to the leader only.
    pub active: bool,
    /// Whether it is being sent a snapshot. Known to the leader only.
    pub snapshotting: bool,
}

impl Status {
    /// One member.
    #[must_use]
    pub fn member(&self, id: u64) -> Option<&MemberStatus> {
        self.members.iter().find(|member| member.id == id)
    }
}

/// Up to where this node has applied, and the last change of each kind that somebody waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The last entry applied to the state.
    pub applied: u64,
    /// The last change to what gateways decide by.
    pub policy: u64,
    /// The last change to an issuer.
    pub issuers: u64,
    /// The last change to an approval.
    pub approvals: u64,
}

/// Why a write has no outcome.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Too much waits already: nothing was proposed; retry later.
    #[error("too many writes wait")]
    Overloaded,
    /// It will never be taken: nothing was proposed.
    #[error("the write has more than {limit} bytes")]
    TooLarge {
        /// The most that an entry of the log may have.
        limit: usize,
    },
    /// This node does not lead: nothing was proposed.
    #[error("this node does not lead")]
    NotLeader {
        /// Who does, as far as known.
        leader: Option<u64>,
    },
    /// It may or may not come to pass: retry with the same request id.
    #[error("the outcome is unknown")]
    Unknown,
    /// The node stops.
    #[error("the node stops")]
    Stopped,
}

/// Why a read has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Too much waits already.
    #[error("too many reads wait")]
    Overloaded,
    /// There was no leader for as long as a read waits.
    #[error("there is no leader")]
    NotLeader,
    /// The leader did not answer for as long as a read waits.
    #[error("the leader does not answer")]
    Unavailable,
    /// The node stops.
    #[error("the node stops")]
    Stopped,
}

/// A change to who belongs to the group: one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MembershipChange {
    /// A member that gets the log and does not vote.
    AddLearner(u64),
    /// A learner that has caught up becomes a voter.
    Promote(u64),
    /// No member any more. The leader itself is not removed while it leads: it hands over, and the answer is `NotLeader` with the new
    /// leader's id, where the removal is to be asked for again.
    Remove(u64),
}

/// Why the members, or the leader, are not as was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// Ask there.
    #[error("this node does not lead")]
    NotLeader {
        /// Who does, as far as known.
        leader: Option<u64>,
    },
    /// One at a time.
    #[error("another change of the members is under way")]
    InProgress,
    /// There is no such member.
    #[error("{0} is not a member, or does not have this role")]
    NotAMember(u64),
    /// It was a member: its id is not used again.
    #[error("{0} was removed: it can come back only as a new member")]
    Left(u64),
    /// It is what it should become.
    #[error("{0} is a member already")]
    AlreadyMember(u64),
    /// A learner that would hold up the group as a voter.
    #[error("{id} has not caught up: it is {behind} entries behind, or was not heard of lately")]
    NotCaughtUp {
        /// Which.
        id: u64,
        /// How far.
        behind: u64,
    },
    /// The group could not go on.
    #[error("{active} of the {voters} voters would be reachable, {needed} are needed")]
    WouldLoseQuorum {
        /// Voters afterwards that were heard of lately.
        active: usize,
        /// Voters afterwards.
        voters: usize,
        /// A majority of them.
        needed: usize,
    },
    /// A group has at least one voter.
    #[error("the last voter cannot be removed")]
    LastVoter,
    /// Leadership did not move in time.
    #[error("the leader could not hand over in time")]
    NotTransferred,
    /// It may or may not come to pass.
    #[error("the outcome is unknown")]
    Unknown,
    /// Too much waits already.
    #[error("too much waits already")]
    Overloaded,
    /// The node stops.
    #[error("the node stops")]
    Stopped,
}
