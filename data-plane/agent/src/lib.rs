//! The edge agent: dials gateways over QUIC from inside a private network, and opens connections there for them.
//!
//! It listens on nothing. What it may open is its own configuration's say alone ([`allow`]): a gateway, or whoever holds one, cannot
//! reach an address through it that its own host's administrator did not list.

pub mod allow;
pub mod config;
mod serve;
mod tunnel;
mod wire;

use std::sync::Arc;

use postern_core::node::NodeRole;
use postern_runtime::ops::{self, Readiness};
use postern_runtime::pki::{NodeCredential, PkiError};
use postern_runtime::supervisor::{OnEnd, Supervisor};
use postern_runtime::telemetry;
use postern_runtime::tls::TlsError;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

pub use allow::{AllowList, AllowRule};
pub use config::AgentConfig;

/// The agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The certificate is not an agent's.
    #[error("the credential is of {0}, not of an agent")]
    NotAnAgent(String),
    /// The credential cannot be read.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The credential cannot be used for TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The credential cannot be used for QUIC.
    #[error("the credential cannot be used for QUIC: {0}")]
    Quic(String),
    /// No socket.
    #[error("no socket: {0}")]
    Socket(#[from] std::io::Error),
}

/// A running agent.
#[derive(Clone, Debug)]
pub struct AgentHandle {
    /// What of it works: `tunnel` once it has at least one.
    pub readiness: Readiness,
}

/// Starts the agent's tasks. Its name and pool are those of its certificate.
///
/// # Errors
/// When it cannot start at all; an unreachable gateway is retried, and no error.
pub async fn run(
    config: AgentConfig,
    credential: NodeCredential,
    supervisor: Supervisor,
) -> Result<AgentHandle, AgentError> {
    let identity = credential.identity()?;
    let Some(pool) = identity.pool.clone().filter(|_| identity.role == NodeRole::Agent) else {
        return Err(AgentError::NotAnAgent(identity.to_string()));
    };
    let readiness = Readiness::default();
    readiness.set("tunnel", false);
    let client = tunnel::client_config(&credential, config.max_streams)?;
    let shared = Arc::new(tunnel::Shared {
        agent: identity.name,
        pool,
        client,
        allow: AllowList::new(config.allow),
        streams: Arc::new(Semaphore::new(usize::try_from(config.max_streams).unwrap_or(1024))),
        supervisor: supervisor.clone(),
        readiness: readiness.clone(),
        tunnels: std::sync::atomic::AtomicUsize::new(0),
    });
    for gateway in config.gateways {
        let shared = Arc::clone(&shared);
        let endpoint = tunnel::endpoint()?;
        supervisor.spawn("tunnel", OnEnd::StopNode, tunnel::keep(endpoint, gateway, shared));
    }
    if let Some(address) = config.ops_listen {
        let metrics = telemetry::install_metrics();
        let listener = TcpListener::bind(address).await?;
        let (readiness, stop) = (readiness.clone(), supervisor.sessions_ended_token());
        supervisor.spawn("ops", OnEnd::StopNode, ops::serve(listener, metrics, readiness, stop));
    }
    Ok(AgentHandle { readiness })
}
