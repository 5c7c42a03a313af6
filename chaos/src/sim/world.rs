//! The queue of events, and what each does.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use fastrand::Rng;
use postern_server::raft::log_store::{SnapshotRecord, StorageError};
use raft::eraftpb::MessageType;
use tempfile::TempDir;

use super::client::{Client, History, Packet, Reply, Step, in_words};
use super::clock::Clock;
use super::faults::Undo;
use super::io::{LogLaw, Output, SharedIo};
use super::laws::Laws;
use super::members::Admin;
use super::net::{Net, client_address};
use super::node::{End, Fate, Input, Node, TICK, making};
use super::plan::Plan;
use super::rng::{chance, stream};
use super::settle::Phase;
use super::trace::Trace;
use super::{MS, SECOND, Time, Violation, broken};

/// Events in one run; more is a run that never ends.
const MOST_EVENTS: u64 = 5_000_000;

/// What happens.
pub enum Event {
    /// A node's clock strikes.
    Tick(u64, u64),
    /// A node takes what has come.
    Turn(u64, u64),
    /// What a node did comes about.
    Output(u64, u64, Box<Output>),
    /// A node's life ends: its own doing.
    Ended(u64, u64, Fate),
    /// A packet arrives at a node.
    Arrive(u64, Input),
    /// A snapshot is made.
    Made(u64, u64, Box<Result<SnapshotRecord, StorageError>>),
    /// A node is started again.
    Start(u64),
    /// A client asks.
    Ask(u64, u64, Box<Packet>),
    /// An answer arrives at a client.
    Hear(u64, u64, Box<Reply>),
    /// A client looks at what it waits for.
    Remind {
        /// Which.
        client: u64,
        /// Its question.
        question: u64,
        /// How often it had asked it.
        attempts: u64,
    },
    /// A client has rested.
    Rested(u64),
    /// Something goes wrong.
    Trouble,
    /// A fault ends.
    Undo(Undo),
    /// Whoever changes the members looks after it.
    Administer,
    /// A node that was removed hears that those who stay know it.
    Tell(u64),
    /// The run moves on, if it can.
    Proceed,
}

/// One run.
pub struct World {
    /// What the seed stands for.
    pub plan: Plan,
    /// Virtual time.
    pub now: Time,
    /// The nodes, by id.
    pub nodes: BTreeMap<u64, Node>,
    /// What is between them.
    pub net: Net,
    /// What happened.
    pub trace: Trace,
    /// What must hold.
    pub laws: Laws,
    /// What clients asked and were told.
    pub history: History,
    pub(super) clients: Vec<Client>,
    pub(super) phase: Phase,
    pub(super) admin: Admin,
    pub(super) faults: Rng,
    pub(super) lives: u64,
    rng: Rng,
    log_law: Arc<Mutex<LogLaw>>,
    queue: BTreeMap<(Time, u64), Event>,
    events: u64,
    files: Option<TempDir>,
}

impl World {
    /// Before anything has happened.
    ///
    /// # Errors
    /// When the founders do not start.
    pub fn new(plan: Plan, loud: bool) -> Result<Self, Violation> {
        let files = match plan.files.then(tempfile::tempdir).transpose() {
            Ok(files) => files,
            Err(error) => return broken("the machine has room for files", error.to_string()),
        };
        let clients = (1..=plan.clients).map(|id| Client::new(plan.seed, id, plan.keys, plan.padding)).collect();
        let mut world = Self {
            now: 0,
            nodes: BTreeMap::new(),
            net: Net::new(plan.seed, plan.ordered),
            trace: Trace::new(loud),
            laws: Laws::default(),
            history: History::default(),
            clients,
            phase: Phase::Birth,
            admin: Admin::new(plan.founders),
            faults: stream(plan.seed, "faults"),
            lives: 0,
            rng: stream(plan.seed, "world"),
            log_law: Arc::default(),
            queue: BTreeMap::new(),
            events: 0,
            files,
            plan,
        };
        for id in 1..=world.plan.founders {
            world.add_node(id);
            world.start(id)?;
        }
        let ids = world.ids();
        let step = world.clients.first_mut().map_or(Step::Nothing, |client| client.found(&ids, 0));
        world.do_step(0, step);
        world.at(0, Event::Proceed);
        Ok(world)
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// The first violation of a law.
    pub fn run(&mut self) -> Result<(), Violation> {
        while self.phase != Phase::Over {
            let Some(((at, _), event)) = self.queue.pop_first() else {
                return broken("the run ends", "nothing happens any more");
            };
            self.now = at;
            if self.queue.len() > 200_000 || self.events > MOST_EVENTS {
                return broken("the run ends", format!("{} events, {} wait", self.events, self.queue.len()));
            }
            self.happen(event)?;
            let law = self.log_law.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(how) = law.broken() {
                return broken("log matching", how.clone());
            }
        }
        Ok(())
    }

    /// `event` will happen in `after`.
    pub(super) fn at(&mut self, after: Time, event: Event) {
        self.events = self.events.saturating_add(1);
        self.queue.insert((self.now.saturating_add(after), self.events), event);
    }

    pub(super) fn note(&mut self, what: &str) {
        self.trace.add(self.now, what);
    }

    /// All nodes that there ever were and that clients may ask.
    pub(super) fn ids(&self) -> Vec<u64> {
        self.nodes.values().filter(|node| node.fate != Fate::Lost).map(|node| node.id).collect()
    }

    pub(super) fn add_node(&mut self, id: u64) {
        let rng = stream(self.plan.seed, &format!("node {id}"));
        let drift = i64::try_from(self.rng.u64(0..=self.plan.drift.saturating_mul(2))).unwrap_or(0);
        let clock = Clock::new(drift.saturating_sub(i64::try_from(self.plan.drift).unwrap_or(0)));
        let mut node = Node::new(id, SharedIo::new(id, rng, Arc::clone(&self.log_law)), clock);
        node.files = self.files.as_ref().map(|files| files.path().join(id.to_string()));
        self.nodes.insert(id, node);
    }

    /// Starts a node that is down.
    pub(super) fn start(&mut self, id: u64) -> Result<(), Violation> {
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.fate == Fate::Down) else { return Ok(()) };
        self.lives = self.lives.saturating_add(1);
        let patience = self.rng.usize(0..10);
        let config = self.plan.node(id, self.lives, patience);
        self.laws.began(id);
        node.io.get().disk.full = false;
        node.start(&config, self.now)?;
        node.awake = true;
        let life = node.life;
        self.note(&format!("node {id} starts, life {life}"));
        self.deliver(id, life);
        self.at(0, Event::Turn(id, life));
        let first = self.rng.u64(0..50 * MS);
        self.at(first, Event::Tick(id, life));
        Ok(())
    }

    /// A node's life ends without notice. `power`: what it had not flushed is lost.
    pub(super) fn crash(&mut self, id: u64, power: bool, fate: Fate) {
        let now = self.now;
        let files = self.files.as_ref().map(|files| files.path().join(format!("{id}-{}", self.events)));
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.is_up()) else { return };
        // As a killed process leaves them: closing them would tidy up.
        if let (Some(from), Some(to)) = (&node.files, &files)
            && copy_dir(from, to).is_ok()
        {
            node.files = Some(to.clone());
        }
        node.stop(fate);
        // Real files cannot lose what they were given: there, processes are killed.
        if power && node.files.is_none() {
            node.io.get().crash(now);
        } else {
            node.io.get().disk.kill();
        }
        self.note(&format!("node {id} {}", if power { "loses its power" } else { "is killed" }));
    }

    fn happen(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Tick(id, life) => self.tick(id, life),
            Event::Turn(id, life) => self.turn(id, life)?,
            Event::Output(id, life, output) => self.output(id, life, *output)?,
            Event::Ended(id, life, fate) => self.ended(id, life, fate),
            Event::Arrive(id, input) => self.arrive(id, input),
            Event::Made(id, life, snapshot) => {
                if self.nodes.get(&id).is_some_and(|node| node.life == life) {
                    self.arrive(id, Input::Made(snapshot));
                }
            }
            Event::Start(id) => self.start(id)?,
            Event::Ask(client, node, packet) => {
                self.note(&format!("client {client} asks node {node}: {}", in_words(&packet.request)));
                self.route(client_address(client), node, &|| Input::Ask(packet.clone()));
            }
            Event::Hear(client, question, reply) => self.hear(client, question, &reply)?,
            Event::Remind { client, question, attempts } => {
                let (ids, now) = (self.ids(), self.now);
                let step =
                    self.client(client).map_or(Step::Nothing, |client| client.remind(question, attempts, &ids, now));
                self.do_step(client.saturating_sub(1), step);
            }
            Event::Rested(client) => self.rested(client),
            Event::Trouble => self.trouble()?,
            Event::Undo(undo) => self.undo(undo),
            Event::Administer => self.administer()?,
            Event::Tell(id) => self.tell(id),
            Event::Proceed => self.proceed()?,
        }
        Ok(())
    }

    fn tick(&mut self, id: u64, life: u64) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.life == life && node.is_up()) else { return };
        let next = node.clock.stretch(TICK);
        // A process that stands still misses the strokes of its clock.
        if node.paused_until <= now {
            self.arrive(id, Input::Tick);
        }
        self.at(next, Event::Tick(id, life));
    }

    /// Something comes to a node.
    pub(super) fn arrive(&mut self, id: u64, input: Input) {
        let (now, hurry) = (self.now, self.rng.u64(1..500));
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if node.give(input) && !node.awake {
            node.awake = true;
            let (life, free) = (node.life, node.busy_until.max(node.paused_until).saturating_sub(now));
            self.at(free.max(hurry), Event::Turn(id, life));
        }
    }

    fn turn(&mut self, id: u64, life: u64) -> Result<(), Violation> {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.life == life && node.is_up()) else {
            return Ok(());
        };
        if node.paused_until > now {
            let rest = node.paused_until.saturating_sub(now);
            self.at(rest, Event::Turn(id, life));
            return Ok(());
        }
        node.awake = false;
        let was = (node.status.leading, node.status.term);
        let (job, end) = node.turn(now)?;
        let (status, busy) = (node.status.clone(), node.busy_until.saturating_sub(now));
        self.deliver(id, life);
        if status.leader == id {
            self.laws.leads(id, status.term)?;
        }
        if (status.leading, status.term) != was {
            let (term, leader) = (status.term, status.leader);
            self.note(&format!(
                "node {id} is in term {term}, leader {leader}{}",
                if status.leading { ", leads" } else { "" }
            ));
        }
        if let Some(job) = job {
            let snapshot = job.run();
            let bytes = snapshot.as_ref().map_or(0, |snapshot| u64::try_from(snapshot.data.len()).unwrap_or(0));
            self.at(busy.saturating_add(making(bytes)), Event::Made(id, life, Box::new(snapshot)));
        }
        match end {
            Some(End::Removed) => self.at(busy, Event::Ended(id, life, Fate::Removed)),
            Some(End::Full) => self.at(busy, Event::Ended(id, life, Fate::Down)),
            None => {}
        }
        Ok(())
    }

    /// What a node did in its turn comes about when its time has come.
    fn deliver(&mut self, id: u64, life: u64) {
        let Some(node) = self.nodes.get(&id) else { return };
        let outputs = std::mem::take(&mut node.io.get().outputs);
        for (after, output) in outputs {
            self.at(after, Event::Output(id, life, Box::new(output)));
        }
    }

    pub(super) fn ended(&mut self, id: u64, life: u64, fate: Fate) {
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.life == life) else { return };
        node.stop(fate);
        node.io.get().disk.kill();
        self.note(&format!("node {id} has stopped: {fate:?}"));
        if fate == Fate::Down {
            let after = self.rng.u64(100 * MS..3 * SECOND);
            self.at(after, Event::Start(id));
        }
    }

    fn output(&mut self, id: u64, life: u64, output: Output) -> Result<(), Violation> {
        let now = self.now;
        let Some(node) = self.nodes.get(&id).filter(|node| node.life == life) else { return Ok(()) };
        // It has crashed before it came to that.
        if node.fate != Fate::Up {
            return Ok(());
        }
        if node.paused_until > now {
            let rest = node.paused_until.saturating_sub(now);
            self.at(rest, Event::Output(id, life, Box::new(output)));
            return Ok(());
        }
        match output {
            Output::Raft { to, bytes, kind, term, text } => self.send(id, to, bytes, (kind, term, &text))?,
            Output::SnapshotGone(to) => self.at(MS, Event::Arrive(id, Input::SnapshotSent { to, ok: false })),
            Output::Applied(entry) => {
                self.note(&format!("node {id} applies {}", entry.index));
                self.laws.applied(id, &entry)?;
            }
            Output::Restored { index, hash } => {
                self.note(&format!("node {id} has the state at {index}"));
                self.laws.restored(id, index, hash)?;
            }
            Output::Answer { asked, reply } => self.answer(id, *asked, *reply),
            Output::Membership(change, answer) => self.membership_answer(id, change, &answer),
        }
        Ok(())
    }

    fn send(
        &mut self,
        from: u64,
        to: u64,
        bytes: Vec<u8>,
        (kind, term, text): (MessageType, u64, &str),
    ) -> Result<(), Violation> {
        if matches!(kind, MessageType::MsgAppend | MessageType::MsgHeartbeat | MessageType::MsgSnapshot) {
            self.laws.leads(from, term)?;
        }
        self.note(&format!("{from} -> {to} {kind:?} {text}"));
        let arrivals = self.net.route(self.now, from, to);
        let arrived = arrivals.first().map(|at| at.saturating_sub(self.now));
        for at in arrivals {
            self.at(at.saturating_sub(self.now), Event::Arrive(to, Input::Raft(bytes.clone())));
        }
        if kind == MessageType::MsgSnapshot {
            let (after, ok) = arrived.map_or((200 * MS, false), |after| (after, true));
            let there = self.nodes.get(&to).is_some_and(Node::is_up);
            self.at(after, Event::Arrive(from, Input::SnapshotSent { to, ok: ok && there }));
        } else if arrived.is_none() && chance(&mut self.rng, 100) {
            self.at(10 * MS, Event::Arrive(from, Input::Unreachable(to)));
        }
        Ok(())
    }

    /// Sends to a node.
    fn route(&mut self, from: u64, to: u64, input: &dyn Fn() -> Input) {
        for at in self.net.route(self.now, from, to) {
            self.at(at.saturating_sub(self.now), Event::Arrive(to, input()));
        }
    }

    /// A node answers, or sends the question on to the leader.
    fn answer(&mut self, id: u64, asked: Packet, reply: Reply) {
        if let Reply::Write(Err(postern_server::raft::ProposeError::NotLeader { leader: Some(leader) })) = &reply
            && !asked.forwarded
            && *leader != id
        {
            let packet = Box::new(Packet { forwarded: true, ..asked });
            self.route(id, *leader, &|| Input::Ask(packet.clone()));
            return;
        }
        let (client, question) = (asked.client, asked.question);
        for at in self.net.route(self.now, id, client_address(client)) {
            self.at(at.saturating_sub(self.now), Event::Hear(client, question, Box::new(reply.clone())));
        }
    }

    fn client(&mut self, id: u64) -> Option<&mut Client> {
        self.clients.get_mut(usize::try_from(id.saturating_sub(1)).ok()?)
    }

    fn hear(&mut self, client: u64, question: u64, reply: &Reply) -> Result<(), Violation> {
        self.note(&format!("client {client} hears of {question}: {reply:?}"));
        let (ids, now) = (self.ids(), self.now);
        let mut history = std::mem::take(&mut self.history);
        let step = self.client(client).map_or(Ok(Step::Nothing), |c| c.hear(question, reply, &ids, &mut history, now));
        self.history = history;
        self.do_step(client.saturating_sub(1), step?);
        Ok(())
    }

    /// A client has nothing to wait for.
    fn rested(&mut self, client: u64) {
        if self.phase != Phase::Trouble {
            return;
        }
        let (ids, now) = (self.ids(), self.now);
        let mut history = std::mem::take(&mut self.history);
        let step = match self.client(client) {
            Some(client) if client.is_idle() => client.begin(&ids, &mut history, now),
            _ => Step::Nothing,
        };
        self.history = history;
        self.do_step(client.saturating_sub(1), step);
    }

    /// Does what the client at `place` wants.
    pub(super) fn do_step(&mut self, place: u64, step: Step) {
        let client = place.saturating_add(1);
        match step {
            Step::Ask { node, packet, after, timeout } => {
                let question = packet.question;
                let attempts = self.client(client).map_or(0, |client| client.attempts());
                self.at(after, Event::Ask(client, node, packet));
                self.at(after.saturating_add(timeout), Event::Remind { client, question, attempts });
            }
            Step::Rest(time) => self.at(time, Event::Rested(client)),
            Step::Nothing => {}
        }
    }
}

/// All of `from`, as it is now.
fn copy_dir(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_dir(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
