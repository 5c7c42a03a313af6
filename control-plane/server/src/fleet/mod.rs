//! Which gateway holds which tunnel: soft state of the leader, outside the log.
//!
//! Gateways report to whoever leads, and are told what all of them report. A new leader begins with nothing, as a new epoch; gateways come to
//! it within a second or two and tell all anew. Nothing of it is ever written down.

mod directory;
mod list;
mod stream;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use postern_core::Name;
use postern_core::fleet::Epoch;
use postern_core::target::TargetSelector;
use postern_core::time::Timestamp;
use postern_runtime::clock;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;

pub(crate) use directory::ReportError;
use directory::{Bounds, Directory};
pub(crate) use list::{agents, gateways};
pub(crate) use stream::{Ended, Reporting};

use crate::raft::Status;
use crate::run::PolicyWatch;

/// How often gateways are looked for that did not come back.
const TICK: Duration = Duration::from_secs(1);

/// The directory of this node, if it leads. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Fleet {
    directory: Arc<Mutex<Option<Directory>>>,
    /// Raised at each change, and when leadership comes or goes.
    moved: Arc<watch::Sender<u64>>,
}

/// A gateway that reports.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reporter {
    /// When its process was started, by its own clock.
    pub(crate) started_at: Timestamp,
    /// When it began to report here.
    pub(crate) since: Timestamp,
}

/// This node does not lead: it knows nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this node does not lead")]
pub(crate) struct NotLeader;

impl Fleet {
    pub(crate) fn new() -> Self {
        Self { directory: Arc::default(), moved: Arc::new(watch::Sender::new(0)) }
    }

    /// Keeps a directory while this node leads, until `stop`.
    pub(crate) async fn follow(
        self,
        mut status: watch::Receiver<Status>,
        mut policy: PolicyWatch,
        incarnation: String,
        stop: CancellationToken,
    ) {
        let mut tick = tokio::time::interval(TICK);
        loop {
            let (leading, term) = {
                let status = status.borrow_and_update();
                (status.leading, status.term)
            };
            let serves = Arc::clone(&policy.borrow_and_update().secrets.serves);
            self.stand(leading.then_some(term), &incarnation, &serves, Instant::now());
            tokio::select! {
                () = stop.cancelled() => break,
                _ = tick.tick() => {}
                changed = status.changed() => if changed.is_err() { break },
                changed = policy.changed() => if changed.is_err() { break },
            }
        }
        self.stand(None, &incarnation, &BTreeMap::new(), Instant::now());
    }

    /// Begins a directory when this node comes to lead, ends it when it does no more, and does what time brings.
    fn stand(&self, term: Option<u64>, incarnation: &str, serves: &BTreeMap<Name, TargetSelector>, now: Instant) {
        let mut held = self.lock();
        let known = held.as_ref().map(|directory| directory.epoch().term);
        if known != term {
            *held = term.map(|term| {
                let epoch = Epoch { incarnation: incarnation.to_owned(), term, began_at: clock::now() };
                Directory::new(epoch, now, Bounds::DEFAULT)
            });
            if term.is_some() {
                info!(term, "this node keeps the directory of gateways now");
            }
        }
        let before = held.as_ref().map(Directory::version);
        let mut counts = (0, 0);
        if let Some(directory) = held.as_mut() {
            directory.set_serves(serves);
            directory.expire(now);
            counts = directory.counts();
        }
        let moved = known != term || before != held.as_ref().map(Directory::version);
        drop(held);
        metrics::gauge!("postern_control_fleet_gateways").set(gauge(counts.0));
        metrics::gauge!("postern_control_fleet_tunnels").set(gauge(counts.1));
        if moved {
            self.tell();
        }
    }

    /// Gateways that report, by name; none where this node does not lead, or does not know yet who there is.
    pub(crate) fn reporting(&self) -> Option<BTreeMap<String, Reporter>> {
        let directory = self.lock();
        let directory = directory.as_ref().filter(|directory| !directory.settling(Instant::now()))?;
        let listed = directory.listed().map(|listed| {
            let (started_at, since) = (listed.gateway.started_at, listed.since);
            (listed.gateway.name.to_string(), Reporter { started_at, since })
        });
        Some(listed.collect())
    }

    /// Looks at, or changes, the directory.
    fn with<T>(&self, act: impl FnOnce(&mut Directory) -> T) -> Result<T, NotLeader> {
        self.lock().as_mut().map(act).ok_or(NotLeader)
    }

    fn tell(&self) {
        self.moved.send_modify(|moves| *moves = moves.wrapping_add(1));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Directory>> {
        self.directory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn gauge(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}
