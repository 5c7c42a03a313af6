//! A gateway that knows every member of a cluster.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::super::issuer::Issuer;
use super::super::postern::{http_get, postern_binary, shop_objects};
use super::super::postgres::Postgres;
use super::super::process::{Process, free_port, wait_until};
use super::super::psql::Connection;
use super::LiveCluster;

const START_LIMIT: Duration = Duration::from_secs(60);

/// A gateway, let in by a join token, before a shop that it dials itself. Dropping it kills it.
#[derive(Debug)]
pub struct Gateway {
    issuer: Issuer,
    port: u16,
    ops: String,
    process: Process,
    folder: PathBuf,
}

impl Gateway {
    /// Starts it and applies the test objects; returns once a client can log in.
    ///
    /// # Errors
    /// When it does not come up, or something is refused.
    pub fn start(cluster: &LiveCluster, postgres: &Postgres) -> Result<Self> {
        Self::start_with(cluster, postgres, "")
    }

    /// The same, with further lines of its `[gateway]` section.
    ///
    /// # Errors
    /// See there.
    pub fn start_with(cluster: &LiveCluster, postgres: &Postgres, further: &str) -> Result<Self> {
        let folder = cluster.folder().join("gateway");
        fs::create_dir_all(&folder)?;
        let (token, credential) = (folder.join("token"), folder.join("credential").display().to_string());
        fs::write(&token, cluster.join_token(&["--role", "gateway"])?)?;
        let token = token.display().to_string();
        let arguments = ["--token-file", &token, "--name", "one", "--out", &credential];
        cluster.cli().cli(["cluster", "redeem"].iter().chain(&arguments))?.ok()?;
        let (port, tunnel, ops) = (free_port()?, free_port()?, free_port()?);
        let config = folder.join("gateway.toml");
        fs::write(
            &config,
            format!(
                "[gateway]\ncredential_dir = \"{credential}\"\npostgres_listen = \"127.0.0.1:{port}\"\n\
                 tunnel_listen = \"127.0.0.1:{tunnel}\"\nops_listen = \"127.0.0.1:{ops}\"\ncontrol_plane = {:?}\nspool_dir = \"{}\"\n{further}\n",
                cluster.addresses(),
                folder.join("spool").display(),
            ),
        )?;
        let process = spawn(&folder)?;
        let issuer = Issuer::start()?;
        cluster.cli().apply(&(issuer.object("test") + &shop_objects(postgres)))?;
        let mut this = Self { issuer, port, ops: format!("127.0.0.1:{ops}"), process, folder };
        this.wait_for_login()?;
        Ok(this)
    }

    /// Kills it and starts it again, with nothing in memory; returns once a client can log in.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn restart(&mut self) -> Result<()> {
        self.process.kill9()?;
        self.process = spawn(&self.folder)?;
        self.wait_for_login()
    }

    fn wait_for_login(&mut self) -> Result<()> {
        let (process, ops) = (&mut self.process, &self.ops);
        wait_until(START_LIMIT, "the gateway to be ready", || {
            ensure!(process.is_running(), "the gateway ended");
            Ok(http_get(ops, "/readyz").is_ok())
        })
        .with_context(|| process.stderr())?;
        let connection = self.connection("start", &["dba"])?;
        let mut last = String::new();
        wait_until(START_LIMIT, "a first login", || {
            let run = connection.run("SELECT 1")?;
            last = run.stderr;
            Ok(run.status.success())
        })
        .with_context(|| format!("{last}\n{}", self.log()))
    }

    /// Its metrics.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn metrics(&self) -> Result<String> {
        http_get(&self.ops, "/metrics")
    }

    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A token for `subject` in `groups`.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn token(&self, subject: &str, groups: &[&str]) -> Result<String> {
        self.issuer.token(subject, groups)
    }

    /// A stock client's connection to the shop.
    ///
    /// # Errors
    /// When no token can be had.
    pub fn connection(&self, subject: &str, groups: &[&str]) -> Result<Connection> {
        Ok(Connection {
            host: "127.0.0.1".to_owned(),
            port: self.port,
            user: "shop-direct".to_owned(),
            database: "shop".to_owned(),
            password: self.token(subject, groups)?,
            sslmode: "prefer",
        })
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// All that it logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(self.folder.join("gateway.err")).map(|bytes| super::super::process::text(&bytes)).unwrap_or_default()
    }
}

fn spawn(folder: &Path) -> Result<Process> {
    let config = folder.join("gateway.toml").display().to_string();
    let arguments = ["gateway".to_owned(), "--config".to_owned(), config];
    Process::start("gateway", &postern_binary()?, &arguments, &[], None, folder)
}
