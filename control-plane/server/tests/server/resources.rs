use postern_proto::admin::v1 as pb;
use postern_proto::admin::v1::resource_service_client::ResourceServiceClient;
use postern_proto::resource::v1 as resource_pb;
use resource_pb::Kind;
use resource_pb::resource::Spec;
use resource_pb::secret_spec::Source;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::node::start;

pub(crate) fn resource(name: &str, revision: u64, spec: Spec) -> resource_pb::Resource {
    let metadata = resource_pb::Metadata { name: name.into(), revision, ..Default::default() };
    resource_pb::Resource { metadata: Some(metadata), spec: Some(spec) }
}

pub(crate) fn secret(name: &str, value: &str) -> resource_pb::Resource {
    resource(name, 0, Spec::Secret(resource_pb::SecretSpec { source: Some(Source::Value(value.into())) }))
}

pub(crate) fn target(name: &str, secret: &str, revision: u64) -> resource_pb::Resource {
    let spec = resource_pb::TargetSpec {
        protocol: resource_pb::Protocol::Postgres.into(),
        address: "db.internal:5432".into(),
        credential: Some(resource_pb::TargetCredential {
            username: "app".into(),
            source: Some(resource_pb::target_credential::Source::Secret(secret.into())),
            ..Default::default()
        }),
        ..Default::default()
    };
    resource(name, revision, Spec::Target(spec))
}

pub(crate) fn apply(resources: Vec<resource_pb::Resource>) -> pb::ApplyRequest {
    pb::ApplyRequest { resources, ..Default::default() }
}

fn changes(response: &pb::ApplyResponse) -> Vec<pb::Change> {
    response.applied.iter().map(pb::Applied::change).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn apply_get_list_delete() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let mut client = ResourceServiceClient::new(node.admin().await);

    // A dry run changes nothing.
    let dry = pb::ApplyRequest { dry_run: true, ..apply(vec![secret("pw", "hunter2"), target("db", "pw", 0)]) };
    let answer = client.apply(dry).await.unwrap().into_inner();
    assert_eq!(changes(&answer), [pb::Change::Created, pb::Change::Created]);
    let get = |kind: Kind, name: &str| pb::GetRequest { kind: kind.into(), name: name.into() };
    assert_eq!(client.get(get(Kind::Target, "db")).await.unwrap_err().code(), Code::NotFound);

    let both = || apply(vec![secret("pw", "hunter2"), target("db", "pw", 0)]);
    let created = client.apply(both()).await.unwrap().into_inner();
    assert_eq!(changes(&created), [pb::Change::Created, pb::Change::Created]);
    let again = client.apply(both()).await.unwrap().into_inner();
    assert_eq!(changes(&again), [pb::Change::Unchanged, pb::Change::Unchanged]);
    assert_eq!(again.applied[0].revision, created.applied[0].revision);

    // Another value is a change, and no value is ever read back.
    let other = client.apply(apply(vec![secret("pw", "hunter3")])).await.unwrap().into_inner();
    assert_eq!(changes(&other), [pb::Change::Changed]);
    let shown = client.get(get(Kind::Secret, "pw")).await.unwrap().into_inner().resource.unwrap();
    let Some(Spec::Secret(shown)) = shown.spec else { panic!() };
    assert_eq!(shown.source, Some(Source::Stored(true)));

    // What was read may be written again, unless somebody was faster.
    let read = client.get(get(Kind::Target, "db")).await.unwrap().into_inner().resource.unwrap();
    let mut changed = read.clone();
    let Some(Spec::Target(spec)) = &mut changed.spec else { panic!() };
    spec.disabled = true;
    client.apply(apply(vec![changed])).await.unwrap();
    assert_eq!(client.apply(apply(vec![read])).await.unwrap_err().code(), Code::Aborted);

    let list =
        client.list(pb::ListRequest { kind: Kind::Target.into(), ..Default::default() }).await.unwrap().into_inner();
    assert_eq!(list.resources.len(), 1);
    let delete = |kind: Kind, name: &str, expected_revision| pb::DeleteRequest {
        kind: kind.into(),
        name: name.into(),
        expected_revision,
        ..Default::default()
    };
    assert_eq!(client.delete(delete(Kind::Secret, "pw", 0)).await.unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(client.delete(delete(Kind::Target, "db", 1)).await.unwrap_err().code(), Code::Aborted);
    client.delete(delete(Kind::Target, "db", 0)).await.unwrap();
    client.delete(delete(Kind::Secret, "pw", 0)).await.unwrap();
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_is_told_with_its_field() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let mut client = ResourceServiceClient::new(node.admin().await);
    let mut bad = target("db", "", 0);
    let Some(Spec::Target(spec)) = &mut bad.spec else { panic!() };
    spec.address = "nowhere".into();
    spec.protocol = 0;
    let status = client.apply(apply(vec![secret("ok", "x"), bad, secret("empty", "")])).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let details = status.get_error_details();
    let fields: Vec<_> = details.bad_request().unwrap().field_violations.iter().map(|v| v.field.clone()).collect();
    assert_eq!(fields, ["resources[1].spec.protocol", "resources[1].spec.address", "resources[2].spec.value"]);

    let status = client.apply(apply(vec![target("db", "nowhere", 0)])).await.unwrap_err();
    let details = status.get_error_details();
    assert_eq!(details.bad_request().unwrap().field_violations[0].field, "resources[0].spec.credential.secret");
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_with_its_request_id_is_one_change() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let mut client = ResourceServiceClient::new(node.admin().await);
    let created = client.apply(apply(vec![secret("pw", "x"), target("db", "pw", 0)])).await.unwrap().into_inner();
    let mut changed = target("db", "pw", created.applied[1].revision);
    let Some(Spec::Target(spec)) = &mut changed.spec else { panic!() };
    spec.disabled = true;
    // Its own first attempt does not make the retry stale.
    let request = pb::ApplyRequest { request_id: "01ARZ3NDEKTSV4RRFFQ69G5FAV".into(), ..apply(vec![changed]) };
    let first = client.apply(request.clone()).await.unwrap().into_inner();
    assert_eq!(changes(&first), [pb::Change::Changed]);
    assert_eq!(client.apply(request).await.unwrap().into_inner(), first);
    let of = |kind: Kind, name: &str| pb::DeleteRequest { kind: kind.into(), name: name.into(), ..Default::default() };
    client.delete(of(Kind::Target, "db")).await.unwrap();
    let delete = pb::DeleteRequest {
        kind: Kind::Secret.into(),
        name: "pw".into(),
        expected_revision: 0,
        request_id: "0192f3c4-5b6a-7000-8000-0123456789ab".into(),
        ..Default::default()
    };
    let first = client.delete(delete.clone()).await.unwrap().into_inner();
    assert_eq!(client.delete(delete).await.unwrap().into_inner(), first);
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_everything() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let cluster = node.control.cluster_id.clone();
    let mut client = ResourceServiceClient::new(node.admin().await);
    client.apply(apply(vec![secret("pw", "hunter2"), target("db", "pw", 0)])).await.unwrap();
    drop(client);
    node.end().await;

    let node = start(dir.path()).await;
    assert_eq!(node.control.cluster_id, cluster);
    let mut client = ResourceServiceClient::new(node.admin().await);
    let again = client.apply(apply(vec![secret("pw", "hunter2"), target("db", "pw", 0)])).await.unwrap().into_inner();
    assert_eq!(changes(&again), [pb::Change::Unchanged, pb::Change::Unchanged]);
    node.end().await;
}
