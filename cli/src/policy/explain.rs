//! `postern policy explain`.

use postern_core::operation::Operation;
use postern_core::policy::{Circumstances, Effect, Freshness, Policy, PolicySlice};
use postern_core::principal::PrincipalId;
use postern_core::{KeptClaims, Name};
use postern_runtime::clock;
use serde_json::{Value, json};

use super::world::{self, Database, Decided, World};
use super::{cases, outcome};
use crate::args::{ConnectionArgs, Format};
use crate::client::connect;
use crate::failure::Failure;
use crate::manifest;
use crate::output;
use crate::policy_args::ExplainArgs;

pub(super) async fn run(args: &ExplainArgs, connection: &ConnectionArgs) -> Result<(), Failure> {
    let world = match args.files.as_slice() {
        [] => World::of_cluster(&connect(connection).await?).await?,
        files => World::of(&manifest::load(files)?),
    };
    let target: Name = args.target.parse().map_err(|error| Failure::usage(format!("--target: {error}")))?;
    let principal = principal(args)?;
    let now = args.at.as_deref().map(cases::time).transpose().map_err(Failure::usage)?.unwrap_or_else(clock::now);
    let mut at = Circumstances::new(now, Freshness::CONFIRMED);
    at.source = args.source;
    at.estimated_rows = args.estimated_rows;
    let database = Database {
        name: args.database.clone().unwrap_or_else(|| target.to_string()),
        search_path: args.search_path.clone(),
        relations: args.relations.clone(),
        functions: args.functions.clone(),
    };
    let granted = args.granted.iter().map(|name| name.parse::<Name>());
    let granted =
        granted.collect::<Result<Vec<_>, _>>().map_err(|error| Failure::usage(format!("--granted: {error}")))?;
    let justification = args.justification.as_deref().unwrap_or_default();
    let slice = world.slice(&principal, &target, None);
    let mut slice = world::granted(slice, (&granted, justification), &principal, &target);
    let read = world::operation(&args.statement, &database, now);
    let (decided, operation) = match &read {
        Ok(operation) => (world::decide(&mut slice, operation, &at), Some(operation)),
        Err(unclear) => (Decided::denied(unclear.clone()), None),
    };
    let unknown = unknown(args, &world, &target);
    match args.output.format {
        Some(Format::Json) => output::json(&value(&decided, &slice, operation, &at, &unknown)),
        Some(Format::Yaml) => output::yaml(&[value(&decided, &slice, operation, &at, &unknown)]),
        _ => tell(&decided, &slice, operation, &at, &unknown),
    }
}

fn principal(args: &ExplainArgs) -> Result<postern_core::Principal, Failure> {
    let (issuer, subject) = args
        .principal
        .split_once('/')
        .filter(|(_, subject)| !subject.is_empty())
        .ok_or_else(|| Failure::usage("--principal: expected ISSUER/SUBJECT"))?;
    let issuer = issuer.parse().map_err(|error| Failure::usage(format!("--principal: {error}")))?;
    let mut claims = KeptClaims::default();
    for claim in &args.claims {
        let (name, value) =
            claim.split_once('=').ok_or_else(|| Failure::usage(format!("--claim {claim:?}: expected NAME=VALUE")))?;
        let mut values = claims.values(name).to_vec();
        values.push(value.into());
        if !claims.keep(name, values) {
            return Err(Failure::usage(format!("--claim {name}: more than is kept of claims")));
        }
    }
    let id = PrincipalId { issuer, subject: subject.into() };
    Ok(cases::principal(id, args.groups.clone(), claims, &[], None))
}

/// What a gateway knows and this command does not.
fn unknown(args: &ExplainArgs, world: &World, target: &Name) -> Vec<String> {
    let mut unknown = Vec::new();
    if !world.knows(target) {
        unknown.push(format!("target {target} and its labels: there is none of that name here"));
    }
    if args.relations.is_empty() {
        let path = args.search_path.join(", ");
        unknown
            .push(format!("the database's tables: names without a schema are taken for those of {path} (--relation)"));
    }
    if !args.relations.iter().any(|relation| relation.contains('(')) {
        unknown.push("the columns of tables (--relation 'SCHEMA.NAME(COLUMN, COLUMN)')".to_owned());
    }
    if args.functions.is_empty() {
        unknown.push("functions, which count as volatile and as SECURITY DEFINER (--function)".to_owned());
    }
    unknown.push("what views, defaults, triggers and row security call".to_owned());
    if args.granted.is_empty() {
        unknown.push("what was granted on request (--granted)".to_owned());
    }
    if args.source.is_none() {
        unknown.push("where the client comes from (--source)".to_owned());
    }
    if args.groups.is_empty() {
        unknown.push("groups (--group)".to_owned());
    }
    if args.claims.is_empty() {
        unknown.push("claims (--claim)".to_owned());
    }
    if args.estimated_rows.is_none() {
        unknown.push("how many rows the target expects (--estimated-rows)".to_owned());
    }
    unknown.push("whether a transaction is open".to_owned());
    unknown
}

/// What a policy does to what it applies to.
fn does(slice: &PolicySlice, name: &Name, policy: &Policy) -> &'static str {
    let waits = slice.on_request().any(|waiting| waiting == name);
    match policy.effect {
        Effect::Deny => "denies",
        Effect::Permit if waits => "permits on request",
        Effect::Permit if policy.approval.is_some() => "holds",
        Effect::Permit => "permits",
    }
}

fn tell(
    decided: &Decided,
    slice: &PolicySlice,
    operation: Option<&Operation>,
    at: &Circumstances,
    unknown: &[String],
) -> Result<(), Failure> {
    let why = if decided.reason.is_empty() { String::new() } else { format!(": {}", decided.reason) };
    output::line(output::printable(&format!("{} {}{why}", outcome(decided.outcome), super::by(&decided.policies))))?;
    if !decided.obliged.is_empty() {
        output::line(format!("  runs so only: {}", decided.obliged))?;
    }
    if let Some(operation) = operation {
        for (action, applying) in operation.actions.iter().zip(slice.applying(&operation.actions, at)) {
            output::line(output::printable(&format!("  {action}")))?;
            for (name, policy) in &applying {
                output::line(format!("    {} {name}", does(slice, name, policy)))?;
            }
            if applying.is_empty() {
                output::line("    no policy applies")?;
            }
        }
        if operation.actions.is_empty() {
            output::line("  nothing that policy speaks of: whoever has a session may run it")?;
        }
    }
    let names: Vec<&str> = slice.speaking().map(|(name, _)| name.as_str()).collect();
    let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    output::line(format!("policies that speak of them there: {names}"))?;
    for what in unknown {
        output::line(format!("not known here: {what}"))?;
    }
    Ok(())
}

fn value(
    decided: &Decided,
    slice: &PolicySlice,
    operation: Option<&Operation>,
    at: &Circumstances,
    unknown: &[String],
) -> Value {
    let actions = operation.map(|operation| {
        let applying = slice.applying(&operation.actions, at);
        let action = |(action, applying): (_, Vec<(&Name, &Policy)>)| {
            let policies =
                applying.iter().map(|(name, policy)| json!({"name": name, "does": does(slice, name, policy)}));
            json!({"action": format!("{action}"), "policies": policies.collect::<Vec<_>>()})
        };
        operation.actions.iter().zip(applying).map(action).collect::<Vec<_>>()
    });
    json!({
        "decision": decided.outcome.as_str(),
        "policies": decided.policies,
        "reason": decided.reason,
        "obliged": decided.obliged,
        "actions": actions,
        "speaking": slice.speaking().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        "unknown": unknown,
    })
}
