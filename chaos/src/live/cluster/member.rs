//! One member: its folder, its ports, its process.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Signal;

use super::super::postern::{STOP_LIMIT, http_get, postern_binary};
use super::super::process::{Finished, Process, command_in, free_port, run, wait_until};

const START_LIMIT: Duration = Duration::from_secs(60);
/// Debian's libfaketime.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";
/// A namespace is the member's alone.
const FIXED_PORTS: [u16; 3] = [7480, 7481, 7482];

/// A member of a control plane.
#[derive(Debug)]
pub struct Member {
    name: String,
    folder: PathBuf,
    /// Address and namespace.
    network: Option<(String, String)>,
    ports: [u16; 3],
    /// Of its configuration, all but where it listens.
    settings: String,
    config: String,
    environment: Vec<(String, String)>,
    file_limit: Option<u64>,
    process: Option<Process>,
    /// Another build than the one that is tested.
    program: Option<PathBuf>,
}

/// The environment of a program whose clock is off by so much, `+1h` or `-90`, from its start on.
///
/// # Errors
/// When libfaketime is not installed.
pub fn faked_clock(offset: &str) -> Result<Vec<(String, String)>> {
    ensure!(Path::new(FAKETIME).exists(), "libfaketime is not installed: run `scripts/bootstrap.sh test`");
    // Time that passes is not what is wrong.
    let fixed = [("LD_PRELOAD", FAKETIME), ("FAKETIME", offset), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")];
    Ok(fixed.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec())
}

impl Member {
    /// `control-N` with its folder in `folder`; not yet part of any cluster.
    ///
    /// # Errors
    /// When there is no port, or its configuration cannot be written.
    pub fn new(
        name: &str,
        folder: &Path,
        network: Option<(String, String)>,
        kek: &Path,
        further: &str,
    ) -> Result<Self> {
        let folder = folder.join(name);
        fs::create_dir_all(&folder)?;
        if !kek.exists() {
            // The key of tests: 64 hexadecimal digits.
            fs::write(kek, "0123456789abcdef".repeat(4))?;
            fs::set_permissions(kek, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        }
        let ports = if network.is_some() { FIXED_PORTS } else { [free_port()?, free_port()?, free_port()?] };
        let host = network.as_ref().map_or("127.0.0.1", |(address, _)| address.as_str());
        let settings = format!(
            "node_name = \"{name}\"\ndata_dir = \"{}\"\nkek_file = \"{}\"\nadmin_groups = [\"admins\"]\n{further}\n",
            folder.join("data").display(),
            kek.display(),
        );
        let config = written(&folder, host, ports, &settings)?;
        let name = name.to_owned();
        let (environment, file_limit, process, program) = (Vec::new(), None, None, None);
        Ok(Self { name, folder, network, ports, settings, config, environment, file_limit, process, program })
    }

    /// From its next start on it is at other ports.
    ///
    /// # Errors
    /// When it is in a namespace, there is no port, or its configuration cannot be written.
    pub fn move_away(&mut self) -> Result<()> {
        ensure!(self.network.is_none(), "{} has a network of its own", self.name);
        self.ports = [free_port()?, free_port()?, free_port()?];
        self.config = written(&self.folder, self.host(), self.ports, &self.settings)?;
        Ok(())
    }

    /// From its next start on it looks for other members at `seeds`, until it moves.
    ///
    /// # Errors
    /// When its configuration cannot be written.
    pub fn look_at(&mut self, seeds: &[String]) -> Result<()> {
        let settings = format!("peer_seeds = {seeds:?}\n{}", self.settings);
        self.config = written(&self.folder, self.host(), self.ports, &settings)?;
        Ok(())
    }

    /// Where other members reach it, `host:port`.
    #[must_use]
    pub fn peer(&self) -> String {
        format!("{}:{}", self.host(), self.ports[1])
    }

    /// Its name, in its certificate.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where clients reach it, `host:port`.
    #[must_use]
    pub fn api(&self) -> String {
        format!("{}:{}", self.host(), self.ports[0])
    }

    /// Where its metrics are, `host:port`.
    #[must_use]
    pub fn ops(&self) -> String {
        format!("{}:{}", self.host(), self.ports[2])
    }

    fn host(&self) -> &str {
        self.network.as_ref().map_or("127.0.0.1", |(address, _)| address)
    }

    /// Its data folder.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// The recordings that it has on its disk, each with its size: `ses_….rec`. Without those that are in its own store already.
    #[must_use]
    pub fn recordings(&self) -> Vec<(String, u64)> {
        let months = fs::read_dir(self.data_dir().join("recordings")).into_iter().flatten().flatten();
        let months = months.filter(|month| month.file_name() != "store");
        months.flat_map(|month| recordings_in(month.path())).collect()
    }

    /// The recordings that are in its own store, each with its size there.
    #[must_use]
    pub fn stored(&self) -> Vec<(String, u64)> {
        recordings_in(self.data_dir().join("recordings/store"))
    }

    /// Its configuration, as text.
    #[must_use]
    pub fn config(&self) -> &str {
        &self.config
    }

    /// Another configuration from its next start on: `change` makes it of the present one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn reconfigure(&mut self, change: impl FnOnce(&str) -> String) -> Result<()> {
        self.config = change(&self.config);
        fs::write(self.folder.join("control.toml"), &self.config)?;
        Ok(())
    }

    /// Another environment from its next start on.
    pub fn set_environment(&mut self, environment: Vec<(String, String)>) {
        self.environment = environment;
    }

    /// From its next start on it is this program; none: the `postern` that is tested.
    pub fn set_program(&mut self, program: Option<PathBuf>) {
        self.program = program;
    }

    /// A clock of its own from its next start on, which is right until it is set.
    ///
    /// # Errors
    /// When libfaketime is not installed.
    pub fn own_clock(&mut self) -> Result<()> {
        ensure!(Path::new(FAKETIME).exists(), "libfaketime is not installed: run `scripts/bootstrap.sh test`");
        self.set_clock("+0")?;
        let file = self.folder.join("clock").display().to_string();
        // Time that passes is not what is wrong.
        let fixed = [("LD_PRELOAD", FAKETIME), ("FAKETIME_CACHE_DURATION", "1"), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")];
        self.environment = fixed.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
        self.environment.push(("FAKETIME_TIMESTAMP_FILE".to_owned(), file));
        Ok(())
    }

    /// Sets its clock off by so much, `+2h` or `-90`, within a second and while it runs.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn set_clock(&self, offset: &str) -> Result<()> {
        let (file, new) = (self.folder.join("clock"), self.folder.join("clock.new"));
        fs::write(&new, offset)?;
        fs::rename(new, file)?;
        Ok(())
    }

    /// From its next start on, no file may grow past `limit` bytes: to it, the disk is then full.
    pub const fn set_file_limit(&mut self, limit: Option<u64>) {
        self.file_limit = limit;
    }

    /// `control init`; the file of the token for the first administrator.
    ///
    /// # Errors
    /// When it fails.
    pub fn init(&self) -> Result<PathBuf> {
        let token = self.folder.join("bootstrap-token");
        self.run_control(&["init"], &["--token-out", &token.display().to_string()])?.ok()?;
        Ok(token)
    }

    /// `control join` with the text of a token, through any of `peers`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn join(&self, token: &str, peers: &[String]) -> Result<Finished> {
        let file = self.folder.join("join-token");
        fs::write(&file, token)?;
        let file = file.display().to_string();
        let mut arguments = vec!["--token-file", &file];
        for peer in peers {
            arguments.extend(["--peer", peer]);
        }
        self.run_control(&["join"], &arguments)
    }

    /// `postern control COMMAND --config ITS_OWN ...`, to its end.
    ///
    /// # Errors
    /// When it cannot be started, or does not end.
    pub fn run_control(&self, command: &[&str], arguments: &[&str]) -> Result<Finished> {
        let config = self.folder.join("control.toml").display().to_string();
        let mut all = vec!["control".to_owned()];
        all.extend(command.iter().map(|&word| word.to_owned()));
        all.extend(["--config".to_owned(), config]);
        all.extend(arguments.iter().map(|&word| word.to_owned()));
        let mut run_it = command_in(self.namespace(), &postern_binary()?.display().to_string());
        run_it.args(all).envs(self.environment.iter().map(|(key, value)| (key, value)));
        run(run_it, "", Duration::from_secs(60))
    }

    /// Starts it and waits until it answers; it need not have a leader for that.
    ///
    /// # Errors
    /// When it runs already, or ends.
    pub fn start(&mut self) -> Result<()> {
        self.spawn()?;
        let (name, ops) = (self.name.clone(), self.ops());
        let process = self.process()?;
        let up = wait_until(START_LIMIT, &format!("{name} to answer"), || {
            ensure!(process.is_running(), "{name} ended");
            Ok(http_get(&ops, "/healthz").is_ok())
        });
        up.with_context(|| self.log())
    }

    /// Starts it, and leaves it at that.
    ///
    /// # Errors
    /// When it runs already, or cannot be started.
    pub fn spawn(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "{} runs", self.name);
        let config = self.folder.join("control.toml").display().to_string();
        let arguments = vec!["control".to_owned(), "--config".to_owned(), config];
        let program = self.program.clone().map_or_else(postern_binary, Ok)?;
        let (program, arguments) = self.limited(program, arguments);
        let mut environment = self.environment.clone();
        if std::env::var_os("RUST_LOG").is_none() {
            environment.push(("RUST_LOG".to_owned(), "info".to_owned()));
        }
        let (place, folder) = (self.namespace(), &self.folder);
        self.process = Some(Process::start_in(place, "control", &program, &arguments, &environment, None, folder)?);
        Ok(())
    }

    fn namespace(&self) -> Option<&str> {
        self.network.as_ref().map(|(_, namespace)| namespace.as_str())
    }

    /// On its small disk, if it has one.
    fn limited(&self, program: PathBuf, arguments: Vec<String>) -> (PathBuf, Vec<String>) {
        let Some(limit) = self.file_limit else { return (program, arguments) };
        // The signal that comes with the refusal would end the process before it could say anything.
        let mut all = ["--ignore-signal=XFSZ", "prlimit"].map(str::to_owned).to_vec();
        all.extend([format!("--fsize={limit}"), "--".to_owned(), program.display().to_string()]);
        all.extend(arguments);
        (PathBuf::from("env"), all)
    }

    /// Whether it was started, and not ended from here.
    #[must_use]
    pub const fn is_started(&self) -> bool {
        self.process.is_some()
    }

    /// Its process.
    ///
    /// # Errors
    /// When it is not started.
    pub fn process(&mut self) -> Result<&mut Process> {
        match &mut self.process {
            Some(process) => Ok(process),
            None => bail!("{} is not started", self.name),
        }
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// When it is not started.
    pub fn kill9(&mut self) -> Result<()> {
        self.process()?.kill9()?;
        self.process = None;
        Ok(())
    }

    /// SIGSTOP: it stands still and does not know it.
    ///
    /// # Errors
    /// When it is not started.
    pub fn pause(&mut self) -> Result<()> {
        self.process()?.signal(Signal::STOP)
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// When it is not started.
    pub fn resume(&mut self) -> Result<()> {
        self.process()?.signal(Signal::CONT)
    }

    /// SIGTERM, and it must end well.
    ///
    /// # Errors
    /// When it does not.
    pub fn stop(&mut self) -> Result<()> {
        let status = self.process()?.terminate(STOP_LIMIT).with_context(|| self.log())?;
        self.process = None;
        ensure!(status.success(), "{status}: {}", self.log());
        Ok(())
    }

    /// Waits for its end by itself.
    ///
    /// # Errors
    /// When it has not ended within `limit`.
    pub fn wait_end(&mut self, limit: Duration) -> Result<ExitStatus> {
        let status = self.process()?.wait(limit).with_context(|| self.log())?;
        self.process = None;
        Ok(status)
    }

    /// All that it logged, over every start.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(self.folder.join("control.err")).map(|bytes| super::super::process::text(&bytes)).unwrap_or_default()
    }

    /// Its metrics.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn metrics(&self) -> Result<String> {
        http_get(&self.ops(), "/metrics")
    }

    /// Its disk is lost.
    ///
    /// # Errors
    /// When it cannot be taken away.
    pub fn lose_disk(&self) -> Result<()> {
        fs::remove_dir_all(self.data_dir()).with_context(|| format!("cannot remove {}", self.data_dir().display()))
    }
}

/// Writes the configuration of a member that listens there; its text.
fn written(folder: &Path, host: &str, [api, peer, ops]: [u16; 3], settings: &str) -> Result<String> {
    let config = format!(
        "[control]\nlisten = \"{host}:{api}\"\npeer_listen = \"{host}:{peer}\"\nops_listen = \"{host}:{ops}\"\n{settings}"
    );
    fs::write(folder.join("control.toml"), &config)?;
    Ok(config)
}

fn recordings_in(folder: PathBuf) -> Vec<(String, u64)> {
    let (mut found, mut folders) = (Vec::new(), vec![folder]);
    while let Some(folder) = folders.pop() {
        for file in fs::read_dir(folder).into_iter().flatten().flatten() {
            if file.path().is_dir() {
                folders.push(file.path());
            } else if let Some(id) = file.file_name().to_string_lossy().strip_suffix(".rec") {
                found.push((id.to_owned(), file.metadata().map_or(0, |metadata| metadata.len())));
            }
        }
    }
    found
}
