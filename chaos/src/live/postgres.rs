//! A real PostgreSQL in a temporary folder, with a small shop in it.

use std::fmt::Write as _;
use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use super::net::Place;
use super::process::{Process, command_in, free_port, run, wait_until};
use super::psql::Connection;

/// The sample database.
const SHOP: &str = include_str!("../../fixtures/shop.sql");
/// The superuser's password; nothing but this server takes it.
pub(super) const SUPERUSER_PASSWORD: &str = "superuser-secret-6f2c";

/// How Postern has a held statement planned.
const PLANNED: &str = ": EXPLAIN (FORMAT JSON) ";

/// A server. Dropping it kills it and removes its data.
#[derive(Debug)]
pub struct Postgres {
    folder: TempDir,
    binaries: PathBuf,
    port: u16,
    /// Where it runs, when not on this machine's own network.
    place: Option<Place>,
    server: Option<Process>,
    authority: Option<Authority>,
}

/// Of its own certificate, and of those by which it knows clients.
struct Authority {
    pem: String,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority")
    }
}

/// How the server is set up.
#[derive(Clone, Copy, Debug, Default)]
pub struct PostgresOptions {
    /// Offers TLS with a certificate for `localhost` of an authority made for it.
    pub tls: bool,
    /// Refuses connections without TLS.
    pub tls_only: bool,
    /// Takes everybody as whom they say they are: for a scratch database of one's own.
    pub trust: bool,
    /// Sessions at a time, when not 60.
    pub connections: Option<u16>,
}

/// A role that is let in by a client's certificate alone; to be made by who needs it.
pub const BY_CERTIFICATE: &str = "app_cert";

/// A role that is let in by a client's certificate and a password together; to be made by who needs it.
pub const BY_BOTH: &str = "app_both";

/// The shop's roles, one for each way to authenticate; each may do all in database `shop`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// SCRAM-SHA-256.
    Scram,
    /// md5.
    Md5,
    /// The password in clear; only over TLS.
    Cleartext,
}

impl Role {
    /// The role's name on the server.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scram => "app",
            Self::Md5 => "app_md5",
            Self::Cleartext => "app_clear",
        }
    }

    /// Its password: what must never be seen outside the gateway.
    #[must_use]
    pub const fn password(self) -> &'static str {
        "target-credential-91d7"
    }
}

impl Postgres {
    /// Makes a server with the sample database and starts it.
    ///
    /// # Errors
    /// When PostgreSQL is not installed, or does not start.
    pub fn start(options: PostgresOptions) -> Result<Self> {
        Self::make(options, None)
    }

    /// The same on a host of its own.
    ///
    /// # Errors
    /// See there.
    pub fn start_at(options: PostgresOptions, place: &Place) -> Result<Self> {
        Self::make(options, Some(place.clone()))
    }

    fn make(options: PostgresOptions, place: Option<Place>) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("postern-pg-").tempdir()?;
        own(folder.path())?;
        let binaries = super::versions::binaries(folder.path(), as_server_user)?;
        let mut this = Self { folder, binaries, port: free_port()?, place, server: None, authority: None };
        this.initialise(options)?;
        this.resume()?;
        this.sql("postgres", "CREATE DATABASE shop")?;
        this.sql("shop", SHOP)?;
        Ok(this)
    }

    /// Where it listens, as `host:port`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("{}:{}", self.host(), self.port)
    }

    fn host(&self) -> &str {
        self.place.as_ref().map_or("127.0.0.1", |place| &place.address)
    }

    /// `program` where the server is.
    fn there(&self, program: &str) -> Command {
        command_in(self.place.as_ref().map(|place| place.namespace.as_str()), program)
    }

    /// Its port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// A stock client's connection to the shop, as `role`, past all of Postern.
    #[must_use]
    pub fn connection(&self, role: Role) -> Connection {
        Connection {
            host: "127.0.0.1".to_owned(),
            port: self.port,
            user: role.name().to_owned(),
            database: "shop".to_owned(),
            password: role.password().to_owned(),
            sslmode: "disable",
        }
    }

    /// PEM of the authority of its certificate, when it has TLS.
    #[must_use]
    pub fn ca_pem(&self) -> Option<&str> {
        self.authority.as_ref().map(|authority| authority.pem.as_str())
    }

    /// A key and its certificate, PEM, by which the server takes a client for the role [`BY_CERTIFICATE`] when that is `name`.
    ///
    /// # Errors
    /// When it has no TLS.
    pub fn client_pem(&self, name: &str) -> Result<String> {
        let authority = self.authority.as_ref().context("the server has no TLS")?;
        let key = rcgen::KeyPair::generate()?;
        let mut leaf = rcgen::CertificateParams::new(Vec::new())?;
        leaf.distinguished_name.push(rcgen::DnType::CommonName, name);
        leaf.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = leaf.signed_by(&key, &authority.issuer)?;
        Ok(key.serialize_pem() + &certificate.pem())
    }

    /// Runs statements as the superuser, directly; returns what psql prints, unaligned and without headers.
    ///
    /// # Errors
    /// When a statement fails.
    pub fn sql(&self, database: &str, sql: &str) -> Result<String> {
        let mut psql = self.there("psql");
        psql.args([
            "-X",
            "-q",
            "-A",
            "-t",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            self.host(),
            "-U",
            "postgres",
            "-d",
            database,
        ]);
        psql.args(["-p", &self.port.to_string()]).env("PGPASSWORD", SUPERUSER_PASSWORD).env("PGSSLMODE", "prefer");
        run(psql, sql, Duration::from_secs(60))?.ok().map(|out| out.trim_end().to_owned())
    }

    /// Stops it at once: a target that is down.
    ///
    /// # Errors
    /// When it cannot be stopped.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(mut server) = self.server.take() {
            // SIGINT: PostgreSQL's fast shutdown.
            server.signal(rustix::process::Signal::INT)?;
            server.wait(Duration::from_secs(20))?;
        }
        Ok(())
    }

    /// Starts it again on the same port.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn resume(&mut self) -> Result<()> {
        let data = self.data().display().to_string();
        let arguments = ["-D".to_owned(), data, "-p".to_owned(), self.port.to_string()];
        let user = server_user();
        let postgres = self.binaries.join("postgres");
        let namespace = self.place.as_ref().map(|place| place.namespace.as_str());
        let folder = self.folder.path();
        let mut server = Process::start_in(namespace, "postgres", &postgres, &arguments, &[], user, folder)?;
        let reachable = |port: u16| self.place.is_some() || TcpStream::connect(("127.0.0.1", port)).is_ok();
        let port = self.port;
        let ready = wait_until(Duration::from_secs(30), "PostgreSQL to accept connections", || {
            ensure!(server.is_running(), "PostgreSQL ended: {}", server.stderr());
            Ok(reachable(port) && server.stderr().contains("ready to accept connections"))
        });
        ready.with_context(|| server.stderr())?;
        self.server = Some(server);
        Ok(())
    }

    /// Its log so far, without what Postern had planned for reviewers: that ran nothing.
    #[must_use]
    pub fn log(&self) -> String {
        let log = self.server.as_ref().map(Process::stderr).unwrap_or_default();
        log.lines().filter(|line| !line.contains(PLANNED)).fold(String::new(), |kept, line| kept + line + "\n")
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn initialise(&mut self, options: PostgresOptions) -> Result<()> {
        let password = self.folder.path().join("password");
        fs::write(&password, SUPERUSER_PASSWORD)?;
        own(&password)?;
        let initdb = self.binaries.join("initdb");
        let mut command = as_server_user(&initdb);
        command.args(["-U", "postgres", "-A", "scram-sha-256", "-E", "UTF8", "--locale=C", "--no-sync", "-D"]);
        command.arg(self.data()).arg("--pwfile").arg(&password).current_dir(self.folder.path());
        run(command, "", Duration::from_secs(60))?.ok().context("initdb failed")?;
        fs::remove_file(&password)?;

        let mut settings = String::from(
            "fsync = off\nsynchronous_commit = off\nfull_page_writes = off\n\
             log_statement = 'all'\nlog_line_prefix = '%p %d '\nshared_buffers = 32MB\nlc_messages = 'C'\n",
        );
        let socket = self.folder.path().display();
        writeln!(settings, "listen_addresses = '{}'", self.host())?;
        writeln!(settings, "max_connections = {}", options.connections.unwrap_or(60))?;
        writeln!(settings, "unix_socket_directories = '{socket}'")?;
        if options.tls {
            self.make_certificate()?;
            settings.push_str(
                "ssl = on\nssl_cert_file = 'server.crt'\nssl_key_file = 'server.key'\nssl_ca_file = 'ca.crt'\n",
            );
        }
        let config = self.data().join("postgresql.conf");
        let before = fs::read_to_string(&config)?;
        write_owned(&config, &(before + &settings))?;

        let any = if options.tls_only { "hostssl" } else { "host" };
        let trust = if options.trust { "host all all samenet trust\n" } else { "" };
        let by_certificate = if options.tls {
            format!(
                "hostssl all {BY_CERTIFICATE} samenet cert\nhostssl all {BY_BOTH} samenet scram-sha-256 clientcert=verify-full\n"
            )
        } else {
            String::new()
        };
        let hba = format!(
            "{by_certificate}{trust}host all postgres samenet scram-sha-256\n{any} all app_md5 samenet md5\n\
             hostssl all app_clear samenet password\nhostnossl all app_clear samenet reject\n{any} all all samenet scram-sha-256\n"
        );
        write_owned(&self.data().join("pg_hba.conf"), &hba)
    }

    fn make_certificate(&mut self) -> Result<()> {
        let ca_key = rcgen::KeyPair::generate()?;
        let mut ca = rcgen::CertificateParams::new(Vec::new())?;
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        ca.distinguished_name.push(rcgen::DnType::CommonName, "a target's own authority");
        let pem = ca.self_signed(&ca_key)?.pem();
        let issuer = rcgen::Issuer::new(ca, ca_key);
        let key = rcgen::KeyPair::generate()?;
        let mut leaf = rcgen::CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
        leaf.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = leaf.signed_by(&key, &issuer)?;
        write_owned(&self.data().join("server.crt"), &certificate.pem())?;
        write_owned(&self.data().join("server.key"), &key.serialize_pem())?;
        write_owned(&self.data().join("ca.crt"), &pem)?;
        self.authority = Some(Authority { pem, issuer });
        Ok(())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // The fast way leaves no shared memory behind; SIGKILL follows when the process itself is dropped.
        let _ = self.stop();
    }
}

/// Whom to run the server as: it refuses to run as root.
fn server_user() -> Option<&'static str> {
    is_root().then_some("postgres")
}

/// Whether this process is root: servers then have to run as somebody else.
#[must_use]
pub fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0)
}

fn as_server_user(program: &Path) -> Command {
    let Some(user) = server_user() else { return Command::new(program) };
    let mut command = Command::new("setpriv");
    command.args(["--reuid", user, "--regid", user, "--init-groups", "--"]).arg(program);
    command
}

/// Gives `path` to the server's user.
fn own(path: &Path) -> Result<()> {
    let Some(user) = server_user() else { return Ok(()) };
    let users = fs::read_to_string("/etc/passwd")?;
    let line = users.lines().find(|line| line.split(':').next() == Some(user));
    let mut ids =
        line.with_context(|| format!("there is no user {user}: run `scripts/bootstrap.sh test`"))?.split(':').skip(2);
    let mut id = || ids.next().and_then(|id| id.parse().ok());
    chown(path, id(), id()).with_context(|| format!("cannot give {} to {user}", path.display()))
}

fn write_owned(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    own(path)
}
