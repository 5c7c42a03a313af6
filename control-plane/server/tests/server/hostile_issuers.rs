//! Issuers that lie, dawdle, flood and point elsewhere: nothing of theirs is believed, nobody else is kept waiting, and nothing is asked
//! of addresses that they name.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::response::{IntoResponse as _, Redirect, Response};
use axum::routing::any;
use postern_proto::admin::v1 as pb;
use postern_proto::admin::v1::resource_service_client::ResourceServiceClient;
use postern_proto::admin::v1::token_service_client::TokenServiceClient;
use postern_proto::resource::v1 as resource_pb;
use serde_json::json;

use crate::issuer::Issuer;
use crate::node::{Node, eventually, start, with_token};

/// A server on loopback that answers each path as `answer` says, and counts.
#[allow(clippy::disallowed_methods)] // a server of the test's own
async fn server(answer: impl Fn(&str, &str) -> Answer + Clone + Send + Sync + 'static) -> (String, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (own, count) = (url.clone(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&count);
    let app = axum::Router::new().fallback(any(move |request: axum::extract::Request| {
        let (answer, own) = (answer.clone(), own.clone());
        counted.fetch_add(1, Ordering::SeqCst);
        async move {
            match answer(&own, request.uri().path()) {
                Answer::Now(response) => response,
                Answer::Never => std::future::pending().await,
            }
        }
    }));
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    (url, count)
}

enum Answer {
    Now(Response),
    Never,
}

fn now(document: serde_json::Value) -> Answer {
    Answer::Now(axum::Json(document).into_response())
}

async fn declare(node: &Node, name: &str, url: &str) {
    let spec = resource_pb::IssuerSpec { url: url.into(), audiences: vec!["postern".into()], ..Default::default() };
    let metadata = Some(resource_pb::Metadata { name: name.into(), ..Default::default() });
    let resource = resource_pb::Resource { metadata, spec: Some(resource_pb::resource::Spec::Issuer(spec)) };
    let request = pb::ApplyRequest { resources: vec![resource], ..Default::default() };
    ResourceServiceClient::new(node.admin().await).apply(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_hostile_issuer_is_believed_and_nobody_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    // What they would lead this node to: something on the machine that answers to anybody.
    let (inner, asked_inside) = server(|_, _| now(json!({"keys": []}))).await;
    let elsewhere = format!("{inner}/keys");
    let of = |own: &str| json!({"issuer": own, "jwks_uri": format!("{own}/keys")});
    let leads_to = move |target: String| move |own: &str, _: &str| now(json!({"issuer": own, "jwks_uri": target}));
    let redirects = elsewhere.clone();
    let keys_redirect = elsewhere.clone();
    let hostile = [
        ("lies", server(|_, _| now(json!({"issuer": "https://accounts.google.com", "jwks_uri": "https://x"}))).await),
        ("leads-inside", server(leads_to(elsewhere.clone())).await),
        ("leads-to-file", server(leads_to("file:///etc/passwd".into())).await),
        ("leads-nowhere", server(|own, _| now(json!({"issuer": own}))).await),
        ("redirects", server(move |_, _| Answer::Now(Redirect::temporary(&redirects).into_response())).await),
        (
            "redirects-keys",
            server(move |own, path| match path {
                "/keys" => Answer::Now(Redirect::permanent(&keys_redirect).into_response()),
                _ => now(of(own)),
            })
            .await,
        ),
        ("is-huge", server(|_, _| Answer::Now("x".repeat(1 << 20).into_response())).await),
        (
            "has-huge-keys",
            server(move |own, path| match path {
                "/keys" => now(json!({"keys": vec![json!({"kty": "oct", "k": "x".repeat(1000)}); 1000]})),
                _ => now(of(own)),
            })
            .await,
        ),
        ("is-silent", server(|_, _| Answer::Never).await),
        ("talks-nonsense", server(|_, _| Answer::Now("<html>".into_response())).await),
        (
            "has-no-keys",
            server(move |own, path| match path {
                "/keys" => now(json!({"keys": [{"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"}]})),
                _ => now(of(own)),
            })
            .await,
        ),
    ];
    for (name, (url, _)) in &hostile {
        declare(&node, name, url).await;
    }
    // An honest one that comes after them is known at once, although one of them never answers.
    let began = Instant::now();
    let honest = Issuer::trusted_by(&node).await;
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    for (name, (_, asked)) in &hostile {
        eventually(&format!("{name} to be asked"), async || (asked.load(Ordering::SeqCst) > 0).then_some(())).await;
    }
    // Their tokens are nobody's, and the one that is asked for them meanwhile answers others.
    let channel = node.anonymous().await;
    for (name, (url, _)) in &hostile {
        let token = honest.token_of(url, "k1");
        let mut client = TokenServiceClient::new(channel.clone());
        assert!(client.who_am_i(with_token(pb::WhoAmIRequest {}, &token)).await.is_err(), "{name}");
    }
    let mut client = TokenServiceClient::new(channel);
    client.who_am_i(with_token(pb::WhoAmIRequest {}, &honest.token("ada", &[], 60))).await.unwrap();
    assert_eq!(asked_inside.load(Ordering::SeqCst), 0, "an issuer had this node ask another address");
    node.end().await;
}
