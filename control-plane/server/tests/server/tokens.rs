use postern_proto::admin::v1 as pb;
use postern_proto::admin::v1::token_service_client::TokenServiceClient;
use postern_proto::resource::v1::TokenScope;
use postern_runtime::jwt::{ClientKey, DelegationKey, NewLink};
use tonic::{Code, Request};

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

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_says_how_long_its_principals_tokens_live() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let issuer = Issuer::trusted_by(&node).await;
    let mut client = TokenServiceClient::new(node.anonymous().await);
    let root = issuer.token("root", &["admins"], 9_000);
    let lives = async |client: &mut TokenServiceClient<_>, token: &str, ttl_seconds, ttl_is_default| {
        let subject_token = token.to_owned();
        let request = pb::ExchangeTokenRequest { subject_token, ttl_seconds, ttl_is_default, ..Default::default() };
        let answer = client.exchange_token(request).await?.into_inner();
        let now = postern_runtime::clock::now().secs();
        let left = u64::try_from(answer.expires_at.unwrap().seconds).unwrap().saturating_sub(now);
        Ok::<_, tonic::Status>((left.div_ceil(60) * 60, answer.token))
    };
    let (left, parent) = lives(&mut client, &root, 7_200, false).await.unwrap();
    assert_eq!(left, 7_200);
    // As soon as this member has it from its own feed.
    let both = |spec: &mut postern_proto::resource::v1::IssuerSpec| {
        (spec.max_token_ttl_seconds, spec.token_ttl_seconds) = (1_200, 300);
    };
    issuer.declare(&node, both).await;
    crate::node::eventually("the issuer's word", async || {
        let (left, _) = lives(&mut client, &root, 0, false).await.unwrap();
        (left == 300).then_some(())
    })
    .await;
    for (ttl, no_wish, wanted) in [(1_200, false, 1_200), (60, false, 60), (3_600, true, 300)] {
        assert_eq!(lives(&mut client, &root, ttl, no_wish).await.unwrap().0, wanted, "{ttl}");
        // A child of a token of before, too.
        assert_eq!(lives(&mut client, &parent, ttl, no_wish).await.unwrap().0, wanted, "{ttl}");
    }
    for token in [&root, &parent] {
        let refused = lives(&mut client, token, 1_201, false).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
    }
    node.end().await;
}

/// A request with a proof by `key`, for a method of the token service; with a token that is bound to it, or none.
fn proven<T>(message: T, key: &ClientKey, method: &str, token: Option<&str>, nonce: Option<&str>) -> Request<T> {
    let url = format!("https://control-plane.postern.internal/postern.admin.v1.TokenService/{method}");
    let proof = key.proof(("POST", &url), token, nonce, postern_runtime::clock::now()).unwrap();
    with_proof(message, &proof, token)
}

fn with_proof<T>(message: T, proof: &str, token: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("dpop", proof.parse().unwrap());
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("DPoP {token}").parse().unwrap());
    }
    request
}

fn client_key() -> ClientKey {
    let pem = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap().serialize_pem();
    ClientKey::from_pem(&pem.into()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_token_is_shown_with_a_proof_for_each_call() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let issuer = Issuer::trusted_by(&node).await;
    let mut client = TokenServiceClient::new(node.anonymous().await);
    let exchange = |token: &str| pb::ExchangeTokenRequest { subject_token: token.into(), ..Default::default() };
    let (key, other) = (client_key(), client_key());
    let root = issuer.token("root", &["admins"], 600);
    let asked = proven(exchange(&root), &key, "ExchangeToken", None, None);
    let bound = client.exchange_token(asked).await.unwrap().into_inner().token;

    let who = || pb::WhoAmIRequest {};
    let url = "https://control-plane.postern.internal/postern.admin.v1.TokenService/WhoAmI";
    let now = postern_runtime::clock::now();
    let proof = key.proof(("POST", url), Some(&bound), None, now).unwrap();
    let shown = client.who_am_i(with_proof(who(), &proof, Some(&bound))).await.unwrap().into_inner();
    assert_eq!((&*shown.principal.unwrap().subject, shown.admin), ("root", true));
    let stale = postern_core::Timestamp::from_secs(now.secs() - 90);
    for (why, proof) in [
        ("shown before", proof),
        (
            "another method",
            key.proof(("POST", &url.replace("WhoAmI", "ExchangeToken")), Some(&bound), None, now).unwrap(),
        ),
        (
            "by the address that is dialled",
            key.proof(("POST", &url.replace("control-plane.postern.internal", "localhost")), Some(&bound), None, now)
                .unwrap(),
        ),
        ("another HTTP method", key.proof(("GET", url), Some(&bound), None, now).unwrap()),
        ("another token", key.proof(("POST", url), Some(&root), None, now).unwrap()),
        ("no token", key.proof(("POST", url), None, None, now).unwrap()),
        ("long ago", key.proof(("POST", url), Some(&bound), None, stale).unwrap()),
    ] {
        let refused = client.who_am_i(with_proof(who(), &proof, Some(&bound))).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{why}");
        assert!(refused.message().starts_with("invalid-dpop-proof"), "{why}: {refused}");
    }
    // As a bearer's, by another's key, and one that is not bound as if it were.
    let as_bearer = client.who_am_i(with_token(who(), &bound)).await.unwrap_err();
    let foreign = client.who_am_i(proven(who(), &other, "WhoAmI", Some(&bound), None)).await.unwrap_err();
    let unbound = client.who_am_i(proven(who(), &key, "WhoAmI", Some(&root), None)).await.unwrap_err();
    for refused in [as_bearer, foreign, unbound] {
        assert_eq!((refused.code(), refused.message()), (Code::Unauthenticated, "token-invalid"));
    }

    // What is made of it keeps the binding, or has another by a proof of this one.
    assert_eq!(client.exchange_token(exchange(&bound)).await.unwrap_err().message(), "token-invalid");
    let to_other = pb::ExchangeTokenRequest { dpop_jkt: other.thumbprint().to_vec(), ..exchange(&bound) };
    let thief = client.exchange_token(proven(to_other.clone(), &other, "ExchangeToken", None, None)).await.unwrap_err();
    assert_eq!(thief.message(), "token-invalid");
    let child = client.exchange_token(proven(exchange(&bound), &key, "ExchangeToken", None, None)).await.unwrap();
    let child = child.into_inner().token;
    client.who_am_i(proven(who(), &key, "WhoAmI", Some(&child), None)).await.unwrap();
    let handed = client.exchange_token(proven(to_other.clone(), &key, "ExchangeToken", None, None)).await.unwrap();
    let handed = handed.into_inner().token;
    client.who_am_i(proven(who(), &other, "WhoAmI", Some(&handed), None)).await.unwrap();
    assert_eq!(
        client.who_am_i(proven(who(), &key, "WhoAmI", Some(&handed), None)).await.unwrap_err().message(),
        "token-invalid"
    );
    let both = pb::ExchangeTokenRequest { certificate_sha256: vec![7; 32], ..to_other };
    let refused = client.exchange_token(proven(both, &key, "ExchangeToken", None, None)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    node.end().await;
}
