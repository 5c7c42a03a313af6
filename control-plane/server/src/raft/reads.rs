//! Linearizable reads: one ReadIndex for all that came meanwhile, asked again when an answer may be lost.

use std::collections::BTreeMap;

use postern_state::State;

use super::core::{Core, ReadTicket};
use super::status::ReadError;

/// Looks at the state.
pub type ReadFn = Box<dyn FnOnce(&State) + Send>;
/// Told why it cannot.
pub type ReadFailed = Box<dyn FnOnce(ReadError) + Send>;

/// Requests to the leader that are not answered at a time. More reads wait and share the next one.
const OUTSTANDING: usize = 4;

struct Read {
    read: ReadFn,
    failed: ReadFailed,
    /// In ticks.
    since: u64,
}

struct Asked {
    reads: Vec<Read>,
    /// In ticks.
    at: u64,
}

pub(super) struct Reads {
    waiting: Vec<Read>,
    asked: BTreeMap<ReadTicket, Asked>,
    /// Whom the asked ones were asked of, and in which term.
    of: (Option<u64>, u64),
    /// Ticks without an answer after which it is asked again.
    retry: u64,
    /// Ticks after which a read fails.
    limit: u64,
    count: usize,
}

impl Reads {
    pub(super) const fn new(retry: u64, limit: u64) -> Self {
        Self { waiting: Vec::new(), asked: BTreeMap::new(), of: (None, 0), retry, limit, count: 0 }
    }

    pub(super) const fn len(&self) -> usize {
        self.count
    }

    pub(super) fn push(&mut self, read: ReadFn, failed: ReadFailed, now: u64) {
        self.count = self.count.saturating_add(1);
        self.waiting.push(Read { read, failed, since: now });
    }

    /// Asks for what waits, where there is somebody to ask.
    pub(super) fn ask(&mut self, core: &mut Core, now: u64) {
        let of = (core.leader(), core.term());
        if of != self.of {
            self.of = of;
            self.take_back(core, |_| true);
        }
        let can_ask = if core.is_leader() { core.is_ready_leader() } else { of.0.is_some() };
        if !self.waiting.is_empty() && can_ask && self.asked.len() < OUTSTANDING {
            let reads = std::mem::take(&mut self.waiting);
            self.asked.insert(core.read(), Asked { reads, at: now });
        }
    }

    /// Gives up what waited too long, and asks again for what may be lost.
    pub(super) fn tick(&mut self, core: &mut Core, now: u64) {
        let retry = self.retry;
        self.take_back(core, |asked| now.saturating_sub(asked.at) >= retry);
        let why = if core.leader().is_some() { ReadError::Unavailable } else { ReadError::NotLeader };
        let limit = self.limit;
        for read in self.waiting.extract_if(.., |read| now.saturating_sub(read.since) >= limit) {
            self.count = self.count.saturating_sub(1);
            (read.failed)(why);
        }
    }

    /// Answers what may be answered from the state as it is now.
    pub(super) fn answer(&mut self, core: &mut Core) {
        for ticket in core.take_reads() {
            let Some(asked) = self.asked.remove(&ticket) else { continue };
            self.count = self.count.saturating_sub(asked.reads.len());
            for read in asked.reads {
                (read.read)(core.state());
            }
        }
    }

    /// As [`Reads::fail`], where the node goes on.
    pub(super) fn refuse(&mut self, core: &mut Core, why: ReadError) {
        self.asked.keys().for_each(|ticket| core.drop_read(*ticket));
        self.fail(why);
    }

    pub(super) fn fail(&mut self, why: ReadError) {
        let asked = std::mem::take(&mut self.asked).into_values().flat_map(|asked| asked.reads);
        for read in std::mem::take(&mut self.waiting).into_iter().chain(asked) {
            (read.failed)(why);
        }
        self.count = 0;
    }

    /// Those that have the leader's answer only wait for this node to apply: they stay.
    fn take_back(&mut self, core: &mut Core, lost: impl Fn(&Asked) -> bool) {
        let gone = self.asked.extract_if(.., |ticket, asked| !core.is_answered(*ticket) && lost(asked));
        for (ticket, asked) in gone.collect::<Vec<_>>() {
            core.drop_read(ticket);
            self.waiting.extend(asked.reads);
        }
    }
}
