//! Roles, what each method needs, and the audit log.

use postern_core::node::NodeRole;
use postern_proto::admin::v1 as pb;
use postern_proto::admin::v1::audit_service_client::AuditServiceClient;
use postern_proto::admin::v1::resource_service_client::ResourceServiceClient;
use postern_proto::admin::v1::token_service_client::TokenServiceClient;
use postern_proto::resource::v1 as resource_pb;
use resource_pb::Kind;
use resource_pb::resource::Spec;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::issuer::Issuer;
use crate::node::{eventually, start, with_token};
use crate::resources::{apply, resource, secret, target};

fn role(name: &str, objects: &[&str], verbs: &[&str]) -> resource_pb::Resource {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let grants = vec![resource_pb::Grant { objects: words(objects), verbs: words(verbs) }];
    resource(name, 0, Spec::Role(resource_pb::RoleSpec { grants, description: String::new() }))
}

fn binding(name: &str, role: &str, groups: &[&str], subjects: &[&str]) -> resource_pb::Resource {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let subjects =
        resource_pb::PrincipalSelector { groups: words(groups), subjects: words(subjects), ..Default::default() };
    resource(
        name,
        0,
        Spec::RoleBinding(resource_pb::RoleBindingSpec { role: role.to_owned(), subjects: Some(subjects) }),
    )
}

fn reason(status: &Status) -> String {
    status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
}

fn list(kind: Kind) -> pb::ListRequest {
    pb::ListRequest { kind: kind.into(), ..Default::default() }
}

async fn audit(channel: &Channel, request: pb::ListAuditRecordsRequest) -> Vec<resource_pb::AuditRecord> {
    AuditServiceClient::new(channel.clone()).list_audit_records(request).await.unwrap().into_inner().records
}

#[tokio::test(flavor = "multi_thread")]
async fn built_in_and_own_roles_hold_what_they_say() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let issuer = Issuer::trusted_by(&node).await;
    let mut admin = ResourceServiceClient::new(node.admin().await);
    let objects = vec![
        role("target-keepers", &["targets"], &["get", "list", "create", "update"]),
        binding("keepers", "target-keepers", &["keepers"], &[]),
        binding("ops", "operator", &[], &["corp/olga"]),
    ];
    admin.apply(apply(objects)).await.unwrap();

    let channel = node.anonymous().await;
    let mut anybody = ResourceServiceClient::new(channel.clone());
    let keeper = issuer.token("kim", &["keepers"], 600);
    let operator = issuer.token("olga", &[], 600);
    let stranger = issuer.token("sam", &["others"], 600);

    let who = TokenServiceClient::new(channel.clone()).who_am_i(with_token(pb::WhoAmIRequest {}, &keeper)).await;
    let who = who.unwrap().into_inner();
    assert_eq!((who.roles, who.admin, who.auditor), (vec!["target-keepers".to_owned()], false, false));
    assert_eq!(who.grants[0].objects, ["targets"]);

    anybody.apply(with_token(apply(vec![target("db", "", 0)]), &keeper)).await.unwrap();
    anybody.list(with_token(list(Kind::Target), &keeper)).await.unwrap();
    for kind in [Kind::Policy, Kind::Secret, Kind::Role, Kind::RoleBinding, Kind::Issuer] {
        let refused = anybody.list(with_token(list(kind), &keeper)).await.unwrap_err();
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::PermissionDenied, "FORBIDDEN"), "{kind:?}");
    }
    let delete = pb::DeleteRequest { kind: Kind::Target.into(), name: "db".into(), ..Default::default() };
    assert_eq!(anybody.delete(with_token(delete.clone(), &keeper)).await.unwrap_err().code(), Code::PermissionDenied);
    // One object of another kind spoils the whole.
    let both = apply(vec![target("other", "", 0), secret("pw", "x")]);
    assert_eq!(anybody.apply(with_token(both, &keeper)).await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(
        anybody.list(with_token(list(Kind::Target), &stranger)).await.unwrap_err().code(),
        Code::PermissionDenied
    );

    anybody.delete(with_token(delete, &operator)).await.unwrap();
    anybody.list(with_token(list(Kind::Secret), &operator)).await.unwrap();
    for object in [secret("pw", "x"), role("own", &["targets"], &["get"]), binding("b", "operator", &["x"], &[])] {
        let refused = anybody.apply(with_token(apply(vec![object]), &operator)).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
    }

    // What is taken away is gone with the next call.
    let gone = pb::DeleteRequest { kind: Kind::RoleBinding.into(), name: "keepers".into(), ..Default::default() };
    admin.delete(gone).await.unwrap();
    assert_eq!(anybody.list(with_token(list(Kind::Target), &keeper)).await.unwrap_err().code(), Code::PermissionDenied);
    // A narrowed token does its work and rules nothing.
    let narrow = pb::ExchangeTokenRequest {
        subject_token: issuer.token("root", &["admins"], 600),
        targets: vec!["db".into()],
        ..Default::default()
    };
    let narrow = TokenServiceClient::new(channel.clone()).exchange_token(narrow).await.unwrap().into_inner().token;
    assert_eq!(anybody.list(with_token(list(Kind::Target), &narrow)).await.unwrap_err().code(), Code::PermissionDenied);

    // It carries the roles that it says, of those that its principal has, or has more than; and none that its parent does not carry.
    let mut tokens = TokenServiceClient::new(channel);
    let mut carrying = async |subject_token: String, roles: &[&str]| {
        let roles = roles.iter().map(|&role| role.to_owned()).collect();
        let scope = Some(resource_pb::TokenScope { roles, ..Default::default() });
        let request = pb::ExchangeTokenRequest { subject_token, scope, actor: "planner".into(), ..Default::default() };
        tokens.exchange_token(request).await.unwrap().into_inner().token
    };
    let auditor = carrying(issuer.token("root", &["admins"], 600), &["auditor", "no-such"]).await;
    anybody.list(with_token(list(Kind::Target), &auditor)).await.unwrap();
    let delete = pb::DeleteRequest { kind: Kind::Target.into(), name: "db".into(), ..Default::default() };
    let mut refused = async |token: &str| {
        let refused = anybody.delete(with_token(delete.clone(), token)).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
    };
    refused(&auditor).await;
    refused(&carrying(auditor.clone(), &["admin"]).await).await;
    refused(&carrying(issuer.token("nobody", &[], 600), &["admin", "operator"]).await).await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_grants_what_they_do_not_hold() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let issuer = Issuer::trusted_by(&node).await;
    let mut admin = ResourceServiceClient::new(node.admin().await);
    let objects = vec![
        role("givers", &["roles", "role-bindings", "issuers", "targets"], &["get", "create", "update", "delete"]),
        role("strong", &["secrets"], &["create"]),
        binding("givers", "givers", &["givers"], &[]),
    ];
    admin.apply(apply(objects)).await.unwrap();
    let mut giver = ResourceServiceClient::new(node.anonymous().await);
    let token = issuer.token("gus", &["givers"], 600);
    let mut try_apply = async |objects| giver.apply(with_token(apply(objects), &token)).await;

    try_apply(vec![role("weak", &["targets"], &["get"]), binding("weak", "weak", &["x"], &[])]).await.unwrap();
    try_apply(vec![binding("same", "givers", &["x"], &[])]).await.unwrap();
    let corp = resource_pb::IssuerSpec {
        url: "https://evil.example".into(),
        audiences: vec!["a".into()],
        ..Default::default()
    };
    for escalation in [
        vec![role("weak", &["secrets"], &["get"])],
        vec![role("all", &["*"], &["*"])],
        vec![binding("up", "admin", &["givers"], &[])],
        vec![binding("up", "auditor", &["givers"], &[])],
        vec![binding("up", "strong", &["givers"], &[])],
        vec![role("new", &["audit"], &["list"]), binding("up", "new", &["givers"], &[])],
        vec![resource("evil", 0, Spec::Issuer(corp))],
    ] {
        let refused = try_apply(escalation.clone()).await.unwrap_err();
        assert_eq!(
            (refused.code(), reason(&refused).as_str()),
            (Code::PermissionDenied, "ESCALATION"),
            "{escalation:?}"
        );
    }
    // Built-in roles stay as they are, and a role that is bound stays.
    let refused = admin.apply(apply(vec![role("operator", &["*"], &["*"])])).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let bound = pb::DeleteRequest { kind: Kind::Role.into(), name: "givers".into(), ..Default::default() };
    let dry = pb::DeleteRequest { dry_run: true, ..bound.clone() };
    for delete in [bound, dry] {
        let refused = admin.delete(delete).await.unwrap_err();
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::FailedPrecondition, "IN_USE"));
    }
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_is_in_the_audit_log() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let issuer = Issuer::trusted_by(&node).await;
    let channel = node.admin().await;
    let mut admin = ResourceServiceClient::new(channel.clone());
    let mut anybody = ResourceServiceClient::new(node.anonymous().await);
    let by = |method: &str, code: &str| pb::ListAuditRecordsRequest {
        method: method.to_owned(),
        code: code.to_owned(),
        ..Default::default()
    };

    admin.apply(apply(vec![secret("pw", "hunter2"), target("db", "pw", 0)])).await.unwrap();
    let found = &audit(&channel, by("ResourceService/Apply", "OK")).await[0];
    assert_eq!(
        (found.certificate.as_str(), found.objects.as_slice()),
        ("admin.admin", &["Secret/pw".to_owned(), "Target/db".to_owned()][..])
    );
    assert!(found.sequence > 0 && found.hash.len() == 32 && !found.node.is_empty() && !found.client_address.is_empty());

    // Refused by the state machine, by permission, for want of a credential, and a read.
    let get = |name: &str| pb::GetRequest { kind: Kind::Target.into(), name: name.to_owned() };
    admin.get(get("none")).await.unwrap_err();
    let stale =
        pb::DeleteRequest { kind: Kind::Target.into(), name: "db".into(), expected_revision: 1, ..Default::default() };
    admin.delete(stale).await.unwrap_err();
    let dev = issuer.token("dev", &["developers"], 600);
    anybody.get(with_token(get("db"), &dev)).await.unwrap_err();
    anybody.get(get("db")).await.unwrap_err();
    assert_eq!(audit(&channel, by("Get", "NOT_FOUND")).await[0].objects, ["Target/none"]);
    assert_eq!(audit(&channel, by("Delete", "ABORTED")).await[0].objects, ["Target/db"]);
    let refused = &audit(&channel, by("Get", "PERMISSION_DENIED")).await[0];
    assert_eq!(refused.principal.as_ref().unwrap().subject, "dev");
    eventually("the refusal of nobody", async || audit(&channel, by("Get", "UNAUTHENTICATED")).await.pop()).await;
    for _ in 0..2 {
        admin.list(list(Kind::Target)).await.unwrap();
    }
    assert_eq!(audit(&channel, by("List", "")).await.len(), 2);

    // The chain holds from the first record to the newest.
    let mut pages = (Vec::new(), String::new());
    loop {
        let request = pb::ListAuditRecordsRequest { page_size: 3, page_token: pages.1, ..Default::default() };
        let page = AuditServiceClient::new(channel.clone()).list_audit_records(request).await.unwrap().into_inner();
        pages.0.extend(page.records);
        pages.1 = page.next_page_token;
        if pages.1.is_empty() {
            break;
        }
    }
    let sequences: Vec<u64> = pages.0.iter().rev().map(|record| record.sequence).collect();
    assert_eq!(sequences, (1..=sequences.len() as u64).collect::<Vec<_>>());
    assert!(!format!("{:?}", pages.0).contains("hunter2"));

    // Not for everybody to read.
    let request = with_token(pb::ListAuditRecordsRequest::default(), &dev);
    let refused = AuditServiceClient::new(node.anonymous().await).list_audit_records(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let refused = AuditServiceClient::new(node.as_node(NodeRole::Gateway, "g1").await);
    let refused = { refused }.list_audit_records(pb::ListAuditRecordsRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    node.end().await;
}

/// The table is enforced in front of every service: whoever is nobody, or holds no role, gets nothing but what is open to them.
#[tokio::test(flavor = "multi_thread")]
async fn no_method_is_open_by_accident() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let issuer = Issuer::trusted_by(&node).await;
    let stranger = issuer.token("sam", &["others"], 600);
    let channel = node.anonymous().await;
    let descriptors = <prost_types::FileDescriptorSet as prost::Message>::decode(postern_proto::DESCRIPTORS).unwrap();
    let mut paths = Vec::new();
    for file in descriptors.file {
        for service in &file.service {
            for method in service.method.iter().filter(|method| !method.client_streaming()) {
                paths.push((
                    file.package().to_owned(),
                    format!("/{}.{}/{}", file.package(), service.name(), method.name()),
                ));
            }
        }
    }
    assert!(paths.len() > 40);
    // By what the request itself shows; or to each what is theirs.
    let open = [
        "ExchangeToken",
        "RenewCertificate",
        "RedeemToken",
        "GetAuthority",
        "ListLogins",
        "RevocationService/Revoke",
        "GetHead",
        "GetConsistency",
    ];
    let own = [
        "WhoAmI",
        "Job",
        "Jobs",
        "Access",
        "Approval",
        "Approvals",
        "GetConnection",
        "Session",
        "Sessions",
        "Review",
        "Reviews",
        "GetEvidence",
    ];
    for (package, path) in paths {
        let call = async |token: Option<&str>| {
            let mut client = tonic::client::Grpc::new(channel.clone());
            client.ready().await.unwrap();
            let mut request = tonic::Request::new(());
            if let Some(token) = token {
                request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
            }
            let codec = tonic_prost::ProstCodec::<(), ()>::default();
            let answer = client.server_streaming(request, path.parse().unwrap(), codec).await;
            answer.map(drop).map_err(|status| status.code())
        };
        let (nobody, known) = (call(None).await, call(Some(&stranger)).await);
        match package.as_str() {
            "postern.admin.v1" if open.iter().any(|end| path.ends_with(end)) => {}
            "postern.admin.v1" => {
                assert_eq!(nobody, Err(Code::Unauthenticated), "{path}");
                if !own.iter().any(|end| path.ends_with(end)) {
                    assert_eq!(known, Err(Code::PermissionDenied), "{path}");
                }
            }
            "postern.gateway.v1" => {
                assert_eq!((nobody, known), (Err(Code::Unauthenticated), Err(Code::Unauthenticated)), "{path}");
            }
            _ => assert!(nobody.is_err() && known.is_err(), "{path}"),
        }
    }
    node.end().await;
}

/// Who may issue certificates does not thereby become an administrator.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_lets_in_more_than_they_are() {
    use postern_proto::admin::v1::certificate_service_client::CertificateServiceClient;
    use postern_proto::admin::v1::cluster_service_client::ClusterServiceClient;
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let issuer = Issuer::trusted_by(&node).await;
    let objects = vec![
        role("door", &["certificates", "cluster"], &["issue", "create", "list"]),
        binding("door", "door", &["keepers"], &[]),
    ];
    ResourceServiceClient::new(node.admin().await).apply(apply(objects)).await.unwrap();
    let token = issuer.token("kim", &["keepers"], 600);
    let channel = node.anonymous().await;
    for (role, good) in [(resource_pb::NodeRole::Admin, false), (resource_pb::NodeRole::Gateway, true)] {
        let csr = postern_runtime::pki::KeyRequest::generate().unwrap().csr_der;
        let issue = pb::IssueCertificateRequest { role: role.into(), name: "n".into(), csr, ..Default::default() };
        let issued = CertificateServiceClient::new(channel.clone()).issue_certificate(with_token(issue, &token)).await;
        let join = pb::CreateJoinTokenRequest { role: role.into(), ..Default::default() };
        let joined = ClusterServiceClient::new(channel.clone()).create_join_token(with_token(join, &token)).await;
        assert_eq!((issued.is_ok(), joined.is_ok()), (good, good), "{role:?} {issued:?}");
        if let Err(refused) = issued {
            assert_eq!(reason(&refused), "ESCALATION");
        }
    }
    node.end().await;
}
