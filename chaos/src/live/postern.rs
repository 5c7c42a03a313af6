//! `postern dev` as a user starts it, and the command line over it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;

use super::cli::Cli;
use super::postgres::{Postgres, Role};
use super::process::{Process, wait_until};
use super::psql::Connection;
use super::roles::sum_of;

/// The policies, masks and reviewers that most tests live by.
const OBJECTS: &str = include_str!("../../fixtures/objects.yaml");
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long a drain may take before a test calls it hung.
pub(super) const STOP_LIMIT: Duration = Duration::from_secs(30);

/// A running `postern dev`. Dropping it kills it and removes its data.
#[derive(Debug)]
pub struct Postern {
    folder: TempDir,
    options: PosternOptions,
    process: Option<Process>,
    endpoints: serde_json::Value,
    cli: Cli,
}

/// How it is started.
#[derive(Clone, Debug, Default)]
pub struct PosternOptions {
    /// Further arguments of `postern dev`.
    pub arguments: Vec<String>,
    /// Further environment.
    pub environment: Vec<(String, String)>,
}

/// The binary under test: `POSTERN_BIN`, or the one that lies beside the test's own executable.
///
/// # Errors
/// When it has not been built.
pub fn postern_binary() -> Result<PathBuf> {
    let built = match std::env::var_os("POSTERN_BIN") {
        Some(path) => PathBuf::from(path),
        None => {
            // target/debug/deps/live-HASH: the binary is two folders up.
            let test = std::env::current_exe()?;
            test.parent().and_then(Path::parent).context("no folder above the test's executable")?.join("postern")
        }
    };
    ensure!(built.exists(), "{} is not there: run `cargo build -p postern` first, or `make test`", built.display());
    Ok(built)
}

/// The build that speaks as the next release: an example of the binary's package.
///
/// # Errors
/// When it is not there.
pub fn next_binary() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let built = test.parent().and_then(Path::parent).context("no folder above the test's executable")?;
    let built = built.join("examples/postern-next");
    ensure!(
        built.exists(),
        "{} is not there: run `cargo build -p postern --examples`, or `make test`",
        built.display()
    );
    Ok(built)
}

impl Postern {
    /// Starts it on an empty data folder and free ports, and waits until a client could connect.
    ///
    /// # Errors
    /// When it is not built, ends, or is not ready in time.
    pub fn dev(options: PosternOptions) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("postern-dev-").tempdir()?;
        let data = folder.path().join("data").display().to_string();
        let cli = Cli::new(vec![("POSTERN_DATA_DIR".to_owned(), data)]);
        let mut this = Self { folder, options, process: None, endpoints: serde_json::Value::Null, cli };
        this.start()?;
        Ok(this)
    }

    /// Starts it and applies the test objects, with both targets at `postgres`.
    ///
    /// # Errors
    /// When something does not start, or an object is refused.
    pub fn with_shop(postgres: &Postgres) -> Result<Self> {
        let this = Self::dev(PosternOptions::default())?;
        this.apply_shop(postgres)?;
        Ok(this)
    }

    /// Applies the test objects.
    ///
    /// # Errors
    /// When an object is refused.
    pub fn apply_shop(&self, postgres: &Postgres) -> Result<String> {
        self.apply(&shop_objects(postgres))
    }

    /// Starts it again on the same data; its ports may be others.
    ///
    /// # Errors
    /// When it still runs, or does not come up.
    pub fn start(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "it still runs");
        let endpoints = self.data_dir().join("endpoints.json");
        let _ = fs::remove_file(&endpoints);
        let mut arguments = vec!["dev".to_owned(), "--data-dir".to_owned(), self.data_dir().display().to_string()];
        for listener in ["--admin-listen", "--postgres-listen", "--tunnel-listen", "--issuer-listen", "--ops-listen"] {
            arguments.extend([listener.to_owned(), "127.0.0.1:0".to_owned()]);
        }
        arguments.extend(self.options.arguments.iter().cloned());
        let environment: Vec<_> = self.options.environment.clone();
        let mut process =
            Process::start("postern", &postern_binary()?, &arguments, &environment, None, self.folder.path())?;
        let ready = wait_until(START_LIMIT, "postern dev to be ready", || {
            ensure!(process.is_running(), "postern dev ended");
            let Ok(text) = fs::read_to_string(&endpoints) else { return Ok(false) };
            let Ok(value) = serde_json::from_str(&text) else { return Ok(false) };
            self.endpoints = value;
            Ok(TcpStream::connect(self.postgres_address()?).is_ok())
        });
        ready.with_context(|| format!("{}\n{}", process.stdout(), process.stderr()))?;
        self.process = Some(process);
        Ok(())
    }

    /// Its data folder.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The process.
    ///
    /// # Errors
    /// When it is stopped.
    pub fn process(&mut self) -> Result<&mut Process> {
        self.process.as_mut().context("postern is stopped")
    }

    /// Stops it as Ctrl-C does, and expects exit code 0.
    ///
    /// # Errors
    /// When it does not end, or not well.
    pub fn stop(&mut self) -> Result<()> {
        let mut process = self.process.take().context("postern is stopped")?;
        process.signal(rustix::process::Signal::INT)?;
        let status = process.wait(STOP_LIMIT).with_context(|| process.stderr())?;
        ensure!(status.success(), "postern dev ended with {status}: {}", process.stderr());
        Ok(())
    }

    /// Kills it with SIGKILL.
    ///
    /// # Errors
    /// When it is stopped already.
    pub fn kill9(&mut self) -> Result<()> {
        self.process.take().context("postern is stopped")?.kill9()
    }

    /// All that it logged, over every start.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(self.folder.path().join("postern.err")).map(|bytes| super::process::text(&bytes)).unwrap_or_default()
    }

    /// One of its addresses, as `endpoints.json` names it.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn endpoint(&self, name: &str) -> Result<String> {
        let found = self.endpoints.get(name).and_then(serde_json::Value::as_str);
        found.map(str::to_owned).with_context(|| format!("endpoints.json has no {name}: {}", self.endpoints))
    }

    /// Where clients connect, `host:port`.
    ///
    /// # Errors
    /// When it does not say.
    pub fn postgres_address(&self) -> Result<String> {
        self.endpoint("postgres")
    }

    /// A stock client's connection to `target`, with `token` as the password.
    ///
    /// # Errors
    /// When the address is unknown.
    pub fn connection(&self, target: &str, token: &str) -> Result<Connection> {
        let address = self.postgres_address()?;
        let (host, port) = address.rsplit_once(':').context("an address has a port")?;
        Ok(Connection {
            host: host.to_owned(),
            port: port.parse()?,
            user: target.to_owned(),
            database: "shop".to_owned(),
            password: token.to_owned(),
            sslmode: "prefer",
        })
    }

    /// A connection to `shop` of a member of `groups`, with a fresh token.
    ///
    /// # Errors
    /// When no token can be had.
    pub fn as_member(&self, subject: &str, groups: &[&str]) -> Result<Connection> {
        self.connection("shop", &self.token(subject, groups)?)
    }

    /// A token of the development issuer.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn token(&self, subject: &str, groups: &[&str]) -> Result<String> {
        self.token_with(subject, groups, &[])
    }

    /// The same, with further options of `postern dev token`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn token_with(&self, subject: &str, groups: &[&str], options: &[&str]) -> Result<String> {
        let mut arguments = vec!["dev", "token", "--subject", subject];
        for group in groups {
            arguments.extend(["--group", group]);
        }
        arguments.extend(options);
        Ok(self.cli(arguments)?.ok()?.trim().to_owned())
    }

    /// The metrics of the process, as Prometheus reads them.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn metrics(&self) -> Result<String> {
        http_get(&self.endpoint("ops")?, "/metrics")
    }

    /// The sum of a counter over all its labels that contain `labels`.
    ///
    /// # Errors
    /// When the metrics cannot be read.
    pub fn counter(&self, name: &str, labels: &str) -> Result<f64> {
        Ok(sum_of(&self.metrics()?, name, labels))
    }
}

impl std::ops::Deref for Postern {
    type Target = Cli;

    fn deref(&self) -> &Cli {
        &self.cli
    }
}

/// The test objects, with both targets at `postgres`.
#[must_use]
pub fn shop_objects(postgres: &Postgres) -> String {
    OBJECTS.replace("@ADDRESS@", &postgres.address()).replace("@PASSWORD@", Role::Scram.password())
}

/// GET over plain HTTP on loopback.
pub(super) fn http_get(address: &str, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address).with_context(|| format!("cannot reach {address}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an HTTP answer has a body")?;
    if !head.starts_with("HTTP/1.1 200") {
        bail!("{path}: {head}\n{body}");
    }
    Ok(body.to_owned())
}
