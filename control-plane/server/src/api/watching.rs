//! Streams of changes to clients: what the hub tells, as far as the caller may see it.
//!
//! A watch holds a cursor and no queue. It ends with OUT_OF_RANGE (reason REVISION_COMPACTED) when the changes since are no longer known,
//! and with the caller's right to it: that is looked at anew with each bookmark.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use postern_runtime::clock;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::access::{Access, Caller};
use super::call::Call;
use super::{Answers, status};
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
        let mut changes = self.hub.subscribe(revision).filtered(only);
        let mut watching =
            Watching { watches: self.clone(), caller: call.caller().clone(), queue, watched, changes: changes.clone() };
        // Told at once, as the answer to the call itself, when it can be told already.
        match changes.try_next() {
            Ok(Some(set)) => watching.take(&set),
            Ok(None) => {}
            Err(lost) => return Err(told(&lost, revision)),
        }
        watching.changes = changes;
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

struct Watching<W: Watched> {
    watches: Watches,
    caller: Caller,
    changes: Subscription,
    queue: VecDeque<W::Answer>,
    watched: W,
}

impl<W: Watched> Watching<W> {
    fn take(&mut self, set: &ChangeSet) {
        self.queue.extend(self.watched.changed(&self.caller, set));
    }

    /// `None` when the node stops.
    async fn next(&mut self) -> Result<Option<W::Answer>, Status> {
        loop {
            if let Some(answer) = self.queue.pop_front() {
                return Ok(Some(answer));
            }
            tokio::select! {
                () = self.watches.stop.cancelled() => return Ok(None),
                changed = self.changes.next() => match changed {
                    Ok(set) => self.take(&set),
                    Err(Lost::Stopped) => return Ok(None),
                    Err(lost) => return Err(told(&lost, self.changes.cursor())),
                },
                () = tokio::time::sleep(BOOKMARK) => {
                    self.still_allowed().await?;
                    return Ok(Some(self.watched.bookmark(self.changes.cursor())));
                }
            }
            self.in_time()?;
        }
    }

    fn in_time(&self) -> Result<(), Status> {
        let ends = self.caller.maybe_principal().and_then(|principal| principal.expires_at);
        if ends.is_some_and(|ends| ends <= clock::now()) {
            return Err(status::with_reason(Status::unauthenticated("token-expired"), "TOKEN_EXPIRED"));
        }
        Ok(())
    }

    async fn still_allowed(&mut self) -> Result<(), Status> {
        self.in_time()?;
        self.watches.access.look_up(&mut self.caller).await?;
        self.watched.allowed(&self.caller)
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
