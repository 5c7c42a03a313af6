//! Create, update, apply.
//!
//! Writes go side by side: the state machine compares revisions, nobody waits for another's write. Where what is written depends on what
//! stands there (a mask, a secret that is kept), the write names the revision that it was made for, and is made anew when that is stale.

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use postern_core::resource::{ANY_REVISION, FieldFault, Kind, Resource, Spec};
use postern_core::secret::Sealed;
use postern_core::wire::resource::{from_proto, kind_of, public_proto, sealed_to_proto};
use postern_core::{Name, RequestId};
use postern_proto::admin::v1 as pb;
use postern_proto::resource::v1 as resource_pb;
use postern_state::commands::PutResources;
use postern_state::{Change, Put, Refusal, Success};
use tonic::Status;
use tracing::debug;
use zeroize::Zeroize as _;

use super::super::call::Call;
use super::super::grants::{Grants, Object, Verb};
use super::super::{mask, status};
use super::{MAX_OBJECTS, Service, applied, change, rights, used_otherwise, within};
use crate::feed::sealed_of;
use crate::identity::saml::SamlLogins;

/// Bytes of one secret.
const MAX_SECRET: usize = 64 << 10;
/// How often a write is made anew because another came first.
const MAX_ATTEMPTS: u32 = 16;
/// After so many attempts, those of this node that compete wait for each other.
const SIDE_BY_SIDE: u32 = 2;

/// What stands now in the places of the objects that are to be written.
struct Known {
    objects: Vec<Option<Arc<Resource>>>,
    /// What the declared roles grant that bindings among them name.
    roles: BTreeMap<Name, Grants>,
}

/// Objects as they will be stored.
struct Prepared {
    resources: Vec<Resource>,
    /// Whether a revision in it is what stood there when it was made, and not what the client demands.
    made_for: bool,
}

/// What is asked for.
enum Plan {
    Apply,
    Create,
    Update {
        paths: Vec<String>,
        /// The revision that the client has seen; 0: any.
        expected: u64,
        allow_missing: bool,
    },
}

/// What a write came to.
struct Written {
    puts: Vec<Put>,
    /// Of the state; for a write that was none.
    revision: u64,
}

impl Service {
    pub(super) async fn apply_all(&self, call: &Call, request: pb::ApplyRequest) -> Result<pb::ApplyResponse, Status> {
        let request_id = status::request_id(&request.request_id)?;
        call.dry_run(request.dry_run);
        if request.resources.len() > MAX_OBJECTS {
            return Err(status::invalid_field("resources", format!("are more than {MAX_OBJECTS}")));
        }
        let written = self.put(call, &Plan::Apply, &request.resources, request_id, request.dry_run).await?;
        let newest = written.puts.iter().map(|put| put.revision).max().unwrap_or(0);
        let revision = if request.dry_run { written.revision } else { newest };
        let applied = written.puts.into_iter().map(|put| applied(put, request.dry_run)).collect();
        Ok(pb::ApplyResponse { applied, revision })
    }

    pub(super) async fn create_one(
        &self,
        call: &Call,
        request: pb::CreateRequest,
    ) -> Result<pb::CreateResponse, Status> {
        let request_id = status::request_id(&request.request_id)?;
        call.dry_run(request.dry_run);
        let object = request.resource.ok_or_else(|| status::invalid_field("resource", "is missing"))?;
        if object.metadata.as_ref().is_some_and(|metadata| metadata.revision != 0) {
            return Err(status::invalid_field(
                "resource.metadata.revision",
                "must be 0: the object does not exist yet",
            ));
        }
        let objects = [object];
        let written = self.put(call, &Plan::Create, &objects, request_id, request.dry_run).await?;
        let resource = self.shown(written.puts.first(), request.dry_run, &objects).await?;
        Ok(pb::CreateResponse { resource })
    }

    pub(super) async fn update_one(
        &self,
        call: &Call,
        request: pb::UpdateRequest,
    ) -> Result<pb::UpdateResponse, Status> {
        let request_id = status::request_id(&request.request_id)?;
        call.dry_run(request.dry_run);
        let object = request.resource.ok_or_else(|| status::invalid_field("resource", "is missing"))?;
        let seen = object.metadata.as_ref().map_or(0, |metadata| metadata.revision);
        let expected = match (seen, request.expected_revision) {
            (seen, 0) => seen,
            (0, expected) => expected,
            (seen, expected) if seen == expected => expected,
            _ => return Err(status::invalid_field("expected_revision", "is another than resource.metadata.revision")),
        };
        let paths = request.update_mask.map(|mask| mask.paths).unwrap_or_default();
        let objects = [object];
        let plan = Plan::Update { paths, expected, allow_missing: request.allow_missing };
        let written = self.put(call, &plan, &objects, request_id, request.dry_run).await?;
        let put = written.puts.first();
        let change = put.map_or(pb::Change::Unspecified, |put| change(put.change)).into();
        let resource = self.shown(put, request.dry_run, &objects).await?;
        Ok(pb::UpdateResponse { resource, change })
    }

    /// For an answer: as it was written; of a dry run what was asked for.
    async fn shown(
        &self,
        put: Option<&Put>,
        dry_run: bool,
        asked: &[resource_pb::Resource],
    ) -> Result<Option<resource_pb::Resource>, Status> {
        match put {
            Some(put) if !dry_run => self.written(put).await,
            _ => Ok(asked.first().cloned().map(without_secret)),
        }
    }

    /// The objects as they will be stored, made for what stands there now.
    async fn prepared(
        &self,
        call: &Call,
        plan: &Plan,
        objects: &[resource_pb::Resource],
        known: &Known,
    ) -> Result<Prepared, Status> {
        let alone = objects.first().zip(known.objects.first());
        match (plan, alone) {
            (Plan::Apply, _) => {
                let (mut prepared, mut faults) = (Prepared { resources: Vec::new(), made_for: false }, Vec::new());
                for (n, (object, known)) in objects.iter().zip(&known.objects).enumerate() {
                    match self.stored_form(call, object.clone(), known.as_deref()).await {
                        Ok((resource, made_for)) => {
                            prepared.made_for |= made_for;
                            prepared.resources.push(resource);
                        }
                        Err(found) => faults.extend(within(&format!("resources[{n}]"), found)),
                    }
                }
                if faults.is_empty() { Ok(prepared) } else { Err(status::invalid(&faults)) }
            }
            (Plan::Create, Some((object, _))) => self.alone(call, object.clone(), None, 0).await,
            (Plan::Update { expected, allow_missing, .. }, Some((object, None))) => {
                if !allow_missing || *expected != 0 {
                    let (kind, name) = (kind_of(object).map_or("object", Kind::as_str), name_of(object));
                    return Err(status::not_found(kind, name.unwrap_or("")));
                }
                let mut prepared = self.alone(call, object.clone(), None, 0).await?;
                prepared.made_for = true;
                Ok(prepared)
            }
            (Plan::Update { paths, expected, .. }, Some((object, Some(known)))) => {
                let merged =
                    mask::merge(&public_proto(known), object, paths).map_err(|faults| status::invalid(&faults))?;
                let revision = if *expected == 0 { known.metadata.revision } else { *expected };
                let mut prepared = self.alone(call, merged, Some(known), revision).await?;
                prepared.made_for = *expected == 0;
                Ok(prepared)
            }
            (Plan::Create | Plan::Update { .. }, None) => Err(status::invalid_field("resource", "is missing")),
        }
    }

    /// Writes, anew for as long as others come first.
    async fn put(
        &self,
        call: &Call,
        plan: &Plan,
        objects: &[resource_pb::Resource],
        request_id: Option<RequestId>,
        dry_run: bool,
    ) -> Result<Written, Status> {
        let places: Vec<Option<(Kind, Name)>> = objects.iter().map(place).collect();
        for (kind, name) in places.iter().flatten() {
            call.about(format_args!("{kind}/{name}"));
        }
        // Who may do everything, and writes what depends on nothing that stands there, needs to look at nothing.
        let secret = |object: &resource_pb::Resource| kind_of(object) == Some(Kind::Secret);
        let blind = !dry_run
            && call.caller().is_admin()
            && match plan {
                Plan::Create => true,
                Plan::Apply => !objects.iter().any(secret),
                Plan::Update { .. } => false,
            };
        let mut _alone = None;
        for attempt in 0..MAX_ATTEMPTS {
            if attempt == SIDE_BY_SIDE {
                // Many want the same object: one after the other is faster now.
                _alone = Some(self.contended.lock().await);
            }
            let known = if blind {
                Known { objects: vec![None; places.len()], roles: BTreeMap::new() }
            } else {
                self.known(places.clone()).await?
            };
            for (place, known) in places.iter().zip(&known.objects).filter(|_| !blind) {
                let create = known.is_none() || matches!(plan, Plan::Create);
                let verb = if create { Verb::Create } else { Verb::Update };
                place.as_ref().map_or(Ok(()), |(kind, _)| call.caller().must(Object::from(*kind), verb))?;
            }
            let Prepared { resources, made_for } = self.prepared(call, plan, objects, &known).await?;
            rights::check(call.caller(), &resources, &known.roles)?;
            let command = PutResources { resources };
            // What is not to be done is only looked at. All else the log decides: what is unchanged, and what is a retry.
            if dry_run {
                let would = command.clone();
                let read = self.raft.read(move |state| (would.check(state), state.index()));
                let (puts, revision) = read.await.map_err(status::read)?;
                match puts {
                    Err(refusal) if made_for && is_stale(&refusal) => continue,
                    puts => return Ok(Written { puts: puts.map_err(status::refused)?, revision }),
                }
            }
            let id = request_id.map(|id| attempt_id(id, attempt));
            let outcome = call.outcome(&self.raft, command.into(), id).await.map_err(status::propose)?;
            match outcome {
                Ok(Success::Put(puts)) => {
                    for put in puts.iter().filter(|put| put.change != Change::Unchanged) {
                        debug!(caller = %call.caller(), kind = %put.kind, name = %put.name, change = ?put.change, revision = put.revision, "applied");
                    }
                    return Ok(Written { puts, revision: 0 });
                }
                Ok(_) => return Err(used_otherwise()),
                Err(refusal) if made_for && is_stale(&refusal) => {}
                Err(refusal) => return Err(status::refused(refusal)),
            }
        }
        let busy = Status::aborted("others change the same objects all the time: try again");
        Err(status::with_reason(busy, "STALE_REVISION"))
    }

    async fn known(&self, places: Vec<Option<(Kind, Name)>>) -> Result<Known, Status> {
        let read = self.raft.read(move |state| {
            let known = |place: &Option<(Kind, Name)>| {
                place.as_ref().and_then(|(kind, name)| state.resource(*kind, name).cloned())
            };
            let binds = places.iter().flatten().any(|(kind, _)| *kind == Kind::RoleBinding);
            let roles: Vec<Arc<Resource>> =
                if binds { state.resources(Kind::Role).cloned().collect() } else { Vec::new() };
            (places.iter().map(known).collect(), roles)
        });
        let (objects, roles) = read.await.map_err(status::read)?;
        let roles = roles.iter().filter_map(|role| match &role.spec {
            Spec::Role(spec) => Some((role.metadata.name.clone(), Grants::from(spec))),
            _ => None,
        });
        Ok(Known { objects, roles: roles.collect() })
    }

    /// The one object of a request, to be written at `revision`.
    async fn alone(
        &self,
        call: &Call,
        object: resource_pb::Resource,
        known: Option<&Resource>,
        revision: u64,
    ) -> Result<Prepared, Status> {
        let (mut resource, _) = self
            .stored_form(call, object, known)
            .await
            .map_err(|faults| status::invalid(&within("resource", faults).collect::<Vec<_>>()))?;
        resource.metadata.revision = revision;
        Ok(Prepared { resources: vec![resource], made_for: false })
    }

    /// The object as it will be stored, at the revision that it needs; whether that is one that it was made for.
    async fn stored_form(
        &self,
        call: &Call,
        mut object: resource_pb::Resource,
        known: Option<&Resource>,
    ) -> Result<(Resource, bool), Vec<FieldFault>> {
        let name = name_of(&object).unwrap_or("").to_owned();
        let mut kept = false;
        if let Some(resource_pb::resource::Spec::Secret(secret)) = &mut object.spec {
            let stored = known.and_then(sealed);
            let sealed = match secret.source.take() {
                Some(resource_pb::secret_spec::Source::Value(mut value)) => {
                    let sealed = self.seal(&name, &value, stored).await;
                    value.zeroize();
                    sealed?
                }
                Some(resource_pb::secret_spec::Source::Stored(true)) => stored
                    .cloned()
                    .ok_or_else(|| vec![FieldFault::new("spec.value", "is missing: no value is stored yet")])?,
                Some(resource_pb::secret_spec::Source::Sealed(_)) => {
                    return Err(vec![FieldFault::new("spec.sealed", "is for the control plane alone")]);
                }
                Some(resource_pb::secret_spec::Source::Stored(false)) | None => {
                    return Err(vec![FieldFault::new("spec.value", "is missing")]);
                }
            };
            kept = stored == Some(&sealed);
            secret.source = Some(resource_pb::secret_spec::Source::Sealed(sealed_to_proto(&sealed)));
        }
        let mut resource = from_proto(object)?;
        if let Spec::Issuer(issuer) = &resource.spec {
            let faults = SamlLogins::faults(issuer);
            if !faults.is_empty() {
                return Err(faults);
            }
        }
        if resource.metadata.revision == ANY_REVISION {
            return Err(vec![FieldFault::new("metadata.revision", "is none that an object can be at")]);
        }
        if resource.metadata.revision != 0 {
            return Ok((resource, false));
        }
        let object = Object::from(resource.spec.kind());
        let both = call.caller().may(object, Verb::Create) && call.caller().may(object, Verb::Update);
        // A sealed value that is kept must be the one that is there; who may only create must not replace.
        let made_for = kept || !both;
        let standing = known.map_or(0, |known| known.metadata.revision);
        resource.metadata.revision = if made_for { standing } else { ANY_REVISION };
        Ok((resource, made_for))
    }

    /// A value sealed; as it is stored when it is the same.
    async fn seal(&self, name: &str, value: &str, stored: Option<&Sealed>) -> Result<Sealed, Vec<FieldFault>> {
        let fault = |message: String| vec![FieldFault::new("spec.value", message)];
        if value.is_empty() || value.len() > MAX_SECRET {
            return Err(fault(format!("must have 1 to {MAX_SECRET} bytes")));
        }
        let Ok(name) = name.parse::<Name>() else {
            return Err(vec![FieldFault::new("metadata.name", postern_core::name::InvalidName.to_string())]);
        };
        let of = sealed_of(&name);
        if let Some(sealed) = stored
            && let Ok(stored) = self.kek.open(&of, sealed).await
            && verify_slices_are_equal(stored.expose(), value.as_bytes()).is_ok()
        {
            return Ok(sealed.clone());
        }
        self.kek.seal(&of, value.as_bytes()).await.map_err(|error| fault(error.to_string()))
    }
}

fn name_of(object: &resource_pb::Resource) -> Option<&str> {
    object.metadata.as_ref().map(|metadata| metadata.name.as_str())
}

fn place(object: &resource_pb::Resource) -> Option<(Kind, Name)> {
    kind_of(object).zip(name_of(object).and_then(|name| name.parse().ok()))
}

fn sealed(known: &Resource) -> Option<&Sealed> {
    match &known.spec {
        Spec::Secret(sealed) => Some(sealed),
        _ => None,
    }
}

const fn is_stale(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::Stale { .. } | Refusal::AlreadyExists { .. })
}

/// No value is ever told, not even to whom it came from (I5).
fn without_secret(mut object: resource_pb::Resource) -> resource_pb::Resource {
    if let Some(resource_pb::resource::Spec::Secret(secret)) = &mut object.spec {
        if let Some(resource_pb::secret_spec::Source::Value(value)) = &mut secret.source {
            value.zeroize();
        }
        secret.source = Some(resource_pb::secret_spec::Source::Stored(true));
    }
    object
}

/// Each attempt has an id of its own, the same in every retry: the log remembers that the first attempts were stale, and how the last ended.
fn attempt_id(id: RequestId, attempt: u32) -> RequestId {
    if attempt == 0 {
        return id;
    }
    let mut bytes = id.to_bytes().to_vec();
    bytes.extend(attempt.to_be_bytes());
    let mut short = [0; 16];
    for (to, from) in short.iter_mut().zip(digest(&SHA256, &bytes).as_ref()) {
        *to = *from;
    }
    RequestId::from_bytes(short)
}
