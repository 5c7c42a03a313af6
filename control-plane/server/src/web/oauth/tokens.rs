//! What a token is worth (RFC 7662), and its end (RFC 7009).

use axum::body::Body;
use axum::extract::{Extension, State};
use http::header::AUTHORIZATION;
use http::{HeaderMap, Response, StatusCode};
use postern_core::token::{Act, SESSION_TOKEN_AUDIENCE};
use postern_runtime::jwt::Verified;
use serde_json::{Value, json};

use super::super::ClientAddress;
use super::House;
use super::answer::{Problem, json as answer_json};
use super::form::{Params, Posted};
use crate::api::{Call, NONCE};
use crate::serve::PeerInfo;

/// Whoever may ask: a service account, or a principal who may `get` `tokens`. A stranger learns nothing.
pub(super) async fn introspect(
    State(house): State<House>,
    Extension(ClientAddress(address)): Extension<ClientAddress>,
    headers: HeaderMap,
    posted: Posted,
) -> Response<Body> {
    let (call, peer) = house.desk.call("/oauth/introspect", address);
    let told = house.worth(&call, &peer, &headers, posted).await;
    house.answered(&call, &headers, told).await
}

/// Whoever has a token may end it.
pub(super) async fn revoke(
    State(house): State<House>,
    Extension(ClientAddress(address)): Extension<ClientAddress>,
    headers: HeaderMap,
    posted: Posted,
) -> Response<Body> {
    let (call, peer) = house.desk.call("/oauth/revoke", address);
    let done = house.ended(&call, &peer, posted).await;
    house.answered(&call, &headers, done).await
}

/// Whoever has the token of a job, or one that was made from it, says that it is alive.
pub(super) async fn heartbeat(
    State(house): State<House>,
    Extension(ClientAddress(address)): Extension<ClientAddress>,
    headers: HeaderMap,
    posted: Posted,
) -> Response<Body> {
    let (call, peer) = house.desk.call("/oauth/heartbeat", address);
    match house.beaten(&call, &peer, &headers, posted).await {
        // Every few seconds of every job: only refusals are recorded, as over gRPC.
        Ok(body) => house.with_nonce(&headers, answer_json(StatusCode::OK, &body)),
        refused => house.answered(&call, &headers, refused).await,
    }
}

impl House {
    async fn beaten(
        &self,
        call: &Call,
        peer: &PeerInfo,
        headers: &HeaderMap,
        posted: Posted,
    ) -> Result<Value, Problem> {
        let params = Params::read(posted)?;
        let proof = self.desk.proof(peer, headers, &self.at("/oauth/heartbeat")).await?;
        let job = self.desk.beat(call, peer, (params.must("token")?, proof)).await?;
        Ok(json!({
            "job": job.token,
            "name": job.name,
            "heartbeat": job.heartbeat.0,
            "deadline": job.deadline.secs(),
            "exp": job.ends_at.secs(),
        }))
    }

    async fn worth(&self, call: &Call, peer: &PeerInfo, headers: &HeaderMap, posted: Posted) -> Result<Value, Problem> {
        let params = Params::read(posted)?;
        if params.get("client_assertion").is_some() {
            self.desk.client(call, peer, params.client()?, &self.names().each_ref().map(|name| &**name)).await?;
        } else if headers.contains_key(AUTHORIZATION) {
            let url = self.at("/oauth/introspect");
            let by_proof = headers.contains_key("dpop");
            let asked = self.desk.asker(call, peer, headers, &url).await;
            asked.map_err(|refused| Problem::of_asker(refused, by_proof))?;
        } else {
            return Err(Problem::client(Some("Bearer realm=\"postern\", DPoP")));
        }
        let verified = self.desk.introspect(params.must("token")?).await?;
        Ok(verified.map_or_else(|| json!({"active": false}), |verified| active(&verified)))
    }

    async fn ended(&self, call: &Call, peer: &PeerInfo, posted: Posted) -> Result<Value, Problem> {
        let params = Params::read(posted)?;
        self.desk.revoke(call, peer, params.must("token")?).await?;
        Ok(json!({}))
    }

    /// Recorded, and then answered.
    pub(super) async fn answered(
        &self,
        call: &Call,
        headers: &HeaderMap,
        told: Result<Value, Problem>,
    ) -> Response<Body> {
        let recorded = self.desk.recorded(call, told.as_ref().err().map(Problem::status)).await;
        let answer = match (recorded, told) {
            (Err(unrecorded), _) => Problem::from(unrecorded).answer(),
            (Ok(()), Ok(body)) => answer_json(StatusCode::OK, &body),
            (Ok(()), Err(problem)) => problem.answer(),
        };
        self.with_nonce(headers, answer)
    }

    fn with_nonce(&self, headers: &HeaderMap, mut answer: Response<Body>) -> Response<Body> {
        answer.headers_mut().extend(self.desk.next_nonce(headers).map(|nonce| (NONCE, nonce)));
        answer
    }
}

/// RFC 7662, section 2.2. What a token of a chain leaves over is told one by one: together they are no one scope.
fn active(verified: &Verified) -> Value {
    let principal = &verified.principal;
    let chain: Vec<Value> = principal
        .chain
        .iter()
        .map(|link| {
            json!({
                "jti": link.token,
                "actor": link.actor.as_ref().map(ToString::to_string),
                "scope": link.scope.to_words(),
            })
        })
        .collect();
    let mut body = json!({
        "active": true,
        "token_type": if verified.needs_proof() { "DPoP" } else { "Bearer" },
        "sub": principal.id.to_string(),
        "aud": SESSION_TOKEN_AUDIENCE,
        "iat": verified.issued_at.secs(),
        "principal": {"issuer": principal.id.issuer, "subject": principal.id.subject, "groups": principal.groups},
        "chain": chain,
    });
    if let Some(body) = body.as_object_mut() {
        let mut add = |name: &str, value: Option<Value>| body.extend(value.map(|value| (name.to_owned(), value)));
        add("jti", principal.token_id.as_deref().map(Value::from));
        add("exp", principal.expires_at.map(|end| end.secs().into()));
        add("act", Act::of(&principal.chain).and_then(|act| serde_json::to_value(act).ok()));
        add("cnf", verified.confirmation.as_ref().and_then(|cnf| serde_json::to_value(cnf).ok()));
        let [link] = principal.chain.as_slice() else { return Value::Object(std::mem::take(body)) };
        let scope = link.scope.to_words();
        add("scope", (!scope.is_empty()).then(|| scope.into()));
    }
    body
}
