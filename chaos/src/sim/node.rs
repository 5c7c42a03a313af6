//! One node: a real replica, while it lives, and what it stands on.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use postern_core::Timestamp;
use postern_core::resource::{Kind, Spec};
use postern_server::raft::log_store::{LogStore as _, SnapshotRecord, StorageError};
use postern_server::raft::{DriverError, MembershipChange, NodeConfig, Proposal, Replica, SnapshotJob, Status};
use postern_state::{Command, State};
use raft::eraftpb::Message;
use raft_prost::Message as _;

use super::client::{Packet, Reply, Request, key_name, value_of};
use super::clock::Clock;
use super::io::{Output, SharedIo, SimLog, SimObserver, SimTransport};
use super::{MS, Time, Violation, broken};

/// How long a tick is, by the node's own clock.
pub const TICK: Duration = Duration::from_millis(50);
/// What may wait for a node, as for the real driver.
const MAILBOX: usize = 4_096;

/// What comes to a node.
pub enum Input {
    /// Its own clock.
    Tick,
    /// A peer's message, in its wire form.
    Raft(Vec<u8>),
    /// A client's question.
    Ask(Box<Packet>),
    /// What came of sending a snapshot.
    SnapshotSent {
        /// To whom.
        to: u64,
        /// Whether it arrived.
        ok: bool,
    },
    /// A peer cannot be reached.
    Unreachable(u64),
    /// Who belongs to the group shall change.
    ChangeMembership(MembershipChange, bool),
    /// Another shall lead.
    Transfer(u64),
    /// A snapshot that was in the making.
    Made(Box<Result<SnapshotRecord, StorageError>>),
}

/// How a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It runs, or is paused.
    Up,
    /// It is down, and will be started again.
    Down,
    /// The group has removed it, and it has stopped.
    Removed,
    /// Its disk is gone, and so is the node: it may only come back as another.
    Lost,
}

/// See the module.
pub struct Node {
    /// Its id in the group.
    pub id: u64,
    /// What it stands on.
    pub io: SharedIo,
    /// Its idea of the time.
    pub clock: Clock,
    /// How it is.
    pub fate: Fate,
    /// Which of its lives this is.
    pub life: u64,
    /// Nothing happens before.
    pub paused_until: Time,
    /// It is at work until then.
    pub busy_until: Time,
    /// Whether a turn is due.
    pub awake: bool,
    /// As it was after its last turn.
    pub status: Status,
    /// Where its real files are, in runs that have them.
    pub files: Option<PathBuf>,
    replica: Option<Replica<SimLog, SimTransport, SimObserver>>,
    inbox: VecDeque<Input>,
}

/// Why a turn was the last one.
pub enum End {
    /// The group has removed the node.
    Removed,
    /// Its disk is full.
    Full,
}

impl Node {
    /// One that was never started.
    #[must_use]
    pub fn new(id: u64, io: SharedIo, clock: Clock) -> Self {
        Self {
            id,
            io,
            clock,
            fate: Fate::Down,
            life: 0,
            paused_until: 0,
            busy_until: 0,
            awake: false,
            status: Status::default(),
            files: None,
            replica: None,
            inbox: VecDeque::new(),
        }
    }

    /// Starts it from what is on its disk.
    ///
    /// # Errors
    /// When it refuses to.
    pub fn start(&mut self, config: &NodeConfig, now: Time) -> Result<(), Violation> {
        match self.try_start(config, now) {
            Ok(()) => Ok(()),
            Err(error) => broken("a node starts from its own disk", format!("node {}: {error}", self.id)),
        }
    }

    /// Starts it, where it may refuse to.
    ///
    /// # Errors
    /// Why it does.
    pub fn try_start(&mut self, config: &NodeConfig, now: Time) -> Result<(), DriverError> {
        self.life = config.nonce;
        self.fate = Fate::Up;
        (self.paused_until, self.busy_until, self.awake) = (0, 0, false);
        self.inbox.clear();
        {
            let mut io = self.io.get();
            (io.now, io.elapsed) = (now, 0);
            io.outputs.clear();
        }
        let replica =
            SimLog::open(self.io.clone(), self.files.as_ref()).map_err(DriverError::from).and_then(|log| {
                let transport = SimTransport { io: self.io.clone(), snapshots: log.snapshots() };
                Replica::new(config, log, transport, SimObserver(self.io.clone()))
            })?;
        self.status = replica.status();
        self.replica = Some(replica);
        Ok(())
    }

    /// Ends it without notice.
    pub fn stop(&mut self, fate: Fate) {
        self.fate = fate;
        self.replica = None;
        self.inbox.clear();
        self.status = Status { id: self.id, ..Status::default() };
    }

    /// Puts `input` before it; `false` when it is not there to take it, or has too much before it already.
    pub fn give(&mut self, input: Input) -> bool {
        // A clock that has struck is not kept for later.
        let is_tick = matches!(input, Input::Tick);
        let struck = is_tick && self.inbox.iter().any(|waiting| matches!(waiting, Input::Tick));
        if self.replica.is_none() || struck || (self.inbox.len() >= MAILBOX && !is_tick) {
            return false;
        }
        self.inbox.push_back(input);
        true
    }

    /// Whether it is there.
    #[must_use]
    pub const fn is_up(&self) -> bool {
        self.replica.is_some()
    }

    /// The state as far as it is applied.
    #[must_use]
    pub fn state(&self) -> Option<&State> {
        self.replica.as_ref().map(Replica::read_local)
    }

    /// Takes all that has come, and settles. What came of it stands in its io. Gives a snapshot that is to be made.
    ///
    /// # Errors
    /// When it comes to an end that it must not come to.
    pub fn turn(&mut self, now: Time) -> Result<(Option<SnapshotJob>, Option<End>), Violation> {
        let Some(mut replica) = self.replica.take() else { return Ok((None, None)) };
        {
            let mut io = self.io.get();
            (io.now, io.elapsed) = (now, 0);
        }
        let wall = self.clock.read(now);
        let mut ended = None;
        while let Some(input) = self.inbox.pop_front() {
            if let Err(error) = take(&mut replica, &self.io, wall, input) {
                ended = Some(error);
                break;
            }
        }
        let ended = match ended {
            Some(error) => Some(error),
            None => replica.settle().err(),
        };
        // Some lives tell at once what is committed, others leave it to the next write or tick.
        let ended = match ended {
            None if self.life.is_multiple_of(2) => {
                replica.tell_commit();
                replica.settle().err()
            }
            ended => ended,
        };
        self.status = replica.status();
        let job = replica.take_compaction();
        self.busy_until = now.saturating_add(self.io.get().elapsed);
        let end = match ended {
            None => None,
            Some(DriverError::Removed) => Some(End::Removed),
            Some(DriverError::Storage(_)) if self.io.get().disk.full => Some(End::Full),
            Some(error) => return broken("a node goes on", format!("node {}: {error}", self.id)),
        };
        if end.is_none() {
            self.replica = Some(replica);
        }
        Ok((job, end))
    }
}

fn take(
    replica: &mut Replica<SimLog, SimTransport, SimObserver>,
    io: &SharedIo,
    wall: Timestamp,
    input: Input,
) -> Result<(), DriverError> {
    match input {
        Input::Tick => replica.tick(wall),
        Input::Raft(bytes) => {
            // Encoded by a node of this simulation.
            if let Ok(message) = Message::decode(bytes.as_slice()) {
                replica.step(message)?;
            }
        }
        Input::Ask(packet) => ask(replica, io, wall, *packet),
        Input::SnapshotSent { to, ok } => replica.report_snapshot(to, ok),
        Input::Unreachable(id) => replica.report_unreachable(id),
        Input::ChangeMembership(change, force) => {
            let io = io.clone();
            replica.change_membership(
                change,
                force,
                Box::new(move |answer| io.put(Output::Membership(Some(change), answer))),
            );
        }
        Input::Transfer(to) => {
            let io = io.clone();
            replica.transfer_leader(to, Box::new(move |answer| io.put(Output::Membership(None, answer))));
        }
        Input::Made(snapshot) => replica.compacted(*snapshot)?,
    }
    Ok(())
}

fn ask(replica: &mut Replica<SimLog, SimTransport, SimObserver>, io: &SharedIo, wall: Timestamp, packet: Packet) {
    let answer = {
        let (io, asked) = (io.clone(), packet.clone());
        move |reply: Reply| io.put(Output::Answer { asked: Box::new(asked), reply: Box::new(reply) })
    };
    match packet.request {
        Request::Write { command, request_id } => {
            // Encoded by a client of this simulation.
            let Ok(command) = Command::decode(&command) else { return };
            let proposal = Proposal { command, request_id: Some(request_id), audit: None };
            replica.propose(proposal, wall, Box::new(move |outcome| answer(Reply::Write(outcome))));
        }
        Request::Read { key } => {
            let name = key_name(key);
            let read = {
                let answer = answer.clone();
                move |state: &State| {
                    let resource = state.resource(Kind::Secret, &name);
                    let seen = resource.and_then(|resource| match &resource.spec {
                        Spec::Secret(sealed) => Some((value_of(sealed)?, resource.metadata.revision)),
                        _ => None,
                    });
                    answer(Reply::Read(Ok(seen)));
                }
            };
            replica.read(Box::new(read), Box::new(move |error| answer(Reply::Read(Err(error)))));
        }
    }
}

/// How long a snapshot is in the making.
#[must_use]
pub const fn making(bytes: u64) -> Time {
    MS.saturating_add(bytes)
}
