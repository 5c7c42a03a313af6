//! `postern policy`.

mod cases;
mod diff;
mod explain;
mod world;

use std::path::PathBuf;

use postern_core::policy::Outcome;
use postern_core::policy::cedar::SCHEMA;
use postern_core::resource::Kind;

use crate::args::ConnectionArgs;
use crate::failure::Failure;
use crate::manifest;
use crate::output;
use crate::policy_args::PolicyCommand;

pub(crate) async fn run(command: &PolicyCommand, connection: &ConnectionArgs) -> Result<(), Failure> {
    match command {
        PolicyCommand::Validate { files } => validate(files),
        PolicyCommand::Schema => output::raw(SCHEMA.as_bytes()),
        PolicyCommand::Test { files } => test(files),
        PolicyCommand::Explain(args) => explain::run(args, connection).await,
        PolicyCommand::Diff(args) => diff::run(args, connection).await,
    }
}

fn validate(files: &[PathBuf]) -> Result<(), Failure> {
    let manifests = manifest::load(files)?;
    let policies = manifests.iter().filter(|manifest| manifest.kind == Kind::Policy).count();
    if policies == 0 {
        return Err(Failure::failed("there is no policy in these files"));
    }
    output::line(format!("{policies} {} valid", if policies == 1 { "policy is" } else { "policies are" }))
}

fn test(files: &[PathBuf]) -> Result<(), Failure> {
    let (mut wrong, mut right) = (Vec::new(), 0_usize);
    for file in files {
        let cases = cases::read(file)?;
        let world = world::World::of(&manifest::load(&cases.policies)?);
        for case in cases.all {
            match decided_otherwise(&world, &case) {
                None => right = right.saturating_add(1),
                Some(how) => {
                    let at = format!("{}:{}: {}: {how}", file.display(), case.line, case.name);
                    wrong.push(output::printable(&at));
                }
            }
        }
    }
    if !wrong.is_empty() {
        let all = right.saturating_add(wrong.len());
        wrong.push(format!("{} of {all} cases are decided otherwise", wrong.len()));
        return Err(Failure::Many(wrong));
    }
    if right == 0 {
        return Err(Failure::failed("there is no case in these files"));
    }
    output::line(format!("{right} {} decided as expected", if right == 1 { "case is" } else { "cases are" }))
}

/// How `case` is decided, where that is not what it expects.
fn decided_otherwise(world: &world::World, case: &cases::Case) -> Option<String> {
    if let Some(unknown) = case.granted.iter().chain(&case.by).find(|name| !world.has_policy(name)) {
        return Some(format!("there is no policy {unknown}"));
    }
    let slice = world.slice(&case.principal, &case.target, case.labels.as_ref());
    let mut slice = world::granted(slice, (&case.granted, &case.justification), &case.principal, &case.target);
    let decided = match world::operation(&case.statement, &case.database, case.at.now) {
        Ok(operation) => world::decide(&mut slice, &operation, &case.at),
        Err(unclear) => world::Decided::denied(unclear),
    };
    if decided.outcome != case.expect {
        let why = if decided.reason.is_empty() { by(&decided.policies) } else { decided.reason };
        return Some(format!("expected {}, decided {}: {why}", case.expect.as_str(), decided.outcome.as_str()));
    }
    if let Some(expected) = &case.obligations
        && decided.obliged.asked() != *expected
    {
        let bound = if decided.obliged.is_empty() { "nothing".to_owned() } else { decided.obliged.to_string() };
        return Some(format!("{} as expected, but bound by {bound}", outcome(decided.outcome)));
    }
    let missing = case.by.iter().find(|name| !decided.policies.contains(name))?;
    Some(format!("{} as expected, but not by policy {missing}: {}", outcome(decided.outcome), by(&decided.policies)))
}

const fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Permit => "permitted",
        Outcome::Hold => "held",
        Outcome::Deny => "denied",
    }
}

fn by(policies: &[postern_core::Name]) -> String {
    let names: Vec<&str> = policies.iter().map(postern_core::Name::as_str).collect();
    if names.is_empty() { "by no policy".to_owned() } else { format!("by {}", names.join(", ")) }
}

#[cfg(test)]
mod tests;
