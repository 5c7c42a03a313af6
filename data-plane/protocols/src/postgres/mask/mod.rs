//! Masks on rows, COPY and messages (I4). Whatever cannot be traced to a column that is known and not masked is masked or refused.
//!
//! The server names the table and column of each result that is a column; by these, [`Masking`] knows its mask. For all other results, the
//! statement's [`Facts`] tell whether a masked column may have flown into them.

mod compile;
mod copy;
mod copy_binary;
mod copy_text;
mod row;
mod scrub;
mod value;

#[cfg(test)]
mod rule_tests;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use postern_core::masking::MaskFunction;

pub use self::copy::CopyMask;
pub use self::row::{Field, RowPlan};
pub use self::scrub::{Scrub, scrub_fields};
use self::value::{ColumnMask, Keys, Scanner};
use super::catalog::Catalog;
use crate::sql::{Facts, Relation, Statement, Unclassifiable};

/// The masking rules that hold for a session, resolved against its database. Compile once per policy slice and catalog; share.
#[derive(Clone, Default)]
pub struct Masking {
    active: bool,
    /// Some rule names columns or types, so that values have to be followed.
    named: bool,
    /// Some rule is opaque.
    opaque: bool,
    /// What is looked for in values that no such rule masks.
    scanner: Option<Scanner>,
    keys: Keys,
    /// None: no rule speaks of types.
    types: Option<Types>,
    catalog: Arc<Catalog>,
    relations: BTreeMap<u32, RelationMask>,
}

/// Every type that the catalog knows, by its OID, with its mask.
#[derive(Clone)]
struct Types(BTreeMap<u32, Option<MaskFunction>>);

/// The masks of one relation.
#[derive(Clone, Debug, Default)]
struct RelationMask {
    /// Of every column: a view that reads what is masked.
    all: Option<MaskFunction>,
    columns: BTreeMap<i16, MaskFunction>,
    /// Names of the masked columns.
    names: BTreeSet<Arc<str>>,
    /// Names of those that may only be shown.
    opaque: BTreeSet<Arc<str>>,
}

/// Rows are not as described.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MaskError {
    /// Not of the form that the server announced.
    #[error("a row is not of the form that the server announced")]
    Malformed,
    /// Longer than Postern holds.
    #[error("a row is larger than Postern holds while masking")]
    TooLarge,
}

/// Statistics and other sessions' statements hold values of any column.
const TELLING: &[&str] = &[
    "pg_stats",
    "pg_stats_ext",
    "pg_stats_ext_exprs",
    "pg_statistic",
    "pg_statistic_ext_data",
    "pg_stat_activity",
    "pg_stat_statements",
    "pg_stat_statements_info",
];

/// How far a statement can see what is masked.
struct Sight<'a> {
    /// Relations with masks that it reads.
    masked: Vec<&'a RelationMask>,
    /// Reads a relation that the catalog does not know.
    unknown: bool,
}

impl std::fmt::Debug for Masking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Masking")
            .field("active", &self.active)
            .field("relations", &self.relations.len())
            .finish_non_exhaustive()
    }
}

impl Masking {
    /// No rule holds: results need no inspection.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        !self.active
    }

    /// Whether `statement` may run under these masks. Ask at every Query, Parse and Bind.
    ///
    /// # Errors
    /// When it would carry a masked value to where no mask covers it, or reads what holds values of any column.
    pub fn admit(&self, statement: &Statement) -> Result<(), Unclassifiable> {
        if !self.named {
            return Ok(());
        }
        let facts = &statement.facts;
        if let Some(relation) = facts.relations().find(|relation| tells(relation)) {
            return Err(Unclassifiable::doubt(format!("{relation} may show values of masked columns")));
        }
        if let Some(relation) = facts.reshapes.iter().find(|relation| self.holds(relation)) {
            return Err(Unclassifiable::doubt(format!(
                "{relation} has masked columns, so its definition cannot be changed here"
            )));
        }
        if facts.unseen {
            return Err(Unclassifiable::doubt(
                "what the statement executes cannot be seen, and may reach masked columns",
            ));
        }
        if self.opaque {
            self.admit_uses(facts)?;
        }
        if facts.copies || facts.passes {
            if facts.copies && facts.opaque_call {
                return Err(Unclassifiable::doubt(
                    "the statement writes what a function returns, which may be a masked value",
                ));
            }
            let sight = self.sight(facts);
            let moves = facts.star_written || facts.any_written || sight.told_by_rows(facts);
            if sight.reaches(&facts.written, moves) || (sight.unknown && (moves || !facts.written.is_empty())) {
                return Err(Unclassifiable::doubt(
                    "the statement would carry a masked column to where no mask covers it",
                ));
            }
        }
        Ok(())
    }

    /// Opaque columns may be shown, and no more.
    fn admit_uses(&self, facts: &Facts) -> Result<(), Unclassifiable> {
        for relation in facts.reads.iter().chain(&facts.writes).filter(|relation| !is_systems(relation)) {
            let Some(mask) = self.mask_of(relation) else {
                if self.is_unknown(relation) && (facts.any_used || !facts.used.is_empty() || !facts.keys.is_empty()) {
                    return Err(Unclassifiable::doubt(format!(
                        "{relation} is not in the target's catalog yet, and may have columns that may only be shown"
                    )));
                }
                continue;
            };
            let used = |name: &str| facts.used.contains(name) || facts.keys.contains(name);
            if let Some(column) = mask.opaque.iter().find(|name| facts.any_used || used(name)) {
                let how = if used(column) { "is" } else { "may be" };
                return Err(Unclassifiable::doubt(format!(
                    "{relation}.{column} {how} used for more than to be shown, which its masking rule (opaque) does not allow: \
                     no filters, joins, order, grouping, DISTINCT, ON CONFLICT or expressions"
                )));
            }
        }
        Ok(())
    }

    /// Relations that `statement` reads and the catalog does not know; none where nothing is masked.
    #[must_use]
    pub fn strangers(&self, statement: &Statement) -> Vec<Relation> {
        if !self.named {
            return Vec::new();
        }
        let strange = |relation: &&Relation| !is_systems(relation) && self.is_unknown(relation);
        statement.facts.reads.iter().filter(strange).cloned().collect()
    }

    /// How much of the server's messages may be shown while `statement` runs.
    #[must_use]
    pub fn scrub(&self, statement: &Statement) -> Scrub {
        if !self.active {
            return Scrub::Nothing;
        }
        let touches = |relation: &Relation| {
            !is_systems(relation) && (self.mask_of(relation).is_some() || self.is_unknown(relation))
        };
        if statement.facts.opaque_call {
            Scrub::Everything
        } else if self.scanner.is_some() && (statement.facts.unseen || !statement.facts.reads.is_empty()) {
            // Any row may hold what is looked for.
            if statement.facts.unseen { Scrub::Everything } else { Scrub::Values }
        } else if !statement.facts.writes.is_empty() || statement.facts.relations().any(touches) {
            // A write fires triggers, which may say anything.
            Scrub::Values
        } else {
            Scrub::Details
        }
    }

    /// As [`Masking::scrub`], while no statement runs.
    #[must_use]
    pub const fn scrub_idle(&self) -> Scrub {
        if self.active { Scrub::Details } else { Scrub::Nothing }
    }

    /// Whether the payload of a NotificationResponse is withheld: who sent it may have seen what this session may not.
    #[must_use]
    pub const fn hides_notifications(&self) -> bool {
        self.active
    }

    /// Whether the catalog knows the table of a result; if not, it should be read anew.
    #[must_use]
    pub fn knows_table(&self, oid: u32) -> bool {
        oid < super::catalog::FIRST_NORMAL_OID || self.catalog.by_oid(oid).is_some()
    }

    /// The mask of a column of a result; `None` for one that is shown.
    fn column(&self, table: u32, column: i16) -> Option<MaskFunction> {
        if column > 0 && self.catalog.by_oid(table).is_some_and(|known| !known.columns.contains_key(&column)) {
            // Newer than the catalog: a rule may name it.
            return Some(MaskFunction::Null);
        }
        let relation = self.relations.get(&table)?;
        relation.columns.get(&column).or(relation.all.as_ref()).cloned()
    }

    /// What is done to values of a type that no rule masks.
    fn scan(&self, type_oid: u32, binary: bool) -> Option<ColumnMask> {
        ColumnMask::scan(self.scanner.as_ref()?, type_oid, binary)
    }

    /// The mask of values of a type, wherever they come from. Of one that the catalog does not know, all are masked.
    fn typed(&self, type_oid: u32) -> Option<MaskFunction> {
        self.types.as_ref()?.0.get(&type_oid).cloned().unwrap_or(Some(MaskFunction::Null))
    }

    /// The mask of what is no column: `None` when no masked column flows into any expression of `facts`.
    fn expression(&self, facts: &Facts) -> Option<MaskFunction> {
        if !self.active {
            return None;
        }
        let sight = self.sight(facts);
        if facts.opaque_call || sight.unknown {
            return Some(MaskFunction::Null);
        }
        sight.reaches(&facts.shown, facts.any_shown).then(|| sight.mask())
    }

    /// The mask of all columns of a result whose very rows may tell masked values.
    fn everything(&self, facts: &Facts) -> Option<MaskFunction> {
        let sight = self.sight(facts);
        (self.active && sight.told_by_rows(facts)).then(|| sight.mask())
    }

    /// Whether every relation that the statement reads is known, so that a table without a name here can only be one of the session's
    /// own temporary relations.
    fn unknown_is_temporary(&self, facts: &Facts) -> bool {
        let temporary = facts.reads.iter().chain(&facts.writes).any(is_temporary);
        temporary && !facts.opaque_call && !self.sight(facts).unknown
    }

    fn sight(&self, facts: &Facts) -> Sight<'_> {
        // RETURNING reads what is written.
        let relations = || facts.reads.iter().chain(&facts.writes).filter(|relation| !is_systems(relation));
        Sight {
            masked: relations().filter_map(|relation| self.mask_of(relation)).collect(),
            unknown: facts.reads.iter().any(|relation| !is_systems(relation) && self.is_unknown(relation)),
        }
    }

    fn is_unknown(&self, relation: &Relation) -> bool {
        !is_temporary(relation) && self.catalog.relation(&relation.schema, &relation.name).is_none()
    }

    /// Whether masks lie on the relation, or on any of the schema's for the name `*`.
    fn holds(&self, relation: &Relation) -> bool {
        let of_schema = |oid: &u32| self.catalog.by_oid(*oid).is_some_and(|known| *known.schema == *relation.schema);
        self.mask_of(relation).is_some() || (relation.name == "*" && self.relations.keys().any(of_schema))
    }

    fn mask_of(&self, relation: &Relation) -> Option<&RelationMask> {
        let (oid, _) = self.catalog.relation(&relation.schema, &relation.name)?;
        self.relations.get(&oid)
    }
}

impl Sight<'_> {
    /// Whether which rows come hangs on more of a masked column than a guess of the client's.
    fn told_by_rows(&self, facts: &Facts) -> bool {
        self.reaches(&facts.computed, facts.any_computed)
            || (facts.compares && self.reaches(&facts.derived, facts.any_shown))
    }

    /// Whether any of `names` is a masked column of what is read, or `any` column may be meant.
    fn reaches(&self, names: &BTreeSet<String>, any: bool) -> bool {
        self.masked.iter().any(|mask| any || mask.names.iter().any(|name| names.contains(&**name)))
    }

    /// For what is computed from masked columns: a part or a hash of it might tell them.
    fn mask(&self) -> MaskFunction {
        let first = self.masked.iter().find_map(|mask| mask.all.as_ref().or_else(|| mask.columns.values().next()));
        blunt(first.unwrap_or(&MaskFunction::Null))
    }
}

/// The mask for what is computed from a masked column.
fn blunt(mask: &MaskFunction) -> MaskFunction {
    match mask {
        MaskFunction::Redact(text) => MaskFunction::Redact(Arc::clone(text)),
        _ => MaskFunction::Null,
    }
}

fn is_temporary(relation: &Relation) -> bool {
    relation.schema == "pg_temp"
}

fn is_systems(relation: &Relation) -> bool {
    matches!(&*relation.schema, "pg_catalog" | "information_schema")
}

fn tells(relation: &Relation) -> bool {
    relation.schema.starts_with("pg_toast") || TELLING.contains(&&*relation.name)
}
