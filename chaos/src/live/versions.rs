//! Which PostgreSQL a test's servers are: the newest that the system has, unless the test asks for a version.

use std::cell::Cell;
use std::env::consts::ARCH;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::process::run;
use super::psql::Connection;

/// Versions that `scripts/bootstrap.sh test` installs beside Debian's, by `chaos/postgres/package.json`.
pub const INSTALLED: [u32; 3] = [16, 17, 18];

thread_local! {
    static VERSION: Cell<Option<u32>> = const { Cell::new(None) };
}

/// Runs `test`, whose servers are of this major version, as far as its own thread starts them.
pub fn with_version<T>(version: u32, test: impl FnOnce() -> T) -> T {
    let before = VERSION.replace(Some(version));
    let done = test();
    VERSION.set(before);
    done
}

/// The version that [`with_version`] asks for.
#[must_use]
pub fn asked_version() -> Option<u32> {
    VERSION.get()
}

impl Connection {
    /// A program of this connection that has the libpq of another version than the system's.
    ///
    /// # Errors
    /// When that is not installed.
    pub fn client_by(&self, libpq: u32, program: &str) -> Result<Command> {
        let native = native(libpq)?;
        let mut command = self.client(program);
        command.env("LD_LIBRARY_PATH", native.join("lib"));
        Ok(command)
    }
}

/// A server's programs; `folder` is the server's own, for what it could not reach otherwise.
pub(super) fn binaries(folder: &Path, as_user: impl Fn(&Path) -> Command) -> Result<PathBuf> {
    let Some(version) = asked_version() else { return of_the_system() };
    let native = native(version)?;
    let mut try_it = as_user(&native.join("bin/initdb"));
    try_it.arg("--version").current_dir("/");
    if run(try_it, "", Duration::from_secs(20)).is_ok_and(|done| done.status.success()) {
        return Ok(native.join("bin"));
    }
    // The server runs as another user, who may not see a folder of root's.
    let mut copy = Command::new("cp");
    copy.args(["-r", "--reflink=auto"]).arg(&native).arg(folder);
    run(copy, "", Duration::from_secs(60))?.ok().context("PostgreSQL cannot be copied")?;
    Ok(folder.join("native/bin"))
}

/// What npm has installed of this version.
fn native(version: u32) -> Result<PathBuf> {
    let arch = if ARCH == "aarch64" { "arm64" } else { "x64" };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the workspace's folder")?;
    let native = root.join(format!(".tools/postgres/node_modules/postgres-{version}-{arch}/native"));
    ensure!(
        native.join("bin/initdb").exists() && native.join("lib/libpq.so.5").exists(),
        "PostgreSQL {version} is not at {}: run `scripts/bootstrap.sh test`",
        native.display()
    );
    Ok(native)
}

/// The newest server that Debian has installed.
fn of_the_system() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("POSTERN_TEST_PG_BIN") {
        return Ok(folder.into());
    }
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten() {
        let version = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let folder = entry.path().join("bin");
        if let Some(version) = version.filter(|_| folder.join("initdb").exists()) {
            found.push((version, folder));
        }
    }
    found.sort();
    found.pop().map(|(_, folder)| folder).context(
        "PostgreSQL's server is not installed (no /usr/lib/postgresql/*/bin/initdb): run `scripts/bootstrap.sh test`, \
         or set POSTERN_TEST_PG_BIN to the folder that has initdb",
    )
}
