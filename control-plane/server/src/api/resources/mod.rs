//! Declared objects.

mod read;
mod rights;
mod write;

use std::sync::Arc;

use postern_core::Name;
use postern_core::resource::{FieldFault, Kind, Resource};
use postern_core::wire::resource::{kind_from_proto, kind_to_proto, public_proto};
use postern_proto::admin::v1 as pb;
use postern_proto::admin::v1::resource_service_server::ResourceService;
use postern_state::commands::DeleteResource;
use postern_state::{Change, Put, Success};
use tokio::sync::Mutex;
use tonic::{Request, Response, Status};
use tracing::info;

use super::access::Access;
use super::call::Call;
use super::grants::{Object, Verb};
use super::watching::Watches;
use super::{Answers, status};
use crate::keys::Kek;
use crate::raft::RaftHandle;

/// Objects in one request.
const MAX_OBJECTS: usize = 1_000;

#[derive(Clone)]
pub(super) struct Service {
    pub(super) raft: RaftHandle,
    pub(super) kek: Arc<Kek>,
    pub(super) access: Access,
    pub(super) watches: Watches,
    /// For writes that others came before more than once; all the rest go side by side.
    pub(super) contended: Arc<Mutex<()>>,
}

impl Service {
    async fn find(&self, kind: Kind, name: &Name) -> Result<Option<Arc<Resource>>, Status> {
        let name = name.clone();
        self.raft.read(move |state| state.resource(kind, &name).cloned()).await.map_err(status::read)
    }

    /// The object as a write left it; as it now stands, when it was changed again since.
    async fn written(&self, put: &Put) -> Result<Option<postern_proto::resource::v1::Resource>, Status> {
        Ok(self.find(put.kind, &put.name).await?.map(|object| public_proto(&object)))
    }
}

#[tonic::async_trait]
impl ResourceService for Service {
    type WatchStream = Answers<pb::WatchResponse>;

    async fn get(&self, request: Request<pb::GetRequest>) -> Result<Response<pb::GetResponse>, Status> {
        let call = self.access.call(&request)?;
        let request = request.into_inner();
        let (kind, name) = place(&call, request.kind, &request.name, Verb::Get)?;
        let found = self.find(kind, &name).await?.ok_or_else(|| status::not_found(kind.as_str(), &name))?;
        Ok(Response::new(pb::GetResponse { resource: Some(public_proto(&found)) }))
    }

    async fn list(&self, request: Request<pb::ListRequest>) -> Result<Response<pb::ListResponse>, Status> {
        let call = self.access.call(&request)?;
        self.list_page(&call, request.into_inner()).await.map(Response::new)
    }

    async fn create(&self, request: Request<pb::CreateRequest>) -> Result<Response<pb::CreateResponse>, Status> {
        let call = self.access.call(&request)?;
        self.create_one(&call, request.into_inner()).await.map(Response::new)
    }

    async fn update(&self, request: Request<pb::UpdateRequest>) -> Result<Response<pb::UpdateResponse>, Status> {
        let call = self.access.call(&request)?;
        self.update_one(&call, request.into_inner()).await.map(Response::new)
    }

    async fn delete(&self, request: Request<pb::DeleteRequest>) -> Result<Response<pb::DeleteResponse>, Status> {
        let call = self.access.call(&request)?;
        let request = request.into_inner();
        let request_id = status::request_id(&request.request_id)?;
        call.dry_run(request.dry_run);
        let (kind, name) = place(&call, request.kind, &request.name, Verb::Delete)?;
        let command = DeleteResource { kind, name: name.clone(), expected_revision: request.expected_revision };
        if request.dry_run {
            let checked = self.raft.read(move |state| command.check(state)).await.map_err(status::read)?;
            let revision = checked.map_err(status::refused)?;
            return Ok(Response::new(pb::DeleteResponse { revision }));
        }
        let Success::Deleted { revision } = call.write(&self.raft, command, request_id).await? else {
            return Err(used_otherwise());
        };
        info!(caller = %call.caller(), %kind, %name, revision, "deleted");
        Ok(Response::new(pb::DeleteResponse { revision }))
    }

    async fn watch(&self, request: Request<pb::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let call = self.access.call(&request)?;
        self.watch_kind(&call, request.into_inner()).await.map(Response::new)
    }

    async fn apply(&self, request: Request<pb::ApplyRequest>) -> Result<Response<pb::ApplyResponse>, Status> {
        let call = self.access.call(&request)?;
        self.apply_all(&call, request.into_inner()).await.map(Response::new)
    }
}

fn kind(kind: i32) -> Result<Kind, Status> {
    kind_from_proto(kind).ok_or_else(|| status::invalid_field("kind", "is unknown"))
}

/// The object that a request names, if the caller may do `verb` to it.
fn place(call: &Call, of: i32, name: &str, verb: Verb) -> Result<(Kind, Name), Status> {
    let kind = kind(of)?;
    let name: Name = status::parse("name", name)?;
    call.about(format_args!("{kind}/{name}"));
    call.caller().must(Object::from(kind), verb)?;
    Ok((kind, name))
}

fn used_otherwise() -> Status {
    status::invalid_field("request_id", "was used for another request")
}

fn applied(put: Put, dry_run: bool) -> pb::Applied {
    // A dry run gives nothing a revision.
    let revision = if dry_run && put.change != Change::Unchanged { 0 } else { put.revision };
    let change = change(put.change).into();
    pb::Applied { kind: kind_to_proto(put.kind).into(), name: put.name.to_string(), change, revision }
}

const fn change(change: Change) -> pb::Change {
    match change {
        Change::Created => pb::Change::Created,
        Change::Changed => pb::Change::Changed,
        Change::Unchanged => pb::Change::Unchanged,
    }
}

/// Faults of one object, by their paths in the request.
fn within(path: &str, faults: Vec<FieldFault>) -> impl Iterator<Item = FieldFault> + use<'_> {
    faults.into_iter().map(move |fault| FieldFault::new(format!("{path}.{}", fault.path), fault.message))
}
