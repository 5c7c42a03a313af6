//! Changing who belongs to the group, and how each member stands.
//!
//! A change is made by the leader. Asked elsewhere, it goes there over the listener for peers ([`MemberService`]), and again when the
//! leader changes meanwhile. A removal first leaves the Raft group, while the member can still answer, and is then written into the
//! replicated state, which revokes its certificates and has every member refuse it. That entry bears the audit record of the call: a
//! member that is asked for its own removal can write nothing afterwards, and answers all the same.

use std::sync::Arc;
use std::time::Duration;

use postern_core::audit::AuditRecord;
use postern_core::wire::cluster::{audit_from_proto, audit_to_proto};
use postern_core::wire::timestamp_to_proto;
use postern_proto::peer::v1 as pb;
use postern_proto::peer::v1::member_service_client::MemberServiceClient;
use postern_proto::peer::v1::member_service_server::MemberService;
use postern_runtime::backoff::Backoff;
use postern_runtime::clock;
use postern_runtime::pki::RotatingCredential;
use postern_state::{Refusal, State, commands};
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::{Request, Response, Status};
use tracing::{info, warn};

use super::init::hex;
use super::view::ClusterView;
use crate::api::fleet;
use crate::fleet::Fleet;
use crate::peers::PeersHandle;
use crate::raft::{MemberStatus, MembershipChange, MembershipError, ProposeError, RaftHandle};

/// How long a change is tried for, over changes of the leader.
const CHANGE_LIMIT: Duration = Duration::from_secs(15);
/// How long a member may take to say how it stands.
const STATUS_LIMIT: Duration = Duration::from_secs(2);

/// What is to be done.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Promote(u64),
    Remove {
        id: u64,
        force: bool,
        /// For the record.
        by: String,
        /// Of the call that asks for it; a member of an older version sends none.
        audit: Option<Box<AuditRecord>>,
    },
    /// 0: whoever has caught up best.
    TransferLeader(u64),
}

/// What came of a change.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Changed {
    pub(crate) leader: u64,
    /// Whether the audit record that came with it is in the log.
    pub(crate) recorded: bool,
}

/// Why it was not.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum ChangeError {
    #[error(transparent)]
    Members(#[from] MembershipError),
    #[error("{0}")]
    Refused(Refusal),
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// The leader says so.
    #[error("{0}")]
    Leader(String),
    #[error("the leader does not answer: {0}")]
    Unreachable(String),
}

/// Knows the members and changes them. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Members {
    pub(crate) raft: RaftHandle,
    pub(crate) view: watch::Receiver<Arc<ClusterView>>,
    pub(crate) peers: PeersHandle,
    pub(crate) credential: RotatingCredential,
    pub(crate) fleet: Fleet,
}

impl Members {
    pub(crate) fn view(&self) -> Arc<ClusterView> {
        Arc::clone(&self.view.borrow())
    }

    /// How this member stands.
    pub(crate) async fn own_status(&self, with_hash: bool) -> pb::GetMemberStatusResponse {
        let status = self.raft.status().borrow().clone();
        // All of it is shared by reference count: the hash is made here, not on Raft's thread.
        let state = if with_hash { self.raft.read_local(State::clone).await.ok() } else { None };
        let progress = status.members.iter().map(|member| pb::Progress {
            id: member.id,
            voter: member.voter,
            matched: member.matched,
            active: member.active,
            snapshotting: member.snapshotting,
        });
        pb::GetMemberStatusResponse {
            id: status.id,
            leader: status.leader,
            term: status.term,
            committed: status.committed,
            applied: status.applied,
            now: Some(timestamp_to_proto(clock::now())),
            certificate_not_after: self.credential.current().expires_at().ok().map(timestamp_to_proto),
            state_hash: state.as_ref().map(|state| hex(&state.hash())).unwrap_or_default(),
            state_index: state.as_ref().map(State::index).unwrap_or_default(),
            progress: progress.collect(),
        }
    }

    /// How another member stands, or why it does not say.
    pub(crate) async fn status_of(&self, id: u64, with_hash: bool) -> Result<pb::GetMemberStatusResponse, String> {
        if id == self.own_id() {
            return Ok(self.own_status(with_hash).await);
        }
        let ask = async {
            let channel = self.peers.connect(id).await.map_err(|error| error.to_string())?;
            let request = pb::GetMemberStatusRequest { with_hash };
            let answer = MemberServiceClient::new(channel).get_member_status(request).await;
            answer.map(Response::into_inner).map_err(|status| status.message().to_owned())
        };
        tokio::time::timeout(STATUS_LIMIT, ask)
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {} seconds", STATUS_LIMIT.as_secs())))
    }

    /// The gateways and agents that another member knows of, which is to lead.
    pub(crate) async fn fleet_of(&self, id: u64, request: pb::GetFleetRequest) -> Result<pb::GetFleetResponse, Status> {
        let channel = self.peers.connect(id).await.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(MemberServiceClient::new(channel).get_fleet(request).await?.into_inner())
    }

    pub(crate) fn own_id(&self) -> u64 {
        self.raft.status().borrow().id
    }

    /// Makes a change, wherever it is asked.
    pub(crate) async fn change(&self, change: Change) -> Result<Changed, ChangeError> {
        let deadline = Instant::now() + CHANGE_LIMIT;
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(500));
        loop {
            let leader = self.raft.status().borrow().leader;
            let answer = match leader {
                0 => Err(MembershipError::NotLeader { leader: None }.into()),
                leader if leader == self.own_id() => self.change_here(&change).await,
                leader => self.ask(leader, &change).await,
            };
            let again = matches!(
                answer,
                Err(ChangeError::Members(MembershipError::NotLeader { .. } | MembershipError::InProgress)
                    | ChangeError::Unreachable(_))
            );
            if !again || Instant::now() >= deadline {
                return answer;
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    async fn ask(&self, leader: u64, change: &Change) -> Result<Changed, ChangeError> {
        let request = match change {
            Change::Promote(id) => {
                pb::ChangeMemberRequest { change: pb::MemberChange::Promote.into(), id: *id, ..Default::default() }
            }
            Change::Remove { id, force, by, audit } => pb::ChangeMemberRequest {
                change: pb::MemberChange::Remove.into(),
                id: *id,
                force: *force,
                by: by.clone(),
                audit: audit.as_deref().map(audit_to_proto),
            },
            Change::TransferLeader(id) => pb::ChangeMemberRequest {
                change: pb::MemberChange::TransferLeader.into(),
                id: *id,
                ..Default::default()
            },
        };
        let channel = self.peers.connect(leader).await.map_err(|error| ChangeError::Unreachable(error.to_string()))?;
        let mut client = MemberServiceClient::new(channel);
        match tokio::time::timeout(CHANGE_LIMIT, client.change_member(request)).await {
            Err(_) => Err(MembershipError::Unknown.into()),
            Ok(Ok(answer)) => {
                let pb::ChangeMemberResponse { leader, recorded } = answer.into_inner();
                Ok(Changed { leader, recorded })
            }
            // Whoever was asked says that it does not lead, or that another change is under way.
            Ok(Err(status)) if status.code() == tonic::Code::Aborted => {
                Err(MembershipError::NotLeader { leader: None }.into())
            }
            Ok(Err(status)) if status.code() == tonic::Code::Unavailable => {
                Err(ChangeError::Unreachable(status.message().to_owned()))
            }
            Ok(Err(status)) if status.code() == tonic::Code::Unknown => Err(MembershipError::Unknown.into()),
            Ok(Err(status)) => Err(ChangeError::Leader(status.message().to_owned())),
        }
    }

    /// Makes a change on this node, which leads.
    async fn change_here(&self, change: &Change) -> Result<Changed, ChangeError> {
        let mut recorded = false;
        let leader = match change {
            Change::Promote(id) => {
                self.raft.change_membership(MembershipChange::Promote(*id), false).await?;
                info!(member = id, "a learner is a voter now");
                self.own_id()
            }
            Change::Remove { id, force, by, audit } => {
                recorded = self.remove(*id, *force, by, audit.as_deref()).await?;
                self.own_id()
            }
            Change::TransferLeader(id) => self.raft.transfer_leader(*id).await?,
        };
        Ok(Changed { leader, recorded })
    }

    /// Raft counts who was heard of lately; a link that has just broken tells sooner.
    fn check_quorum_without(&self, id: u64) -> Result<(), MembershipError> {
        let (status, links) = (self.raft.status(), self.peers.links());
        let (status, links) = (status.borrow(), links.borrow());
        let stays = |member: &&MemberStatus| member.voter && member.id != id;
        let reachable =
            |member: &&MemberStatus| member.id == status.id || links.get(&member.id).is_some_and(|link| link.connected);
        let voters = status.members.iter().filter(stays).count();
        let active = status.members.iter().filter(stays).filter(reachable).count();
        let needed = (voters / 2).saturating_add(1);
        if status.member(id).is_none_or(|member| !member.voter) || voters == 0 || active >= needed {
            // Of a learner nothing depends; that the last voter stays, Raft sees to.
            return Ok(());
        }
        Err(MembershipError::WouldLoseQuorum { active, voters, needed })
    }

    /// Whether the audit record is in the log with it.
    async fn remove(&self, id: u64, force: bool, by: &str, audit: Option<&AuditRecord>) -> Result<bool, ChangeError> {
        let known = self.view().node(id).is_some();
        if !force {
            self.check_quorum_without(id)?;
        }
        match self.raft.change_membership(MembershipChange::Remove(id), force).await {
            Ok(_) => {}
            // It never came so far, or an earlier try did: its record is left.
            Err(MembershipError::NotAMember(_)) if known => {}
            // Asked again by a caller whose first answer was lost.
            Err(MembershipError::NotAMember(_)) if self.was_removed(id).await => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        if known {
            let command = commands::RemoveNode { id, by: by.to_owned() };
            let entry = self.raft.propose_audited(command, Some(clock::request_id()), audit.cloned());
            match entry.await? {
                Ok(_) | Err(Refusal::NotFound { .. }) => {}
                Err(refusal) => return Err(ChangeError::Refused(refusal)),
            }
        }
        warn!(member = id, by, force, "a member was removed");
        Ok(known && audit.is_some())
    }

    async fn was_removed(&self, id: u64) -> bool {
        self.raft.read_local(move |state| state.removed_node(id).is_some()).await.unwrap_or(false)
    }
}

#[tonic::async_trait]
impl MemberService for Members {
    async fn get_member_status(
        &self,
        request: Request<pb::GetMemberStatusRequest>,
    ) -> Result<Response<pb::GetMemberStatusResponse>, Status> {
        self.admit(&request)?;
        Ok(Response::new(self.own_status(request.get_ref().with_hash).await))
    }

    async fn get_fleet(&self, request: Request<pb::GetFleetRequest>) -> Result<Response<pb::GetFleetResponse>, Status> {
        self.admit(&request)?;
        fleet::listed(&self.fleet, request.into_inner()).map(Response::new)
    }

    async fn change_member(
        &self,
        request: Request<pb::ChangeMemberRequest>,
    ) -> Result<Response<pb::ChangeMemberResponse>, Status> {
        self.admit(&request)?;
        let request = request.into_inner();
        let change = match request.change() {
            pb::MemberChange::Promote => Change::Promote(request.id),
            pb::MemberChange::Remove => {
                let audit = request.audit.map(audit_from_proto).transpose();
                let audit = audit.map_err(|error| Status::invalid_argument(format!("audit.{error}")))?;
                Change::Remove { id: request.id, force: request.force, by: request.by, audit: audit.map(Box::new) }
            }
            pb::MemberChange::TransferLeader => Change::TransferLeader(request.id),
            pb::MemberChange::Unspecified => return Err(Status::invalid_argument("change is missing")),
        };
        match self.change_here(&change).await {
            Ok(Changed { leader, recorded }) => Ok(Response::new(pb::ChangeMemberResponse { leader, recorded })),
            // The caller looks for the leader, or waits, and asks again.
            Err(ChangeError::Members(error @ (MembershipError::NotLeader { .. } | MembershipError::InProgress))) => {
                Err(Status::aborted(error.to_string()))
            }
            // Nobody may take this for a refusal.
            Err(
                error @ (ChangeError::Members(MembershipError::Unknown | MembershipError::Stopped)
                | ChangeError::Propose(_)),
            ) => Err(Status::unknown(error.to_string())),
            Err(error) => Err(Status::failed_precondition(error.to_string())),
        }
    }
}

impl Members {
    /// Members alone, and only those that are still. The listener has verified the certificate, but not whether it was revoked.
    pub(crate) fn admit<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let peer = request.extensions().get::<crate::serve::PeerInfo>();
        let identity = peer.and_then(|peer| peer.identity.as_ref());
        let view = self.view();
        let known = identity.is_some_and(|identity| {
            // Who has just come in knows nobody yet.
            let named = view.cluster.is_none() || view.nodes.iter().any(|node| node.name == identity.name);
            identity.role == postern_core::node::NodeRole::Control && named
        }) && !peer
            .and_then(|peer| peer.serial.as_deref())
            .is_some_and(|serial| self.peers.book().is_revoked(serial));
        if known { Ok(()) } else { Err(Status::permission_denied("for members of the control plane alone")) }
    }
}
