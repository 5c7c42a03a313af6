//! `postern certs`.

use std::path::Path;

use postern_proto::admin::v1::{
    GetAuthorityRequest, IssueCertificateRequest, ListCertificatesRequest, RevokeCertificatesRequest,
};
use postern_proto::resource::v1::{self as pb, NodeRole};
use postern_runtime::pki::{KeyRequest, NodeCredential};

use serde_json::json;

use super::when;
use crate::args::{CertRole, CertsCommand, ConnectionArgs, Format};
use crate::client::{connect, refused};
use crate::failure::Failure;
use crate::output;

pub(crate) async fn run(command: &CertsCommand, connection: &ConnectionArgs) -> Result<(), Failure> {
    match command {
        CertsCommand::Issue { role, name, pool, alt_names, out } => {
            if pool.is_some() != (*role == CertRole::Agent) {
                return Err(Failure::usage("an agent serves a pool: --pool goes with --role agent, and only with it"));
            }
            if out.join("node.key").exists() {
                return Err(Failure::failed(format!("{} already holds a key", out.display())));
            }
            let role = node_role(*role);
            let kind = match role {
                NodeRole::Admin => postern_core::node::NodeRole::Admin,
                _ => postern_core::node::NodeRole::Gateway,
            };
            let key = KeyRequest::generate_for(kind)
                .map_err(|error| Failure::failed(format!("cannot make a key: {error}")))?;
            let request = IssueCertificateRequest {
                role: role.into(),
                name: name.clone(),
                agent_pool: pool.clone().unwrap_or_default(),
                csr: key.csr_der.clone(),
                alt_names: alt_names.clone(),
            };
            issue(request, key, out, connection).await
        }
        CertsCommand::List { role, name, output } => list(*role, name, output.format, connection).await,
        CertsCommand::Revoke { serials, role, name, because } => {
            if serials.is_empty() && name.is_none() {
                return Err(Failure::usage("which? give serial numbers, or --role and --name of a node"));
            }
            let request = RevokeCertificatesRequest {
                serials: serials.clone(),
                role: role.map_or(0, |role| node_role(role).into()),
                name: name.clone().unwrap_or_default(),
                because: because.clone(),
                request_id: postern_runtime::clock::request_id().to_string(),
            };
            let client = connect(connection).await?;
            let answer = client.certificates().revoke_certificates(request).await.map_err(refused)?.into_inner();
            output::line(format!("{} certificates revoked", answer.revoked))
        }
        CertsCommand::Ca => {
            let client = connect(connection).await?;
            let answer = client.certificates().get_authority(GetAuthorityRequest {}).await.map_err(refused)?;
            output::raw(answer.into_inner().ca_pem.as_bytes())
        }
    }
}

pub(super) const fn node_role(role: CertRole) -> NodeRole {
    match role {
        CertRole::Control => NodeRole::Control,
        CertRole::Gateway => NodeRole::Gateway,
        CertRole::Agent => NodeRole::Agent,
        CertRole::Admin => NodeRole::Admin,
    }
}

async fn list(
    role: Option<CertRole>,
    name: &str,
    format: Option<Format>,
    connection: &ConnectionArgs,
) -> Result<(), Failure> {
    let client = connect(connection).await?;
    let (mut all, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListCertificatesRequest {
            role: role.map_or(0, |role| node_role(role).into()),
            name: name.to_owned(),
            page_size: 0,
            page_token,
        };
        let answer = client.certificates().list_certificates(request).await.map_err(refused)?.into_inner();
        all.extend(answer.certificates);
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let role = |certificate: &pb::NodeCertificate| super::cluster::role_name(certificate.role);
    match format.unwrap_or_default() {
        Format::Table => {
            let row = |certificate: &pb::NodeCertificate| {
                let state = match &certificate.revoked_at {
                    Some(at) => format!("revoked {}", when(Some(at))),
                    None => "good".to_owned(),
                };
                let (issued, until) = (when(certificate.issued_at.as_ref()), when(certificate.not_after.as_ref()));
                vec![role(certificate), certificate.name.clone(), certificate.serial.clone(), issued, until, state]
            };
            let rows: Vec<_> = all.iter().map(row).collect();
            output::table(&["ROLE", "NAME", "SERIAL", "ISSUED", "UNTIL", "STATE"], &rows)
        }
        format => {
            let value = |certificate: &pb::NodeCertificate| {
                json!({
                    "serial": certificate.serial, "role": role(certificate), "name": certificate.name,
                    "agentPool": certificate.agent_pool, "issuedAt": when(certificate.issued_at.as_ref()),
                    "notAfter": when(certificate.not_after.as_ref()), "revokedAt": when(certificate.revoked_at.as_ref()),
                    "revokedBy": certificate.revoked_by, "revokedBecause": certificate.revoked_because,
                })
            };
            let values: Vec<_> = all.iter().map(value).collect();
            if format == Format::Yaml { output::yaml(&values) } else { output::json(&json!(values)) }
        }
    }
}

async fn issue(
    request: IssueCertificateRequest,
    key: KeyRequest,
    out: &Path,
    connection: &ConnectionArgs,
) -> Result<(), Failure> {
    let client = connect(connection).await?;
    let answer = client.certificates().issue_certificate(request).await.map_err(refused)?.into_inner();
    let credential =
        NodeCredential { certificate_pem: answer.certificate_pem, key_pem: key.key_pem, ca_pem: answer.ca_pem };
    credential.save(out).map_err(|error| Failure::failed(format!("{}: {error}", out.display())))?;
    let until = when(answer.not_after.as_ref());
    output::line(format!("{}: node.crt, node.key and ca.crt written; good until {until}", out.display()))
}
