//! OAuth 2.0 for clients that know no gRPC: token exchange (RFC 8693) at `/oauth/token`, what others need to verify the tokens (RFC 8414, RFC 7517), what
//! a token is worth (RFC 7662), and its end (RFC 7009). And that the job is alive which a token is tied to, of which no RFC speaks.
//!
//! What is given here is given by the same desk as over gRPC, by the same rules; only the words differ. Nothing here is for browsers.

mod answer;
mod form;
mod probe;
mod tokens;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::routing::{get, post};
use http::header::AUTHORIZATION;
use http::{HeaderMap, Response};
use postern_core::issuer::Algorithm;
use postern_core::token::SESSION_TOKEN_AUDIENCE;
use postern_runtime::jwt::{PROOF_ALGORITHMS, Proof};
use serde_json::{Value, json};

use super::{ClientAddress, Parts};
use crate::api::{Ask, Call, Presented, TokenDesk};
use crate::identity::{Minted, Wanted};
use crate::run::PolicyWatch;
use crate::serve::PeerInfo;
use answer::{Problem, named, public};
use form::{Granted, Params, Posted};
pub use probe::FormProbe;

/// Of a service account by a key of its own.
const CLIENT_CREDENTIALS: &str = "client_credentials";
const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
/// RFC 8693, section 3: what a session token is, by either name.
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
/// How long others may keep the keys: one that is new is there this long before it signs, and longer.
const KEEP: &str = "public, max-age=300";

/// What the endpoints serve from.
#[derive(Clone)]
struct House {
    desk: TokenDesk,
    policy: PolicyWatch,
    /// `https://HOST[:PORT]`: the issuer, to others.
    url: String,
}

pub(super) fn routes(parts: &Parts, url: &str) -> Router {
    let house = House { desk: parts.desk.clone(), policy: parts.policy.clone(), url: url.to_owned() };
    Router::new()
        .route("/oauth/token", post(token))
        .route("/oauth/introspect", post(tokens::introspect))
        .route("/oauth/revoke", post(tokens::revoke))
        .route("/oauth/heartbeat", post(tokens::heartbeat))
        .route("/oauth/jwks", get(jwks))
        .route("/.well-known/oauth-authorization-server", get(metadata))
        // Where many verifiers look first (RFC 8414, section 5).
        .route("/.well-known/openid-configuration", get(metadata))
        .with_state(house)
}

async fn token(
    State(house): State<House>,
    Extension(ClientAddress(address)): Extension<ClientAddress>,
    headers: HeaderMap,
    posted: Posted,
) -> Response<Body> {
    let (call, peer) = house.desk.call("/oauth/token", address);
    let given = house.given(&call, &peer, &headers, posted).await;
    house.answered(&call, &headers, given).await
}

impl House {
    async fn given(&self, call: &Call, peer: &PeerInfo, headers: &HeaderMap, posted: Posted) -> Result<Value, Problem> {
        let params = Params::read(posted)?;
        // Nobody has a password here (RFC 6749, section 2.3.1).
        if headers.contains_key(AUTHORIZATION) {
            return Err(Problem::client(Some("Basic realm=\"postern\"")));
        }
        if params.get("client_secret").is_some() {
            return Err(Problem::client(None));
        }
        let proof = self.desk.proof(peer, headers, &self.at("/oauth/token")).await?;
        match params.must("grant_type")? {
            TOKEN_EXCHANGE => {
                // Nobody has to, but who says who they are proves it.
                if params.get("client_assertion").is_some() {
                    self.desk
                        .client(call, peer, params.client()?, &self.names().each_ref().map(|name| &**name))
                        .await?;
                }
                self.exchanged(call, peer, params, proof).await
            }
            JWT_BEARER => self.granted(call, peer, params, proof).await,
            CLIENT_CREDENTIALS => self.for_client(call, peer, params, proof).await,
            _ => Err(Problem::grant_type()),
        }
    }

    /// RFC 6749, section 4.4; RFC 7523, section 2.2.
    async fn for_client(
        &self,
        call: &Call,
        peer: &PeerInfo,
        params: Params,
        proof: Option<Proof>,
    ) -> Result<Value, Problem> {
        let wanted = Wanted { iss: Some(self.url.clone()), ..params.wanted()? };
        let names = self.names();
        let shown = (params.client()?, &names.each_ref().map(|name| &**name)[..]);
        let minted = self.desk.for_client(call, peer, shown, (wanted, proof)).await?;
        Ok(answer(&minted, &[]))
    }

    /// RFC 7523, section 2.1: an exchange in fewer words, for clients that know no other.
    async fn granted(
        &self,
        call: &Call,
        peer: &PeerInfo,
        params: Params,
        proof: Option<Proof>,
    ) -> Result<Value, Problem> {
        let Granted { assertion, account, wanted } = params.granted()?;
        let wanted = Wanted { iss: Some(self.url.clone()), ..wanted };
        let minted = if account {
            let names = self.names();
            let shown = (&**assertion, &names.each_ref().map(|name| &**name)[..]);
            self.desk.for_client(call, peer, shown, (wanted, proof)).await
        } else {
            let subject = Presented { token: assertion, kind: JWT.to_owned() };
            self.desk.exchange(call, Some(peer), Ask { subject, proof, wanted, ..Ask::default() }).await
        };
        Ok(answer(&minted.map_err(Problem::of_grant)?, &[]))
    }

    /// What a client may call this server.
    fn names(&self) -> [String; 2] {
        [self.url.clone(), self.at("/oauth/token")]
    }

    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    async fn exchanged(
        &self,
        call: &Call,
        peer: &PeerInfo,
        params: Params,
        proof: Option<Proof>,
    ) -> Result<Value, Problem> {
        let issued = match params.get("requested_token_type") {
            None | Some(ACCESS_TOKEN) => ACCESS_TOKEN,
            Some(JWT) => JWT,
            Some(_) => return Err(Problem::request(format!("requested_token_type must be {ACCESS_TOKEN} or {JWT}"))),
        };
        let mut ask = Ask { proof, ..params.exchange()? };
        ask.wanted.iss = Some(self.url.clone());
        let minted = self.desk.exchange(call, Some(peer), ask).await?;
        Ok(answer(&minted, &[("issued_token_type", issued)]))
    }
}

/// RFC 6749, section 5.1.
fn answer(minted: &Minted, more: &[(&str, &str)]) -> Value {
    let mut body = serde_json::Map::new();
    body.insert("access_token".to_owned(), minted.token.as_str().into());
    body.insert("token_type".to_owned(), if minted.dpop { "DPoP" } else { "Bearer" }.into());
    body.insert("expires_in".to_owned(), minted.lives.into());
    let scope = minted.scope.to_words();
    if !scope.is_empty() {
        body.insert("scope".to_owned(), scope.into());
    }
    body.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())));
    body.into()
}

/// The public keys that session tokens are signed by.
async fn jwks(State(house): State<House>) -> Response<Body> {
    let keys = house.policy.borrow().snapshot.session_token_jwks.clone();
    match serde_json::from_str(&keys) {
        Ok(keys) => public(&keys, KEEP),
        Err(_) => Problem::from(tonic::Status::internal("the keys are not readable")).answer(),
    }
}

/// RFC 8414, section 2.
async fn metadata(State(House { url, .. }): State<House>) -> Response<Body> {
    let at = |path: &str| format!("{url}{path}");
    let algorithms = named(Algorithm::ALL);
    let body = json!({
        "issuer": url,
        "token_endpoint": at("/oauth/token"),
        "token_endpoint_auth_methods_supported": ["private_key_jwt", "none"],
        "token_endpoint_auth_signing_alg_values_supported": algorithms,
        "grant_types_supported": [CLIENT_CREDENTIALS, JWT_BEARER, TOKEN_EXCHANGE],
        "response_types_supported": [],
        "introspection_endpoint": at("/oauth/introspect"),
        "introspection_endpoint_auth_methods_supported": ["private_key_jwt"],
        "introspection_endpoint_auth_signing_alg_values_supported": algorithms,
        "revocation_endpoint": at("/oauth/revoke"),
        "dpop_signing_alg_values_supported": named(&PROOF_ALGORITHMS),
        "revocation_endpoint_auth_methods_supported": ["none"],
        "postern_heartbeat_endpoint": at("/oauth/heartbeat"),
        "jwks_uri": at("/oauth/jwks"),
        // What OpenID Connect Discovery 1.0 asks for, of tokens that say who somebody is.
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["EdDSA"],
        "access_token_audience": SESSION_TOKEN_AUDIENCE,
    });
    public(&body, KEEP)
}
