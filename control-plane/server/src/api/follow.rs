//! The recording of a session that goes on, as it comes.
//!
//! It is read where it is: on this member's disk, or at the member that the gateway turned to. A session that ends is read to its end, wherever it lies then.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use postern_core::SessionId;
use postern_core::session::Session;
use postern_proto::admin::v1 as pb;
use postern_state::ObjectKey;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::call::Call;
use super::grants::{Object, Verb};
use super::rights::Rights;
use super::sessions::{Service, may_export};
use super::{Answers, roles, status};
use crate::recordings::copies::{Bytes, Copies};
use crate::watch::{Change, Lost, Subscription, Value};

/// Between looks at whether there is more: operations take a tenth of a second to come here anyway.
const LOOK: Duration = Duration::from_millis(250);
/// How long a recording may be unreadable before who follows it is told: a member that has it starts anew.
const PATIENCE: Duration = Duration::from_secs(10);

/// One who follows a recording.
pub(super) struct Follow {
    copies: Copies,
    rights: Rights,
    changes: Subscription,
    stop: CancellationToken,
    id: SessionId,
    /// Bytes that were told.
    offset: u64,
    /// As the index has it; none of one that has left it.
    session: Option<Arc<Session>>,
    body: Option<Bytes>,
    /// Nothing comes after `body`.
    last: bool,
    /// When something could be read last.
    read_at: Instant,
    _place: OwnedSemaphorePermit,
}

impl Follow {
    /// From `offset` on; whoever calls may have the recording as it is now.
    pub(super) async fn new(service: &Service, call: &Arc<Call>, id: SessionId, offset: u64) -> Result<Self, Status> {
        let place = Arc::clone(&service.followers).try_acquire_owned();
        let place = place.map_err(|_| Status::resource_exhausted("as many as may follow recordings at this member"))?;
        let read = service.raft.read(move |state| (state.session(id).cloned(), state.index()));
        let (session, revision) = read.await.map_err(status::read)?;
        let only = move |change: &Change| match &change.key {
            ObjectKey::Session(changed) => *changed == id,
            ObjectKey::Resource(kind, _) => roles::concerns(*kind),
            ObjectKey::Revocations => true,
            _ => false,
        };
        Ok(Self {
            copies: service.copies.clone(),
            rights: Rights::new(service.access.clone(), call.caller().clone()),
            changes: service.watches.hub.subscribe(revision).filtered(only),
            stop: service.watches.stop.clone(),
            id,
            offset,
            session,
            body: None,
            last: false,
            read_at: Instant::now(),
            _place: place,
        })
    }

    pub(super) fn stream(self) -> Answers<pb::ExportSessionResponse> {
        let answers = futures::stream::unfold(Some(self), |follow| async move {
            let mut follow = follow?;
            match follow.next().await {
                Ok(Some(data)) => Some((Ok(pb::ExportSessionResponse { data }), Some(follow))),
                Ok(None) => None,
                Err(status) => Some((Err(status), None)),
            }
        });
        answers.boxed()
    }

    async fn next(&mut self) -> Result<Option<Vec<u8>>, Status> {
        loop {
            if self.rights.look().await? {
                self.allowed()?;
            }
            let failed = match self.read().await {
                Ok(Some(data)) => {
                    self.offset = self.offset.saturating_add(u64::try_from(data.len()).unwrap_or(u64::MAX));
                    self.read_at = Instant::now();
                    return Ok(Some(data));
                }
                Ok(None) if self.last => return Ok(None),
                Ok(None) => {
                    self.read_at = Instant::now();
                    None
                }
                Err(status) => Some(status),
            };
            if let Some(status) = failed.filter(|_| self.read_at.elapsed() >= PATIENCE) {
                return Err(status);
            }
            tokio::select! {
                () = self.stop.cancelled() => return Err(Status::unavailable("the node stops")),
                changed = self.changes.next() => match changed {
                    Ok(set) => {
                        for change in &set.changes {
                            match (&change.key, &change.value) {
                                (ObjectKey::Session(_), Some(Value::Session(session))) => self.session = Some(Arc::clone(session)),
                                (ObjectKey::Session(_), _) => self.session = None,
                                _ => self.rights.changed(set.revision),
                            }
                        }
                    }
                    Err(Lost::Stopped) => return Err(Status::unavailable("the node stops")),
                    // So much has changed that it is better asked for anew.
                    Err(_) => return Err(Status::unavailable("this member has lost sight of the session: go on from where you are")),
                },
                () = tokio::time::sleep(LOOK) => {}
                () = self.rights.due() => {}
            }
        }
    }

    /// Some more, when there is.
    async fn read(&mut self) -> Result<Option<Vec<u8>>, Status> {
        if self.body.is_none() && !self.last {
            let end = self.session.as_ref().map(|session| session.end.as_ref().map(|end| end.events));
            self.body = match end {
                Some(None) => self.copies.beyond(self.id, self.offset).await?,
                ended => {
                    let found = self.copies.whole(self.id, ended.flatten(), self.offset).await?;
                    let found = found.ok_or_else(|| status::not_found("recording", self.id))?;
                    self.last = true;
                    Some(found.data(self.id, self.offset))
                }
            };
        }
        let Some(body) = &mut self.body else { return Ok(None) };
        match body.next().await {
            Some(Ok(data)) => return Ok(Some(data)),
            None => self.body = None,
            Some(Err(status)) => {
                (self.body, self.last) = (None, false);
                return Err(status);
            }
        }
        Ok(None)
    }

    fn allowed(&self) -> Result<(), Status> {
        let caller = self.rights.caller();
        let may = match &self.session {
            Some(session) => may_export(caller, session),
            None => caller.may(Object::Recordings, Verb::Export),
        };
        if may {
            Ok(())
        } else {
            Err(status::with_reason(Status::permission_denied("the recording is not for you any more"), "FORBIDDEN"))
        }
    }
}
