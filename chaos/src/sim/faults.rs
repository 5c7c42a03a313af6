//! What goes wrong, and how it ends again.

use super::net::{Weather, client_address};
use super::node::Fate;
use super::plan::Fault;
use super::rng::{chance, pick};
use super::settle::Phase;
use super::world::{Event, World};
use super::{MS, SECOND, Time, Violation};

const HOUR: u64 = 3_600_000;

/// The end of a fault.
pub enum Undo {
    /// Cuts are mended.
    Mend,
    /// Fair weather.
    Calm,
    /// A node's disk is quick, and has room.
    Disk(u64),
}

impl World {
    /// Something goes wrong.
    ///
    /// # Errors
    /// When it breaks a law at once.
    pub(super) fn trouble(&mut self) -> Result<(), Violation> {
        if self.phase != Phase::Trouble {
            return Ok(());
        }
        let next = self.faults.u64(10 * MS..self.plan.calm.saturating_mul(2).max(20 * MS));
        self.at(next, Event::Trouble);
        let Some(fault) = pick(&mut self.faults, &self.plan.faults) else { return Ok(()) };
        match fault {
            Fault::Crash => self.crash_one(),
            Fault::Blackout => self.blackout(),
            Fault::Pause => self.pause(),
            Fault::Partition => self.partition(),
            Fault::OneWay => self.one_way(),
            Fault::IsolateLeader => self.isolate_leader(),
            Fault::Storm => self.storm(),
            Fault::SlowDisk => self.slow_disk(),
            Fault::FullDisk => self.full_disk(),
            Fault::ClockJump => self.clock_jump(),
            Fault::Join => self.join(),
            Fault::Leave => self.leave(),
            Fault::LoseDisk => self.lose_disk(),
            Fault::Damage => self.damage()?,
            Fault::Transfer => self.transfer(),
        }
        Ok(())
    }

    /// A fault ends.
    pub(super) fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Mend => {
                self.note("the network is whole");
                self.net.mend();
            }
            Undo::Calm => {
                self.note("the weather is fair");
                self.net.weather = Weather::FAIR;
            }
            Undo::Disk(id) => self.mend_disk(id),
        }
    }

    pub(super) fn mend_disk(&mut self, id: u64) {
        if let Some(node) = self.nodes.get(&id) {
            let mut io = node.io.get();
            io.flush = (50, MS);
            io.disk.full = false;
        }
    }

    /// The leader of the newest term that is there.
    pub(super) fn leader(&self) -> Option<u64> {
        let leading = self.nodes.values().filter(|node| node.is_up() && node.status.leading);
        leading.max_by_key(|node| node.status.term).map(|node| node.id)
    }

    fn up(&self) -> Vec<u64> {
        self.nodes.values().filter(|node| node.is_up()).map(|node| node.id).collect()
    }

    fn one(&mut self) -> Option<u64> {
        // The leader is the most interesting.
        let leader = self.leader().filter(|_| chance(&mut self.faults, 300));
        let up = self.up();
        leader.or_else(|| pick(&mut self.faults, &up))
    }

    fn crash_one(&mut self) {
        let Some(id) = self.one() else { return };
        let (power, back) = (chance(&mut self.faults, 700), self.faults.u64(20 * MS..3 * SECOND));
        self.crash(id, power, Fate::Down);
        self.at(back, Event::Start(id));
    }

    fn blackout(&mut self) {
        for id in self.up() {
            let back = self.faults.u64(50 * MS..2 * SECOND);
            self.crash(id, true, Fate::Down);
            self.at(back, Event::Start(id));
        }
    }

    fn pause(&mut self) {
        let Some(id) = self.one() else { return };
        let until = self.now.saturating_add(self.faults.u64(50 * MS..3 * SECOND));
        if let Some(node) = self.nodes.get_mut(&id) {
            node.paused_until = until;
        }
        self.note(&format!("node {id} stands still"));
    }

    fn mend_later(&mut self) {
        let after = self.faults.u64(200 * MS..4 * SECOND);
        self.at(after, Event::Undo(Undo::Mend));
    }

    fn partition(&mut self) {
        let mut everybody: Vec<u64> = self.nodes.keys().copied().collect();
        everybody.extend((1..=self.plan.clients).map(client_address));
        self.faults.shuffle(&mut everybody);
        let at = self.faults.usize(1..everybody.len().max(2));
        let (one, other) = everybody.split_at(at.min(everybody.len()));
        self.net.part(one, other);
        self.note(&format!("the network falls apart: {one:?} | {other:?}"));
        self.mend_later();
    }

    fn one_way(&mut self) {
        let Some(id) = self.one() else { return };
        let out = self.faults.bool();
        for other in self.nodes.keys().copied().filter(|other| *other != id) {
            if chance(&mut self.faults, 700) {
                let (from, to) = if out { (id, other) } else { (other, id) };
                self.net.cut(from, to);
            }
        }
        self.note(&format!("node {id} is {} by some", if out { "not heard" } else { "not spoken to" }));
        self.mend_later();
    }

    fn isolate_leader(&mut self) {
        let Some(leader) = self.leader() else { return };
        let others: Vec<u64> = self.nodes.keys().copied().filter(|id| *id != leader).collect();
        self.net.part(&[leader], &others);
        self.note(&format!("the leader, node {leader}, is cut off"));
        self.mend_later();
    }

    fn storm(&mut self) {
        let rng = &mut self.faults;
        self.net.weather = Weather {
            loss: rng.u64(0..300),
            duplicates: rng.u64(0..200),
            stragglers: rng.u64(0..100),
            least: rng.u64(0..5 * MS),
            most: rng.u64(5 * MS..200 * MS),
        };
        self.note(&format!("a storm: {:?}", self.net.weather));
        let after = self.faults.u64(300 * MS..4 * SECOND);
        self.at(after, Event::Undo(Undo::Calm));
    }

    fn slow_disk(&mut self) {
        let Some(id) = self.one() else { return };
        let most: Time = self.faults.u64(5 * MS..300 * MS);
        if let Some(node) = self.nodes.get(&id) {
            node.io.get().flush = (most / 4, most);
        }
        self.note(&format!("node {id} flushes slowly, in up to {} ms", most / MS));
        let after = self.faults.u64(300 * MS..4 * SECOND);
        self.at(after, Event::Undo(Undo::Disk(id)));
    }

    fn full_disk(&mut self) {
        let Some(id) = self.one() else { return };
        if let Some(node) = self.nodes.get(&id) {
            node.io.get().disk.full = true;
        }
        self.note(&format!("node {id} has a full disk"));
        let after = self.faults.u64(300 * MS..4 * SECOND);
        self.at(after, Event::Undo(Undo::Disk(id)));
    }

    fn clock_jump(&mut self) {
        let Some(id) = self.one() else { return };
        let by = i64::try_from(self.faults.u64(1_000..3 * HOUR)).unwrap_or(0);
        let by = if self.faults.bool() { by } else { by.saturating_neg() };
        if let Some(node) = self.nodes.get_mut(&id) {
            node.clock.jump(by);
        }
        self.note(&format!("node {id}'s clock is set by {by} ms"));
    }
}
