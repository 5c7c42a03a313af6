//! A gateway or an agent: its folder, its ports, its process.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Signal;

use super::super::cluster::LiveCluster;
use super::super::net::Place;
use super::super::postern::{STOP_LIMIT, http_get, postern_binary};
use super::super::process::{Process, command_in, free_port, run, text, wait_until};
use super::super::roles::sum_of;

const START_LIMIT: Duration = Duration::from_secs(60);

/// A gateway or an agent.
#[derive(Debug)]
pub struct Node {
    /// `gateway` or `agent`: the command that it is.
    role: &'static str,
    name: String,
    folder: PathBuf,
    host: String,
    /// On a host of its own.
    namespace: Option<String>,
    ports: Ports,
    config: String,
    environment: Vec<(String, String)>,
    process: Option<Process>,
    /// Another build than the one that is tested.
    program: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug)]
struct Ports {
    postgres: u16,
    tunnel: u16,
    ops: u16,
}

impl Node {
    /// A gateway that knows every member, let in; not yet started.
    pub(in crate::live) fn gateway(
        cluster: &LiveCluster,
        number: usize,
        place: Option<Place>,
        further: &str,
    ) -> Result<Self> {
        let mut this = Self::new(cluster, "gateway", number, place, &[])?;
        let Ports { postgres, tunnel, ops } = this.ports;
        let (folder, host) = (this.folder.display(), &this.host);
        this.config = format!(
            "[gateway]\ncredential_dir = \"{folder}/credential\"\npostgres_listen = \"{host}:{postgres}\"\n\
             tunnel_listen = \"{host}:{tunnel}\"\ntunnel_tcp_listen = \"{host}:{tunnel}\"\nops_listen = \"{host}:{ops}\"\ncontrol_plane = {:?}\nspool_dir = \"{folder}/spool\"\n{}{further}\n",
            cluster.addresses(),
            // Tests that stop it with sessions open, or without a control plane, do not wait for long.
            if further.contains("drain_limit") { "" } else { "drain_limit = \"5s\"\nflush_limit = \"5s\"\n" },
        );
        this.write()?;
        Ok(this)
    }

    /// An agent of `pool` that is told of `gateways`, let in; not yet started.
    pub(super) fn agent(
        cluster: &LiveCluster,
        number: usize,
        place: Option<Place>,
        (pool, gateways): (&str, &[String]),
        further: &str,
    ) -> Result<Self> {
        let mut this = Self::new(cluster, "agent", number, place, &["--pool", pool])?;
        let (folder, host, ops) = (this.folder.display(), &this.host, this.ports.ops);
        this.config = format!(
            "[agent]\ncredential_dir = \"{folder}/credential\"\ngateways = {gateways:?}\nops_listen = \"{host}:{ops}\"\n{further}\n\
             [[agent.allow]]\nhosts = [\"{host}\", \"localhost\", \"192.168.0.0/16\"]\nports = [\"1-65535\"]\n",
        );
        this.write()?;
        Ok(this)
    }

    /// Its certificate comes by a join token, as an operator has it.
    fn new(
        cluster: &LiveCluster,
        role: &'static str,
        number: usize,
        place: Option<Place>,
        arguments: &[&str],
    ) -> Result<Self> {
        let name = format!("{role}-{}", number + 1);
        let folder = cluster.folder().join(&name);
        fs::create_dir_all(&folder)?;
        let token = folder.join("token");
        fs::write(&token, cluster.join_token(&[&["--role", role], arguments].concat())?)?;
        let (token, out) = (token.display().to_string(), folder.join("credential").display().to_string());
        let redeem = ["--token-file", &token, "cluster", "redeem", "--name", &name, "--out", &out];
        cluster.cli().cli(redeem)?.ok()?;
        let ports = Ports { postgres: free_port()?, tunnel: free_port()?, ops: free_port()? };
        let (host, namespace) = match place {
            Some(Place { address, namespace }) => (address, Some(namespace)),
            None => ("127.0.0.1".to_owned(), None),
        };
        let environment = Vec::new();
        Ok(Self {
            role,
            name,
            folder,
            host,
            namespace,
            ports,
            config: String::new(),
            environment,
            process: None,
            program: None,
        })
    }

    fn write(&self) -> Result<()> {
        Ok(fs::write(self.config_file(), &self.config)?)
    }

    fn config_file(&self) -> PathBuf {
        self.folder.join(format!("{}.toml", self.role))
    }

    /// Its name, in its certificate.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its folder, with its credential and a gateway's spool.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its address.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Where clients reach a gateway.
    #[must_use]
    pub const fn postgres_port(&self) -> u16 {
        self.ports.postgres
    }

    /// The same, `host:port`.
    #[must_use]
    pub fn postgres(&self) -> String {
        format!("{}:{}", self.host, self.ports.postgres)
    }

    /// Where agents reach a gateway, `host:port`.
    #[must_use]
    pub fn tunnel(&self) -> String {
        format!("{}:{}", self.host, self.ports.tunnel)
    }

    /// Where its health and metrics are, `host:port`.
    #[must_use]
    pub fn ops(&self) -> String {
        format!("{}:{}", self.host, self.ports.ops)
    }

    /// Another configuration from its next start on: `change` makes it of the present one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn reconfigure(&mut self, change: impl FnOnce(&str) -> String) -> Result<()> {
        self.config = change(&self.config);
        self.write()
    }

    /// Another environment from its next start on.
    pub fn set_environment(&mut self, environment: Vec<(String, String)>) {
        self.environment = environment;
    }

    /// From its next start on it is this program; none: the `postern` that is tested.
    pub fn set_program(&mut self, program: Option<PathBuf>) {
        self.program = program;
    }

    /// Starts it and waits until it answers; it need not be ready for that.
    ///
    /// # Errors
    /// When it runs already, or ends.
    pub fn start(&mut self) -> Result<()> {
        self.spawn()?;
        let name = self.name.clone();
        let up = wait_until(START_LIMIT, &format!("{name} to answer"), || {
            ensure!(self.process()?.is_running(), "{name} ended");
            Ok(self.ask("/healthz").is_ok())
        });
        up.with_context(|| self.log())
    }

    /// Starts it, and leaves it at that.
    ///
    /// # Errors
    /// When it runs already, or cannot be started.
    pub fn spawn(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "{} runs", self.name);
        let arguments = [self.role.to_owned(), "--config".to_owned(), self.config_file().display().to_string()];
        let program = self.program.clone().map_or_else(postern_binary, Ok)?;
        let (place, folder) = (self.namespace.as_deref(), &self.folder);
        let process = Process::start_in(place, self.role, &program, &arguments, &self.environment, None, folder)?;
        self.process = Some(process);
        Ok(())
    }

    /// Waits until it says that it is ready.
    ///
    /// # Errors
    /// When it is not in time.
    pub fn wait_ready(&self) -> Result<()> {
        wait_until(START_LIMIT, &format!("{} to be ready", self.name), || Ok(self.is_ready()))
            .with_context(|| self.log())
    }

    /// Whether it says that it is ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ask("/readyz").is_ok()
    }

    /// Its process.
    ///
    /// # Errors
    /// When it is not started.
    pub fn process(&mut self) -> Result<&mut Process> {
        match &mut self.process {
            Some(process) => Ok(process),
            None => bail!("{} is not started", self.name),
        }
    }

    /// Whether it was started, and not ended from here.
    #[must_use]
    pub const fn is_started(&self) -> bool {
        self.process.is_some()
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// When it is not started.
    pub fn kill9(&mut self) -> Result<()> {
        self.process()?.kill9()?;
        self.process = None;
        Ok(())
    }

    /// Sends a signal, and leaves it at that.
    ///
    /// # Errors
    /// When it is not started, or gone.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.process()?.signal(signal)
    }

    /// SIGTERM, and it must end well.
    ///
    /// # Errors
    /// When it does not.
    pub fn stop(&mut self) -> Result<()> {
        self.signal(Signal::TERM)?;
        self.wait_end(STOP_LIMIT)
    }

    /// Waits for its end, which must be a good one.
    ///
    /// # Errors
    /// When it has not ended within `limit`, or badly.
    pub fn wait_end(&mut self, limit: Duration) -> Result<()> {
        let status = self.process()?.wait(limit).with_context(|| self.log())?;
        self.process = None;
        ensure!(status.success(), "{}: {status}: {}", self.name, self.log());
        Ok(())
    }

    /// Its metrics.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn metrics(&self) -> Result<String> {
        self.ask("/metrics")
    }

    /// From where it can be reached.
    fn ask(&self, path: &str) -> Result<String> {
        if self.namespace.is_none() {
            return http_get(&self.ops(), path);
        }
        let get = format!(
            "exec 3<>/dev/tcp/{}/{}; printf 'GET {path} HTTP/1.1\\r\\nHost: node\\r\\nConnection: close\\r\\n\\r\\n' >&3; cat <&3",
            self.host, self.ports.ops
        );
        let mut command = command_in(self.namespace.as_deref(), "timeout");
        command.args(["5", "bash", "-c", &get]);
        let answer = run(command, "", Duration::from_secs(10))?.ok()?;
        let (head, body) = answer.split_once("\r\n\r\n").context("an HTTP answer has a body")?;
        ensure!(head.starts_with("HTTP/1.1 200"), "{path}: {head}");
        Ok(body.to_owned())
    }

    /// The sum of a counter or gauge over all its labels that contain `labels`.
    ///
    /// # Errors
    /// When the metrics cannot be read.
    pub fn metric(&self, name: &str, labels: &str) -> Result<f64> {
        Ok(sum_of(&self.metrics()?, name, labels))
    }

    /// All that it logged, over every start.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(self.folder.join(format!("{}.err", self.role))).map(|bytes| text(&bytes)).unwrap_or_default()
    }
}
