//! Requests for access and what came of them: bounded, ended by logical time.

use std::sync::Arc;

use postern_core::access::{AccessRequest, AccessState, Ended};
use postern_core::policy::Policy;
use postern_core::revocation::{Bearer, Revocation};
use postern_core::{AccessId, Name, Timestamp};

use crate::outcome::{Effect, ObjectKey};
use crate::state::{Limits, State};
use crate::tree::{Set, Tree};

/// Who ends what an administrator's change leaves no ground for.
const ITSELF: &str = "postern";

/// Part of the state.
#[derive(Clone, Debug, Default)]
pub(crate) struct Accesses {
    all: Tree<AccessId, Arc<AccessRequest>>,
    // Derived: those that wait or are granted, by when that ends; those that are over, and their weight.
    deadlines: Set<(Timestamp, AccessId)>,
    finished: Set<(u64, AccessId)>,
    finished_bytes: usize,
}

impl Accesses {
    /// Puts `access` in the place of what was there of that id, which is given back.
    pub(crate) fn index(&mut self, access: AccessRequest) -> Option<Arc<AccessRequest>> {
        let id = access.id;
        let deadline = access.deadline();
        let (revision, weight) = (access.revision, access.weight());
        let before = self.all.insert(id, Arc::new(access));
        if let Some(was) = before.as_ref().and_then(|before| before.deadline()) {
            self.deadlines.remove(&(was, id));
        }
        match deadline {
            Some(at) => drop(self.deadlines.insert((at, id), ())),
            None => {
                self.finished.insert((revision, id), ());
                self.finished_bytes = self.finished_bytes.saturating_add(weight);
            }
        }
        before
    }

    fn forget_oldest(&mut self) -> Option<AccessId> {
        let limits = Limits::STANDARD;
        if self.finished.len() <= limits.finished_access && self.finished_bytes <= limits.finished_access_bytes {
            return None;
        }
        let ((_, id), ()) = self.finished.pop_first()?;
        if let Some(gone) = self.all.remove(&id) {
            self.finished_bytes = self.finished_bytes.saturating_sub(gone.weight());
        }
        Some(id)
    }

    /// Those that wait or are granted.
    pub(crate) fn live(&self) -> impl ExactSizeIterator<Item = AccessId> {
        self.deadlines.iter().map(|((_, id), ())| *id)
    }

    /// Whether what is derived is the same.
    #[cfg(test)]
    pub(crate) fn derives_the_same(&self, other: &Self) -> bool {
        (&self.deadlines, &self.finished, self.finished_bytes)
            == (&other.deadlines, &other.finished, other.finished_bytes)
    }
}

impl State {
    /// One request for access.
    #[must_use]
    pub fn access(&self, id: AccessId) -> Option<&Arc<AccessRequest>> {
        self.accesses.all.get(&id)
    }

    /// All that are remembered, oldest first.
    pub fn accesses(&self) -> impl DoubleEndedIterator<Item = &Arc<AccessRequest>> {
        self.accesses.all.values()
    }

    /// When the next of them lapses or ends, if nothing comes before.
    pub(crate) fn next_access_deadline(&self) -> Option<Timestamp> {
        self.accesses.deadlines.first_key_value().map(|((at, _), ())| *at)
    }

    /// Stores `access`, tells gateways when what is granted is another now, and forgets the oldest that are over.
    pub(crate) fn put_access(&mut self, mut access: AccessRequest, effects: &mut Vec<Effect>) {
        access.revision = self.index;
        let (id, granted) = (access.id, access.grant());
        let before = self.accesses.index(access);
        if before.and_then(|before| before.grant()) != granted {
            self.policy_revision = self.index;
            Effect::PolicyChanged.add_to(effects);
        }
        Effect::ApprovalsChanged.add_to(effects);
        Effect::Changed(ObjectKey::Access(id)).add_to(effects);
        while let Some(gone) = self.accesses.forget_oldest() {
            Effect::Changed(ObjectKey::Access(gone)).add_to(effects);
        }
    }

    /// Lapses requests, and ends grants, whose time is over.
    pub(crate) fn expire_access(&mut self, effects: &mut Vec<Effect>) {
        while let Some(((deadline, id), ())) = self.accesses.deadlines.first_key_value() {
            let (deadline, id) = (*deadline, *id);
            if deadline > self.now {
                break;
            }
            self.accesses.deadlines.remove(&(deadline, id));
            if let Some(known) = self.access(id) {
                let mut access = AccessRequest::clone(known);
                access.state =
                    if access.state == AccessState::Active { AccessState::Over } else { AccessState::Expired };
                self.put_access(access, effects);
            }
        }
    }

    /// Ends `known` before its time: a grant ends, a request is withdrawn.
    pub(crate) fn end_access(&mut self, known: &AccessRequest, ended: Ended, effects: &mut Vec<Effect>) {
        let mut access = AccessRequest::clone(known);
        access.state = if access.state == AccessState::Active {
            access.ends_at = Some(self.now);
            AccessState::Ended
        } else {
            AccessState::Withdrawn
        };
        access.ended = Some(ended);
        self.put_access(access, effects);
    }

    /// Ends what was asked for by whom or what is revoked. A grant that holds for all tokens of its principal does not end with one of them.
    pub(crate) fn revoke_access(&mut self, revocation: &Revocation, effects: &mut Vec<Effect>) {
        let key = revocation.of.key();
        for id in self.accesses.live().collect::<Vec<_>>() {
            let Some(known) = self.access(id).cloned() else { continue };
            let requester = &known.requester;
            if revocation.of.is_of_token() && requester.chain.is_empty() {
                continue;
            }
            if Bearer::new(requester, !requester.chain.is_empty(), None, known.requested_at).keys().contains(&key) {
                let by = if revocation.by.is_empty() { requester.to_string() } else { revocation.by.clone() };
                let ended = Ended { by, because: format!("revoked: {}", revocation.because) };
                self.end_access(&known, ended, effects);
            }
        }
    }

    /// Ends all that waits or is granted.
    pub(crate) fn end_all_access(&mut self, because: &str) {
        for id in self.accesses.live().collect::<Vec<_>>() {
            if let Some(known) = self.access(id).cloned() {
                let ended = Ended { by: ITSELF.to_owned(), because: because.to_owned() };
                self.end_access(&known, ended, &mut Vec::new());
            }
        }
    }

    /// `policy` is another than it was, or gone. Who waits asked for what it said before, and reviewers were shown that; who was granted it keeps it
    /// while it is there and permits on request.
    pub(crate) fn policy_of_access_changed(&mut self, name: &Name, policy: Option<&Policy>, effects: &mut Vec<Effect>) {
        let on_request = policy.is_some_and(|policy| policy.on_request.is_some());
        let ids: Vec<AccessId> = self.accesses.live().collect();
        for id in ids {
            let Some(known) = self.access(id).filter(|known| known.policy == *name).cloned() else { continue };
            if known.state == AccessState::Pending || !on_request {
                let because = match policy {
                    None => "the policy was deleted",
                    Some(_) if on_request => "the policy was changed: ask again",
                    Some(_) => "the policy permits on request no more",
                };
                let ended = Ended { by: ITSELF.to_owned(), because: because.to_owned() };
                self.end_access(&known, ended, effects);
            }
        }
    }
}
