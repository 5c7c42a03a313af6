//! The state and how entries change it.

use std::collections::BTreeMap;
use std::sync::Arc;

use postern_core::access::day;
use postern_core::approval::{Approval, ApprovalState};
use postern_core::principal::Link;
use postern_core::resource::{Kind, Resource};
use postern_core::secret::Sealed;
use postern_core::session::Session;
use postern_core::{ApprovalId, Name, SessionId, Timestamp};

use crate::access::Accesses;
use crate::audit::AuditLog;
use crate::entry::{Command, Decoded, decode};
use crate::jobs::Jobs;
use crate::level::known_level;
use crate::logins::Logins;
use crate::members::Members;
use crate::outcome::{Applied, Effect, Halt, ObjectKey, Outcome, Refusal};
use crate::recording_keys::RecordingKey;
use crate::recording_log::RecordingLog;
use crate::requests::{Remembered, Requests};
use crate::resources::Resources;
use crate::reviews::Reviews;
use crate::revocations::RevocationBook;
use crate::rule_uses::RuleUses;
use crate::signing::SigningKey;
use crate::tree::{Set, Tree};
use crate::uses::TokenUses;
use crate::webhooks::Webhooks;

/// What bounds the state (I11). Part of the state machine's definition: every node has the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Objects of one kind.
    pub resources: usize,
    /// Approvals that wait or are granted.
    pub live_approvals: usize,
    /// Bytes of text that one approval carries.
    pub approval_bytes: usize,
    /// Approvals that are over, the newest.
    pub finished_approvals: usize,
    /// Their bytes of text in all.
    pub finished_approval_bytes: usize,
    /// Reviews after the fact that are open.
    pub open_reviews: usize,
    /// Of those, each principal's.
    pub open_reviews_each: usize,
    /// Those that are closed, the newest.
    pub closed_reviews: usize,
    /// Their weight in all.
    pub closed_review_bytes: usize,
    /// Sessions that are open.
    pub open_sessions: usize,
    /// Sessions that ended, the newest.
    pub ended_sessions: usize,
    /// Bytes of one issuer's keys.
    pub jwks_bytes: usize,
    /// Members of the control plane.
    pub nodes: usize,
    /// Join tokens, those that have just expired too.
    pub join_tokens: usize,
    /// Certificates of nodes that have not ended by themselves.
    pub certificates: usize,
    /// Assertions, and requests that they answer, that were presented and could be again.
    pub spent: usize,
    /// Logins that wait for their clients.
    pub pending_logins: usize,
    /// Single tokens that are revoked.
    pub revocations: usize,
    /// How many of these there may be for bearers to add theirs.
    pub own_revocations: usize,
    /// Revocations of more than one token.
    pub broad_revocations: usize,
    /// Requests for access that wait or are granted.
    pub live_access: usize,
    /// Of those, each principal's.
    pub live_access_each: usize,
    /// Bytes of text that one of them carries, reviews included.
    pub access_bytes: usize,
    /// Those that are over, the newest.
    pub finished_access: usize,
    /// Their bytes of text in all.
    pub finished_access_bytes: usize,
    /// Tokens of which uses were taken.
    pub counted_tokens: usize,
    /// Principals for whom rules have approved access today, each with each rule that counts.
    pub counted_rules: usize,
    /// Leaves of the log of recordings that no signed head covers yet.
    pub unsigned_leaves: u64,
    /// Jobs that have not ended.
    pub jobs: usize,
    /// Of those, each principal's.
    pub jobs_each: usize,
}

impl Limits {
    /// As every node has them.
    pub const STANDARD: Self = Self {
        resources: 10_000,
        live_approvals: 10_000,
        approval_bytes: 1 << 20,
        finished_approvals: 10_000,
        finished_approval_bytes: 64 << 20,
        open_reviews: 10_000,
        open_reviews_each: 1_000,
        closed_reviews: 10_000,
        closed_review_bytes: 64 << 20,
        open_sessions: 100_000,
        ended_sessions: 10_000,
        jwks_bytes: 256 << 10,
        nodes: 32,
        join_tokens: 1_000,
        certificates: 100_000,
        spent: 500_000,
        pending_logins: 10_000,
        revocations: 1_000_000,
        own_revocations: 800_000,
        broad_revocations: 100_000,
        live_access: 10_000,
        live_access_each: 100,
        access_bytes: 256 << 10,
        finished_access: 10_000,
        finished_access_bytes: 16 << 20,
        counted_tokens: 500_000,
        counted_rules: 100_000,
        unsigned_leaves: 65_536,
        jobs: 20_000,
        jobs_each: 1_000,
    };
}

/// What is made once, at the cluster's birth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Names the cluster.
    pub id: String,
    /// Tells one life of the cluster from another: a restored one has the same id and another past.
    pub incarnation: String,
    /// Its certificate authority.
    pub ca_pem: String,
    /// The authority's private key, sealed.
    pub ca_key: Sealed,
    /// Public keys of session tokens: all that are accepted, or soon will be.
    pub session_token_jwks: String,
    /// The private key that the cluster was made with, sealed; empty once it lies in `signing_keys`.
    pub session_token_key: Sealed,
    /// Key of the `hash` mask, sealed.
    pub mask_key: Sealed,
    /// The keys of session tokens; empty until they are rotated the first time.
    pub signing_keys: Vec<SigningKey>,
    /// Under which the keys of recordings lie, the newest last; empty until there is one.
    pub recording_keys: Vec<RecordingKey>,
}

/// An issuer's keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerKeys {
    /// Its JSON Web Key Set, as fetched.
    pub jwks: String,
    /// The index of the last change.
    pub revision: u64,
}

/// The replicated state of the control plane at one index of the log. A copy costs next to nothing, however much is in it.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub(crate) index: u64,
    pub(crate) now: Timestamp,
    pub(crate) cluster: Option<Arc<Cluster>>,
    pub(crate) resources: Resources,
    pub(crate) issuer_keys: BTreeMap<Name, IssuerKeys>,
    pub(crate) approvals: Tree<ApprovalId, Arc<Approval>>,
    pub(crate) sessions: Tree<SessionId, Arc<Session>>,
    pub(crate) requests: Requests,
    pub(crate) members: Members,
    pub(crate) audit: AuditLog,
    pub(crate) logins: Logins,
    pub(crate) revocations: RevocationBook,
    pub(crate) accesses: Accesses,
    pub(crate) uses: TokenUses,
    pub(crate) jobs: Jobs,
    pub(crate) rule_uses: RuleUses,
    pub(crate) webhooks: Webhooks,
    pub(crate) reviews: Reviews,
    pub(crate) recording_log: RecordingLog,
    pub(crate) policy_revision: u64,
    // What follows is derived from the above, and not in a snapshot.
    pub(crate) deadlines: Set<(Timestamp, ApprovalId)>,
    pub(crate) finished: Set<(u64, ApprovalId)>,
    pub(crate) finished_bytes: usize,
    pub(crate) ended: Set<(u64, SessionId)>,
}

/// What a command sees and changes.
pub(crate) struct Context<'a> {
    pub(crate) state: &'a mut State,
    pub(crate) effects: &'a mut Vec<Effect>,
}

impl State {
    /// Applies the entry at `index` of the log.
    ///
    /// # Errors
    /// When this version cannot read the entry, or it comes out of order: the node stops, the state is as it was.
    pub fn apply(&mut self, index: u64, entry: &[u8]) -> Result<Applied, Halt> {
        if index <= self.index {
            return Err(Halt::OutOfOrder { index, applied: self.index });
        }
        let decoded = decode(index, entry)?;
        if let Ok(Command::RaiseFeatureLevel(raise)) = &decoded.command
            && raise.level > known_level()
            && self.may_raise_to(raise.level)
        {
            return Err(Halt::FeatureLevel { index, level: raise.level, known: known_level() });
        }
        Ok(self.execute(index, decoded))
    }

    /// Whether every member says that it knows `level`.
    fn may_raise_to(&self, level: u32) -> bool {
        self.members.nodes.values().all(|node| node.feature_level >= level)
    }

    fn execute(&mut self, index: u64, entry: Decoded) -> Applied {
        let mut effects = Vec::new();
        self.index = index;
        self.now = self.now.max(entry.proposed_at);
        self.requests.expire(self.now);
        self.expire_approvals(&mut effects);
        self.expire_access(&mut effects);
        self.turn_keys(&mut effects);
        self.members.expire(self.now, &mut effects);
        self.logins.expire(self.now);
        self.revocations.expire(self.now);
        self.uses.expire(self.now);
        self.jobs.expire(self.now);
        self.rule_uses.expire(day(self.now));
        self.webhooks.expire(self.now);
        self.mark_overdue_reviews(&mut effects);
        let known = entry.request_id.and_then(|request| self.requests.outcome_of(request)).cloned();
        let outcome = match known {
            Some(outcome) => outcome,
            None => {
                let outcome = self.run(entry.command, &mut effects);
                if let Some(request) = entry.request_id {
                    self.requests.remember(index, Remembered { request, at: self.now, outcome: outcome.clone() });
                }
                outcome
            }
        };
        if let Some(audit) = entry.audit {
            self.audit.append_outcome(audit, &outcome, self.now);
            Effect::Changed(ObjectKey::Audit).add_to(&mut effects);
        }
        Applied { outcome, effects }
    }

    fn run(
        &mut self,
        command: Result<Command, Vec<postern_core::resource::FieldFault>>,
        effects: &mut Vec<Effect>,
    ) -> Outcome {
        let command = command.map_err(Refusal::Invalid)?;
        if self.cluster.is_none() && !matches!(command, Command::InitCluster(_)) {
            return Err(Refusal::InvalidState("the cluster is not initialised".to_owned()));
        }
        let (needed, level) = (command.feature_level(), self.members.feature_level);
        if needed > level {
            return Err(Refusal::FeatureLevel { needed, level });
        }
        command.apply(&mut Context { state: self, effects })
    }

    /// Lapses every approval whose time is over.
    fn expire_approvals(&mut self, effects: &mut Vec<Effect>) {
        while let Some((&(deadline, id), ())) = self.deadlines.first_key_value() {
            if deadline > self.now {
                break;
            }
            self.deadlines.remove(&(deadline, id));
            if let Some(approval) = self.approvals.get(&id) {
                let mut approval = Approval::clone(approval);
                approval.state = ApprovalState::Expired;
                approval.revision = self.index;
                self.put_approval(approval, effects);
            }
        }
    }

    /// Stores `approval`, keeps what is derived from it, and forgets the oldest that are over.
    pub(crate) fn put_approval(&mut self, approval: Approval, effects: &mut Vec<Effect>) {
        Effect::ApprovalsChanged.add_to(effects);
        Effect::Changed(ObjectKey::Approval(approval.id)).add_to(effects);
        self.tell_webhooks(&approval);
        self.index_approval(approval);
        let limits = Limits::STANDARD;
        while self.finished.len() > limits.finished_approvals || self.finished_bytes > limits.finished_approval_bytes {
            let Some(((_, id), ())) = self.finished.pop_first() else { break };
            if let Some(gone) = self.approvals.remove(&id) {
                Effect::Changed(ObjectKey::Approval(id)).add_to(effects);
                self.finished_bytes = self.finished_bytes.saturating_sub(approval_bytes(&gone));
            }
        }
    }

    pub(crate) fn index_approval(&mut self, approval: Approval) {
        let key = (approval.expires_at, approval.id);
        if approval.state.is_final() {
            self.deadlines.remove(&key);
            self.finished.insert((approval.revision, approval.id), ());
            self.finished_bytes = self.finished_bytes.saturating_add(approval_bytes(&approval));
        } else {
            self.deadlines.insert(key, ());
        }
        self.approvals.insert(approval.id, Arc::new(approval));
    }

    /// Stores `session`, and forgets the oldest that ended.
    pub(crate) fn put_session(&mut self, session: Session, effects: &mut Vec<Effect>) {
        Effect::Changed(ObjectKey::Session(session.id)).add_to(effects);
        if session.end.is_some() {
            self.end_reviewed_session(session.id, effects);
        }
        self.index_session(session);
        while self.ended.len() > Limits::STANDARD.ended_sessions {
            let Some(((_, id), ())) = self.ended.pop_first() else { break };
            self.sessions.remove(&id);
            Effect::Changed(ObjectKey::Session(id)).add_to(effects);
        }
    }

    pub(crate) fn index_session(&mut self, session: Session) {
        if let Some(known) = self.sessions.get(&session.id).filter(|known| known.end.is_some()) {
            self.ended.remove(&(known.revision, known.id));
        }
        if session.end.is_some() {
            self.ended.insert((session.revision, session.id), ());
        }
        self.sessions.insert(session.id, Arc::new(session));
    }

    /// The index of the last entry applied.
    #[must_use]
    pub const fn index(&self) -> u64 {
        self.index
    }

    /// Logical time: the newest that any entry was proposed at.
    #[must_use]
    pub const fn now(&self) -> Timestamp {
        self.now
    }

    /// The cluster; none before its first entry.
    #[must_use]
    pub const fn cluster(&self) -> Option<&Arc<Cluster>> {
        self.cluster.as_ref()
    }

    /// The index of the last change to anything that gateways decide by.
    #[must_use]
    pub const fn policy_revision(&self) -> u64 {
        self.policy_revision
    }

    /// One object.
    #[must_use]
    pub fn resource(&self, kind: Kind, name: &Name) -> Option<&Arc<Resource>> {
        self.resources.get(kind, name)
    }

    /// The objects of a kind, by name.
    pub fn resources(&self, kind: Kind) -> impl DoubleEndedIterator<Item = &Arc<Resource>> {
        self.resources.of(kind)
    }

    /// The keys of an issuer, once fetched.
    #[must_use]
    pub fn issuer_keys(&self, issuer: &Name) -> Option<&IssuerKeys> {
        self.issuer_keys.get(issuer)
    }

    /// One approval.
    #[must_use]
    pub fn approval(&self, id: ApprovalId) -> Option<&Arc<Approval>> {
        self.approvals.get(&id)
    }

    /// All approvals, oldest first.
    pub fn approvals(&self) -> impl DoubleEndedIterator<Item = &Arc<Approval>> {
        self.approvals.values()
    }

    /// When the next approval or request for access lapses, grant ends, review is due, or signing key takes its turn, if nothing comes before.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let approval = self.deadlines.first_key_value().map(|((at, _), ())| *at);
        approval
            .into_iter()
            .chain(self.next_access_deadline())
            .chain(self.next_review_due())
            .chain(self.next_key_turn())
            .min()
    }

    /// One session.
    #[must_use]
    pub fn session(&self, id: SessionId) -> Option<&Arc<Session>> {
        self.sessions.get(&id)
    }

    /// All sessions in the index, oldest first.
    pub fn sessions(&self) -> impl DoubleEndedIterator<Item = &Arc<Session>> {
        self.sessions.values()
    }
}

/// What an approval weighs: all of its text that comes from outside.
pub(crate) fn approval_bytes(approval: &Approval) -> usize {
    let lists = [&approval.parameters, &approval.actions, &approval.policies, &approval.requirement.groups];
    let lists = lists.into_iter().flatten().map(String::len);
    let requester = approval.requester.groups.iter().map(|group| group.len());
    let chain = approval.requester.chain.iter().map(Link::weight);
    lists
        .chain(requester)
        .chain(chain)
        .chain([approval.text.len(), approval.reason.len(), approval.requester.id.subject.len(), 256])
        .chain(approval.background.as_ref().map(|background| background.weight()))
        .fold(0, usize::saturating_add)
}
