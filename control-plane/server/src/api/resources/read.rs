//! Lists and watches.

use std::sync::Arc;

use postern_core::resource::Resource;
use postern_core::wire::resource::public_proto;
use postern_proto::admin::v1 as pb;
use prost::Message as _;
use tonic::Status;

use super::super::call::Call;
use super::super::grants::{Object, Verb};
use super::super::labels::LabelSelector;
use super::super::page::{Key, Page, Sizes, order};
use super::super::{Answers, status};
use super::{Service, kind};

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
        call: &Call,
        request: pb::WatchRequest,
    ) -> Result<Answers<pb::WatchResponse>, Status> {
        let kind = kind(request.kind)?;
        call.about(kind);
        call.caller().must(Object::from(kind), Verb::Watch)?;
        Err(Status::unimplemented("not yet"))
    }
}
