//! Rules that replace values before they leave (I4).

mod columns;
mod detector;
mod function;

use std::collections::{BTreeMap, BTreeSet};

pub use self::columns::{ColumnRegex, type_name};
pub use self::detector::{Detector, Detectors};
pub use self::function::{DateUnit, InvalidMask, MAX_KEPT, MAX_REDACTED, MaskFunction, REDACTED};

use crate::name::Name;
use crate::policy::Pattern;
use crate::principal::Principal;
use crate::target::TargetSelector;

/// Replaces values before they leave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MaskingRule {
    /// Where it holds.
    pub targets: TargetSelector,
    /// Patterns over `database.schema.table.column`, or `schema.table.column` for any database.
    pub columns: Vec<Pattern>,
    /// Also the columns whose `schema.table.column` one of these is found in.
    pub matching: Vec<ColumnRegex>,
    /// Also the columns of these types, of arrays of them, and of types made of them.
    pub types: Vec<String>,
    /// Also the columns with a label in which one of these is found.
    pub labels: Vec<ColumnRegex>,
    /// Instead of columns: what is replaced wherever a value holds it, in columns that no other rule masks.
    pub detect: Detectors,
    /// What a value becomes.
    pub mask: MaskFunction,
    /// Its columns may be shown, masked, and used for nothing else: not in filters, joins, order, grouping or expressions, by which values can be found.
    pub opaque: bool,
    /// Members of any of these groups see the value.
    pub exempt_groups: Vec<String>,
    /// It holds for those only of whom a policy says so, wherever that does.
    pub only_by_policy: bool,
}

/// A column, as rules name it.
pub struct NamedColumn<'a> {
    /// Database, schema, table and column.
    pub path: [&'a str; 4],
    /// Whether it is of the type of this name, or made of it.
    pub is_of: &'a dyn Fn(&str) -> bool,
    /// What the target's catalog says of it; none: not known, any may be its.
    pub labels: Option<&'a [std::sync::Arc<str>]>,
}

/// The masking rules that hold for one principal on one target: what a session consults.
#[derive(Clone, Debug, Default)]
pub struct MaskSlice {
    rules: Vec<(Name, MaskingRule)>,
    /// Policies ask for some of them: then the strictest that names a column counts, and they are in that order.
    strictest: bool,
}

impl MaskingRule {
    /// Whether it masks anything for `principal` on the target, if no policy says so.
    #[must_use]
    pub fn holds_for(&self, principal: &Principal, target: &Name, labels: &BTreeMap<String, String>) -> bool {
        !self.only_by_policy && self.targets.matches(target, labels) && !self.exempts(principal)
    }

    /// Whether `principal` sees the values all the same.
    fn exempts(&self, principal: &Principal) -> bool {
        principal.in_any(self.exempt_groups.iter())
    }

    /// What holds where a policy asks for a rule that there is not: every column is masked.
    fn of_everything() -> Self {
        Self { columns: Pattern::parse("*.*.*").into_iter().collect(), ..Self::default() }
    }

    /// Says nothing that members and gateways of feature level 4 do not know.
    #[must_use]
    pub const fn is_of_level_4(&self) -> bool {
        self.matching.is_empty()
            && self.types.is_empty()
            && self.labels.is_empty()
            && self.detect.is_empty()
            && !self.opaque
            && !self.only_by_policy
            && self.mask.is_of_level_4()
    }

    /// What a gateway of level 4 is told in its place: to mask every column of the targets. More is hidden there, and nothing shown.
    #[must_use]
    pub fn for_level_4(&self) -> Self {
        Self { targets: self.targets.clone(), exempt_groups: self.exempt_groups.clone(), ..Self::of_everything() }
    }

    /// Whether it names the column.
    fn names(&self, column: &NamedColumn<'_>) -> bool {
        let [_, schema, table, name] = column.path;
        let dotted = || format!("{schema}.{table}.{name}");
        self.columns.iter().any(|pattern| pattern.matches_tail(&column.path))
            || self.types.iter().any(|name| (column.is_of)(name))
            || self.is_labelled(column.labels)
            || (!self.matching.is_empty() && {
                let dotted = dotted();
                self.matching.iter().any(|regex| regex.is_match(&dotted))
            })
    }
}

impl MaskingRule {
    /// Whether it speaks of any of a column's labels.
    fn is_labelled(&self, labels: Option<&[std::sync::Arc<str>]>) -> bool {
        let says = |label: &std::sync::Arc<str>| self.labels.iter().any(|regex| regex.is_match(label));
        labels.map_or(!self.labels.is_empty(), |labels| labels.iter().any(says))
    }
}

impl MaskSlice {
    /// Whether it has the same rules as `other`: then nothing is masked otherwise.
    #[must_use]
    pub fn says_the_same(&self, other: &Self) -> bool {
        self.rules == other.rules && self.strictest == other.strictest
    }

    /// Those of `rules` that hold for `principal` on the target.
    pub fn new<'a>(
        rules: impl IntoIterator<Item = (&'a Name, &'a MaskingRule)>,
        principal: &Principal,
        target: &Name,
        labels: &BTreeMap<String, String>,
    ) -> Self {
        Self::with(rules, &BTreeSet::new(), principal, target, labels)
    }

    /// Likewise, and those that policies ask for, by name: whatever their targets are. One that is not there stands for a mask over everything.
    pub fn with<'a>(
        rules: impl IntoIterator<Item = (&'a Name, &'a MaskingRule)>,
        asked: &BTreeSet<Name>,
        principal: &Principal,
        target: &Name,
        labels: &BTreeMap<String, String>,
    ) -> Self {
        let (mut missing, mut all) = (asked.clone(), Vec::new());
        for (name, rule) in rules {
            let is_asked = missing.remove(name) && !rule.exempts(principal);
            if is_asked || rule.holds_for(principal, target, labels) {
                all.push((name.clone(), rule.clone()));
            }
        }
        all.extend(missing.into_iter().map(|name| (name, MaskingRule::of_everything())));
        let strictest = !asked.is_empty();
        if strictest {
            // Those that are as strict stay in the order of their names.
            all.sort_by_key(|(_, rule)| std::cmp::Reverse(rule.mask.strictness()));
        }
        Self { rules: all, strictest }
    }

    /// No rule holds: results need no inspection.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The mask of a column, of the first rule that names it.
    #[must_use]
    pub fn column(&self, column: &NamedColumn<'_>) -> Option<&MaskFunction> {
        self.rule(column).map(|rule| &rule.mask)
    }

    /// Whether that rule is opaque; where the strictest counts, whether any is that names it.
    #[must_use]
    pub fn is_opaque(&self, column: &NamedColumn<'_>) -> bool {
        match self.strictest {
            false => self.rule(column).is_some_and(|rule| rule.opaque),
            true => self.rules.iter().any(|(_, rule)| rule.opaque && rule.names(column)),
        }
    }

    /// Some rule is opaque.
    #[must_use]
    pub fn has_opaque(&self) -> bool {
        self.rules.iter().any(|(_, rule)| rule.opaque)
    }

    fn rule(&self, column: &NamedColumn<'_>) -> Option<&MaskingRule> {
        self.rules.iter().find(|(_, rule)| rule.names(column)).map(|(_, rule)| rule)
    }

    /// The types that rules speak of, each with its mask; the first of a type counts.
    pub fn types(&self) -> impl Iterator<Item = (&str, &MaskFunction)> {
        self.rules.iter().flat_map(|(_, rule)| rule.types.iter().map(|name| (name.as_str(), &rule.mask)))
    }

    /// Whether no rule names columns or types.
    #[must_use]
    pub fn names_nothing(&self) -> bool {
        self.rules.iter().all(|(_, rule)| !rule.detect.is_empty())
    }

    /// What rules look for in values, each with its mask; the first that finds a part counts.
    pub fn detections(&self) -> impl Iterator<Item = (Detectors, &MaskFunction)> {
        self.rules.iter().filter(|(_, rule)| !rule.detect.is_empty()).map(|(_, rule)| (rule.detect, &rule.mask))
    }

    /// Whether some rule may name a column of `database.schema.table`, whatever its columns are called.
    #[must_use]
    pub fn touches_relation(&self, path: [&str; 3]) -> bool {
        self.rules.iter().any(|(_, rule)| {
            !rule.matching.is_empty()
                || !rule.types.is_empty()
                || !rule.labels.is_empty()
                || rule.columns.iter().any(|pattern| pattern.covers_parent_of(&path))
        })
    }
}

#[cfg(test)]
#[path = "asked_tests.rs"]
mod tests;
