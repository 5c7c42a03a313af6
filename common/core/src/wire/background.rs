//! What reviewers are told beside the operation.

use std::sync::Arc;

use postern_proto::resource::v1 as pb;

use super::{WireError, timestamp_from_proto, timestamp_to_proto};
use crate::background::{
    Background, Ending, Estimate, MAX_BACKGROUND, MAX_PAST, MAX_PAST_TEXT, MAX_VALUES, Past, ValuePlace, ValueUse,
};

/// Longest name of a setting, and reason why there is no estimate, in bytes.
const MAX_WORDS: usize = 1_000;

/// To protobuf.
#[must_use]
pub fn background_to_proto(background: &Background) -> pb::ApprovalBackground {
    let estimate = background.estimate.as_ref().map(|estimate| match estimate {
        Estimate::Planned { returned, written, cost } => {
            pb::RowEstimate { returned: *returned, written: *written, cost: *cost, unknown: String::new() }
        }
        Estimate::Unknown { why } => pb::RowEstimate { unknown: why.clone(), ..pb::RowEstimate::default() },
    });
    let past = background.past.iter().map(|past| pb::PastOperation {
        at: Some(timestamp_to_proto(past.at)),
        text: past.text.clone(),
        outcome: past.outcome.clone(),
        rows: past.rows,
    });
    pb::ApprovalBackground {
        estimate,
        transaction_since: background.transaction_since.map(timestamp_to_proto),
        ends_at: background.ends.as_ref().map(|ends| timestamp_to_proto(ends.at)),
        ends_by: background.ends.as_ref().map(|ends| ends.setting.clone()).unwrap_or_default(),
        past: past.collect(),
        earlier: background.earlier,
        relations: relations_to_proto(&background.relations),
        values: values_to_proto(&background.values),
        veiled: false,
    }
}

/// From protobuf.
///
/// # Errors
/// When there is more of it than a gateway tells.
pub fn background_from_proto(background: pb::ApprovalBackground) -> Result<Background, WireError> {
    let too_much = || WireError::new("approval.background", "tells more than reviewers are shown");
    let estimate = background.estimate.map(|estimate| {
        if estimate.unknown.is_empty() {
            Estimate::Planned { returned: estimate.returned, written: estimate.written, cost: estimate.cost }
        } else {
            Estimate::Unknown { why: estimate.unknown }
        }
    });
    let past = background.past.into_iter().map(|past| Past {
        at: past.at.as_ref().map(timestamp_from_proto).unwrap_or_default(),
        text: past.text,
        outcome: past.outcome,
        rows: past.rows,
    });
    let read = Background {
        estimate,
        transaction_since: background.transaction_since.as_ref().map(timestamp_from_proto),
        ends: background
            .ends_at
            .as_ref()
            .map(|at| Ending { at: timestamp_from_proto(at), setting: background.ends_by }),
        past: past.collect(),
        earlier: background.earlier,
        relations: relations_from_proto(background.relations),
        values: values_from_proto(background.values),
    };
    let long = |text: &String| text.len() > MAX_WORDS;
    let wordy = matches!(&read.estimate, Some(Estimate::Unknown { why }) if long(why))
        || read.ends.as_ref().is_some_and(|ends| long(&ends.setting))
        || read.past.iter().any(|past| past.text.len() > MAX_PAST_TEXT.saturating_mul(2) || long(&past.outcome));
    if wordy || read.past.len() > MAX_PAST || read.values.len() > MAX_VALUES || read.weight() > MAX_BACKGROUND {
        return Err(too_much());
    }
    Ok(read)
}

pub(super) fn relations_to_proto(relations: &[[Arc<str>; 3]]) -> Vec<pb::ConcernedRelation> {
    let one = |[database, schema, name]: &[Arc<str>; 3]| pb::ConcernedRelation {
        database: database.to_string(),
        schema: schema.to_string(),
        name: name.to_string(),
    };
    relations.iter().map(one).collect()
}

pub(super) fn relations_from_proto(relations: Vec<pb::ConcernedRelation>) -> Vec<[Arc<str>; 3]> {
    relations.into_iter().map(|one| [one.database.into(), one.schema.into(), one.name.into()]).collect()
}

pub(super) fn values_to_proto(values: &[ValueUse]) -> Vec<pb::ValueUse> {
    let one = |value: &ValueUse| {
        let (parameter, from, to) = match value.place {
            ValuePlace::Parameter(number) => (number, 0, 0),
            ValuePlace::Text(from, to) => (0, from, to),
        };
        pb::ValueUse { parameter, from, to, columns: value.columns.iter().map(ToString::to_string).collect() }
    };
    values.iter().map(one).collect()
}

pub(super) fn values_from_proto(values: Vec<pb::ValueUse>) -> Vec<ValueUse> {
    let one = |value: pb::ValueUse| ValueUse {
        place: match value.parameter {
            0 => ValuePlace::Text(value.from, value.to),
            number => ValuePlace::Parameter(number),
        },
        columns: value.columns.into_iter().map(Into::into).collect(),
    };
    values.into_iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Timestamp;

    #[test]
    fn comes_back_as_it_was() {
        let mut background = Background {
            estimate: Some(Estimate::Planned { returned: 0, written: 20, cost: 3 }),
            transaction_since: Some(Timestamp::from_millis(5)),
            ends: Some(Ending { at: Timestamp::from_millis(9), setting: "idle_session_timeout".into() }),
            past: vec![Past { at: Timestamp::from_millis(1), text: "BEGIN".into(), outcome: "BEGIN".into(), rows: 0 }],
            earlier: 4,
            relations: vec![["db".into(), "public".into(), "t".into()]],
            values: vec![
                ValueUse { place: ValuePlace::Parameter(1), columns: vec!["a".into()] },
                ValueUse { place: ValuePlace::Text(3, 8), columns: vec!["*".into()] },
            ],
        };
        assert_eq!(background_from_proto(background_to_proto(&background)).unwrap(), background);
        background.estimate = Some(Estimate::Unknown { why: "no time".into() });
        assert_eq!(background_from_proto(background_to_proto(&background)).unwrap(), background);
        background.past = vec![background.past[0].clone(); MAX_PAST + 1];
        assert!(background_from_proto(background_to_proto(&background)).is_err());
    }
}
