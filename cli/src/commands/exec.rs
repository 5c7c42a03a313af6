//! `postern exec`: a command with a token of its own, which is good for as long as the command runs.
//!
//! The command is in our process group and has our terminal, so that a shell's job control and psql's own keys work as without us. What the terminal
//! sends goes to both: we wait. What is sent to us alone is passed on.

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use rustix::process::{Pid, Signal, kill_process};
use secrecy::ExposeSecret as _;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::ConnectionArgs;
use crate::client_args::ExecArgs;
use crate::failure::Failure;
use crate::output;
use crate::reach::Reach;

/// What the command shall not find: a wider token, and what would lead its client elsewhere.
const TAKEN: [&str; 7] =
    ["POSTERN_TOKEN", "POSTERN_TOKEN_FILE", "PGSERVICE", "PGSERVICEFILE", "PGHOSTADDR", "PGPASSFILE", "PGDATABASE"];

pub(crate) async fn run(args: &ExecArgs, connection: &ConnectionArgs) -> Result<(), Failure> {
    let Some((program, arguments)) = args.command.split_first() else {
        return Err(Failure::usage("which command?"));
    };
    let reach = Reach::find(&args.reach, connection).await?;
    let variables = reach.variables().await?;
    let token = reach.token().await?;
    let mut command = Command::new(program);
    command.args(arguments);
    for name in TAKEN {
        command.env_remove(name);
    }
    // In its environment, which only this user can read; never among its arguments.
    command.envs(variables).env("PGPASSWORD", token.token.expose_secret());
    let mut signals = Signals::listen()?;
    let ended = match command.spawn() {
        Ok(mut child) => signals.until_ended(&mut child).await,
        Err(error) => {
            let code = if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 };
            Err(Failure::Coded(format!("cannot run {}: {error}", program.display()), code))
        }
    };
    if let Err(failure) = reach.give_back(&token).await {
        let until = super::when_exactly(token.expires_at);
        output::note(format!("the token could not be revoked, and is good until {until}: {failure}"));
    }
    match code(ended?) {
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
