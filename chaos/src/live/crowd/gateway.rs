//! A gateway of the crowd.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use postern_core::Name;
use postern_gateway::{GatewayConfig, GatewayHandle};
use postern_runtime::pki::NodeCredential;
use postern_runtime::supervisor::Supervisor;
use serde_json::json;
use tokio::runtime::Runtime;

use super::super::cluster::LiveCluster;
use super::super::process::{free_port, wait_until};

/// A whole gateway, on a runtime of its own.
#[derive(Debug)]
pub struct Gateway {
    name: Name,
    folder: PathBuf,
    postgres: u16,
    tunnel: u16,
    control_plane: Vec<String>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    runtime: Runtime,
    supervisor: Supervisor,
    handle: GatewayHandle,
}

impl Gateway {
    /// With a certificate; not yet started.
    pub(super) fn new(cluster: &LiveCluster, number: usize) -> Result<Self> {
        let name = format!("gateway-{}", number.saturating_add(1));
        let folder = cluster.folder().join(&name);
        let out = folder.join("credential").display().to_string();
        cluster.cli().cli(["certs", "issue", "--role", "gateway", "--name", &name, "--out", &out])?.ok()?;
        let (postgres, tunnel) = (free_port()?, free_port()?);
        Ok(Self { name: name.parse()?, folder, postgres, tunnel, control_plane: cluster.addresses(), running: None })
    }

    /// Its name, in its certificate.
    #[must_use]
    pub const fn name(&self) -> &Name {
        &self.name
    }

    /// Where agents dial it, `host:port`.
    #[must_use]
    pub fn tunnel(&self) -> String {
        format!("127.0.0.1:{}", self.tunnel)
    }

    /// Where clients connect, `host:port`.
    #[must_use]
    pub fn postgres(&self) -> String {
        format!("127.0.0.1:{}", self.postgres)
    }

    /// The gateway itself, when it runs.
    #[must_use]
    pub fn handle(&self) -> Option<&GatewayHandle> {
        Some(&self.running.as_ref()?.handle)
    }

    /// Fails when it has ended by itself.
    pub(super) fn check(&self) -> Result<()> {
        match self.running.as_ref().and_then(|running| running.supervisor.failure()) {
            Some(why) => bail!("{} has ended: {why}", self.name),
            None => Ok(()),
        }
    }

    /// Starts it, as soon as what it had before its end is free.
    ///
    /// # Errors
    /// When it runs, or does not come up in time.
    pub fn start(&mut self, within: Duration) -> Result<()> {
        let mut last = None;
        let name = self.name.to_string();
        let started = wait_until(within, &format!("{name} to start"), || match self.try_start() {
            Ok(running) => {
                self.running = Some(running);
                Ok(true)
            }
            Err(error) => {
                last = Some(error);
                Ok(false)
            }
        });
        started.with_context(|| format!("{last:?}"))
    }

    fn try_start(&self) -> Result<Running> {
        if self.running.is_some() {
            bail!("{} runs", self.name);
        }
        let at = |port: u16| format!("127.0.0.1:{port}");
        let config: GatewayConfig = serde_json::from_value(json!({
            "postgres_listen": at(self.postgres),
            "tunnel_listen": at(self.tunnel),
            "tunnel_tcp_listen": at(self.tunnel),
            "control_plane": self.control_plane,
            "spool_dir": self.folder.join("spool"),
        }))?;
        let credential = NodeCredential::load(&self.folder.join("credential"))?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let supervisor = Supervisor::new();
        match runtime.block_on(postern_gateway::run(config, credential, supervisor.clone())) {
            Ok(handle) => Ok(Running { runtime, supervisor, handle }),
            Err(error) => {
                runtime.shutdown_background();
                Err(error.into())
            }
        }
    }

    /// Ends it as SIGKILL does: its tasks go on nowhere and its sockets are closed, with no word to anybody.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self) -> Result<()> {
        let Running { runtime, supervisor, handle } =
            self.running.take().with_context(|| format!("{} does not run", self.name))?;
        runtime.shutdown_background();
        // What is on threads of its own ends too.
        supervisor.request_shutdown("killed");
        supervisor.sessions_ended_token().cancel();
        drop(handle);
        Ok(())
    }
}
