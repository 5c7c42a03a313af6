//! Files of policies in Cedar: each policy is a Policy, by the name that its `@id` says.

use std::sync::Arc;

use postern_core::policy::cedar::Rule;
use postern_core::resource::Kind;
use postern_proto::resource::v1 as pb;

use super::faults::{Fault, Lines};
use super::load::Manifest;

/// The policies of one file's `text`.
pub(super) fn parse(file: &str, text: &str, manifests: &mut Vec<Manifest>, faults: &mut Vec<Fault>) {
    let file: Arc<str> = file.into();
    let rules = match Rule::parse_all(text) {
        Ok(rules) => rules,
        Err(error) => {
            let line = error.policy.as_ref().map_or(0, |name| line_of(text, name.as_str()));
            faults.push(Fault { file, line, path: String::new(), message: error.to_string() });
            return;
        }
    };
    for (name, rule) in rules {
        let spec = pb::PolicySpec {
            effect: pb::Effect::Cedar.into(),
            cedar: rule.text().to_owned(),
            ..pb::PolicySpec::default()
        };
        let metadata = pb::Metadata { name: name.to_string(), ..pb::Metadata::default() };
        let resource = pb::Resource { metadata: Some(metadata), spec: Some(pb::resource::Spec::Policy(spec)) };
        let lines = Lines::from_line(&file, line_of(text, name.as_str()));
        manifests.push(Manifest { kind: Kind::Policy, resource, lines });
    }
}

/// Where the policy of that name begins; 0: as its name is not written so.
fn line_of(text: &str, name: &str) -> usize {
    let id = format!("@id(\"{name}\")");
    text.find(&id)
        .and_then(|place| text.get(..place))
        .map_or(0, |before| before.matches('\n').count().saturating_add(1))
}
