//! A pgbouncer before a server, as the peer of what Postern does.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use postern_chaos::live::idle::ListenerCertificate;
use postern_chaos::live::{Postgres, Process, Role, free_port, is_root, wait_until};

/// For how long a client has a session of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// For a transaction.
    Transaction,
    /// For its own life.
    Session,
}

/// A running pgbouncer. Dropping it kills it.
#[derive(Debug)]
pub struct Bouncer {
    port: u16,
    process: Process,
}

impl Bouncer {
    /// Starts one for `clients` clients in `folder`; with a certificate they must speak TLS.
    ///
    /// # Errors
    /// When it is not installed, or does not come up.
    pub fn start(
        postgres: &Postgres,
        folder: &Path,
        pool: Pool,
        clients: u16,
        tls: Option<&ListenerCertificate>,
    ) -> Result<Self> {
        let (mode, size) = match pool {
            Pool::Transaction => ("transaction", 20),
            Pool::Session => ("session", 40),
        };
        fs::create_dir_all(folder)?;
        let port = free_port()?;
        let (config, users) = (folder.join("pgbouncer.ini"), folder.join("users.txt"));
        fs::write(&users, format!("\"{}\" \"{}\"\n", Role::Scram.name(), Role::Scram.password()))?;
        let mut text = format!(
            "[databases]\nshop = host=127.0.0.1 port={} dbname=shop\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_file = {}\npool_mode = {mode}\ndefault_pool_size = {size}\nmax_client_conn = {}\n\
             ignore_startup_parameters = extra_float_digits\nlog_connections = 0\nlog_disconnections = 0\n",
            postgres.port(),
            users.display(),
            u32::from(clients) + 200,
        );
        match tls {
            None => text.push_str("auth_type = scram-sha-256\n"),
            Some(certificate) => {
                // Beside each other, where pgbouncer's user can read them.
                for (from, to) in [(&certificate.certificate_file, "tls.crt"), (&certificate.key_file, "tls.key")] {
                    fs::copy(from, folder.join(to))?;
                }
                let at = folder.display();
                text.push_str(&format!(
                    "auth_type = plain\nclient_tls_sslmode = require\nclient_tls_cert_file = {at}/tls.crt\nclient_tls_key_file = {at}/tls.key\n"
                ));
            }
        }
        fs::write(&config, text)?;
        // pgbouncer refuses to run as root, and must read all of it.
        for entry in fs::read_dir(folder)? {
            fs::set_permissions(entry?.path(), fs::Permissions::from_mode(0o644))?;
        }
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
        let program = Path::new("/usr/sbin/pgbouncer");
        ensure!(program.exists(), "pgbouncer is not installed: run `scripts/bootstrap.sh bench`");
        let arguments = ["-q".to_owned(), config.display().to_string()];
        let user = is_root().then_some("postgres");
        let mut process = Process::start("pgbouncer", program, &arguments, &[], user, folder)?;
        wait_until(Duration::from_secs(10), "pgbouncer", || {
            ensure!(process.is_running(), "pgbouncer ended: {}", process.stderr());
            Ok(TcpStream::connect(("127.0.0.1", port)).is_ok())
        })?;
        Ok(Self { port, process })
    }

    /// Where it listens.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Where it listens, `host:port`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its process id.
    #[must_use]
    pub fn process(&self) -> u32 {
        self.process.id()
    }
}
