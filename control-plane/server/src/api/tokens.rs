//! Session tokens.

use postern_core::Name;
use postern_core::principal::Actor;
use postern_core::role::Grant;
use postern_core::token::{Confirmation, MAX_ACTOR};
use postern_core::wire::identity::{principal_with_claims_to_proto, scope_from_proto};
use postern_core::wire::job::new_job_from_proto;
use postern_core::wire::timestamp_to_proto;
use postern_proto::admin::v1 as pb;
use postern_proto::admin::v1::token_service_server::TokenService;
use postern_proto::resource::v1 as resource_pb;
use postern_runtime::jwt::is_actor;
use tonic::{Request, Response, Status};
use zeroize::Zeroizing;

use super::access::Access;
use super::desk::{Ask, Presented, TokenDesk};
use super::status;
use crate::identity::Wanted;
use crate::serve::PeerInfo;

/// Bytes of an Ed25519 public key (RFC 8032, section 5.1.5), and of a SHA-256.
const KEY: usize = 32;

pub(super) struct Service {
    pub(super) access: Access,
    pub(super) desk: TokenDesk,
}

#[tonic::async_trait]
impl TokenService for Service {
    async fn exchange_token(
        &self,
        request: Request<pb::ExchangeTokenRequest>,
    ) -> Result<Response<pb::ExchangeTokenResponse>, Status> {
        let call = self.access.call(&request)?;
        let peer = request.extensions().get::<PeerInfo>().cloned();
        let asked = Ask { proof: call.caller().proof().cloned(), ..ask(request.into_inner())? };
        let minted = self.desk.exchange(&call, peer.as_ref(), asked).await;
        let minted = minted.map_err(|refused| refused.status)?;
        Ok(Response::new(pb::ExchangeTokenResponse {
            token: minted.token,
            expires_at: Some(timestamp_to_proto(minted.expires_at)),
            id: minted.id,
        }))
    }

    async fn who_am_i(&self, request: Request<pb::WhoAmIRequest>) -> Result<Response<pb::WhoAmIResponse>, Status> {
        let caller = self.access.admitted(&request)?;
        Ok(Response::new(pb::WhoAmIResponse {
            principal: caller.maybe_principal().map(principal_with_claims_to_proto),
            admin: caller.is_admin(),
            auditor: caller.is_auditor(),
            roles: caller.roles().to_vec(),
            grants: caller.grants().to_words().into_iter().map(grant_to_proto).collect(),
            certificate: caller.node().map(ToString::to_string).unwrap_or_default(),
        }))
    }
}

fn ask(request: pb::ExchangeTokenRequest) -> Result<Ask, Status> {
    // Wiped with it, also where the rest is at fault.
    let subject = Presented { token: Zeroizing::new(request.subject_token), kind: request.subject_token_type };
    let actor_token = Zeroizing::new(request.actor_token);
    let scope = request.scope.unwrap_or_default();
    let mut scope =
        scope_from_proto("scope", &scope).map_err(|fault| status::invalid_field(&fault.field, &fault.why))?;
    for target in &request.targets {
        scope.targets.insert(status::parse::<Name>("targets", target)?);
    }
    let depth = u8::try_from(request.delegation_depth).unwrap_or(u8::MAX);
    let delegation = match request.delegation_key.len() {
        0 => None,
        KEY => Some((request.delegation_key, depth)),
        _ => return Err(status::invalid_field("delegation_key", "not an Ed25519 public key of 32 bytes")),
    };
    let confirmation = match (request.certificate_sha256.len(), request.dpop_jkt.len()) {
        (0, 0) => None,
        (KEY, 0) => Some(Confirmation::certificate(&request.certificate_sha256)),
        (0, KEY) => Some(Confirmation::key(&request.dpop_jkt)),
        (0, _) => return Err(status::invalid_field("dpop_jkt", "not a SHA-256 of 32 bytes")),
        (_, 0) => return Err(status::invalid_field("certificate_sha256", "not a SHA-256 of 32 bytes")),
        _ => return Err(status::invalid_field("dpop_jkt", "a token is bound to a certificate or to a key")),
    };
    let actor = match request.actor {
        none if none.is_empty() => None,
        name if is_actor(&name) => Some(Actor { issuer: None, name: name.into() }),
        _ => {
            let why = format!("an actor's name has 1 to {MAX_ACTOR} bytes, none of them a control character");
            return Err(status::invalid_field("actor", why));
        }
    };
    let job = request.job.map(new_job_from_proto).transpose().map_err(status::wire)?;
    Ok(Ask {
        subject,
        code_verifier: request.code_verifier,
        actor: (!actor_token.is_empty()).then_some(Presented { token: actor_token, kind: request.actor_token_type }),
        proof: None,
        wanted: Wanted {
            scope,
            ttl: request.ttl_seconds,
            no_wish: request.ttl_is_default,
            actor,
            delegation,
            confirmation,
            job,
            ..Wanted::default()
        },
    })
}

fn grant_to_proto(grant: Grant) -> resource_pb::Grant {
    resource_pb::Grant { objects: grant.objects, verbs: grant.verbs }
}
