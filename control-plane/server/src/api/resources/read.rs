//! Lists and watches.

use std::collections::BTreeSet;
use std::sync::Arc;

use postern_core::Name;
use postern_core::resource::{Kind, Resource};
use postern_core::wire::resource::public_proto;
use postern_proto::admin::v1 as pb;
use postern_proto::resource::v1 as resource_pb;
use postern_state::ObjectKey;
use prost::Message as _;
use tonic::Status;

use super::super::access::Caller;
use super::super::call::Call;
use super::super::grants::{Object, Verb};
use super::super::labels::LabelSelector;
use super::super::page::{Key, Page, Sizes, order};
use super::super::watching::Watched;
use super::super::{Answers, status};
use super::{Service, kind};
use crate::watch::{Change, ChangeSet, Value};

const SIZES: Sizes = Sizes { default: 500, most: 1_000 };

impl Service {
    pub(super) async fn list_page(&self, call: &Call, request: pb::ListRequest) -> Result<pb::ListResponse, Status> {
        let kind = kind(request.kind)?;
        call.about(kind);
        call.caller().must(Object::from(kind), Verb::List)?;
        let selector: LabelSelector = status::parse("label_selector", &request.label_selector)?;
        let (field, descending) = order(&request.order_by, &["name", "created", "updated"], ("name", false))?;
        let query = [kind.as_str(), &request.label_selector, field];
        let page = Page::read(request.page_size, SIZES, &request.page_token, &query, descending)?;
        let read = self.raft.read(move |state| {
            let found: Vec<Arc<Resource>> = state.resources(kind).cloned().collect();
            (found, state.index())
        });
        let (found, revision) = read.await.map_err(status::read)?;
        let found = found.into_iter().filter(|object| selector.matches(&object.metadata.labels));
        let key = |object: &Arc<Resource>| Key {
            number: match field {
                "created" => object.metadata.created_at.millis(),
                "updated" => object.metadata.updated_at.millis(),
                _ => 0,
            },
            text: object.metadata.name.to_string(),
        };
        let (found, next_page_token) = page.cut(found, key, |object| public_proto(object).encoded_len());
        let resources = found.iter().map(|object| public_proto(object)).collect();
        Ok(pb::ListResponse { resources, revision, next_page_token })
    }

    pub(super) async fn watch_kind(
        &self,
        call: &Arc<Call>,
        request: pb::WatchRequest,
    ) -> Result<Answers<pb::WatchResponse>, Status> {
        let kind = kind(request.kind)?;
        let name = match request.name.as_str() {
            "" => None,
            name => Some(status::parse::<Name>("name", name)?),
        };
        match &name {
            Some(name) => call.about(format_args!("{kind}/{name}")),
            None => call.about(kind),
        }
        call.caller().must(Object::from(kind), Verb::Watch)?;
        let selector: LabelSelector = status::parse("label_selector", &request.label_selector)?;
        let resumed = request.from_revision != 0;
        let mut watched = Objects { kind, selector, resumed, known: BTreeSet::new() };
        let only = name.clone();
        let wanted = move |of: Kind, name: &Name| of == kind && only.as_ref().is_none_or(|only| only == name);
        let first = if request.from_revision == 0 {
            let wanted = wanted.clone();
            let read = self.raft.read(move |state| {
                let found: Vec<Arc<Resource>> =
                    state.resources(kind).filter(|object| wanted(kind, &object.metadata.name)).cloned().collect();
                (found, state.index())
            });
            let (found, revision) = read.await.map_err(status::read)?;
            let told = found.iter().filter_map(|object| watched.told(object, object.metadata.revision)).collect();
            Some((told, revision))
        } else {
            None
        };
        let only = move |change: &Change| matches!(&change.key, ObjectKey::Resource(kind, name) if wanted(*kind, name));
        self.watches.stream(call, request.from_revision, first, only, watched).await
    }
}

/// A watch of one kind.
struct Objects {
    kind: Kind,
    selector: LabelSelector,
    /// It goes on from a revision: what the client knows is not known here.
    resumed: bool,
    /// The names that the client has been told of.
    known: BTreeSet<Name>,
}

impl Objects {
    /// What is told of an object as it is now.
    fn told(&mut self, object: &Resource, revision: u64) -> Option<pb::WatchResponse> {
        if !self.selector.matches(&object.metadata.labels) {
            return self.gone(&object.metadata.name, revision);
        }
        let first = self.known.insert(object.metadata.name.clone());
        let made_now = object.metadata.created_at == object.metadata.updated_at;
        let event = if first && (!self.resumed || made_now) { pb::WatchEvent::Added } else { pb::WatchEvent::Modified };
        Some(pb::WatchResponse { event: event.into(), resource: Some(public_proto(object)), revision })
    }

    fn gone(&mut self, name: &Name, revision: u64) -> Option<pb::WatchResponse> {
        if !self.known.remove(name) && !self.resumed {
            return None;
        }
        let metadata = resource_pb::Metadata { name: name.to_string(), ..Default::default() };
        let resource = resource_pb::Resource { metadata: Some(metadata), spec: Some(empty(self.kind)) };
        Some(pb::WatchResponse { event: pb::WatchEvent::Deleted.into(), resource: Some(resource), revision })
    }
}

impl Watched for Objects {
    type Answer = pb::WatchResponse;

    fn changed(&mut self, _: &Caller, set: &ChangeSet) -> Vec<pb::WatchResponse> {
        let told = set.changes.iter().filter_map(|change| match (&change.key, &change.value) {
            (_, Some(Value::Resource(object))) => self.told(object, set.revision),
            (ObjectKey::Resource(_, name), None) => self.gone(name, set.revision),
            _ => None,
        });
        told.collect()
    }

    fn bookmark(&self, revision: u64) -> pb::WatchResponse {
        pb::WatchResponse { event: pb::WatchEvent::Bookmark.into(), resource: None, revision }
    }

    fn allowed(&self, caller: &Caller) -> Result<(), Status> {
        caller.must(Object::from(self.kind), Verb::Watch)
    }
}

/// A specification that tells the kind and nothing else.
fn empty(kind: Kind) -> resource_pb::resource::Spec {
    use resource_pb::resource::Spec;
    match kind {
        Kind::Issuer => Spec::Issuer(resource_pb::IssuerSpec::default()),
        Kind::Target => Spec::Target(resource_pb::TargetSpec::default()),
        Kind::Policy => Spec::Policy(resource_pb::PolicySpec::default()),
        Kind::MaskingRule => Spec::MaskingRule(resource_pb::MaskingRuleSpec::default()),
        Kind::Secret => Spec::Secret(resource_pb::SecretSpec::default()),
        Kind::Role => Spec::Role(resource_pb::RoleSpec::default()),
        Kind::RoleBinding => Spec::RoleBinding(resource_pb::RoleBindingSpec::default()),
        Kind::ServiceAccount => Spec::ServiceAccount(resource_pb::ServiceAccountSpec::default()),
        Kind::Webhook => Spec::Webhook(resource_pb::WebhookSpec::default()),
    }
}
