//! `postern exec`: a command with a token of its own, which is good for as long as the command runs.

use secrecy::ExposeSecret as _;

use crate::args::ConnectionArgs;
use crate::child::{self, ELSEWHERE, Prepared};
use crate::client_args::ExecArgs;
use crate::failure::Failure;
use crate::output;
use crate::reach::Reach;

/// What the command shall not find: a wider token.
const WIDER: [&str; 2] = ["POSTERN_TOKEN", "POSTERN_TOKEN_FILE"];

pub(crate) async fn run(args: &ExecArgs, connection: &ConnectionArgs) -> Result<(), Failure> {
    let reach = Reach::find(&args.reach, connection).await?;
    let variables = reach.variables().await?;
    let token = reach.token().await?;
    let mut command = Prepared::new(&args.command)?;
    command.environment(&[&WIDER[..], &ELSEWHERE].concat(), variables);
    // In its environment, which only this user can read; never among its arguments.
    command.environment(&[], [("PGPASSWORD", token.token.expose_secret().to_owned())]);
    let ended = command.run().await;
    if let Err(failure) = reach.give_back(&token).await {
        let until = super::when_exactly(token.expires_at);
        output::note(format!("the token could not be revoked, and is good until {until}: {failure}"));
    }
    child::ended(ended?)
}
