//! How a run goes: the cluster is born, things go wrong for a while, all is mended, everything must come to rest, and is looked at a last time.

use super::checker::{Answer, Operation, check, explain};
use super::client::Client;
use super::net::Weather;
use super::node::{Fate, Node};
use super::world::{Event, World};
use super::{MS, SECOND, Time, Violation, broken};

/// How long a cluster may take to come to rest once nothing is wrong any more.
const REST: Time = 60 * SECOND;
/// Steps that the search for an order of one register's operations may take.
const SEARCH: u64 = 3_000_000;

/// Where a run is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The cluster is born.
    Birth,
    /// Things go wrong.
    Trouble,
    /// Nothing goes wrong any more, since then.
    Settling(Time),
    /// Every register is read at every member.
    LastLook(Time, Vec<(u64, u64)>),
    /// It is over.
    Over,
}

impl World {
    /// Moves on to the next phase when the time has come.
    pub(super) fn proceed(&mut self) -> Result<(), Violation> {
        let again = 50 * MS;
        match self.phase.clone() {
            Phase::Birth => {
                if self.clients.iter().all(Client::is_idle) {
                    self.begin_trouble();
                } else if self.now > REST {
                    return broken("a cluster is born", "there is none after a minute");
                }
            }
            Phase::Trouble => {}
            Phase::Settling(since) => {
                let why = self.unrest();
                match why {
                    None => self.begin_last_look(),
                    Some(why) if self.now.saturating_sub(since) > REST => {
                        return broken("a cluster comes to rest", why);
                    }
                    Some(_) => {}
                }
            }
            Phase::LastLook(since, left) => self.last_look(since, left)?,
            Phase::Over => return Ok(()),
        }
        if self.phase == Phase::Trouble && self.now >= self.plan.trouble {
            self.mend()?;
        }
        self.at(again, Event::Proceed);
        Ok(())
    }

    fn begin_trouble(&mut self) {
        self.note("the cluster is born");
        self.phase = Phase::Trouble;
        self.plan.trouble = self.plan.trouble.saturating_add(self.now);
        for client in 1..=self.plan.clients {
            self.at(client.saturating_mul(MS), Event::Rested(client));
        }
        self.at(100 * MS, Event::Trouble);
    }

    /// Nothing is wrong any more, and nobody wants anything new.
    fn mend(&mut self) -> Result<(), Violation> {
        self.note("all is mended");
        self.phase = Phase::Settling(self.now);
        self.net.mend();
        self.net.weather = Weather::FAIR;
        self.admin.forget();
        let ids: Vec<u64> = self.nodes.keys().copied().collect();
        for id in ids {
            self.mend_disk(id);
            if let Some(node) = self.nodes.get_mut(&id) {
                node.paused_until = node.paused_until.min(self.now);
            }
            self.start(id)?;
        }
        Ok(())
    }

    /// Those that belong, by the leader.
    fn members(&self) -> Option<(&Node, Vec<&Node>)> {
        let leader = self.nodes.get(&self.leader()?)?;
        let mut members = Vec::new();
        for member in &leader.status.members {
            members.push(self.nodes.get(&member.id)?);
        }
        Some((leader, members))
    }

    /// Why the cluster is not at rest.
    fn unrest(&self) -> Option<String> {
        if let Some(client) = self.clients.iter().find(|client| !client.is_idle()) {
            return Some(format!("client {} has no answer", client.id));
        }
        let Some((leader, members)) = self.members() else { return Some("nobody leads".to_owned()) };
        let end = (leader.status.applied, self.laws.reference().index());
        if leader.status.applied != leader.status.last_index {
            return Some(format!(
                "the leader, node {}, has applied {} of {}",
                leader.id, end.0, leader.status.last_index
            ));
        }
        for node in members.into_iter().filter(|node| node.fate != Fate::Lost) {
            let Some(state) = node.state() else { return Some(format!("node {} is {:?}", node.id, node.fate)) };
            if (node.status.applied, state.index()) != end {
                let (applied, index) = (node.status.applied, state.index());
                return Some(format!("node {} has applied {applied} ({index}), not {end:?}", node.id));
            }
        }
        None
    }

    fn begin_last_look(&mut self) {
        self.note("all is at rest");
        let ids: Vec<u64> = match self.members() {
            Some((_, members)) => members.iter().filter(|node| node.is_up()).map(|node| node.id).collect(),
            None => Vec::new(),
        };
        let keys = self.plan.keys;
        let left = ids.iter().flat_map(|id| (0..keys).map(|key| (*id, key))).collect();
        let id = self.plan.clients.saturating_add(1);
        self.clients.push(Client::new(self.plan.seed, id, keys, 0));
        self.phase = Phase::LastLook(self.now, left);
    }

    fn last_look(&mut self, since: Time, mut left: Vec<(u64, u64)>) -> Result<(), Violation> {
        if self.now.saturating_sub(since) > REST {
            return broken("a cluster at rest answers", format!("{} reads are left", left.len()));
        }
        let now = self.now;
        let Some(client) = self.clients.last_mut().filter(|client| client.is_idle()) else { return Ok(()) };
        let Some((node, key)) = left.pop() else {
            // Packets that were long under way may have stirred it once more.
            return if self.unrest().is_none() { self.judge() } else { Ok(()) };
        };
        client.pinned = Some(node);
        let step = client.read(key, &[node], &mut self.history, now);
        self.phase = Phase::LastLook(since, left);
        self.do_step(self.plan.clients, step);
        Ok(())
    }

    /// The last word.
    fn judge(&mut self) -> Result<(), Violation> {
        self.note("the last look");
        let expected = self.laws.reference().hash();
        if let Some((_, members)) = self.members() {
            for node in members {
                if node.state().is_some_and(|state| state.hash() != expected) {
                    return broken("nodes agree", format!("node {} ends with another state", node.id));
                }
            }
        }
        self.laws.at_the_end(&self.history.acknowledged)?;
        self.history.approvals.at_the_end(self.laws.reference())?;
        for (key, operations) in &self.history.registers {
            // A read without an answer says nothing.
            let said = |operation: &&Operation| {
                operation.answer != Answer::Unknown || operation.action != super::checker::Action::Read
            };
            let operations: Vec<Operation> = operations.iter().filter(said).cloned().collect();
            if let Err(fault) = check(&operations, SEARCH) {
                return broken(
                    "reads and writes are linearizable",
                    format!("key-{key}: {}", explain(&operations, &fault)),
                );
            }
        }
        self.phase = Phase::Over;
        Ok(())
    }
}
