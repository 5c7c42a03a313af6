//! Rules that replace values before they leave (I4).

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::name::Name;
use crate::policy::Pattern;
use crate::principal::Principal;
use crate::target::TargetSelector;

/// Replaces the values of named columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaskingRule {
    /// Where it holds.
    pub targets: TargetSelector,
    /// Patterns over `database.schema.table.column`, or `schema.table.column` for any database.
    pub columns: Vec<Pattern>,
    /// What a value becomes.
    pub mask: MaskFunction,
    /// Members of any of these groups see the value.
    pub exempt_groups: Vec<String>,
}

/// What a value becomes. A value whose type cannot hold the replacement becomes NULL.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MaskFunction {
    /// NULL.
    Null,
    /// A fixed text.
    Redact(Arc<str>),
    /// All characters but the last `keep_last` become `*`.
    Partial {
        /// Characters kept at the end.
        keep_last: u32,
    },
    /// A keyed hash, so that equal values stay equal.
    Hash,
}

/// The masking rules that hold for one principal on one target: what a session consults.
#[derive(Clone, Debug, Default)]
pub struct MaskSlice {
    rules: Vec<(Name, MaskingRule)>,
}

impl MaskFunction {
    /// For the recording and for `describe`.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Redact(_) => "redact",
            Self::Partial { .. } => "partial",
            Self::Hash => "hash",
        }
    }
}

impl MaskingRule {
    /// Whether it masks anything for `principal` on the target.
    #[must_use]
    pub fn holds_for(&self, principal: &Principal, target: &Name, labels: &BTreeMap<String, String>) -> bool {
        self.targets.matches(target, labels) && !principal.in_any(self.exempt_groups.iter())
    }
}

impl MaskSlice {
    /// Whether it has the same rules as `other`: then nothing is masked otherwise.
    #[must_use]
    pub fn says_the_same(&self, other: &Self) -> bool {
        self.rules == other.rules
    }

    /// Those of `rules` that hold for `principal` on the target.
    pub fn new<'a>(
        rules: impl IntoIterator<Item = (&'a Name, &'a MaskingRule)>,
        principal: &Principal,
        target: &Name,
        labels: &BTreeMap<String, String>,
    ) -> Self {
        let rules = rules.into_iter().filter(|(_, rule)| rule.holds_for(principal, target, labels));
        Self { rules: rules.map(|(name, rule)| (name.clone(), rule.clone())).collect() }
    }

    /// No rule holds: results need no inspection.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The mask of `database.schema.table.column`, of the first rule that names it.
    #[must_use]
    pub fn column(&self, path: [&str; 4]) -> Option<&MaskFunction> {
        self.rules
            .iter()
            .find(|(_, rule)| rule.columns.iter().any(|pattern| pattern.matches_tail(&path)))
            .map(|(_, rule)| &rule.mask)
    }

    /// Whether some rule may name a column of `database.schema.table`, whatever its columns are called.
    #[must_use]
    pub fn touches_relation(&self, path: [&str; 3]) -> bool {
        self.rules.iter().any(|(_, rule)| rule.columns.iter().any(|pattern| pattern.covers_parent_of(&path)))
    }
}
