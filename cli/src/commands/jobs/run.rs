//! `postern job run`: a command with a token that ends with it, however it ends.

use std::path::Path;

use postern_core::wire::identity::scope_to_proto;
use postern_proto::admin::v1::ExchangeTokenRequest;
use secrecy::ExposeSecret as _;

use super::beats::Beats;
use crate::args::ConnectionArgs;
use crate::child::{self, ELSEWHERE, Prepared};
use crate::client::Settings;
use crate::client_args::ReachArgs;
use crate::commands::when_exactly;
use crate::failure::Failure;
use crate::job_args::JobRunArgs;
use crate::output;
use crate::reach::{Reach, exchange};
use crate::token_args::new_job;

pub(crate) async fn run(args: &JobRunArgs, connection: &ConnectionArgs) -> Result<(), Failure> {
    let (mut scope, mut variables) = (args.narrow.scope(), Vec::new());
    if let Some(target) = &args.connect {
        let reach = ReachArgs {
            target: target.clone(),
            database: args.database.clone(),
            ttl: args.ttl,
            actor: args.narrow.actor.clone(),
            gateway: args.gateway.clone(),
            gateway_ca: args.gateway_ca.clone(),
        };
        let reach = Reach::find(&reach, connection).await?;
        variables = reach.variables().await?;
        scope.targets.insert(target.clone());
    }
    let program = args.command.first().and_then(|program| Path::new(program).file_name());
    let name = args.name.clone().or_else(|| Some(program?.to_str()?.to_owned()));
    let name = name.ok_or_else(|| Failure::usage("what is the job called? --name"))?;
    let request = ExchangeTokenRequest {
        scope: Some(scope_to_proto(&scope)),
        actor: args.narrow.actor.clone().unwrap_or_default(),
        job: Some(new_job(&name, args.heartbeat)),
        ..Default::default()
    };
    let made = exchange(request, args.ttl, connection).await?;
    let mut command = Prepared::new(&args.command)?;
    // In its environment, which only this user can read; never among its arguments. A file would lead to a wider token.
    let token = || made.token.expose_secret().to_owned();
    command.environment(&["POSTERN_TOKEN_FILE"], [("POSTERN_TOKEN", token()), ("POSTERN_JOB", made.id.clone())]);
    command.environment(&[], whereabouts(connection));
    if args.connect.is_some() {
        variables.push(("PGPASSWORD", token()));
        command.environment(&ELSEWHERE, variables);
    }
    let settings = Settings { token: Some(made.token.clone()), credential: None, ..Settings::resolve(connection)? };
    let mut beats = Beats::new(settings, made.id.clone(), args.heartbeat);
    let ended = tokio::select! {
        ended = command.run() => ended,
        never = beats.keep() => match never {},
    };
    let because = match &ended {
        Ok(code) => format!("job {name} is finished: its command ended with {code}"),
        Err(_) => format!("job {name} is finished: its command did not run"),
    };
    if let Err(failure) = beats.end(because).await {
        let until = when_exactly(made.expires_at);
        output::note(format!("the job could not be ended, and ends when it is not heard of, or at {until}: {failure}"));
    }
    child::ended(ended?)
}

/// Where the control plane is, when it was said among our arguments: the command's own `postern` finds it as we did.
fn whereabouts(connection: &ConnectionArgs) -> impl Iterator<Item = (&'static str, String)> {
    let path = |path: &Option<std::path::PathBuf>| path.as_ref().map(|path| path.display().to_string());
    let all = [
        ("POSTERN_SERVER", connection.server.clone()),
        ("POSTERN_CA", path(&connection.ca)),
        ("POSTERN_DATA_DIR", path(&connection.data_dir)),
    ];
    all.into_iter().filter_map(|(name, value)| Some((name, value?)))
}
