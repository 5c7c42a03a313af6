//! Which columns of each relation a statement reads or sets, and how many rows it asks for itself: what policies may ask.
//!
//! Columns are known by their names alone, wherever they stand in the text: of several relations that have a column of the name, each counts. More may
//! be told than are meant, and never fewer; where that is in doubt, nothing is told.

use std::collections::BTreeSet;
use std::sync::Arc;

use pg_query::{NodeEnum, protobuf as pb};
use postern_core::action::{Calls, Columns, Object, ObjectKind, Verb};

use super::names::{self, SEEN};
use super::walk::{Analyzer, Seen};
use crate::postgres::catalog::CatalogRelation;
use crate::sql::{Facts, StatementKind};

/// Most columns that are told of one text, over all its relations (I11).
const MAX_TOLD: usize = 2_000;

impl Analyzer<'_> {
    /// Notes the columns of a list of assignments. `all`: without a list, all of them are set.
    pub(super) fn assigns(&mut self, list: &[pb::Node], all: bool) -> Seen {
        self.out.facts.any_assigned |= all && list.is_empty();
        for target in list {
            match &target.node {
                Some(NodeEnum::ResTarget(target)) => drop(self.out.facts.assigned.insert(target.name.clone())),
                _ => self.out.facts.any_assigned = true,
            }
        }
        SEEN
    }

    /// Notes whether the walk sees all columns that a statement of this kind reads or sets.
    pub(super) fn sees_columns(&mut self, kind: StatementKind, node: &NodeEnum) {
        use StatementKind::{
            Copy, Cursor, Definition, Delete, Explain, Insert, Merge, Select, Setting, Transaction, Update,
        };
        self.untold |= match kind {
            Select | Insert | Update | Delete | Merge | Copy | Cursor | Explain | Transaction | Setting => false,
            // What else a definition reads stands in no list.
            Definition => !matches!(node, NodeEnum::CreateTableAsStmt(_) | NodeEnum::ViewStmt(_)),
            _ => true,
        };
    }

    /// Once the whole text is seen: what is read and set of each relation that the catalog knows.
    pub(super) fn tell_columns(&mut self) {
        let facts = &self.out.facts;
        if facts.unseen || self.out.unfollowed.is_some() || self.untold {
            return;
        }
        let Some(catalog) = &self.context.catalog else { return };
        let (read, set) = (Named::read(facts), Named::set(facts));
        let mut left = MAX_TOLD;
        for action in self.out.actions.iter_mut().filter(|action| action.object.kind == ObjectKind::Relation) {
            let named = match action.verb {
                Verb::SqlSelect => &read,
                Verb::SqlInsert | Verb::SqlUpdate => &set,
                _ => continue,
            };
            let [_, schema, name] = action.object.path.as_slice() else { continue };
            let known = catalog.relation(schema, name).filter(|(_, relation)| !relation.columns.is_empty());
            let known = known.filter(|_| action.columns.is_none());
            let Some(columns) = known.map(|(_, relation)| named.of(relation)) else { continue };
            let Some(rest) = left.checked_sub(columns.len()) else { return };
            left = rest;
            action.columns = Some(columns);
        }
    }

    /// Once the whole text is seen: what it calls, and what runs because of the relations that it names.
    pub(super) fn tell_calls(&mut self) {
        let facts = &self.out.facts;
        let mut calls = Calls { volatile: facts.calls_volatile, definer: facts.calls_definer };
        if facts.unseen || self.out.unfollowed.is_some() {
            calls = Calls::ANY;
        }
        for action in &self.out.actions {
            calls = calls.and(match (action.verb, action.object.kind) {
                (Verb::SqlOpaque | Verb::SqlAdmin, _) => Calls::ANY,
                (Verb::SqlServerFile, _) => Calls { volatile: true, definer: false },
                (Verb::SqlLock | Verb::SqlGrant, _) => Calls::default(),
                (verb, ObjectKind::Relation) => self.behind(&action.object, verb != Verb::SqlSelect),
                _ => Calls::default(),
            });
        }
        let facts = &mut self.out.facts;
        (facts.calls_volatile, facts.calls_definer) = (calls.volatile, calls.definer);
        for action in &mut self.out.actions {
            action.calls = Some(calls);
        }
    }

    /// What runs because of a relation. One that the catalog does not know may have anything behind it.
    fn behind(&self, relation: &Object, writes: bool) -> Calls {
        let [_, schema, name] = relation.path.as_slice() else { return Calls::ANY };
        if matches!(&**schema, names::SYSTEM | "information_schema") {
            return Calls::default();
        }
        let catalog = self.context.catalog.as_ref();
        let known = catalog.and_then(|catalog| Some(catalog.calls_behind(catalog.relation(schema, name)?.0, writes)));
        known.filter(|_| !self.names.is_touched(name)).unwrap_or(Calls::ANY)
    }

    /// How many rows of a query `statement` asks for, where that is a constant.
    pub(super) fn tell_limit(&mut self, statement: Option<&NodeEnum>) {
        let Some(limit) = statement.and_then(limit_of) else { return };
        for action in self.out.actions.iter_mut().filter(|action| action.verb == Verb::SqlSelect) {
            action.limit = Some(limit);
        }
    }
}

/// Columns by their names.
struct Named<'a> {
    names: BTreeSet<&'a str>,
    /// Any column may be meant.
    any: bool,
}

impl<'a> Named<'a> {
    fn read(facts: &'a Facts) -> Self {
        let all =
            [&facts.plain, &facts.shown, &facts.written, &facts.derived, &facts.computed, &facts.used, &facts.keys];
        let rows = facts.star_shown || facts.star_written || facts.any_shown || facts.any_written;
        let any = rows || facts.any_used || facts.any_computed || facts.opaque_call || facts.passes;
        Self { names: all.into_iter().flatten().map(String::as_str).collect(), any }
    }

    fn set(facts: &'a Facts) -> Self {
        Self { names: facts.assigned.iter().map(String::as_str).collect(), any: facts.any_assigned }
    }

    fn of(&self, relation: &CatalogRelation) -> Columns {
        let all = relation.columns.values().map(|column| &column.name);
        let named: BTreeSet<&Arc<str>> = all.filter(|name| self.any || self.names.contains(&***name)).collect();
        named.into_iter().cloned().collect()
    }
}

fn limit_of(statement: &NodeEnum) -> Option<u64> {
    let query = match statement {
        NodeEnum::SelectStmt(select) => {
            // WITH TIES may return more.
            let plain = select.limit_option == pb::LimitOption::Count as i32;
            let count = select.limit_count.as_deref().filter(|_| plain)?;
            return constant(count);
        }
        NodeEnum::CopyStmt(copy) => copy.query.as_deref(),
        NodeEnum::DeclareCursorStmt(declare) => declare.query.as_deref(),
        _ => None,
    };
    let query = query.and_then(|query| query.node.as_ref())?;
    matches!(query, NodeEnum::SelectStmt(_)).then(|| limit_of(query))?
}

/// A whole number as it is written; what has to be computed is not known.
fn constant(node: &pb::Node) -> Option<u64> {
    let Some(NodeEnum::AConst(constant)) = &node.node else { return None };
    match &constant.val {
        Some(pb::a_const::Val::Ival(value)) => u64::try_from(value.ival).ok(),
        _ => None,
    }
}

#[cfg(test)]
#[path = "columns_tests.rs"]
mod tests;
