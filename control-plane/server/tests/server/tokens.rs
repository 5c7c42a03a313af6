use postern_proto::admin::v1 as pb;
use postern_proto::admin::v1::token_service_client::TokenServiceClient;
use tonic::Code;

use crate::issuer::Issuer;
use crate::node::{start, with_token};

#[tokio::test(flavor = "multi_thread")]
async fn an_oidc_token_becomes_a_session_token() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let issuer = Issuer::trusted_by(&node).await;
    let mut client = TokenServiceClient::new(node.anonymous().await);
    let exchange = |token: &str, targets: &[&str]| pb::ExchangeTokenRequest {
        subject_token: token.into(),
        targets: targets.iter().map(ToString::to_string).collect(),
        ttl_seconds: 0,
    };
    let root = issuer.token("root", &["admins"], 600);
    let whole = client.exchange_token(exchange(&root, &[])).await.unwrap().into_inner();
    let who = client.who_am_i(with_token(pb::WhoAmIRequest {}, &whole.token)).await.unwrap().into_inner();
    assert_eq!((&*who.principal.unwrap().subject, who.admin), ("root", true));

    // A narrowed token works on its targets: it rules nothing, and does not widen again.
    let narrow = client.exchange_token(exchange(&root, &["db"])).await.unwrap().into_inner().token;
    let who = client.who_am_i(with_token(pb::WhoAmIRequest {}, &narrow)).await.unwrap().into_inner();
    assert!(!who.admin && !who.auditor);
    let wider = client.exchange_token(exchange(&narrow, &["other"])).await.unwrap_err();
    assert_eq!(wider.code(), Code::PermissionDenied);

    let forged = client.exchange_token(exchange("a.b.c", &[])).await.unwrap_err();
    assert_eq!((forged.code(), forged.message()), (Code::Unauthenticated, "token-invalid"));
    assert_eq!(client.who_am_i(pb::WhoAmIRequest {}).await.unwrap_err().code(), Code::Unauthenticated);
    node.end().await;
}
