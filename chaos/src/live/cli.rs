//! The `postern` command line, as an administrator or as the bearer of a token.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::postern::postern_binary;
use super::process::{Finished, Process, run, wait_until};

/// Runs `postern` against one cluster.
#[derive(Clone, Debug)]
pub struct Cli {
    environment: Vec<(String, String)>,
}

impl Cli {
    /// With what tells it where the cluster is and who the administrator is.
    #[must_use]
    pub const fn new(environment: Vec<(String, String)>) -> Self {
        Self { environment }
    }

    /// The same with one variable more in its environment.
    #[must_use]
    pub fn with(&self, name: &str, value: &str) -> Self {
        let mut environment = self.environment.clone();
        environment.push((name.to_owned(), value.to_owned()));
        Self { environment }
    }

    /// Runs `postern` as the administrator.
    ///
    /// # Errors
    /// When it cannot be started or does not end.
    pub fn cli<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Result<Finished> {
        self.cli_with(arguments, None, "")
    }

    /// Runs `postern` as the bearer of `token`.
    ///
    /// # Errors
    /// When it cannot be started or does not end.
    pub fn cli_as<S: AsRef<OsStr>>(&self, token: &str, arguments: impl IntoIterator<Item = S>) -> Result<Finished> {
        self.cli_with(arguments, Some(token), "")
    }

    /// Lets `command` find `postern`, and `postern` this system: for scripts as people would write them.
    ///
    /// # Errors
    /// When the binary is not there.
    pub fn surround(&self, command: &mut Command) -> Result<()> {
        let binary = postern_binary()?;
        let folder = binary.parent().map(Path::to_path_buf).unwrap_or_default();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths([folder].into_iter().chain(std::env::split_paths(&path)))?;
        command.env("PATH", path).envs(self.environment.iter().map(|(key, value)| (key, value)));
        Ok(())
    }

    fn cli_with<S: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
        token: Option<&str>,
        input: &str,
    ) -> Result<Finished> {
        let mut command = Command::new(postern_binary()?);
        command
            .args(arguments)
            .envs(self.environment.iter().map(|(key, value)| (key, value)))
            .env_remove("POSTERN_TOKEN");
        if let Some(token) = token {
            command.env("POSTERN_TOKEN", token);
        }
        run(command, input, Duration::from_secs(60))
    }

    /// Starts `postern` as the administrator and lets it run; its output goes to `NAME.out` and `NAME.err` in `folder`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, name: &str, arguments: &[&str], folder: &Path) -> Result<Process> {
        let arguments: Vec<String> = arguments.iter().map(|&word| word.to_owned()).collect();
        Process::start(name, &postern_binary()?, &arguments, &self.environment, None, folder)
    }

    /// `postern apply -f -`.
    ///
    /// # Errors
    /// When something is refused.
    pub fn apply(&self, yaml: &str) -> Result<String> {
        self.try_apply(yaml)?.ok()
    }

    /// `postern apply -f -`, whatever comes of it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn try_apply(&self, yaml: &str) -> Result<Finished> {
        self.cli_with(["apply", "-f", "-"], None, yaml)
    }

    /// The pending approvals' ids, once there is one.
    ///
    /// # Errors
    /// When there is none in time.
    pub fn pending_approval(&self) -> Result<String> {
        let mut id = None;
        wait_until(Duration::from_secs(20), "a pending approval", || {
            let listed = self.json(["approvals", "list", "-o", "json"])?;
            id = listed.as_array().and_then(|all| all.first()).and_then(|one| one.get("id")).cloned();
            Ok(id.is_some())
        })?;
        id.and_then(|id| id.as_str().map(str::to_owned)).context("an approval has an id")
    }

    /// Sessions in the index, newest first.
    ///
    /// # Errors
    /// When the list cannot be had.
    pub fn sessions(&self) -> Result<Vec<serde_json::Value>> {
        let listed = self.json(["sessions", "list", "--limit", "1000", "-o", "json"])?;
        listed.as_array().cloned().context("a list of sessions")
    }

    /// The newest session's id, once it has ended and its recording lies whole in the control plane.
    ///
    /// # Errors
    /// When it has not ended in time.
    pub fn last_ended_session(&self) -> Result<String> {
        let mut id = None;
        wait_until(Duration::from_secs(20), "the newest session to be sealed", || {
            let sessions = self.sessions()?;
            let Some(newest) = sessions.first() else { return Ok(false) };
            id = newest.get("id").and_then(serde_json::Value::as_str).map(str::to_owned);
            Ok(newest.get("state").and_then(serde_json::Value::as_str) != Some("open"))
        })?;
        id.context("a session has an id")
    }

    /// Runs the command line and reads its JSON.
    ///
    /// # Errors
    /// When it fails, or prints no JSON.
    pub fn json<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Result<serde_json::Value> {
        let out = self.cli(arguments)?.ok()?;
        serde_json::from_str(&out).with_context(|| format!("not JSON: {out}"))
    }
}
