//! Revocation of tokens.

use std::time::Duration;

use postern_core::revocation::{MARGIN, Revocation, RevocationKey, Revoked};
use postern_core::token::{SESSION_TOKEN_ISSUER, SESSION_TOKEN_MAX_TTL};
use postern_core::wire::revocation::{revocation_to_proto, revoked_from_proto};
use postern_core::wire::timestamp_from_proto;
use postern_core::{Timestamp, Ttl};
use postern_proto::admin::v1 as pb;
use postern_proto::admin::v1::revocation_service_server::RevocationService;
use postern_runtime::jwt::TokenError;
use postern_state::{Success, commands};
use tonic::{Request, Response, Status};
use tracing::info;
use zeroize::Zeroize as _;

use super::access::{Access, Caller};
use super::call::Call;
use super::grants::{Object, Verb};
use super::status;
use crate::identity::revoked_by_bearer;
use crate::raft::RaftHandle;
use crate::serve::PeerInfo;

const DEFAULT_PAGE: usize = 100;
const MAX_PAGE: usize = 1_000;
/// Things in one request.
const MAX_THINGS: usize = 1_000;
pub(super) const MAX_REASON: usize = 256;
/// How long those are kept that may mean tokens of which nobody here knows when they end.
pub(super) const LONG: Duration = Duration::from_secs(31 * 86_400);

#[derive(Clone)]
pub(super) struct Service {
    pub(super) raft: RaftHandle,
    pub(super) access: Access,
}

#[tonic::async_trait]
impl RevocationService for Service {
    async fn revoke(&self, mut request: Request<pb::RevokeRequest>) -> Result<Response<pb::RevokeResponse>, Status> {
        let call = self.access.call(&request)?;
        let peer = request.extensions().get::<PeerInfo>().cloned();
        let mut token = std::mem::take(&mut request.get_mut().token);
        let request = request.into_inner();
        if request.things.len() > MAX_THINGS {
            return Err(status::invalid_field("things", format!("are more than {MAX_THINGS}")));
        }
        if request.things.is_empty() && token.is_empty() {
            return Err(status::invalid_field("things", "name what to revoke, or show a token"));
        }
        if request.because.len() > MAX_REASON {
            return Err(status::invalid_field("because", format!("is longer than {MAX_REASON} bytes")));
        }
        let mut caller = call.caller().clone();
        self.access.look_up(&mut caller).await?;
        if !request.things.is_empty() {
            caller.must(Object::Revocations, Verb::Create)?;
        }
        let mut all = self.named(&call, &caller, &request)?;
        let shown = self.shown(&call, &caller, (&token, request.subtree, &request.because), peer.as_ref()).await;
        token.zeroize();
        all.extend(shown?);
        all.iter().for_each(|revocation| call.about(&revocation.of));
        let keys: Vec<RevocationKey> = all.iter().map(|revocation| revocation.of.key()).collect();
        if all.is_empty() {
            // A token that has ended: there is nothing left to do.
            return Ok(Response::new(pb::RevokeResponse::default()));
        }
        let request_id = status::request_id(&request.request_id)?;
        let command = commands::RevokeTokens { revocations: all };
        let Success::Revoked(revoked) = call.write(&self.raft, command, request_id).await? else {
            return Err(Status::internal("another outcome than was asked for"));
        };
        metrics::counter!("postern_control_revocations_total").increment(revoked.into());
        info!(caller = %call.caller(), revoked, "revoked tokens");
        let found =
            self.raft.read(move |state| keys.iter().filter_map(|key| state.revocation(key)).collect::<Vec<_>>());
        let found = found.await.map_err(status::read)?;
        Ok(Response::new(pb::RevokeResponse { revoked, revocations: found.iter().map(revocation_to_proto).collect() }))
    }

    async fn list_revocations(
        &self,
        request: Request<pb::ListRevocationsRequest>,
    ) -> Result<Response<pb::ListRevocationsResponse>, Status> {
        let request = request.into_inner();
        let size = super::page_size(request.page_size, DEFAULT_PAGE, MAX_PAGE);
        let after = match request.page_token.as_str() {
            "" => None,
            text => Some(key(text).ok_or_else(|| status::invalid_field("page_token", "is none of this list"))?),
        };
        // One more tells whether there is another page.
        let found = self.raft.read(move |state| state.revocations_after(after, size.saturating_add(1)));
        let (mut page, total) = found.await.map_err(status::read)?;
        let more = page.len() > size;
        page.truncate(size);
        let next = page.last().filter(|_| more).map(|last| format!("{:?}", last.of.key()));
        Ok(Response::new(pb::ListRevocationsResponse {
            revocations: page.iter().map(revocation_to_proto).collect(),
            next_page_token: next.unwrap_or_default(),
            total: u64::try_from(total).unwrap_or(u64::MAX),
        }))
    }
}

impl Service {
    /// Revokes the token that is shown, and all that is made of it: for a call that comes another way.
    pub(super) async fn revoke_shown(
        &self,
        call: &Call,
        (token, because): (&str, &str),
        peer: &PeerInfo,
    ) -> Result<(), Status> {
        let shown = self.shown(call, call.caller(), (token, true, because), Some(peer)).await?;
        let Some(revocation) = shown else { return Ok(()) };
        call.about(&revocation.of);
        let command = commands::RevokeTokens { revocations: vec![revocation] };
        if let Success::Revoked(revoked) = call.write(&self.raft, command, None).await? {
            metrics::counter!("postern_control_revocations_total").increment(revoked.into());
            info!(revoked, "a token was revoked by its bearer");
        }
        Ok(())
    }

    /// What the request names.
    fn named(&self, call: &Call, caller: &Caller, request: &pb::RevokeRequest) -> Result<Vec<Revocation>, Status> {
        let now = self.access.clock.now();
        let before = request.issued_before.as_ref().map_or(now, timestamp_from_proto);
        if before > now.plus(MARGIN) {
            // It would be a prohibition, which is policy's.
            return Err(status::invalid_field(
                "issued_before",
                "lies in the future: to lock somebody out, deny it by policy",
            ));
        }
        let by: String = caller.to_string().chars().take(MAX_REASON / 4).collect();
        let mut all = Vec::with_capacity(request.things.len().saturating_add(1));
        for (place, thing) in request.things.iter().enumerate() {
            let of = revoked_from_proto(thing.clone())
                .map_err(|fault| status::invalid_field(&format!("things[{place}].{}", fault.field), fault.why))?;
            if matches!(of, Revoked::SigningKey(_)) {
                // To forget the key itself is the greater part of it.
                let text = "a signing key is revoked by ClusterService.RevokeSigningKey";
                return Err(status::invalid_field(&format!("things[{place}]"), text));
            }
            if matches!(of, Revoked::Session(_)) {
                let text = "a session is ended by SessionService.KillSessions";
                return Err(status::invalid_field(&format!("things[{place}]"), text));
            }
            let known = match &of {
                Revoked::Token(token) | Revoked::Subtree(token) => token.issuer.as_str() == SESSION_TOKEN_ISSUER,
                _ => false,
            };
            let until =
                if known { now.plus(Ttl(SESSION_TOKEN_MAX_TTL).duration()).plus(MARGIN) } else { now.plus(LONG) };
            let (by, because) = (by.clone(), request.because.clone());
            let at = Timestamp::default();
            all.push(Revocation { of, issued_before: before, until, by, because, at, revision: 0 });
        }
        // The same thing twice is one, and the entry is no larger for it.
        all.sort_by(|one, other| one.of.cmp(&other.of));
        all.dedup_by(|one, other| one.of == other.of);
        tracing::debug!(caller = %call.caller(), things = all.len(), "a revocation is asked for");
        Ok(all)
    }

    /// The revocation of the token that is shown; none, when it has ended by itself.
    async fn shown(
        &self,
        call: &Call,
        caller: &Caller,
        (token, subtree, because): (&str, bool, &str),
        peer: Option<&PeerInfo>,
    ) -> Result<Option<Revocation>, Status> {
        if token.is_empty() {
            return Ok(None);
        }
        let (verified, handed_on) = match self.access.look(token.trim()).await {
            Ok(found) => found,
            Err(TokenError::Expired | TokenError::TooOld) => return Ok(None),
            Err(error) => return Err(self.access.refused(&error, peer).await),
        };
        call.identified(&verified.principal);
        // Whoever was handed a child has its parent's token before them, and must not revoke that.
        let own = caller.maybe_principal().is_some_and(|own| own.is_whole() && own.id == verified.principal.id);
        if handed_on && !own && !caller.may(Object::Revocations, Verb::Create) {
            let text =
                "the token is only handed on: its principal revokes it by another token of its own, or an operator";
            return Err(status::with_reason(Status::permission_denied(text), "FORBIDDEN"));
        }
        let revocation = revoked_by_bearer(&verified, subtree, because, self.access.clock.now());
        let none = || Status::failed_precondition("the token has no id (jti): revoke its principal");
        Ok(Some(revocation.ok_or_else(none)?))
    }
}

/// 32 hexadecimal digits.
fn key(text: &str) -> Option<RevocationKey> {
    let bits = u128::from_str_radix(text, 16).ok().filter(|_| text.len() == 32)?;
    Some(RevocationKey(bits.to_be_bytes()))
}
