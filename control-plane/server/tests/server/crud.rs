//! Create, list in pages, update by mask, watch; what is refused, with its details.

use std::collections::BTreeMap;

use postern_proto::admin::v1 as pb;
use postern_proto::admin::v1::resource_service_client::ResourceServiceClient;
use postern_proto::resource::v1 as resource_pb;
use prost::Message as _;
use resource_pb::Kind;
use resource_pb::resource::Spec;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::node::start;
use crate::resources::{apply, secret, target};

type Client = ResourceServiceClient<Channel>;

fn labelled(name: &str, labels: &[(&str, &str)]) -> resource_pb::Resource {
    let mut object = target(name, "", 0);
    object.metadata.as_mut().unwrap().labels =
        labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect::<BTreeMap<_, _>>();
    object
}

fn name(object: &resource_pb::Resource) -> String {
    object.metadata.as_ref().unwrap().name.clone()
}

fn revision(object: &resource_pb::Resource) -> u64 {
    object.metadata.as_ref().unwrap().revision
}

fn spec(object: &mut resource_pb::Resource) -> &mut resource_pb::TargetSpec {
    match &mut object.spec {
        Some(Spec::Target(spec)) => spec,
        other => panic!("{other:?}"),
    }
}

fn reason(status: &Status) -> String {
    status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
}

async fn pages(client: &mut Client, mut request: pb::ListRequest) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    loop {
        let page = client.list(request.clone()).await.unwrap().into_inner();
        all.push(page.resources.iter().map(name).collect());
        if page.next_page_token.is_empty() {
            return all;
        }
        request.page_token = page.next_page_token;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_come_in_pages_by_labels_and_order() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let mut client = ResourceServiceClient::new(node.admin().await);
    for (object, env) in [("c", "prod"), ("a", "prod"), ("e", "test"), ("b", "prod"), ("d", "prod")] {
        client.apply(apply(vec![labelled(object, &[("env", env)])])).await.unwrap();
    }
    let list = pb::ListRequest { kind: Kind::Target.into(), page_size: 2, ..Default::default() };
    assert_eq!(pages(&mut client, list.clone()).await, [vec!["a", "b"], vec!["c", "d"], vec!["e"]]);
    let by = |selector: &str, order: &str| pb::ListRequest {
        label_selector: selector.to_owned(),
        order_by: order.to_owned(),
        page_size: 100,
        ..list.clone()
    };
    assert_eq!(pages(&mut client, by("env=prod", "")).await, [vec!["a", "b", "c", "d"]]);
    assert_eq!(pages(&mut client, by("env!=prod", "")).await, [vec!["e"]]);
    assert_eq!(pages(&mut client, by("", "created")).await, [vec!["c", "a", "e", "b", "d"]]);
    assert_eq!(pages(&mut client, by("", "updated desc")).await, [vec!["d", "b", "e", "a", "c"]]);

    // What changes between pages neither hides nor repeats the rest.
    let first = client.list(list.clone()).await.unwrap().into_inner();
    let delete = pb::DeleteRequest { kind: Kind::Target.into(), name: "b".into(), ..Default::default() };
    client.delete(delete).await.unwrap();
    client.apply(apply(vec![labelled("aa", &[]), labelled("cc", &[])])).await.unwrap();
    let next = pb::ListRequest { page_token: first.next_page_token.clone(), ..list.clone() };
    assert_eq!(pages(&mut client, next).await, [vec!["c", "cc"], vec!["d", "e"]]);

    for bad in [
        pb::ListRequest { page_token: first.next_page_token, label_selector: "env=prod".into(), ..list.clone() },
        pb::ListRequest { page_token: "nonsense".into(), ..list.clone() },
        by("env in prod", ""),
        by("", "size"),
        pb::ListRequest { kind: 77, ..list.clone() },
    ] {
        let refused = client.list(bad).await.unwrap_err();
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::InvalidArgument, "INVALID_FIELDS"));
    }
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_created_once_and_updated_by_mask() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let mut client = ResourceServiceClient::new(node.admin().await);
    let create = |object| pb::CreateRequest { resource: Some(object), ..Default::default() };
    let dry = pb::CreateRequest { dry_run: true, ..create(labelled("db", &[("env", "prod")])) };
    client.create(dry).await.unwrap();
    let made = client.create(create(labelled("db", &[("env", "prod")]))).await.unwrap().into_inner().resource.unwrap();
    assert!(revision(&made) > 0 && made.metadata.as_ref().unwrap().created_at.is_some());
    let refused = client.create(create(labelled("db", &[]))).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::AlreadyExists, "ALREADY_EXISTS"));
    assert_eq!(refused.get_error_details().resource_info().unwrap().resource_name, "db");
    assert!(!refused.get_error_details().request_info().unwrap().request_id.is_empty());

    let update = |object: resource_pb::Resource, paths: &[&str]| pb::UpdateRequest {
        resource: Some(object),
        update_mask: Some(prost_types::FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() }),
        ..Default::default()
    };
    let mut wanted = labelled("db", &[]);
    spec(&mut wanted).address = "other:1".into();
    spec(&mut wanted).disabled = true;
    let dry = pb::UpdateRequest { dry_run: true, ..update(wanted.clone(), &["spec.address"]) };
    assert_eq!(client.update(dry).await.unwrap().into_inner().change(), pb::Change::Changed);
    let answer = client.update(update(wanted.clone(), &["spec.address"])).await.unwrap().into_inner();
    let mut now = answer.resource.unwrap();
    assert_eq!(spec(&mut now).address, "other:1");
    assert!(!spec(&mut now).disabled);
    assert_eq!(now.metadata.as_ref().unwrap().labels["env"], "prod");
    assert!(revision(&now) > revision(&made));
    let again = client.update(update(wanted.clone(), &["spec.address"])).await.unwrap().into_inner();
    assert_eq!((again.change(), revision(&again.resource.unwrap())), (pb::Change::Unchanged, revision(&now)));
    let answer = client.update(update(wanted.clone(), &["metadata.labels"])).await.unwrap().into_inner();
    assert!(answer.resource.unwrap().metadata.unwrap().labels.is_empty());

    // A stale revision, a bad mask, a missing object.
    let stale = pb::UpdateRequest { expected_revision: revision(&made), ..update(wanted.clone(), &["spec"]) };
    let refused = client.update(stale).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Aborted, "STALE_REVISION"));
    assert_eq!(refused.get_error_details().error_info().unwrap().metadata["expected"], revision(&made).to_string());
    let refused = client.update(update(wanted.clone(), &["spec.nothing"])).await.unwrap_err();
    assert_eq!(refused.get_error_details().bad_request().unwrap().field_violations[0].field, "update_mask.paths[0]");
    let missing = update(labelled("none", &[]), &[]);
    assert_eq!(client.update(missing.clone()).await.unwrap_err().code(), Code::NotFound);
    let made = client.update(pb::UpdateRequest { allow_missing: true, ..missing }).await.unwrap().into_inner();
    assert_eq!(made.change(), pb::Change::Created);

    // A secret keeps its value under an update of its labels, and shows none.
    client.create(create(secret("pw", "hunter2"))).await.unwrap();
    let mut object = secret("pw", "unused");
    object.metadata.as_mut().unwrap().labels.insert("owner".into(), "dba".into());
    let answer = client.update(update(object, &["metadata.labels"])).await.unwrap().into_inner();
    assert!(!format!("{:?}", answer.resource.unwrap().encode_to_vec()).contains("104, 117, 110"));
    let same = client.apply(apply(vec![secret("pw", "hunter2")])).await.unwrap().into_inner();
    assert_eq!(same.applied[0].change(), pb::Change::Changed, "the labels go, the value stays");
    node.end().await;
}

/// Many writers at once, to one object and to many: none waits for a lock, none is lost.
#[tokio::test(flavor = "multi_thread")]
async fn writers_go_side_by_side() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let client = ResourceServiceClient::new(node.admin().await);
    client.clone().apply(apply(vec![labelled("shared", &[])])).await.unwrap();
    let writes = (0..64).map(|n| {
        let mut client = client.clone();
        async move {
            client.apply(apply(vec![labelled(&format!("t{n}"), &[]), secret("pw", "same")])).await.unwrap();
            // A mask is made for what stands there, anew until nobody was faster.
            let mut object = target("shared", "", 0);
            spec(&mut object).databases = vec![format!("db{n}")];
            let mask = prost_types::FieldMask { paths: vec!["spec.databases".into()] };
            let update = pb::UpdateRequest { resource: Some(object), update_mask: Some(mask), ..Default::default() };
            client.update(update).await.map(drop)
        }
    });
    let outcomes = futures::future::join_all(writes).await;
    let lost: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
    assert!(lost.is_empty(), "{lost:?}");
    let list = pb::ListRequest { kind: Kind::Target.into(), ..Default::default() };
    assert_eq!(client.clone().list(list).await.unwrap().into_inner().resources.len(), 65);
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_tells_each_change_once_and_resumes() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let mut client = ResourceServiceClient::new(node.admin().await);
    client.apply(apply(vec![labelled("a", &[("env", "prod")]), labelled("b", &[])])).await.unwrap();
    let watch = |label_selector: &str, from_revision| pb::WatchRequest {
        kind: Kind::Target.into(),
        label_selector: label_selector.to_owned(),
        from_revision,
        ..Default::default()
    };
    async fn next(stream: &mut tonic::Streaming<pb::WatchResponse>) -> (pb::WatchEvent, String, u64) {
        let answer = stream.message().await.unwrap().unwrap();
        (answer.event(), answer.resource.as_ref().map(name).unwrap_or_default(), answer.revision)
    }
    let mut all = client.watch(watch("", 0)).await.unwrap().into_inner();
    let mut prod = client.watch(watch("env=prod", 0)).await.unwrap().into_inner();
    for known in ["a", "b"] {
        let (event, object, _) = next(&mut all).await;
        assert_eq!((event, object.as_str()), (pb::WatchEvent::Added, known));
    }
    let (event, _, start_revision) = next(&mut all).await;
    assert_eq!(event, pb::WatchEvent::Bookmark);
    assert_eq!(next(&mut prod).await.1, "a");
    assert_eq!(next(&mut prod).await.0, pb::WatchEvent::Bookmark);

    client.apply(apply(vec![labelled("a", &[])])).await.unwrap();
    client.apply(apply(vec![labelled("c", &[("env", "prod")])])).await.unwrap();
    client.apply(apply(vec![secret("pw", "hunter2")])).await.unwrap();
    let delete = pb::DeleteRequest { kind: Kind::Target.into(), name: "b".into(), ..Default::default() };
    let deleted = client.delete(delete).await.unwrap().into_inner().revision;
    let mut told = Vec::new();
    for _ in 0..3 {
        told.push(next(&mut all).await);
    }
    let events: Vec<_> = told.iter().map(|(event, object, _)| (*event, object.as_str())).collect();
    use pb::WatchEvent::{Added, Deleted, Modified};
    assert_eq!(events, [(Modified, "a"), (Added, "c"), (Deleted, "b")]);
    assert!(told.is_sorted_by_key(|(_, _, revision)| *revision) && told[2].2 == deleted);
    // What no longer matches is gone for who asked for what matches.
    let gone = next(&mut prod).await;
    assert_eq!((gone.0, gone.1.as_str()), (Deleted, "a"));
    assert_eq!(next(&mut prod).await.1, "c");

    let mut resumed = client.watch(watch("", told[0].2)).await.unwrap().into_inner();
    assert_eq!((next(&mut resumed).await, next(&mut resumed).await), (told[1].clone(), told[2].clone()));
    let refused = client.watch(watch("", start_revision + 1_000_000)).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::OutOfRange, "REVISION_COMPACTED"));
    node.end().await;
}

/// A client of a newer version must not believe that what this one does not know took effect.
#[tokio::test(flavor = "multi_thread")]
async fn unknown_fields_and_oversized_requests_are_refused() {
    #[derive(Clone, PartialEq, prost::Message)]
    struct NewerApply {
        #[prost(message, repeated, tag = "1")]
        resources: Vec<NewerResource>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    struct NewerResource {
        #[prost(message, optional, tag = "1")]
        metadata: Option<resource_pb::Metadata>,
        #[prost(message, optional, tag = "3")]
        target: Option<NewerTarget>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    struct NewerTarget {
        #[prost(string, tag = "2")]
        address: String,
        #[prost(string, tag = "700")]
        colour: String,
    }
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let channel = node.admin().await;
    let resource = NewerResource {
        metadata: Some(resource_pb::Metadata { name: "db".into(), ..Default::default() }),
        target: Some(NewerTarget { address: "a:1".into(), colour: "red".into() }),
    };
    let mut raw = tonic::client::Grpc::new(channel.clone());
    raw.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<NewerApply, pb::ApplyResponse>::default();
    let path = http::uri::PathAndQuery::from_static("/postern.admin.v1.ResourceService/Apply");
    let request = tonic::Request::new(NewerApply { resources: vec![resource] });
    let refused = raw.unary(request, path, codec).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::InvalidArgument, "UNKNOWN_FIELD"));
    let details = refused.get_error_details();
    assert_eq!(details.bad_request().unwrap().field_violations[0].field, "resources[0].target.#700");

    let mut client = ResourceServiceClient::new(channel);
    let huge = (0..100).map(|n| secret(&format!("s{n}"), &"x".repeat(60 << 10))).collect();
    let refused = client.apply(apply(huge)).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::ResourceExhausted, "REQUEST_TOO_LARGE"));
    let refused = client.apply(apply(vec![secret("pw", &"x".repeat(70 << 10))])).await.unwrap_err();
    assert_eq!(refused.get_error_details().bad_request().unwrap().field_violations[0].field, "resources[0].spec.value");
    node.end().await;
}
