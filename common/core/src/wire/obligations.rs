//! What policies ask of what they permit.

use std::collections::BTreeSet;
use std::num::NonZeroU64;

use postern_proto::resource::v1 as pb;

use super::faults::Faults;
use crate::name::Name;
use crate::policy::{
    DEFAULT_REVIEW_WITHIN, Durability, Effect, MAX_REVIEW_WITHIN, MAX_STATEMENT_TIMEOUT, Obligations, ReviewAfterwards,
};
use crate::time::Ttl;

/// Sets of groups that one policy may ask, each for a review of its own.
const MAX_SETS: usize = 8;

pub(super) fn read(asked: Option<pb::Obligations>, effect: Effect, faults: &mut Faults) -> Obligations {
    let Some(asked) = asked else { return Obligations::default() };
    if effect == Effect::Deny {
        faults.add("spec.obligations", "has no meaning with effect \"deny\"");
    }
    if asked.statement_timeout_seconds > MAX_STATEMENT_TIMEOUT {
        let most = format!("must be at most {MAX_STATEMENT_TIMEOUT} seconds");
        faults.add("spec.obligations.statementTimeout", most);
    }
    let named = asked.durability;
    let durability = durability(asked.durability, faults);
    let asked = Obligations {
        row_limit: NonZeroU64::new(asked.row_limit),
        statement_timeout: Some(Ttl(asked.statement_timeout_seconds)).filter(|timeout| timeout.0 > 0),
        read_only: asked.read_only,
        masks: masks(&asked.masks, faults),
        durability,
        reviews: reviews(asked.reviews_afterwards, faults),
    };
    // A class that is not known was told of.
    if asked.is_empty() && named == 0 {
        faults.add("spec.obligations", "must name at least one obligation");
    }
    asked
}

/// Nothing where nothing is asked: the same object is the same bytes as before there were obligations.
pub(super) fn to_proto(asked: &Obligations) -> Option<pb::Obligations> {
    (!asked.is_empty()).then(|| pb::Obligations {
        row_limit: asked.row_limit.map_or(0, NonZeroU64::get),
        statement_timeout_seconds: asked.statement_timeout.map_or(0, |timeout| timeout.0),
        read_only: asked.read_only,
        masks: asked.masks.iter().map(ToString::to_string).collect(),
        durability: asked
            .durability
            .map_or(pb::Durability::Unspecified, |class| match class {
                Durability::Quorum => pb::Durability::Quorum,
                Durability::Spooled => pb::Durability::Spooled,
                Durability::Buffered => pb::Durability::Buffered,
            })
            .into(),
        reviews_afterwards: (asked.reviews.iter())
            .map(|asked| pb::ReviewAfterwards {
                groups: asked.groups.iter().cloned().collect(),
                within_seconds: asked.within.0,
            })
            .collect(),
    })
}

/// One that is not known is refused: it would be taken for none.
fn durability(asked: i32, faults: &mut Faults) -> Option<Durability> {
    match pb::Durability::try_from(asked) {
        Ok(pb::Durability::Unspecified) => None,
        Ok(pb::Durability::Quorum) => Some(Durability::Quorum),
        Ok(pb::Durability::Spooled) => Some(Durability::Spooled),
        Ok(pb::Durability::Buffered) => Some(Durability::Buffered),
        Err(_) => {
            faults.add("spec.obligations.durability", "must be quorum, spooled or buffered");
            None
        }
    }
}

fn reviews(asked: Vec<pb::ReviewAfterwards>, faults: &mut Faults) -> BTreeSet<ReviewAfterwards> {
    const FIELD: &str = "spec.obligations.reviewAfterwards";
    faults.bound(FIELD, asked.len(), MAX_SETS);
    let mut reviews = BTreeSet::new();
    for asked in asked {
        if asked.groups.is_empty() || asked.groups.iter().any(String::is_empty) {
            faults.add(format!("{FIELD}.groups"), "must name at least one group of reviewers");
        }
        faults.bound_all(&format!("{FIELD}.groups"), &asked.groups);
        if asked.within_seconds > MAX_REVIEW_WITHIN {
            faults.add(format!("{FIELD}.within"), format!("must be at most {MAX_REVIEW_WITHIN} seconds"));
        }
        let within = if asked.within_seconds == 0 { DEFAULT_REVIEW_WITHIN } else { asked.within_seconds };
        reviews.insert(ReviewAfterwards { groups: asked.groups.into_iter().collect(), within: Ttl(within) });
    }
    reviews
}

fn masks(names: &[String], faults: &mut Faults) -> BTreeSet<Name> {
    faults.bound_all("spec.obligations.masks", names);
    let mut masks = BTreeSet::new();
    for (place, name) in names.iter().enumerate() {
        match name.parse() {
            Ok(name) => drop(masks.insert(name)),
            Err(error) => faults.add(format!("spec.obligations.masks[{place}]"), format!("{error}")),
        }
    }
    masks
}

#[cfg(test)]
#[path = "obligations_tests.rs"]
mod tests;
