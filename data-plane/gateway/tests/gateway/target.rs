//! A real PostgreSQL on a free port, in a directory of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) const PASSWORD: &str = "target-secret";

/// A server; stopped when dropped.
pub(crate) struct Target {
    pub(crate) port: u16,
    server: Child,
    dir: tempfile::TempDir,
}

fn binaries() -> PathBuf {
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .expect("no PostgreSQL server: install the package postgresql")
        .map(|entry| entry.unwrap().path().join("bin"))
        .filter(|bin| bin.join("initdb").exists())
        .collect();
    found.sort();
    found.pop().expect("no PostgreSQL server: install the package postgresql")
}

/// PostgreSQL refuses to run as root.
fn as_postgres(program: &Path) -> Command {
    let root = std::fs::metadata("/proc/self").map(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0).unwrap();
    if !root {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups", "--"]).arg(program);
    command
}

impl Target {
    pub(crate) async fn start(sql: &str, tls: Option<(&str, &str)>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (data, secret, bin) = (dir.path().join("data"), dir.path().join("pw"), binaries());
        std::fs::write(&secret, PASSWORD).unwrap();
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(dir.path(), open).unwrap();
        let made = as_postgres(&bin.join("initdb"))
            .args(["-D", data.to_str().unwrap(), "-U", "owner", "-E", "UTF8", "--no-locale", "-N"])
            .args(["--auth-local=trust", "--auth-host=scram-sha-256", "--pwfile", secret.to_str().unwrap()])
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8(made.stderr).unwrap());
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        if let Some((certificate, key)) = tls {
            for (name, content) in [("server.crt", certificate), ("server.key", key)] {
                let file = data.join(name);
                std::fs::write(&file, content).unwrap();
                let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
                std::fs::set_permissions(&file, private).unwrap();
                let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(&data).unwrap());
                std::os::unix::fs::chown(&file, Some(owner), None).unwrap();
            }
        }
        let ssl = if tls.is_some() { "ssl=on" } else { "ssl=off" };
        let server = as_postgres(&bin.join("postgres"))
            .args(["-D", data.to_str().unwrap(), "-p", &port.to_string(), "-k", dir.path().to_str().unwrap(), "-F"])
            .args(["-c", "listen_addresses=127.0.0.1", "-c", ssl])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let target = Self { port, server, dir };
        let began = Instant::now();
        let client = loop {
            match target.direct().await {
                Ok(client) => break client,
                Err(error) => assert!(began.elapsed() < Duration::from_secs(30), "PostgreSQL does not start: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        client.batch_execute(sql).await.unwrap();
        target
    }

    /// A connection that does not pass the gateway.
    pub(crate) async fn direct(&self) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
        let config = format!("host=127.0.0.1 port={} user=owner password={PASSWORD} dbname=postgres", self.port);
        let (client, connection) = tokio_postgres::connect(&config, tokio_postgres::NoTls).await?;
        crate::house::spawn(async { drop(connection.await) });
        Ok(client)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // A fast shutdown (section "Shutting Down the Server").
        let data = self.dir.path().join("data");
        let stopped = as_postgres(&binaries().join("pg_ctl"))
            .args(["-m", "fast", "-s", "stop", "-D", data.to_str().unwrap_or_default()])
            .status();
        if !stopped.is_ok_and(|stopped| stopped.success()) {
            let _ = self.server.kill();
        }
        let _ = self.server.wait();
    }
}
