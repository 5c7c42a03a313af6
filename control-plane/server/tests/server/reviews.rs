//! Reviews after the fact, over the API of gateways and that of people.

use postern_core::node::NodeRole;
use postern_proto::admin::v1 as pb;
use postern_proto::admin::v1::certificate_service_client::CertificateServiceClient;
use postern_proto::admin::v1::review_service_client::ReviewServiceClient;
use postern_proto::gateway::v1 as gateway_pb;
use postern_proto::gateway::v1::review_service_client::ReviewServiceClient as GatewayClient;
use postern_proto::resource::v1 as resource_pb;
use postern_runtime::clock;
use resource_pb::Finding;
use tonic::Code;

use crate::approvals::held;
use crate::issuer::Issuer;
use crate::node::{eventually, start, with_token};

fn item(principal: &str) -> resource_pb::ReviewItem {
    let asked = held(principal);
    resource_pb::ReviewItem {
        id: clock::review_id().to_string(),
        principal: asked.requester,
        target: asked.target,
        session: asked.session,
        operation: asked.operation,
        digest: asked.digest,
        text: "delete from orders".into(),
        policies: vec!["break-glass".into()],
        policy_revision: 4,
        reviewer_groups: vec!["dba".into()],
        ..Default::default()
    }
}

fn close(id: &str, finding: Finding) -> pb::CloseReviewRequest {
    pb::CloseReviewRequest { id: id.into(), finding: finding.into(), comment: "seen".into(), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn opened_by_gateways_and_closed_by_people() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let issuer = Issuer::trusted_by(&node).await;
    let mut gateway = GatewayClient::new(node.as_node(NodeRole::Gateway, "g1").await);
    let mut people = ReviewServiceClient::new(node.anonymous().await);
    let mut asked = item("alice");
    // A gateway is who its certificate says, and closes nothing.
    asked.gateway = "g9".into();
    asked.session_over = true;
    asked.closed = Some(resource_pb::ReviewClosing { finding: Finding::Ok.into(), ..Default::default() });
    let request = gateway_pb::OpenReviewRequest { item: Some(asked.clone()), within_seconds: 60 };
    // The cluster comes to its feature level a moment after its start.
    let stored = eventually("the review to be taken", async || match gateway.open_review(request.clone()).await {
        Ok(answer) => answer.into_inner().item,
        Err(status) if status.code() == Code::FailedPrecondition => None,
        Err(status) => panic!("{status}"),
    })
    .await;
    assert_eq!((&*stored.id, &*stored.gateway), (&*asked.id, "g1"));
    assert!(stored.closed.is_none() && !stored.session_over && stored.due_at.is_some());
    // The session's other try is told of the same.
    let mut again = request.clone();
    again.item.as_mut().unwrap().id = clock::review_id().to_string();
    assert_eq!(gateway.open_review(again).await.unwrap().into_inner().item.unwrap(), stored);
    let mut wrong = request.clone();
    let nobody = wrong.item.as_mut().unwrap();
    (nobody.id, nobody.reviewer_groups) = (clock::review_id().to_string(), Vec::new());
    assert_eq!(gateway.open_review(wrong).await.unwrap_err().code(), Code::InvalidArgument);

    let id = stored.id;
    let alice = issuer.token("alice", &["dba"], 600);
    let (rita, sam) = (issuer.token("rita", &["dba"], 600), issuer.token("sam", &["dev"], 600));
    let list =
        |selection: pb::ReviewSelection| pb::ListReviewsRequest { selection: selection.into(), ..Default::default() };
    let mut seen = async |selection, token: &str| {
        let listed = people.list_reviews(with_token(list(selection), token)).await.unwrap().into_inner().reviews;
        listed.into_iter().map(|item| item.id).collect::<Vec<_>>()
    };
    assert_eq!(seen(pb::ReviewSelection::Unspecified, &rita).await, std::slice::from_ref(&id));
    assert!(seen(pb::ReviewSelection::Overdue, &rita).await.is_empty());
    assert!(seen(pb::ReviewSelection::All, &sam).await.is_empty());

    let mut said = async |finding, token: &str| {
        let closed = people.close_review(with_token(close(&id, finding), token)).await;
        closed
            .map(|answer| answer.into_inner().review.unwrap())
            .map_err(|status| (status.code(), status.message().to_owned()))
    };
    assert_eq!(said(Finding::Ok, &sam).await.unwrap_err().0, Code::NotFound);
    assert_eq!(said(Finding::Ok, &alice).await.unwrap_err().0, Code::PermissionDenied);
    assert_eq!(said(Finding::Unspecified, &rita).await.unwrap_err().0, Code::InvalidArgument);
    // It goes on, as far as anybody knows; until its gateway can go on no more.
    let (code, message) = said(Finding::Ok, &rita).await.unwrap_err();
    assert!(code == Code::FailedPrecondition && message.contains("goes on"), "{message}");
    let revoke = pb::RevokeCertificatesRequest {
        role: resource_pb::NodeRole::Gateway.into(),
        name: "g1".into(),
        because: "it burned down".into(),
        ..Default::default()
    };
    CertificateServiceClient::new(node.admin().await).revoke_certificates(revoke).await.unwrap();
    let closed = said(Finding::Concern, &rita).await.unwrap().closed.unwrap();
    assert_eq!((closed.finding(), &*closed.by.unwrap().subject), (Finding::Concern, "rita"));
    assert_eq!(said(Finding::Ok, &rita).await.unwrap_err().0, Code::FailedPrecondition);
    // A certificate is nobody in particular.
    let mut admin = ReviewServiceClient::new(node.admin().await);
    assert_eq!(admin.close_review(close(&id, Finding::Ok)).await.unwrap_err().code(), Code::Unauthenticated);
    let all = admin.list_reviews(list(pb::ReviewSelection::All)).await.unwrap().into_inner().reviews;
    assert_eq!(all.len(), 1);
    node.end().await;
}
