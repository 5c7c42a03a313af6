//! The connection to the control plane: one channel over mutual TLS, shared by feed, approvals and uploads; it reconnects by itself.

use std::time::Duration;

use postern_core::node::CONTROL_PLANE_NAME;
use postern_runtime::pki::NodeCredential;
use secrecy::ExposeSecret as _;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

/// The control plane's address or the node's credential cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Not `host:port`, or TLS parts that are none.
    #[error("control plane {address}: {source}")]
    Endpoint {
        /// As configured.
        address: String,
        /// What is wrong.
        source: tonic::transport::Error,
    },
}

/// A channel that connects when it is first used.
///
/// # Errors
/// When address or credential cannot be used.
pub(crate) fn channel(address: &str, credential: &NodeCredential) -> Result<Channel, ControlError> {
    let fault = |source| ControlError::Endpoint { address: address.to_owned(), source };
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(&credential.ca_pem))
        .identity(Identity::from_pem(&credential.certificate_pem, credential.key_pem.expose_secret()))
        .domain_name(CONTROL_PLANE_NAME);
    let endpoint = Endpoint::from_shared(format!("https://{address}"))
        .and_then(|endpoint| endpoint.tls_config(tls))
        .map_err(fault)?
        .connect_timeout(Duration::from_secs(5))
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true);
    Ok(endpoint.connect_lazy())
}
