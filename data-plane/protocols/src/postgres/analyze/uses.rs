//! Uses of a list's columns that do not name them where they are used: by position, by the name that the list gives them, or all of them (DISTINCT).

use pg_query::{NodeEnum, protobuf as pb};

use super::names;
use crate::sql::{Facts, Unclassifiable};

/// Whether the list calls the column by its own name.
pub(super) fn keeps_name(target: &pb::ResTarget, column: &pb::ColumnRef) -> bool {
    target.name.is_empty() || own_name(column) == Some(&target.name)
}

/// Adds the columns of the list of `select` that its other clauses use in these ways.
pub(super) fn of_targets(select: &pb::SelectStmt, facts: &mut Facts) -> Result<(), Unclassifiable> {
    let clauses = || select.distinct_clause.iter().chain(&select.group_clause).chain(&select.sort_clause);
    if clauses().next().is_none() {
        return Ok(());
    }
    // Plain DISTINCT is a clause without an expression.
    let all = select.distinct_clause.iter().any(|node| node.node.is_none()) || clauses().any(is_position);
    for target in &select.target_list {
        let Some(NodeEnum::ResTarget(target)) = &target.node else { continue };
        let Some(NodeEnum::ColumnRef(column)) = target.val.as_ref().and_then(|value| value.node.as_ref()) else {
            continue;
        };
        match own_name(column) {
            None => facts.any_used |= all,
            Some(name) => {
                let named = !target.name.is_empty() && clauses().any(|clause| name_of(clause) == Some(&target.name));
                if all || named {
                    facts.used.insert(name.to_owned());
                }
            }
        }
    }
    Ok(())
}

/// `None` for `*`.
fn own_name(column: &pb::ColumnRef) -> Option<&str> {
    column.fields.last().and_then(|last| names::text(last).ok())
}

/// An expression of GROUP BY, DISTINCT ON or ORDER BY, out of what it stands in.
fn inner(node: &pb::Node) -> Option<&NodeEnum> {
    match node.node.as_ref()? {
        NodeEnum::SortBy(sort) => sort.node.as_ref()?.node.as_ref(),
        other => Some(other),
    }
}

fn is_position(node: &pb::Node) -> bool {
    match inner(node) {
        Some(NodeEnum::AConst(_)) => true,
        Some(NodeEnum::GroupingSet(set)) => set.content.iter().any(is_position),
        Some(NodeEnum::RowExpr(row)) => row.args.iter().any(is_position),
        Some(NodeEnum::List(list)) => list.items.iter().any(is_position),
        _ => false,
    }
}

/// Only a name alone may be the list's.
fn name_of(node: &pb::Node) -> Option<&str> {
    match inner(node)? {
        NodeEnum::ColumnRef(column) if column.fields.len() == 1 => own_name(column),
        // Within sets, names are taken for the list's, too.
        NodeEnum::GroupingSet(set) => set.content.iter().find_map(name_of),
        NodeEnum::RowExpr(row) => row.args.iter().find_map(name_of),
        _ => None,
    }
}
