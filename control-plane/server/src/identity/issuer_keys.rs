//! Keeps issuers' keys fresh: as often as each issuer's `Cache-Control` asks for, within bounds, and at once when a token's key is unknown.
//!
//! One task; at most [`PARALLEL`] fetches at once, and a slow issuer keeps nobody else waiting. A failed issuer keeps the keys that it has,
//! and is tried again with back-off. The leader fetches what is due; any member fetches what it is asked for, each issuer at most once per
//! [`NOT_SOONER`], whoever asks and however often: tokens with random key ids cost no more than that.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use postern_core::Name;
use postern_core::issuer::Issuer;
use postern_core::resource::{Kind, Spec};
use postern_runtime::backoff::Backoff;
use postern_state::commands::SetIssuerKeys;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::fetch::{FetchedKeys, fetch};
use crate::raft::RaftHandle;

/// Of an issuer that does not say how long its keys hold.
const REFRESH: Duration = Duration::from_secs(300);
/// However an issuer has it: a key that it has withdrawn is good for no longer than the second, and nobody asks it more often than the first.
const REFRESH_LEAST: Duration = Duration::from_secs(60);
const REFRESH_MOST: Duration = Duration::from_secs(900);
const RETRY_BASE: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// A fetch that somebody asks for comes this long after the one before, at the earliest.
const NOT_SOONER: Duration = Duration::from_secs(5);
const PARALLEL: usize = 8;
/// Questions that wait to be taken, and that wait for one fetch.
const QUEUE: usize = 64;

/// What came of asking for an issuer's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Demanded {
    /// They were fetched, and are others than before.
    Changed,
    /// They were fetched, and are as before.
    Same,
    /// They were not: it was tried just before, or failed, or too many ask. Not before this long is it worth to ask again.
    NotNow(Duration),
    /// There is no such issuer, or its keys are not fetched.
    Nothing,
}

/// Asks for issuers' keys, when a token's key is unknown. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct KeyDemand(mpsc::Sender<Question>);

#[derive(Debug)]
struct Question {
    issuer: Name,
    answer: oneshot::Sender<Demanded>,
}

impl KeyDemand {
    /// Has the keys of `issuer` fetched, unless that was done lately. Returns when they are there, or will not be.
    pub(crate) async fn ask(&self, issuer: Name) -> Demanded {
        let (answer, answered) = oneshot::channel();
        match self.0.try_send(Question { issuer, answer }) {
            Ok(()) => answered.await.unwrap_or(Demanded::NotNow(NOT_SOONER)),
            Err(_) => Demanded::NotNow(NOT_SOONER),
        }
    }
}

struct Known {
    issuer: Issuer,
    next: Instant,
    backoff: Backoff,
    /// The failure was logged.
    told: bool,
    /// When a fetch last began.
    tried: Option<Instant>,
    flying: bool,
    waiting: Vec<oneshot::Sender<Demanded>>,
}

/// A fetch that is over.
struct Landed {
    name: Name,
    issuer: Issuer,
    /// Whether the keys are others, and how long they hold; or why there are none.
    result: Result<(bool, Option<Duration>), String>,
}

/// Keeps every issuer's keys fresh.
pub(crate) struct IssuerKeysLoop {
    raft: RaftHandle,
    known: BTreeMap<Name, Known>,
    flights: FuturesUnordered<BoxFuture<'static, Landed>>,
    questions: mpsc::Receiver<Question>,
}

impl IssuerKeysLoop {
    pub(crate) fn new(raft: RaftHandle) -> (Self, KeyDemand) {
        let (ask, questions) = mpsc::channel(QUEUE);
        (Self { raft, known: BTreeMap::new(), flights: FuturesUnordered::new(), questions }, KeyDemand(ask))
    }

    pub(crate) async fn run(self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.forever() => {}
        }
    }

    async fn forever(mut self) {
        let mut changes = self.raft.changes();
        let mut seen = None;
        loop {
            let issuers = changes.borrow_and_update().issuers;
            if seen != Some(issuers) && self.learn().await {
                seen = Some(issuers);
            }
            self.start_due();
            let now = Instant::now();
            let soonest = self.known.values().filter(|known| !known.flying).map(|known| known.next).min();
            let wake = if seen == Some(issuers) { soonest } else { Some(now + RETRY_BASE) };
            // With all places taken the next one comes when one is free.
            let wake = wake.filter(|_| self.flights.len() < PARALLEL).unwrap_or(now + REFRESH);
            tokio::select! {
                Some(landed) = self.flights.next(), if !self.flights.is_empty() => self.land(landed),
                Some(question) = self.questions.recv() => self.take(question),
                () = tokio::time::sleep_until(wake) => {}
                changed = changes.wait_for(|now| now.issuers != issuers) => if changed.is_err() { return },
            }
        }
    }

    /// Takes in which issuers there are; `false` when that cannot be read now.
    async fn learn(&mut self) -> bool {
        let issuers = self.raft.read(|state| {
            let issuers = state.resources(Kind::Issuer).filter_map(|object| match &object.spec {
                Spec::Issuer(issuer) => {
                    issuer.oidc()?.keys_at(&issuer.url)?;
                    Some((object.metadata.name.clone(), issuer.clone()))
                }
                _ => None,
            });
            issuers.collect::<BTreeMap<Name, Issuer>>()
        });
        let Ok(issuers) = issuers.await else { return false };
        self.known.retain(|name, _| issuers.contains_key(name));
        for (name, issuer) in issuers {
            if self.known.get(&name).is_none_or(|known| known.issuer != issuer) {
                let known = Known {
                    issuer,
                    next: Instant::now(),
                    backoff: Backoff::new(RETRY_BASE, RETRY_MAX),
                    told: false,
                    tried: None,
                    flying: false,
                    waiting: Vec::new(),
                };
                self.known.insert(name, known);
            }
        }
        true
    }

    fn start_due(&mut self) {
        let now = Instant::now();
        // A follower has no business with issuers, unless it is asked; it comes back when it may lead.
        let leading = self.raft.status().borrow().leading;
        let raft = &self.raft;
        for (name, known) in self.known.iter_mut().filter(|(_, known)| !known.flying && known.next <= now) {
            if !leading && known.waiting.is_empty() {
                known.next = now + RETRY_BASE;
            } else if self.flights.len() < PARALLEL {
                (known.flying, known.tried) = (true, Some(now));
                self.flights.push(Box::pin(fly(raft.clone(), name.clone(), known.issuer.clone())));
            }
        }
    }

    fn take(&mut self, Question { issuer, answer }: Question) {
        let count = |what: &'static str| {
            metrics::counter!("postern_control_issuer_key_demands_total", "outcome" => what).increment(1);
        };
        let now = Instant::now();
        let Some(known) = self.known.get_mut(&issuer) else {
            count("nothing");
            let _ = answer.send(Demanded::Nothing);
            return;
        };
        let rest = known.tried.map_or(Duration::ZERO, |tried| NOT_SOONER.saturating_sub(now - tried));
        if known.waiting.len() >= QUEUE || (!known.flying && !rest.is_zero()) {
            count("not-now");
            let _ = answer.send(Demanded::NotNow(rest.max(RETRY_BASE)));
            return;
        }
        count("asked");
        known.waiting.push(answer);
        if !known.flying {
            known.next = now;
        }
    }

    fn land(&mut self, Landed { name, issuer, result }: Landed) {
        // It was changed or deleted meanwhile: what came of its former self is nothing.
        let Some(known) = self.known.get_mut(&name).filter(|known| known.issuer == issuer) else { return };
        known.flying = false;
        let answer = match result {
            Ok((changed, keep)) => {
                if known.told {
                    info!(issuer = %name, "the issuer's keys are there again");
                }
                known.told = false;
                known.backoff.reset();
                known.next = Instant::now() + keep.unwrap_or(REFRESH).clamp(REFRESH_LEAST, REFRESH_MOST);
                if changed { Demanded::Changed } else { Demanded::Same }
            }
            Err(error) => {
                metrics::counter!("postern_control_issuer_fetch_failures_total", "issuer" => name.to_string())
                    .increment(1);
                if !known.told {
                    warn!(issuer = %name, url = issuer.url, error, "the issuer's keys cannot be fetched");
                    known.told = true;
                }
                let delay = known.backoff.next_delay();
                known.next = Instant::now() + delay;
                Demanded::NotNow(delay.max(NOT_SOONER))
            }
        };
        for waiting in known.waiting.drain(..) {
            let _ = waiting.send(answer);
        }
    }
}

async fn fly(raft: RaftHandle, name: Name, issuer: Issuer) -> Landed {
    let result = match fetch(&name, &issuer).await {
        Ok(keys) => keep(&raft, &name, keys).await,
        Err(error) => Err(error.to_string()),
    };
    Landed { name, issuer, result }
}

/// Writes the keys, when they are others than before.
async fn keep(raft: &RaftHandle, name: &Name, keys: FetchedKeys) -> Result<(bool, Option<Duration>), String> {
    let FetchedKeys { jwks, url, keep } = keys;
    let (of, wanted) = (name.clone(), jwks.clone());
    let same = raft.read(move |state| state.issuer_keys(&of).is_some_and(|known| known.jwks == wanted));
    if same.await.unwrap_or(false) {
        return Ok((false, keep));
    }
    let command = SetIssuerKeys { issuer: name.clone(), jwks, url };
    match raft.propose(command, None).await.map_err(|error| error.to_string())? {
        Ok(_) => info!(issuer = %name, "the issuer's keys were fetched"),
        // It was deleted or changed meanwhile: the change has woken this loop.
        Err(refusal) => info!(issuer = %name, %refusal, "fetched keys were not kept"),
    }
    Ok((true, keep))
}
