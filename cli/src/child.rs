//! A command that runs by a token of its own, and what becomes of signals meanwhile.
//!
//! The command is in our process group and has our terminal, so that a shell's job control and psql's own keys work as without us. What the terminal
//! sends goes to both: we wait. What is sent to us alone is passed on.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use crate::failure::Failure;

/// What would lead a command's PostgreSQL client elsewhere than we say.
pub(crate) const ELSEWHERE: [&str; 5] = ["PGSERVICE", "PGSERVICEFILE", "PGHOSTADDR", "PGPASSFILE", "PGDATABASE"];

/// A command that is to run.
pub(crate) struct Prepared {
    command: Command,
    name: String,
    signals: Signals,
}

impl Prepared {
    /// Listens to signals from now on: what was made for the command is to be given back.
    pub(crate) fn new(command: &[OsString]) -> Result<Self, Failure> {
        let Some((program, arguments)) = command.split_first() else {
            return Err(Failure::usage("which command?"));
        };
        let mut command = Command::new(program);
        command.args(arguments);
        Ok(Self { command, name: program.display().to_string(), signals: Signals::listen()? })
    }

    /// Its environment, for all else as ours.
    pub(crate) fn environment(&mut self, taken: &[&str], set: impl IntoIterator<Item = (&'static str, String)>) {
        for name in taken {
            self.command.env_remove(name);
        }
        self.command.envs(set);
    }

    /// Runs it to its end; gives what a shell would give.
    pub(crate) async fn run(mut self) -> Result<u8, Failure> {
        match self.command.spawn() {
            Ok(mut child) => self.signals.until_ended(&mut child).await.map(code),
            Err(error) => {
                let code = if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 };
                Err(Failure::Coded(format!("cannot run {}: {error}", self.name), code))
            }
        }
    }
}

/// A command's end as our own.
pub(crate) fn ended(code: u8) -> Result<(), Failure> {
    match code {
        0 => Ok(()),
        code => Err(Failure::Coded(String::new(), code)),
    }
}

/// As a shell tells it.
fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| signal.saturating_add(128)));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// Signals that would end us before the token is given back.
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    quit: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
    /// What the terminal sends, it sends to the command too.
    terminal: bool,
}

impl Signals {
    fn listen() -> Result<Self, Failure> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            // The one that controls us, whatever our input is.
            terminal: std::fs::File::open("/dev/tty").is_ok(),
        })
    }

    async fn until_ended(&mut self, child: &mut Child) -> Result<ExitStatus, Failure> {
        let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let pass_on = |signal: Signal| {
            if let Some(pid) = pid {
                // It may have ended by itself: that is as good.
                let _ = kill_process(pid, signal);
            }
        };
        loop {
            tokio::select! {
                status = child.wait() => return Ok(status?),
                _ = self.interrupt.recv() => if !self.terminal { pass_on(Signal::INT) },
                _ = self.quit.recv() => if !self.terminal { pass_on(Signal::QUIT) },
                _ = self.terminate.recv() => pass_on(Signal::TERM),
                _ = self.hangup.recv() => pass_on(Signal::HUP),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_what_a_shell_would_say() {
        let of = |raw| code(ExitStatus::from_raw(raw));
        assert_eq!((of(0), of(3 << 8), of(255 << 8), of(9), of(15)), (0, 3, 255, 137, 143));
    }
}
