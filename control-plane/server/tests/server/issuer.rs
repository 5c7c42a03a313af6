//! A small OIDC issuer on loopback.

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
    key: KeyPair,
    server: tokio::task::JoinHandle<()>,
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
        let spec = resource_pb::IssuerSpec {
            url: issuer.url.clone(),
            audiences: vec!["postern".into()],
            groups_claim: "groups".into(),
            ..Default::default()
        };
        let metadata = resource_pb::Metadata { name: "corp".into(), ..Default::default() };
        let resource =
            resource_pb::Resource { metadata: Some(metadata), spec: Some(resource_pb::resource::Spec::Issuer(spec)) };
        let request = pb::ApplyRequest { resources: vec![resource], ..Default::default() };
        ResourceServiceClient::new(node.admin().await).apply(request).await.unwrap();
        let (channel, token) = (node.anonymous().await, issuer.token("probe", &[], 60));
        eventually("the issuer's keys", async || {
            let request = with_token(pb::WhoAmIRequest {}, &token);
            TokenServiceClient::new(channel.clone()).who_am_i(request).await.ok()
        })
        .await;
        issuer
    }

    #[allow(clippy::disallowed_methods)] // a server of the test's own
    async fn start() -> Self {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let discovery = json!({"issuer": url, "jwks_uri": format!("{url}/keys")});
        let x = URL_SAFE_NO_PAD.encode(key.public_key_raw());
        let keys =
            json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": x, "kid": "k1", "alg": "EdDSA", "use": "sig"}]});
        let serve = |document: Value| get(move || async move { Json(document) });
        let app = axum::Router::new()
            .route("/.well-known/openid-configuration", serve(discovery))
            .route("/keys", serve(keys));
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { url, key, server }
    }

    pub(crate) fn token(&self, subject: &str, groups: &[&str], lives_seconds: i64) -> String {
        let now = i64::try_from(postern_runtime::clock::now().secs()).unwrap();
        let header = json!({"alg": "EdDSA", "kid": "k1", "typ": "JWT"});
        let claims = json!({
            "iss": self.url, "aud": "postern", "sub": subject, "groups": groups,
            "iat": now - 100, "exp": now + lives_seconds,
        });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(&claims));
        let signature = URL_SAFE_NO_PAD.encode(self.key.sign(signed.as_bytes()).unwrap());
        format!("{signed}.{signature}")
    }
}
