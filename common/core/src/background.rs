//! What reviewers are told beside the operation itself. Nothing is decided by it.

use std::sync::Arc;

use crate::masking::{MaskSlice, NamedColumn};
use crate::time::Timestamp;

/// Operations of the session so far that reviewers are shown.
pub const MAX_PAST: usize = 20;
/// Bytes of each one's text.
pub const MAX_PAST_TEXT: usize = 240;
/// Values of which it is known what they may be set against; with more, any of them may be of any column.
pub const MAX_VALUES: usize = 256;
/// Bytes of one background in all, about.
pub const MAX_BACKGROUND: usize = 64 << 10;

/// What the gateway knew of an operation when it held it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Background {
    /// What the target expects of it.
    pub estimate: Option<Estimate>,
    /// Since when the session is in a transaction; none: it is in none.
    pub transaction_since: Option<Timestamp>,
    /// When the target ends the transaction, or the session, by itself.
    pub ends: Option<Ending>,
    /// The session's newest operations before it, oldest first.
    pub past: Vec<Past>,
    /// How many there were before those.
    pub earlier: u64,
    /// The relations that it concerns: database, schema, name. None, where values have columns: it may be any.
    pub relations: Vec<[Arc<str>; 3]>,
    /// What the values in it may be set against.
    pub values: Vec<ValueUse>,
}

/// The planner's guess, taken without running anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Estimate {
    /// It can be planned.
    Planned {
        /// Rows that come back.
        returned: u64,
        /// Rows that are written.
        written: u64,
        /// The planner's cost of all of it, in its own unit.
        cost: u64,
    },
    /// It cannot, or not in time.
    Unknown {
        /// Why.
        why: String,
    },
}

/// The target's limit on sessions that do nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// When.
    pub at: Timestamp,
    /// By which of its settings.
    pub setting: String,
}

/// An operation of the session so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Past {
    /// When it was decided.
    pub at: Timestamp,
    /// The beginning of its text. Where masks hold on the target, without its values.
    pub text: String,
    /// How it ended, in a few words; empty while it goes on.
    pub outcome: String,
    /// Rows that came back.
    pub rows: u64,
}

/// What one value in a held statement may be set against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueUse {
    /// Where it stands.
    pub place: ValuePlace,
    /// Columns that it may be compared with or written to: names only. `*`: any.
    pub columns: Vec<Arc<str>>,
}

/// Where a value stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ValuePlace {
    /// The parameter of this number, from 1.
    Parameter(u32),
    /// Bytes of the text, from and to.
    Text(u32, u32),
}

/// What stands for a value that is not shown.
const VEIL: &str = "****";

impl ValueUse {
    /// Whether a reviewer under `masks` may see it.
    fn is_hidden(&self, relations: &[[Arc<str>; 3]], masks: &MaskSlice) -> bool {
        // What is looked for in values may be in any of them.
        if masks.detections().next().is_some() {
            return true;
        }
        // Of relations that were too many to be told, it may be of any.
        if relations.is_empty() {
            return !self.columns.is_empty();
        }
        relations.iter().any(|[database, schema, name]| {
            self.columns.iter().any(|column| match &**column {
                "*" => masks.touches_relation([database, schema, name]),
                // Of a type that is not known here: it may be of each.
                column => masks
                    .column(&NamedColumn { path: [database, schema, name, column], is_of: &|_| true, labels: None })
                    .is_some(),
            })
        })
    }
}

/// A statement and its parameters, for one who is under `masks`: values that may be of a masked column are not shown (I4).
#[must_use]
pub fn veiled(
    text: &str,
    parameters: &[String],
    background: &Background,
    masks: &MaskSlice,
) -> Option<(String, Vec<String>)> {
    if masks.is_empty() {
        return None;
    }
    let hidden: Vec<ValuePlace> = background
        .values
        .iter()
        .filter(|value| value.is_hidden(&background.relations, masks))
        .map(|value| value.place)
        .collect();
    if hidden.is_empty() {
        return None;
    }
    let (mut out, mut shown) = (parameters.to_vec(), text.to_owned());
    let mut spans = Vec::new();
    for place in hidden {
        match place {
            ValuePlace::Text(from, to) => spans.push((from, to)),
            ValuePlace::Parameter(number) => {
                let index = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
                if let Some(parameter) = index.and_then(|index| out.get_mut(index)) {
                    VEIL.clone_into(parameter);
                }
            }
        }
    }
    // From the end, so that what is before keeps its place.
    spans.sort_unstable();
    for (from, to) in spans.into_iter().rev() {
        let (from, to) = (usize::try_from(from).unwrap_or(usize::MAX), usize::try_from(to).unwrap_or(usize::MAX));
        if from > to || shown.get(from..to).is_none() {
            // No place in this text: nothing of it is shown.
            VEIL.clone_into(&mut shown);
            break;
        }
        shown.replace_range(from..to, VEIL);
    }
    Some((shown, out))
}

impl Background {
    /// What it weighs.
    #[must_use]
    pub fn weight(&self) -> usize {
        let past = self.past.iter().map(|past| past.text.len().saturating_add(past.outcome.len()).saturating_add(32));
        let relations = self.relations.iter().flatten().map(|part| part.len().saturating_add(8));
        let values = self.values.iter().map(|value| {
            value.columns.iter().map(|column| column.len().saturating_add(8)).fold(24, usize::saturating_add)
        });
        let why = match &self.estimate {
            Some(Estimate::Unknown { why }) => why.len(),
            _ => 0,
        };
        past.chain(relations).chain(values).fold(why.saturating_add(128), usize::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::masking::{Detector, Detectors, MaskingRule};
    use crate::principal::{Principal, PrincipalId};
    use crate::target::TargetSelector;

    fn masks(columns: &str) -> MaskSlice {
        let rule = MaskingRule {
            targets: TargetSelector { names: vec!["db".to_owned()], ..TargetSelector::default() },
            columns: vec![crate::policy::Pattern::parse(columns).unwrap()],
            ..MaskingRule::default()
        };
        masks_of(&rule)
    }

    fn masks_of(rule: &MaskingRule) -> MaskSlice {
        let who = Principal {
            id: PrincipalId { issuer: "corp".parse().unwrap(), subject: "rita".into() },
            groups: Default::default(),
            token_id: None,
            expires_at: None,
            chain: Vec::new(),
            claims: crate::KeptClaims::default(),
        };
        let name = "r".parse().unwrap();
        MaskSlice::new([(&name, rule)], &who, &"db".parse().unwrap(), &BTreeMap::new())
    }

    fn background(values: &[(ValuePlace, &str)]) -> Background {
        Background {
            relations: vec![["shop".into(), "public".into(), "users".into()]],
            values: values
                .iter()
                .map(|(place, column)| ValueUse { place: *place, columns: vec![(*column).into()] })
                .collect(),
            ..Background::default()
        }
    }

    #[test]
    fn values_of_masked_columns_are_veiled() {
        let text = "UPDATE users SET email = 'a@b' WHERE id = 7 AND x = $1";
        let values =
            [(ValuePlace::Text(25, 30), "email"), (ValuePlace::Text(42, 43), "id"), (ValuePlace::Parameter(1), "*")];
        let parameters = ["secret".to_owned()];
        let (shown, out) = veiled(text, &parameters, &background(&values), &masks("public.users.email")).unwrap();
        assert_eq!(shown, "UPDATE users SET email = **** WHERE id = 7 AND x = $1");
        assert_eq!(out, ["****"]);
        assert_eq!(veiled(text, &parameters, &background(&values), &masks("public.orders.*")), None);
        assert_eq!(veiled(text, &parameters, &background(&values), &MaskSlice::default()), None);
    }

    #[test]
    fn rules_by_type_and_by_value_hide_what_they_may_mean() {
        let values = [(ValuePlace::Parameter(1), "note")];
        let all_hidden = |rule: MaskingRule| {
            let rule = MaskingRule {
                targets: TargetSelector { names: vec!["db".to_owned()], ..TargetSelector::default() },
                ..rule
            };
            let (_, shown) = veiled("", &["4111".to_owned()], &background(&values), &masks_of(&rule)).unwrap();
            assert_eq!(shown, ["****"]);
        };
        all_hidden(MaskingRule { types: vec!["text".to_owned()], ..MaskingRule::default() });
        all_hidden(MaskingRule { detect: Detectors::from_iter([Detector::CreditCard]), ..MaskingRule::default() });
    }

    #[test]
    fn a_place_that_is_none_hides_all() {
        let values = [(ValuePlace::Text(2, 900), "email")];
        let (shown, _) = veiled("abc", &[], &background(&values), &masks("public.users.email")).unwrap();
        assert_eq!(shown, "****");
    }
}
