//! The three roles of a `postern dev`, started one after the other.

use std::path::{Path, PathBuf};
use std::time::Duration;

use postern_agent::AgentHandle;
use postern_core::node::{NodeIdentity, NodeRole};
use postern_gateway::GatewayHandle;
use postern_runtime::ops::{self, Readiness};
use postern_runtime::pki::{NodeCredential, PkiError};
use postern_runtime::supervisor::OnEnd;
use postern_runtime::telemetry;
use postern_server::{ControlConfig, ControlHandle};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::args::DevOptions;
use super::layout::{Endpoints, Layout};
use super::{NAME, POLL, Supervisors};
use crate::failure::Failure;
use crate::roles::cannot_start;

/// A certificate with less time than this left is made anew at the start.
const RENEW_BEFORE: Duration = Duration::from_secs(30 * 86_400);

/// What runs.
pub(super) struct Nodes {
    pub(super) admin_credential: PathBuf,
    gateway: GatewayHandle,
    agent: AgentHandle,
}

impl Nodes {
    /// The gateway has policy, the agent its tunnel.
    pub(super) fn ready(&self) -> bool {
        self.gateway.readiness.is_ready() && self.agent.readiness.is_ready()
    }
}

pub(super) async fn start(
    options: &DevOptions,
    layout: &Layout,
    endpoints: &Endpoints,
    supervisors: &Supervisors,
) -> Result<Nodes, Failure> {
    let web = match options.web_listen {
        Some(address) if address.port() == 0 => return Err(Failure::usage("--web-listen needs a port")),
        Some(address) => {
            json!({"listen": address, "public_url": format!("https://localhost:{}", address.port())})
        }
        None => Value::Null,
    };
    let mut settings: ControlConfig = config(json!({
        "data_dir": layout.control(), "listen": endpoints.admin, "web": web, "dpop_nonces": options.dpop_nonces,
        "admin_groups": ["postern-admins"], "auditor_groups": ["postern-auditors"],
    }))?;
    settings.dev = true;
    let control = postern_server::run(settings, supervisors.control.clone()).await.map_err(cannot_start)?;

    let credential = node_credential(&control, NodeRole::Gateway, &layout.gateway_credential()).await?;
    let gateway = postern_gateway::run(
        config(json!({
            "postgres_listen": endpoints.postgres, "tunnel_listen": endpoints.tunnel,
            "control_plane": endpoints.admin.to_string(), "spool_dir": layout.spool(),
            // Whoever stops it does not wait for a client that is only connected.
            "drain_limit": "5s", "drain_idle_grace": "0s", "drain_notice": "0s", "flush_limit": "3s",
        }))?,
        credential,
        supervisors.data.clone(),
    )
    .await
    .map_err(cannot_start)?;

    let mut allow = vec![json!({"hosts": ["localhost", "127.0.0.0/8", "::1"], "ports": ["1-65535"]})];
    for rule in &options.agent_allow {
        let (host, port) = rule.rsplit_once(':').ok_or_else(|| {
            Failure::usage(format!("--agent-allow takes HOST:PORT, or HOST:* for any port, not {rule:?}"))
        })?;
        allow.push(json!({"hosts": [host], "ports": [if port == "*" { "1-65535" } else { port }]}));
    }
    let credential = node_credential(&control, NodeRole::Agent, &layout.agent_credential()).await?;
    let agent = postern_agent::run(
        config(json!({"gateways": [endpoints.tunnel.to_string()], "allow": allow}))?,
        credential,
        supervisors.data.clone(),
    )
    .await
    .map_err(cannot_start)?;

    let nodes = Nodes { admin_credential: control.admin_credential_dir.clone(), gateway, agent };
    serve_ops(endpoints, &nodes, supervisors).await?;
    Ok(nodes)
}

/// One endpoint for the one process: metrics know no roles' bounds here.
async fn serve_ops(endpoints: &Endpoints, nodes: &Nodes, supervisors: &Supervisors) -> Result<(), Failure> {
    let listener = TcpListener::bind(endpoints.ops)
        .await
        .map_err(|error| Failure::failed(format!("cannot listen on {} (--ops-listen): {error}", endpoints.ops)))?;
    let metrics = telemetry::install_metrics();
    let readiness = Readiness::new(&["gateway", "agent"]);
    let (told, stop) = (readiness.clone(), supervisors.control.shutdown_token());
    let (gateway, agent) = (nodes.gateway.readiness.clone(), nodes.agent.readiness.clone());
    supervisors.control.spawn("dev-readiness", OnEnd::StopNode, async move {
        while !stop.is_cancelled() {
            told.set("gateway", gateway.is_ready());
            told.set("agent", agent.is_ready());
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(POLL * 4) => {}
            }
        }
    });
    let stop = supervisors.control.sessions_ended_token();
    supervisors.control.spawn("dev-ops", OnEnd::StopNode, ops::serve(listener, metrics, readiness, stop));
    Ok(())
}

/// The node's certificate from an earlier start while it is good for long, else a new one.
async fn node_credential(control: &ControlHandle, role: NodeRole, dir: &Path) -> Result<NodeCredential, Failure> {
    let wrong = |error: PkiError| Failure::failed(format!("credential {}: {error}", dir.display()));
    if NodeCredential::exists(dir) {
        let credential = NodeCredential::load(dir).map_err(wrong)?;
        let renew_at = postern_runtime::clock::now().plus(RENEW_BEFORE);
        if credential.ca_pem == control.ca_pem && credential.expires_at().map_err(wrong)? > renew_at {
            return Ok(credential);
        }
    }
    let name = NAME.parse().map_err(|_| Failure::failed("a bad name"))?;
    let pool = (role == NodeRole::Agent).then(|| NAME.parse().ok()).flatten();
    let identity = NodeIdentity { role, name, pool };
    let credential = control
        .issue_node_credential(&identity, &[])
        .await
        .map_err(|error| Failure::failed(format!("cannot issue a certificate for {identity}: {error}")))?;
    credential.save(dir).map_err(wrong)?;
    Ok(credential)
}

/// A role's configuration as its file would give it, so that defaults are in one place.
fn config<T: DeserializeOwned>(value: Value) -> Result<T, Failure> {
    serde_json::from_value(value).map_err(|error| Failure::failed(format!("internal: {error}")))
}
