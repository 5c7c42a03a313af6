use std::path::{Path, PathBuf};

use postern_core::node::NodeRole;
use postern_proto::admin::v1 as pb;
use postern_proto::admin::v1::certificate_service_client::CertificateServiceClient;
use postern_proto::admin::v1::resource_service_client::ResourceServiceClient;
use postern_proto::admin::v1::session_service_client::SessionServiceClient;
use postern_proto::gateway::v1::policy_feed_service_client::PolicyFeedServiceClient;
use postern_proto::gateway::v1::{WatchRequest, hold_service_client::HoldServiceClient};
use postern_proto::resource::v1::{Kind, NodeRole as Role};
use postern_runtime::pki::KeyRequest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::Code;
use tonic_reflection::pb::v1 as reflection;

use crate::issuer::Issuer;
use crate::node::{start, try_start, with_token};
use crate::resources::{apply, secret};

#[tokio::test(flavor = "multi_thread")]
async fn each_caller_may_do_what_is_theirs() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let issuer = Issuer::trusted_by(&node).await;
    let list = || pb::ListRequest { kind: Kind::Secret.into(), ..Default::default() };

    let mut nobody = ResourceServiceClient::new(node.anonymous().await);
    let refused = nobody.apply(apply(vec![secret("pw", "x")])).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);

    let dev = issuer.token("dev", &["developers"], 600);
    let auditor = issuer.token("ada", &["auditors"], 600);
    let admin = issuer.token("root", &["admins"], 600);
    let forbidden = nobody.apply(with_token(apply(vec![secret("pw", "x")]), &dev)).await.unwrap_err();
    assert_eq!(forbidden.code(), Code::PermissionDenied);
    assert_eq!(nobody.list(with_token(list(), &dev)).await.unwrap_err().code(), Code::PermissionDenied);
    nobody.list(with_token(list(), &auditor)).await.unwrap();
    let forbidden = nobody.apply(with_token(apply(vec![secret("pw", "x")]), &auditor)).await.unwrap_err();
    assert_eq!(forbidden.code(), Code::PermissionDenied);
    nobody.apply(with_token(apply(vec![secret("pw", "x")]), &admin)).await.unwrap();

    // A bad token is refused, even beside an administrator's certificate, and its text comes back nowhere.
    let expired = issuer.token("root", &["admins"], -90);
    let refused = ResourceServiceClient::new(node.admin().await).list(with_token(list(), &expired)).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::Unauthenticated, "token-expired"));
    let mut tampered = admin.clone();
    tampered.truncate(tampered.len() - 4);
    tampered.push_str("AAAA");
    let refused = nobody.list(with_token(list(), &tampered)).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::Unauthenticated, "token-invalid"));

    // Gateways have their own services and no others; nobody else has those.
    for (role, name) in [(NodeRole::Gateway, "g1"), (NodeRole::Agent, "a1")] {
        let mut client = ResourceServiceClient::new(node.as_node(role, name).await);
        assert_eq!(client.list(list()).await.unwrap_err().code(), Code::PermissionDenied);
    }
    let watch = || WatchRequest::default();
    PolicyFeedServiceClient::new(node.as_node(NodeRole::Gateway, "g1").await).watch(watch()).await.unwrap();
    for channel in [node.admin().await, node.as_node(NodeRole::Agent, "a1").await] {
        let refused = PolicyFeedServiceClient::new(channel).watch(watch()).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
    }
    let refused = PolicyFeedServiceClient::new(node.anonymous().await).watch(with_token(watch(), &admin)).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
    let consume = postern_proto::gateway::v1::ConsumeApprovalRequest::default();
    let refused = HoldServiceClient::new(node.admin().await).consume_approval(consume).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let anybody =
        SessionServiceClient::new(node.anonymous().await).list_sessions(pb::ListSessionsRequest::default()).await;
    assert_eq!(anybody.unwrap_err().code(), Code::Unauthenticated);
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_issued_to_administrators_only() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let csr = KeyRequest::generate().unwrap().csr_der;
    let request = pb::IssueCertificateRequest {
        role: postern_proto::resource::v1::NodeRole::Gateway.into(),
        name: "g2".into(),
        csr,
        alt_names: vec!["g2.example".into()],
        ..Default::default()
    };
    let mut admin = CertificateServiceClient::new(node.admin().await);
    let issued = admin.issue_certificate(request.clone()).await.unwrap().into_inner();
    assert!(issued.certificate_pem.contains("BEGIN CERTIFICATE") && issued.ca_pem == node.control.ca_pem);
    let inside = pb::IssueCertificateRequest { alt_names: vec!["x.postern.internal".into()], ..request.clone() };
    assert_eq!(admin.issue_certificate(inside).await.unwrap_err().code(), Code::InvalidArgument);
    let mut gateway = CertificateServiceClient::new(node.as_node(NodeRole::Gateway, "g1").await);
    assert_eq!(gateway.issue_certificate(request).await.unwrap_err().code(), Code::PermissionDenied);
    let mut anybody = CertificateServiceClient::new(node.anonymous().await);
    assert_eq!(
        anybody.get_authority(pb::GetAuthorityRequest {}).await.unwrap().into_inner().ca_pem,
        node.control.ca_pem
    );
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_and_health_and_metrics_are_there() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let channel = node.anonymous().await;
    let mut client = reflection::server_reflection_client::ServerReflectionClient::new(channel.clone());
    let request = reflection::ServerReflectionRequest {
        message_request: Some(reflection::server_reflection_request::MessageRequest::ListServices(String::new())),
        ..Default::default()
    };
    let answer = client.server_reflection_info(futures::stream::iter([request])).await.unwrap();
    let answer = answer.into_inner().message().await.unwrap().unwrap().message_response.unwrap();
    let reflection::server_reflection_response::MessageResponse::ListServicesResponse(list) = answer else { panic!() };
    let names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
    for name in ["postern.admin.v1.ResourceService", "postern.gateway.v1.RecordingService", "grpc.health.v1.Health"] {
        assert!(names.iter().any(|known| known == name), "{name} is not in {names:?}");
    }
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
    let status = health.check(tonic_health::pb::HealthCheckRequest::default()).await.unwrap().into_inner().status;
    assert_eq!(status, i32::from(tonic_health::pb::health_check_response::ServingStatus::Serving));

    let mut ops = tokio::net::TcpStream::connect(node.control.ops_addr.unwrap()).await.unwrap();
    ops.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    ops.read_to_string(&mut text).await.unwrap();
    assert!(text.contains("postern_control_applied_index"), "{text}");
    node.end().await;
}

fn files(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, out) } else { out.push(path) }
    }
}

/// I5: neither a target's secret nor a cluster key lies on the disk in clear.
#[tokio::test(flavor = "multi_thread")]
async fn no_secret_lies_in_clear_on_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let mut client = ResourceServiceClient::new(node.admin().await);
    client.apply(apply(vec![secret("pw", "correct-horse-battery-staple")])).await.unwrap();
    drop(client);
    node.end().await;
    let mut all = Vec::new();
    files(dir.path(), &mut all);
    assert!(!all.is_empty());
    for path in all {
        let bytes = std::fs::read(&path).unwrap();
        let holds = |what: &str| bytes.windows(what.len()).any(|window| window == what.as_bytes());
        assert!(!holds("correct-horse"), "{}", path.display());
        // The administrator's own key is for the administrator, 0600.
        if !path.starts_with(dir.path().join("admin")) {
            assert!(!holds("PRIVATE KEY"), "{}", path.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_log_or_a_lost_key_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    start(dir.path()).await.end().await;
    let kek = dir.path().join("kek");
    let right = std::fs::read(&kek).unwrap();

    std::fs::remove_file(&kek).unwrap();
    let Err((error, supervisor)) = try_start(dir.path()).await else { panic!("started without its key") };
    assert!(error.to_string().contains("key-encryption key"), "{error}");
    supervisor.drain(std::time::Duration::from_secs(5)).await;

    std::fs::write(&kek, "00".repeat(32)).unwrap();
    let Err((error, supervisor)) = try_start(dir.path()).await else { panic!("started with another key") };
    assert!(error.to_string().contains("does not open"), "{error}");
    assert!(supervisor.drain(std::time::Duration::from_secs(10)).await.all_ended);
    std::fs::write(&kek, right).unwrap();

    {
        let log = dir.path().join("raft/wal/00000000000000000001.wal");
        let mut bytes = std::fs::read(&log).unwrap();
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        bytes[used / 2] ^= 1;
        std::fs::write(&log, bytes).unwrap();
    }
    let Err((error, _)) = try_start(dir.path()).await else { panic!("started from a damaged log") };
    assert!(error.to_string().contains("is not as it was written"), "{error}");
}

/// Certificates that are made for nodes in the same process, and the administrator's, are known and can be revoked like any other.
#[tokio::test(flavor = "multi_thread")]
async fn no_certificate_is_without_its_record() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    node.credential(NodeRole::Gateway, "g1").await;
    let mut certificates = CertificateServiceClient::new(node.admin().await);
    for (role, name) in [(Role::Admin, "admin"), (Role::Gateway, "g1"), (Role::Control, "control-1")] {
        let request = pb::ListCertificatesRequest { role: role.into(), name: name.into(), ..Default::default() };
        let listed = certificates.list_certificates(request).await.unwrap().into_inner().certificates;
        assert!(!listed.is_empty(), "{name}");
    }
    let request = pb::RevokeCertificatesRequest { role: Role::Gateway.into(), name: "g1".into(), ..Default::default() };
    assert_eq!(certificates.revoke_certificates(request).await.unwrap().into_inner().revoked, 1);
    node.end().await;
}
