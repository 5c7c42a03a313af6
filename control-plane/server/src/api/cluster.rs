//! Members, join tokens, backups.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use futures::StreamExt as _;
use postern_core::Name;
use postern_core::cluster::{ControlNode, JoinToken, NodeCertificate};
use postern_core::node::{NodeIdentity, NodeRole};
use postern_core::operation::Digest;
use postern_core::wire::cluster::{
    node_from_proto, node_to_proto, public_token_to_proto, role_from_proto, role_to_proto, token_from_proto,
};
use postern_core::wire::timestamp_to_proto;
use postern_proto::admin::v1 as pb;
use postern_proto::admin::v1::cluster_service_server::{ClusterService, ClusterServiceServer};
use postern_proto::resource::v1 as resource_pb;
use postern_runtime::clock;
use postern_runtime::pki::{JoinTokenText, Serial, secret_sha256};
use postern_state::{Cluster, State, Success, commands};
use tonic::{Code, Request, Response, Status};
use tracing::{error, info};

use super::access::Access;
use super::{Answers, certificates, signing, status};
use crate::backup;
use crate::bootstrap::ClusterKeys;
use crate::cluster::members::{Change, ChangeError, Changed, Members};
use crate::config::SigningKeysConfig;
use crate::keys::Kek;
use crate::raft::{MembershipError, RaftHandle};

const DEFAULT_TTL: Duration = Duration::from_secs(3_600);
const MAX_TTL: Duration = Duration::from_secs(30 * 86_400);
const MAX_USES: u32 = 1_000;
const DEFAULT_PAGE: usize = 500;
const MAX_PAGE: usize = 1_000;
const MAX_REQUEST: usize = 1 << 20;

pub(crate) struct Service {
    raft: RaftHandle,
    members: Members,
    kek: Arc<Kek>,
    keys: Arc<ClusterKeys>,
    access: Access,
    signing: SigningKeysConfig,
}

/// What is known when somebody shows a token.
struct Door {
    token: JoinToken,
    /// Of the certificate for the key that was shown.
    serial: Option<Serial>,
    /// That certificate, when it was recorded already.
    before: Option<Arc<NodeCertificate>>,
    cluster: Arc<Cluster>,
    feature_level: u32,
    now: postern_core::Timestamp,
    /// What the members' clocks agree on.
    clock: postern_core::Timestamp,
}

impl Service {
    pub(crate) fn new(
        members: &Members,
        kek: &Arc<Kek>,
        keys: &Arc<ClusterKeys>,
        access: &Access,
        signing: SigningKeysConfig,
    ) -> ClusterServiceServer<Self> {
        let this = Self {
            raft: members.raft.clone(),
            members: members.clone(),
            kek: Arc::clone(kek),
            keys: Arc::clone(keys),
            access: access.clone(),
            signing,
        };
        ClusterServiceServer::new(this).max_decoding_message_size(MAX_REQUEST)
    }

    /// The member that is meant, by name or id.
    fn member(&self, text: &str) -> Result<u64, Status> {
        let known = self.members.view().named(text).map(|node| node.id);
        known.ok_or_else(|| status::not_found("Member", text))
    }

    /// Whom a new member will talk to.
    async fn nodes(&self) -> Result<Vec<resource_pb::ControlNode>, Status> {
        let all = self.raft.read(|state| state.nodes().map(|node| node_to_proto(node)).collect());
        all.await.map_err(status::read)
    }

    async fn change(&self, change: Change) -> Result<Changed, Status> {
        self.members.change(change).await.map_err(changed)
    }

    /// The token that is shown, when it is good.
    async fn door(&self, request: &pb::RedeemTokenRequest) -> Result<Door, Status> {
        let id = request.token_id.clone();
        let found = self.raft.read(move |state| {
            let token = state.join_token(&id).map(|token| JoinToken::clone(token));
            (token, state.cluster().cloned(), state.feature_level(), state.now())
        });
        let (token, cluster, feature_level, now) = found.await.map_err(status::read)?;
        let cluster = cluster.ok_or_else(|| Status::unavailable("the cluster is not made yet"))?;
        if !request.cluster_id.is_empty() && request.cluster_id != cluster.id {
            let why = format!("this is cluster {}, the token is for {}", cluster.id, request.cluster_id);
            return Err(reasoned(Code::FailedPrecondition, "WRONG_CLUSTER", why));
        }
        let shown = secret_sha256(&request.secret);
        let known = token.as_ref().map_or([0; 32], |token| token.secret_sha256.0);
        // Both are digests, and compared in constant time all the same.
        let same = verify_slices_are_equal(&shown, &known).is_ok();
        let Some(token) = token.filter(|_| same) else {
            metrics::counter!("postern_control_auth_failures_total", "code" => "join-token").increment(1);
            return Err(refused_token(
                "TOKEN_UNKNOWN",
                "the join token is unknown: it was never made here, or taken back",
            ));
        };
        let clock = self.raft.stamps().now();
        let now = now.max(clock);
        if token.expires_at <= now {
            return Err(refused_token("TOKEN_EXPIRED", format!("the join token expired at {}", token.expires_at)));
        }
        let serial = (!request.csr.is_empty())
            .then(|| Serial::of_joiner(&request.token_id, &request.secret, &request.csr))
            .transpose()
            .map_err(certificates::refused)?;
        // Who has it already has not heard of it: it is let in by the same use, as long as the token is good.
        let before = match serial.map(|serial| serial.to_string()) {
            Some(serial) => {
                self.raft.read(move |state| state.certificate(&serial).cloned()).await.map_err(status::read)?
            }
            None => None,
        };
        let before = before.filter(|before| before.revoked.is_none() && before.not_after > now);
        if token.uses_left == 0 && before.is_none() {
            return Err(refused_token("TOKEN_USED", "the join token is used up"));
        }
        Ok(Door { token, serial, before, cluster, feature_level, now, clock })
    }
}

impl Door {
    /// What a member must be to be let in.
    fn check_node(&self, node: &ControlNode) -> Result<(), Status> {
        let needed = &self.cluster.ca_key.kek_id;
        if !node.kek_ids.contains(needed) {
            let own = if node.kek_ids.is_empty() { "none".to_owned() } else { node.kek_ids.join(", ") };
            let why = format!(
                "the cluster's secrets are under key-encryption key {needed}, this node has {own}: give it the same key"
            );
            return Err(reasoned(Code::FailedPrecondition, "WRONG_KEK", why));
        }
        if node.feature_level < self.feature_level {
            let why = format!(
                "the cluster is at feature level {}, this node's version {} knows up to {}: upgrade it",
                self.feature_level, node.version, node.feature_level
            );
            return Err(reasoned(Code::FailedPrecondition, "VERSION_TOO_OLD", why));
        }
        if node.peer_address.is_empty() || node.peer_address.len() > 300 {
            return Err(status::invalid_field("node.peer_address", "must be HOST:PORT: set peer_listen"));
        }
        Ok(())
    }

    fn answer(&self) -> pb::RedeemTokenResponse {
        pb::RedeemTokenResponse {
            ca_pem: self.cluster.ca_pem.clone(),
            cluster_id: self.cluster.id.clone(),
            incarnation: self.cluster.incarnation.clone(),
            now: Some(timestamp_to_proto(self.clock)),
            kek_ids: vec![self.cluster.ca_key.kek_id.clone()],
            feature_level: self.feature_level,
            role: role_to_proto(self.token.role).into(),
            agent_pool: self.token.agent_pool.as_ref().map(ToString::to_string).unwrap_or_default(),
            ..Default::default()
        }
    }
}

#[tonic::async_trait]
impl ClusterService for Service {
    /// For whoever holds a token.
    async fn redeem_token(
        &self,
        request: Request<pb::RedeemTokenRequest>,
    ) -> Result<Response<pb::RedeemTokenResponse>, Status> {
        let call = self.access.call(&request)?;
        let mut request = request.into_inner();
        call.about(format_args!("JoinToken/{}", request.token_id.chars().take(64).collect::<String>()));
        call.dry_run(request.check_only);
        let door = self.door(&request).await?;
        let name: Name = match (&door.token.name, request.name.as_str()) {
            (Some(name), "") => name.clone(),
            (_, text) => status::parse("name", text)?,
        };
        if let Some(only) = &door.token.name
            && *only != name
        {
            return Err(refused_token("TOKEN_NAME", format!("the join token is for the name {only}")));
        }
        let node = match (door.token.role, request.node.take()) {
            (NodeRole::Control, Some(mut node)) => {
                node.name = name.to_string();
                let node = node_from_proto(node).map_err(status::wire)?;
                door.check_node(&node)?;
                Some(node)
            }
            (NodeRole::Control, None) => {
                let why = "the join token is for a member of the control plane: use `postern control join`";
                return Err(refused_token("TOKEN_ROLE", why));
            }
            (role, Some(_)) => {
                let why = format!("the join token is for the role {}, not for control", role.as_str());
                return Err(refused_token("TOKEN_ROLE", why));
            }
            (_, None) => None,
        };
        if request.check_only {
            return Ok(Response::new(door.answer()));
        }
        let identity = NodeIdentity { role: door.token.role, name, pool: door.token.agent_pool.clone() };
        let Some(serial) = door.serial else {
            return Err(status::invalid_field("csr", "is missing"));
        };
        // Somebody of another name by the same key is somebody else.
        let before = door.before.as_deref().filter(|before| {
            before.role == identity.role && before.name == identity.name && before.agent_pool == identity.pool
        });
        let sign = certificates::sign_joiner(&self.keys, &identity, serial, &request.csr, &request.alt_names, before);
        let signed = sign.map_err(certificates::refused)?;
        let not_after = signed.record.not_after;
        if before.is_some() {
            info!(token = door.token.id, %identity, "who was let in by a join token asks again: its answer was lost");
            let members = if node.is_some() { self.nodes().await? } else { Vec::new() };
            let itself = members.iter().find(|member| identity.name.as_str() == member.name).map(|member| member.id);
            if node.is_some() && itself.is_none() {
                return Err(refused_token("TOKEN_USED", "the member that the join token let in was removed"));
            }
            let node_id = itself.unwrap_or_default();
            return Ok(Response::new(pb::RedeemTokenResponse {
                certificate_pem: signed.certificate_pem,
                not_after: Some(timestamp_to_proto(not_after)),
                node_id,
                members,
                ..door.answer()
            }));
        }
        let command = commands::RedeemJoinToken {
            id: door.token.id.clone(),
            secret_sha256: Digest(secret_sha256(&request.secret)),
            certificate: signed.record,
            node,
        };
        let Success::Redeemed { node_id } = call.write(&self.raft, command, Some(clock::request_id())).await? else {
            return Err(Status::internal("another outcome than was asked for"));
        };
        let members = if node_id.is_some() { self.nodes().await? } else { Vec::new() };
        info!(token = door.token.id, %identity, ?node_id, at = %door.now, "a join token let somebody in");
        Ok(Response::new(pb::RedeemTokenResponse {
            certificate_pem: signed.certificate_pem,
            not_after: Some(timestamp_to_proto(not_after)),
            node_id: node_id.unwrap_or_default(),
            members,
            ..door.answer()
        }))
    }

    async fn create_join_token(
        &self,
        request: Request<pb::CreateJoinTokenRequest>,
    ) -> Result<Response<pb::CreateJoinTokenResponse>, Status> {
        let call = self.access.call(&request)?;
        let request = request.into_inner();
        let role = role_from_proto(request.role)
            .map_err(|_| status::invalid_field("role", "must be control, gateway, agent or admin"))?;
        call.caller().may_let_in(role)?;
        let ttl = match request.ttl_seconds {
            0 => DEFAULT_TTL,
            seconds => Duration::from_secs(seconds.into()),
        };
        if ttl > MAX_TTL {
            return Err(status::invalid_field("ttl_seconds", format!("must be at most {}", MAX_TTL.as_secs())));
        }
        let uses_left = request.uses.max(1);
        if uses_left > MAX_USES {
            return Err(status::invalid_field("uses", format!("must be at most {MAX_USES}")));
        }
        if (role == NodeRole::Agent) == request.agent_pool.is_empty() {
            return Err(status::invalid_field("agent_pool", "goes with the role agent, and only with it"));
        }
        if request.serves.is_some() && role != NodeRole::Gateway {
            return Err(status::invalid_field("serves", "is for gateways alone"));
        }
        if request.learner && role != NodeRole::Control {
            return Err(status::invalid_field("learner", "is for members of the control plane alone"));
        }
        let text = JoinTokenText::generate(&self.keys.cluster.id, self.keys.authority.ca_pem())
            .map_err(|error| Status::internal(error.to_string()))?;
        let now = self.raft.stamps().now();
        let token = token_from_proto(resource_pb::JoinToken {
            id: text.id.clone(),
            role: request.role,
            secret_sha256: text.secret_sha256().to_vec(),
            uses_left,
            expires_at: Some(timestamp_to_proto(now.plus(ttl))),
            created_at: Some(timestamp_to_proto(now)),
            created_by: call.caller().to_string(),
            agent_pool: request.agent_pool,
            serves: request.serves,
            name: request.name,
            learner: request.learner,
            revision: 0,
        });
        let token = token.map_err(status::wire)?;
        let command = commands::CreateJoinToken { token: token.clone() };
        let request_id = status::request_id(&request.request_id)?;
        call.about(format_args!("JoinToken/{}", token.id));
        call.write(&self.raft, command, request_id).await?;
        info!(caller = %call.caller(), token = token.id, role = role.as_str(), "made a join token");
        Ok(Response::new(pb::CreateJoinTokenResponse {
            token: text.to_text().to_string(),
            join_token: Some(public_token_to_proto(&token)),
        }))
    }

    async fn list_join_tokens(
        &self,
        request: Request<pb::ListJoinTokensRequest>,
    ) -> Result<Response<pb::ListJoinTokensResponse>, Status> {
        let request = request.into_inner();
        let size = super::page_size(request.page_size, DEFAULT_PAGE, MAX_PAGE);
        let found = self.raft.read(move |state| {
            let after = state.join_tokens().filter(|token| token.id > request.page_token);
            after.take(size.saturating_add(1)).map(|token| public_token_to_proto(token)).collect::<Vec<_>>()
        });
        let mut join_tokens = found.await.map_err(status::read)?;
        let more = join_tokens.len() > size;
        join_tokens.truncate(size);
        let next_page_token = join_tokens.last().filter(|_| more).map(|last| last.id.clone()).unwrap_or_default();
        Ok(Response::new(pb::ListJoinTokensResponse { join_tokens, next_page_token }))
    }

    async fn delete_join_token(
        &self,
        request: Request<pb::DeleteJoinTokenRequest>,
    ) -> Result<Response<pb::DeleteJoinTokenResponse>, Status> {
        let call = self.access.call(&request)?;
        let request = request.into_inner();
        let request_id = status::request_id(&request.request_id)?;
        call.about(format_args!("JoinToken/{}", request.id));
        let command = commands::DeleteJoinToken { id: request.id.clone() };
        call.write(&self.raft, command, request_id).await?;
        info!(caller = %call.caller(), token = request.id, "took a join token back");
        Ok(Response::new(pb::DeleteJoinTokenResponse {}))
    }

    async fn get_cluster_status(
        &self,
        _: Request<pb::GetClusterStatusRequest>,
    ) -> Result<Response<pb::GetClusterStatusResponse>, Status> {
        Ok(Response::new(super::members::cluster_status(&self.members).await))
    }

    async fn promote_member(
        &self,
        request: Request<pb::PromoteMemberRequest>,
    ) -> Result<Response<pb::PromoteMemberResponse>, Status> {
        let call = self.access.call(&request)?;
        let id = self.member(&request.get_ref().member)?;
        call.about(format_args!("Member/{id}"));
        self.change(Change::Promote(id)).await?;
        Ok(Response::new(pb::PromoteMemberResponse { id }))
    }

    async fn remove_member(
        &self,
        request: Request<pb::RemoveMemberRequest>,
    ) -> Result<Response<pb::RemoveMemberResponse>, Status> {
        let call = self.access.call(&request)?;
        let request = request.into_inner();
        let id = self.member(&request.member)?;
        call.about(format_args!("Member/{id}"));
        // In the entry of the removal: it may be this member that is removed, and can write nothing afterwards.
        let (by, audit) = (call.caller().to_string(), Some(Box::new(call.to_record())));
        if self.change(Change::Remove { id, force: request.force, by, audit }).await?.recorded {
            call.mark_recorded();
        }
        Ok(Response::new(pb::RemoveMemberResponse { id }))
    }

    async fn transfer_leader(
        &self,
        request: Request<pb::TransferLeaderRequest>,
    ) -> Result<Response<pb::TransferLeaderResponse>, Status> {
        let call = self.access.call(&request)?;
        let to = match request.get_ref().member.as_str() {
            "" => 0,
            text => self.member(text)?,
        };
        call.about(format_args!("Member/{to}"));
        let leader_id = self.change(Change::TransferLeader(to)).await?.leader;
        Ok(Response::new(pb::TransferLeaderResponse { leader_id }))
    }

    async fn rotate_signing_key(
        &self,
        request: Request<pb::RotateSigningKeyRequest>,
    ) -> Result<Response<pb::RotateSigningKeyResponse>, Status> {
        let call = self.access.call(&request)?;
        let publish = match request.get_ref().publish_seconds {
            Some(seconds) => Duration::from_secs(seconds.into()),
            None => self.signing.publish_for.0,
        };
        let desk = signing::Desk { raft: &self.raft, kek: &self.kek, call: &call };
        desk.rotate(publish, request.get_ref()).await.map(Response::new)
    }

    async fn revoke_signing_key(
        &self,
        request: Request<pb::RevokeSigningKeyRequest>,
    ) -> Result<Response<pb::RevokeSigningKeyResponse>, Status> {
        let call = self.access.call(&request)?;
        let desk = signing::Desk { raft: &self.raft, kek: &self.kek, call: &call };
        desk.revoke(request.into_inner()).await.map(Response::new)
    }

    type BackupStream = Answers<pb::BackupResponse>;

    async fn backup(&self, request: Request<pb::BackupRequest>) -> Result<Response<Self::BackupStream>, Status> {
        let call = self.access.call(&request)?;
        // Linearizable: all that was acknowledged before this call is in it. Shared by reference count, so it is one index.
        let state = self.raft.read(State::clone).await.map_err(status::read)?;
        info!(caller = %call.caller(), index = state.index(), "a backup begins");
        let backup = backup::Backup::begin(&state, &self.kek).await.map_err(|error| {
            error!(%error, "no backup");
            Status::unavailable("the backup cannot be sealed now")
        })?;
        let pieces = futures::stream::iter(backup).map(|piece| match piece {
            Ok(data) => Ok(pb::BackupResponse { data }),
            Err(error) => {
                error!(%error, "the backup ended");
                Err(Status::internal("the backup cannot be encrypted"))
            }
        });
        Ok(Response::new(Box::pin(pieces)))
    }
}

#[allow(clippy::needless_pass_by_value)] // for map_err
fn changed(error: ChangeError) -> Status {
    let text = error.to_string();
    let reason = match error {
        ChangeError::Propose(error) => return status::propose(error),
        ChangeError::Refused(refusal) => return status::refused(refusal),
        ChangeError::Unreachable(_) => return status::with_reason(Status::unavailable(text), "NO_LEADER"),
        ChangeError::Leader(_) => "REFUSED_BY_LEADER",
        ChangeError::Members(error) => match error {
            MembershipError::NotLeader { .. } => return status::with_reason(Status::unavailable(text), "NO_LEADER"),
            MembershipError::Unknown | MembershipError::Stopped => return Status::unavailable(text),
            MembershipError::Overloaded => return Status::resource_exhausted(text),
            MembershipError::InProgress => "CHANGE_IN_PROGRESS",
            MembershipError::NotAMember(_) => "NOT_A_MEMBER",
            MembershipError::AlreadyMember(_) => "ALREADY_A_MEMBER",
            MembershipError::Left(_) => "NODE_REMOVED",
            MembershipError::NotCaughtUp { .. } => "NOT_CAUGHT_UP",
            MembershipError::WouldLoseQuorum { .. } => {
                let text = format!(
                    "{text}: the cluster would stand still. Bring others back first; with force it is done all the same"
                );
                return status::with_reason(Status::failed_precondition(text), "WOULD_LOSE_QUORUM");
            }
            MembershipError::LastVoter => "LAST_VOTER",
            MembershipError::NotTransferred => "NOT_TRANSFERRED",
        },
    };
    status::with_reason(Status::failed_precondition(text), reason)
}

fn reasoned(code: Code, reason: &str, why: impl Into<String>) -> Status {
    status::with_reason(Status::new(code, why), reason)
}

fn refused_token(reason: &str, why: impl Into<String>) -> Status {
    reasoned(Code::PermissionDenied, reason, why)
}
