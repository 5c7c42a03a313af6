//! A pgbouncer for thousands of clients and a few sessions of the server.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use postern_chaos::live::idle::ListenerCertificate;
use postern_chaos::live::{Postgres, Process, Role, free_port, is_root, wait_until};

pub(crate) struct Bouncer {
    port: u16,
    process: Process,
}

impl Bouncer {
    /// Starts one for `clients` clients in `folder`; with a certificate they must speak TLS.
    pub(crate) fn start(
        postgres: &Postgres,
        folder: &Path,
        clients: u16,
        tls: Option<&ListenerCertificate>,
    ) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let port = free_port()?;
        let (config, users) = (folder.join("pgbouncer.ini"), folder.join("users.txt"));
        fs::write(&users, format!("\"{}\" \"{}\"\n", Role::Scram.name(), Role::Scram.password()))?;
        let mut text = format!(
            "[databases]\nshop = host=127.0.0.1 port={} dbname=shop\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_file = {}\npool_mode = transaction\ndefault_pool_size = 20\nmax_client_conn = {}\n\
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
        for path in [Some(folder), folder.parent()].into_iter().flatten() {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
        }
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

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn process(&self) -> u32 {
        self.process.id()
    }
}
