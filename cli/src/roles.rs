//! The roles as processes of their own: configuration in, exit code out.

use std::path::Path;
use std::time::Duration;

use postern_agent::AgentConfig;
use postern_gateway::GatewayConfig;
use postern_runtime::config;
use postern_runtime::pki::NodeCredential;
use postern_runtime::supervisor::{OnEnd, Supervisor};
use postern_runtime::telemetry::{self, Guard, TelemetryConfig};
use postern_server::ControlConfig;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::args::RoleArgs;
use crate::failure::Failure;

/// What a role may take to end beside what its sessions are given.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ControlFile {
    control: ControlConfig,
    #[serde(default)]
    telemetry: TelemetryConfig,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GatewayFile {
    gateway: GatewayConfig,
    #[serde(default)]
    telemetry: TelemetryConfig,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AgentFile {
    agent: AgentConfig,
    #[serde(default)]
    telemetry: TelemetryConfig,
}

/// A control-plane node's configuration, for commands that make one.
pub(crate) fn control_config(file: &Path) -> Result<ControlConfig, Failure> {
    Ok(load::<ControlFile>(file)?.control)
}

pub(crate) async fn control(config: &Path) -> Result<(), Failure> {
    let supervisor = heedful();
    let file: ControlFile = load(config)?;
    let _guard = init("control", &file.telemetry)?;
    let _handle = postern_server::run(file.control, supervisor.clone()).await.map_err(cannot_start)?;
    until_end(&supervisor, DRAIN_LIMIT).await
}

pub(crate) async fn gateway(args: &RoleArgs) -> Result<(), Failure> {
    let supervisor = heedful();
    let file: GatewayFile = load(&args.config)?;
    let _guard = init("gateway", &file.telemetry)?;
    let credential = credential(&file.gateway.credential_dir)?;
    let drain = file.gateway.drain_limit.0.saturating_add(file.gateway.flush_limit.0).saturating_add(DRAIN_LIMIT);
    let _handle = postern_gateway::run(file.gateway, credential, supervisor.clone()).await.map_err(cannot_start)?;
    until_end(&supervisor, drain).await
}

pub(crate) async fn agent(args: &RoleArgs) -> Result<(), Failure> {
    let supervisor = heedful();
    let file: AgentFile = load(&args.config)?;
    let _guard = init("agent", &file.telemetry)?;
    let drain = file.agent.drain_limit.0.saturating_add(DRAIN_LIMIT);
    let _handle = postern_agent::start(file.agent, supervisor.clone()).await.map_err(cannot_start)?;
    supervisor.until_shutdown().await;
    // One that was not let in, for one, has nobody's connections to wait for.
    let serves_nobody = supervisor.failure().is_some() && supervisor.running(OnEnd::EndSession) == 0;
    end(&supervisor, if serves_nobody { DRAIN_LIMIT } else { drain }).await
}

/// One for a node that can be told to stop from its first moment.
fn heedful() -> Supervisor {
    for_own_eyes();
    let supervisor = Supervisor::new();
    supervisor.heed_signals();
    supervisor
}

/// What a node writes is for its own user alone, also where a library writes it.
pub(crate) fn for_own_eyes() {
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
}

async fn until_end(supervisor: &Supervisor, limit: Duration) -> Result<(), Failure> {
    supervisor.until_shutdown().await;
    end(supervisor, limit).await
}

/// Drains. A node that stopped itself is a failure.
pub(crate) async fn end(supervisor: &Supervisor, limit: Duration) -> Result<(), Failure> {
    let drained = supervisor.drain(limit).await;
    if let Some(reason) = supervisor.failure() {
        return Err(Failure::failed(reason));
    }
    if !drained.all_ended {
        tracing::warn!(left = drained.left, "some tasks did not end in time");
    }
    Ok(())
}

pub(crate) fn init(role: &str, config: &TelemetryConfig) -> Result<Guard, Failure> {
    telemetry::init(role, config).map_err(|error| Failure::failed(error.to_string()))
}

pub(crate) fn cannot_start(error: impl std::error::Error) -> Failure {
    Failure::failed(format!("cannot start: {error}"))
}

fn load<T: DeserializeOwned>(file: &Path) -> Result<T, Failure> {
    config::load(file, "POSTERN").map_err(|faults| Failure::Many(faults.to_string().lines().map(Into::into).collect()))
}

fn credential(dir: &Path) -> Result<NodeCredential, Failure> {
    if dir.as_os_str().is_empty() {
        return Err(Failure::failed(
            "credential_dir is not set: the folder with node.crt, node.key and ca.crt, as `postern certs issue` makes it",
        ));
    }
    NodeCredential::load(dir).map_err(|error| Failure::failed(format!("credential {}: {error}", dir.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse<T: DeserializeOwned>(name: &str) -> T {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/config").join(name);
        let text = std::fs::read_to_string(&file).unwrap();
        // With every commented default too: they must be keys that exist.
        let shown: String = text
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(rest) if rest.starts_with('[') || rest.contains(" = ") => format!("{rest}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        for text in [text, shown] {
            if let Err(faults) = config::parse::<T>(&text, name, "POSTERN", Vec::new()) {
                panic!("{faults}");
            }
        }
        config::load(&file, "POSTERN_TEST").unwrap()
    }

    #[test]
    fn the_configuration_that_is_shipped_is_valid() {
        let control: ControlFile = parse("control.toml");
        assert_eq!(control.control.listen.port(), 7480);
        let gateway: GatewayFile = parse("gateway.toml");
        assert_eq!(gateway.gateway.drain_limit.0, Duration::from_secs(3600));
        let agent: AgentFile = parse("agent.toml");
        assert_eq!(agent.agent.allow.len(), 1);
    }
}
