//! The edge agent: dials gateways from inside a private network, over QUIC or where that cannot pass over TCP, and opens connections
//! there for them.
//!
//! It listens on nothing. What it may open is its own configuration's say alone ([`allow`]): a gateway, or whoever holds one, cannot
//! reach an address through it that its own host's administrator did not list.

pub mod allow;
pub mod config;
mod enrol;
mod revoked;
mod serve;
mod tunnel;

use std::sync::Arc;

use postern_runtime::enrol::RedeemError;
use postern_runtime::ops::{self, Readiness};
use postern_runtime::pki::{NodeCredential, PkiError, RotatingCredential};
use postern_runtime::supervisor::{OnEnd, Supervisor};
use postern_runtime::tls::TlsError;
use postern_runtime::{clock, telemetry};
use tokio::net::TcpListener;

pub use allow::{AllowList, AllowRule};
pub use config::AgentConfig;

use revoked::Revoked;
use tunnel::{Dialer, Shared};

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
    /// It has nowhere to keep a certificate.
    #[error(
        "credential_dir is not set: the folder with node.crt, node.key and ca.crt, or for them once the agent is let in"
    )]
    NoCredentialDir,
    /// It has neither certificate nor join token.
    #[error(
        "the agent has no certificate: let it in by join_token_file (`postern cluster token create --role agent`), or by `postern certs issue`"
    )]
    NotLetIn,
    /// Its certificate is good no more.
    #[error("the agent's certificate ended at {0}, and there is no join token for a new one")]
    Ended(String),
    /// The join token is none.
    #[error("join token: {0}")]
    Token(String),
    /// The cluster does not let it in.
    #[error("the agent is not let in: {0}")]
    Refused(RedeemError),
    /// No socket.
    #[error("no socket: {0}")]
    Socket(#[from] std::io::Error),
}

/// A running agent.
#[derive(Clone, Debug)]
pub struct AgentHandle {
    /// What of it works: `tunnel` once it has at least one, `accepting` until it is told to stop.
    pub readiness: Readiness,
}

/// Starts the agent. When it has no certificate, it first asks to be let in by its join token; a cluster that says no stops the node.
///
/// # Errors
/// When it cannot start at all; an unreachable gateway is retried, and no error.
pub async fn start(config: AgentConfig, supervisor: Supervisor) -> Result<AgentHandle, AgentError> {
    let existing = enrol::existing(&config)?;
    let readiness = readiness(&supervisor);
    serve_ops(&config, &readiness, &supervisor).await?;
    match existing {
        Some(credential) => tunnels(config, credential, &readiness, &supervisor)?,
        None => {
            let (ready, supervised) = (readiness.clone(), supervisor.clone());
            supervisor.spawn("enrol", OnEnd::EndPart, async move {
                let entered = match enrol::enrol(&config, &supervised).await {
                    Ok(Some(credential)) => tunnels(config, credential, &ready, &supervised),
                    Ok(None) => Ok(()),
                    Err(error) => Err(error),
                };
                if let Err(error) = entered {
                    supervised.stop_node(&error.to_string());
                }
            });
        }
    }
    Ok(AgentHandle { readiness })
}

/// Starts the agent with a certificate that it has. Its name and pool are those of the certificate.
///
/// # Errors
/// See [`start`].
pub async fn run(
    config: AgentConfig,
    credential: NodeCredential,
    supervisor: Supervisor,
) -> Result<AgentHandle, AgentError> {
    let readiness = readiness(&supervisor);
    serve_ops(&config, &readiness, &supervisor).await?;
    tunnels(config, credential, &readiness, &supervisor)?;
    Ok(AgentHandle { readiness })
}

/// Not ready any more once the agent is told to stop: from then on it opens nothing.
fn readiness(supervisor: &Supervisor) -> Readiness {
    let readiness = Readiness::new(&["tunnel", "accepting"]);
    readiness.set("accepting", true);
    let (told, begins) = (readiness.clone(), supervisor.shutdown_token());
    supervisor.spawn("drain", OnEnd::EndPart, async move {
        begins.cancelled().await;
        told.set("accepting", false);
    });
    readiness
}

async fn serve_ops(config: &AgentConfig, readiness: &Readiness, supervisor: &Supervisor) -> Result<(), AgentError> {
    if let Some(address) = config.ops_listen {
        let metrics = telemetry::install_metrics();
        let listener = TcpListener::bind(address).await?;
        let (readiness, stop) = (readiness.clone(), supervisor.sessions_ended_token());
        supervisor.spawn("ops", OnEnd::StopNode, ops::serve(listener, metrics, readiness, stop));
    }
    Ok(())
}

fn tunnels(
    config: AgentConfig,
    credential: NodeCredential,
    readiness: &Readiness,
    supervisor: &Supervisor,
) -> Result<(), AgentError> {
    let (agent, pool) = enrol::check(&credential)?;
    let credential = RotatingCredential::new(credential)?;
    let dir = Some(config.credential_dir.as_path()).filter(|dir| !dir.as_os_str().is_empty());
    let revoked = Revoked::load(credential.current().ca_der(), dir, clock::now());
    let dialer = Dialer::new(&credential, &revoked.revocations(), supervisor.clone(), config.max_streams)?;
    let (seeds, count) = (config.seeds(), config.tunnels.max(1));
    let shared = Arc::new(Shared::new(
        agent,
        pool,
        credential,
        (dialer, revoked),
        AllowList::new(config.allow.clone()),
        (config.max_streams, config.udp_probe.0),
        supervisor.clone(),
        readiness.clone(),
    ));
    supervisor.spawn("certificate", OnEnd::StopNode, enrol::keep_fresh(config, Arc::clone(&shared)));
    supervisor.spawn("tunnels", OnEnd::StopNode, tunnel::manage(shared, seeds, count));
    Ok(())
}
