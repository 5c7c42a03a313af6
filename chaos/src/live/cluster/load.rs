//! Clients that write and read registers, and remember all that they were told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use tokio::runtime::Runtime;
use tokio::task::{JoinHandle, JoinSet};

use super::client::{ClusterClient, Failure};
use super::history::{Answer, Asked, Operation, check};
use super::watcher::{Watched, watch};

/// How long the watcher may take until it was told of the last write.
const WATCH_LIMIT: Duration = Duration::from_secs(20);

/// Who reads at the end, at a time.
const READERS: usize = 16;

/// What the clients do.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// How many at a time.
    pub clients: usize,
    /// Registers that all of them share.
    pub registers: usize,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { clients: 8, registers: 4 }
    }
}

/// Clients at work, until they are told to stop.
#[derive(Debug)]
pub struct Load {
    runtime: Runtime,
    clients: JoinSet<Vec<Operation>>,
    client: ClusterClient,
    began: Instant,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    watcher: JoinHandle<Watched>,
    /// Stops the watcher, which stays a little longer.
    stop_watcher: Arc<AtomicBool>,
    /// The revision up to which it was told.
    seen: Arc<AtomicU64>,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Writes that were acknowledged.
    pub acknowledged: usize,
    /// Reads that were answered.
    pub reads: usize,
    /// Writes that were refused because of their register's revision.
    pub conflicts: usize,
    /// Operations without an answer.
    pub unknown: usize,
    /// How often the watcher had to begin anew, as no member knew any more what had changed since.
    pub watched_anew: usize,
}

impl Load {
    /// Starts the clients; `connect` makes the client that they share, within the runtime that it will run on.
    ///
    /// # Errors
    /// When there is no client.
    pub fn start(options: LoadOptions, connect: impl FnOnce() -> Result<ClusterClient>) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let guard = runtime.enter();
        let client = connect()?;
        let (stop, acknowledged) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let began = Instant::now();
        let mut clients = JoinSet::new();
        for number in 0..options.clients {
            let worker = Worker {
                // Half of them begin at another member than the rest.
                client: client.beginning_with(number % 3),
                number,
                registers: options.registers,
                began,
                acknowledged: acknowledged.clone(),
                history: Vec::new(),
                known: BTreeMap::new(),
            };
            clients.spawn(worker.run(stop.clone()));
        }
        let (stop_watcher, seen) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let watcher = runtime.spawn(watch(client.clone(), stop_watcher.clone(), seen.clone()));
        drop(guard);
        Ok(Self { runtime, clients, client, began, stop, acknowledged, watcher, stop_watcher, seen })
    }

    /// Writes acknowledged so far.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until `more` writes were acknowledged from now on: the cluster then does its work.
    ///
    /// # Errors
    /// When they were not within `limit`.
    pub fn wait_for(&self, more: u64, limit: Duration) -> Result<()> {
        let goal = self.acknowledged() + more;
        super::super::process::wait_until(limit, &format!("{more} acknowledged writes"), || {
            Ok(self.acknowledged() >= goal)
        })
    }

    /// Stops the clients, reads every register once more, and checks that all that was told fits together: no acknowledged write is
    /// lost, no read was stale.
    ///
    /// # Errors
    /// When something does not fit; with the operations that show it.
    pub fn finish(mut self) -> Result<Summary> {
        self.stop.store(true, Ordering::Relaxed);
        let mut history = Vec::new();
        let clients = &mut self.clients;
        self.runtime.block_on(async {
            while let Some(done) = clients.join_next().await {
                history.extend(done.map_err(|error| anyhow!("a client panicked: {error}"))?);
            }
            Ok::<_, anyhow::Error>(())
        })?;
        let mut names: Vec<String> = history.iter().map(|operation| operation.register.clone()).collect();
        names.sort();
        names.dedup();
        history.extend(self.runtime.block_on(last_reads(&self.client, names, self.began))?);
        check(&history)?;
        let revision = |operation: &Operation| match operation.answer {
            Answer::Value(_, revision) => revision,
            _ => 0,
        };
        let newest = history.iter().map(revision).max().unwrap_or_default();
        super::super::process::wait_until(WATCH_LIMIT, "the watcher to be told of everything", || {
            Ok(self.seen.load(Ordering::Relaxed) >= newest)
        })?;
        self.stop_watcher.store(true, Ordering::Relaxed);
        let watched =
            self.runtime.block_on(&mut self.watcher).map_err(|error| anyhow!("the watcher panicked: {error}"))?;
        watched.check(&history)?;
        let count = |of: fn(&Operation) -> bool| history.iter().filter(|operation| of(operation)).count();
        let summary = Summary {
            acknowledged: count(|it| matches!((&it.asked, &it.answer), (Asked::Write { .. }, Answer::Value(..)))),
            reads: count(|it| matches!(it.asked, Asked::Read)),
            conflicts: count(|it| it.answer == Answer::Conflict),
            unknown: count(|it| it.answer == Answer::Unknown),
            watched_anew: watched.began_anew(),
        };
        let refused = history.iter().find(|operation| operation.answer == Answer::Refused);
        ensure!(refused.is_none(), "refused: {refused:?}");
        Ok(summary)
    }
}

/// Every register, once more; thousands of them, so not one after the other.
async fn last_reads(client: &ClusterClient, names: Vec<String>, began: Instant) -> Result<Vec<Operation>> {
    let mut readers = JoinSet::new();
    for share in names.chunks(names.len().div_ceil(READERS).max(1)) {
        let (client, share) = (client.clone(), share.to_vec());
        readers.spawn(async move {
            let mut read = Vec::with_capacity(share.len());
            for register in share {
                let start = began.elapsed();
                let found = client.get(&register).await.context("the last reads")?;
                let answer = found.map_or(Answer::Nothing, |(value, revision)| Answer::Value(value, revision));
                read.push(Operation { register, asked: Asked::Read, start, end: began.elapsed(), answer });
            }
            Ok::<_, anyhow::Error>(read)
        });
    }
    let mut all = Vec::new();
    while let Some(read) = readers.join_next().await {
        all.extend(read.map_err(|error| anyhow!("a reader panicked: {error}"))??);
    }
    Ok(all)
}

struct Worker {
    client: ClusterClient,
    number: usize,
    registers: usize,
    began: Instant,
    acknowledged: Arc<AtomicU64>,
    history: Vec<Operation>,
    /// The revision at which it last saw each register.
    known: BTreeMap<String, u64>,
}

impl Worker {
    async fn run(mut self, stop: Arc<AtomicBool>) -> Vec<Operation> {
        let mut count = 0_u64;
        while !stop.load(Ordering::Relaxed) {
            count += 1;
            let shared = format!("register-{}", fastrand::usize(..self.registers.max(1)));
            let value = format!("client {} write {count}", self.number);
            match fastrand::u8(..8) {
                0..3 => self.read(shared).await,
                3 => self.write(shared, value, None).await,
                4..6 => {
                    let expected = self.known.get(&shared).copied();
                    self.write(shared, value, expected).await;
                }
                // A register of its own, written once: nothing written later can hide that it is lost.
                _ => self.write(format!("own-{}-{count}", self.number), value, None).await,
            }
        }
        self.history
    }

    async fn read(&mut self, register: String) {
        let start = self.began.elapsed();
        let answer = match self.client.get(&register).await {
            Ok(Some((value, revision))) => {
                self.known.insert(register.clone(), revision);
                Answer::Value(value, revision)
            }
            Ok(None) => Answer::Nothing,
            Err(failure) => answer_of(&failure),
        };
        let end = self.began.elapsed();
        self.history.push(Operation { register, asked: Asked::Read, start, end, answer });
    }

    async fn write(&mut self, register: String, value: String, expected: Option<u64>) {
        let start = self.began.elapsed();
        let answer = match self.client.put(&register, &value, expected).await {
            Ok(revision) => {
                self.known.insert(register.clone(), revision);
                self.acknowledged.fetch_add(1, Ordering::Relaxed);
                Answer::Value(value.clone(), revision)
            }
            Err(failure) => answer_of(&failure),
        };
        let asked = Asked::Write { value, expected };
        self.history.push(Operation { register, asked, start, end: self.began.elapsed(), answer });
    }
}

const fn answer_of(failure: &Failure) -> Answer {
    match failure {
        Failure::Conflict(_) => Answer::Conflict,
        Failure::Refused(_) => Answer::Refused,
        Failure::Unknown(_) => Answer::Unknown,
    }
}
