//! What masking needs to know of a statement, free of any masking rule: rules may change while a prepared statement lives.

use std::collections::BTreeSet;
use std::fmt;

/// A relation, by the names that the statement was resolved to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Relation {
    /// Its schema; `?` when it could not be resolved.
    pub schema: String,
    /// Its name.
    pub name: String,
}

/// What a statement reads, mentions and writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Relations whose rows it reads.
    pub reads: BTreeSet<Relation>,
    /// Relations whose rows it writes.
    pub writes: BTreeSet<Relation>,
    /// Relations whose definition it changes; with the name `*`, all of a schema.
    pub reshapes: BTreeSet<Relation>,
    /// Names of columns whose values may reach an expression of the result.
    pub shown: BTreeSet<String>,
    /// Names of columns that stand alone in the outermost list of results: the server names their origin itself.
    pub plain: BTreeSet<String>,
    /// Names of columns whose values may be written, or passed to a function that may keep them.
    pub written: BTreeSet<String>,
    /// Names of columns whose values flow through a derived table.
    pub derived: BTreeSet<String>,
    /// Names of columns in conditions that set what is computed from several columns, or from another query, against each other: which
    /// rows then come tells values.
    pub computed: BTreeSet<String>,
    /// Likewise, of any column.
    pub any_computed: bool,
    /// Has a condition over several columns.
    pub compares: bool,
    /// Names of columns that are put to any use but to stand alone in a list of values: conditions, joins, order, grouping, expressions.
    pub used: BTreeSet<String>,
    /// Likewise, of any column.
    pub any_used: bool,
    /// Names of columns that it sets: of whatever relations it writes.
    pub assigned: BTreeSet<String>,
    /// Likewise, of all columns of those relations.
    pub any_assigned: bool,
    /// Names of columns whose uniqueness it asks for (ON CONFLICT).
    pub keys: BTreeSet<String>,
    /// A `*` in a list whose values may be shown.
    pub star_shown: bool,
    /// A `*` in a list whose values may be written.
    pub star_written: bool,
    /// Columns may be shown under names other than their own, or a row as one value: any column may be meant.
    pub any_shown: bool,
    /// Likewise, of what may be written.
    pub any_written: bool,
    /// Calls something whose result cannot be traced to columns.
    pub opaque_call: bool,
    /// Calls a function that runs as its owner (SECURITY DEFINER), or one of which that is not known.
    pub calls_definer: bool,
    /// Calls a function that is volatile, or one of which that is not known. Those of the system that are known to be harmless do not count.
    pub calls_volatile: bool,
    /// Passes values to a function that may keep them.
    pub passes: bool,
    /// Runs, or leaves to be run, a text that cannot be seen.
    pub unseen: bool,
    /// Writes values that it computes: to rows, settings, notifications or files.
    pub copies: bool,
}

impl Relation {
    /// A relation of `schema`.
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> Self {
        Self { schema: schema.into(), name: name.into() }
    }
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

impl Facts {
    /// Adds all of `other`.
    pub fn absorb(&mut self, other: &Self) {
        self.reads.extend(other.reads.iter().cloned());
        self.writes.extend(other.writes.iter().cloned());
        self.reshapes.extend(other.reshapes.iter().cloned());
        self.shown.extend(other.shown.iter().cloned());
        self.plain.extend(other.plain.iter().cloned());
        self.written.extend(other.written.iter().cloned());
        self.derived.extend(other.derived.iter().cloned());
        self.computed.extend(other.computed.iter().cloned());
        self.any_computed |= other.any_computed;
        self.compares |= other.compares;
        self.used.extend(other.used.iter().cloned());
        self.any_used |= other.any_used;
        self.assigned.extend(other.assigned.iter().cloned());
        self.any_assigned |= other.any_assigned;
        self.keys.extend(other.keys.iter().cloned());
        self.star_shown |= other.star_shown;
        self.star_written |= other.star_written;
        self.any_shown |= other.any_shown;
        self.any_written |= other.any_written;
        self.opaque_call |= other.opaque_call;
        self.calls_definer |= other.calls_definer;
        self.calls_volatile |= other.calls_volatile;
        self.passes |= other.passes;
        self.unseen |= other.unseen;
        self.copies |= other.copies;
    }

    /// Every relation that it touches in any way.
    pub fn relations(&self) -> impl Iterator<Item = &Relation> {
        self.reads.iter().chain(&self.writes).chain(&self.reshapes)
    }
}
