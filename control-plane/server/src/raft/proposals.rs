//! Writes that wait: to be proposed, and for what comes of them.

use std::collections::{BTreeMap, VecDeque};

use postern_core::RequestId;
use postern_core::audit::AuditRecord;
use postern_state::{Command, Outcome};

use super::core::Core;
use super::status::ProposeError;

/// An entry's size at the most.
pub const ENTRY_BYTES: usize = 8 << 20;
/// Writes that wait for their outcome.
const IN_FLIGHT: usize = 16_384;
/// Their bytes.
const IN_FLIGHT_BYTES: usize = 64 << 20;
/// Bytes of entries that one flush takes, unless a single one is larger. Heartbeats wait as long as a flush takes, and an election comes
/// after half a second without them.
pub(super) const ROUND_BYTES: usize = 4 << 20;

/// Told what came of a write.
pub type ProposeReply = Box<dyn FnOnce(Result<Outcome, ProposeError>) + Send>;

/// A write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// What to do.
    pub command: Command,
    /// For de-duplication of retries.
    pub request_id: Option<RequestId>,
    /// Of the call behind it.
    pub audit: Option<AuditRecord>,
}

impl Proposal {
    /// A write that no call of the API stands behind.
    #[must_use]
    pub fn new(command: impl Into<Command>, request_id: Option<RequestId>) -> Self {
        Self { command: command.into(), request_id, audit: None }
    }
}

/// Those of one node: bounded by number and bytes (I11).
#[derive(Default)]
pub(super) struct Proposals {
    /// Proposed with the next rounds, together.
    queue: VecDeque<(Vec<u8>, ProposeReply)>,
    /// By index.
    proposed: BTreeMap<u64, Waiting>,
    /// Of both.
    bytes: usize,
}

struct Waiting {
    /// The term that it was proposed in.
    term: u64,
    bytes: usize,
    reply: ProposeReply,
}

impl Proposals {
    /// Takes an entry to be proposed, if this node leads and there is room.
    pub(super) fn push(&mut self, core: &Core, entry: Vec<u8>, reply: ProposeReply) {
        let bytes = entry.len();
        if bytes > ENTRY_BYTES {
            return reply(Err(ProposeError::TooLarge { limit: ENTRY_BYTES }));
        }
        if !core.is_leader() {
            return reply(Err(ProposeError::NotLeader { leader: core.leader() }));
        }
        let count = self.proposed.len().saturating_add(self.queue.len());
        if count >= IN_FLIGHT || self.bytes.saturating_add(bytes) > IN_FLIGHT_BYTES {
            return reply(Err(ProposeError::Overloaded));
        }
        self.bytes = self.bytes.saturating_add(bytes);
        self.queue.push_back((entry, reply));
    }

    /// Of all that wait.
    #[cfg(test)]
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether some are not proposed yet.
    pub(super) fn has_queue(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Proposes as many as one flush takes.
    pub(super) fn propose(&mut self, core: &mut Core) {
        if self.queue.is_empty() {
            return;
        }
        let mut bytes = 0_usize;
        let fits = |(entry, _): &&(Vec<u8>, ProposeReply)| {
            let first = bytes == 0;
            bytes = bytes.saturating_add(entry.len());
            first || bytes <= ROUND_BYTES
        };
        let count = self.queue.iter().take_while(fits).count();
        let (entries, replies): (Vec<_>, Vec<_>) = self.queue.drain(..count).unzip();
        let sizes: Vec<usize> = entries.iter().map(Vec::len).collect();
        let waiting = sizes.into_iter().zip(replies);
        match core.propose(entries) {
            Ok((first, term)) => {
                let places = first..;
                for (index, (bytes, reply)) in places.zip(waiting) {
                    self.proposed.insert(index, Waiting { term, bytes, reply });
                }
            }
            Err(_) => {
                // Nobody takes writes while leadership moves.
                let refusal = if core.is_leader() && core.node.raft.lead_transferee.is_none() {
                    ProposeError::Overloaded
                } else {
                    ProposeError::NotLeader { leader: core.leader().filter(|_| !core.is_leader()) }
                };
                for (bytes, reply) in waiting {
                    self.bytes = self.bytes.saturating_sub(bytes);
                    reply(Err(refusal.clone()));
                }
            }
        }
    }

    /// The entry at `index` was applied.
    pub(super) fn applied(&mut self, index: u64, term: u64, outcome: Outcome) {
        let Some(waiting) = self.proposed.remove(&index) else { return };
        self.bytes = self.bytes.saturating_sub(waiting.bytes);
        // Another leader's entry stands where ours would have: ours may yet be elsewhere, under its request id.
        (waiting.reply)(if term == waiting.term { Ok(outcome) } else { Err(ProposeError::Unknown) });
    }

    /// What was proposed by a leader that leads no more may or may not come to pass.
    pub(super) fn settled(&mut self, core: &Core) {
        let (leads, term) = (core.is_leader(), core.term());
        let former = |_: &u64, waiting: &mut Waiting| !leads || waiting.term != term;
        for (_, waiting) in self.proposed.extract_if(.., former) {
            self.bytes = self.bytes.saturating_sub(waiting.bytes);
            (waiting.reply)(Err(ProposeError::Unknown));
        }
    }

    /// Tells all that there will be no answer.
    pub(super) fn abandon(&mut self) {
        for waiting in std::mem::take(&mut self.proposed).into_values() {
            (waiting.reply)(Err(ProposeError::Unknown));
        }
        for (_, reply) in std::mem::take(&mut self.queue) {
            reply(Err(ProposeError::Stopped));
        }
        self.bytes = 0;
    }
}
