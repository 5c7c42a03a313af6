//! The gateway's own certificate is renewed before it ends, while the gateway runs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use postern_core::node::{NodeIdentity, NodeRole};
use postern_proto::admin::v1::certificate_service_server::{CertificateService, CertificateServiceServer};
use postern_proto::admin::v1::*;
use postern_runtime::clock;
use postern_runtime::pki::{Authority, KeyRequest, NodeCredential};
use postern_runtime::supervisor::Supervisor;
use secrecy::ExposeSecret as _;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

use crate::house::{credential, spawn};

struct Certifier(Arc<Authority>);

fn issue(authority: &Authority, csr: &[u8], lifetime: Duration) -> String {
    let identity = NodeIdentity { role: NodeRole::Gateway, name: "one".parse().unwrap(), pool: None };
    authority.issue(&identity, csr, &[], clock::now(), lifetime).unwrap()
}

#[tonic::async_trait]
impl CertificateService for Certifier {
    async fn issue_certificate(
        &self,
        _: Request<IssueCertificateRequest>,
    ) -> Result<Response<IssueCertificateResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn renew_certificate(
        &self,
        request: Request<RenewCertificateRequest>,
    ) -> Result<Response<RenewCertificateResponse>, Status> {
        let certificate_pem = issue(&self.0, &request.into_inner().csr, Duration::from_secs(86_400));
        Ok(Response::new(RenewCertificateResponse { certificate_pem, ..Default::default() }))
    }

    async fn list_certificates(
        &self,
        _: Request<ListCertificatesRequest>,
    ) -> Result<Response<ListCertificatesResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn revoke_certificates(
        &self,
        _: Request<RevokeCertificatesRequest>,
    ) -> Result<Response<RevokeCertificatesResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn get_authority(&self, _: Request<GetAuthorityRequest>) -> Result<Response<GetAuthorityResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_ends_soon_is_renewed_and_saved() {
    let authority = Arc::new(Authority::create("c").unwrap());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let control = credential(&authority, NodeRole::Control, None);
    let certifier = Certifier(Arc::clone(&authority));
    spawn(async move {
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(&control.certificate_pem, control.key_pem.expose_secret()))
            .client_ca_root(Certificate::from_pem(&control.ca_pem));
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let server = Server::builder().tls_config(tls).unwrap().add_service(CertificateServiceServer::new(certifier));
        server.serve_with_incoming(incoming).await.unwrap();
    });
    // It is renewed when two thirds of its life are over.
    let dir = tempfile::tempdir().unwrap();
    let request = KeyRequest::generate().unwrap();
    let short = NodeCredential {
        certificate_pem: issue(&authority, &request.csr_der, Duration::from_secs(12)),
        key_pem: request.key_pem,
        ca_pem: authority.ca_pem().to_owned(),
    };
    let own = dir.path().join("credential");
    short.save(&own).unwrap();
    let config = serde_json::json!({
        "postgres_listen": "127.0.0.1:0",
        // The first of them is nobody: the next is asked.
        "control_plane": ["127.0.0.1:1", address.to_string()],
        "credential_dir": own,
        "spool_dir": dir.path().join("spool"),
    });
    let supervisor = Supervisor::new();
    let config = serde_json::from_value(config).unwrap();
    let gateway = postern_gateway::run(config, short.clone(), supervisor.clone()).await.unwrap();
    let began = Instant::now();
    let renewed = loop {
        let now = NodeCredential::load(&own).unwrap();
        if now.serial().unwrap() != short.serial().unwrap() {
            break now;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "the certificate is not renewed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(renewed.key_pem.expose_secret(), short.key_pem.expose_secret());
    assert!(renewed.expires_at().unwrap() > short.expires_at().unwrap());
    drop(gateway);
    assert!(supervisor.drain(Duration::from_secs(10)).await.all_ended);
}
