//! Issuers' keys: new ones at once, withdrawn ones no more, and no load by tokens with random key ids.

use std::time::{Duration, Instant};

use postern_core::node::NodeRole;
use postern_proto::admin::v1 as pb;
use postern_proto::admin::v1::token_service_client::TokenServiceClient;
use postern_proto::gateway::v1::RefreshKeysRequest;
use postern_proto::gateway::v1::issuer_service_client::IssuerServiceClient;
use tonic::Code;

use crate::issuer::Issuer;
use crate::node::{Node, eventually, start, with_token};

async fn is_known(node: &Node, token: &str) -> bool {
    let mut client = TokenServiceClient::new(node.anonymous().await);
    client.who_am_i(with_token(pb::WhoAmIRequest {}, token)).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_is_good_at_once_and_a_withdrawn_one_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let mut issuer = Issuer::trusted_by(&node).await;
    let old = issuer.token("ada", &[], 600);
    assert!(is_known(&node, &old).await);
    let fetches = issuer.asked();

    // Unless it was asked just before, the first token by the new key has the keys fetched, and waits for them.
    issuer.rotate("k2", true);
    let new = issuer.token("ada", &[], 600);
    eventually("the new key", async || is_known(&node, &new).await.then_some(())).await;
    assert_eq!(issuer.asked(), fetches + 1);
    assert!(is_known(&node, &old).await, "a key that the issuer still tells of was dropped");

    // Random key ids, from many at once: nobody is let in, and the issuer is asked once more at most.
    let began = Instant::now();
    let random = (0..40).map(|n| issuer.token_by(&format!("random-{n}"), "eve", &[], 600));
    let known = futures::future::join_all(random.map(|token| {
        let node = &node;
        async move { is_known(node, &token).await }
    }));
    assert!(known.await.iter().all(|known| !known));
    let most = fetches + 2 + usize::try_from(began.elapsed().as_secs() / 5).unwrap();
    assert!(issuer.asked() <= most, "{} fetches", issuer.asked() - fetches);

    // A gateway asks the same way; other roles cannot.
    issuer.rotate("k3", false);
    let new = issuer.token("ada", &[], 600);
    let ask = || RefreshKeysRequest { issuers: vec!["corp".into()] };
    let mut gateway = IssuerServiceClient::new(node.as_node(NodeRole::Gateway, "g1").await);
    let answer = gateway.refresh_keys(ask()).await.unwrap().into_inner();
    assert!(answer.changed || answer.retry_after_ms > 0, "{answer:?}");
    eventually("the newest key", async || is_known(&node, &new).await.then_some(())).await;
    assert!(!is_known(&node, &old).await, "a key that the issuer tells of no more was taken");
    let unknown = gateway.refresh_keys(RefreshKeysRequest { issuers: vec!["nobody".into()] }).await.unwrap();
    assert!(!unknown.into_inner().changed);
    let many = RefreshKeysRequest { issuers: vec!["corp".into(); 17] };
    assert_eq!(gateway.refresh_keys(many).await.unwrap_err().code(), Code::InvalidArgument);
    let mut admin = IssuerServiceClient::new(node.admin().await);
    assert_eq!(admin.refresh_keys(ask()).await.unwrap_err().code(), Code::PermissionDenied);

    // What is no answer leaves the keys as they are.
    issuer.says.lock().unwrap().discovery = serde_json::json!({"issuer": "https://evil.example"});
    assert!(is_known(&node, &new).await);
    let began = Instant::now();
    let refused = eventually("a refused look", async || {
        let answer = gateway.refresh_keys(ask()).await.unwrap().into_inner();
        (answer.retry_after_ms > 0).then_some(answer)
    });
    assert!(!refused.await.changed && began.elapsed() < Duration::from_secs(20));
    assert!(is_known(&node, &new).await);
    node.end().await;
}
