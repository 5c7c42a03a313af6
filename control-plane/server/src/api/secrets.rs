//! What secrets are sealed under: how it stands, and putting all under the current key.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use futures::StreamExt as _;
use postern_proto::admin::v1 as pb;
use postern_proto::admin::v1::secret_service_server::SecretService;
use postern_state::Success;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tonic::{Request, Response, Status};
use tracing::{info, warn};

use super::Answers;
use super::access::Access;
use super::call::Call;
use super::status;
use crate::keys::rotate::{AGAIN, BATCH, Found, PASSES, counted, lacking, rewrapped, sealed_values};
use crate::keys::{Kek, KeyError};
use crate::raft::RaftHandle;

/// Faults that an answer names.
const MAX_FAULTS: usize = 100;
/// How often a batch whose outcome is unknown is tried.
const TRIES: u32 = 10;

pub(super) struct Service {
    pub(super) raft: RaftHandle,
    pub(super) kek: Arc<Kek>,
    pub(super) access: Access,
    /// Held while this member rotates.
    pub(super) alone: Arc<Mutex<()>>,
}

/// A rotation, between two answers.
struct Rotation {
    raft: RaftHandle,
    kek: Arc<Kek>,
    call: Arc<Call>,
    newest: Option<u32>,
    todo: VecDeque<Found>,
    passes: u32,
    changed: u32,
    skipped: u32,
    faults: BTreeMap<String, String>,
    done: bool,
    _alone: OwnedMutexGuard<()>,
}

fn key_error(error: &KeyError) -> Status {
    if error.is_transient() {
        Status::unavailable(error.to_string())
    } else {
        Status::failed_precondition(error.to_string())
    }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

impl Rotation {
    /// Wraps one batch anew, and tells how far it is. `None` after the last answer.
    async fn step(&mut self) -> Result<Option<pb::RotateKekResponse>, Status> {
        if self.done {
            return Ok(None);
        }
        if self.todo.is_empty() && self.passes < PASSES {
            self.passes = self.passes.saturating_add(1);
            let found = self.raft.read(sealed_values).await.map_err(status::read)?;
            let stale = |(of, sealed): &Found| {
                !self.kek.is_current(sealed, self.newest) && !self.faults.contains_key(&of.to_string())
            };
            self.todo = found.into_iter().filter(stale).collect();
        }
        if self.todo.is_empty() {
            self.done = true;
        } else {
            let size = self.todo.len().min(BATCH);
            let batch: Vec<Found> = self.todo.drain(..size).collect();
            self.put(&batch).await?;
            // What was skipped in the last pass is left.
            self.done = self.todo.is_empty() && self.passes >= PASSES;
        }
        if self.done {
            let found = self.raft.read(sealed_values).await.map_err(status::read)?;
            self.todo = found.into_iter().filter(|(_, sealed)| !self.kek.is_current(sealed, self.newest)).collect();
            let (changed, left) = (self.changed, self.todo.len());
            info!(kek = self.kek.current_id(), changed, left, "data keys are under the current key");
        }
        Ok(Some(self.progress()))
    }

    async fn put(&mut self, batch: &[Found]) -> Result<(), Status> {
        let (command, faults) = rewrapped(&self.kek, batch).await;
        for (of, error) in faults {
            // Vault is away: what is done stays done.
            if error.is_transient() {
                return Err(key_error(&error));
            }
            warn!(%of, %error, "a data key cannot be put under the current key");
            self.faults.insert(of.to_string(), error.to_string());
        }
        if command.items.is_empty() {
            return Ok(());
        }
        let mut tries = 0;
        loop {
            tries += 1;
            match self.call.write(&self.raft, command.clone(), None).await {
                Ok(Success::Rewrapped { changed, skipped }) => {
                    self.changed = self.changed.saturating_add(changed);
                    self.skipped = self.skipped.saturating_add(skipped);
                    return Ok(());
                }
                Ok(_) => return Err(Status::internal("the outcome is of another request")),
                // Without a leader, or with an outcome that is unknown: again is harmless, each item is a compare-and-set.
                Err(error) if tries < TRIES && retryable(&error) => tokio::time::sleep(AGAIN).await,
                Err(error) => return Err(error),
            }
        }
    }

    fn progress(&self) -> pb::RotateKekResponse {
        let faults = self.faults.iter().take(MAX_FAULTS);
        pb::RotateKekResponse {
            kek_id: self.kek.current_id().to_owned(),
            changed: self.changed,
            skipped: self.skipped,
            left: number(self.todo.len()),
            done: self.done,
            faults: faults.map(|(of, message)| pb::KekFault { of: of.clone(), message: message.clone() }).collect(),
        }
    }
}

fn retryable(status: &Status) -> bool {
    use tonic::Code::{Aborted, DeadlineExceeded, ResourceExhausted, Unavailable, Unknown};
    matches!(status.code(), Unavailable | DeadlineExceeded | Unknown | Aborted | ResourceExhausted)
}

#[tonic::async_trait]
impl SecretService for Service {
    async fn get_kek_status(
        &self,
        request: Request<pb::GetKekStatusRequest>,
    ) -> Result<Response<pb::GetKekStatusResponse>, Status> {
        self.access.call(&request)?;
        let read = self.raft.read(|state| {
            let members = state.nodes().map(|node| (node.name.to_string(), node.kek_ids.clone())).collect::<Vec<_>>();
            (sealed_values(state), members)
        });
        let (found, members) = read.await.map_err(status::read)?;
        let (newest, fault) = match self.kek.newest_version().await {
            Ok(newest) => (newest, String::new()),
            Err(error) => (None, error.to_string()),
        };
        let left = found.iter().filter(|(_, sealed)| !self.kek.is_current(sealed, newest)).count();
        let known = self.kek.ids();
        let uses = counted(&found).into_iter().map(|((kek_id, key_version), count)| pb::KekUse {
            known: known.contains(&kek_id),
            kek_id,
            key_version,
            count,
        });
        Ok(Response::new(pb::GetKekStatusResponse {
            current_kek_id: self.kek.current_id().to_owned(),
            current_key_version: newest.unwrap_or(0),
            uses: uses.collect(),
            members: members.into_iter().map(|(node, kek_ids)| pb::MemberKeks { node, kek_ids }).collect(),
            left: number(left),
            fault,
        }))
    }

    type RotateKekStream = Answers<pb::RotateKekResponse>;

    async fn rotate_kek(
        &self,
        request: Request<pb::RotateKekRequest>,
    ) -> Result<Response<Self::RotateKekStream>, Status> {
        let call = self.access.call(&request)?;
        call.about(format_args!("kek/{}", self.kek.current_id()));
        let alone = Arc::clone(&self.alone).try_lock_owned();
        let alone = alone.map_err(|_| Status::aborted("this member is rotating already"))?;
        let id = self.kek.current_id().to_owned();
        let read = self.raft.read(move |state| lacking(state, &id));
        let lacking = read.await.map_err(status::read)?;
        if !lacking.is_empty() {
            return Err(Status::failed_precondition(format!(
                "{} cannot open with key-encryption key {}: configure it on every member first, as `previous` on those that do not seal \
                 under it yet",
                lacking.join(", "),
                self.kek.current_id()
            )));
        }
        let newest = self.kek.newest_version().await.map_err(|error| key_error(&error))?;
        info!(caller = %call.caller(), kek = self.kek.current_id(), "putting data keys under the current key");
        let rotation = Rotation {
            raft: self.raft.clone(),
            kek: Arc::clone(&self.kek),
            call,
            newest,
            todo: VecDeque::new(),
            passes: 0,
            changed: 0,
            skipped: 0,
            faults: BTreeMap::new(),
            done: false,
            _alone: alone,
        };
        let answers = futures::stream::unfold(Some(rotation), |rotation| async move {
            let mut rotation = rotation?;
            match rotation.step().await {
                Ok(None) => None,
                Ok(Some(answer)) => Some((Ok(answer), Some(rotation))),
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(answers.boxed()))
    }
}
