//! The three roles as three processes, as they run in earnest, with an issuer of the tests' own.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use super::cli::Cli;
use super::issuer::Issuer;
use super::postern::{STOP_LIMIT, http_get, postern_binary, shop_objects};
use super::postgres::Postgres;
use super::process::{Process, free_port, wait_until};
use super::psql::Connection;

const START_LIMIT: Duration = Duration::from_secs(60);

/// How the roles are set up.
#[derive(Clone, Debug, Default)]
pub struct RoleOptions {
    /// Further lines of the control plane's `[control]` section.
    pub control: String,
    /// Further environment of every role.
    pub environment: Vec<(String, String)>,
    /// Further lines of the gateway's `[gateway]` section.
    pub gateway: String,
    /// Lines of every role's `[telemetry]` section.
    pub telemetry: String,
    /// The largest file that the gateway may write, in bytes: to it, the disk is then full.
    pub gateway_file_limit: Option<u64>,
    /// Where the gateway's spool lies, when not beside the rest.
    pub spool_dir: Option<PathBuf>,
    /// Where the control plane's data lies, when not beside the rest.
    pub control_dir: Option<PathBuf>,
}

/// A control plane, a gateway and an agent, each a process of its own. Dropping it kills them.
#[derive(Debug)]
pub struct ThreeProcesses {
    options: RoleOptions,
    issuer: Issuer,
    cli: Cli,
    ports: Ports,
    control: Option<Process>,
    gateway: Option<Process>,
    agent: Option<Process>,
    folder: TempDir,
}

#[derive(Clone, Copy, Debug)]
struct Ports {
    api: u16,
    postgres: u16,
    tunnel: u16,
    ops: [u16; 3],
}

/// Which of the three.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Control,
    Gateway,
    Agent,
}

impl Role {
    const fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Gateway => "gateway",
            Self::Agent => "agent",
        }
    }
}

impl ThreeProcesses {
    /// Starts all three, with certificates issued as an operator issues them, and applies the test objects.
    ///
    /// # Errors
    /// When one does not come up, or something is refused.
    pub fn start(postgres: &Postgres, options: RoleOptions) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("postern-three-").tempdir()?;
        let ports = Ports {
            api: free_port()?,
            postgres: free_port()?,
            tunnel: free_port()?,
            ops: [free_port()?, free_port()?, free_port()?],
        };
        let admin = folder.path().join("admin");
        let mut environment = options.environment.clone();
        environment.extend([
            ("POSTERN_SERVER".to_owned(), format!("https://127.0.0.1:{}", ports.api)),
            ("POSTERN_CREDENTIAL".to_owned(), admin.display().to_string()),
            ("POSTERN_CA".to_owned(), admin.join("ca.crt").display().to_string()),
        ]);
        let cli = Cli::new(environment);
        let mut this =
            Self { options, issuer: Issuer::start()?, cli, ports, control: None, gateway: None, agent: None, folder };
        this.found()?;
        this.start_control()?;
        let token = this.folder.path().join("token").display().to_string();
        let out = this.folder.path().join("admin").display().to_string();
        this.cli.cli(["--token-file", &token, "cluster", "redeem", "--name", "operator", "--out", &out])?.ok()?;
        for (role, pool) in [(Role::Gateway, None), (Role::Agent, Some("dev"))] {
            let out = this.folder.path().join(role.name()).display().to_string();
            let mut arguments = vec!["certs", "issue", "--role", role.name(), "--name", "one", "--out", &out];
            arguments.extend(pool.map(|pool| ["--pool", pool]).into_iter().flatten());
            this.cli.cli(arguments)?.ok()?;
        }
        this.start_gateway()?;
        this.start_agent()?;
        let issuer = this.issuer.object("test");
        this.cli.apply(&(issuer + &shop_objects(postgres)))?;
        this.wait_for_login()?;
        Ok(this)
    }

    /// Founds the cluster, as an operator does before the first start.
    fn found(&self) -> Result<()> {
        let file = self.write_config(Role::Control)?.display().to_string();
        let token = self.folder.path().join("token").display().to_string();
        self.cli.cli(["control", "init", "--config", &file, "--token-out", &token])?.ok()?;
        Ok(())
    }

    /// Starts the control plane again.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start_control(&mut self) -> Result<()> {
        self.control = Some(self.spawn(Role::Control)?);
        Ok(())
    }

    /// Ends the control plane by SIGTERM.
    ///
    /// # Errors
    /// When it does not end, or not well.
    pub fn stop_control(&mut self) -> Result<()> {
        let mut process = self.control.take().context("the control plane is not running")?;
        let status = process.terminate(STOP_LIMIT).with_context(|| process.stderr())?;
        ensure!(status.success(), "{status}: {}", process.stderr());
        Ok(())
    }

    /// Other lines of the control plane's `[control]` section, from its next start on.
    pub fn set_control(&mut self, lines: String) {
        self.options.control = lines;
    }

    /// Where the roles' data and logs lie.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts the gateway again.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start_gateway(&mut self) -> Result<()> {
        self.gateway = Some(self.spawn(Role::Gateway)?);
        Ok(())
    }

    /// Starts the agent again.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start_agent(&mut self) -> Result<()> {
        self.agent = Some(self.spawn(Role::Agent)?);
        Ok(())
    }

    /// The gateway's process.
    ///
    /// # Errors
    /// When it is not running.
    pub fn gateway(&mut self) -> Result<&mut Process> {
        self.gateway.as_mut().context("the gateway is not running")
    }

    /// The agent's process.
    ///
    /// # Errors
    /// When it is not running.
    pub fn agent(&mut self) -> Result<&mut Process> {
        self.agent.as_mut().context("the agent is not running")
    }

    /// The control plane's process.
    ///
    /// # Errors
    /// When it is not running.
    pub fn control(&mut self) -> Result<&mut Process> {
        self.control.as_mut().context("the control plane is not running")
    }

    /// Ends all three by SIGTERM, agent first, and expects exit code 0 of each.
    ///
    /// # Errors
    /// When one does not end, or not well.
    pub fn stop(&mut self) -> Result<()> {
        for process in [self.agent.take(), self.gateway.take(), self.control.take()].into_iter().flatten() {
            let mut process = process;
            let status = process.terminate(STOP_LIMIT).with_context(|| process.stderr())?;
            ensure!(status.success(), "{status}: {}", process.stderr());
        }
        Ok(())
    }

    /// The issuer of its tokens.
    #[must_use]
    pub const fn issuer(&self) -> &Issuer {
        &self.issuer
    }

    /// Where clients connect, `host:port`.
    #[must_use]
    pub fn postgres_address(&self) -> String {
        format!("127.0.0.1:{}", self.ports.postgres)
    }

    /// A stock client's connection to `target` of a member of `groups`.
    ///
    /// # Errors
    /// When no token can be had.
    pub fn connection(&self, target: &str, subject: &str, groups: &[&str]) -> Result<Connection> {
        Ok(Connection {
            host: "127.0.0.1".to_owned(),
            port: self.ports.postgres,
            user: target.to_owned(),
            database: "shop".to_owned(),
            password: self.issuer.token(subject, groups)?,
            sslmode: "prefer",
        })
    }

    /// A role's metrics: 0 is the control plane, 1 the gateway, 2 the agent.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn metrics(&self, role: usize) -> Result<String> {
        let port = self.ports.ops.get(role).context("there are three roles")?;
        http_get(&format!("127.0.0.1:{port}"), "/metrics")
    }

    /// Whether a role says that it is ready: 0 is the control plane, 1 the gateway, 2 the agent.
    #[must_use]
    pub fn is_ready(&self, role: usize) -> bool {
        self.ports.ops.get(role).is_some_and(|port| http_get(&format!("127.0.0.1:{port}"), "/readyz").is_ok())
    }

    /// The sum of a gateway's counter over all its labels that contain `labels`.
    ///
    /// # Errors
    /// When the metrics cannot be read.
    pub fn gateway_counter(&self, name: &str, labels: &str) -> Result<f64> {
        Ok(sum_of(&self.metrics(1)?, name, labels))
    }

    /// All that a role logged.
    #[must_use]
    pub fn log(&self, role: &str) -> String {
        let path = self.folder.path().join(format!("{role}.err"));
        fs::read(path).map(|bytes| super::process::text(&bytes)).unwrap_or_default()
    }

    fn wait_for_login(&self) -> Result<()> {
        let connection = self.connection("shop", "start", &["dba"])?;
        let mut last = String::new();
        wait_until(START_LIMIT, "a first login", || {
            let run = connection.run("SELECT 1")?;
            last = run.stderr;
            Ok(run.status.success())
        })
        .with_context(|| format!("{last}\n{}\n{}\n{}", self.log("control"), self.log("gateway"), self.log("agent")))
    }

    fn spawn(&self, role: Role) -> Result<Process> {
        let file = self.write_config(role)?;
        let arguments = [role.name().to_owned(), "--config".to_owned(), file.display().to_string()];
        let (program, arguments) = match (role, self.options.gateway_file_limit) {
            (Role::Gateway, Some(limit)) => limited(limit, &postern_binary()?, &arguments),
            _ => (postern_binary()?, arguments.to_vec()),
        };
        let mut process =
            Process::start(role.name(), &program, &arguments, &self.options.environment, None, self.folder.path())?;
        let [control, gateway, agent] = self.ports.ops;
        let port = match role {
            Role::Control => control,
            Role::Gateway => gateway,
            Role::Agent => agent,
        };
        wait_until(START_LIMIT, &format!("{} to be ready", role.name()), || {
            ensure!(process.is_running(), "{} ended", role.name());
            Ok(http_get(&format!("127.0.0.1:{port}"), "/readyz").is_ok())
        })
        .with_context(|| process.stderr())?;
        Ok(process)
    }

    fn write_config(&self, role: Role) -> Result<PathBuf> {
        let file = self.folder.path().join(format!("{}.toml", role.name()));
        fs::write(&file, format!("{}\n[telemetry]\n{}\n", self.config(role), self.options.telemetry))?;
        Ok(file)
    }

    fn config(&self, role: Role) -> String {
        let Ports { api, postgres, tunnel, ops: [control, gateway, agent] } = self.ports;
        let folder = self.folder.path().display();
        let place =
            |other: &Option<PathBuf>, name: &str| other.clone().unwrap_or_else(|| self.folder.path().join(name));
        let control_dir = place(&self.options.control_dir, "control");
        let spool = place(&self.options.spool_dir, "spool");
        let (control_dir, spool) = (control_dir.display(), spool.display());
        match role {
            Role::Control => format!(
                "[control]\ndata_dir = \"{control_dir}\"\nlisten = \"127.0.0.1:{api}\"\nops_listen = \"127.0.0.1:{control}\"\n\
                 admin_groups = [\"admins\"]\nauditor_groups = [\"auditors\"]\n{}\n",
                self.options.control
            ),
            Role::Gateway => format!(
                "[gateway]\ncredential_dir = \"{folder}/gateway\"\npostgres_listen = \"127.0.0.1:{postgres}\"\n\
                 tunnel_listen = \"127.0.0.1:{tunnel}\"\nops_listen = \"127.0.0.1:{gateway}\"\ncontrol_plane = \"127.0.0.1:{api}\"\n\
                 spool_dir = \"{spool}\"\n{}{}\n",
                if self.options.gateway.contains("drain_limit") { "" } else { "drain_limit = \"5s\"\n" },
                self.options.gateway
            ),
            Role::Agent => format!(
                "[agent]\ncredential_dir = \"{folder}/agent\"\ngateways = [\"127.0.0.1:{tunnel}\"]\nops_listen = \"127.0.0.1:{agent}\"\n\
                 [[agent.allow]]\nhosts = [\"127.0.0.1\", \"localhost\"]\nports = [\"1-65535\"]\n"
            ),
        }
    }
}

impl std::ops::Deref for ThreeProcesses {
    type Target = Cli;

    fn deref(&self) -> &Cli {
        &self.cli
    }
}

/// `program` where no file may grow past `limit`: writes then fail as on a full disk (EFBIG), without root and without a file system of
/// its own. The signal that comes with it is ignored, as it would end the process before it could say anything.
fn limited(limit: u64, program: &Path, arguments: &[String]) -> (PathBuf, Vec<String>) {
    let mut all =
        vec!["--ignore-signal=XFSZ".to_owned(), "prlimit".to_owned(), format!("--fsize={limit}"), "--".to_owned()];
    all.push(program.display().to_string());
    all.extend(arguments.iter().cloned());
    (PathBuf::from("env"), all)
}

/// The sum over the samples of metric `name` whose labels contain `labels`.
pub(super) fn sum_of(metrics: &str, name: &str, labels: &str) -> f64 {
    let samples = metrics.lines().filter(|line| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']) && rest.contains(labels))
    });
    samples.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}
