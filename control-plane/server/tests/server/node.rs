//! A node on a temporary directory, and clients of it.

use std::path::Path;
use std::time::Duration;

use postern_core::node::{CONTROL_PLANE_NAME, NodeIdentity, NodeRole};
use postern_runtime::pki::NodeCredential;
use postern_runtime::supervisor::Supervisor;
use postern_server::{ControlConfig, ControlError, ControlHandle};
use secrecy::ExposeSecret as _;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

pub(crate) struct Node {
    pub(crate) control: ControlHandle,
    pub(crate) supervisor: Supervisor,
}

fn config(dir: &Path) -> ControlConfig {
    let mut config: ControlConfig = serde_json::from_value(serde_json::json!({
        "data_dir": dir, "listen": "127.0.0.1:0", "ops_listen": "127.0.0.1:0",
        "admin_groups": ["admins"], "auditor_groups": ["auditors"],
    }))
    .unwrap();
    config.dev = true;
    config
}

pub(crate) async fn try_start(dir: &Path) -> Result<Node, (ControlError, Supervisor)> {
    let supervisor = Supervisor::new();
    match postern_server::run(config(dir), supervisor.clone()).await {
        Ok(control) => Ok(Node { control, supervisor }),
        Err(error) => Err((error, supervisor)),
    }
}

pub(crate) async fn start(dir: &Path) -> Node {
    match try_start(dir).await {
        Ok(node) => node,
        Err((error, _)) => panic!("{error}"),
    }
}

impl Node {
    pub(crate) async fn end(self) {
        let Self { control, supervisor } = self;
        drop(control);
        let drained = supervisor.drain(Duration::from_secs(20)).await;
        assert!(drained.all_ended, "{drained:?}");
        assert_eq!(supervisor.failure(), None);
    }

    async fn connect(&self, identity: Option<NodeCredential>) -> Channel {
        let mut tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.control.ca_pem))
            .domain_name(CONTROL_PLANE_NAME);
        if let Some(credential) = identity {
            let key = credential.key_pem.expose_secret().to_owned();
            tls = tls.identity(Identity::from_pem(credential.certificate_pem, key));
        }
        let uri = format!("https://{}", self.control.grpc_addr);
        Endpoint::from_shared(uri).unwrap().tls_config(tls).unwrap().connect().await.unwrap()
    }

    /// With no certificate.
    pub(crate) async fn anonymous(&self) -> Channel {
        self.connect(None).await
    }

    /// With the administrator's credential that the first start wrote.
    pub(crate) async fn admin(&self) -> Channel {
        self.connect(Some(NodeCredential::load(&self.control.admin_credential_dir).unwrap())).await
    }

    pub(crate) async fn credential(&self, role: NodeRole, name: &str) -> NodeCredential {
        let pool = (role == NodeRole::Agent).then(|| "lab".parse().unwrap());
        let identity = NodeIdentity { role, name: name.parse().unwrap(), pool };
        self.control.issue_node_credential(&identity, &[]).await.unwrap()
    }

    pub(crate) async fn as_node(&self, role: NodeRole, name: &str) -> Channel {
        self.connect(Some(self.credential(role, name).await)).await
    }
}

/// A request with a bearer token.
pub(crate) fn with_token<T>(message: T, token: &str) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

/// Until `ready` gives something.
pub(crate) async fn eventually<T>(what: &str, mut ready: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..400 {
        if let Some(found) = ready().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{what} did not come to pass");
}
