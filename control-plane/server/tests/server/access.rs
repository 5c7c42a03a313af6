//! Access on request: who watches a request, for as long as they may.

use std::time::{Duration, Instant};

use postern_proto::admin::v1 as pb;
use postern_proto::admin::v1::access_service_client::AccessServiceClient;
use postern_proto::admin::v1::resource_service_client::ResourceServiceClient;
use postern_proto::admin::v1::revocation_service_client::RevocationServiceClient;
use postern_proto::admin::v1::token_service_client::TokenServiceClient;
use postern_proto::resource::v1 as resource_pb;
use resource_pb::resource::Spec;
use resource_pb::{AccessState, OnRequest, Reviewers};
use tonic::{Code, Status, Streaming};

use crate::issuer::Issuer;
use crate::node::{Node, start, with_token};
use crate::resources::{apply, resource, secret, target};

async fn on_request(node: &Node) {
    let asked = OnRequest { review: vec![Reviewers { groups: vec!["dba".into()], count: 1 }], ..Default::default() };
    let spec = resource_pb::PolicySpec {
        effect: resource_pb::Effect::PermitOnRequest.into(),
        principals: Some(resource_pb::PrincipalSelector { groups: vec!["dev".into()], ..Default::default() }),
        targets: Some(resource_pb::TargetSelector { names: vec!["db".into()], ..Default::default() }),
        actions: vec!["*".into()],
        on_request: Some(asked),
        ..Default::default()
    };
    let all = vec![secret("s", "x"), target("db", "s", 0), resource("jit", 0, Spec::Policy(spec))];
    ResourceServiceClient::new(node.admin().await).apply(apply(all)).await.unwrap();
}

type Watch = Streaming<pb::WatchAccessResponse>;

async fn state(watch: &mut Watch) -> Result<AccessState, Status> {
    let answer = tokio::time::timeout(Duration::from_secs(30), watch.message()).await.expect("no answer")?;
    Ok(answer.expect("the stream has ended").access.unwrap().state())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_is_cut_off_with_their_right() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let issuer = Issuer::trusted_by(&node).await;
    on_request(&node).await;
    let channel = node.anonymous().await;
    let (access, mut tokens) = (AccessServiceClient::new(channel.clone()), TokenServiceClient::new(channel.clone()));
    let alice = issuer.token("alice", &["dev"], 600);
    let mut exchange = async |ttl_seconds| {
        let subject_token = alice.clone();
        let request = pb::ExchangeTokenRequest { subject_token, ttl_seconds, ..Default::default() };
        tokens.exchange_token(request).await.unwrap().into_inner().token
    };
    let (short, revoked) = (exchange(3).await, exchange(300).await);
    let request = pb::RequestAccessRequest { target: "db".into(), reason: "because".into(), ..Default::default() };
    let id = access.clone().request_access(with_token(request, &alice)).await.unwrap().into_inner().access.unwrap().id;
    let watch = async |token: &str| {
        let request = with_token(pb::WatchAccessRequest { id: id.clone() }, token);
        let mut watch = access.clone().watch_access(request).await.unwrap().into_inner();
        assert_eq!(state(&mut watch).await.unwrap(), AccessState::Pending);
        watch
    };
    let (mut whole, mut by_revoked, mut by_short) = (watch(&alice).await, watch(&revoked).await, watch(&short).await);

    let began = Instant::now();
    let mut revocations = RevocationServiceClient::new(channel);
    let request = pb::RevokeRequest { token: revoked.clone(), subtree: true, ..Default::default() };
    revocations.revoke(request).await.unwrap();
    let cut = state(&mut by_revoked).await.unwrap_err();
    assert_eq!((cut.code(), cut.message()), (Code::Unauthenticated, "revoked"));
    // Not only when it is looked at anyway.
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let cut = state(&mut by_short).await.unwrap_err();
    assert_eq!((cut.code(), cut.message()), (Code::Unauthenticated, "token-expired"));

    // Who may still see it sees what becomes of it.
    access
        .clone()
        .end_access(with_token(pb::EndAccessRequest { id: id.clone(), ..Default::default() }, &alice))
        .await
        .unwrap();
    assert_eq!(state(&mut whole).await.unwrap(), AccessState::Withdrawn);
    assert!(whole.message().await.unwrap().is_none());
    node.end().await;
}
