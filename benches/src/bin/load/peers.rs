//! Who is compared: the server itself, pgbouncer, Postern with and without its tunnel; all before the same server.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use postern_chaos::live::{Connection, Postern, Postgres, PostgresOptions, Process, Role, free_port, run, wait_until};
use tempfile::TempDir;

/// Everything that runs while it is measured.
pub(crate) struct Stage {
    bouncer_port: u16,
    _bouncer: Process,
    postern: Postern,
    postgres: Postgres,
    _folder: TempDir,
}

impl Stage {
    /// Starts a server with pgbench's tables, and its guards.
    pub(crate) fn set() -> Result<Self> {
        let postgres = Postgres::start(PostgresOptions::default())?;
        let mut initialise = direct(&postgres).client("pgbench");
        initialise.args(["-i", "-q", "-s", "10"]);
        run(initialise, "", Duration::from_secs(300))?.ok()?;
        let postern = Postern::with_shop(&postgres)?;
        let folder = tempfile::Builder::new().prefix("postern-bench-").tempdir()?;
        let bouncer_port = free_port()?;
        let bouncer = start_bouncer(&postgres, bouncer_port, folder.path())?;
        Ok(Self { bouncer_port, _bouncer: bouncer, postern, postgres, _folder: folder })
    }

    /// The peers, the baseline first.
    pub(crate) fn peers(&self) -> Result<Vec<(&'static str, Connection)>> {
        let token = self.postern.token("bench", &["dba"])?;
        let guarded =
            |target: &str| Ok::<_, anyhow::Error>(self.postern.connection(target, &token)?.sslmode("disable"));
        Ok(vec![
            ("direct", direct(&self.postgres)),
            ("pgbouncer", Connection { port: self.bouncer_port, ..direct(&self.postgres) }),
            ("Postern", guarded("shop-direct")?),
            ("Postern, tunnel", guarded("shop")?),
        ])
    }
}

fn direct(postgres: &Postgres) -> Connection {
    Connection {
        host: "127.0.0.1".into(),
        port: postgres.port(),
        user: Role::Scram.name().into(),
        database: "shop".into(),
        password: Role::Scram.password().into(),
        sslmode: "disable",
    }
}

fn start_bouncer(postgres: &Postgres, port: u16, folder: &Path) -> Result<Process> {
    let (config, users) = (folder.join("pgbouncer.ini"), folder.join("users.txt"));
    let role = Role::Scram;
    fs::write(&users, format!("\"{}\" \"{}\"\n", role.name(), role.password()))?;
    fs::write(
        &config,
        format!(
            "[databases]\nshop = host=127.0.0.1 port={} dbname=shop\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {}\npool_mode = session\ndefault_pool_size = 40\n\
             max_client_conn = 200\nlog_connections = 0\nlog_disconnections = 0\n",
            postgres.port(),
            users.display(),
        ),
    )?;
    // pgbouncer refuses to run as root, and must read both files.
    for path in [folder, &config, &users] {
        fs::set_permissions(path, fs::Permissions::from_mode(if path == folder { 0o755 } else { 0o644 }))?;
    }
    let root = postern_chaos::live::is_root();
    let program = Path::new("/usr/sbin/pgbouncer");
    ensure!(program.exists(), "pgbouncer is not installed: run `scripts/bootstrap.sh bench`");
    let arguments = ["-q".to_owned(), config.display().to_string()];
    let mut bouncer = Process::start("pgbouncer", program, &arguments, &[], root.then_some("postgres"), folder)?;
    wait_until(Duration::from_secs(10), "pgbouncer", || {
        ensure!(bouncer.is_running(), "pgbouncer ended: {}", bouncer.stderr());
        Ok(TcpStream::connect(("127.0.0.1", port)).is_ok())
    })?;
    Ok(bouncer)
}
