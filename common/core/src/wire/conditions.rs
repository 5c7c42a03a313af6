//! What must be so for a policy to apply.

use postern_proto::resource::v1 as pb;

use super::faults::Faults;
use super::issuer;
use crate::kept::KeptClaims;
use crate::policy::{Authentication, Conditions, Effect};

/// Alternatives of `acr`, and means in `amr`.
const MAX_VALUES: usize = 16;

pub(super) fn read(when: pb::Conditions, effect: Effect, faults: &mut Faults) -> Conditions {
    let authentication = when.authentication.map(|asked| authentication(asked, effect, faults));
    Conditions { bounded: when.bounded, authentication }
}

fn authentication(asked: pb::Authentication, effect: Effect, faults: &mut Faults) -> Authentication {
    if effect == Effect::Deny {
        // It would deny less to those who say nothing of how they logged in.
        faults.add(
            "spec.when.authentication",
            "has no meaning with effect \"deny\": ask for it where something is permitted",
        );
    }
    let most = asked.max_token_ttl_seconds;
    if asked.acr.is_empty() && asked.amr.is_empty() && most == 0 {
        faults.add("spec.when.authentication", "must name acr, amr or maxTokenTtl");
    }
    for (path, values) in [("spec.when.authentication.acr", &asked.acr), ("spec.when.authentication.amr", &asked.amr)] {
        faults.bound(path, values.len(), MAX_VALUES);
        for (place, value) in values.iter().enumerate() {
            if value.is_empty() || value.len() > KeptClaims::MOST_TEXT || value.chars().any(char::is_control) {
                faults.add(format!("{path}[{place}]"), "is no value that a token could have");
            }
        }
    }
    let max_token_ttl = issuer::token_ttl("spec.when.authentication.maxTokenTtl", most, faults);
    Authentication { acr: asked.acr, amr: asked.amr, max_token_ttl }
}

pub(super) fn to_proto(when: &Conditions) -> Option<pb::Conditions> {
    let authentication = when.authentication.as_ref().map(|asked| pb::Authentication {
        acr: asked.acr.clone(),
        amr: asked.amr.clone(),
        max_token_ttl_seconds: asked.max_token_ttl.map_or(0, |ttl| ttl.0),
    });
    // As before there was more to say: the same policy is the same bytes.
    (when.bounded.is_some() || authentication.is_some())
        .then_some(pb::Conditions { bounded: when.bounded, authentication })
}
