use postern_proto::admin::v1 as pb;
use postern_proto::admin::v1::token_service_client::TokenServiceClient;
use postern_proto::resource::v1::TokenScope;
use postern_runtime::jwt::{DelegationKey, NewLink};
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
        ..Default::default()
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

    // A child of the one that rules is for work: it rules nothing, says whose it is and who acts.
    let key = DelegationKey::generate().unwrap();
    let handed_on = pb::ExchangeTokenRequest {
        actor: "planner".into(),
        delegation_key: key.public().to_vec(),
        scope: Some(TokenScope { actions: vec!["sql:select".into()], ..Default::default() }),
        ..exchange(&whole.token, &[])
    };
    let planner = client.exchange_token(handed_on.clone()).await.unwrap().into_inner();
    assert!(planner.id.starts_with("tok_"));
    // By itself it is shown to nobody.
    let alone = client.who_am_i(with_token(pb::WhoAmIRequest {}, &planner.token)).await.unwrap_err();
    assert_eq!((alone.code(), alone.message()), (Code::Unauthenticated, "token-invalid"));
    let end = postern_core::Timestamp::from_secs(u64::MAX / 1000);
    let link = NewLink { name: Some("executor".into()), expires_at: end, ..NewLink::default() };
    let executor = key.hand_on(&planner.token, link, postern_runtime::clock::now()).unwrap();
    let who = client.who_am_i(with_token(pb::WhoAmIRequest {}, &executor)).await.unwrap().into_inner();
    let (principal, rules) = (who.principal.unwrap(), who.admin || who.auditor || !who.roles.is_empty());
    assert!(!rules && principal.subject == "root" && principal.expires_at == planner.expires_at);
    let chain: Vec<(&str, &str)> = principal.chain.iter().map(|link| (&*link.subject, &*link.token_id)).collect();
    assert_eq!(chain[..2], [("", &*whole.id), ("planner", &*planner.id)]);
    assert_eq!((chain.len(), chain[2].0, chain[2].1), (3, "executor", &*principal.token_id));
    let bad = [
        pb::ExchangeTokenRequest { delegation_key: vec![1; 31], ..handed_on.clone() },
        pb::ExchangeTokenRequest { actor: "a\nb".into(), ..handed_on.clone() },
        pb::ExchangeTokenRequest {
            scope: Some(TokenScope { networks: vec!["10.0.0.0/33".into()], ..Default::default() }),
            ..handed_on
        },
    ];
    for bad in bad {
        assert_eq!(client.exchange_token(bad).await.unwrap_err().code(), Code::InvalidArgument);
    }

    let forged = client.exchange_token(exchange("a.b.c", &[])).await.unwrap_err();
    assert_eq!((forged.code(), forged.message()), (Code::Unauthenticated, "token-invalid"));
    assert_eq!(client.who_am_i(pb::WhoAmIRequest {}).await.unwrap_err().code(), Code::Unauthenticated);
    node.end().await;
}
