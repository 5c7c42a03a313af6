//! The keys of session tokens change while a node runs.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use postern_proto::admin::v1 as pb;
use postern_proto::admin::v1::cluster_service_client::ClusterServiceClient;
use postern_proto::admin::v1::token_service_client::TokenServiceClient;
use tonic::Code;
use tonic::transport::Channel;

use crate::issuer::Issuer;
use crate::node::{Node, eventually, start, with_token};

struct Rig {
    cluster: ClusterServiceClient<Channel>,
    tokens: TokenServiceClient<Channel>,
}

impl Rig {
    async fn of(node: &Node) -> Self {
        let cluster = ClusterServiceClient::new(node.admin().await);
        Self { cluster, tokens: TokenServiceClient::new(node.anonymous().await) }
    }

    async fn exchange(&mut self, token: &str) -> Result<String, tonic::Status> {
        let request = pb::ExchangeTokenRequest { subject_token: token.into(), ..Default::default() };
        Ok(self.tokens.exchange_token(request).await?.into_inner().token)
    }

    async fn who(&mut self, token: &str) -> Result<(), Code> {
        let asked = self.tokens.who_am_i(with_token(pb::WhoAmIRequest {}, token)).await;
        asked.map(drop).map_err(|status| status.code())
    }

    async fn rotate(&mut self, publish_seconds: Option<u32>) -> pb::RotateSigningKeyResponse {
        let request = pb::RotateSigningKeyRequest { publish_seconds, ..Default::default() };
        self.cluster.rotate_signing_key(request).await.unwrap().into_inner()
    }

    async fn revoke(&mut self, kid: &str) -> Result<pb::RevokeSigningKeyResponse, tonic::Status> {
        let request = pb::RevokeSigningKeyRequest { kid: kid.into(), because: "leaked".into(), ..Default::default() };
        Ok(self.cluster.revoke_signing_key(request).await?.into_inner())
    }

    async fn keys(&mut self) -> Vec<pb::SigningKeyStatus> {
        let status = self.cluster.get_cluster_status(pb::GetClusterStatusRequest {}).await.unwrap();
        status.into_inner().signing_keys
    }

    /// Until the cluster is at a feature level by which keys are rotated.
    async fn ready(&mut self) {
        eventually("the feature level", async || {
            let status = self.cluster.get_cluster_status(pb::GetClusterStatusRequest {}).await.unwrap();
            (status.into_inner().feature_level >= 4).then_some(())
        })
        .await;
    }

    async fn forgets(&mut self, token: &str) {
        eventually("the token to be refused", async || {
            (self.who(token).await == Err(Code::Unauthenticated)).then_some(())
        })
        .await;
    }
}

fn kid(token: &str) -> String {
    let header = URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
    serde_json::from_slice::<serde_json::Value>(&header).unwrap()["kid"].as_str().unwrap().to_owned()
}

fn stages(keys: &[pb::SigningKeyStatus]) -> Vec<(&str, pb::SigningKeyStage)> {
    keys.iter().map(|key| (key.kid.as_str(), key.stage())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn another_key_signs_and_one_that_leaked_is_forgotten() {
    use pb::SigningKeyStage::{Current, Next, Previous};
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let issuer = Issuer::trusted_by(&node).await;
    let mut rig = Rig::of(&node).await;
    rig.ready().await;
    let root = issuer.token("root", &["admins"], 600);
    let old = rig.exchange(&root).await.unwrap();
    let k0 = kid(&old);
    assert_eq!(stages(&rig.keys().await), [(k0.as_str(), Current)]);

    // Published, it signs nothing; asked again, it is the same; and then it signs, here without a restart.
    let k1 = rig.rotate(None).await.kid;
    assert_eq!(rig.rotate(Some(600)).await.kid, k1);
    assert_eq!(stages(&rig.keys().await), [(k1.as_str(), Next), (k0.as_str(), Current)]);
    assert_eq!(kid(&rig.exchange(&root).await.unwrap()), k0);
    assert_eq!(rig.rotate(Some(1)).await.kid, k1);
    eventually("the key's turn", async || (stages(&rig.keys().await)[0] == (k1.as_str(), Current)).then_some(())).await;
    let new = rig.exchange(&root).await.unwrap();
    assert_eq!(kid(&new), k1);
    // Both are good, and a child of the old one is signed by the new one.
    assert_eq!((rig.who(&old).await, rig.who(&new).await), (Ok(()), Ok(())));
    let child = rig.exchange(&old).await.unwrap();
    assert_eq!((kid(&child), rig.who(&child).await), (k1.clone(), Ok(())));
    let stranger = with_token(pb::RotateSigningKeyRequest::default(), &issuer.token("eve", &[], 600));
    let refused = ClusterServiceClient::new(node.anonymous().await).rotate_signing_key(stranger).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);

    // The old one leaked: its tokens end, and what was made of them by another key.
    let gone = rig.revoke(&k0).await.unwrap();
    assert_eq!((&gone.revoked_kid, &gone.current_kid, stages(&gone.signing_keys)), (&k0, &k1, vec![(&*k1, Current)]));
    rig.forgets(&old).await;
    rig.forgets(&child).await;
    assert_eq!(rig.exchange(&child).await.unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(rig.who(&new).await, Ok(()));
    assert_eq!(rig.revoke(&k0).await.unwrap_err().code(), Code::NotFound);

    // And the one that signs: another does at once.
    let k2 = rig.revoke("").await.unwrap().current_kid;
    rig.forgets(&new).await;
    let newest = rig.exchange(&root).await.unwrap();
    assert_eq!(kid(&newest), k2);
    eventually("the new key's token", async || rig.who(&newest).await.ok()).await;

    // By another algorithm, where that is asked for; it stays so.
    let es256 = |algorithm: &str| pb::RotateSigningKeyRequest {
        publish_seconds: Some(0),
        algorithm: algorithm.into(),
        ..Default::default()
    };
    let other = rig.cluster.rotate_signing_key(es256("RS256")).await.unwrap_err();
    assert_eq!(other.code(), Code::InvalidArgument);
    rig.cluster.rotate_signing_key(es256("ES256")).await.unwrap();
    let other = rig.exchange(&root).await.unwrap();
    eventually("the other kind's token", async || rig.who(&other).await.ok()).await;
    // All of it outlives the process, and so does what is sealed anew.
    let gone = rig.revoke("").await.unwrap();
    assert_eq!((gone.signing_keys[0].algorithm.as_str(), gone.revoked_kid), ("ES256", kid(&other)));
    let k2 = gone.current_kid;
    let newest = rig.exchange(&root).await.unwrap();
    let k3 = rig.rotate(Some(0)).await.kid;
    // Behind them is the one that signed before the other kind did.
    assert_eq!(stages(&rig.keys().await)[..2], [(k3.as_str(), Current), (k2.as_str(), Previous)]);
    node.end().await;
    let node = start(dir.path()).await;
    let mut rig = Rig::of(&node).await;
    assert_eq!(stages(&rig.keys().await)[..2], [(k3.as_str(), Current), (k2.as_str(), Previous)]);
    eventually("the token of before", async || rig.who(&newest).await.ok()).await;
    let again = eventually("a token", async || rig.exchange(&newest).await.ok()).await;
    assert_eq!(kid(&again), k3);
    assert_eq!(rig.who(&child).await, Err(Code::Unauthenticated));
    node.end().await;
}
