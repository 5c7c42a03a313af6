//! A small OIDC issuer on loopback.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Json;
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use postern_proto::admin::v1 as pb;
use postern_proto::admin::v1::resource_service_client::ResourceServiceClient;
use postern_proto::admin::v1::token_service_client::TokenServiceClient;
use postern_proto::resource::v1 as resource_pb;
use rcgen::{KeyPair, PKCS_ED25519, SigningKey as _};
use serde_json::{Value, json};

use crate::node::{Node, eventually, with_token};

pub(crate) struct Issuer {
    pub(crate) url: String,
    key: Key,
    pub(crate) says: Arc<Mutex<Says>>,
    asked: Arc<AtomicUsize>,
    server: tokio::task::JoinHandle<()>,
}

/// What it answers.
pub(crate) struct Says {
    pub(crate) discovery: Value,
    pub(crate) keys: Vec<Value>,
}

struct Key {
    kid: String,
    pair: KeyPair,
}

impl Key {
    fn new(kid: &str) -> Self {
        Self { kid: kid.to_owned(), pair: KeyPair::generate_for(&PKCS_ED25519).unwrap() }
    }

    fn jwk(&self) -> Value {
        let x = URL_SAFE_NO_PAD.encode(self.pair.public_key_raw());
        json!({"kty": "OKP", "crv": "Ed25519", "x": x, "kid": self.kid, "alg": "EdDSA", "use": "sig"})
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Issuer {
    /// Serves, is declared as `corp`, and is ready when its tokens are believed.
    pub(crate) async fn trusted_by(node: &Node) -> Self {
        let issuer = Self::start().await;
        issuer.declare(node, |_| {}).await;
        let (channel, token) = (node.anonymous().await, issuer.token("probe", &[], 60));
        eventually("the issuer's keys", async || {
            let request = with_token(pb::WhoAmIRequest {}, &token);
            TokenServiceClient::new(channel.clone()).who_am_i(request).await.ok()
        })
        .await;
        issuer
    }

    /// Declares it as `corp`, changed by `change`.
    pub(crate) async fn declare(&self, node: &Node, change: impl FnOnce(&mut resource_pb::IssuerSpec)) {
        let mut spec = resource_pb::IssuerSpec {
            url: self.url.clone(),
            audiences: vec!["postern".into()],
            groups_claim: "groups".into(),
            ..Default::default()
        };
        change(&mut spec);
        let metadata = resource_pb::Metadata { name: "corp".into(), ..Default::default() };
        let resource =
            resource_pb::Resource { metadata: Some(metadata), spec: Some(resource_pb::resource::Spec::Issuer(spec)) };
        let request = pb::ApplyRequest { resources: vec![resource], ..Default::default() };
        ResourceServiceClient::new(node.admin().await).apply(request).await.unwrap();
    }

    #[allow(clippy::disallowed_methods)] // a server of the test's own
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let key = Key::new("k1");
        let says = Says { discovery: json!({"issuer": url, "jwks_uri": format!("{url}/keys")}), keys: vec![key.jwk()] };
        let (says, asked) = (Arc::new(Mutex::new(says)), Arc::new(AtomicUsize::new(0)));
        let (discovery, keys, count) = (Arc::clone(&says), Arc::clone(&says), Arc::clone(&asked));
        let app = axum::Router::new()
            .route(
                "/.well-known/openid-configuration",
                get(async move || Json(discovery.lock().unwrap().discovery.clone())),
            )
            .route(
                "/keys",
                get(async move || {
                    count.fetch_add(1, Ordering::SeqCst);
                    Json(json!({"keys": keys.lock().unwrap().keys}))
                }),
            );
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { url, key, says, asked, server }
    }

    /// Signs by a new key from now on; the former ones are told of no more unless `keep`.
    pub(crate) fn rotate(&mut self, kid: &str, keep: bool) {
        self.key = Key::new(kid);
        let mut says = self.says.lock().unwrap();
        says.keys.retain(|_| keep);
        says.keys.push(self.key.jwk());
    }

    /// How often its keys were fetched.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    pub(crate) fn token(&self, subject: &str, groups: &[&str], lives_seconds: i64) -> String {
        self.token_by(&self.key.kid, subject, groups, lives_seconds)
    }

    /// A token that says that it is signed by the key `kid`.
    pub(crate) fn token_by(&self, kid: &str, subject: &str, groups: &[&str], lives_seconds: i64) -> String {
        self.signed((&self.url, kid), subject, groups, lives_seconds)
    }

    /// A token by the own key that says that it is of another issuer.
    pub(crate) fn token_of(&self, issuer: &str, kid: &str) -> String {
        self.signed((issuer, kid), "eve", &[], 600)
    }

    fn signed(&self, (issuer, kid): (&str, &str), subject: &str, groups: &[&str], lives_seconds: i64) -> String {
        let now = i64::try_from(postern_runtime::clock::now().secs()).unwrap();
        let header = json!({"alg": "EdDSA", "kid": kid, "typ": "JWT"});
        let claims = json!({
            "iss": issuer, "aud": "postern", "sub": subject, "groups": groups,
            "iat": now - 100, "exp": now + lives_seconds,
        });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(&claims));
        let signature = URL_SAFE_NO_PAD.encode(self.key.pair.sign(signed.as_bytes()).unwrap());
        format!("{signed}.{signature}")
    }
}
