//! Declared objects: apply, get, list, delete.

use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use postern_core::Name;
use postern_core::resource::{FieldFault, Kind, Resource, Spec};
use postern_core::secret::Sealed;
use postern_core::wire::resource::{
    from_proto, kind_from_proto, kind_of, kind_to_proto, public_proto, sealed_to_proto,
};
use postern_proto::admin::v1 as pb;
use postern_proto::admin::v1::resource_service_server::ResourceService;
use postern_proto::resource::v1 as resource_pb;
use postern_state::commands::{DeleteResource, PutResources};
use postern_state::{Change, Put, Success};
use tokio::sync::Mutex;
use tonic::{Request, Response, Status};
use tracing::info;
use zeroize::Zeroize as _;

use super::access::Access;
use super::status;
use crate::feed::sealed_of;
use crate::keys::Kek;
use crate::raft::RaftHandle;

/// Objects in one request.
const MAX_OBJECTS: usize = 1_000;
/// Bytes of one secret.
const MAX_SECRET: usize = 64 << 10;

pub(super) struct Service {
    raft: RaftHandle,
    kek: Arc<Kek>,
    access: Access,
    /// One change at a time, so that the revisions seen are those that are written onto. Only the leader writes.
    writes: Mutex<()>,
}

/// What stands now in the place of an object that is to be written.
#[derive(Default)]
struct Known {
    revision: u64,
    sealed: Option<Sealed>,
}

impl Service {
    pub(super) fn new(raft: RaftHandle, kek: Arc<Kek>, access: Access) -> Self {
        Self { raft, kek, access, writes: Mutex::new(()) }
    }

    async fn known(&self, places: Vec<Option<(Kind, Name)>>) -> Result<Vec<Known>, Status> {
        let read = self.raft.read(move |state| {
            let known = |place: &Option<(Kind, Name)>| {
                let object = place.as_ref().and_then(|(kind, name)| state.resource(*kind, name));
                object.map_or_else(Known::default, |object| Known {
                    revision: object.metadata.revision,
                    sealed: match &object.spec {
                        Spec::Secret(sealed) => Some(sealed.clone()),
                        _ => None,
                    },
                })
            };
            places.iter().map(known).collect()
        });
        read.await.map_err(status::read)
    }

    /// The object as it will be stored: a Secret's value sealed, or as it was when it is the same.
    async fn read_in(&self, mut object: resource_pb::Resource, known: &Known) -> Result<Resource, Vec<FieldFault>> {
        let name = object.metadata.as_ref().map(|metadata| metadata.name.clone()).unwrap_or_default();
        if let Some(resource_pb::resource::Spec::Secret(secret)) = &mut object.spec {
            let sealed = match secret.source.take() {
                Some(resource_pb::secret_spec::Source::Value(mut value)) => {
                    let sealed = self.seal(&name, &value, known).await;
                    value.zeroize();
                    sealed?
                }
                Some(resource_pb::secret_spec::Source::Stored(true)) => known
                    .sealed
                    .clone()
                    .ok_or_else(|| vec![FieldFault::new("spec.value", "is missing: no value is stored yet")])?,
                Some(resource_pb::secret_spec::Source::Sealed(_)) => {
                    return Err(vec![FieldFault::new("spec.sealed", "is for the control plane alone")]);
                }
                Some(resource_pb::secret_spec::Source::Stored(false)) | None => {
                    return Err(vec![FieldFault::new("spec.value", "is missing")]);
                }
            };
            secret.source = Some(resource_pb::secret_spec::Source::Sealed(sealed_to_proto(&sealed)));
        }
        let mut resource = from_proto(object)?;
        if resource.metadata.revision == 0 {
            resource.metadata.revision = known.revision;
        }
        Ok(resource)
    }

    async fn seal(&self, name: &str, value: &str, known: &Known) -> Result<Sealed, Vec<FieldFault>> {
        let fault = |message: String| vec![FieldFault::new("spec.value", message)];
        if value.is_empty() || value.len() > MAX_SECRET {
            return Err(fault(format!("must have 1 to {MAX_SECRET} bytes")));
        }
        let Ok(name) = name.parse::<Name>() else {
            return Err(vec![FieldFault::new("metadata.name", postern_core::name::InvalidName.to_string())]);
        };
        let of = sealed_of(&name);
        if let Some(sealed) = &known.sealed
            && let Ok(stored) = self.kek.open(&of, sealed).await
            && verify_slices_are_equal(stored.expose(), value.as_bytes()).is_ok()
        {
            return Ok(sealed.clone());
        }
        self.kek.seal(&of, value.as_bytes()).await.map_err(|error| fault(error.to_string()))
    }

    /// The command that a request asks for.
    async fn command(&self, objects: Vec<resource_pb::Resource>) -> Result<PutResources, Status> {
        let place = |object: &resource_pb::Resource| {
            let name = object.metadata.as_ref().and_then(|metadata| metadata.name.parse().ok());
            kind_of(object).zip(name)
        };
        let known = self.known(objects.iter().map(place).collect()).await?;
        let (mut resources, mut faults) = (Vec::new(), Vec::new());
        for (n, (object, known)) in objects.into_iter().zip(&known).enumerate() {
            match self.read_in(object, known).await {
                Ok(resource) => resources.push(resource),
                Err(found) => faults.extend(
                    found
                        .into_iter()
                        .map(|fault| FieldFault::new(format!("resources[{n}].{}", fault.path), fault.message)),
                ),
            }
        }
        if faults.is_empty() { Ok(PutResources { resources }) } else { Err(status::invalid(&faults)) }
    }
}

#[tonic::async_trait]
impl ResourceService for Service {
    async fn apply(&self, request: Request<pb::ApplyRequest>) -> Result<Response<pb::ApplyResponse>, Status> {
        let caller = self.access.admin(&request)?;
        let request = request.into_inner();
        let request_id = status::request_id(&request.request_id)?;
        if request.resources.len() > MAX_OBJECTS {
            return Err(status::invalid_field("resources", format!("are more than {MAX_OBJECTS}")));
        }
        let _alone = self.writes.lock().await;
        let command = self.command(request.resources).await?;
        // With a request id the log decides: it knows whether this is a retry, and what the first outcome was.
        if request.dry_run || request_id.is_none() {
            let would = command.clone();
            let read = self.raft.read(move |state| (would.check(state), state.policy_revision()));
            let (puts, revision) = read.await.map_err(status::read)?;
            let puts = puts.map_err(status::refused)?;
            if request.dry_run || puts.iter().all(|put| put.change == Change::Unchanged) {
                let applied = puts.into_iter().map(|put| applied(put, request.dry_run)).collect();
                return Ok(Response::new(pb::ApplyResponse { applied, revision }));
            }
        }
        let outcome = self.raft.propose(command, request_id).await.map_err(status::propose)?;
        let Success::Put(puts) = outcome.map_err(status::refused)? else {
            return Err(status::invalid_field("request_id", "was used for another request"));
        };
        for put in puts.iter().filter(|put| put.change != Change::Unchanged) {
            info!(%caller, kind = %put.kind, name = %put.name, change = ?put.change, revision = put.revision, "applied");
        }
        let revision = puts.iter().map(|put| put.revision).max().unwrap_or(0);
        let applied = puts.into_iter().map(|put| applied(put, false)).collect();
        Ok(Response::new(pb::ApplyResponse { applied, revision }))
    }

    async fn get(&self, request: Request<pb::GetRequest>) -> Result<Response<pb::GetResponse>, Status> {
        self.access.auditor(&request)?;
        let request = request.into_inner();
        let kind = kind(request.kind)?;
        let name: Name = status::parse("name", &request.name)?;
        let of = name.clone();
        let found = self.raft.read(move |state| state.resource(kind, &of).cloned()).await.map_err(status::read)?;
        let found = found.ok_or_else(|| Status::not_found(format!("no such {kind} {name}")))?;
        Ok(Response::new(pb::GetResponse { resource: Some(public_proto(&found)) }))
    }

    async fn list(&self, request: Request<pb::ListRequest>) -> Result<Response<pb::ListResponse>, Status> {
        self.access.auditor(&request)?;
        let kind = kind(request.into_inner().kind)?;
        let read = self.raft.read(move |state| {
            let found: Vec<Arc<Resource>> = state.resources(kind).cloned().collect();
            (found, state.policy_revision())
        });
        let (found, revision) = read.await.map_err(status::read)?;
        let resources = found.iter().map(|object| public_proto(object)).collect();
        Ok(Response::new(pb::ListResponse { resources, revision }))
    }

    async fn delete(&self, request: Request<pb::DeleteRequest>) -> Result<Response<pb::DeleteResponse>, Status> {
        let caller = self.access.admin(&request)?;
        let request = request.into_inner();
        let request_id = status::request_id(&request.request_id)?;
        let kind = kind(request.kind)?;
        let name: Name = status::parse("name", &request.name)?;
        let command = DeleteResource { kind, name: name.clone(), expected_revision: request.expected_revision };
        let _alone = self.writes.lock().await;
        let outcome = self.raft.propose(command, request_id).await.map_err(status::propose)?;
        let Success::Deleted { revision } = outcome.map_err(status::refused)? else {
            return Err(status::invalid_field("request_id", "was used for another request"));
        };
        info!(%caller, %kind, %name, revision, "deleted");
        Ok(Response::new(pb::DeleteResponse { revision }))
    }
}

fn kind(kind: i32) -> Result<Kind, Status> {
    kind_from_proto(kind).ok_or_else(|| status::invalid_field("kind", "is unknown"))
}

fn applied(put: Put, dry_run: bool) -> pb::Applied {
    let change = match put.change {
        Change::Created => pb::Change::Created,
        Change::Changed => pb::Change::Changed,
        Change::Unchanged => pb::Change::Unchanged,
    };
    // A dry run gives nothing a revision.
    let revision = if dry_run && put.change != Change::Unchanged { 0 } else { put.revision };
    pb::Applied { kind: kind_to_proto(put.kind).into(), name: put.name.to_string(), change: change.into(), revision }
}
