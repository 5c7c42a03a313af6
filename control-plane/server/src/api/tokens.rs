//! Session tokens.

use std::sync::Arc;

use postern_core::Name;
use postern_core::role::Grant;
use postern_core::wire::identity::{principal_with_claims_to_proto, scope_from_proto};
use postern_core::wire::timestamp_to_proto;
use postern_proto::admin::v1 as pb;
use postern_proto::admin::v1::token_service_server::TokenService;
use postern_proto::resource::v1 as resource_pb;
use tonic::{Request, Response, Status};
use tracing::{error, info};
use zeroize::Zeroize as _;

use super::access::Access;
use super::logins::{self, Logins};
use super::status;
use crate::bootstrap::ClusterKeys;
use crate::identity::{ExchangeError, Wanted, exchange};
use crate::serve::PeerInfo;

/// Bytes of an Ed25519 public key (RFC 8032, section 5.1.5).
const KEY: usize = 32;

pub(super) struct Service {
    pub(super) keys: Arc<ClusterKeys>,
    pub(super) access: Access,
    pub(super) logins: Logins,
}

#[tonic::async_trait]
impl TokenService for Service {
    async fn exchange_token(
        &self,
        mut request: Request<pb::ExchangeTokenRequest>,
    ) -> Result<Response<pb::ExchangeTokenResponse>, Status> {
        let call = self.access.call(&request)?;
        let mut token = std::mem::take(&mut request.get_mut().subject_token);
        let peer = request.extensions().get::<PeerInfo>().cloned();
        let kind = request.get_ref().subject_token_type.clone();
        let verified = match logins::kind(&kind)? {
            Some(kind) => {
                let verifier = request.get_ref().code_verifier.clone();
                self.logins.verified(&call, kind, (token.trim(), &verifier), peer.as_ref()).await
            }
            None => self.access.verify(token.trim(), peer.as_ref()).await,
        };
        token.zeroize();
        let verified = verified?;
        call.identified(&verified.principal);
        self.access.still_trusted(&verified).await?;
        let wanted = wanted(request.into_inner())?;
        for target in &wanted.scope.targets {
            call.about(format_args!("Target/{target}"));
        }
        let principal = verified.principal.clone();
        let minted = exchange(&self.keys.signer, &self.keys.cluster.id, verified, wanted, self.keys.clock.now());
        let minted = minted.map_err(refused)?;
        metrics::counter!("postern_control_tokens_minted_total").increment(1);
        let from = principal.token_id.as_deref();
        info!(%principal, token_id = minted.id, from, expires_at = %minted.expires_at, "a session token was made");
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

fn wanted(request: pb::ExchangeTokenRequest) -> Result<Wanted, Status> {
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
    Ok(Wanted { scope, ttl: request.ttl_seconds, actor: request.actor, delegation })
}

fn grant_to_proto(grant: Grant) -> resource_pb::Grant {
    resource_pb::Grant { objects: grant.objects, verbs: grant.verbs }
}

#[allow(clippy::needless_pass_by_value)] // for map_err
fn refused(error: ExchangeError) -> Status {
    match &error {
        ExchangeError::TooMany(_) => status::invalid_field("scope", error),
        ExchangeError::Actor => status::invalid_field("actor", error),
        ExchangeError::TooDeep => Status::failed_precondition(error.to_string()),
        ExchangeError::TooLong => status::invalid_field("ttl_seconds", error),
        ExchangeError::Wider(_) => Status::permission_denied(error.to_string()),
        ExchangeError::Expired => Status::unauthenticated(error.to_string()),
        ExchangeError::Sign(_) => {
            error!(%error, "no session token");
            Status::internal("the token cannot be signed")
        }
    }
}
