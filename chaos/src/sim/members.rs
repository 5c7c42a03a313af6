//! Who joins and who leaves: one change after the other, asked of whoever leads until it is so.

use std::collections::{BTreeSet, VecDeque};
use std::path::Path;

use fastrand::Rng;
use postern_server::raft::log_store::StorageError;
use postern_server::raft::{DriverError, MembershipChange, MembershipError};

use super::node::{Fate, Input, Node};
use super::rng::pick;
use super::world::{Event, World};
use super::{MS, Time, Violation, broken};

/// Members that there are at most.
const MOST: usize = 6;
/// How long it takes at least until who was removed hears of it.
const TOLD: Time = 20 * MS;
/// How often a change is tried.
const PATIENCE: u64 = 60;

/// Changes that are wanted.
pub struct Admin {
    next_id: u64,
    wanted: VecDeque<MembershipChange>,
    tried: u64,
    /// Those that vote, or will not vote any more: never more than there are.
    voters: BTreeSet<u64>,
    /// A change was given up: it may yet come to pass.
    unsure: bool,
    /// Changes that came to pass.
    pub done: u64,
}

impl Admin {
    /// Of a cluster with so many founders.
    #[must_use]
    pub fn new(founders: u64) -> Self {
        let voters = (1..=founders).collect();
        Self { next_id: founders.saturating_add(1), wanted: VecDeque::new(), tried: 0, voters, unsure: false, done: 0 }
    }

    /// No more is wanted.
    pub fn forget(&mut self) {
        self.wanted.clear();
    }
}

impl World {
    fn want(&mut self, changes: &[MembershipChange]) {
        if self.admin.wanted.is_empty() {
            self.at(MS, Event::Administer);
        }
        self.admin.wanted.extend(changes);
    }

    fn new_id(&mut self) -> u64 {
        let id = self.admin.next_id;
        self.admin.next_id = id.saturating_add(1);
        id
    }

    pub(super) fn join(&mut self) {
        if self.admin.voters.len() >= MOST || self.admin.wanted.len() > 2 {
            return;
        }
        let id = self.new_id();
        self.want(&[MembershipChange::AddLearner(id), MembershipChange::Promote(id)]);
    }

    pub(super) fn leave(&mut self) {
        let voters: Vec<u64> = self.admin.voters.iter().copied().collect();
        let leader = self.leader().filter(|leader| self.admin.voters.contains(leader) && self.faults.bool());
        let Some(id) = leader.or_else(|| pick(&mut self.faults, &voters)).filter(|_| voters.len() > 1) else { return };
        self.admin.voters.remove(&id);
        self.want(&[MembershipChange::Remove(id)]);
    }

    /// A voter that the others, whatever changes are under way, are a quorum without.
    fn expendable(&mut self) -> Option<u64> {
        let lost = self.nodes.values().any(|node| node.fate == Fate::Lost && self.admin.voters.contains(&node.id));
        if lost || self.admin.unsure || !self.admin.wanted.is_empty() || self.admin.voters.len() < 3 {
            return None;
        }
        // A minority of those who belong is no minority to who does not yet know that they do.
        let voters: Vec<u64> = self.admin.voters.iter().copied().collect();
        let known = |id: &u64| {
            let members = self.nodes.get(id).map(|node| node.status.members.as_slice()).unwrap_or_default();
            members.iter().filter(|member| member.voter).map(|member| member.id).eq(voters.iter().copied())
        };
        if !voters.iter().all(known) {
            return None;
        }
        pick(&mut self.faults, &voters)
    }

    /// A node is gone for good: another takes its place.
    fn replace(&mut self, id: u64) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.fate = Fate::Lost;
        }
        self.admin.voters.remove(&id);
        let new = self.new_id();
        self.want(&[MembershipChange::Remove(id), MembershipChange::AddLearner(new), MembershipChange::Promote(new)]);
    }

    pub(super) fn lose_disk(&mut self) {
        let Some(id) = self.expendable() else { return };
        self.crash(id, true, Fate::Lost);
        if let Some(node) = self.nodes.get(&id) {
            node.io.get().disk.replace();
        }
        self.note(&format!("node {id} has lost its disk"));
        self.replace(id);
    }

    /// Real files may be damaged where nothing is any more: then the node is as it was.
    pub(super) fn damage(&mut self) -> Result<(), Violation> {
        let Some(id) = self.expendable() else { return Ok(()) };
        self.crash(id, true, Fate::Down);
        self.lives = self.lives.saturating_add(1);
        let (now, config) = (self.now, self.plan.node(id, self.lives, 0));
        let Some(node) = self.nodes.get_mut(&id) else { return Ok(()) };
        match &node.files {
            Some(files) => flip_a_bit(files, &mut self.faults),
            None => node.io.get().disk.damage(&mut self.faults),
        }
        let started = node.try_start(&config, now);
        let harmless = node.files.is_some();
        node.stop(Fate::Down);
        match started {
            Err(DriverError::Storage(error @ StorageError::Corrupt { .. })) => {
                self.note(&format!("node {id} does not start: {error}"));
                self.replace(id);
            }
            Ok(()) if harmless => self.at(100 * MS, Event::Start(id)),
            Ok(()) => return broken("a damaged node does not start", format!("node {id} does")),
            Err(error) => return broken("a damaged node says so", format!("node {id}: {error}")),
        }
        Ok(())
    }

    pub(super) fn transfer(&mut self) {
        let Some(leader) = self.leader() else { return };
        let others: Vec<u64> = self.admin.voters.iter().copied().filter(|id| *id != leader).collect();
        let to = pick(&mut self.faults, &others);
        self.note(&format!("node {leader} is asked to hand over to {to:?}"));
        self.arrive(leader, Input::Transfer(to.unwrap_or(0)));
    }

    /// Looks after the first change that is wanted.
    pub(super) fn administer(&mut self) -> Result<(), Violation> {
        let Some(change) = self.admin.wanted.front().copied() else { return Ok(()) };
        self.at(150 * MS, Event::Administer);
        // Who is to join has to be there.
        if let MembershipChange::AddLearner(id) = change
            && !self.nodes.contains_key(&id)
        {
            self.add_node(id);
            self.start(id)?;
        }
        let Some(leader) = self.leader() else { return Ok(()) };
        self.admin.tried = self.admin.tried.saturating_add(1);
        if self.admin.tried > PATIENCE {
            self.note(&format!("{change:?} is given up"));
            (self.admin.tried, self.admin.unsure) = (0, true);
            self.admin.wanted.pop_front();
            return Ok(());
        }
        self.arrive(leader, Input::ChangeMembership(change, false));
        Ok(())
    }

    pub(super) fn membership_answer(
        &mut self,
        node: u64,
        change: Option<MembershipChange>,
        answer: &Result<u64, MembershipError>,
    ) {
        self.note(&format!("node {node} says of {change:?}: {answer:?}"));
        let Some(change) = change.filter(|change| self.admin.wanted.front() == Some(change)) else { return };
        if is_so(change, answer) {
            self.note(&format!("{change:?} is done"));
            if let MembershipChange::Promote(id) = change {
                self.admin.voters.insert(id);
            }
            if let MembershipChange::Remove(id) = change {
                self.at(TOLD, Event::Tell(id));
            }
            self.admin.wanted.pop_front();
            (self.admin.tried, self.admin.done) = (0, self.admin.done.saturating_add(1));
        }
    }

    /// A member tells one that was removed that it was, once one reaches the other: whoever was removed asks all the time. It ends then.
    pub(super) fn tell(&mut self, id: u64) {
        let Some(node) = self.nodes.get(&id).filter(|node| !matches!(node.fate, Fate::Removed | Fate::Lost)) else {
            return;
        };
        let (up, paused, life) = (node.is_up(), node.paused_until > self.now, node.life);
        let reached = |other: &&Node| {
            let away = |one, other| self.net.is_cut(one, other);
            other.id != id && other.is_up() && !away(id, other.id) && !away(other.id, id)
        };
        let knows = |other: &&Node| !other.status.removed && other.status.member(id).is_none();
        if up && !paused && self.nodes.values().any(|other| reached(&other) && knows(&other)) {
            self.ended(id, life, Fate::Removed);
        } else {
            self.at(TOLD, Event::Tell(id));
        }
    }
}

/// In what is written of one of the log's files.
fn flip_a_bit(folder: &Path, rng: &mut Rng) {
    let mut paths = vec![folder.join("db")];
    if let Ok(segments) = std::fs::read_dir(folder.join("wal")) {
        paths.extend(segments.flatten().map(|segment| segment.path()));
    }
    paths.sort();
    let Some(path) = paths.get(rng.usize(0..paths.len())) else { return };
    let Ok(mut bytes) = std::fs::read(path) else { return };
    // Most of a file is room that is made ahead.
    let written: Vec<usize> = bytes.iter().enumerate().filter(|(_, byte)| **byte != 0).map(|(at, _)| at).collect();
    if let Some(byte) = pick(rng, &written).and_then(|at| bytes.get_mut(at)) {
        *byte ^= 1 << rng.u32(0..8);
    }
    // What cannot be written is not damaged.
    let _ = std::fs::write(path, bytes);
}

/// Whether the group stands on the configuration that was wanted, and on no other any more: a leader in the middle says `InProgress`.
fn is_so(change: MembershipChange, answer: &Result<u64, MembershipError>) -> bool {
    match (change, answer) {
        (_, Ok(_)) => true,
        (MembershipChange::AddLearner(id) | MembershipChange::Promote(id), Err(MembershipError::AlreadyMember(of)))
        | (MembershipChange::Remove(id), Err(MembershipError::NotAMember(of))) => id == *of,
        _ => false,
    }
}
