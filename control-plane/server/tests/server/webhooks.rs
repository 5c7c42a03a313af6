//! Webhooks: signed, told again until taken, and by whoever leads.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use aws_lc_rs::hmac;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postern_core::node::NodeRole;
use postern_proto::admin::v1 as pb;
use postern_proto::admin::v1::approval_service_client::ApprovalServiceClient;
use postern_proto::admin::v1::resource_service_client::ResourceServiceClient;
use postern_proto::admin::v1::webhook_service_client::WebhookServiceClient;
use postern_proto::gateway::v1 as gateway_pb;
use postern_proto::gateway::v1::hold_service_client::HoldServiceClient;
use postern_proto::resource::v1 as resource_pb;
use resource_pb::resource::Spec;
use serde_json::Value;
use tonic::Code;

use crate::approvals::held;
use crate::issuer::Issuer;
use crate::node::{Node, eventually, start, with_token};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// An endpoint that verifies what it takes, and fails as often as it is told to.
#[derive(Clone, Default)]
struct Endpoint {
    taken: Arc<Mutex<Vec<Value>>>,
    tries: Arc<AtomicUsize>,
    failing: Arc<AtomicUsize>,
}

impl Endpoint {
    async fn serve(&self, address: SocketAddr) -> (SocketAddr, tokio::task::JoinHandle<()>) {
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let this = self.clone();
        let app = axum::Router::new().route(
            "/hook",
            post(move |headers: HeaderMap, body: axum::body::Bytes| {
                let this = this.clone();
                async move { this.take(&headers, &body) }
            }),
        );
        let serve = async move { axum::serve(listener, app).await.unwrap() };
        #[allow(clippy::disallowed_methods)] // a test's own
        let server = tokio::spawn(serve);
        (address, server)
    }

    fn take(&self, headers: &HeaderMap, body: &[u8]) -> StatusCode {
        self.tries.fetch_add(1, Ordering::SeqCst);
        let header = |name: &str| headers[name].to_str().unwrap().to_owned();
        let signed = format!("{}.{}.", header("webhook-id"), header("webhook-timestamp"));
        let key = STANDARD.decode(SECRET.strip_prefix("whsec_").unwrap()).unwrap();
        let signature = STANDARD.decode(header("webhook-signature").strip_prefix("v1,").unwrap()).unwrap();
        let whole = [signed.as_bytes(), body].concat();
        hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, &key), &whole, &signature).expect("a good signature");
        let left = self.failing.load(Ordering::SeqCst);
        if left > 0 {
            self.failing.store(left - 1, Ordering::SeqCst);
            return StatusCode::SERVICE_UNAVAILABLE;
        }
        let message: Value = serde_json::from_slice(body).unwrap();
        assert_eq!(message["id"].as_str().unwrap(), header("webhook-id"));
        self.taken.lock().unwrap().push(message);
        StatusCode::NO_CONTENT
    }

    async fn until(&self, events: &[&str]) {
        let seen = || {
            let taken = self.taken.lock().unwrap();
            taken.iter().map(|message| message["type"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        eventually("the messages", async || (seen() == events).then_some(())).await;
    }
}

fn object(name: &str, spec: Spec) -> resource_pb::Resource {
    let metadata = resource_pb::Metadata { name: name.into(), ..Default::default() };
    resource_pb::Resource { metadata: Some(metadata), spec: Some(spec) }
}

async fn apply(node: &Node, url: &str, events: &[&str]) {
    let mut resources = ResourceServiceClient::new(node.admin().await);
    let value = resource_pb::secret_spec::Source::Value(SECRET.into());
    let secret = object("hook-key", Spec::Secret(resource_pb::SecretSpec { source: Some(value) }));
    let webhook = resource_pb::WebhookSpec {
        url: url.into(),
        events: events.iter().map(ToString::to_string).collect(),
        secret: "hook-key".into(),
        ..Default::default()
    };
    let request =
        pb::ApplyRequest { resources: vec![secret, object("ops", Spec::Webhook(webhook))], ..Default::default() };
    // The cluster comes to its feature level a moment after its start.
    eventually("the webhook to be taken", async || match resources.apply(request.clone()).await {
        Ok(_) => Some(()),
        Err(status) if status.code() == Code::FailedPrecondition => None,
        Err(status) => panic!("{status}"),
    })
    .await;
}

async fn ask(node: &Node, expires_seconds: u32) -> String {
    let mut gateway = HoldServiceClient::new(node.as_node(NodeRole::Gateway, "g1").await);
    let asked = held("alice");
    let id = asked.id.clone();
    gateway
        .request_approval(gateway_pb::RequestApprovalRequest { approval: Some(asked), expires_seconds })
        .await
        .unwrap();
    id
}

async fn status(node: &Node) -> resource_pb::WebhookStatus {
    let mut webhooks = WebhookServiceClient::new(node.admin().await);
    let answer = webhooks.list_webhook_statuses(pb::ListWebhookStatusesRequest {}).await.unwrap();
    answer.into_inner().statuses.remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn told_once_taken_in_order_and_signed() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let endpoint = Endpoint::default();
    let (address, _server) = endpoint.serve("127.0.0.1:0".parse().unwrap()).await;
    apply(&node, &format!("http://{address}/hook"), &[]).await;
    // It fails twice, and takes the message then.
    endpoint.failing.store(2, Ordering::SeqCst);
    let id = ask(&node, 3600).await;
    endpoint.until(&["approval.requested"]).await;
    assert_eq!(endpoint.tries.load(Ordering::SeqCst), 3);
    let mut gateway = HoldServiceClient::new(node.as_node(NodeRole::Gateway, "g1").await);
    let withdraw = gateway_pb::WithdrawApprovalRequest { id: id.clone(), because: "gone".into() };
    gateway.withdraw_approval(withdraw).await.unwrap();
    endpoint.until(&["approval.requested", "approval.withdrawn"]).await;
    {
        let taken = endpoint.taken.lock().unwrap();
        assert_eq!(taken[0]["data"]["approval"]["statement"], "delete from orders");
        assert_eq!(taken[1]["data"]["approval"]["withdrawnBecause"], "gone");
        assert_eq!(taken[1]["id"], format!("{id}.approval.withdrawn"));
    }
    let told = eventually("the status", async || Some(status(&node).await).filter(|told| told.waiting == 0)).await;
    assert_eq!((told.delivered, told.dropped, &*told.failure), (2, 0, ""));
    node.end().await;
}

/// While the endpoint is away approvals go on; the node that comes after tells what the one before could not.
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_away_delays_nothing_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let endpoint = Endpoint::default();
    // Nobody listens there.
    let (address, server) = endpoint.serve("127.0.0.1:0".parse().unwrap()).await;
    server.abort();
    let _ = server.await;
    apply(&node, &format!("http://{address}/hook"), &["approval.requested"]).await;
    let began = std::time::Instant::now();
    for _ in 0..5 {
        ask(&node, 3600).await;
    }
    assert!(began.elapsed() < std::time::Duration::from_secs(5), "{:?}", began.elapsed());
    let told =
        eventually("a failure", async || Some(status(&node).await).filter(|told| !told.failure.is_empty())).await;
    assert_eq!((told.waiting, told.delivered), (5, 0));
    node.end().await;

    let (_, _server) = endpoint.serve(address).await;
    let node = start(dir.path()).await;
    endpoint.until(&["approval.requested"; 5]).await;
    let told = eventually("the status", async || Some(status(&node).await).filter(|told| told.waiting == 0)).await;
    assert_eq!((told.delivered, &*told.failure), (5, ""));
    // What signs is in use.
    let mut resources = ResourceServiceClient::new(node.admin().await);
    let delete =
        pb::DeleteRequest { kind: resource_pb::Kind::Secret.into(), name: "hook-key".into(), ..Default::default() };
    assert_eq!(resources.delete(delete).await.unwrap_err().code(), Code::FailedPrecondition);
    node.end().await;
}

/// What masks hide from a reviewer, and not from the requester; a webhook is told as one from whom everything is hidden.
#[tokio::test(flavor = "multi_thread")]
async fn values_of_masked_columns_are_hidden_from_who_may_not_see_them() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let issuer = Issuer::trusted_by(&node).await;
    let endpoint = Endpoint::default();
    let (address, _server) = endpoint.serve("127.0.0.1:0".parse().unwrap()).await;
    apply(&node, &format!("http://{address}/hook"), &[]).await;
    #[allow(clippy::needless_update)]
    let rule = resource_pb::MaskingRuleSpec {
        targets: Some(resource_pb::TargetSelector { names: vec!["*".into()], ..Default::default() }),
        columns: vec!["public.users.email".into()],
        mask: Some(resource_pb::Mask { function: Some(resource_pb::mask::Function::Null(resource_pb::NullMask {})) }),
        exempt_groups: vec!["privacy".into()],
        ..Default::default()
    };
    let mut resources = ResourceServiceClient::new(node.admin().await);
    let request = pb::ApplyRequest { resources: vec![object("emails", Spec::MaskingRule(rule))], ..Default::default() };
    resources.apply(request).await.unwrap();

    let value =
        |parameter, from, to, column: &str| resource_pb::ValueUse { parameter, from, to, columns: vec![column.into()] };
    let asked = resource_pb::Approval {
        text: "UPDATE users SET email = $1 WHERE id = 7".into(),
        parameters: vec!["a@b".into()],
        background: Some(resource_pb::ApprovalBackground {
            relations: vec![resource_pb::ConcernedRelation {
                database: "d".into(),
                schema: "public".into(),
                name: "users".into(),
            }],
            values: vec![value(1, 0, 0, "email"), value(0, 39, 40, "id")],
            ..Default::default()
        }),
        ..held("alice")
    };
    let id = asked.id.clone();
    let mut gateway = HoldServiceClient::new(node.as_node(NodeRole::Gateway, "g1").await);
    let request = gateway_pb::RequestApprovalRequest { approval: Some(asked), expires_seconds: 60 };
    gateway.request_approval(request).await.unwrap();
    let mut people = ApprovalServiceClient::new(node.anonymous().await);
    let (rita, vera, alice) = (
        issuer.token("rita", &["dba"], 600),
        issuer.token("vera", &["dba", "privacy"], 600),
        issuer.token("alice", &[], 600),
    );
    for (token, shown) in [(&rita, "****"), (&vera, "a@b"), (&alice, "a@b")] {
        let known = eventually("the rule to be known", async || {
            let get = with_token(pb::GetApprovalRequest { id: id.clone() }, token);
            let seen = people.clone().get_approval(get).await.unwrap().into_inner().approval.unwrap();
            (seen.parameters == [shown]).then_some(seen)
        })
        .await;
        assert_eq!(known.text, "UPDATE users SET email = $1 WHERE id = 7");
        let told = known.background.unwrap();
        assert_eq!((told.veiled, told.values.len()), (shown == "****", 0));
    }
    let list = with_token(pb::ListApprovalsRequest::default(), &rita);
    assert_eq!(people.list_approvals(list).await.unwrap().into_inner().approvals[0].parameters, ["****"]);
    endpoint.until(&["approval.requested"]).await;
    assert!(!endpoint.taken.lock().unwrap()[0].to_string().contains("a@b"));
    node.end().await;
}
