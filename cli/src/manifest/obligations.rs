//! What a Policy asks of what it permits.

use postern_core::policy::Durability;
use postern_proto::resource::v1 as pb;

use super::object::Object;
use crate::yaml::Value;

pub(super) fn read(spec: &mut Object<'_>) -> Option<pb::Obligations> {
    let mut asked = spec.object("obligations")?;
    let row_limit: Option<u64> = asked.number("rowLimit");
    if row_limit == Some(0) {
        asked.fault("rowLimit", "must be at least 1; leave it out for no limit");
    }
    let timeout = asked.seconds("statementTimeout");
    if timeout == Some(0) {
        asked.fault("statementTimeout", "must be at least 1s; leave it out for no limit");
    }
    let durability = asked.string("durability").map(|name| match Durability::by_name(&name) {
        Some(Durability::Quorum) => pb::Durability::Quorum,
        Some(Durability::Spooled) => pb::Durability::Spooled,
        Some(Durability::Buffered) => pb::Durability::Buffered,
        None => {
            asked.fault("durability", "must be quorum, spooled or buffered");
            pb::Durability::Unspecified
        }
    });
    let read = pb::Obligations {
        row_limit: row_limit.unwrap_or_default(),
        statement_timeout_seconds: timeout.unwrap_or_default(),
        read_only: asked.bool("readOnly").unwrap_or_default(),
        masks: asked.strings("masks"),
        durability: durability.unwrap_or_default().into(),
        reviews_afterwards: reviews(&mut asked),
    };
    asked.finish();
    Some(read)
}

/// One, or a list of them.
pub(crate) fn reviews(asked: &mut Object<'_>) -> Vec<pb::ReviewAfterwards> {
    const KEY: &str = "reviewAfterwards";
    let is_list = asked.node(KEY).is_some_and(|node| matches!(node.value, Value::Sequence(_)));
    let all = if is_list { asked.objects(KEY) } else { asked.object(KEY).into_iter().collect() };
    let one = |mut review: Object<'_>| {
        let groups = review.strings("groups");
        if groups.is_empty() {
            review.fault("groups", "must name at least one group of reviewers");
        }
        let within = review.seconds("within");
        if within == Some(0) {
            review.fault("within", "must be at least 1s; leave it out for 24h");
        }
        review.finish();
        pb::ReviewAfterwards { groups, within_seconds: within.unwrap_or_default() }
    };
    all.into_iter().map(one).collect()
}
