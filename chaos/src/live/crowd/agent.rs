//! An agent of the crowd.

use std::path::PathBuf;

use anyhow::Result;
use postern_agent::AgentConfig;
use postern_core::Name;
use postern_runtime::pki::NodeCredential;
use postern_runtime::supervisor::Supervisor;
use serde_json::json;

/// An agent; stopped with its supervisor.
#[derive(Debug)]
pub(super) struct Agent {
    name: Name,
    folder: PathBuf,
    token: PathBuf,
    control_plane: Vec<String>,
    tunnels: usize,
    running: Option<Supervisor>,
}

impl Agent {
    /// Without `control_plane` it is let in through gateways.
    pub(super) const fn new(
        name: Name,
        folder: PathBuf,
        token: PathBuf,
        control_plane: Vec<String>,
        tunnels: usize,
    ) -> Self {
        Self { name, folder, token, control_plane, tunnels, running: None }
    }

    pub(super) const fn name(&self) -> &Name {
        &self.name
    }

    pub(super) const fn runs(&self) -> bool {
        self.running.is_some()
    }

    pub(super) fn is_let_in(&self) -> bool {
        NodeCredential::exists(&self.folder)
    }

    /// Why it ended by itself, if it did.
    pub(super) fn failure(&self) -> Option<String> {
        self.running.as_ref()?.failure()
    }

    /// Starts it on the current runtime, unless it runs.
    pub(super) async fn start(&mut self, gateways: &[String]) -> Result<()> {
        if self.running.is_some() {
            return Ok(());
        }
        let config: AgentConfig = serde_json::from_value(json!({
            "credential_dir": self.folder,
            "join_token_file": self.token,
            "name": self.name.as_str(),
            "control_plane": self.control_plane,
            "gateways": gateways,
            "tunnels": self.tunnels,
            "allow": [{"hosts": ["127.0.0.1", "localhost"], "ports": ["1-65535"]}],
        }))?;
        let supervisor = Supervisor::new();
        postern_agent::start(config, supervisor.clone()).await?;
        self.running = Some(supervisor);
        Ok(())
    }

    /// What is to be drained for it to end.
    pub(super) const fn take(&mut self) -> Option<Supervisor> {
        self.running.take()
    }
}
