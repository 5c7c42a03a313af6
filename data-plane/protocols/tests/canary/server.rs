//! A real PostgreSQL in a directory of its own, spoken to by the simple protocol over its socket.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A server; stopped when dropped.
pub(crate) struct Server {
    dir: tempfile::TempDir,
}

/// A connection that is logged in.
pub(crate) struct Connection {
    stream: UnixStream,
    received: Vec<u8>,
}

/// A message's tag and body.
pub(crate) type Message = (u8, Vec<u8>);

fn binaries() -> PathBuf {
    let missing = "no PostgreSQL server: install the package postgresql";
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect(missing);
    let mut found: Vec<PathBuf> = versions.map(|entry| entry.unwrap().path().join("bin")).collect();
    found.retain(|bin| bin.join("initdb").exists());
    found.sort();
    found.pop().expect(missing)
}

/// PostgreSQL refuses to run as root.
fn as_postgres(program: &Path) -> Command {
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups", "--"]).arg(program);
    command.current_dir("/");
    command
}

fn run(command: &mut Command) {
    let done = command.stdout(std::process::Stdio::null()).status().unwrap();
    assert!(done.success(), "{command:?}");
}

impl Server {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let data = dir.path().join("data");
        let mut init = as_postgres(&binaries().join("initdb"));
        run(init.arg("-D").arg(&data).args(["-U", "owner", "-E", "UTF8", "--no-locale", "-N", "-A", "trust"]));
        let options = format!("-F -k {} -c listen_addresses=''", dir.path().display());
        let mut start = as_postgres(&binaries().join("pg_ctl"));
        run(start.arg("-D").arg(&data).arg("-l").arg(dir.path().join("log")).args(["-w", "-o", &options, "start"]));
        Self { dir }
    }

    /// Logs in (section "Start-up").
    pub(crate) fn connect(&self) -> Connection {
        let stream = UnixStream::connect(self.dir.path().join(".s.PGSQL.5432")).unwrap();
        let mut connection = Connection { stream, received: Vec::new() };
        let parameters = b"user\0owner\0database\0postgres\0\0";
        let mut startup = u32::try_from(parameters.len() + 8).unwrap().to_be_bytes().to_vec();
        startup.extend(196_608_u32.to_be_bytes());
        startup.extend(parameters);
        connection.stream.write_all(&startup).unwrap();
        connection.until_ready();
        connection
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let mut stop = as_postgres(&binaries().join("pg_ctl"));
        let stop = stop.arg("-D").arg(self.dir.path().join("data")).args(["-m", "immediate", "stop"]);
        let _ = stop.stdout(std::process::Stdio::null()).status();
    }
}

impl Connection {
    /// All messages up to ReadyForQuery.
    pub(crate) fn query(&mut self, sql: &str) -> Vec<Message> {
        let mut query = vec![b'Q'];
        query.extend(u32::try_from(sql.len() + 5).unwrap().to_be_bytes());
        query.extend(sql.as_bytes());
        query.push(0);
        self.stream.write_all(&query).unwrap();
        self.until_ready()
    }

    fn until_ready(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        loop {
            match self.message() {
                (b'Z', _) => return messages,
                message => messages.push(message),
            }
        }
    }

    fn message(&mut self) -> Message {
        loop {
            if let Some(length) = self.received.get(1..5) {
                let length = u32::from_be_bytes(length.try_into().unwrap()) as usize;
                if self.received.len() > length {
                    let message: Vec<u8> = self.received.drain(..=length).collect();
                    return (message[0], message[5..].to_vec());
                }
            }
            let mut buffer = [0; 8_192];
            let count = self.stream.read(&mut buffer).unwrap();
            assert!(count > 0, "the server hung up");
            self.received.extend(&buffer[..count]);
        }
    }
}
