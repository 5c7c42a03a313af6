//! Items of review: what was done in a session under policies that ask for a review afterwards.

use serde::{Deserialize, Serialize};

use crate::background::{ValuePlace, ValueUse};
use crate::id::{OperationId, ReviewId, SessionId};
use crate::name::Name;
use crate::operation::Digest;
use crate::principal::{Link, Principal};
use crate::time::Timestamp;

/// Bytes of a statement that an item keeps. All of it is in the recording.
pub const MAX_REVIEW_TEXT: usize = 16 << 10;
/// What one item may weigh in all.
pub const MAX_REVIEW_WEIGHT: usize = 256 << 10;
/// Policies that one item may name.
pub const MAX_REVIEW_POLICIES: usize = 100;

/// One session's use of what is to be reviewed afterwards, for one set of groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReviewItem {
    /// Its id, made by the gateway.
    pub id: ReviewId,
    /// Who did it.
    pub principal: Principal,
    /// Where.
    pub target: Name,
    /// In which session: all that was done is in its recording.
    pub session: SessionId,
    /// Through which gateway.
    pub gateway: String,
    /// The first operation that asked for it.
    pub operation: OperationId,
    /// Its exact bytes and parameters.
    pub digest: Digest,
    /// Its statement as sent; the beginning of a long one.
    pub text: String,
    /// There is more of it.
    pub text_cut: bool,
    /// Its parameters, as text.
    pub parameters: Vec<String>,
    /// Its actions, as text.
    pub actions: Vec<String>,
    /// The policies that ask.
    pub policies: Vec<String>,
    /// The policy revision at which they were first used.
    pub policy_revision: u64,
    /// What those policies say of it.
    pub reason: String,
    /// Members of any of these may close it; in order.
    pub groups: Vec<String>,
    /// When the control plane took it, by its logical clock.
    pub opened_at: Timestamp,
    /// When it is due.
    pub due_at: Timestamp,
    /// It was not closed when it was due.
    pub overdue: bool,
    /// The session has ended.
    pub session_over: bool,
    /// How it was closed; none: it is open.
    pub closed: Option<Closing>,
    /// The Raft index of its last change.
    pub revision: u64,
    /// The relations that the first operation concerns: database, schema, name.
    pub relations: Vec<[std::sync::Arc<str>; 3]>,
    /// What the values in it may be set against.
    pub values: Vec<ValueUse>,
}

/// A reviewer's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closing {
    /// Who.
    pub by: Principal,
    /// What they found.
    pub finding: Finding,
    /// Why, in their words.
    pub comment: String,
    /// When, by the control plane's logical clock.
    pub at: Timestamp,
}

/// What a reviewer found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finding {
    /// It was right.
    Ok,
    /// It was not, or somebody has to look further.
    Concern,
}

impl Finding {
    /// The stable text form.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Concern => "concern",
        }
    }
}

impl ReviewItem {
    /// What it weighs: all of its text that comes from outside.
    #[must_use]
    pub fn weight(&self) -> usize {
        let lists = [&self.parameters, &self.actions, &self.policies, &self.groups];
        let lists = lists.into_iter().flatten().map(|text| text.len().saturating_add(24));
        let of = |principal: &Principal| {
            let groups = principal.groups.iter().map(|group| group.len());
            let chain = principal.chain.iter().map(Link::weight);
            groups.chain(chain).fold(principal.id.subject.len(), usize::saturating_add)
        };
        let closed = self.closed.as_ref().map(|closed| of(&closed.by).saturating_add(closed.comment.len()));
        let relations = self.relations.iter().flatten().map(|part| part.len().saturating_add(8));
        let values = self.values.iter().map(|value| {
            value.columns.iter().map(|column| column.len().saturating_add(8)).fold(24, usize::saturating_add)
        });
        let texts = [self.text.len(), self.reason.len(), self.gateway.len(), of(&self.principal), 256];
        lists.chain(closed).chain(relations).chain(values).chain(texts).fold(0, usize::saturating_add)
    }
}

/// The beginning of a statement that an item keeps, what of `values` is in it, and whether it was cut.
#[must_use]
pub fn beginning(text: &str, values: Vec<ValueUse>) -> (String, Vec<ValueUse>, bool) {
    let end = text.floor_char_boundary(MAX_REVIEW_TEXT);
    let kept = text.get(..end).unwrap_or_default().to_owned();
    let most = u32::try_from(end).unwrap_or(u32::MAX);
    let within = values.into_iter().filter_map(|mut value| {
        if let ValuePlace::Text(from, to) = &mut value.place {
            if *from >= most {
                return None;
            }
            *to = (*to).min(most);
        }
        Some(value)
    });
    (kept, within.collect(), end < text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_of_a_long_statement_hides_what_the_whole_hides() {
        let value = |from, to| ValueUse { place: ValuePlace::Text(from, to), columns: vec!["a".into()] };
        let end = u32::try_from(MAX_REVIEW_TEXT).unwrap();
        let parameter = ValueUse { place: ValuePlace::Parameter(1), columns: vec!["a".into()] };
        let values = vec![value(0, 3), value(end - 2, end + 9), value(end, end + 1), parameter.clone()];
        let (kept, values, cut) = beginning(&"x".repeat(MAX_REVIEW_TEXT + 10), values);
        assert_eq!((kept.len(), cut), (MAX_REVIEW_TEXT, true));
        assert_eq!(values, [value(0, 3), value(end - 2, end), parameter]);
        assert_eq!(beginning("SELECT 1", Vec::new()), ("SELECT 1".into(), Vec::new(), false));
        // Never in the middle of a character.
        assert_eq!(beginning(&"ä".repeat(MAX_REVIEW_TEXT), Vec::new()).0.len() % 2, 0);
    }
}
