//! Nodes' certificates: issued, renewed, listed, revoked. Each is in the replicated state before it is handed out.

use std::sync::Arc;
use std::time::Duration;

use postern_core::cluster::NodeCertificate;
use postern_core::node::{NodeIdentity, NodeRole};
use postern_core::wire::cluster::{certificate_to_proto, role_from_proto};
use postern_core::wire::timestamp_to_proto;
use postern_core::{Name, Timestamp};
use postern_proto::admin::v1 as pb;
use postern_proto::admin::v1::certificate_service_server::CertificateService;
use postern_runtime::clock;
use postern_runtime::pki::{self, PkiError, Serial};
use postern_state::{Success, commands};
use tonic::{Request, Response, Status};
use tracing::{error, info};

use super::access::Access;
use super::call::Call;
use super::status;
use crate::bootstrap::ClusterKeys;
use crate::raft::RaftHandle;
use crate::serve::PeerInfo;

const DEFAULT_PAGE: usize = 500;
const MAX_PAGE: usize = 1_000;
/// How long the certificates of those are good for that do not renew them by themselves.
const LONG: Duration = Duration::from_secs(365 * 86_400);
/// Why is kept with the certificate.
const MAX_REASON: usize = 1_024;

pub(super) struct Service {
    pub(super) raft: RaftHandle,
    pub(super) keys: Arc<ClusterKeys>,
    pub(super) access: Access,
}

/// A certificate and its record.
pub(crate) struct Signed {
    pub(crate) certificate_pem: String,
    pub(crate) record: NodeCertificate,
}

/// Signs a certificate; it must be recorded before it leaves this node.
pub(crate) fn sign(
    keys: &ClusterKeys,
    identity: &NodeIdentity,
    csr: &[u8],
    alt_names: &[String],
) -> Result<Signed, PkiError> {
    sign_for(keys, identity, csr, alt_names, lifetime_of(keys, identity.role))
}

fn lifetime_of(keys: &ClusterKeys, role: NodeRole) -> Duration {
    match role {
        NodeRole::Control | NodeRole::Gateway | NodeRole::Agent => keys.certificate_lifetime,
        // Nobody renews these but people.
        NodeRole::Admin => keys.certificate_lifetime.max(LONG),
    }
}

/// As [`sign`], good for `lifetime`.
pub(crate) fn sign_for(
    keys: &ClusterKeys,
    identity: &NodeIdentity,
    csr: &[u8],
    alt_names: &[String],
    lifetime: Duration,
) -> Result<Signed, PkiError> {
    let now = keys.clock.now();
    let certificate_pem = keys.authority.issue(identity, csr, alt_names, now, lifetime)?;
    signed(certificate_pem, identity, now, lifetime)
}

/// As [`sign`], for who joins by a token: under the serial number of its key, and for as long as `before` says, when it was let in before and
/// has not heard of it.
pub(crate) fn sign_joiner(
    keys: &ClusterKeys,
    identity: &NodeIdentity,
    serial: Serial,
    csr: &[u8],
    alt_names: &[String],
    before: Option<&NodeCertificate>,
) -> Result<Signed, PkiError> {
    let (now, lifetime) = match before {
        Some(before) => (before.issued_at, before.not_after.since(before.issued_at)),
        None => (keys.clock.now(), lifetime_of(keys, identity.role)),
    };
    let certificate_pem = keys.authority.issue_as(serial, identity, csr, alt_names, now, lifetime)?;
    signed(certificate_pem, identity, now, lifetime)
}

fn signed(
    certificate_pem: String,
    identity: &NodeIdentity,
    now: Timestamp,
    lifetime: Duration,
) -> Result<Signed, PkiError> {
    let record = NodeCertificate {
        serial: pki::serial_of_pem(&certificate_pem)?,
        role: identity.role,
        name: identity.name.clone(),
        agent_pool: identity.pool.clone(),
        issued_at: now,
        not_after: now.plus(lifetime),
        revoked: None,
        revision: 0,
    };
    Ok(Signed { certificate_pem, record })
}

impl Service {
    async fn record(&self, call: &Call, record: NodeCertificate) -> Result<(), Status> {
        call.about(format_args!("Certificate/{}", record.serial));
        let command = commands::RecordCertificate { certificate: record };
        call.write(&self.raft, command, Some(clock::request_id())).await?;
        Ok(())
    }
}

#[tonic::async_trait]
impl CertificateService for Service {
    async fn issue_certificate(
        &self,
        request: Request<pb::IssueCertificateRequest>,
    ) -> Result<Response<pb::IssueCertificateResponse>, Status> {
        let call = self.access.call(&request)?;
        let request = request.into_inner();
        let identity = identity(&request)?;
        call.caller().may_let_in(identity.role)?;
        if identity.role == NodeRole::Control {
            return Err(status::invalid_field(
                "role",
                "members of the control plane come in by a join token: postern cluster token create --role control",
            ));
        }
        let signed = sign(&self.keys, &identity, &request.csr, &request.alt_names).map_err(refused)?;
        let not_after = signed.record.not_after;
        self.record(&call, signed.record).await?;
        info!(caller = %call.caller(), node = %identity, "issued a certificate");
        Ok(Response::new(pb::IssueCertificateResponse {
            certificate_pem: signed.certificate_pem,
            ca_pem: self.keys.authority.ca_pem().to_owned(),
            not_after: Some(timestamp_to_proto(not_after)),
        }))
    }

    async fn renew_certificate(
        &self,
        request: Request<pb::RenewCertificateRequest>,
    ) -> Result<Response<pb::RenewCertificateResponse>, Status> {
        let call = self.access.call(&request)?;
        let peer = request.extensions().get::<PeerInfo>().cloned();
        let Some(PeerInfo { identity: Some(identity), serial: Some(serial), alt_names, .. }) = peer else {
            return Err(Status::unauthenticated("a certificate that is still good is needed"));
        };
        let request = request.into_inner();
        // Not what TLS knew when the connection began: what is known now.
        let revoked = self.raft.read(move |state| state.is_revoked(&serial)).await.map_err(status::read)?;
        if revoked {
            return Err(Status::permission_denied("the certificate was revoked"));
        }
        let signed = sign(&self.keys, &identity, &request.csr, &alt_names).map_err(refused)?;
        let not_after = signed.record.not_after;
        self.record(&call, signed.record).await?;
        info!(node = %identity, "renewed a certificate");
        Ok(Response::new(pb::RenewCertificateResponse {
            certificate_pem: signed.certificate_pem,
            ca_pem: self.keys.authority.ca_pem().to_owned(),
            not_after: Some(timestamp_to_proto(not_after)),
        }))
    }

    async fn list_certificates(
        &self,
        request: Request<pb::ListCertificatesRequest>,
    ) -> Result<Response<pb::ListCertificatesResponse>, Status> {
        let request = request.into_inner();
        let role = match request.role {
            0 => None,
            role => Some(role_from_proto(role).map_err(status::wire)?),
        };
        let size = super::page_size(request.page_size, DEFAULT_PAGE, MAX_PAGE);
        let found = self.raft.read(move |state| {
            let wanted = |certificate: &&Arc<NodeCertificate>| {
                certificate.serial > request.page_token
                    && role.is_none_or(|role| certificate.role == role)
                    && (request.name.is_empty() || certificate.name.as_str() == request.name)
            };
            // One more tells whether there is another page.
            state.certificates().filter(wanted).take(size.saturating_add(1)).cloned().collect::<Vec<_>>()
        });
        let mut found = found.await.map_err(status::read)?;
        let more = found.len() > size;
        found.truncate(size);
        let next_page_token = found.last().filter(|_| more).map(|last| last.serial.clone()).unwrap_or_default();
        let certificates = found.iter().map(|certificate| certificate_to_proto(certificate)).collect();
        Ok(Response::new(pb::ListCertificatesResponse { certificates, next_page_token }))
    }

    async fn revoke_certificates(
        &self,
        request: Request<pb::RevokeCertificatesRequest>,
    ) -> Result<Response<pb::RevokeCertificatesResponse>, Status> {
        let call = self.access.call(&request)?;
        let request = request.into_inner();
        let node = if request.name.is_empty() {
            None
        } else {
            let name: Name = status::parse("name", &request.name)?;
            Some((role_from_proto(request.role).map_err(status::wire)?, name))
        };
        if node.is_none() && request.serials.is_empty() {
            return Err(status::invalid_field("serials", "name certificates, or a node by role and name"));
        }
        if request.because.len() > MAX_REASON {
            return Err(status::invalid_field("because", format!("is longer than {MAX_REASON} bytes")));
        }
        let serials: Vec<String> = request.serials.iter().map(|serial| serial.to_ascii_lowercase()).collect();
        serials.iter().for_each(|serial| call.about(format_args!("Certificate/{serial}")));
        if let Some((role, name)) = &node {
            call.about(format_args!("{name}.{}", role.as_str()));
        }
        let command = commands::RevokeCertificates {
            serials,
            node,
            by: call.caller().to_string(),
            because: request.because.clone(),
        };
        let request_id = status::request_id(&request.request_id)?;
        let Success::Revoked(revoked) = call.write(&self.raft, command, request_id).await? else {
            return Err(Status::internal("another outcome than was asked for"));
        };
        info!(caller = %call.caller(), revoked, "revoked certificates");
        Ok(Response::new(pb::RevokeCertificatesResponse { revoked }))
    }

    /// For anybody: it is public.
    async fn get_authority(
        &self,
        _: Request<pb::GetAuthorityRequest>,
    ) -> Result<Response<pb::GetAuthorityResponse>, Status> {
        Ok(Response::new(pb::GetAuthorityResponse {
            ca_pem: self.keys.authority.ca_pem().to_owned(),
            cluster_id: self.keys.cluster.id.clone(),
            now: Some(timestamp_to_proto(self.keys.clock.now())),
        }))
    }
}

fn identity(request: &pb::IssueCertificateRequest) -> Result<NodeIdentity, Status> {
    let role = role_from_proto(request.role)
        .map_err(|_| status::invalid_field("role", "must be control, gateway, agent or admin"))?;
    let name: Name = status::parse("name", &request.name)?;
    let pool = match (role, request.agent_pool.is_empty()) {
        (NodeRole::Agent, _) => Some(status::parse("agent_pool", &request.agent_pool)?),
        (_, true) => None,
        (_, false) => return Err(status::invalid_field("agent_pool", "is for agents alone")),
    };
    Ok(NodeIdentity { role, name, pool })
}

#[allow(clippy::needless_pass_by_value)] // for map_err
pub(super) fn refused(error: PkiError) -> Status {
    match &error {
        PkiError::Request(_) => status::invalid_field("csr", error),
        PkiError::AltName(..) => status::invalid_field("alt_names", error),
        _ => {
            error!(%error, "no certificate");
            Status::internal("the certificate cannot be made")
        }
    }
}
