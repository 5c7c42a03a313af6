//! Child processes that never outlive their test.

use std::fs::File;
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, getuid, kill_process, kill_process_group};

/// A running program in a process group of its own; its output goes to files. Dropping it kills the group.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

/// What a program that ended said.
#[derive(Clone, Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// `program`, in a network namespace if one is named: into it first, as nobody but root may.
pub(super) fn command_in(namespace: Option<&str>, program: &str) -> Command {
    let Some(namespace) = namespace else { return Command::new(program) };
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace, program]);
    command
}

impl Process {
    /// Starts `program` with `arguments`; `user` is another user to run as, when this process is root. Its output goes to
    /// `NAME.out` and `NAME.err` in `folder`, appended to what an earlier start left there.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(
        name: &str,
        program: &Path,
        arguments: &[String],
        environment: &[(String, String)],
        user: Option<&str>,
        folder: &Path,
    ) -> Result<Self> {
        Self::start_in(None, name, program, arguments, environment, user, folder)
    }

    /// The same, in a network namespace. Needs root.
    ///
    /// # Errors
    /// See there.
    pub(super) fn start_in(
        namespace: Option<&str>,
        name: &str,
        program: &Path,
        arguments: &[String],
        environment: &[(String, String)],
        user: Option<&str>,
        folder: &Path,
    ) -> Result<Self> {
        let open = |ending: &str| -> Result<(PathBuf, File)> {
            let path = folder.join(format!("{name}.{ending}"));
            let file = File::options().create(true).append(true).open(&path);
            Ok((path.clone(), file.with_context(|| format!("cannot write {}", path.display()))?))
        };
        let (stdout, out) = open("out")?;
        let (stderr, err) = open("err")?;
        // The kernel ends the child when the test that started it is gone, even by SIGKILL.
        let mut command = command_in(namespace, "setpriv");
        if let Some(user) = user {
            command.args(["--reuid", user, "--regid", user, "--init-groups"]);
        }
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).args(arguments);
        command.envs(environment.iter().map(|(key, value)| (key, value)));
        command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
        let child = command.spawn().with_context(|| {
            format!("cannot start {}: is setpriv (Debian: util-linux) installed?", program.display())
        })?;
        Ok(Self { name: name.to_owned(), child, stdout, stderr })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Kills it as a power cut would: no destructor, no handler.
    ///
    /// # Errors
    /// When it cannot be reaped.
    pub fn kill9(&mut self) -> Result<()> {
        self.signal_group(Signal::KILL);
        self.child.wait().with_context(|| format!("cannot reap {}", self.name))?;
        Ok(())
    }

    /// Asks it to end (SIGTERM) and waits.
    ///
    /// # Errors
    /// When it has not ended within `limit`.
    pub fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait(limit)
    }

    /// Sends `signal` to it alone.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.pid().with_context(|| format!("{} has no process id", self.name))?;
        kill_process(pid, signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it has not ended within `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let mut status = None;
        wait_until(limit, &format!("{} to end", self.name), || {
            status = self.child.try_wait()?;
            Ok(status.is_some())
        })?;
        status.with_context(|| format!("{} has not ended", self.name))
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// All that it wrote to standard output so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        read_text(&self.stdout)
    }

    /// All that it wrote to standard error so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        read_text(&self.stderr)
    }

    fn pid(&self) -> Option<Pid> {
        Pid::from_raw(i32::try_from(self.child.id()).ok()?)
    }

    fn signal_group(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            // It may have ended by itself: that is as good.
            let _ = kill_process_group(pid, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal_group(Signal::KILL);
        let _ = self.child.wait();
    }
}

/// Runs a program to its end, with `input` on its standard input.
///
/// # Errors
/// When it cannot be started, or has not ended within `limit`: it is then killed.
pub fn run(mut command: Command, input: &str, limit: Duration) -> Result<Finished> {
    let folder = tempfile::tempdir()?;
    let (out, err) = (folder.path().join("out"), folder.path().join("err"));
    let name = format!("{:?}", command.get_program());
    let feed = folder.path().join("in");
    File::create(&feed)?.write_all(input.as_bytes())?;
    command.stdin(File::open(&feed)?).stdout(File::create(&out)?).stderr(File::create(&err)?).process_group(0);
    let child = command.spawn().with_context(|| format!("cannot start {name}: is it installed?"))?;
    let mut process = Process { name: name.clone(), child, stdout: out, stderr: err };
    let status = process
        .wait(limit)
        .with_context(|| format!("{name} took too long; so far:\n{}\n{}", process.stdout(), process.stderr()))?;
    Ok(Finished { status, stdout: process.stdout(), stderr: process.stderr() })
}

impl Finished {
    /// Its standard output, when it succeeded.
    ///
    /// # Errors
    /// When it did not succeed; with all that it said.
    pub fn ok(self) -> Result<String> {
        ensure!(self.status.success(), "{}\n{}\n{}", self.status, self.stdout, self.stderr);
        Ok(self.stdout)
    }

    /// Its standard error, when it failed.
    ///
    /// # Errors
    /// When it succeeded; with all that it said.
    pub fn fails(self) -> Result<String> {
        ensure!(!self.status.success(), "expected a failure, but it succeeded:\n{}\n{}", self.stdout, self.stderr);
        Ok(self.stderr)
    }
}

/// Asks `done` until it says yes.
///
/// # Errors
/// When `done` fails, or has not said yes within `limit`.
pub fn wait_until(limit: Duration, what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    loop {
        if done()? {
            return Ok(());
        }
        if start.elapsed() > limit {
            bail!("waited {limit:?} for {what}");
        }
        #[allow(clippy::disallowed_methods)] // no async worker here: a test's own thread waits for other processes
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A port on loopback that nobody has now, for TCP and for UDP, and that no other test is given before the calling process ends. Below those that the
/// system gives to connections: it must still be free when a server takes it a moment later, and after that server was killed.
///
/// # Errors
/// When there is none.
pub fn free_port() -> Result<u16> {
    static HELD: Mutex<Vec<File>> = Mutex::new(Vec::new());
    let folder = std::env::temp_dir().join(format!("postern-test-ports-{}", getuid().as_raw()));
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for _ in 0..1_000 {
        let port = fastrand::u16(10_000..32_000);
        let path = folder.join(port.to_string());
        let file = File::options().create(true).append(true).open(&path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        // The lock goes with the process, however it ends.
        if file.try_lock().is_err() {
            continue;
        }
        let free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        if free(port) && UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            HELD.lock().unwrap_or_else(PoisonError::into_inner).push(file);
            return Ok(port);
        }
    }
    bail!("no port is free")
}

fn read_text(path: &Path) -> String {
    text(&std::fs::read(path).unwrap_or_default())
}

/// Program output as text, what is no UTF-8 replaced: only ever looked at, never passed on.
pub(super) fn text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        if !chunk.invalid().is_empty() {
            text.push('\u{fffd}');
        }
    }
    text
}
