use postern_core::node::NodeRole;
use postern_core::operation::Digest;
use postern_core::wire::identity::principal_to_proto;
use postern_core::{Principal, principal::PrincipalId};
use postern_proto::admin::v1 as pb;
use postern_proto::admin::v1::approval_service_client::ApprovalServiceClient;
use postern_proto::gateway::v1 as gateway_pb;
use postern_proto::gateway::v1::hold_service_client::HoldServiceClient;
use postern_proto::resource::v1 as resource_pb;
use postern_runtime::clock;
use resource_pb::{ApprovalState, Verdict};
use tonic::Code;

use crate::issuer::Issuer;
use crate::node::{start, with_token};

pub(crate) fn held(requester: &str) -> resource_pb::Approval {
    let requester = Principal {
        id: PrincipalId { issuer: "corp".parse().unwrap(), subject: requester.into() },
        groups: Default::default(),
        token_id: None,
        expires_at: None,
        chain: Vec::new(),
        claims: postern_core::KeptClaims::default(),
    };
    resource_pb::Approval {
        id: clock::approval_id().to_string(),
        requester: Some(principal_to_proto(&requester)),
        target: "db".into(),
        session: clock::session_id().to_string(),
        operation: clock::operation_id().to_string(),
        digest: Digest([7; 32]).0.to_vec(),
        text: "delete from orders".into(),
        reviewer_groups: vec!["dba".into()],
        required: 1,
        ..Default::default()
    }
}

fn review(id: &str, verdict: Verdict) -> pb::ReviewApprovalRequest {
    pb::ReviewApprovalRequest { id: id.into(), verdict: verdict.into(), comment: "seen".into(), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn held_reviewed_and_consumed_once() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let issuer = Issuer::trusted_by(&node).await;
    let mut gateway = HoldServiceClient::new(node.as_node(NodeRole::Gateway, "g1").await);
    let mut people = ApprovalServiceClient::new(node.anonymous().await);
    let asked = held("alice");
    let (id, session) = (asked.id.clone(), asked.session.clone());
    let request = gateway_pb::RequestApprovalRequest { approval: Some(asked), expires_seconds: 60 };
    let stored = gateway.request_approval(request.clone()).await.unwrap().into_inner().approval.unwrap();
    assert_eq!(stored.state(), ApprovalState::Pending);
    // The same again is the same.
    let again = gateway.request_approval(request).await.unwrap().into_inner().approval.unwrap();
    assert_eq!(again, stored);

    let watch = gateway_pb::WatchApprovalRequest { id: id.clone() };
    let mut watched = gateway.watch_approval(watch).await.unwrap().into_inner();
    let first = watched.message().await.unwrap().unwrap().approval.unwrap();
    assert_eq!(first.state(), ApprovalState::Pending);

    let consume = gateway_pb::ConsumeApprovalRequest {
        id: id.clone(),
        session,
        digest: vec![7; 32],
        request_id: clock::request_id().to_string(),
    };
    let early = gateway_pb::ConsumeApprovalRequest { request_id: String::new(), ..consume.clone() };
    assert_eq!(gateway.consume_approval(early).await.unwrap_err().code(), Code::FailedPrecondition);

    // The requester sees it and cannot grant it, whatever groups they are in; strangers see nothing.
    let alice = issuer.token("alice", &["dba"], 600);
    let list = |all| pb::ListApprovalsRequest { all, ..Default::default() };
    let seen = people.list_approvals(with_token(list(false), &alice)).await.unwrap().into_inner().approvals;
    assert_eq!(seen.len(), 1);
    let own = people.review_approval(with_token(review(&id, Verdict::Approve), &alice)).await.unwrap_err();
    assert_eq!(own.code(), Code::PermissionDenied);
    let stranger = issuer.token("sam", &["dev"], 600);
    let seen = people.list_approvals(with_token(list(true), &stranger)).await.unwrap().into_inner().approvals;
    assert!(seen.is_empty());
    let refused = people.review_approval(with_token(review(&id, Verdict::Approve), &stranger)).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    // A certificate is nobody in particular.
    let mut admin = ApprovalServiceClient::new(node.admin().await);
    assert_eq!(admin.review_approval(review(&id, Verdict::Approve)).await.unwrap_err().code(), Code::Unauthenticated);

    let rita = issuer.token("rita", &["dba"], 600);
    let granted = people.review_approval(with_token(review(&id, Verdict::Approve), &rita)).await.unwrap().into_inner();
    assert_eq!(granted.approval.unwrap().state(), ApprovalState::Approved);
    let told = watched.message().await.unwrap().unwrap().approval.unwrap();
    assert_eq!(told.state(), ApprovalState::Approved);
    assert!(watched.message().await.unwrap().is_none());

    let mut other = consume.clone();
    other.digest = vec![8; 32];
    other.request_id = String::new();
    assert_eq!(gateway.consume_approval(other).await.unwrap_err().code(), Code::FailedPrecondition);
    let taken = gateway.consume_approval(consume.clone()).await.unwrap().into_inner().approval.unwrap();
    assert_eq!(taken.state(), ApprovalState::Consumed);
    // A retry hears the same; another try does not run it again.
    gateway.consume_approval(consume.clone()).await.unwrap();
    let twice = gateway_pb::ConsumeApprovalRequest { request_id: clock::request_id().to_string(), ..consume };
    assert_eq!(gateway.consume_approval(twice).await.unwrap_err().code(), Code::FailedPrecondition);
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unanswered_requests_lapse_and_clients_withdraw() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let mut gateway = HoldServiceClient::new(node.as_node(NodeRole::Gateway, "g1").await);
    let asked = held("alice");
    let watch = gateway_pb::WatchApprovalRequest { id: asked.id.clone() };
    let request = gateway_pb::RequestApprovalRequest { approval: Some(asked), expires_seconds: 1 };
    gateway.request_approval(request).await.unwrap();
    let mut watched = gateway.watch_approval(watch).await.unwrap().into_inner();
    watched.message().await.unwrap();
    // Nothing else is written meanwhile.
    let lapsed = watched.message().await.unwrap().unwrap().approval.unwrap();
    assert_eq!(lapsed.state(), ApprovalState::Expired);

    let asked = held("alice");
    let id = asked.id.clone();
    let request = gateway_pb::RequestApprovalRequest { approval: Some(asked), expires_seconds: 60 };
    gateway.request_approval(request).await.unwrap();
    let withdraw = gateway_pb::WithdrawApprovalRequest { id, because: "client went away".into() };
    let gone = gateway.withdraw_approval(withdraw).await.unwrap().into_inner().approval.unwrap();
    assert_eq!((gone.state(), &*gone.withdrawn_because), (ApprovalState::Withdrawn, "client went away"));
    node.end().await;
}
