//! Streams of changes to clients: what the hub tells, as far as the caller may see it.
//!
//! A watch holds a cursor and no queue. It ends with OUT_OF_RANGE (reason REVISION_COMPACTED) when the changes since are no longer known,
//! and with the caller's right to it ([`Rights`]). That is looked at anew when the watch comes to a change of roles, bindings or issuers, before anything
//! later is told.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use postern_state::ObjectKey;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::access::{Access, Caller};
use super::call::Call;
use super::rights::Rights;
use super::{Answers, roles, status};
use crate::raft::RaftHandle;
use crate::watch::{Change, ChangeSet, Lost, Subscription, WatchHub};

/// How long a watch may be silent.
const BOOKMARK: Duration = Duration::from_secs(30);
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
        let mut watching = Watching {
            watches: self.clone(),
            rights: Rights::new(self.access.clone(), call.caller().clone()),
            queue,
            watched,
            changes,
            only,
            told_at: Instant::now(),
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
    rights: Rights,
    changes: Subscription,
    queue: VecDeque<W::Answer>,
    watched: W,
    only: Only,
    /// When the client was told of something last.
    told_at: Instant,
}

impl<W: Watched> Watching<W> {
    async fn take(&mut self, set: &ChangeSet) -> Result<(), Status> {
        if set.changes.iter().any(concerns_rights) {
            self.rights.changed(set.revision);
            self.look().await?;
        }
        let only = &self.only;
        if set.changes.iter().all(|change| only(change)) {
            self.queue.extend(self.watched.changed(self.rights.caller(), set));
            return Ok(());
        }
        let changes: Vec<Change> = set.changes.iter().filter(|change| only(change)).cloned().collect();
        if !changes.is_empty() {
            let set = ChangeSet { revision: set.revision, policy: set.policy, changes };
            self.queue.extend(self.watched.changed(self.rights.caller(), &set));
        }
        Ok(())
    }

    /// `None` when the node stops.
    async fn next(&mut self) -> Result<Option<W::Answer>, Status> {
        loop {
            self.look().await?;
            if let Some(answer) = self.queue.pop_front() {
                self.told_at = Instant::now();
                return Ok(Some(answer));
            }
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
                () = self.rights.due() => {}
            }
        }
    }

    async fn look(&mut self) -> Result<(), Status> {
        if self.rights.look().await? { self.watched.allowed(self.rights.caller()) } else { Ok(()) }
    }
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
