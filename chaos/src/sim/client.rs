//! Clients: each asks one thing at a time of any node, and asks again, under the same request id, until there is an answer or its patience
//! ends. What it asked and was told is the history that the checker judges.

use std::collections::BTreeMap;

use fastrand::Rng;
use postern_core::resource::{ANY_REVISION, Kind, Metadata, Resource, Spec};
use postern_core::secret::Sealed;
use postern_core::{Name, RequestId, Timestamp};
use postern_server::raft::{ProposeError, ReadError};
use postern_state::commands::{DeleteResource, InitCluster, PutResources};
use postern_state::{Change, Cluster, Command, Outcome, Refusal, Success};

use super::approvals::{Approvals, Ask};
use super::checker::{Action, Answer, Operation};
use super::rng::{chance, pick, stream};
use super::{MS, SECOND, Time, Violation, broken};

/// A question on its way to a node, or back to its client.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Whose.
    pub client: u64,
    /// Which of its questions.
    pub question: u64,
    /// Whether a node that does not lead has sent it on to the one that does.
    pub forwarded: bool,
    /// What is asked.
    pub request: Request,
}

/// What is asked of a node.
#[derive(Clone, Debug)]
pub enum Request {
    /// A write.
    Write {
        /// The command, in its wire form.
        command: Vec<u8>,
        /// The same in every attempt.
        request_id: RequestId,
    },
    /// A linearizable read.
    Read {
        /// Of which register.
        key: u64,
    },
}

/// What a node says.
#[derive(Clone, Debug)]
pub enum Reply {
    /// To a write.
    Write(Result<Outcome, ProposeError>),
    /// To a read: the value and its revision.
    Read(Result<Option<(u64, u64)>, ReadError>),
}

/// What a question is about.
#[derive(Clone, Copy, Debug)]
enum Subject {
    /// The cluster's birth.
    Birth,
    /// A register; and where in its history this stands.
    Register { key: u64, place: usize, action: Action },
    /// An approval.
    Approval(Ask),
}

/// What a client waits for.
#[derive(Clone, Debug)]
struct Waiting {
    question: u64,
    subject: Subject,
    request: Request,
    since: Time,
    attempts: u64,
}

/// What a client wants next.
#[derive(Debug)]
pub enum Step {
    /// To ask.
    Ask {
        /// Whom.
        node: u64,
        /// What.
        packet: Box<Packet>,
        /// In so long.
        after: Time,
        /// To be reminded when so much time has passed since.
        timeout: Time,
    },
    /// To be left alone for so long.
    Rest(Time),
    /// Nothing: it is answered, or the answer is not to what it asks now.
    Nothing,
}

/// A write that was acknowledged, and where it must stand in the log.
#[derive(Clone, Copy, Debug)]
pub struct Acknowledged {
    /// Under which request id.
    pub request_id: RequestId,
    /// At which index.
    pub revision: u64,
}

/// The history of all clients.
#[derive(Default)]
pub struct History {
    moment: u64,
    /// By register.
    pub registers: BTreeMap<u64, Vec<Operation>>,
    /// Writes that were acknowledged as done.
    pub acknowledged: Vec<Acknowledged>,
    /// And approvals.
    pub approvals: Approvals,
    next_value: u64,
}

/// See the module.
pub struct Client {
    /// Its number.
    pub id: u64,
    rng: Rng,
    keys: u64,
    /// Bytes that some values carry along, at most.
    padding: u64,
    /// What it last saw of each register: the value and its revision.
    seen: BTreeMap<u64, Option<(u64, u64)>>,
    waiting: Option<Waiting>,
    asked: u64,
    /// Who led, as far as it knows.
    leader: Option<u64>,
    patience: Time,
    /// Whom it asks, where it may not choose.
    pub pinned: Option<u64>,
}

/// The name of register `key`.
#[must_use]
pub fn key_name(key: u64) -> Name {
    let mut text = String::from("key-");
    text.push_str(&key.to_string());
    // Lower-case letters, a dash and digits: always a name.
    text.parse().unwrap_or_else(|_| unreachable!("{text} is a name"))
}

/// The value that a register's object stands for.
#[must_use]
pub fn value_of(sealed: &Sealed) -> Option<u64> {
    sealed.ciphertext.first_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes))
}

fn sealed(value: u64, padding: usize) -> Sealed {
    let mut ciphertext = value.to_be_bytes().to_vec();
    ciphertext.resize(ciphertext.len().saturating_add(padding), 0);
    Sealed { kek_id: "k".to_owned(), wrapped_key: vec![1], nonce: vec![2], ciphertext }
}

fn put(key: u64, value: u64, padding: usize, revision: u64) -> Command {
    let metadata = Metadata {
        name: key_name(key),
        labels: BTreeMap::new(),
        revision,
        created_at: Timestamp::default(),
        updated_at: Timestamp::default(),
    };
    PutResources { resources: vec![Resource { metadata, spec: Spec::Secret(sealed(value, padding)) }] }.into()
}

fn birth() -> Command {
    InitCluster(Cluster {
        id: "simulated".to_owned(),
        incarnation: "first".to_owned(),
        ca_pem: String::new(),
        ca_key: sealed(0, 0),
        session_token_jwks: "{}".to_owned(),
        signing_keys: Vec::new(),
        session_token_key: sealed(0, 0),
        mask_key: sealed(0, 0),
        recording_keys: Vec::new(),
    })
    .into()
}

impl History {
    fn next_moment(&mut self) -> u64 {
        self.moment = self.moment.saturating_add(1);
        self.moment
    }

    fn call(&mut self, client: u64, key: u64, action: Action) -> usize {
        let called = self.next_moment();
        let operations = self.registers.entry(key).or_default();
        operations.push(Operation { client, action, answer: Answer::Unknown, called, returned: 0 });
        operations.len().saturating_sub(1)
    }

    fn answered(&mut self, key: u64, place: usize, answer: Answer) {
        let returned = self.next_moment();
        if let Some(operation) = self.registers.get_mut(&key).and_then(|operations| operations.get_mut(place)) {
            (operation.answer, operation.returned) = (answer, returned);
        }
    }

    /// How many operations have an answer.
    #[must_use]
    pub fn answers(&self) -> usize {
        let known = |operation: &&Operation| operation.answer != Answer::Unknown;
        let registers: usize = self.registers.values().map(|operations| operations.iter().filter(known).count()).sum();
        registers.saturating_add(self.approvals.answers)
    }
}

impl Client {
    /// Client `id` of a run.
    #[must_use]
    pub fn new(seed: u64, id: u64, keys: u64, padding: u64) -> Self {
        let mut rng = stream(seed, &format!("client {id}"));
        let patience = rng.u64(4..15).saturating_mul(SECOND);
        let (seen, asked) = (BTreeMap::new(), 0);
        Self { id, rng, keys, padding, seen, waiting: None, asked, leader: None, patience, pinned: None }
    }

    /// Whether it waits for nothing.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.waiting.is_none()
    }

    /// Asks for the cluster to be born.
    pub fn found(&mut self, nodes: &[u64], now: Time) -> Step {
        let request = Request::Write { command: birth().encode(), request_id: self.request_id() };
        self.wait(Subject::Birth, request, now);
        self.attempt(nodes, 0)
    }

    /// Asks for something.
    pub fn begin(&mut self, nodes: &[u64], history: &mut History, now: Time) -> Step {
        if chance(&mut self.rng, 250) {
            let (ask, command) = history.approvals.ask(self.id, &mut self.rng);
            let request = Request::Write { command: command.encode(), request_id: self.request_id() };
            self.wait(Subject::Approval(ask), request, now);
            return self.attempt(nodes, 0);
        }
        let key = self.rng.u64(0..self.keys.max(1));
        let seen = self.seen.get(&key).copied();
        history.next_value = history.next_value.saturating_add(1);
        let value = history.next_value;
        let padding = if chance(&mut self.rng, 30) { self.rng.u64(0..self.padding.max(1)) } else { 0 };
        let padding = usize::try_from(padding).unwrap_or(0);
        let (action, command) = match (self.rng.u64(0..100), seen) {
            (0..20, _) => (Action::Write(value), Some(put(key, value, padding, ANY_REVISION))),
            (20..50, Some(seen)) => {
                let (expected, revision) = (seen.map(|seen| seen.0), seen.map_or(0, |seen| seen.1));
                (Action::Cas { expected, value }, Some(put(key, value, padding, revision)))
            }
            (50..55, _) => {
                let delete = DeleteResource { kind: Kind::Secret, name: key_name(key), expected_revision: 0 };
                (Action::Delete, Some(delete.into()))
            }
            _ => (Action::Read, None),
        };
        let request = match command {
            Some(command) => Request::Write { command: command.encode(), request_id: self.request_id() },
            None => Request::Read { key },
        };
        let place = history.call(self.id, key, action);
        self.wait(Subject::Register { key, place, action }, request, now);
        self.attempt(nodes, 0)
    }

    /// Asks what `key` holds.
    pub fn read(&mut self, key: u64, nodes: &[u64], history: &mut History, now: Time) -> Step {
        let place = history.call(self.id, key, Action::Read);
        self.wait(Subject::Register { key, place, action: Action::Read }, Request::Read { key }, now);
        self.attempt(nodes, 0)
    }

    /// So much time has passed since an attempt.
    pub fn remind(&mut self, question: u64, attempts: u64, nodes: &[u64], now: Time) -> Step {
        match &self.waiting {
            Some(waiting) if waiting.question == question && waiting.attempts == attempts => {}
            _ => return Step::Nothing,
        }
        // Whoever did not answer may be gone.
        self.leader = None;
        self.again(nodes, now)
    }

    /// A node says something.
    ///
    /// # Errors
    /// When no node may ever say it.
    pub fn hear(
        &mut self,
        question: u64,
        reply: &Reply,
        nodes: &[u64],
        history: &mut History,
        now: Time,
    ) -> Result<Step, Violation> {
        let Some(waiting) = self.waiting.as_ref().filter(|waiting| waiting.question == question) else {
            return Ok(Step::Nothing);
        };
        let answer = match reply {
            Reply::Write(Ok(outcome)) => match waiting.subject {
                Subject::Approval(ask) => {
                    history.approvals.answered(ask, outcome)?;
                    (Answer::Refused, None)
                }
                Subject::Birth if *outcome == Ok(Success::Done) => (Answer::Refused, None),
                Subject::Birth => return broken("a cluster is born once", format!("{outcome:?}")),
                Subject::Register { action, .. } => register(action, outcome)?,
            },
            Reply::Read(Ok(seen)) => (Answer::Saw(seen.map(|seen| seen.0)), *seen),
            Reply::Write(Err(ProposeError::NotLeader { leader })) => {
                self.leader = *leader;
                return Ok(self.again(nodes, now));
            }
            Reply::Write(Err(ProposeError::TooLarge { .. })) => {
                return broken("a node takes what is allowed", format!("{reply:?}"));
            }
            Reply::Write(Err(_)) | Reply::Read(Err(_)) => return Ok(self.again(nodes, now)),
        };
        let Some((subject, request)) = self.waiting.take().map(|waiting| (waiting.subject, waiting.request)) else {
            return Ok(Step::Nothing);
        };
        let (answer, seen) = answer;
        if let (Answer::Done, Some((_, revision)), Request::Write { request_id, .. }) = (answer, seen, request) {
            history.acknowledged.push(Acknowledged { request_id, revision });
        }
        if let Subject::Register { key, place, .. } = subject {
            history.answered(key, place, answer);
            match answer {
                Answer::Refused => {}
                _ => drop(self.seen.insert(key, seen.filter(|(value, _)| *value != u64::MAX))),
            }
        }
        let most = if chance(&mut self.rng, 100) { 400 * MS } else { 60 * MS };
        Ok(Step::Rest(self.rng.u64(0..most)))
    }

    fn request_id(&mut self) -> RequestId {
        RequestId::from_bytes(self.rng.u128(..).to_be_bytes())
    }

    fn wait(&mut self, subject: Subject, request: Request, since: Time) {
        self.asked = self.asked.saturating_add(1);
        self.waiting = Some(Waiting { question: self.asked, subject, request, since, attempts: 0 });
    }

    fn again(&mut self, nodes: &[u64], now: Time) -> Step {
        let Some(waiting) = &self.waiting else { return Step::Nothing };
        // The cluster's birth is waited for, and so is the last look at it.
        let bound = !matches!(waiting.subject, Subject::Birth) && self.pinned.is_none();
        if bound && now.saturating_sub(waiting.since) > self.patience {
            self.waiting = None;
            return Step::Rest(self.rng.u64(0..100 * MS));
        }
        let after = self.rng.u64(5 * MS..if self.leader.is_some() { 10 * MS } else { 120 * MS });
        self.attempt(nodes, after)
    }

    fn attempt(&mut self, nodes: &[u64], after: Time) -> Step {
        // Mostly whom it believes to lead; else anybody.
        let trusted = self.leader.filter(|_| !chance(&mut self.rng, 250));
        let Some(node) = self.pinned.or(trusted).or_else(|| pick(&mut self.rng, nodes)) else { return Step::Nothing };
        let Some(waiting) = &mut self.waiting else { return Step::Nothing };
        waiting.attempts = waiting.attempts.saturating_add(1);
        let timeout = self.rng.u64(300 * MS..1_500 * MS);
        let packet =
            Packet { client: self.id, question: waiting.question, forwarded: false, request: waiting.request.clone() };
        Step::Ask { node, packet: Box::new(packet), after, timeout }
    }

    /// How often it has asked what it asks now.
    #[must_use]
    pub fn attempts(&self) -> u64 {
        self.waiting.as_ref().map_or(0, |waiting| waiting.attempts)
    }
}

/// What an outcome answers, and what the register holds after it. A revision without a value (a deletion's) has the value `u64::MAX`.
fn register(action: Action, outcome: &Outcome) -> Result<(Answer, Option<(u64, u64)>), Violation> {
    let written = match action {
        Action::Write(value) | Action::Cas { value, .. } => value,
        Action::Read | Action::Delete => u64::MAX,
    };
    match (action, outcome) {
        (Action::Write(_) | Action::Cas { .. }, Ok(Success::Put(puts))) => match puts.as_slice() {
            [put] if put.change != Change::Unchanged => Ok((Answer::Done, Some((written, put.revision)))),
            _ => broken("values are unique", format!("{puts:?}")),
        },
        (Action::Delete, Ok(Success::Deleted { revision })) => Ok((Answer::Done, Some((written, *revision)))),
        (Action::Cas { .. }, Err(Refusal::Stale { .. } | Refusal::AlreadyExists { .. }))
        | (Action::Delete, Err(Refusal::NotFound { .. })) => Ok((Answer::Refused, None)),
        (action, outcome) => broken("an outcome is one that the command has", format!("{action:?} -> {outcome:?}")),
    }
}

/// A request in a few words, for the trace.
#[must_use]
pub fn in_words(request: &Request) -> String {
    match request {
        Request::Write { command, request_id } => format!("write {request_id} ({} bytes)", command.len()),
        Request::Read { key } => format!("read key-{key}"),
    }
}
