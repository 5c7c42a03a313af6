//! The `postern` binary: the roles, `dev`, and the client commands over the public gRPC API.

mod access_args;
mod approval_args;
mod args;
mod child;
mod client;
mod client_args;
mod cluster_args;
mod commands;
mod credentials;
mod dev;
mod failure;
mod job_args;
mod log_args;
mod login;
mod manifest;
mod output;
mod policy;
mod policy_args;
mod proxy;
mod reach;
mod recording;
mod review_args;
mod revoke_args;
mod roles;
mod session_args;
mod token_args;
mod yaml;

use std::process::ExitCode;

pub use crate::login::LoginProbe;

use clap::{CommandFactory as _, Parser as _};

use crate::args::{Cli, Command};
use crate::failure::Failure;
use crate::output::{Paint, note, paint};

/// Reads the arguments, does what they say; the exit code is 0 for done, 1 for refused or failed, 2 for asked wrongly.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = runtime(&cli.command).map_err(Failure::from).and_then(|runtime| runtime.block_on(run(cli)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let text = failure.to_string();
            let color = std::io::IsTerminal::is_terminal(&std::io::stderr());
            for line in text.lines() {
                let word = if color { paint("error:", Paint::Red) } else { "error:".to_owned() };
                note(format!("{word} {line}"));
            }
            failure.exit_code()
        }
    }
}

/// A worker for each core. An agent only copies: what one worker hands to another costs more than that one saves, until there is more than
/// a core's worth of it. So it has one for every two cores, unless `TOKIO_WORKER_THREADS` says how many.
fn runtime(command: &Command) -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if matches!(command, Command::Agent(_)) && std::env::var_os("TOKIO_WORKER_THREADS").is_none() {
        builder.worker_threads((std::thread::available_parallelism()?.get() / 2).max(1));
    }
    builder.enable_all().build()
}

async fn run(cli: Cli) -> Result<(), Failure> {
    let connection = &cli.connection;
    match cli.command {
        Command::Dev(args) => dev::run(&args, connection).await,
        Command::Control(args) => commands::control::run(&args, connection).await,
        Command::Gateway(args) => roles::gateway(&args).await,
        Command::Agent(args) => roles::agent(&args).await,
        Command::Apply(args) => commands::apply::run(&args, connection).await,
        Command::Get { kind, name, list, output } => {
            commands::resources::get(kind, name.as_deref(), &list, output.format, connection).await
        }
        Command::Policy(command) => policy::run(&command, connection).await,
        Command::Audit(command) => commands::audit::run(&command, connection).await,
        Command::Describe { kind, name, output } => {
            commands::resources::describe(kind, &name, output.format, connection).await
        }
        Command::Delete { kind, name, revision } => {
            commands::resources::delete(kind, &name, revision, connection).await
        }
        Command::Approvals(command) => commands::approvals::run(&command, connection).await,
        Command::Review(command) => commands::reviews::run(&command, connection).await,
        Command::Webhooks(command) => commands::webhooks::run(&command, connection).await,
        Command::Access(command) => commands::access::run(&command, connection).await,
        Command::Sessions(command) => commands::sessions::run(&command, connection).await,
        Command::Log(command) => commands::log::run(&command, connection).await,
        Command::Verify(args) => commands::verify::run(&args, connection),
        Command::Token(args) => commands::tokens::run(&args, connection).await,
        Command::Login(args) => login::run(&args, connection).await,
        Command::Logout => commands::logout::run(connection).await,
        Command::Revoke(command) => commands::revoke::run(&command, connection).await,
        Command::Revocations(command) => commands::revoke::list(&command, connection).await,
        Command::Env(args) => commands::env::run(&args, connection).await,
        Command::Exec(args) => commands::exec::run(&args, connection).await,
        Command::Job(command) => commands::jobs::run(&command, connection).await,
        Command::Proxy(args) => proxy::run(&args, connection).await,
        Command::Whoami { output } => commands::whoami::run(output.format, connection).await,
        Command::Certs(command) => commands::certs::run(&command, connection).await,
        Command::Cluster(command) => commands::cluster::run(&command, connection).await,
        Command::Fleet(command) => commands::fleet::run(&command, connection).await,
        Command::Secrets(command) => commands::secrets::run(&command, connection).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "postern", &mut script);
            output::raw(&script)
        }
    }
}
