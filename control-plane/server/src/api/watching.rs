//! Streams of changes to clients: what the hub tells, as far as the caller may see it.
//!
//! A watch holds a cursor and no queue. It ends with OUT_OF_RANGE (reason REVISION_COMPACTED) when the changes since are no longer known,
//! and with the caller's right to it. That is looked at anew when the watch comes to a change of roles, bindings or issuers, before anything
//! later is told; and every [`CONFIRM`], however busy the watch is. A node that cannot ask its cluster ends the watch after [`UNCONFIRMED`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use postern_core::Timestamp;
use postern_state::ObjectKey;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::access::{Access, Caller};
use super::call::Call;
use super::{Answers, roles, status};
use crate::raft::RaftHandle;
use crate::watch::{Change, ChangeSet, Lost, Subscription, WatchHub};

/// How long a watch may be silent.
const BOOKMARK: Duration = Duration::from_secs(30);
/// How often the cluster is asked for the caller's rights, while nothing here tells of a change.
const CONFIRM: Duration = Duration::from_secs(15);
/// What others were told by the cluster this lately is as good.
const LATELY: Duration = Duration::from_secs(5);
/// How long a watch goes on while nobody vouches for the caller's rights.
const UNCONFIRMED: Duration = Duration::from_secs(25);
/// Between two looks at the caller's rights: who changes roles all the time does not keep every watch busy.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// Between two tries to ask.
const RETRY: Duration = Duration::from_secs(1);

/// What every watch needs. Cheap to clone.
#[derive(Clone)]
pub(super) struct Watches {
    pub(super) hub: WatchHub,
    pub(super) raft: RaftHandle,
    pub(super) access: Access,
    pub(super) stop: CancellationToken,
}

/// How a watch makes answers.
pub(super) trait Watched: Send + 'static {
    /// One answer.
    type Answer: Send + 'static;

    /// The answers that one set of changes gives.
    fn changed(&mut self, caller: &Caller, set: &ChangeSet) -> Vec<Self::Answer>;

    /// That everything up to `revision` has been told.
    fn bookmark(&self, revision: u64) -> Self::Answer;

    /// Whether the caller may go on.
    fn allowed(&self, caller: &Caller) -> Result<(), Status>;
}

impl Watches {
    /// A watch from `from` on, or from the state as it stands (`0`): `first` are the answers that it gives, at its revision.
    pub(super) async fn stream<W: Watched>(
        &self,
        call: &Arc<Call>,
        from: u64,
        first: Option<(Vec<W::Answer>, u64)>,
        only: impl Fn(&Change) -> bool + Send + Sync + 'static,
        watched: W,
    ) -> Result<Answers<W::Answer>, Status> {
        let (queue, revision) = match first {
            Some((mut answers, revision)) => {
                answers.push(watched.bookmark(revision));
                (answers.into(), revision)
            }
            None => {
                let index = self.raft.read(|state| state.index()).await.map_err(status::read)?;
                if from > index {
                    return Err(compacted(&format!("revision {from} is not known here: the cluster is at {index}")));
                }
                (VecDeque::new(), from)
            }
        };
        let only: Only = Arc::new(only);
        let wanted = Arc::clone(&only);
        let changes = self.hub.subscribe(revision).filtered(move |change| wanted(change) || concerns_rights(change));
        let now = Instant::now();
        let mut watching = Watching {
            watches: self.clone(),
            caller: call.caller().clone(),
            queue,
            watched,
            changes,
            only,
            told_at: now,
            looked_at: now,
            confirmed_at: now,
            look_at: now + CONFIRM,
            changed_at: None,
        };
        // Told at once, as the answer to the call itself, when it can be told already.
        match watching.changes.try_next() {
            Ok(Some(set)) => watching.take(&set).await?,
            Ok(None) => {}
            Err(lost) => return Err(told(&lost, revision)),
        }
        let answers = futures::stream::unfold(Some(watching), |watching| async move {
            let mut watching = watching?;
            match watching.next().await {
                Ok(Some(answer)) => Some((Ok(answer), Some(watching))),
                Ok(None) => None,
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(answers.boxed())
    }
}

type Only = Arc<dyn Fn(&Change) -> bool + Send + Sync>;

/// Whether a change may give or take the right to watch.
fn concerns_rights(change: &Change) -> bool {
    match &change.key {
        ObjectKey::Resource(kind, _) => roles::concerns(*kind),
        ObjectKey::Revocations => true,
        _ => false,
    }
}

struct Watching<W: Watched> {
    watches: Watches,
    caller: Caller,
    changes: Subscription,
    queue: VecDeque<W::Answer>,
    watched: W,
    only: Only,
    /// When the client was told of something last.
    told_at: Instant,
    /// When the caller's rights were looked at last.
    looked_at: Instant,
    /// When the cluster vouched for them last.
    confirmed_at: Instant,
    /// When they are to be looked at again.
    look_at: Instant,
    /// Where this node was told of a change that was not looked at yet.
    changed_at: Option<u64>,
}

impl<W: Watched> Watching<W> {
    async fn take(&mut self, set: &ChangeSet) -> Result<(), Status> {
        if set.changes.iter().any(concerns_rights) {
            self.changed_at = Some(set.revision);
            self.look_at = self.look_at.min(self.looked_at + LOOK_AGAIN);
            self.look().await?;
        }
        let only = &self.only;
        if set.changes.iter().all(|change| only(change)) {
            self.queue.extend(self.watched.changed(&self.caller, set));
            return Ok(());
        }
        let changes: Vec<Change> = set.changes.iter().filter(|change| only(change)).cloned().collect();
        if !changes.is_empty() {
            let set = ChangeSet { revision: set.revision, policy: set.policy, changes };
            self.queue.extend(self.watched.changed(&self.caller, &set));
        }
        Ok(())
    }

    /// `None` when the node stops.
    async fn next(&mut self) -> Result<Option<W::Answer>, Status> {
        loop {
            self.in_time()?;
            self.look().await?;
            if let Some(answer) = self.queue.pop_front() {
                self.told_at = Instant::now();
                return Ok(Some(answer));
            }
            let token_left = self.token_left();
            tokio::select! {
                () = self.watches.stop.cancelled() => return Ok(None),
                changed = self.changes.next() => match changed {
                    Ok(set) => self.take(&set).await?,
                    Err(Lost::Stopped) => return Ok(None),
                    Err(lost) => return Err(told(&lost, self.changes.cursor())),
                },
                () = tokio::time::sleep_until(self.told_at + BOOKMARK) => {
                    self.queue.push_back(self.watched.bookmark(self.changes.cursor()));
                }
                () = tokio::time::sleep_until(self.look_at) => {}
                () = tokio::time::sleep(token_left) => {}
            }
        }
    }

    fn token_end(&self) -> Option<Timestamp> {
        self.caller.maybe_principal().and_then(|principal| principal.expires_at)
    }

    /// How long the token is still good, but not longer than until the caller's rights are looked at anyway.
    fn token_left(&self) -> Duration {
        // Times are in milliseconds: at the end it is over, not about to be.
        let left = |end: Timestamp| end.since(self.watches.access.clock.now()).saturating_add(Duration::from_millis(1));
        self.token_end().map_or(CONFIRM, left).min(CONFIRM)
    }

    fn in_time(&self) -> Result<(), Status> {
        if self.token_end().is_some_and(|ends| ends <= self.watches.access.clock.now()) {
            return Err(status::with_reason(Status::unauthenticated("token-expired"), "TOKEN_EXPIRED"));
        }
        Ok(())
    }

    /// Looks at the caller's rights, when it is time: by what this node has applied itself, if it was told of a change; else by what the
    /// cluster says.
    async fn look(&mut self) -> Result<(), Status> {
        let began = Instant::now();
        if self.look_at > began {
            return Ok(());
        }
        let (access, mut caller) = (&self.watches.access, self.caller.clone());
        let (looked, confirmed_at) = match self.changed_at {
            Some(revision) => (access.look_up_since(&mut caller, revision).await, self.confirmed_at),
            None => (access.look_up_lately(&mut caller, LATELY).await, began),
        };
        self.looked(caller, looked, confirmed_at)
    }

    fn looked(&mut self, caller: Caller, looked: Result<(), Status>, confirmed_at: Instant) -> Result<(), Status> {
        self.looked_at = Instant::now();
        match looked {
            Ok(()) => {
                (self.caller, self.confirmed_at, self.changed_at) = (caller, confirmed_at, None);
                self.look_at = confirmed_at + CONFIRM;
                self.watched.allowed(&self.caller)
            }
            // The leader changes, or too much waits.
            Err(status) if is_transient(&status) && self.confirmed_at.elapsed() < UNCONFIRMED => {
                self.look_at = self.looked_at + RETRY;
                Ok(())
            }
            Err(status) => Err(status),
        }
    }
}

fn is_transient(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded)
}

fn told(lost: &Lost, from: u64) -> Status {
    match lost {
        Lost::Stopped => Status::unavailable("the node stops"),
        Lost::Compacted { floor } => compacted(&format!(
            "revision compacted: the changes after {from} are no longer known (from {floor} on they are): list again"
        )),
    }
}

fn compacted(text: &str) -> Status {
    status::with_reason(Status::out_of_range(text), "REVISION_COMPACTED")
}
