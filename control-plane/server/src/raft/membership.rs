//! Who belongs to the group, and who leads it: what is allowed, and what became of it.

use std::collections::BTreeMap;

use raft::eraftpb::{ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState};

use super::core::Core;
use super::status::{MemberStatus, MembershipChange, MembershipError};

/// Told what became of a change: the index of the entry with which it was done, or the id of the new leader.
pub type MembershipReply = Box<dyn FnOnce(Result<u64, MembershipError>) + Send>;

/// Entries that a learner may be behind when it becomes a voter: it gets them while the change is agreed on.
const PROMOTE_LAG: u64 = 1_000;

/// What is under way on the leader: one of each.
#[derive(Default)]
pub(super) struct Membership {
    change: Option<Change>,
    transfer: Option<Transfer>,
    /// When a member was heard of last, in ticks.
    heard: BTreeMap<u64, u64>,
}

struct Change {
    /// The term that it was asked in.
    term: u64,
    stage: Stage,
    reply: MembershipReply,
}

enum Stage {
    /// It stands in the log.
    Proposed { index: u64, change: MembershipChange },
    /// Both majorities are needed now; over once the former one is not any more.
    Joint,
    /// The group is as `answer` says. That is said once an entry that was proposed since, `mark`, is applied: a majority of those who belong
    /// has it on the disk, and with it how far was committed when it was sent. They go on without whoever left, whatever happens to this
    /// node. `None`: to be proposed yet.
    Known { answer: Result<u64, MembershipError>, mark: Option<u64> },
}

struct Transfer {
    to: u64,
    /// In ticks.
    until: u64,
    /// To remove this node, which leads.
    to_remove: bool,
    reply: MembershipReply,
}

/// How a node keeps time, in ticks.
#[derive(Clone, Copy)]
pub(super) struct Clock {
    pub(super) now: u64,
    /// Silence after which a member does not count as active.
    pub(super) silence: u64,
    /// What a transfer may take.
    pub(super) transfer: u64,
}

impl Membership {
    pub(super) fn heard(&mut self, id: u64, now: u64) {
        self.heard.insert(id, now);
    }

    /// Proposes `change`, if it is allowed.
    pub(super) fn change(
        &mut self,
        core: &mut Core,
        clock: Clock,
        change: MembershipChange,
        force: bool,
        reply: MembershipReply,
    ) {
        let term = core.term();
        if let Err(refusal) = self.check(core, clock, change, force) {
            if matches!(refusal, MembershipError::AlreadyMember(_) | MembershipError::NotAMember(_)) {
                // What an earlier try has brought about is as good as done: then it must last, too.
                let stage = Stage::Known { answer: Err(refusal), mark: mark(core) };
                self.change = Some(Change { term, stage, reply });
                return;
            }
            return reply(Err(refusal));
        }
        if change == MembershipChange::Remove(core.node.raft.id) {
            return self.transfer(core, clock, 0, true, reply);
        }
        match core.node.propose_conf_change(Vec::new(), to_raft(change)) {
            Ok(()) => {
                let stage = Stage::Proposed { index: core.last_index(), change };
                self.change = Some(Change { term, stage, reply });
            }
            Err(_) => reply(Err(MembershipError::Overloaded)),
        }
    }

    /// Hands leadership to `to`, or with 0 to the most suitable voter.
    pub(super) fn transfer(&mut self, core: &mut Core, clock: Clock, to: u64, to_remove: bool, reply: MembershipReply) {
        if !core.is_leader() {
            return reply(Err(MembershipError::NotLeader { leader: core.leader() }));
        }
        if self.transfer.is_some() {
            return reply(Err(MembershipError::InProgress));
        }
        let own = core.node.raft.id;
        if to == own {
            return reply(Ok(own));
        }
        let to = if to == 0 { self.best_voter(core, clock) } else { Some(to) };
        let Some(to) = to else { return reply(Err(MembershipError::NotTransferred)) };
        if !core.members().voters.contains(&to) {
            return reply(Err(MembershipError::NotAMember(to)));
        }
        core.node.transfer_leader(to);
        let until = clock.now.saturating_add(clock.transfer);
        self.transfer = Some(Transfer { to, until, to_remove, reply });
    }

    /// An entry of the members' was applied.
    pub(super) fn applied(&mut self, core: &mut Core, index: u64, term: u64) {
        let joint = !core.members().voters_outgoing.is_empty();
        let Some(Change { term: asked_in, stage, reply }) = self.change.take() else { return };
        let stage = match stage {
            Stage::Proposed { index: at, .. } if index < at => stage,
            Stage::Proposed { index: at, .. } if index > at || term != asked_in => {
                return reply(Err(MembershipError::Unknown));
            }
            // raft-rs puts an empty entry in the place of a change that may not be now.
            Stage::Proposed { change, .. } if !is_done(core.members(), change) => {
                return reply(Err(MembershipError::InProgress));
            }
            // No majority is another.
            Stage::Proposed { change: MembershipChange::AddLearner(_), .. } => return reply(Ok(index)),
            Stage::Proposed { .. } | Stage::Joint if joint => Stage::Joint,
            Stage::Proposed { .. } | Stage::Joint => Stage::Known { answer: Ok(index), mark: mark(core) },
            Stage::Known { answer, mark: Some(mark) } if index >= mark => return reply(answer),
            Stage::Known { .. } => stage,
        };
        self.change = Some(Change { term: asked_in, stage, reply });
    }

    /// Sees who leads now.
    pub(super) fn settled(&mut self, core: &Core, now: u64) {
        let own = core.node.raft.id;
        let led = |change: &mut Change| !core.is_leader() || core.term() != change.term;
        if let Some(change) = self.change.take_if(led) {
            (change.reply)(Err(match change.stage {
                Stage::Known { answer: Err(_), .. } => MembershipError::NotLeader { leader: core.leader() },
                _ => MembershipError::Unknown,
            }));
        }
        let over = |transfer: &mut Transfer| now >= transfer.until || core.leader().is_some_and(|leader| leader != own);
        if let Some(transfer) = self.transfer.take_if(over) {
            let outcome = match core.leader() {
                Some(leader) if leader != own && transfer.to_remove => {
                    Err(MembershipError::NotLeader { leader: Some(leader) })
                }
                Some(leader) if leader == transfer.to => Ok(leader),
                _ => Err(MembershipError::NotTransferred),
            };
            (transfer.reply)(outcome);
        }
    }

    /// Leaves a joint configuration that a former leader has left behind, and tries again what was refused.
    pub(super) fn tick(&mut self, core: &mut Core) {
        if let Some(Change { stage: Stage::Known { mark: unmarked @ None, .. }, .. }) = &mut self.change {
            *unmarked = mark(core);
        }
        let joint = !core.members().voters_outgoing.is_empty();
        if joint && core.is_ready_leader() && !core.node.raft.has_pending_conf() {
            // Refused only while too much is uncommitted: then at the next tick.
            let _ = core.node.propose_conf_change(Vec::new(), ConfChangeV2::default());
        }
    }

    pub(super) fn fail(&mut self, why: &MembershipError) {
        let change = self.change.take().map(|change| change.reply);
        for reply in change.into_iter().chain(self.transfer.take().map(|transfer| transfer.reply)) {
            reply(Err(why.clone()));
        }
    }

    /// The members, by id; how each stands where this node leads.
    pub(super) fn status(&self, core: &Core, clock: Clock) -> Vec<MemberStatus> {
        let members = core.members();
        let learners = members.learners.iter().chain(&members.learners_next);
        let voters = members.voters.iter().map(|id| (*id, true));
        let all: BTreeMap<u64, bool> = learners.map(|id| (*id, false)).chain(voters).collect();
        let status = |(id, voter)| {
            let progress = core.node.raft.prs().get(id).filter(|_| core.is_leader());
            MemberStatus {
                id,
                voter,
                matched: progress.map_or(0, |progress| progress.matched),
                active: core.is_leader() && self.is_active(core, clock, id),
                snapshotting: progress.is_some_and(|progress| progress.state == raft::ProgressState::Snapshot),
            }
        };
        all.into_iter().map(status).collect()
    }

    fn is_active(&self, core: &Core, clock: Clock, id: u64) -> bool {
        let heard = |at: &u64| clock.now.saturating_sub(*at) <= clock.silence;
        id == core.node.raft.id || self.heard.get(&id).is_some_and(heard)
    }

    fn best_voter(&self, core: &Core, clock: Clock) -> Option<u64> {
        let others = core.members().voters.iter().copied().filter(|id| *id != core.node.raft.id);
        let matched = |id: &u64| core.node.raft.prs().get(*id).map_or(0, |progress| progress.matched);
        others.filter(|id| self.is_active(core, clock, *id)).max_by_key(matched)
    }

    fn check(&self, core: &Core, clock: Clock, change: MembershipChange, force: bool) -> Result<(), MembershipError> {
        if !core.is_leader() {
            return Err(MembershipError::NotLeader { leader: core.leader() });
        }
        let members = core.members();
        let joint = !members.voters_outgoing.is_empty();
        // A leader that has not yet committed in its term may not know of a change that was (Ongaro, "bug in single-server membership
        // changes", 2015).
        if joint || self.change.is_some() || self.transfer.is_some() {
            return Err(MembershipError::InProgress);
        }
        if !core.is_ready_leader() || core.node.raft.has_pending_conf() {
            return Err(MembershipError::InProgress);
        }
        let (voter, learner) = (|id: u64| members.voters.contains(&id), |id: u64| members.learners.contains(&id));
        let mut voters = members.voters.clone();
        match change {
            MembershipChange::AddLearner(0) => return Err(MembershipError::NotAMember(0)),
            MembershipChange::AddLearner(id) if core.has_left(id) => return Err(MembershipError::Left(id)),
            MembershipChange::AddLearner(id) if voter(id) || learner(id) => {
                return Err(MembershipError::AlreadyMember(id));
            }
            MembershipChange::Promote(id) if voter(id) => return Err(MembershipError::AlreadyMember(id)),
            MembershipChange::Promote(id) | MembershipChange::Remove(id) if !voter(id) && !learner(id) => {
                return Err(MembershipError::NotAMember(id));
            }
            MembershipChange::Promote(id) => {
                let matched = core.node.raft.prs().get(id).map_or(0, |progress| progress.matched);
                let behind = core.last_index().saturating_sub(matched);
                if !force && (behind > PROMOTE_LAG || !self.is_active(core, clock, id)) {
                    return Err(MembershipError::NotCaughtUp { id, behind });
                }
                voters.push(id);
            }
            MembershipChange::Remove(id) if voter(id) => voters.retain(|voter| *voter != id),
            MembershipChange::AddLearner(_) | MembershipChange::Remove(_) => return Ok(()),
        }
        if voters.is_empty() {
            return Err(MembershipError::LastVoter);
        }
        let active = voters.iter().filter(|id| self.is_active(core, clock, **id)).count();
        let needed = voters.len().div_euclid(2).saturating_add(1);
        if active < needed && !force {
            return Err(MembershipError::WouldLoseQuorum { active, voters: voters.len(), needed });
        }
        Ok(())
    }
}

/// An entry that says nothing: its place. `None` while nothing is taken, as when leadership moves.
fn mark(core: &mut Core) -> Option<u64> {
    let place = core.is_leader().then(|| core.propose(vec![Vec::new()]))?;
    place.ok().map(|(index, _)| index)
}

/// Voters change by way of a joint configuration, which raft-rs leaves by itself.
fn to_raft(change: MembershipChange) -> ConfChangeV2 {
    let (kind, id, transition) = match change {
        MembershipChange::AddLearner(id) => (ConfChangeType::AddLearnerNode, id, ConfChangeTransition::Auto),
        MembershipChange::Promote(id) => (ConfChangeType::AddNode, id, ConfChangeTransition::Implicit),
        MembershipChange::Remove(id) => (ConfChangeType::RemoveNode, id, ConfChangeTransition::Implicit),
    };
    let mut single = ConfChangeSingle { node_id: id, ..Default::default() };
    single.set_change_type(kind);
    let mut all = ConfChangeV2 { changes: vec![single], ..Default::default() };
    all.set_transition(transition);
    all
}

fn is_done(members: &ConfState, change: MembershipChange) -> bool {
    match change {
        MembershipChange::AddLearner(id) => members.learners.contains(&id),
        MembershipChange::Promote(id) => members.voters.contains(&id),
        MembershipChange::Remove(id) => !members.voters.contains(&id) && !members.learners.contains(&id),
    }
}

#[cfg(test)]
#[path = "membership_tests.rs"]
mod tests;
