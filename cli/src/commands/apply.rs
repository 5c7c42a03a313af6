//! `postern apply`.

use postern_proto::admin::v1::{ApplyRequest, Change};
use postern_proto::resource::v1 as pb;

use crate::args::{ApplyArgs, ConnectionArgs};
use crate::client::{connect, refused, violations};
use crate::failure::Failure;
use crate::manifest::{self, Manifest};
use crate::output;

/// Reads the files, tells everything that is wrong with them, and only then asks the control plane.
pub(crate) async fn run(args: &ApplyArgs, connection: &ConnectionArgs) -> Result<(), Failure> {
    let manifests = manifest::load(&args.files)?;
    if manifests.is_empty() {
        return Err(Failure::failed("there is no object in these files"));
    }
    let client = connect(connection).await?;
    let request = ApplyRequest {
        resources: manifests.iter().map(|manifest| manifest.resource.clone()).collect(),
        request_id: postern_runtime::clock::request_id().to_string(),
        dry_run: args.dry_run,
    };
    let answer = client.resources().apply(request).await.map_err(|status| explain(status, &manifests))?.into_inner();
    for applied in answer.applied {
        let change = match applied.change() {
            Change::Created => "created",
            Change::Changed => "changed",
            Change::Unchanged => "unchanged",
            Change::Unspecified => "applied",
        };
        let kind = postern_core::wire::resource::kind_from_proto(applied.kind)
            .map_or_else(|| "object".to_owned(), |kind| kind.as_str().to_ascii_lowercase());
        let suffix = if args.dry_run { " (dry run)" } else { "" };
        output::line(format!("{kind}/{} {change}{suffix}", applied.name))?;
    }
    Ok(())
}

/// The control plane's refusal, at the lines that it speaks of.
fn explain(status: tonic::Status, manifests: &[Manifest]) -> Failure {
    let placed: Option<Vec<String>> = violations(&status)
        .iter()
        .map(|violation| {
            let (place, path) = indexed(&violation.field)?;
            let fault = manifests.get(place)?.lines.fault(path, &violation.description);
            Some(output::printable(&fault.to_string()))
        })
        .collect();
    match placed {
        Some(lines) if !lines.is_empty() => Failure::Many(lines),
        _ => match named(status.message(), manifests) {
            Some(at) => Failure::failed(format!("{at}: {}", refused(status))),
            None => refused(status),
        },
    }
}

/// `resources[2].spec.url` as 2 and `spec.url`.
fn indexed(field: &str) -> Option<(usize, &str)> {
    let (place, path) = field.strip_prefix("resources[")?.split_once(']')?;
    Some((place.parse().ok()?, path.strip_prefix('.').unwrap_or(path)))
}

/// The place of the one object whose kind and name a message speaks of, `Kind/name` or `Kind name`.
fn named(message: &str, manifests: &[Manifest]) -> Option<String> {
    let speaks_of = |manifest: &&Manifest| {
        let name = manifest.resource.metadata.as_ref().map(|metadata: &pb::Metadata| metadata.name.as_str());
        name.is_some_and(|name| {
            let words: Vec<&str> = message.split(|c: char| c.is_whitespace() || ":,;\"()".contains(c)).collect();
            let slashed = format!("{}/{name}", manifest.kind);
            words.iter().any(|word| word.eq_ignore_ascii_case(&slashed))
                || words
                    .windows(2)
                    .any(|pair| pair.first() == Some(&manifest.kind.as_str()) && pair.last() == Some(&name))
        })
    };
    let mut found = manifests.iter().filter(speaks_of);
    let first = found.next()?;
    // Of two objects it cannot be said which one is meant.
    if found.next().is_some() {
        return None;
    }
    let fault = first.lines.fault("metadata.name", "");
    let name = first.resource.metadata.as_ref().map(|metadata| metadata.name.as_str()).unwrap_or_default();
    Some(format!("{}:{}: {}/{name}", fault.file, fault.line, first.kind.as_str().to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_control_planes_faults_find_their_lines() {
        assert_eq!(indexed("resources[12].spec.url"), Some((12, "spec.url")));
        assert_eq!(indexed("spec.url"), None);
        let text = "apiVersion: postern/v1\nkind: Policy\nmetadata:\n  name: p\nspec:\n  effect: deny\n  actions: ['*']\n  principals: {groups: [a]}\n  targets: {names: ['*']}\n";
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("p.yaml");
        std::fs::write(&file, text).unwrap();
        let manifests = manifest::load(&[file]).unwrap();
        let failure = explain(tonic::Status::aborted("Policy/p is at revision 9, not 3"), &manifests);
        assert!(failure.to_string().contains("p.yaml:4: policy/p: stale: Policy/p is at"), "{failure}");
    }
}
