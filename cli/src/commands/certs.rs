//! `postern certs`.

use std::path::Path;

use postern_proto::admin::v1::{GetAuthorityRequest, IssueCertificateRequest};
use postern_proto::resource::v1::NodeRole;
use postern_runtime::pki::{KeyRequest, NodeCredential};

use super::when;
use crate::args::{CertRole, CertsCommand, ConnectionArgs};
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
            let role = match role {
                CertRole::Control => NodeRole::Control,
                CertRole::Gateway => NodeRole::Gateway,
                CertRole::Agent => NodeRole::Agent,
                CertRole::Admin => NodeRole::Admin,
            };
            let key = KeyRequest::generate().map_err(|error| Failure::failed(format!("cannot make a key: {error}")))?;
            let request = IssueCertificateRequest {
                role: role.into(),
                name: name.clone(),
                agent_pool: pool.clone().unwrap_or_default(),
                csr: key.csr_der.clone(),
                alt_names: alt_names.clone(),
            };
            issue(request, key, out, connection).await
        }
        CertsCommand::Ca => {
            let client = connect(connection).await?;
            let answer = client.certificates().get_authority(GetAuthorityRequest {}).await.map_err(refused)?;
            output::raw(answer.into_inner().ca_pem.as_bytes())
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
