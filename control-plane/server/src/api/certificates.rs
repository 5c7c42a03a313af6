//! Nodes' certificates.

use std::sync::Arc;

use postern_core::Name;
use postern_core::node::{NodeIdentity, NodeRole};
use postern_core::wire::timestamp_to_proto;
use postern_proto::admin::v1 as pb;
use postern_proto::admin::v1::certificate_service_server::CertificateService;
use postern_runtime::clock;
use postern_runtime::pki::PkiError;
use tonic::{Request, Response, Status};
use tracing::{error, info};

use super::access::Access;
use super::status;
use crate::bootstrap::{CERTIFICATE_LIFETIME, ClusterKeys};

pub(super) struct Service {
    pub(super) keys: Arc<ClusterKeys>,
    pub(super) access: Access,
}

#[tonic::async_trait]
impl CertificateService for Service {
    async fn issue_certificate(
        &self,
        request: Request<pb::IssueCertificateRequest>,
    ) -> Result<Response<pb::IssueCertificateResponse>, Status> {
        let caller = self.access.admin(&request)?;
        let request = request.into_inner();
        let identity = identity(&request)?;
        let now = clock::now();
        let certificate_pem = self
            .keys
            .authority
            .issue(&identity, &request.csr, &request.alt_names, now, CERTIFICATE_LIFETIME)
            .map_err(refused)?;
        info!(%caller, node = %identity, "issued a certificate");
        Ok(Response::new(pb::IssueCertificateResponse {
            certificate_pem,
            ca_pem: self.keys.authority.ca_pem().to_owned(),
            not_after: Some(timestamp_to_proto(now.plus(CERTIFICATE_LIFETIME))),
        }))
    }

    /// For anybody: it is public.
    async fn get_authority(
        &self,
        _: Request<pb::GetAuthorityRequest>,
    ) -> Result<Response<pb::GetAuthorityResponse>, Status> {
        Ok(Response::new(pb::GetAuthorityResponse {
            ca_pem: self.keys.authority.ca_pem().to_owned(),
            cluster_id: self.keys.cluster.id.clone(),
        }))
    }
}

fn identity(request: &pb::IssueCertificateRequest) -> Result<NodeIdentity, Status> {
    let role = match pb::NodeRole::try_from(request.role) {
        Ok(pb::NodeRole::Control) => NodeRole::Control,
        Ok(pb::NodeRole::Gateway) => NodeRole::Gateway,
        Ok(pb::NodeRole::Agent) => NodeRole::Agent,
        Ok(pb::NodeRole::Admin) => NodeRole::Admin,
        _ => return Err(status::invalid_field("role", "must be control, gateway, agent or admin")),
    };
    let name: Name = status::parse("name", &request.name)?;
    let pool = match (role, request.agent_pool.is_empty()) {
        (NodeRole::Agent, _) => Some(status::parse("agent_pool", &request.agent_pool)?),
        (_, true) => None,
        (_, false) => return Err(status::invalid_field("agent_pool", "is for agents alone")),
    };
    Ok(NodeIdentity { role, name, pool })
}

#[allow(clippy::needless_pass_by_value)] // for map_err
fn refused(error: PkiError) -> Status {
    match &error {
        PkiError::Request(_) => status::invalid_field("csr", error),
        PkiError::AltName(..) => status::invalid_field("alt_names", error),
        _ => {
            error!(%error, "no certificate");
            Status::internal("the certificate cannot be made")
        }
    }
}
